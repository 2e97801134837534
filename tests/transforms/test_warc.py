"""WARC records: whole and in place, or the shard is refused. Numbers are rows of the fault table."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import shards
from tests.reading import fault_of, in_blocks
from transforms.decode import DecodeLimits
from transforms.errors import BadShard
from transforms.schema import BadRecord, RecordFault, ShardFault
from transforms.warc import WarcRecord, warc_records


def records(data: bytes, block: int = 1000, **limits: int) -> list[WarcRecord | BadRecord]:
    return list(warc_records(in_blocks(data, block), DecodeLimits(**limits)))


payloads = st.lists(st.sampled_from([b"", b"x", b"\r\n", b"\r\n\r\n", b"WARC/1.0\r\n", b"text " * 20]), max_size=5).map(
    b"".join
)


@given(st.lists(payloads, min_size=1, max_size=6), st.integers(1, 300))
@settings(max_examples=200, deadline=None)
def test_warc_records_come_out_whole(blocks: list[bytes], size: int) -> None:
    """Any payloads, line ends and version lines inside included, are found whole and in place, whatever the blocks."""
    parts = [shards.warc_record("resource", f"<{i}>", block) for i, block in enumerate(blocks)]
    found = records(b"".join(parts), size)
    assert [r.payload for r in found if isinstance(r, WarcRecord)] == blocks
    assert [r.position for r in found] == [0, *itertools.accumulate(map(len, parts))][:-1]
    assert all(isinstance(r, WarcRecord) and r.headers["warc-record-id"] == f"<{i}>" for i, r in enumerate(found))


@pytest.mark.parametrize("change", [-3, -1, 1, 2, 3, 4, 5, 50, 180, 10_000])
def test_fault_26_a_wrong_content_length_is_a_bad_shard(change: int) -> None:
    """From the first record whose length is wrong, nothing can be told apart: a bad shard, and the place is named."""
    good = shards.wet_record("<a>", "first")
    wrong = shards.wet_record("<b>", "second text", content_length=str(11 + change))
    with pytest.raises(BadShard, match=f"byte {len(good)}") as caught:
        records(good + wrong + shards.wet_record("<c>", "third"))
    assert caught.value.reason in {ShardFault.FRAMING, ShardFault.TRUNCATED}


@pytest.mark.parametrize("length", ["x", "-1", "+5", "5 5", "٥", "9" * 30])
def test_fault_26_a_content_length_that_is_no_number(length: str) -> None:
    """A Content-Length that is missing or no plain number loses the framing."""
    data = shards.wet_record("<a>", "first", content_length=length)
    assert fault_of(lambda: records(data)) == ShardFault.FRAMING
    assert fault_of(lambda: records(shards.wet_record("<a>", "first", content_length=""))) == ShardFault.FRAMING


@pytest.mark.parametrize("junk", [b"junk\r\n\r\n", b"WARC/x\r\n\r\n", b"<html>" * 50, b"\0" * 99])
def test_bytes_between_records_are_a_bad_shard(junk: bytes) -> None:
    """What stands where a version line must stand is not guessed at."""
    record = shards.wet_record("<a>", "first")
    assert fault_of(lambda: records(record + junk + record)) == ShardFault.FRAMING
    assert fault_of(lambda: records(junk + record)) == ShardFault.FRAMING


def test_endless_headers_are_a_bad_shard() -> None:
    """Headers without an end are given up at 1 MiB."""
    assert fault_of(lambda: records(b"WARC/1.0\r\n" + b"a: b\r\n" * 300_000, 1 << 16)) == ShardFault.FRAMING


def test_a_plain_warc_cut_inside_a_record_is_seen() -> None:
    """Cut anywhere but at a record's end, an uncompressed WARC is a bad shard."""
    parts = [shards.wet_record("<a>", "first"), shards.wet_record("<b>", "second")]
    data = b"".join(parts)
    for size in range(1, len(data)):
        if size == len(parts[0]):
            assert len(records(data[:size])) == 1
        else:
            assert fault_of(lambda size=size: records(data[:size])) in {"truncated", "framing_lost"}


def test_more_line_ends_between_records_are_fine() -> None:
    """Further line ends after a record are passed over, and positions stay right."""
    record = shards.wet_record("<a>", "first")
    assert [r.position for r in records(record + b"\r\n\n" + record + b"\r\n", 7)] == [0, len(record) + 3]


def test_long_warc_records_are_streamed_past() -> None:
    """A record over the limit becomes a bad record, its frame is still checked, and the next is read."""
    long, after = shards.wet_record("<long>", "x" * 5000), shards.wet_record("<after>", "text")
    found = records(long + after, 100, max_record_bytes=1000)
    assert isinstance(found[0], BadRecord)
    assert found[0][:3] == (0, RecordFault.TOO_LONG.value, len(long) - 4)
    assert found[0].head == long[:1024]
    assert isinstance(found[1], WarcRecord) and found[1].position == len(long)
    wrong = shards.wet_record("<long>", "x" * 5000, content_length="4999")
    assert fault_of(lambda: records(wrong + after, 100, max_record_bytes=1000)) == ShardFault.FRAMING


def test_only_wanted_kinds_are_held() -> None:
    """Other kinds of record are passed over, however long they are."""
    data = shards.warc_record("resource", None, b"x" * 5000) + shards.wet_record("<a>", "text")
    (record,) = warc_records([data], DecodeLimits(max_record_bytes=1000), kinds=["conversion"])
    assert isinstance(record, WarcRecord) and record.payload == b"text"
