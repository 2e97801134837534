"""Who is building into an output: `_OWNER.json`, which its holder renews and everybody else respects.

The record is a courtesy, not what keeps a corpus right: names are committed once, and two builds of different inputs or
configurations are kept apart by `_BUILD.json`. It spares a build that is under way a second one beside it.

Nobody's clock is compared with anybody else's. A holder on this machine is asked for by its process number and start
time. One elsewhere is watched: its record changes every 20 seconds while it lives, so one that stays the same for two
minutes, by the watcher's own monotonic clock, is abandoned. Taking it over is a compare-and-swap, so one of many wins.
"""

import contextlib
import datetime as dt
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, Literal, NamedTuple

import psutil

from transforms.commit import OWNER_RECORD
from transforms.errors import OutputConflict, StorageError
from transforms.storage import ObjectInfo, join, store_for

log = logging.getLogger(__name__)

RENEW: Final = 20.0  # seconds
GRACE: Final = 6 * RENEW  # a holder may miss five renewals, to a busy machine or a store that does not answer
RELEASE: Final = 10.0  # how long the end of a build waits for its record to go away

Life = Literal["alive", "dead", "elsewhere"]


class Holder(NamedTuple):
    """What a record says.

    Attributes:
      machine: Boot and process namespace, so that process numbers mean the same where it is equal; "" if unknown.
      started: When the process began, in the machine's own count; tells it from a later one with its number.
      since: When it took the output, in UTC, for people.
      token: One for each holding.
      renewed: How often; makes every renewal another content.
    """

    host: str
    machine: str
    pid: int
    started: str
    since: str
    token: str
    renewed: int = 0

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


class Found(NamedTuple):
    """A record and the version it was read at; no holder when it cannot be read."""

    info: ObjectInfo
    holder: Holder | None

    def __str__(self) -> str:
        return str(self.holder or "a process that left no readable record")


def find(output: str) -> Found | None:
    """Who holds an output now; None when nobody does."""
    url = join(output, OWNER_RECORD)
    store = store_for(url)
    info = store.stat(url)
    if info is None:
        return None
    try:
        return Found(info, _parse(store.read_range(url, 0, info.size, info.version)))
    except StorageError:  # renewed or removed meanwhile
        return find(output) if store.stat(url) else None


def life_of(found: Found) -> Life:
    """Whether the holder lives, as far as this machine can tell at once."""
    holder = found.holder
    if holder is None or not holder.machine or (holder.host, holder.machine) != (socket.gethostname(), _machine()):
        return "elsewhere"
    if holder.pid == os.getpid():
        return "alive" if holder.token in _held else "dead"
    return "alive" if _started(holder.pid) == holder.started else "dead"


def watch(output: str, found: Found, grace: float = GRACE) -> Life | Literal["gone"]:
    """Look at a record until it changes ("alive"), goes away ("gone"), or `grace` seconds have passed ("dead")."""
    if (life := life_of(found)) != "elsewhere":
        return life
    ends = time.monotonic() + grace
    while time.monotonic() < ends:
        time.sleep(min(1.0, grace / 10))
        now = store_for(output).stat(join(output, OWNER_RECORD))
        if now is None:
            return "gone"
        if now.version != found.info.version:
            return "alive"
    return "dead"


def refuse(output: str, found: Found) -> OutputConflict:
    """The error of a build that finds another one at work."""
    return OutputConflict(
        f"output.path {output} is being built by {found}: wait for it, or stop it and run this command again"
    )


@contextlib.contextmanager
def owned(
    output: str,
    *,
    lost: Callable[[str], None],
    say: Callable[[str], None] = lambda _: None,
    renew: float = RENEW,
    grace: float = GRACE,
) -> Iterator[None]:
    """Hold an output while the block runs; the record is gone afterwards, if the store answers within seconds.

    Args:
      lost: Called from a thread, with a message, when someone else took the output over.
      say: Told what a long wait is for.

    Raises:
      OutputConflict: Another build is at work there; the message says who.
    """
    keeper = _Keeper(output, lost)
    keeper.take(say, grace)
    keeper.start(renew)
    try:
        yield
    finally:
        keeper.release(RELEASE)


def give_back(seconds: float) -> None:
    """Remove this process's records, within so many seconds or not at all; for a process that is about to end."""
    for keeper in list(_held.values()):
        keeper.release(seconds)


class _Keeper:
    """Takes, renews and gives back one record."""

    def __init__(self, output: str, lost: Callable[[str], None]) -> None:
        self.output, self.url, self.lost = output, join(output, OWNER_RECORD), lost
        self.stop = threading.Event()
        since = dt.datetime.now(dt.timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
        pid, token = os.getpid(), secrets.token_hex(8)
        self.holder = Holder(socket.gethostname(), _machine(), pid, _started(pid), since, token)
        self.info: ObjectInfo | None = None
        self.thread: threading.Thread | None = None

    def take(self, say: Callable[[str], None], grace: float) -> None:
        """Take a free or abandoned output, or raise OutputConflict."""
        store = store_for(self.url)
        while self.info is None:
            found = find(self.output)
            life = self._life(found, say, grace) if found else "gone"
            if found and life == "alive":
                raise refuse(self.output, found)
            with contextlib.suppress(OutputConflict):  # someone was quicker, or it lives after all: look again
                expected = found.info if found and life == "dead" else None
                _held[self.holder.token] = self
                self.info = store.replace(self.url, _render(self.holder), expected)

    def _life(self, found: Found, say: Callable[[str], None], grace: float) -> str:
        if life_of(found) == "elsewhere":
            say(f"{self.output} is held by {found}; going on if that shows no sign of life for {grace:.0f} s")
        return watch(self.output, found, grace)

    def start(self, interval: float) -> None:
        """Renew every `interval` seconds from now on."""
        self.thread = threading.Thread(target=self._keep, args=(interval,), name="owner", daemon=True)
        self.thread.start()

    def release(self, seconds: float) -> None:
        """Stop renewing and remove the record, or leave it where that takes longer."""
        self.stop.set()
        if self.thread and self.thread is not threading.current_thread():
            self.thread.join(seconds)

    def _keep(self, interval: float) -> None:
        while not self.stop.wait(interval):
            if not self._renew():
                break
        _held.pop(self.holder.token, None)
        try:
            found = find(self.output)
            if found and found.holder and found.holder.token == self.holder.token:
                store_for(self.url).delete(self.url)
        except StorageError as error:
            log.warning("cannot remove %s: %s", self.url, error)

    def _renew(self) -> bool:
        """Whether the record is still ours."""
        self.holder = self.holder._replace(renewed=self.holder.renewed + 1)
        try:
            self.info = store_for(self.url).replace(self.url, _render(self.holder), self.info)
        except OutputConflict:
            found = find(self.output)
            if found and not self.stop.is_set():
                self.lost(f"output.path {self.output} was taken over by {found}, because this process showed no sign "
                          "of life for too long; nothing is damaged, and that build goes on")  # fmt: skip
            return False  # gone: the build has just committed its corpus
        except StorageError as error:
            log.warning("cannot renew %s: %s", self.url, error)
        return True


_held: dict[str, _Keeper] = {}  # by token, those of this process


def _render(holder: Holder) -> bytes:
    return json.dumps(holder._asdict(), indent=1).encode() + b"\n"


def _parse(data: bytes) -> Holder | None:
    try:
        values: dict[str, Any] = json.loads(data)
        holder = Holder(**values)
    except (ValueError, TypeError):
        return None
    kinds = (holder.host, str), (holder.machine, str), (holder.pid, int), (holder.started, str), (holder.since, str)
    return holder if all(isinstance(value, kind) for value, kind in kinds) and holder.pid > 0 else None


def _machine() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"boot {psutil.boot_time():.0f}"


def _started(pid: int) -> str:
    """When a process began, or "" if it is gone; a dead one that nobody waited for is gone too."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            state, *fields = file.read().rpartition(")")[2].split()  # the name before it may hold anything
        return "" if state in "ZX" else fields[18]  # field 22, in clock ticks since the boot: no clock is set back here
    except OSError:
        pass
    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.0f}"
    except psutil.Error:
        return ""
