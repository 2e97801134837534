"""Arbitrary bytes for the decoders and the configuration, for as long as asked: `./dev fuzz --minutes 5`.

A target may refuse its input with one of the product's own errors; all else is a finding, which Hypothesis shrinks.
"""

import argparse
import collections
import contextlib
import io
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from beam_pipeline.config import load_config
from tests import corpora, shards
from transforms.decode import DecodeLimits
from transforms.errors import BadShard, ConfigError
from transforms.read import read_records, read_texts
from transforms.schema import Format

DOCS = corpora.documents(12, seed=1)
LIMITS = DecodeLimits(max_record_bytes=4096, max_window_bytes=8 << 20)
LINES = shards.jsonl_bytes(DOCS)
WHOLE = {
    "jsonl": [LINES, *(shards.compress(LINES, codec, cuts=[200, 900]) for codec in ("gzip", "zstd"))],
    "parquet": [shards.parquet_bytes(DOCS, row_group=4), shards.parquet_bytes(DOCS, page_crc=False)],
    "wet": [shards.wet_bytes(DOCS), shards.compress(shards.wet_bytes(DOCS), "gzip", cuts=[300, 800])],
    "warc": [shards.warc_bytes(DOCS), shards.compress(shards.warc_bytes(DOCS), "zstd", cuts=[700])],
}
seen: collections.Counter[str] = collections.Counter()


def mutated(data: bytes, changes: list[tuple[str, int, bytes]]) -> bytes:
    """Data with pieces overwritten, put in, taken out, doubled, or its end cut off."""
    for kind, place, piece in changes:
        at = place % (len(data) + 1)
        after = data[at + len(piece) :]
        data = {
            "overwrite": data[:at] + piece + after,
            "insert": data[:at] + piece + data[at:],
            "delete": data[:at] + after,
            "double": data[:at] + data[at : at + 200] + data[at:],
            "cut": data[:at],
        }[kind]
    return data


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["overwrite", "insert", "delete", "double", "cut"]),
        st.integers(0, 1 << 16),
        st.one_of(
            st.binary(min_size=1, max_size=8),
            st.sampled_from(
                [b"\n", b"\r\n", b"\0", b"\xff", b'"', b"{", b"\\ud800", b"NaN", b"-1", b"99999999999999999999"]
            ),
        ),
    ),
    max_size=4,
)


def read_everything(kind: str, data: bytes) -> None:
    """Read a shard twice, as a build does: what the first reading found, the second finds; or both refuse it."""
    part, source = shards.whole("shard", Format(kind), len(data)), shards.source()
    try:
        positions = []
        for found in read_texts(io.BytesIO(data), part, source, LIMITS):
            batch = found.batch
            positions += batch.column("position").to_pylist()
            for text in batch.column("text").to_pylist():
                text.encode()
    except BadShard as error:
        seen[f"{kind}: {error.reason}"] += 1
        return
    seen[f"{kind}: read"] += 1
    assert positions == sorted(set(positions))
    form: Any = {"jsonl": "lines", "parquet": "rows"}.get(kind, "converted")
    wanted = np.array(positions, np.int64)
    records = read_records(io.BytesIO(data), part, source, LIMITS, form=form, wanted=wanted, on_raw=None)
    assert [p for batch in records for p in batch.position.tolist()] == positions


def decoders(kind: str, which: int, changes: list[tuple[str, int, bytes]]) -> None:
    """A shard of some format with something changed."""
    read_everything(kind, mutated(WHOLE[kind][which % len(WHOLE[kind])], changes))


def raw_decoders(kind: str, data: bytes) -> None:
    """Any bytes at all, by any name."""
    read_everything(kind, data)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["keep", "512MiB", "en", "gs://b/*"]),
)
_WORDS = """
    name seed sources pool language stance unit arms output limits work tolerance paths text id format quotas keep
    share dose amount of refill placement head tail misaligned max_repeats path target_file_size bad_records threshold
"""
KEYS = st.sampled_from(_WORDS.split())
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=20
)


def configurations(path: list[str], tree: Any) -> None:
    """A good configuration with something in it replaced, added or removed."""
    values: Any = {
        "name": "x", "sources": [{"name": "web", "paths": "/x/*"}], "pool": [{"name": "p", "paths": "/p/*"}],
        "arms": {"a": {"dose": {"share": 0.1}}}, "output": {"path": "/out"},
    }  # fmt: skip
    node = values
    for key in path:
        child = node.get(key) if isinstance(node, dict) else None
        node = child[0] if isinstance(child, list) and child and isinstance(child[0], dict) else child
        if not isinstance(node, dict):
            node = values
    node[path[-1] if path else "seed"] = tree
    refuse_or_load(yaml.safe_dump(values))


def refuse_or_load(text: str) -> None:
    """What loads gives the same hash again."""
    with contextlib.suppress(ConfigError):
        config = load_config(text)
        assert load_config(text).sha256() == config.sha256()
        seen["configuration: accepted"] += 1
        return
    seen["configuration: refused"] += 1


TARGETS: list[tuple[Callable[..., None], tuple[Any, ...]]] = [
    (decoders, (st.sampled_from(sorted(WHOLE)), st.integers(0, 3), CHANGES)),
    (raw_decoders, (st.sampled_from(sorted(WHOLE)), st.binary(max_size=300))),
    (configurations, (st.lists(KEYS, max_size=4), TREES)),
    (refuse_or_load, (st.text(max_size=60),)),
]


def run(seconds: float, examples: int = 200) -> int:
    """Try all targets in turn until the time is over; returns the number of rounds. A finding is raised."""
    rounds, ends = 0, time.monotonic() + seconds
    while time.monotonic() < ends or not rounds:
        for target, strategies in TARGETS:
            options: Any = settings(
                max_examples=examples, deadline=None, database=None, derandomize=False,
                suppress_health_check=list(HealthCheck), phases=[Phase.generate, Phase.shrink],
            )  # fmt: skip
            bound: Any = given
            options(bound(*strategies)(target))()
        rounds += 1
    return rounds


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="./dev fuzz", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--minutes", type=float, default=2.0, help="time budget (default: 2)")
    minutes = parser.parse_args().minutes
    rounds = run(60 * minutes)
    for name, number in sorted(seen.items()):
        print(f"{number:9,}  {name}")
    print(f"{sum(seen.values()):,} inputs in {rounds:,} rounds and {minutes:g} minutes; no finding")


if __name__ == "__main__":
    main()
