"""What the tests of decoding and reading share: documents, and slices read with every promise of a batch checked."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import strategies as st

from tests import shards
from transforms.decode import DecodeLimits
from transforms.errors import BadShard
from transforms.read import Records, Rows, read_records, read_texts
from transforms.schema import CONVERTED, TEXTS, BadRecord, Format, Slice, Source

LIMITS = DecodeLimits()
Form = Literal["lines", "rows", "converted"]
Found = dict[int, tuple[str | None, str]]

DOCS: list[shards.Document] = [
    ("a", "Hello"),
    ("b", ""),
    (None, 'quotes " and \\ and \n line ends \r\n'),
    ("d", "日本語 и кириллица \U0001f600"),
    ("e", "separators \u2028 \u2029 \x85 \x1e \0 nul"),
]

texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40) | st.sampled_from([t for _, t in DOCS])
documents = st.lists(
    st.tuples(st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=5), texts), max_size=12
)
places = st.lists(st.integers(0, 1 << 16), max_size=5)
block_sizes = st.sampled_from([1, 2, 5, 31, 300, 4 << 20])


def fault_of(call: Callable[[], Any]) -> str:
    """The reason of the bad shard that a call must end in, which has a detail as well."""
    with pytest.raises(BadShard) as caught:
        call()
    assert type(caught.value.reason) is str
    assert caught.value.detail
    return caught.value.reason


def in_blocks(data: bytes, size: int) -> list[bytes]:
    """Data cut into blocks of one size."""
    return [data[at : at + size] for at in range(0, len(data), size)]


def read(
    data: bytes,
    name: str = "x.jsonl",
    shard_format: Format = Format.JSONL,
    *,
    source: Source | None = None,
    part: Slice | None = None,
    limits: DecodeLimits = LIMITS,
    file: Any = None,
) -> tuple[Found, list[BadRecord]]:
    """Ids and texts by position, and the bad records, after checking what every batch promises."""
    found: Found = {}
    bad: list[BadRecord] = []
    seen = -1
    for batch, problems, _ in read_texts(
        file or shards.opened(data),
        part or shards.whole(name, shard_format),
        source or shards.source(),
        limits,
    ):
        assert batch.schema.equals(TEXTS)
        batch.validate(full=True)
        positions = [*batch["position"].to_pylist(), *(each.position for each in problems)]
        assert len(set(positions)) == len(positions) and min(positions) > seen
        seen = max(positions)
        for at, name_, text in zip(*(batch[c].to_pylist() for c in ("position", "id", "text")), strict=True):
            found[at] = (name_, text)
        if shard_format is not Format.JSONL:
            sizes = [len(text.encode()) for text in batch["text"].to_pylist()]
            assert batch["record_bytes"].to_pylist() == sizes
        bad += problems
    assert all(type(each.reason) is str and len(each.head) <= 1024 for each in bad)
    return found, bad


def take(
    data: bytes,
    form: Form,
    wanted: Sequence[int],
    name: str = "x.jsonl",
    shard_format: Format = Format.JSONL,
    *,
    source: Source | None = None,
    part: Slice | None = None,
    limits: DecodeLimits = LIMITS,
) -> list[tuple[int, Any]]:
    """Records by position: bytes of a line, or a row as a dict."""
    found: list[tuple[int, Any]] = []
    for batch in read_records(
        shards.opened(data),
        part or shards.whole(name, shard_format),
        source or shards.source(),
        limits,
        form=form,
        wanted=np.array(wanted, np.int64),
    ):
        if isinstance(batch, Records):
            whole = batch.data.tobytes()
            values: list[Any] = [whole[a:b] for a, b in zip(batch.starts, batch.ends, strict=True)]
            assert (batch.starts[1:] == batch.ends[:-1] + 1).all()
        else:
            assert isinstance(batch, Rows)
            assert form != "converted" or batch.rows.schema.equals(CONVERTED)
            batch.rows.validate(full=True)
            values = batch.rows.to_pylist()
        found += zip(batch.position.tolist(), values, strict=True)
    return found


def reasons(bad: list[BadRecord]) -> list[str]:
    """Why records went to quarantine, in order."""
    return [each.reason for each in bad]
