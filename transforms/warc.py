"""Decompressed blocks to WARC records, with proof that each ends where it says.

Memory is bounded by `DecodeLimits`, never by the shard. Positions are byte offsets in the decompressed stream.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from transforms.decode import HEAD_BYTES, MAX_HEADERS, DecodeLimits
from transforms.errors import BadShard
from transforms.schema import BadRecord, RecordFault, ShardFault

_VERSION: Final = re.compile(r"WARC/[0-9]+\.[0-9]+")
_LENGTH: Final = re.compile(r"[0-9]{1,18}")


class WarcRecord(NamedTuple):
    """One WARC record.

    Attributes:
      position: Offset of the version line's first byte in the decompressed stream.
      headers: Names in lower case; of a repeated name the first value.
      payload: The record's block, as long as Content-Length says.
    """

    position: int
    headers: dict[str, str]
    payload: bytes


class _Stream:
    """A window on the decompressed stream; `data[0]` lies at `position`."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self.blocks, self.data, self.position = iter(blocks), bytearray(), 0

    def fill(self, size: int) -> bool:
        """Hold at least `size` bytes; False when the stream ends before that."""
        while len(self.data) < size:
            block = next(self.blocks, None)
            if block is None:
                return False
            self.data += block
        return True

    def drop(self, size: int) -> None:
        del self.data[:size]  # constant time: a bytearray moves its start
        self.position += size

    def pass_over(self, size: int) -> int:
        """Drop `size` bytes without holding them; return how many of them the stream did not have."""
        while size and self.fill(1):
            step = min(size, len(self.data))
            self.drop(step)
            size -= step
        return size


def warc_records(
    blocks: Iterable[bytes], limits: DecodeLimits, *, kinds: Sequence[str] | None = None
) -> Iterator[WarcRecord | BadRecord]:
    """Yield records in order; one longer than `max_record_bytes` comes as a `too_long` bad record.

    Content-Length is trusted only as far as the framing agrees: after the block must come CR LF CR LF, and then
    either a version line or the end. (Further line ends between records are passed over.)

    Args:
      blocks: The decompressed stream.
      limits: Bounds the payload that is held.
      kinds: WARC-Type values to yield, in lower case; other records are checked and passed over. None yields all.

    Raises:
      BadShard: From the first record whose frame is wrong; the detail names its position. Nothing after it can be
        told from payload, so nothing after it is read.
    """
    stream = _Stream(blocks)
    while stream.fill(1):
        position = stream.position
        headers, length, header_bytes = _warc_head(stream)
        wanted = kinds is None or headers.get("warc-type", "").lower() in kinds
        total = header_bytes + length
        if wanted and length <= limits.max_record_bytes:
            if len(stream.data) < total and not stream.fill(total):
                raise _cut_record(position, total - len(stream.data))
            payload = bytes(memoryview(stream.data)[header_bytes:total])
            _end_record(stream, position, total)
            yield WarcRecord(position, headers, payload)
            continue
        stream.fill(HEAD_BYTES)
        head = bytes(stream.data[: min(HEAD_BYTES, total)])
        if missing := stream.pass_over(total):
            raise _cut_record(position, missing)
        _end_record(stream, position, 0)
        if wanted:
            yield BadRecord(position, RecordFault.TOO_LONG.value, total, head)


def _warc_head(stream: _Stream) -> tuple[dict[str, str], int, int]:
    """Read a version line and headers; return the headers, the Content-Length and the bytes up to the block."""
    searched = 0
    while (size := stream.data.find(b"\r\n\r\n", max(0, searched - 3), MAX_HEADERS)) < 0:
        searched = len(stream.data)
        if not stream.data.startswith(b"WARC/"[:searched]):
            raise _lost(stream.position, f"expected WARC/, found {bytes(stream.data[:16])!r}")
        if searched >= MAX_HEADERS:
            raise _lost(stream.position, f"no end of the headers in {MAX_HEADERS} bytes")
        if not stream.fill(searched + 1):
            raise BadShard(ShardFault.TRUNCATED.value, -1, f"the record at decompressed byte {stream.position} is cut")
    version, _, block = bytes(stream.data[:size]).decode("utf-8", "replace").partition("\r\n")
    if not _VERSION.fullmatch(version):
        raise _lost(stream.position, f"expected WARC/1.0 or the like, found {version[:32]!r}")
    headers = header_fields(block)
    length = headers.get("content-length", "")
    if not _LENGTH.fullmatch(length):
        raise _lost(stream.position, f"Content-Length is {length!r}")
    return headers, int(length), size + 4


def header_fields(block: str) -> dict[str, str]:
    r"""Parse `Name: value` lines, folded ones too; names in lower case, the first of a repeated name wins.

    >>> header_fields("A: 1\r\nB: 2\r\n  3\r\na: 4")
    {'a': '1', 'b': '2 3'}
    """
    fields: dict[str, str] = {}
    if "\n " in block or "\n\t" in block:
        block = re.sub(r"\r?\n[ \t]+", " ", block)
    for line in block.split("\n"):
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip().lower(), value.strip())
    return fields


def _end_record(stream: _Stream, position: int, size: int) -> None:
    """Use up a record of `size` bytes after proving that it ends there."""
    if stream.data[size : size + 9] == b"\r\n\r\nWARC/":  # nearly always, and then there is nothing to wait for
        stream.drop(size + 4)
        return
    if not stream.fill(size + 4):
        end = bytes(stream.data[size:])
        if b"\r\n\r\n".startswith(end):
            raise _cut_record(position, 4 - len(end))
        raise _lost(position, f"its Content-Length ends before {end!r}")
    end = bytes(stream.data[size : size + 4])
    if end != b"\r\n\r\n":
        raise _lost(position, f"after its Content-Length comes {end!r} in place of two line ends")
    stream.drop(size + 4)
    while stream.fill(1) and stream.data[0] in b"\r\n":
        stream.drop(1)
    stream.fill(5)
    if stream.data and not b"WARC/".startswith(stream.data[:5]):
        raise _lost(position, f"after its end comes {bytes(stream.data[:16])!r} in place of WARC/")


def _cut_record(position: int, missing: int) -> BadShard:
    what = f"the record at decompressed byte {position} lacks its last {missing} bytes"
    return BadShard(ShardFault.TRUNCATED.value, -1, f"{what}: cut, or a wrong Content-Length")


def _lost(position: int, detail: str) -> BadShard:
    return BadShard(ShardFault.FRAMING.value, -1, f"record at decompressed byte {position}: {detail}")
