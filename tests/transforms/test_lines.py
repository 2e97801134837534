"""Lines: all of them at their places, whatever the blocks and slices. Numbers are rows of the fault table."""

import itertools
import tracemalloc
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import shards
from tests.reading import LIMITS, in_blocks
from transforms.decode import DecodeLimits, decompressed
from transforms.lines import Lines, lines, pick
from transforms.schema import BadRecord, RecordFault


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
    found: list[tuple[int, bytes]] = []
    bad: list[BadRecord] = []
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
        found: list[tuple[int, bytes]] = []
        bad: list[BadRecord] = []
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
