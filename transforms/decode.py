"""Bytes to decompressed blocks, with proof that nothing is missing.

A shard that was cut, damaged or padded ends in `BadShard`, never in a shorter corpus: every gzip member and every
zstd frame must reach its own end, with the checksums it carries, and nothing may follow the last one. What a format
cannot show (a gzip file cut exactly between two members, a bit flipped in a zstd frame that has no checksum) is left
to the size and checksum of the whole object, for which `on_raw` hands out the raw bytes.

Memory is bounded by `DecodeLimits`, never by the shard.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final, NamedTuple

import zstandard
from isal import isal_zlib

from transforms.errors import BadShard
from transforms.schema import Codec, ShardFault

HEAD_BYTES: Final = 1024  # of a bad record, kept for the quarantine file
_RAW_BYTES: Final = 1 << 20  # a read; object stores answer 1 MiB about as fast as 64 KiB
# isal copies what follows the end of a gzip member. Fed 64 KiB at a time, members of 4 kB ran at 476 MB/s, fed 1 MiB
# at 228; most members of a crawl end within the first 8 KiB.
_FIRST_FEED: Final = 1 << 13
_FEED_BYTES: Final = 1 << 16
_BOMB_FLOOR: Final = 64 << 20  # ratios say little about small shards: 1 MB of spaces is no attack
_ZSTD_BLOCKS: Final = 8  # blocks of at most 128 KiB decoded by one call: bounds its output to 1 MiB
_MAX_DICTIONARY: Final = 16 << 20
MAX_HEADERS: Final = 1 << 20  # of one WARC record or gzip member; real ones are below 4 KiB
_GzipError: Final[type[Exception]] = isal_zlib.error  # type: ignore[assignment]  # the stub has an instance

_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_ZSTD_DICTIONARY: Final = b"\x37\xa4\x30\xec"
_SKIPPABLE: Final = b"\x2a\x4d\x18"  # bytes 2 to 4; the first is 0x50 to 0x5f
_WARC_DICTIONARY: Final = 0x5D  # https://iipc.github.io/warc-specifications/specifications/warc-zstd/
_UNREADABLE: Final = {b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x04\x22\x4d\x18": "lz4", b"PK\x03\x04": "zip"}


@dataclass(frozen=True, kw_only=True)
class DecodeLimits:
    """What one shard may ask of a worker.

    Attributes:
      max_record_bytes: A longer record goes to quarantine and is streamed past, never held.
      max_expansion: Decompressed over compressed bytes, looked at once 64 MiB have been decompressed.
      max_window_bytes: Of a zstd frame; `zstd --long=31` needs 2 GiB.
      block_bytes: About the size of a decompressed block.
    """

    max_record_bytes: int = 64 << 20
    max_expansion: int = 1000
    max_window_bytes: int = 128 << 20
    block_bytes: int = 4 << 20


class _Piece(NamedTuple):
    """Decompressed bytes and the compressed offset up to which the input was used for them."""

    offset: int
    data: bytes


def sniff(head: bytes) -> Codec:
    """Return the codec that the first four bytes show; names are not asked."""
    if head.startswith(_GZIP):
        return Codec.GZIP
    if head.startswith(_ZSTD) or _is_skippable(head):
        return Codec.ZSTD
    return Codec.NONE


def decompressed(
    file: BinaryIO,
    limits: DecodeLimits,
    *,
    compressed_name: bool,
    on_raw: Callable[[bytes], None] | None = None,
) -> Iterator[bytes]:
    """Yield the decompressed stream in blocks of about `limits.block_bytes`.

    Reads from where `file` stands to its end. Blocks come as they are decoded, so a consumer must discard what it
    made of them when the iteration ends in an error.

    Args:
      file: Open for reading; may return fewer bytes than asked for, and none only at its end.
      limits: Bounds on window, expansion and block size.
      compressed_name: The name says gzip or zstd, so an empty object or one that looks like neither is damaged.
      on_raw: Sees every raw byte exactly once and in order, when the iteration runs to its end.

    Raises:
      BadShard: As soon as the stream is known not to be whole.
    """
    raw = _Raw(file, limits, on_raw)
    raw.fill(HEAD_BYTES)
    codec = sniff(raw.data)
    if codec is Codec.NONE:
        _check_plain(raw.data, compressed_name=compressed_name)
        pieces = raw.pieces(limits.block_bytes)
    elif codec is Codec.GZIP:
        pieces = _gunzip(raw, limits)
    else:
        pieces = _unzstd(raw, limits)
    return _gather(_unexploded(pieces, limits), limits.block_bytes)


class _Raw:
    """Raw bytes in order: what was read but not used is `data[at:]`, and `data[0]` lies at `base` in the shard."""

    def __init__(self, file: BinaryIO, limits: DecodeLimits, on_raw: Callable[[bytes], None] | None) -> None:
        self.file, self.on_raw = file, on_raw
        self.read_bytes = min(_RAW_BYTES, limits.block_bytes)
        self.data, self.at, self.base = b"", 0, 0

    @property
    def offset(self) -> int:
        """Offset in the shard of the next byte to be used."""
        return self.base + self.at

    def read(self, size: int) -> bytes:
        block = self.file.read(size)
        if block and self.on_raw is not None:
            self.on_raw(block)
        return block

    def fill(self, size: int) -> bool:
        """Make at least `size` unused bytes available; False when the shard ends before that."""
        while len(self.data) - self.at < size:
            block = self.read(max(self.read_bytes, size))
            if not block:
                return False
            self.data, self.base, self.at = self.data[self.at :] + block, self.base + self.at, 0
        return True

    def take(self, size: int) -> bytes:
        """Use up `size` bytes that `fill` has made available."""
        self.at += size
        return self.data[self.at - size : self.at]

    def pieces(self, size: int) -> Iterator[_Piece]:
        """Yield everything not yet used, in reads of at most `size`."""
        rest = self.take(len(self.data) - self.at)
        while rest:
            yield _Piece(self.offset, rest)
            rest = self.read(size)
            self.data, self.base, self.at = b"", self.offset + len(rest), 0


def _check_plain(head: bytes, *, compressed_name: bool) -> None:
    """Refuse codecs that are not read here, and damage at the very start of a compressed shard.

    A name that says compressed over plain text is fine (stores decompress on the way): magic bytes decide.
    """
    for magic, name in _UNREADABLE.items():
        if head.startswith(magic):
            raise BadShard(ShardFault.NOT_THE_FORMAT.value, 0, f"{name} data; accepted are plain, gzip and zstd")
    if not compressed_name:
        return
    if not head:
        raise BadShard(ShardFault.EMPTY.value, 0, "0 bytes where the name says compressed")
    if _GZIP.startswith(head) or _cut_magic(head):
        raise BadShard(ShardFault.TRUNCATED.value, len(head), "ends inside the first magic number")
    if not re.match(rb"(?:\xef\xbb\xbf)?\s*(?:\{|WARC/)", head):
        raise BadShard(
            ShardFault.CORRUPT.value,
            0,
            f"starts with {head[:4].hex()}: not gzip, not zstd, and no plain records either",
        )


def _unexploded(pieces: Iterable[_Piece], limits: DecodeLimits) -> Iterator[bytes]:
    """Pass data on until it has grown past `max_expansion`."""
    total = 0
    for offset, data in pieces:
        total += len(data)
        if total > _BOMB_FLOOR and total > limits.max_expansion * offset:
            raise BadShard(
                ShardFault.BOMB.value,
                offset,
                f"{offset} bytes became {total}: over max_expansion={limits.max_expansion}",
            )
        yield data


def _gather(pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Join small pieces and split large ones, so that blocks hold between `size` and twice that (the last one less)."""
    held: list[bytes] = []
    total = 0
    for piece in pieces:
        held.append(piece)
        total += len(piece)
        if total >= size:
            block = b"".join(held)
            held, total = [], 0
            if len(block) <= 2 * size:
                yield block
            else:
                yield from (block[at : at + size] for at in range(0, len(block), size))
    if total:
        yield b"".join(held)


# gzip


def _gunzip(raw: _Raw, limits: DecodeLimits) -> Iterator[_Piece]:
    """Decode members one after the other; zeros between and after them are padding, as gzip itself reads it."""
    while _next_member(raw):
        yield from _member(raw, limits)


def _next_member(raw: _Raw) -> bool:
    """Move to the next member's magic number; False at a proper end of the shard."""
    start = raw.offset
    while raw.fill(1) and raw.data[raw.at] == 0:
        rest = raw.data[raw.at : raw.at + _FEED_BYTES]
        raw.at += len(rest) - len(rest.lstrip(b"\0"))
    if not raw.fill(1):
        return False
    if raw.fill(2) and raw.data.startswith(_GZIP, raw.at):
        return True
    if raw.data[raw.at :] == _GZIP[:1]:
        raise BadShard(ShardFault.TRUNCATED.value, raw.offset + 1, "ends inside a gzip member's header")
    raise BadShard(
        ShardFault.TRAILING.value, start, f"bytes {raw.data[raw.at : raw.at + 4].hex()} follow the end of a gzip member"
    )


def _member(raw: _Raw, limits: DecodeLimits) -> Iterator[_Piece]:
    """Decode one member; isal checks header, CRC and length, and `eof` proves that it reached the trailer's end."""
    member, start = isal_zlib.decompressobj(31), raw.offset
    most = min(limits.block_bytes, _RAW_BYTES)
    done = pending = False
    feed_bytes = max(_FIRST_FEED, _fill_header(raw))
    while not done:
        if not pending and not raw.fill(1):
            raise BadShard(ShardFault.TRUNCATED.value, raw.offset, f"the gzip member at byte {start} is not closed")
        feed = memoryview(raw.data)[raw.at : raw.at + feed_bytes]
        try:
            data = member.decompress(feed, most)
        except _GzipError as error:
            raise BadShard(ShardFault.CORRUPT.value, raw.offset, f"gzip member at byte {start}: {error}") from error
        done = member.eof
        raw.at += len(feed) - len(member.unused_data if done else member.unconsumed_tail)
        feed_bytes = _FEED_BYTES
        pending = len(data) == most  # isal may hold more output, even when it has used all input
        yield _Piece(raw.offset, data)


def _fill_header(raw: _Raw) -> int:
    """Make a member's whole header available, and return its size.

    isal 1.9 misreads headers with several optional fields, or with a checksum, that it is fed in more than one call.
    """
    size = _need(raw, 10)
    flags = raw.data[raw.at + 3]
    if flags & 4:  # extra field
        _need(raw, size + 2)
        size += 2 + int.from_bytes(raw.data[raw.at + size : raw.at + size + 2], "little")
    for name_or_comment in (8, 16):
        if flags & name_or_comment:
            while (zero := raw.data.find(0, raw.at + size)) < 0:
                if _need(raw, len(raw.data) - raw.at + 1) > MAX_HEADERS:
                    raise BadShard(ShardFault.CORRUPT.value, raw.offset, "gzip header without an end")
            size = zero + 1 - raw.at
    return _need(raw, size + (flags & 2))


def _need(raw: _Raw, size: int) -> int:
    """Make `size` bytes of a member's header available, and return that number."""
    if not raw.fill(size):
        end = raw.base + len(raw.data)
        raise BadShard(ShardFault.TRUNCATED.value, end, f"header of the gzip member at byte {raw.offset} is cut")
    return size


# zstd: https://datatracker.ietf.org/doc/html/rfc8878


def _is_skippable(magic: bytes) -> bool:
    return len(magic) >= 4 and magic[0] & 0xF0 == 0x50 and magic[1:4] == _SKIPPABLE


def _cut_magic(rest: bytes) -> bool:
    """Tell whether fewer than four bytes may begin a frame."""
    return _ZSTD.startswith(rest) or (rest[0] & 0xF0 == 0x50 and _SKIPPABLE.startswith(rest[1:]))


def _unzstd(raw: _Raw, limits: DecodeLimits) -> Iterator[_Piece]:
    """Decode frames one after the other.

    The frames' own structure (blocks, checksum, last-block bit) is walked here, and the decoder must reach its end
    exactly where the walk does: its streaming reader alone takes a cut file for a short one. The walk also bounds what
    one call may produce; 64 KiB of run-length blocks can stand for 2 GiB.
    """
    decoder = zstandard.ZstdDecompressor(max_window_size=limits.max_window_bytes)
    while raw.fill(1):
        start = raw.offset
        if not raw.fill(4):
            rest = raw.data[raw.at :]
            fault = ShardFault.TRUNCATED if _cut_magic(rest) else ShardFault.TRAILING
            raise BadShard(fault.value, start, f"bytes {rest.hex()} follow the end of a zstd frame")
        if _is_skippable(raw.data[raw.at : raw.at + 4]):
            dictionary = _skip_frame(raw)
            if start == 0 and dictionary is not None:
                decoder = _decoder_with(dictionary, limits)
        elif raw.data.startswith(_ZSTD, raw.at):
            yield from _frame(raw, decoder, limits)
        else:
            found = raw.data[raw.at : raw.at + 4].hex()
            raise BadShard(ShardFault.TRAILING.value, start, f"bytes {found} follow the end of a zstd frame")


def _skip_frame(raw: _Raw) -> bytes | None:
    """Pass over a skippable frame; return its content when it may be the dictionary of a .warc.zst file."""
    start = raw.offset
    if not raw.fill(8):
        raise BadShard(ShardFault.TRUNCATED.value, raw.base + len(raw.data), "ends inside a skippable frame's header")
    header = raw.take(8)
    size = int.from_bytes(header[4:], "little")
    keep = header[0] == _WARC_DICTIONARY and start == 0 and size <= _MAX_DICTIONARY
    if keep and raw.fill(size):
        return raw.take(size)
    while size:
        if not raw.fill(1):
            raise BadShard(
                ShardFault.TRUNCATED.value, raw.offset, f"skippable frame that starts at byte {start} is cut"
            )
        size -= len(raw.take(min(size, len(raw.data) - raw.at)))
    return None


def _decoder_with(content: bytes, limits: DecodeLimits) -> zstandard.ZstdDecompressor:
    """Return a decoder for the dictionary in a leading skippable frame, which may itself be compressed."""
    limit = limits.max_window_bytes
    try:
        if content.startswith(_ZSTD):
            reader = zstandard.ZstdDecompressor(max_window_size=limit).stream_reader(content)
            content = reader.read(_MAX_DICTIONARY)
        if not content.startswith(_ZSTD_DICTIONARY):
            return zstandard.ZstdDecompressor(max_window_size=limit)  # someone else's skippable frame
        return zstandard.ZstdDecompressor(max_window_size=limit, dict_data=zstandard.ZstdCompressionDict(content))
    except zstandard.ZstdError as error:
        raise BadShard(ShardFault.CORRUPT.value, 0, f"dictionary in the first frame: {error}") from error


def _frame(raw: _Raw, decoder: zstandard.ZstdDecompressor, limits: DecodeLimits) -> Iterator[_Piece]:
    """Decode one frame, a few blocks at a time."""
    start = raw.offset
    header, checksum_bytes = _frame_header(raw, limits)
    frame = decoder.decompressobj()
    feed: bytes = header
    last = False
    while True:
        before = raw.offset - len(feed)
        try:
            data = frame.decompress(feed)
        except zstandard.ZstdError as error:
            raise BadShard(ShardFault.CORRUPT.value, before, f"zstd frame at byte {start}: {error}") from error
        if frame.eof != last or frame.unused_data:
            raise BadShard(ShardFault.CORRUPT.value, before, f"zstd frame at byte {start} ends at the wrong block")
        if data:
            yield _Piece(raw.offset, data)
        if last:
            return
        feed, last = _take_blocks(raw, start, checksum_bytes)


def _frame_header(raw: _Raw, limits: DecodeLimits) -> tuple[bytes, int]:
    """Take a frame's header; return it and the size of the checksum that the frame will end with."""
    start = raw.offset
    if not raw.fill(5):
        raise _cut_frame(raw, start)
    descriptor = raw.data[raw.at + 4]
    single = descriptor >> 5 & 1
    dictionary_bytes = (0, 1, 2, 4)[descriptor & 3]
    content_bytes = (single, 2, 4, 8)[descriptor >> 6]
    size = 5 + (1 - single) + dictionary_bytes + content_bytes
    if not raw.fill(size):
        raise _cut_frame(raw, start)
    header = raw.take(size)
    if single:  # the window is the whole content
        window = int.from_bytes(header[size - content_bytes :], "little") + (256 if content_bytes == 2 else 0)
    else:
        window = (8 + (header[5] & 7)) << (header[5] >> 3) + 7
    if window > limits.max_window_bytes:
        rule = f"needs max_window_bytes={window}, and {limits.max_window_bytes} is allowed"
        raise BadShard(ShardFault.WINDOW.value, start, f"zstd frame {rule}; compress it again without --long")
    return header, 4 * (descriptor >> 2 & 1)


def _take_blocks(raw: _Raw, start: int, checksum_bytes: int) -> tuple[bytes, bool]:
    """Take whole blocks, and the checksum after the last one; return the bytes and whether the last is among them."""
    size = 0
    for count in range(_ZSTD_BLOCKS):
        if count and len(raw.data) - raw.at < size + 3:
            break
        if not raw.fill(size + 3):
            raise _cut_frame(raw, start)
        head = int.from_bytes(raw.data[raw.at + size : raw.at + size + 3], "little")
        last, kind = head & 1, head >> 1 & 3
        block_bytes = 3 + (1 if kind == 1 else head >> 3) + (checksum_bytes if last else 0)
        if count and len(raw.data) - raw.at < size + block_bytes:
            break
        if not raw.fill(size + block_bytes):
            raise _cut_frame(raw, start)
        size += block_bytes
        if last:
            return raw.take(size), True
    return raw.take(size), False


def _cut_frame(raw: _Raw, start: int) -> BadShard:
    end = raw.base + len(raw.data)
    return BadShard(ShardFault.TRUNCATED.value, end, f"the zstd frame that starts at byte {start} is not closed")
