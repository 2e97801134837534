"""Decompressed blocks to lines, and the lines of one byte range.

Memory is bounded by `DecodeLimits`, never by the shard. Positions are byte offsets in the decompressed stream.
"""

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from transforms.decode import HEAD_BYTES, DecodeLimits
from transforms.schema import BadRecord, RecordFault

Positions = npt.NDArray[np.int64]

_BOM: Final = b"\xef\xbb\xbf"
_NEWLINE: Final = 10
_BLANK: Final = b" \t\r"


class Lines(NamedTuple):
    """Consecutive lines of a shard, in one buffer.

    Attributes:
      position: Offset of each line's first byte in the decompressed stream.
      data: One contiguous buffer of bytes.
      starts, ends: Of each line in `data`, without its newline; `data[ends[i]]` is that newline (supplied where the
        shard's last line has none), and the next line starts right after it: `data[starts[i] : ends[j] + 1]` holds
        lines i to j and nothing else. A carriage return before the newline belongs to the line.
    """

    position: Positions
    data: npt.NDArray[np.uint8]
    starts: Positions
    ends: Positions


def lines(
    blocks: Iterable[bytes], limits: DecodeLimits, *, start: int = 0, end: int = -1
) -> Iterator[tuple[Lines, list[BadRecord]]]:
    """Yield the lines whose first byte lies in [start, end), and those of them that are too long to hold.

    A byte-order mark at position 0 is stripped: the first line then has position 3. Blank lines (JSON white space
    only) are left out, and positions stay true. Only LF ends a line.

    Args:
      blocks: The stream from byte `max(0, start - 1)` on; read no further than the last line's end.
      limits: Lines of more than `max_record_bytes` become `too_long` bad records in bounded memory.
      start, end: Decompressed offsets; an end of -1 is the end of the stream.
    """
    for found in _whole_lines(blocks, limits.max_record_bytes, start, end):
        if isinstance(found, BadRecord):
            yield _no_lines(), [found]
        else:
            yield from _split(*found, limits, end)


def _whole_lines(
    blocks: Iterable[bytes], longest: int, start: int, end: int
) -> Iterator[tuple[bytes, int] | BadRecord]:
    """Cut blocks after a newline each; yields bytes with the position of the first, or a line too long to hold."""
    at = max(0, start - 1)  # position of the first byte that is held, or else of the block's first byte
    held: list[bytes] = []  # the beginning of a line, and its size
    size = 0
    passing: BadRecord | None = BadRecord(-1, "", 0, b"") if start else None  # a line that is being streamed past
    for block in blocks:
        rest = block
        if passing is not None:
            newline = block.find(b"\n")
            passing = passing._replace(length=passing.length + (newline if newline >= 0 else len(block)))
            at += newline + 1 if newline >= 0 else len(block)
            if newline < 0:
                continue
            if passing.position >= 0:  # else it belongs to the slice before
                yield passing
            rest, passing = block[newline + 1 :], None
        cut = rest.rfind(b"\n") + 1
        if cut and not 0 <= end <= at:
            yield b"".join([*held, rest[:cut]]), at
            at, held, size = at + size + cut, [], 0
        if 0 <= end <= at:
            return
        held.append(rest[cut:])
        size += len(rest) - cut
        if size > longest + len(_BOM):
            passing = _too_long(b"".join(held), at)
            at, held, size = at + size, [], 0
    if passing is not None and passing.position >= 0:
        yield passing
    if size:
        yield b"".join([*held, b"\n"]), at


def pick(run: Lines, keep: npt.NDArray[np.bool_]) -> Lines:
    """Return the lines for which `keep` is true, in a buffer that holds nothing else."""
    if keep.all():
        return run
    chosen = np.flatnonzero(keep)
    if not len(chosen):
        return _no_lines()
    gaps = np.flatnonzero(np.diff(chosen) != 1)
    firsts = run.starts[chosen[np.concatenate(([0], gaps + 1))]]
    lasts = run.ends[chosen[np.concatenate((gaps, [len(chosen) - 1]))]]
    view = run.data.data
    data = b"".join([view[a : b + 1] for a, b in zip(firsts.tolist(), lasts.tolist(), strict=True)])
    sizes = run.ends[chosen] - run.starts[chosen]
    ends = np.cumsum(sizes + 1) - 1
    return Lines(run.position[chosen], np.frombuffer(data, np.uint8), ends - sizes, ends)


def _no_lines() -> Lines:
    none = np.zeros(0, np.int64)
    return Lines(none, np.zeros(0, np.uint8), none, none)


def _too_long(line: bytes, position: int) -> BadRecord:
    bom = len(_BOM) if position == 0 and line.startswith(_BOM) else 0
    return BadRecord(position + bom, RecordFault.TOO_LONG.value, len(line) - bom, line[bom : bom + HEAD_BYTES])


def _split(data: bytes, at: int, limits: DecodeLimits, end: int) -> Iterator[tuple[Lines, list[BadRecord]]]:
    """Split whole lines that begin at position `at`; yields one item, or none where nothing but blanks is left."""
    buffer = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(buffer == _NEWLINE)
    starts = np.concatenate((np.zeros(1, np.int64), ends[:-1] + 1))
    ours = at + starts < (end if end >= 0 else at + len(data))
    if at == 0 and data.startswith(_BOM):
        starts[0] = len(_BOM)
    sizes = ends - starts
    keep = ours & (sizes > 0)
    for i in np.flatnonzero(keep & np.isin(buffer[starts], np.frombuffer(_BLANK, np.uint8))).tolist():
        keep[i] = bool(data[starts[i] : ends[i]].strip(_BLANK))
    bad = []
    for i in np.flatnonzero(keep & (sizes > limits.max_record_bytes)).tolist():
        head = data[starts[i] : min(ends[i], starts[i] + HEAD_BYTES)]
        bad.append(BadRecord(at + int(starts[i]), RecordFault.TOO_LONG.value, int(sizes[i]), head))
        keep[i] = False
    run = pick(Lines(at + starts, buffer, starts, ends), keep)
    if len(run.position) or bad:
        yield run, bad
