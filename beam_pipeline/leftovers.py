"""What builds that were killed, and builds that are finished, leave behind, and the deleting of it.

Never a file of a corpus: what is listed is told by its name and its place (temporary files, a finished build's own
receipts, an owner record whose process is gone, scratch folders that nobody holds), and held against the manifest.
"""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from beam_pipeline import owner
from beam_pipeline.preflight import BUILD_RECORD, build_folder
from transforms.commit import OWNER_RECORD
from transforms.errors import StorageError, Unaccounted
from transforms.spool import abandoned
from transforms.storage import join, os_errors, store_for
from transforms.storage_local import TEMPORARY

STALE: Final = 3600.0  # seconds; a temporary file in a work folder that other builds may share is in use for less
YOUNG: Final = 60.0  # seconds; younger scratch folders may just be about to be locked


class Leftover(NamedTuple):
    """Something that may be deleted: where, how large (bytes, of a folder all of it), and why."""

    url: str
    bytes: int
    why: str


def find(
    output: str,
    work: str = "",
    *,
    grace: float = owner.GRACE,
    young: float = YOUNG,
    say: Callable[[str], None] = lambda _: None,
) -> list[Leftover]:
    """Everything that no build needs any more, sorted by URL; deletes nothing.

    Args:
      work: The build's work folder, where that does not lie in the output.
      grace: How long a holder on another machine is watched for signs of life, in seconds.
      young: Scratch folders of fewer seconds are passed over.

    Raises:
      OutputConflict: A build is at work there; the message says who.
      StorageError: There is no build.
    """
    output = output.rstrip("/")
    found = [*_owner_record(output, grace, say), *_temporary_files(output, 0.0)]
    if work:
        found += _temporary_files(work, STALE)
    store = store_for(output)
    if store.stat(join(output, BUILD_RECORD)) is None and not found:
        raise StorageError(f"{output} holds no build (no {BUILD_RECORD}), so there is nothing to clean; check the path")
    if store.stat(join(output, "_SUCCESS")) is not None:
        found += _build_folder(output, work or join(output, "_work"))
    found += [Leftover(path, _size(path), "scratch of a process that is gone") for path in abandoned(young)]
    if named := sorted(_named(output) & {item.url for item in found}):
        raise Unaccounted(f"{named[0]} is named by the manifest and would be deleted; this is a bug, nothing was done")
    return sorted(set(found))


def delete(found: list[Leftover]) -> None:
    """Delete what `find` found; what is gone already is fine."""
    for item in found:
        if os.path.isdir(item.url):
            shutil.rmtree(item.url, ignore_errors=True)
        else:
            store_for(item.url).delete(item.url)
            with contextlib.suppress(OSError):  # an object store has no folders, and others may have files in this one
                os.rmdir(os.path.dirname(item.url))


def _owner_record(output: str, grace: float, say: Callable[[str], None]) -> Iterator[Leftover]:
    found = owner.find(output)
    if found is None:
        return
    if owner.life_of(found) == "elsewhere":
        say(f"{output} is held by {found}; looking for signs of life for {grace:.0f} s")
    match owner.watch(output, found, grace):
        case "alive" | "elsewhere":
            raise owner.refuse(output, found)
        case "dead":
            yield Leftover(join(output, OWNER_RECORD), found.info.size, f"owner record of {found}, which is gone")


def _temporary_files(folder: str, older: float) -> Iterator[Leftover]:
    """Unfinished files; object stores have none, their uploads appear whole or not at all."""
    if "://" in folder:
        return
    for root, _, names in os.walk(folder):
        for name in sorted(n for n in names if n.startswith(TEMPORARY)):
            path = os.path.join(root, name)
            with contextlib.suppress(FileNotFoundError), os_errors("look up", path):
                status = os.lstat(path)
                if time.time() - status.st_mtime >= older:
                    yield Leftover(path, status.st_size, "temporary file of a process that is gone")


def _build_folder(output: str, work: str) -> Iterator[Leftover]:
    """A finished build's plan and receipts; annotations stay, for the next build."""
    store = store_for(output)
    with store.open(join(output, BUILD_RECORD)) as file:
        folder = build_folder(work, output, file.read())
    for info in store_for(work).list(join(folder, "**")):
        yield Leftover(info.url, info.size, "plan and receipts of this build, which is finished")


def _named(output: str) -> set[str]:
    """Every object that the manifest names."""
    store, url = store_for(output), join(output, "manifest.json")
    if store.stat(url) is None:
        return set()
    with store.open(url) as file:
        manifest = json.loads(file.read())
    entries = [f for arm in manifest["arms"].values() for f in (*arm["files"], *arm["diverted_files"])]
    paths = {path for e in entries for path in (e["path"], e["provenance"]["path"])}
    return {f"{output}/{path}" for path in paths}


def _size(folder: str) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(root, name)).st_size
    return total
