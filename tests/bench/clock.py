"""CPU time of functions, taken in turns so that what disturbs one disturbs all, and of child processes with memory."""

import os
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

Seconds = Mapping[str, Sequence[float]]


def in_turns(actions: Mapping[str, Callable[[], object]], rounds: int) -> Seconds:
    """CPU seconds of each action in each round, all threads of this process; one round before goes uncounted."""
    taken: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(rounds + 1):
        for name, action in actions.items():
            before = time.process_time()
            action()
            if number:
                taken[name].append(time.process_time() - before)
    return taken


def median_ratio(ours: Sequence[float], others: Sequence[float]) -> float:
    """Median over the rounds of others / ours: how many times less we take."""
    return statistics.median(other / our for our, other in zip(ours, others, strict=True))


class Used(NamedTuple):
    """What a child process and its own children used.

    Attributes:
      wall, cpu: Seconds; user and system time of the whole tree.
      busiest: CPU seconds of the process of the tree that worked most.
      rss: Peak resident bytes of the largest single process.
      workers: Peak resident bytes of each process of the tree that took a second of CPU or more, largest first.
    """

    wall: float
    cpu: float
    busiest: float
    rss: int
    workers: tuple[int, ...]


def _peak(process: psutil.Process) -> int:
    """Peak resident bytes of a process since it became what it is; the kernel's own sum counts what forked it too."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    except OSError:
        return int(process.memory_info().rss)
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0)


class _Watch(threading.Thread):
    """Looks at a process tree ten times a second."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.root, self.done = psutil.Process(pid), threading.Event()
        self.cpu: dict[int, float] = {}
        self.rss: dict[int, int] = {}

    def run(self) -> None:
        while not self.done.wait(0.1):
            try:
                tree = [self.root, *self.root.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            for process in tree:
                try:
                    times, peak = process.cpu_times(), _peak(process)
                except psutil.NoSuchProcess:
                    continue
                self.cpu[process.pid] = times.user + times.system
                self.rss[process.pid] = max(self.rss.get(process.pid, 0), peak)


def run(command: Sequence[str | Path], log: Path, *, env: Mapping[str, str] | None = None, cwd: Path) -> Used:
    """Run a command to its end; what it prints goes to `log`.

    Raises:
      RuntimeError: It failed; with the end of the log.
    """
    started = time.perf_counter()
    with log.open("wb") as out:
        child = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})}, cwd=cwd
        )
        watch = _Watch(child.pid)
        watch.start()
        _, status, usage = os.wait4(child.pid, 0)
    wall = time.perf_counter() - started
    watch.done.set()
    watch.join()
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {child.returncode}:\n{log.read_text()[-3000:]}")
    cpu = max(usage.ru_utime + usage.ru_stime, sum(watch.cpu.values()))  # the sum: children nobody waited for
    workers = sorted((rss for pid, rss in watch.rss.items() if watch.cpu[pid] >= 1), reverse=True)
    return Used(wall, cpu, max(watch.cpu.values(), default=cpu), max(watch.rss.values(), default=0), tuple(workers))
