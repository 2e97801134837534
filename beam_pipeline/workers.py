"""The worker processes of a local build, all of them children of this process."""

import os

import psutil

from beam_pipeline import owner


def end_workers() -> None:
    """Kill all child processes of this one, and their children."""
    for child in psutil.Process().children(recursive=True):
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue


def end_process(code: int, message: str) -> None:
    """End the workers and this process at once, with one line on stderr; does not return.

    For where an exception would not reach the main thread, or the main thread would not listen.
    """
    end_workers()
    owner.give_back(0.5)
    os.write(2, f"counterpoise: {message}\n".encode())
    os._exit(code)
