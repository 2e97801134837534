"""Scratch folders on this machine's disk; those that a killed process left behind can be told from those in use.

The folder is locked while it is in use. The kernel releases the lock when the process ends, however it ends, and no
other process can take it before; so there is no clock and no process number to be wrong about.
"""

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from transforms.storage import DISK_ERRORS, os_errors

PREFIX: Final = "counterpoise-scratch-"


@contextmanager
def scratch() -> Iterator[str]:
    """A scratch folder, gone after the block.

    Raises:
      StorageError: The disk is full, a quota is used up, or the folder cannot be written; it says where scratch lies.
    """
    root = tempfile.gettempdir()
    with (
        os_errors("write scratch files (TMPDIR names another place for them) below", root, DISK_ERRORS),
        tempfile.TemporaryDirectory(prefix=PREFIX) as folder,
    ):
        lock = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder
        finally:
            os.close(lock)


@contextmanager
def scratch_in(folder: str) -> Iterator[None]:
    """Let everything temporary, of this process and of those it starts meanwhile, be made in a folder."""
    before = os.environ.get("TMPDIR"), tempfile.tempdir
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    try:
        yield
    finally:
        os.environ.pop("TMPDIR")
        if before[0] is not None:
            os.environ["TMPDIR"] = before[0]
        tempfile.tempdir = before[1]


def abandoned(seconds: float = 60) -> list[str]:
    """Scratch folders of this user that no process holds, sorted.

    Args:
      seconds: Younger ones are passed over: their process may be about to lock them.
    """
    root = tempfile.gettempdir()
    try:
        entries = [e for e in os.scandir(root) if e.name.startswith(PREFIX) and e.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    return sorted(entry.path for entry in entries if _is_abandoned(entry.path, seconds))


def _is_abandoned(folder: str, seconds: float) -> bool:
    try:
        status = os.stat(folder)
        if status.st_uid != os.getuid() or time.time() - status.st_mtime < seconds:
            return False
        lock = os.open(folder, os.O_RDONLY)
    except OSError:  # gone meanwhile, or not ours
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # in use, or a file system without locks: then nobody can tell
        return False
    else:
        return True
    finally:
        os.close(lock)
