"""Builds in processes of their own, so that they can be killed at any moment; forked, so that each starts at once."""

import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import psutil

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.preloaded"])


class Ended(NamedTuple):
    """How a build ended: exit code (negative for a signal), what it printed, and how long it took."""

    code: int
    printed: str
    seconds: float


def _main(arguments: list[str], log: str, scratch: str, environ: dict[str, str]) -> None:
    from tests.preloaded import main

    with open(log, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
    os.environ |= {"TMPDIR": scratch, **environ}
    tempfile.tempdir = scratch
    code = main(arguments)
    sys.stdout.flush()
    os._exit(code)


class Running:
    """A command of the product in a process of its own.

    Args:
      folder: Its log and its scratch folder are made there.
    """

    def __init__(self, folder: Path, *arguments: str, **environ: str) -> None:
        self.scratch, self.log = folder / "scratch", folder / "log"
        self.scratch.mkdir(parents=True, exist_ok=True)
        given = ([*arguments], str(self.log), str(self.scratch), environ)
        self.process: BaseProcess = _context.Process(target=_main, args=given, daemon=True)  # ended with the tests
        self.started = time.monotonic()
        self.process.start()
        self.pid = self.process.pid or 0

    def wait(self, seconds: float = 60) -> Ended:
        """Wait for its end; AssertionError when it takes longer."""
        self.process.join(seconds)
        code = self.process.exitcode
        if code is None:
            printed = self.log.read_text()
            self.process.kill()
            raise AssertionError(f"still running after {seconds} s; it printed:\n{printed}")
        return Ended(code, self.log.read_text(), time.monotonic() - self.started)

    def wait_until(self, reached: Callable[[], object], seconds: float = 60) -> bool:
        """Look every half millisecond; False when the process ended before."""
        ends = time.monotonic() + seconds
        while not reached():
            if self.process.exitcode is not None:
                return False
            assert time.monotonic() < ends, f"not reached within {seconds} s; it printed:\n{self.log.read_text()}"
            time.sleep(0.0005)
        return True

    def signal(self, number: int) -> Ended:
        """Send a signal and wait for the end."""
        os.kill(self.pid, number)
        return self.wait(20)

    def kill(self) -> Ended:
        """As `kill -9` does."""
        return self.signal(signal.SIGKILL)

    def children(self) -> list[psutil.Process]:
        """The processes it started, and theirs."""
        try:
            return psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []


def alive(processes: list[psutil.Process], seconds: float = 2) -> list[psutil.Process]:
    """Those that still run; the kernel gets a moment to end what was killed."""

    def runs(process: psutil.Process) -> bool:
        try:
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    ends = time.monotonic() + seconds
    while (left := [process for process in processes if runs(process)]) and time.monotonic() < ends:
        time.sleep(0.01)
    return left


def names_below(folder: Path) -> set[str]:
    """Relative names of all files, also while they come and go."""
    found = set()
    for root, _, names in os.walk(folder):
        found |= {os.path.relpath(os.path.join(root, name), folder) for name in names}
    return found
