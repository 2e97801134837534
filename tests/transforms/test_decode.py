"""Decoding: whole streams come out byte for byte, and anything less is refused. Numbers are rows of the fault table."""

import gzip
import io
import itertools
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests import shards
from transforms.decode import DecodeLimits, Lines, WarcRecord, decompressed, lines, pick, sniff, warc_records
from transforms.errors import BadShard
from transforms.schema import BadRecord, Codec, RecordFault, ShardFault

LIMITS = DecodeLimits()
DATA = b"".join(b"line %d of a shard that is long enough\n" % i for i in range(40))

data_sets = st.one_of(
    st.binary(max_size=300),
    st.lists(st.sampled_from([b"a" * 200, b"\n", b"{}", "日本".encode()]), max_size=30).map(b"".join),
    st.integers(0, 400_000).map(lambda n: (b"0123456789abcdef\n" * (n // 17 + 1))[:n]),
)
places = st.lists(st.integers(0, 1 << 20), max_size=6)
block_sizes = st.sampled_from([1, 2, 3, 7, 64, 1000, 1 << 16, 4 << 20])


def decode(data: bytes, *, block: int = 4 << 20, named: bool = True, **limits: int) -> bytes:
    bounds = DecodeLimits(block_bytes=block, **limits)
    return b"".join(decompressed(shards.opened(data), bounds, compressed_name=named))


def fault_of(call: Callable[[], Any]) -> str:
    with pytest.raises(BadShard) as caught:
        call()
    assert type(caught.value.reason) is str
    assert caught.value.detail
    return caught.value.reason


def in_blocks(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


# Streams


@pytest.mark.parametrize(
    ("head", "codec"),
    [
        (b"", Codec.NONE),
        (b'{"text"', Codec.NONE),
        (b"\x1f\x8b\x08\x00", Codec.GZIP),
        (b"\x28\xb5\x2f\xfd", Codec.ZSTD),
        (b"\x50\x2a\x4d\x18", Codec.ZSTD),
        (b"\x5f\x2a\x4d\x18", Codec.ZSTD),
        (b"\x60\x2a\x4d\x18", Codec.NONE),
        (b"WARC", Codec.NONE),
        (b"PAR1", Codec.NONE),
    ],
)
def test_magic_bytes_tell_the_codec(head: bytes, codec: Codec) -> None:
    """The first four bytes decide how a shard is compressed."""
    assert sniff(head) is codec


@given(data_sets, st.sampled_from(shards.CODECS), places, block_sizes, st.sampled_from([1, 5, 100, 1 << 20]))
@settings(max_examples=250, deadline=None)
def test_any_stream_comes_out_whole(data: bytes, codec: str, cuts: list[int], block: int, most: int) -> None:
    """Any bytes, in members split anywhere, read in pieces of any size, decode to themselves; raw bytes pass once."""
    assume(codec != "none" or not (sniff(data) is not Codec.NONE or data.startswith((b"BZh", b"PK"))))
    if len(data) > 1000:
        block, most = max(block, 64), max(most, 100)
    raw = shards.compress(data, codec, cuts=cuts)
    seen: list[bytes] = []
    file: Any = shards.Dribble(raw, most)
    limits = DecodeLimits(block_bytes=block)
    blocks = list(decompressed(file, limits, compressed_name=codec != "none", on_raw=seen.append))
    assert b"".join(blocks) == data
    assert b"".join(seen) == raw
    assert all(0 < len(each) <= max(2 * block, 4) for each in blocks) or codec == "none"


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_fault_01_to_03_every_cut_is_seen(codec: str) -> None:
    """A gzip or zstd shard cut in header, middle, trailer or last byte is truncated, wherever that is."""
    raw = shards.compress(DATA, codec)
    for cut in itertools.islice(shards.cuts_of(raw), 1, None):
        assert fault_of(lambda data=cut: decode(data)) == ShardFault.TRUNCATED, len(cut)


def test_fault_01_a_cut_skippable_frame_is_seen() -> None:
    """A zstd shard that ends inside a skippable frame is truncated."""
    raw = shards.skippable(b"x" * 50, 3)
    for cut in itertools.islice(shards.cuts_of(raw), 1, None):
        assert fault_of(lambda data=cut: decode(data)) == ShardFault.TRUNCATED, len(cut)


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_fault_04_a_cut_between_members_looks_whole(codec: str) -> None:
    """Cut exactly between members, a shard is a prefix; every other cut of a multi-member shard is refused.

    Only the size and checksum of the whole object, which `on_raw` serves, can show this one.
    """
    pieces = shards.split(DATA, [300, 301, 700])
    ends = list(itertools.accumulate(len(shards.compress(piece, codec)) for piece in pieces))
    raw = shards.compress(DATA, codec, cuts=[300, 301, 700])
    for size in range(1, len(raw)):
        if size in ends:
            assert DATA.startswith(decode(raw[:size]))
        else:
            assert fault_of(lambda size=size: decode(raw[:size])) == ShardFault.TRUNCATED, size


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_fault_05_every_flipped_bit_is_seen_or_harmless(codec: str) -> None:
    """With checksums in the stream, one flipped bit anywhere gives the same bytes or a bad shard."""
    raw = shards.compress(DATA, codec, cuts=[300, 700])
    outcomes = []
    for bit in range(len(raw) * 8):
        try:
            assert decode(shards.flipped(raw, bit)) == DATA
        except BadShard as error:
            outcomes.append(error.reason)
    assert len(outcomes) > len(raw) * 6
    assert set(outcomes) <= {"corrupt", "truncated", "trailing_bytes", "window_too_large"}


def test_fault_05_raw_bytes_are_there_to_be_summed() -> None:
    """A flip that a zstd stream without checksum hides still changes the raw bytes that `on_raw` sees."""
    raw = shards.compress(b"some text without any checksum, stored as it is", "zstd", checksum=False)
    changed = shards.flipped(raw, len(raw) * 8 - 5)
    seen: list[bytes] = []
    blocks = decompressed(shards.opened(changed), LIMITS, compressed_name=True, on_raw=seen.append)
    assert b"".join(blocks) == b"some text without any checksum, stored as it i" + bytes([ord("s") ^ 8])
    assert b"".join(seen) == changed


def test_fault_06_empty_objects() -> None:
    """0 bytes are no documents in a plain shard, and a bad shard where the name says compressed."""
    assert decode(b"", named=False) == b""
    assert fault_of(lambda: decode(b"", named=True)) == ShardFault.EMPTY
    assert decode(gzip.compress(b"")) == decode(zstandard.compress(b"")) == b""


@pytest.mark.parametrize("codec", shards.CODECS)
@pytest.mark.parametrize("named", [True, False])
def test_fault_07_the_name_does_not_decide(codec: str, named: bool) -> None:
    """A shard is decoded by what it holds, plain text under a compressed name included."""
    data = b'{"text": "x"}\n' * 50
    assert decode(shards.compress(data, codec), named=named) == data


@pytest.mark.parametrize("head", [b"\x1f\x8a\x08", b"\x00" * 20, b"\x28\xb5\x2f\xfc123", b"<html>"])
def test_fault_07_a_damaged_start_is_not_taken_for_plain_text(head: bytes) -> None:
    """A compressed name over bytes that are neither compressed nor records is a bad shard."""
    assert fault_of(lambda: decode(head + b"x" * 100)) == ShardFault.CORRUPT


@pytest.mark.parametrize("head", [b"BZh91AY", b"\xfd7zXZ\x00", b"\x04\x22\x4d\x18", b"PK\x03\x04"])
def test_other_codecs_are_named(head: bytes) -> None:
    """A shard in a codec that is not read is refused by name, and not as thousands of bad records."""
    assert fault_of(lambda: decode(head + b"x" * 100, named=False)) == ShardFault.NOT_THE_FORMAT


def gzip_member(flags: int, data: bytes) -> bytes:
    """A gzip member with the optional header fields of these flags, each longer than a small read."""
    head = b"\x1f\x8b\x08" + bytes([flags]) + b"\0\0\0\0\0\x03"
    head += struct.pack("<H2sH", 300, b"AB", 296) + b"e" * 296 if flags & 4 else b""
    head += b"name.jsonl\0" if flags & 8 else b""
    head += b"comment" * 20 + b"\0" if flags & 16 else b""
    head += struct.pack("<H", zlib.crc32(head) & 0xFFFF) if flags & 2 else b""
    packer = zlib.compressobj(wbits=-15)
    return head + packer.compress(data) + packer.flush() + struct.pack("<II", zlib.crc32(data), len(data))


@pytest.mark.parametrize("flags", range(0, 32, 2))
def test_fault_08_gzip_headers_with_every_field(flags: int) -> None:
    """Extra fields, names, comments and header checksums are read in pieces of any size, and a cut in them is seen."""
    raw = gzip_member(flags, DATA)
    for most in (1, 7, 1 << 20):
        file: Any = shards.Dribble(raw * 2, most)
        assert b"".join(decompressed(file, DecodeLimits(block_bytes=64), compressed_name=True)) == DATA * 2
    for size in range(1, len(raw)):
        assert fault_of(lambda size=size: decode(raw[:size])) == ShardFault.TRUNCATED, size


def test_fault_09_streams_that_were_flushed() -> None:
    """Frames and members whose writer flushed often, so that blocks end early, decode whole."""
    frame = zstandard.ZstdCompressor().compressobj()
    flushed = [frame.compress(DATA) + frame.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK) for _ in range(50)]
    assert decode(b"".join(flushed) + frame.flush()) == DATA * 50
    member = zlib.compressobj(wbits=31)
    pieces = [member.compress(DATA) + member.flush(zlib.Z_FULL_FLUSH) for _ in range(50)]
    assert decode(b"".join(pieces) + member.flush()) == DATA * 50


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_fault_08_09_thousands_of_members_take_linear_time(codec: str) -> None:
    """Four times as many members take about four times as long, not sixteen times."""
    member = shards.compress(b"0123456789abcdef" * 200, codec)

    def seconds(count: int) -> float:
        start = time.process_time()
        assert len(decode(member * count)) == 3200 * count
        return time.process_time() - start

    few = min(seconds(4000) for _ in range(2))
    assert min(seconds(16_000) for _ in range(2)) < 9 * few


def test_fault_10_skippable_frames_are_passed_over() -> None:
    """Skippable frames hold no data, wherever they stand, and however large they are."""
    frame = shards.compress(DATA, "zstd")
    raw = (
        shards.skippable(b"first", 13) + frame + shards.skippable(b"\0" * (3 << 20), 1) + frame + shards.skippable(b"")
    )
    assert decode(raw) == DATA * 2


@pytest.mark.parametrize("junk", [b"x", b"\x1f", b"\x1f\x00", b"\x1f\x8b", b"(", b"\xff" * 100, b"{}\n", b"\0\0x"])
@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_fault_11_junk_after_the_end_is_refused(codec: str, junk: bytes) -> None:
    """Bytes after the last member or frame that do not begin another one are a bad shard."""
    assert fault_of(lambda: decode(shards.compress(DATA, codec) + junk)) in {
        ShardFault.TRAILING,
        ShardFault.TRUNCATED,  # where the junk is the beginning of a magic number
    }


@pytest.mark.parametrize("zeros", [1, 2, 511, 70_000, 3 << 20])
def test_fault_11_zeros_after_gzip_are_padding(zeros: int) -> None:
    """Zeros after a gzip member are padding, as gzip reads them, and another member may follow."""
    raw = gzip.compress(DATA)
    assert decode(raw + b"\0" * zeros) == DATA
    assert decode(raw + b"\0" * zeros + raw) == DATA * 2
    assert fault_of(lambda: decode(shards.compress(DATA, "zstd") + b"\0" * zeros)) == ShardFault.TRAILING


def test_fault_12_a_large_window_is_refused() -> None:
    """A zstd frame that needs more memory than allowed is named as such, before any of it is decoded."""
    parameters = zstandard.ZstdCompressionParameters(window_log=28, write_content_size=0)
    writer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    raw = writer.compress(DATA) + writer.flush()
    assert fault_of(lambda: decode(raw)) == ShardFault.WINDOW
    assert decode(raw, max_window_bytes=1 << 28) == DATA
    single = struct.pack("<IBQ", 0xFD2FB528, 0b11100000, 1 << 30)  # one segment: the window is the content
    assert fault_of(lambda: decode(single + b"\0" * 99)) == ShardFault.WINDOW


def bomb(codec: str, size: int) -> bytes:
    """About `size` zeros, as small as the codec can make them."""
    if codec == "gzip":
        return gzip.compress(b"\0" * (1 << 20), 9) * (size >> 20)
    header = struct.pack("<IBB", 0xFD2FB528, 0, 0x38)  # no content size, 128 KiB window
    block = struct.pack("<I", (128 << 10) << 3 | 1 << 1)[:3] + b"\0"  # 128 KiB of one byte
    last = struct.pack("<I", 1)[:3]
    return header + block * (size >> 17) + last


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_fault_13_a_bomb_is_refused_in_little_memory(codec: str) -> None:
    """A shard that grows past `max_expansion` is refused soon after 64 MiB, having held a few blocks at most."""
    raw = bomb(codec, 4 << 30)
    limits = DecodeLimits(max_expansion=500)
    sizes = map(len, decompressed(shards.opened(raw), limits, compressed_name=True))
    tracemalloc.start()
    try:
        assert fault_of(lambda: sum(sizes)) == ShardFault.BOMB
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 24 << 20


def test_fault_13_dense_data_below_the_limit_is_read() -> None:
    """High ratios are fine below 64 MiB, and so is any ratio within `max_expansion`."""
    assert len(decode(bomb("zstd", 32 << 20))) == 32 << 20
    assert len(decode(bomb("gzip", 80 << 20), max_expansion=2000)) == 80 << 20


def test_a_warc_zstd_dictionary_is_used() -> None:
    """The dictionary in the first skippable frame of a .warc.zst, compressed or not, decodes the frames after it."""
    samples = [
        b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Date: 2026-11-%02d\r\n\r\n%d" % (i % 30, i) for i in range(900)
    ]
    dictionary = zstandard.train_dictionary(2000, samples)
    compressor = zstandard.ZstdCompressor(dict_data=dictionary)
    frames = b"".join(map(compressor.compress, samples))
    for content in (dictionary.as_bytes(), zstandard.compress(dictionary.as_bytes())):
        assert decode(shards.skippable(content, 13) + frames) == b"".join(samples)
    assert fault_of(lambda: decode(frames)) == ShardFault.CORRUPT
    broken = shards.flipped(zstandard.ZstdCompressor(write_checksum=True).compress(dictionary.as_bytes()), 900)
    assert fault_of(lambda: decode(shards.skippable(broken, 13) + frames)) == ShardFault.CORRUPT


def test_the_offset_says_how_far_a_shard_was_good() -> None:
    """A bad shard names a compressed offset before the damage and not far from it."""
    raw = bytearray(gzip.compress(bytes(range(256)) * 2000, 0))
    raw[300_000] ^= 1
    with pytest.raises(BadShard) as caught:
        decode(bytes(raw) + gzip.compress(b"more"))
    assert 0 <= caught.value.offset <= len(raw)
    with pytest.raises(BadShard) as caught:
        decode(bytes(raw[:1000]))
    assert caught.value.offset == 1000


# Lines


def oracle(data: bytes, longest: int = 1 << 30) -> tuple[list[tuple[int, bytes]], list[tuple[int, int]]]:
    """Lines and over-long lines with their positions, in plain Python."""
    found, long, at = [], [], 0
    for i, line in enumerate(data.split(b"\n")):
        bom = 3 if i == 0 and line.startswith(b"\xef\xbb\xbf") else 0
        body = line[bom:]
        if len(body) > longest and body.strip(b" \t\r"):
            long.append((at + bom, len(body)))
        elif body.strip(b" \t\r"):
            found.append((at + bom, body))
        at += len(line) + 1
    return found, long


def listed(run: Lines) -> Iterator[tuple[int, bytes]]:
    """The lines of a run, after checking what `Lines` promises."""
    buffer = run.data.tobytes()
    assert run.position.dtype == run.starts.dtype == run.ends.dtype == np.int64
    assert (run.starts[1:] == run.ends[:-1] + 1).all()
    assert all(buffer[end : end + 1] == b"\n" for end in run.ends.tolist())
    for at, start, end in zip(run.position.tolist(), run.starts.tolist(), run.ends.tolist(), strict=True):
        yield at, buffer[start:end]


def all_lines(blocks: Iterable[bytes], **options: int) -> tuple[list[tuple[int, bytes]], list[BadRecord]]:
    limits = DecodeLimits(max_record_bytes=options.pop("longest", 1 << 30))
    found, bad = [], []
    for run, problems in lines(blocks, limits, **options):
        found += listed(run)
        bad += problems
    return found, bad


texts = st.lists(
    st.sampled_from(
        [
            b"\n",
            b"\n\n",
            b"\r\n",
            b"a",
            b"bcd",
            b" ",
            b"\t",
            b"\xef\xbb\xbf",
            "\u2028".encode(),
            b"\0",
            b"0123456789" * 3,
        ]
    ),
    max_size=40,
).map(b"".join)


@given(texts, st.integers(1, 50), st.sampled_from([3, 10, 29, 1000]))
@settings(max_examples=400, deadline=None)
def test_lines_agree_with_plain_python(data: bytes, block: int, longest: int) -> None:
    """Whatever the blocks: the lines, their positions, and those too long are what a plain loop finds."""
    found, bad = all_lines(in_blocks(data, block), longest=longest)
    expected, long = oracle(data, longest)
    assert found == expected
    kept = [(each.position, each.length) for each in bad]
    assert kept == long
    assert all(data.startswith(each.head[:1], each.position) for each in bad)


@given(texts, st.lists(st.integers(0, 200), max_size=5), st.integers(1, 50))
@settings(max_examples=300, deadline=None)
def test_slices_share_the_lines_among_them(data: bytes, cuts: list[int], block: int) -> None:
    """Byte ranges that cover a shard give every line to exactly one slice, wherever the cuts fall."""
    places = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    found = []
    for start, end in itertools.pairwise(places):
        before = max(0, start - 1)
        part, _ = all_lines(in_blocks(data[before:], block), start=start, end=end)
        assert all(start <= at < end or at == 3 for at, _ in part)
        found += part
    assert found == oracle(data)[0]


def test_a_slice_reads_no_further_than_its_last_line() -> None:
    """A slice stops asking for blocks once its last line has ended."""

    def blocks() -> Iterator[bytes]:
        yield b"aaa\nbbb\nc"
        yield b"cc\nddd\n"
        raise AssertionError("read too far")

    assert all_lines(blocks(), start=0, end=9)[0] == [(0, b"aaa"), (4, b"bbb"), (8, b"ccc")]


def test_fault_18_bom_crlf_blank_and_unicode_line_ends() -> None:
    """A BOM at offset 0 is stripped, CR stays with its line, blanks are skipped, U+2028 and NEL end nothing."""
    data = '\ufeff{"a": 1}\r\n\n \t\r\n{"b": "\u2028\x85"}\n\ufeff{"c": 2}'.encode()
    found, bad = all_lines([data])
    assert found == [(3, b'{"a": 1}\r'), (18, '{"b": "\u2028\x85"}'.encode()), (33, '\ufeff{"c": 2}'.encode())]
    assert not bad


def test_fault_14_a_long_line_is_streamed_past() -> None:
    """A 400 MB line between good ones becomes one bad record, in memory bounded by the longest record allowed."""
    limits = DecodeLimits(max_record_bytes=8 << 20, block_bytes=1 << 20)
    size = 400 << 20
    file: Any = shards.Endless(b"x", size, b'"\n{"text": "after"}\n')
    tracemalloc.start()
    try:
        blocks = itertools.chain([b'{"text": "before"}\n'], decompressed(file, limits, compressed_name=False))
        found, bad = [], []
        for run, problems in lines(blocks, limits):
            found += listed(run)
            bad += problems
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [line for _, line in found] == [b'{"text": "before"}', b'{"text": "after"}']
    assert bad == [BadRecord(19, RecordFault.TOO_LONG.value, size + 1, b"x" * 1024)]
    assert found[1][0] == 19 + size + 2
    assert peak < 40 << 20


def test_pick_leaves_lines_adjacent() -> None:
    """Chosen lines come in a buffer of their own, again one after the other, with the positions they had."""
    ((run, _),) = lines([b"a\nbb\n\nccc\ndddd\neeeee\n"], LIMITS)
    keep = np.array([True, False, True, True, False])
    assert list(listed(pick(run, keep))) == [(0, b"a"), (6, b"ccc"), (10, b"dddd")]
    assert list(listed(pick(run, ~keep))) == [(2, b"bb"), (15, b"eeeee")]
    assert not list(listed(pick(run, np.zeros(5, bool))))


# WARC


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
            assert fault_of(lambda size=size: records(data[:size])) in {ShardFault.TRUNCATED, ShardFault.FRAMING}


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


def test_a_long_compressed_shard_stays_small_in_memory() -> None:
    """100 MB of decompressed members pass through with a few blocks in memory."""
    raw = io.BytesIO(gzip.compress(b"0123456789abcdef" * 65_536) * 100)
    tracemalloc.start()
    try:
        limits = DecodeLimits(block_bytes=1 << 20)
        total = sum(map(len, decompressed(raw, limits, compressed_name=True)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == 100 << 20
    assert peak < 8 << 20
