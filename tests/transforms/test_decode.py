"""Decoding: whole streams come out byte for byte, and anything less is refused. Numbers are rows of the fault table."""

import gzip
import io
import itertools
import struct
import time
import tracemalloc
import zlib
from typing import Any

import pytest
import zstandard
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests import shards
from tests.reading import LIMITS, fault_of
from transforms.decode import DecodeLimits, decompressed, sniff
from transforms.errors import BadShard
from transforms.schema import Codec, ShardFault

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
    samples: list[bytes | bytearray | memoryview] = [
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
