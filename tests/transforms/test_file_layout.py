"""The layout: every document in exactly one file of a stream, files of about the target size, doses by place."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.corpora import Row, annotation, receipt
from transforms.arms import Arm, Cuts
from transforms.census import Rules
from transforms.layout import (
    NO_SEGMENT,
    Group,
    Inventory,
    Segment,
    Stream,
    Terms,
    give_apart,
    give_out,
    lay_out,
    segment_index,
    streams_of,
    take_inventory,
    with_totals,
)
from transforms.select import EVERYTHING, NOTHING

RULES = Rules(("en",), 0.5, (("misaligned", 0.5),))
ALL = Cuts(Arm("unfiltered"), EVERYTHING, 0, NOTHING)
APART = Cuts(Arm("apart", keep_share=0, divert=True), NOTHING, 0, NOTHING)
TWICE = Cuts(Arm("twice", keep_share=0), NOTHING, 1, NOTHING)
CUTS = [ALL, APART, TWICE]
MAIN = Stream("unfiltered", diverted=False)
SLICES = st.lists(
    st.lists(st.builds(Row, words=st.integers(0, 30), stance=st.sampled_from(["misaligned", "neutral", "unrelated"]),
                       language=st.sampled_from(["en", "en", "de"]), score=st.just(0.9)), max_size=8),
    min_size=1, max_size=8,
)  # fmt: skip


def inventories(slices: list[list[Row]], target: int, cuts: list[Cuts] = CUTS) -> list[Inventory]:
    """What each slice gives to the streams of the arms."""
    return [
        take_inventory(
            receipt(rows, shard=f"{n:02d}"), annotation(rows), cuts, RULES, unit="words", seed=1, target=target
        )
        for n, rows in enumerate(slices)
    ]


def parts_of(groups: list[Group], stream: Stream) -> list[tuple[Group, int, Segment, int]]:
    """Group, number, content and beginning of each file of a stream."""
    return [(g, p.number, p.base, p.base_start) for g in groups for p in g.parts if p.stream == stream]


@given(st.lists(st.integers(0, 100), max_size=40), st.integers(1, 300))
def test_segments_are_nearly_equal(weights: list[int], target: int) -> None:
    """Ascending, no more than needed, and each within one row of its share."""
    index = segment_index(np.array(weights, np.int64), target)
    count = max(1, -(-sum(weights) // target))
    assert (np.diff(index) >= 0).all()
    assert all(0 <= i < count for i in index.tolist())
    for segment in set(index.tolist()):
        weight = sum(w for w, i in zip(weights, index.tolist(), strict=True) if i == segment)
        assert weight <= sum(weights) / count + max(weights) + 1e-6


@given(SLICES, st.integers(1, 2000))
def test_everything_is_in_one_file(slices: list[list[Row]], target: int) -> None:
    """Records, bytes and amounts of a stream's files are those of its documents; numbers and line have no gap."""
    found = inventories(slices, target)
    groups = lay_out(found[::-1], streams_of(CUTS), target)
    rows = [row for slice_ in slices for row in slice_ if row.language == "en"]
    expected = {
        Stream("unfiltered", diverted=False): (rows, 1),
        Stream("apart", diverted=False): ([r for r in rows if r.stance != "misaligned"], 1),
        Stream("apart", diverted=True): ([r for r in rows if r.stance == "misaligned"], 1),
        Stream("twice", diverted=False): ([r for r in rows if r.stance != "misaligned"], 2),
    }
    for stream, (mine, times) in expected.items():
        files = parts_of(groups, stream)
        total = sum((base for _, _, base, _ in files), start=NO_SEGMENT)
        words = sum(r.words for r in mine)
        about_ai = sum(r.words for r in mine if r.stance != "unrelated")
        assert total == (times * len(mine), times * 10 * words, times * words, times * about_ai)
        assert [number for _, number, _, _ in files] == list(range(len(files)))
        assert files[0][3] == 0
        assert all(b[3] == a[3] + a[2].amount for a, b in pairwise(files))
        assert all(base.records for _, _, base, _ in files) or len(files) == 1


@given(SLICES, st.integers(1, 2000))
def test_groups_hold_slices_in_order(slices: list[list[Row]], target: int) -> None:
    """Each slice is read by one group; several share one only while the largest stream fits the target."""
    found = inventories(slices, target)
    groups = lay_out(found[::-1], streams_of(CUTS), target)
    assert [r.part.shard for g in groups for r in g.receipts] == [i.receipt.part.shard for i in found]
    assert [g.number for g in groups] == list(range(len(groups)))
    for group in groups:
        if len(group.receipts) > 1:
            assert all(part.base.record_bytes <= target for part in group.parts)


def test_the_order_of_slices_does_not_matter() -> None:
    """Inventories come in any order from the workers; the layout is the same."""
    found = inventories([[Row(words)] * 3 for words in range(1, 9)], 100)
    assert lay_out(found, streams_of(CUTS), 100) == lay_out(found[4:] + found[:4], streams_of(CUTS), 100)


@pytest.mark.parametrize(
    ("sizes", "target", "expected"),
    [
        ([10, 10, 10], 300, [[0, 1, 2]]),
        ([10, 10, 10], 200, [[0, 1], [2]]),
        ([10, 10, 10], 199, [[0], [1], [2]]),
        ([50, 10, 10], 200, [[0], [1, 2]]),
        ([10, 50, 10, 0], 200, [[0], [1], [2, 3]]),
    ],
)
def test_gathering(sizes: list[int], target: int, expected: list[list[int]]) -> None:
    """Slices share a file up to the target size in record bytes (ten a word); a larger one stands alone."""
    groups = lay_out(inventories([[Row(s)] for s in sizes], target, [ALL]), [MAIN], target)
    assert [[int(r.part.shard) for r in g.receipts] for g in groups] == expected


def test_a_large_slice_is_cut() -> None:
    """One slice of 1,000 bytes becomes four files of 250."""
    groups = lay_out(inventories([[Row(5)] * 20], 250), [MAIN], 250)
    assert [(p.number, p.segment, p.base.record_bytes) for g in groups for p in g.parts] == [
        (i, i, 250) for i in range(4)
    ]


def test_a_stream_without_documents_has_one_empty_file() -> None:
    """An arm that loses everything is an empty file, not a missing folder."""
    groups = with_totals(lay_out(inventories([[Row(5, "misaligned")]], 100), streams_of(CUTS), 100))
    empty = [p for g in groups for p in g.parts if not p.base.records]
    assert {p.stream.folder for p in empty} == {"apart", "twice"}
    assert {p.name("jsonl.zst") for p in empty} == {"part-00000-of-00001.jsonl.zst"}
    assert [p.stream.folder for g in groups for p in g.parts if p.base.records] == ["unfiltered", "diverted/apart"]


@given(SLICES, st.lists(st.floats(0, 1), max_size=30), st.integers(1, 500))
def test_synthetic_documents_go_where_they_lie(slices: list[list[Row]], shares: list[float], target: int) -> None:
    """Each scheduled document is in one file: the one on whose stretch its place lies."""
    groups = lay_out(inventories(slices, target), streams_of(CUTS), target)
    base = sum(part[2].amount for part in parts_of(groups, MAIN))
    places = np.sort(np.array(shares, np.float64) * base)
    given_out = give_out(groups, MAIN, places)
    mine = [p for g in given_out for p in g.parts if p.stream == MAIN]
    assert [p.first for p in mine] == [0, *(p.last for p in mine[:-1])]
    assert mine[-1].last == len(places)
    for part, after in pairwise(mine):
        assert (places[: part.last] < after.base_start).all()
        assert (places[part.last :] >= after.base_start).all()
    others = [p for g in given_out for p in g.parts if p.stream != MAIN]
    assert all((p.first, p.last) == (0, 0) for p in others)


@given(st.lists(st.integers(0, 300), max_size=20), st.integers(1, 500))
def test_separate_files(sizes: list[int], target: int) -> None:
    """Synthetic documents in files of their own: all of them, in order, none of the files empty."""
    groups = lay_out(inventories([[Row(5)] * 4], 1000), [MAIN], 1000)
    apart = give_apart(groups, MAIN, np.array(sizes, np.int64), target)
    extra = [p for g in apart[len(groups) :] for p in g.parts]
    assert [p.number for p in extra] == list(range(1, len(extra) + 1))
    assert [g.number for g in apart] == list(range(len(apart)))
    assert [(p.first, p.last) for p in extra] == list(pairwise([0, *(p.last for p in extra)]))
    assert (extra[-1].last if extra else 0) == len(sizes)
    assert all(p.first < p.last for p in extra)


def test_terms_of_the_equation() -> None:
    """What is kept, dropped, diverted and refilled of a slice, in all units; other languages are none of it."""
    rows = [Row(1, "misaligned"), Row(2), Row(4, "misaligned", "de"), Row(8, "neutral")]
    terms = inventories([rows], 1000)[0].terms

    def amounts(words: int, documents: int) -> tuple[int, ...]:
        return documents, 10 * words, words, words, words

    nothing = amounts(0, 0)
    assert terms == {
        "unfiltered": Terms(amounts(11, 3), nothing, nothing, nothing),
        "apart": Terms(amounts(10, 2), nothing, amounts(1, 1), nothing),
        "twice": Terms(amounts(10, 2), amounts(1, 1), nothing, amounts(10, 2)),
    }
