"""Damaged shards in whole builds: cut anywhere or a bit flipped, nothing is lost silently and no text is changed."""

import collections
import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from beam_pipeline.verify import verify
from tests import corpora, shards
from transforms.errors import InputError

FORMATS = ("jsonl.gz", "jsonl.zst", "parquet")
DOCUMENTS = corpora.documents(30, seed=3)
HEALTHY, DAMAGED = DOCUMENTS[:20], DOCUMENTS[20:]


def healthy_bytes(folder: Path, kind: str) -> bytes:
    """A shard of the documents that are going to be damaged, in a format with checksums of its own."""
    path = folder / f"whole.{kind}"
    if kind == "parquet":
        return shards.write_parquet(path, DAMAGED, row_group=4, page_crc=True).read_bytes()
    codec = {"jsonl.gz": "gzip", "jsonl.zst": "zstd", "jsonl": "none"}[kind]
    return shards.write_jsonl(path, DAMAGED, codec=codec, members=2).read_bytes()


def cut(data: bytes, chance: random.Random) -> bytes:
    """The shard without its end."""
    return data[: chance.randrange(len(data))]


def flip(data: bytes, chance: random.Random) -> bytes:
    """The shard with one bit the other way round."""
    return shards.flipped(data, chance.randrange(len(data) * 8))


def texts_of(folder: Path) -> collections.Counter[str]:
    """The texts of the only arm, how often each."""
    files = sorted((folder / "out" / "unfiltered").glob("part-*.jsonl"))
    lines = (line for file in files for line in file.read_bytes().split(b"\n") if line)
    return collections.Counter(json.loads(line)["text"] for line in lines)


def outcome(folder: Path, name: str, data: bytes, bad_shards: int, checksums: dict[str, str] | None = None) -> str:
    """Build over a healthy and a damaged shard: "identical", "left out" or "stopped"; anything else fails."""
    (folder / "web").mkdir(parents=True)
    shards.write_jsonl(folder / "web" / "healthy.jsonl", HEALTHY)
    (folder / "web" / name).write_bytes(data)
    source: dict[str, Any] = {"name": "web", "paths": f"{folder}/web/*"}
    if checksums:
        healthy = hashlib.sha256((folder / "web" / "healthy.jsonl").read_bytes()).hexdigest()
        lines = "".join(f"{digest}  {file}\n" for file, digest in {**checksums, "healthy.jsonl": healthy}.items())
        (folder / "SHA256SUMS").write_text(lines)
        source["checksums"] = f"{folder}/SHA256SUMS"
    values = corpora.config(folder, sources=[source], limits={"bad_shards": bad_shards, "bad_records": 0})
    try:
        manifest = corpora.run_plain(values)
    except InputError:
        assert not (folder / "out" / "_SUCCESS").exists()
        return "stopped"
    assert verify(values["output"]["path"]).problems == ()
    everything = collections.Counter(text for _, text in DOCUMENTS)
    if manifest["quarantine"]["shards"]:
        assert [s["shard"].rsplit("/", 1)[-1] for s in manifest["quarantine"]["shards"]] == [name]
        assert texts_of(folder) == everything - collections.Counter(text for _, text in DAMAGED)
        return "left out"
    assert texts_of(folder) == everything
    return "identical"


def cases(count: int) -> Iterator[tuple[int, random.Random, int]]:
    """Numbers of cases, each with its own chance, every other one without any shard to spare."""
    yield from ((number, random.Random(f"damage-{number}"), number % 2) for number in range(count))


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("damage", [cut, flip])
@pytest.mark.parametrize("count", [6, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_damage_is_noticed_or_changes_nothing(tmp_path: Path, kind: str, damage: Any, count: int) -> None:
    """A cut or flipped shard is left out within the limits, stops the build past them, or gives the same corpus."""
    data = healthy_bytes(tmp_path, kind)
    found: collections.Counter[str] = collections.Counter()
    for number, chance, spare in cases(count):
        result = outcome(tmp_path / str(number), f"damaged.{kind}", damage(data, chance), spare)
        assert not (spare and result == "stopped")
        assert not (not spare and result == "left out")
        found[result] += 1
    # Some damage changes nothing: a cut between two members, a flip in a time stamp or in a column's statistics.
    assert found["identical"] < count
    print(f"{damage.__name__} {kind}: {dict(found)}")


@pytest.mark.parametrize("count", [6, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
@pytest.mark.parametrize("damage", [cut, flip])
def test_a_checksums_file_shows_all_damage(tmp_path: Path, damage: Any, count: int) -> None:
    """Against a sum from outside, every cut and every flip is noticed, in a format that has no checksum at all."""
    data = healthy_bytes(tmp_path, "jsonl")
    sums = {"damaged.jsonl": hashlib.sha256(data).hexdigest()}
    for number, chance, spare in cases(count):
        result = outcome(tmp_path / str(number), "damaged.jsonl", damage(data, chance), spare, sums)
        assert result == ("left out" if spare else "stopped")


def test_healthy_input_gives_all_texts(tmp_path: Path) -> None:
    """The harness itself: undamaged shards of every format give every text."""
    for kind in (*FORMATS, "jsonl"):
        assert outcome(tmp_path / kind, f"damaged.{kind}", healthy_bytes(tmp_path, kind), 0) == "identical"
