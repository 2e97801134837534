"""The worker processes of a local build, all of them children of this process."""

import os
import threading
from typing import Final

import psutil

from beam_pipeline import owner


def end_workers() -> None:
    """Kill all child processes of this one, and their children."""
    for child in psutil.Process().children(recursive=True):
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue


_ending: Final = threading.Lock()  # taken once and for all


def end_process(code: int, message: str) -> None:
    """End the workers and this process at once, with one line on stderr; returns only where that is under way already.

    For where an exception would not reach the main thread, or the main thread would not listen. The first caller's code
    counts: the workers that a signal ends must not look as if they had died by themselves.
    """
    if not _ending.acquire(blocking=False):
        return
    end_workers()
    owner.give_back(0.5)
    os.write(2, f"counterpoise: {message}\n".encode())
    os._exit(code)
