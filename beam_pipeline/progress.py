"""What a local build shows while it runs: shards, documents, MB/s, time left, bad records so far.

Workers leave signs of life in a folder (`transforms.heartbeat`); a thread of the launcher adds them up twice a second
and shows them as a live line in a terminal, else as a plain line every ten seconds, or as JSON lines.
"""

import glob
import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Literal, TextIO

import psutil
from rich.console import Console
from rich.live import Live
from rich.text import Text
from typing_extensions import Self  # in typing from 3.11 on

from transforms.heartbeat import VARIABLE

Mode = Literal["auto", "live", "plain", "json", "none"]
STEPS = ("annotate", "mix", "commit")
STALLED: Final = 300.0  # seconds without any change before the build is called stalled; retries may last 15 minutes


class Snapshot(dict[str, Any]):
    """Totals over all workers, and what each is doing."""


def read_heartbeats(folder: str) -> Snapshot:
    """Add up what all workers have written so far."""
    totals: dict[str, int] = {}
    doing = []
    for path in sorted(glob.glob(os.path.join(folder, "*.json"))):
        try:
            with open(path) as file:
                beat = json.load(file)
        except (OSError, ValueError):  # being replaced just now
            continue
        for name, amount in beat["totals"].items():
            totals[name] = totals.get(name, 0) + amount
        if beat["doing"]:
            doing.append({"pid": beat["pid"], **beat["doing"]})
    return Snapshot(totals=totals, doing=doing)


def line_of(snapshot: Snapshot, seconds: float, shards: int) -> str:
    """One line for people."""
    totals = snapshot["totals"]
    documents, text = totals.get("documents", 0), totals.get("text_bytes", 0)
    found, annotated = totals.get("slices_found", 0), totals.get("annotate_done", 0)
    step = "mix" if totals.get("mix_done") or any(d["step"] == "mix" for d in snapshot["doing"]) else "annotate"
    if any(d["step"] == "commit" for d in snapshot["doing"]):
        step = "commit"
    parts = [f"{seconds:5.0f} s  {step:8}", f"slices {annotated:,}/{found or shards:,}", f"documents {documents:,}"]
    if seconds > 0 and text:
        parts.append(f"{text / 1e6 / seconds:.1f} MB/s of text")
    if reused := totals.get("annotate_reused", 0):
        parts.append(f"reused {reused:,}")
    if step != "annotate":
        parts.append(f"groups mixed {totals.get('mix_done', 0):,}  records {totals.get('mixed_records', 0):,}")
    parts.append(f"bad records {totals.get('bad', 0):,}")
    if step == "annotate" and found and 0 < annotated < found:
        parts.append(f"about {seconds / annotated * (found - annotated):.0f} s left to annotate")
    return "  ".join(parts)


def _at_work(doing: Mapping[str, Any]) -> str:
    """One worker's sign of life for people; a worker that died while it worked is the likely reason of a halt."""
    gone = "" if psutil.pid_exists(doing["pid"]) else " (this process is gone)"
    seconds = max(0.0, time.time() - float(doing["since"]))
    return f"worker {doing['pid']}{gone}: {doing['step']} {doing['what']} for {seconds:.0f} s"


class Progress:
    """Shows a build's progress from `with` to the end of it; the folder it owns is where workers report.

    Args:
      folder: An empty folder; its name goes into the environment, which worker processes inherit.
      shards, input_bytes: What is to be read.
      mode: "auto" is live in a terminal and plain elsewhere; in every mode a build without progress is reported.
      stalled: Seconds without progress until that, and from one report to the next.
    """

    def __init__(
        self,
        folder: str,
        shards: int,
        input_bytes: int,
        mode: Mode = "auto",
        stream: TextIO | None = None,
        *,
        stalled: float = STALLED,
    ) -> None:
        self.folder, self.shards, self.input_bytes, self.stalled = folder, shards, input_bytes, stalled
        self.stream = stream or sys.stderr
        self.mode = ("live" if self.stream.isatty() else "plain") if mode == "auto" else mode
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._watch, name="progress", daemon=True)
        self.started = time.monotonic()

    def __enter__(self) -> Self:
        os.environ[VARIABLE] = self.folder
        if self.mode == "plain":
            print(f"reading {self.shards:,} shards, {self.input_bytes / 1e6:,.1f} MB", file=self.stream, flush=True)
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop.set()
        self.thread.join(timeout=5)
        os.environ.pop(VARIABLE, None)

    def describe(self) -> str:
        """What every worker is doing now, and for how long, for messages about a build that ended or hangs."""
        return "; ".join(map(_at_work, read_heartbeats(self.folder)["doing"])) or "no worker is at work"

    def _watch(self) -> None:
        if self.mode == "live":
            console = Console(file=self.stream)
            with Live(Text("starting workers …"), console=console, refresh_per_second=2, transient=True) as live:
                self._loop(0.5, lambda snapshot, text: live.update(Text(text)), lambda text: console.print(Text(text)))
        elif self.mode == "json":
            self._loop(2.0, lambda snapshot, text: self._print(json.dumps({"seconds": self._seconds(), **snapshot})))
        elif self.mode == "plain":
            self._loop(10.0, lambda snapshot, text: self._print(text), at_the_end=True)
        else:
            self._loop(10.0, lambda snapshot, text: None)

    def _loop(self, interval: float, show: Any, warn: Any = None, *, at_the_end: bool = False) -> None:
        changed, last = time.monotonic(), Snapshot()
        interval, warn = min(interval, self.stalled / 2), warn or self._print
        while True:
            ended = self.stop.wait(interval)
            snapshot = read_heartbeats(self.folder)
            if snapshot["totals"] != last.get("totals"):
                changed, last = time.monotonic(), snapshot
            if not ended and time.monotonic() - changed >= self.stalled:
                changed = time.monotonic()
                warn(f"no progress for {self.stalled:.0f} s: {self.describe()}")
            if not ended or at_the_end:
                show(snapshot, line_of(snapshot, self._seconds(), self.shards))
            if ended:
                return

    def _seconds(self) -> float:
        return time.monotonic() - self.started

    def _print(self, text: str) -> None:
        print(text, file=self.stream, flush=True)
