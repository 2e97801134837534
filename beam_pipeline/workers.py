"""The worker processes of a local build, all of them children of this process."""

import contextlib
import io
import logging
import os
import sys
import threading
from collections.abc import Iterator
from typing import Final

import psutil

from beam_pipeline import owner
from classifiers.model import ModelError
from transforms.errors import CounterpoiseError

_stderr: Final = [2]  # the descriptor on which people read what goes wrong


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
    os.write(_stderr[0], f"counterpoise: {message}\n".encode())
    os._exit(code)


@contextlib.contextmanager
def quiet(log: str) -> Iterator[None]:
    """Keep what worker processes print to standard error out of sight while the block runs.

    Beam's workers print a traceback for every error, also for those that are told in one line afterwards. It goes to
    the file `log`, and from there to standard error when the block ends with an error that nobody expected.
    """
    saved, stream = os.dup(2), sys.stderr
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 2)
    ours = os.fdopen(os.dup(saved), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    handlers = [h for h in logging.getLogger().handlers if isinstance(h, logging.StreamHandler) and h.stream is stream]
    if _is_descriptor_2(stream):
        sys.stderr = ours
        for handler in handlers:
            handler.setStream(ours)
    _stderr[0] = saved
    try:
        yield
    except BaseException as error:
        if not _is_told_in_one_line(error):
            with open(log, "rb") as file:
                os.write(saved, file.read()[-20_000:])
        raise
    finally:
        ours.flush()
        os.dup2(saved, 2)
        _stderr[0], sys.stderr = 2, stream
        for handler in handlers:
            handler.setStream(stream)
        ours.close()
        os.close(saved)


def _is_descriptor_2(stream: object) -> bool:
    try:
        return isinstance(stream, io.TextIOBase) and stream.fileno() == 2
    except (OSError, ValueError):  # captured by a test
        return False


def _is_told_in_one_line(error: BaseException) -> bool:
    """Whether the error is one of ours, itself or as a runner's text of it, or an interruption."""
    ours = (CounterpoiseError, ModelError, KeyboardInterrupt, SystemExit)
    return isinstance(error, ours) or "transforms.errors." in str(error) or "classifiers.model." in str(error)
