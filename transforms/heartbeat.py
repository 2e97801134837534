"""Signs of life: what each worker process is doing and has done, for whoever watches a local build.

When the environment names a folder (`COUNTERPOISE_HEARTBEAT`, set by the local launcher), each process keeps one small
JSON file in it, rewritten at most twice a second. Without the variable (Dataflow) nothing is written; there Beam's
counters say the same.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from typing import Final

VARIABLE: Final = "COUNTERPOISE_HEARTBEAT"
_INTERVAL = 0.5  # seconds between two writes

_totals: dict[str, int] = {}
_doing: dict[str, str] = {}
_written = [0.0]  # when the file was last written, on the monotonic clock


def add(**amounts: int) -> None:
    """Add to this process's totals, for example documents=1000, text_bytes=3_000_000."""
    if VARIABLE not in os.environ:
        return
    for name, amount in amounts.items():
        _totals[name] = _totals.get(name, 0) + amount
    _write(force=False)


def done(step: str, *, reused: bool = False) -> None:
    """Count one finished unit of work of a step."""
    add(**{f"{step}_done": 1, f"{step}_reused": int(reused)})
    if VARIABLE in os.environ:
        _write(force=True)


@contextlib.contextmanager
def working(step: str, what: str) -> Iterator[None]:
    """Say what this process is doing while the block runs."""
    _doing.update(step=step, what=what, since=f"{time.time():.0f}")
    if VARIABLE in os.environ:
        _write(force=True)
    try:
        yield
    finally:
        _doing.clear()


def _write(*, force: bool) -> None:
    now = time.monotonic()
    if not force and now - _written[0] < _INTERVAL:
        return
    _written[0] = now
    path = os.path.join(os.environ[VARIABLE], f"{os.getpid()}.json")
    try:
        with open(f"{path}.new", "w") as file:
            json.dump({"pid": os.getpid(), "totals": _totals, "doing": _doing}, file)
        os.replace(f"{path}.new", path)
    except OSError:  # the watcher may be gone and its folder with it; the work goes on
        return
