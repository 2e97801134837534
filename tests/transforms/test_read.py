"""Reading: what holds for every format alike, and the archives of real crawls.

Numbers in names are rows of the fault table.
"""

import gzip
import io
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import shards
from tests.reading import DOCS, fault_of, read, take
from transforms.decode import DecodeLimits
from transforms.errors import BadShard, ConfigError, InputChanged
from transforms.read import detect_format, read_texts
from transforms.schema import Format, ShardFault


def test_fault_27_28_a_record_that_is_not_there_any_more() -> None:
    """A wanted position without a record means another shard than the plan's: the build stops."""
    data = shards.jsonl_bytes(DOCS)
    with pytest.raises(InputChanged, match=r"x\.jsonl has 1 of the 2 records"):
        take(data, "lines", [0, 5])
    with pytest.raises(InputChanged, match="0 of the 1"):
        take(shards.parquet_bytes(DOCS), "rows", [99], "x.parquet", Format.PARQUET)


def test_forms_that_a_format_has_not() -> None:
    """Lines of Parquet and rows of JSON lines are a mistake of the caller."""
    with pytest.raises(ValueError, match="no form"):
        take(shards.parquet_bytes(DOCS), "lines", [0], "x.parquet", Format.PARQUET)
    with pytest.raises(ValueError, match="no form"):
        take(shards.jsonl_bytes(DOCS), "rows", [0])


def test_other_formats_are_not_taken_for_json_lines() -> None:
    """Parquet and WARC bytes under a JSONL name are one bad shard, and not thousands of bad records."""
    assert fault_of(lambda: read(shards.parquet_bytes(DOCS))) == ShardFault.NOT_THE_FORMAT
    assert fault_of(lambda: read(gzip.compress(shards.wet_bytes(DOCS)))) == ShardFault.NOT_THE_FORMAT
    part = shards.whole("x.jsonl")._replace(end=10)
    assert fault_of(lambda: read(gzip.compress(b"{}"), part=part)) == ShardFault.NOT_THE_FORMAT


@pytest.mark.parametrize("shard_format", list(Format))
def test_raw_bytes_are_seen_once_and_in_order(shard_format: Format) -> None:
    """Whatever the format, the raw bytes of a whole shard pass `on_raw` once and in order, for its checksum."""
    data = {
        Format.JSONL: shards.compress(shards.jsonl_bytes(DOCS), "zstd"),
        Format.PARQUET: shards.parquet_bytes(DOCS, row_group=2),
        Format.WET: shards.compress(shards.wet_bytes(DOCS), "gzip"),
        Format.WARC: shards.warc_bytes(DOCS),
    }[shard_format]
    seen: list[bytes] = []
    part = shards.whole("x", shard_format)
    for _ in read_texts(shards.opened(data), part, shards.source(), DecodeLimits(block_bytes=50), seen.append):
        pass
    assert b"".join(seen) == data


SAMPLES = [
    ("x.jsonl", Format.JSONL, shards.jsonl_bytes(DOCS)),
    ("x.jsonl.gz", Format.JSONL, shards.compress(shards.jsonl_bytes(DOCS), "gzip", cuts=[50])),
    ("x.jsonl.zst", Format.JSONL, shards.compress(shards.jsonl_bytes(DOCS), "zstd", cuts=[50], checksum=False)),
    ("x.parquet", Format.PARQUET, shards.parquet_bytes(DOCS, row_group=2, page_crc=False)),
    ("x.wet", Format.WET, shards.wet_bytes(DOCS)),
    ("x.warc", Format.WARC, shards.warc_bytes(DOCS[:2])),
]


@given(
    st.sampled_from(SAMPLES),
    st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 2), st.integers(0, 255)), min_size=1, max_size=6),
)
@settings(max_examples=300, deadline=None)
def test_damage_never_raises_anything_else(
    sample: tuple[str, Format, bytes], edits: list[tuple[int, int, int]]
) -> None:
    """Bytes changed, lost or added anywhere, even where no checksum looks, end in texts, bad records or a bad shard."""
    name, shard_format, data = sample
    changed = bytearray(data)
    for place, lost, byte in edits:
        at = place % (len(changed) + 1)
        changed[at : at + lost] = bytes([byte])
    try:
        found, _ = read(bytes(changed), name, shard_format)
        assert len(take(bytes(changed), "converted", list(found), name, shard_format)) == len(found)
    except (BadShard, ConfigError):
        return


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.wet.gz", "x.parquet"])
def test_long_shards_stay_small_in_memory(name: str, tmp_path: Path) -> None:
    """Memory is bounded by the block size, not by the shard: 60 MB of text pass in less than 25 MB."""
    docs: list[shards.Document] = [(str(i), f"{i} " + "some words and more " * 150) for i in range(20_000)]
    path = tmp_path / name
    shard_format = detect_format(name, b"")
    if shard_format is Format.PARQUET:
        shards.write_parquet(path, docs, row_group=20_000)
    else:
        make = shards.jsonl_bytes if shard_format is Format.JSONL else shards.wet_bytes
        shards.write(path, make(docs), "gzip", members=50)
    limits = DecodeLimits(block_bytes=1 << 20)
    arrow = pa.total_allocated_bytes()
    count = peak = 0
    tracemalloc.start()
    try:
        with path.open("rb") as file:
            for part in read_texts(file, shards.whole(name, shard_format), shards.source(), limits):
                count += part.batch.num_rows
                peak = max(peak, pa.total_allocated_bytes() - arrow)
        peak += tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == len(docs)
    assert peak < 25 << 20


# Formats and real archives


@pytest.mark.parametrize(
    ("name", "head", "shard_format"),
    [
        ("a/b.jsonl", b"", Format.JSONL),
        ("a/b.JSONL.ZST", b"", Format.JSONL),
        ("b.json.gz", b"", Format.JSONL),
        ("b.ndjson", b"", Format.JSONL),
        ("b.parquet", b"", Format.PARQUET),
        ("b.warc.wet.gz", b"", Format.WET),
        ("b.wet", b"", Format.WET),
        ("b.warc.gz", b"", Format.WARC),
        ("b.warc.zst", b"", Format.WARC),
        ("b.jsonl", b"PAR1\x15", Format.PARQUET),
        ("part-0001", b'\xef\xbb\xbf {"text": 1}', Format.JSONL),
        ("part-0001", b"WARC/1.0\r\nWARC-Type: response", Format.WARC),
        ("part-0001", b"WARC/1.0\r\nWARC-Type: conversion", Format.WET),
    ],
)
def test_formats_are_told_by_name_and_magic(name: str, head: bytes, shard_format: Format) -> None:
    """Parquet is told by its magic number, the others by name, and shards without a telling name by their beginning."""
    assert detect_format(name, head) is shard_format


@pytest.mark.parametrize(
    ("name", "head"), [("x.csv", b"a,b"), ("x.txt", b""), ("x.gz", b"text"), ("x.jsonl.bz2", b"BZh")]
)
def test_unknown_formats_say_what_is_accepted(name: str, head: bytes) -> None:
    """A shard of no known format is a mistake in the configuration, and the message lists the known ones."""
    with pytest.raises(ConfigError, match=r"accepted are \.jsonl"):
        detect_format(name, head)


@pytest.mark.parametrize(
    ("name", "count", "words"),
    [
        ("cc_en_head-0091.jsonl.gz", 10, "weekly teleconferences"),
        ("dolma-sample-0000.warc.gz", 22, "research"),
        ("whirlwind.warc.wet.gz", 1, "Biquipedia, a enciclopedia libre"),
        ("whirlwind.warc.gz", 1, "escopete"),
        ("warcio-example.warc.gz", 1, "illustrative examples"),  # the body is gzip inside
        ("warcio-iana-chunked.warc", 1, "Root Zone trust anchor"),  # and chunked here
    ],
)
def test_real_archives(shared_data: Path, name: str, count: int, words: str) -> None:
    """Real crawls give the documents that they are known to hold, and the same texts again as records."""
    data = (shared_data / "web" / name).read_bytes()
    shard_format = detect_format(name, b"")
    found, bad = read(data, name, shard_format)
    assert len(found) == count and not bad
    assert any(words in text for _, text in found.values())
    rows = take(data, "converted", list(found), name, shard_format)
    assert {at: (row["id"], row["text"]) for at, row in rows} == found
    if shard_format is Format.JSONL:
        whole = gzip.decompress(data)
        assert all(whole.startswith(line + b"\n", at) for at, line in take(data, "lines", list(found), name))


def test_real_archives_agree_with_warcio(shared_data: Path) -> None:
    """The records found in real archives, and their payloads, are those that warcio finds."""
    archiveiterator = pytest.importorskip("warcio.archiveiterator")
    name = "whirlwind.warc.wet.gz"
    data = (shared_data / "web" / name).read_bytes()
    records = archiveiterator.ArchiveIterator(io.BytesIO(data), no_record_parse=True)
    expected = [
        (record.rec_headers.get_header("WARC-Record-ID"), record.raw_stream.read().decode())
        for record in records
        if record.rec_type == "conversion"
    ]
    assert list(read(data, name, Format.WET)[0].values()) == expected
