"""How much work a document costs, in counts and not in times: the same on every machine, however busy.

A limit is what was counted plus the margin that stands beside it. What a shard costs whatever its length is left out:
counts are differences between a longer and a shorter shard. `./dev bench` measures the times.
"""

import sys
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Final

import pyarrow as pa
import pytest
import yaml

from tests import corpora, shards
from tests.bench import steps
from transforms.mix import mix_group

SHORT, LONG = 200, 700  # documents
ARMS: Final[dict[str, Any]] = {
    "unfiltered": {},
    "filtered": {"misaligned": "drop"},
    "dosed": {"misaligned": {"keep": 0.25}, "dose": {"share": 0.01}, "max_repeats": 1000},
}


def calls_in(action: Callable[[], object]) -> int:
    """Calls of Python functions and of C functions from Python."""
    count = 0

    def seen(_: FrameType, event: str, __: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(seen)
    try:
        action()
    finally:
        sys.setprofile(None)
    return count


def prepared(folder: Path, kind: str, count: int, arms: dict[str, Any], *, repeated: int = 1) -> steps.Prepared:
    """A build up to the mix over one shard with so many documents."""
    folder.mkdir()
    docs = [(name, text * repeated) for name, text in corpora.documents(count)]
    if kind == "parquet":
        shards.write_parquet(folder / "web.parquet", docs)
    elif kind == "wet":
        shards.write_wet(folder / "web.warc.wet.gz", docs)
    else:
        shards.write_jsonl(folder / "web.jsonl.zst", docs, codec="zstd")
    shards.write_jsonl(folder / "pool.jsonl", corpora.pool(20))
    changes: dict[str, Any] = {"sources": [{"name": "web", "paths": f"{folder}/web.*"}], "arms": arms}
    changes["pool"] = [{"name": "stories", "paths": f"{folder}/pool.jsonl"}]
    changes["output"] = {"path": f"{folder}/out", "format": "jsonl.zst", "target_file_size": 1 << 30}
    return steps.prepare(yaml.safe_dump(corpora.config(folder, **changes), sort_keys=False))


def calls_a_document(folder: Path, kind: str, step: Callable[[steps.Prepared], object]) -> float:
    """Calls that one document more costs a step."""
    taken = []
    for count in (SHORT, LONG):
        ready = prepared(folder / f"{kind}{count}", kind, count, ARMS)
        step(ready)  # what is loaded or imported once is
        taken.append(calls_in(lambda ready=ready: step(ready)))
    return (taken[1] - taken[0]) / (LONG - SHORT)


def annotate_again(ready: steps.Prepared) -> None:
    """Annotate the base shard into an empty work folder."""
    with tempfile.TemporaryDirectory() as work:
        steps.annotate(ready.job, ready.parts[:1], work)


def mix_again(ready: steps.Prepared) -> None:
    """Write all arms into an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        settings = ready.job.settings._replace(output=f"{folder}/out", folder=f"{folder}/receipts")
        for group in ready.groups:
            mix_group(group, ready.plan, settings)


@pytest.mark.parametrize(("kind", "most"), [("jsonl", 20), ("parquet", 1), ("wet", 125)])
def test_calls_of_annotating(tmp_path: Path, kind: str, most: int) -> None:
    """Python is called to parse a document where a format needs it, and not at all to score, count and write it.

    Counted: 15 calls a JSON line, 97 a WET record, none a row of Parquet; a third as margin.
    """
    assert calls_a_document(tmp_path, kind, annotate_again) < most


def test_calls_of_mixing(tmp_path: Path) -> None:
    """Base records are copied in runs, and only synthetic documents and repeated ones are met one by one.

    Counted: 1.2 calls a document for three arms; a quarter as margin.
    """
    assert calls_a_document(tmp_path, "jsonl", mix_again) < 1.5


def peaks_of(folder: Path, count: int) -> tuple[float, float]:
    """Most MB that Python with NumPy, and Arrow, hold at one time while a shard of long documents is annotated."""
    ready = prepared(folder, "jsonl", count, {"unfiltered": {}}, repeated=60)
    annotate_again(ready)
    before = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(before)  # counts from now on; the default pool's peak is the whole process's
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        annotate_again(ready)
        return tracemalloc.get_traced_memory()[1] / 1e6, pool.max_memory() / 1e6
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(before)


def test_memory(tmp_path: Path) -> None:
    """Memory is bounded by the batch, 4 MiB of text, and does not grow with the shard.

    Counted: 24 MB at 10 MB of text and 25 MB at 19 MB for Python and NumPy, 12 MB for Arrow; a third as margin.
    """
    (python, arrow), (python_of_twice, arrow_of_twice) = (peaks_of(tmp_path / str(n), n) for n in (800, 1600))
    assert max(python, python_of_twice) < 33
    assert max(arrow, arrow_of_twice) < 16
    assert python_of_twice < 1.33 * python
