"""Builds whose sources, pool, work and output are all gs:// URLs, on whatever server is there."""

import contextlib
import hashlib
import itertools
import json
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests import corpora
from tests.strict_gcs import Fault, StrictGcs
from transforms.storage import join, store_for

KINDS = {"reset": 0, "status": 503, "status_after": 503, "cut_reply": 0, "cut_body": 0}
"""What a flaky server does, each as often as the others; a status is now and then 429."""


def upload(folder: Path, root: str) -> None:
    """Put a folder's inputs into a store."""
    for path in sorted(p for name in ("web", "pool") for p in (folder / name).glob("*")):
        url = join(root, str(path.relative_to(folder)))
        store_for(url).create_bytes(url, path.read_bytes())


def moved(values: corpora.Config, folder: Path, root: str) -> corpora.Config:
    """A configuration over a folder as one over a store."""
    found: corpora.Config = json.loads(json.dumps(values).replace(str(folder), root))
    return found


def objects(root: str) -> dict[str, str]:
    """Every object below a URL, by relative name, with the sum of its bytes; the work folder aside."""
    store, found = store_for(root), {}
    for info in store.list(join(root, "**")):
        name = info.url.removeprefix(root + "/")
        if not name.startswith("_work/"):
            with store.open(info.url) as file:
                found[name] = hashlib.sha256(file.read()).hexdigest()
    return found


@contextlib.contextmanager
def flaky(server: StrictGcs, share: float, seed: int) -> Iterator[list[str]]:
    """Let exactly a share of all requests fail, each in a way drawn at random; yields what was done to them."""
    chance, happened, original = random.Random(seed), list[str](), server.fault
    number, every, current = itertools.count(seed), round(1 / share), threading.local()

    def fault(operation: str, *kinds: str) -> Fault | None:
        if "latency" in kinds:  # what is asked first for each request
            current.kind = chance.choice(sorted(KINDS)) if next(number) % every == 0 else ""
        if (kind := getattr(current, "kind", "")) in kinds:
            current.kind = ""
            happened.append(f"{kind} on {operation}")
            return Fault(operation, kind, status=chance.choice([KINDS[kind], 429]))
        return original(operation, *kinds)

    patched: Any = server
    patched.fault = fault
    try:
        yield happened
    finally:
        del patched.fault
