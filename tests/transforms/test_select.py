"""Exact selection: equal to sorting the world, right to within half a document, blind to slicing."""

import hashlib
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from transforms.select import (
    BUCKETS,
    EVERYTHING,
    NOTHING,
    Candidate,
    Cut,
    SliceKey,
    boundary,
    buckets,
    histogram,
    key_of,
    nearest_prefix,
    priorities,
    selected,
    settle,
)

World = list[tuple[int, int]]  # (priority, amount) of each document, in canonical order

# Few different priorities in few buckets, so that ties and crowded buckets are the rule.
PRIORITIES = st.builds(
    lambda bucket, rest: (bucket << 48) | rest, st.sampled_from([0, 1, 7, BUCKETS - 1]), st.integers(0, 5)
)
WORLDS = st.lists(st.tuples(PRIORITIES | st.integers(0, (1 << 64) - 1), st.integers(0, 50)), max_size=40)


def keys_of(sizes: list[int]) -> list[SliceKey]:
    """Slices in canonical order: two sources, shards with several slices."""
    return [(index // 4, f"shard-{index // 2}", 10 * (index % 2)) for index in range(len(sizes))]


def select(world: World, sizes: list[int], target: int) -> tuple[list[bool], Cut]:
    """Which documents are taken when the world lies in slices of these sizes."""
    edges = np.cumsum([0, *sizes]).tolist()
    slices = [world[a:b] for a, b in pairwise(edges)]
    columns = [(uint64(p for p, _ in s), np.array([a for _, a in s], np.int64)) for s in slices]
    sums = sum((histogram(p, a) for p, a in columns), start=np.zeros(BUCKETS, np.int64))
    bucket, below = boundary(sums, target)
    candidates = [
        Candidate(int(p[row]), key, int(row), int(a[row]))
        for key, (p, a) in zip(keys_of(sizes), columns, strict=True)
        for row in np.flatnonzero(buckets(p) == bucket)
    ]
    cut = settle(bucket, below, candidates[::-1], target)
    taken = [selected(p, key, cut) for key, (p, _) in zip(keys_of(sizes), columns, strict=True)]
    return np.concatenate([np.zeros(0, np.bool_), *taken]).tolist(), cut


def uint64(values: object) -> npt.NDArray[np.uint64]:
    """Priorities as an array."""
    return np.array(list(values), dtype=np.uint64)  # type: ignore[call-overload]


def by_sorting(world: World, target: int) -> list[bool]:
    """The same by sorting the world."""
    order = sorted(range(len(world)), key=lambda i: (world[i][0], i))
    if target >= sum(a for _, a in world):
        return [target > 0] * len(world)
    taken, before = [], 0
    for index in order:
        after = before + world[index][1]
        if after >= target:
            taken += [index] if after - target < target - before else []
            break
        taken.append(index)
        before = after
    return [index in taken for index in range(len(world))]


@st.composite
def cases(draw: st.DrawFn) -> tuple[World, list[int], list[int], int]:
    """A world, two ways of slicing it, and a target."""
    world = draw(WORLDS)
    target = draw(st.integers(-1, sum(a for _, a in world) + 5))

    def slicing() -> list[int]:
        cuts = sorted(draw(st.lists(st.integers(0, len(world)), max_size=6)))
        return [b - a for a, b in pairwise([0, *cuts, len(world)])]

    return world, slicing(), slicing(), target


@given(cases())
def test_selection_is_that_of_sorting_the_world(case: tuple[World, list[int], list[int], int]) -> None:
    """Histograms, one bucket and a cut take what sorting by (priority, slice, row) takes."""
    world, sizes, _, target = case
    assert select(world, sizes, target)[0] == by_sorting(world, target)


@given(cases())
def test_selection_does_not_depend_on_slices(case: tuple[World, list[int], list[int], int]) -> None:
    """However the same documents are cut into slices, the same are taken."""
    world, one, other, target = case
    assert select(world, one, target)[0] == select(world, other, target)[0]


@given(cases())
def test_selection_is_within_half_a_document(case: tuple[World, list[int], list[int], int]) -> None:
    """What is taken misses a target that can be met by at most half of the largest document."""
    world, sizes, _, target = case
    total = sum(a for _, a in world)
    taken, _ = select(world, sizes, target)
    got = sum(a for (_, a), t in zip(world, taken, strict=True) if t)
    assert 2 * abs(got - min(max(target, 0), total)) <= max((a for _, a in world), default=0)


@given(cases(), st.integers(0, 30))
def test_larger_targets_take_all_of_smaller_ones(case: tuple[World, list[int], list[int], int], more: int) -> None:
    """A document taken for a target is taken for every larger one: arms are nested."""
    world, sizes, _, target = case
    small, large = select(world, sizes, target)[0], select(world, sizes, target + more)[0]
    assert all(b for a, b in zip(small, large, strict=True) if a)


@given(st.lists(st.integers(0, 100), max_size=20), st.integers(0, 1000))
def test_nearest_prefix(amounts: list[int], target: int) -> None:
    """No other number of first amounts comes nearer to the target; of two equally near, the smaller sum."""
    sums = [sum(amounts[:n]) for n in range(len(amounts) + 1)]
    got = sums[nearest_prefix(np.array(amounts, np.int64), target)]
    assert got == min(sums, key=lambda s: (abs(s - target), s))


def test_priority_is_a_keyed_hash() -> None:
    """XXH64 of the digest's eight bytes, keyed by BLAKE2b of seed and purpose, as anyone can recompute."""
    digest = xxhash.xxh64_intdigest(b"a text")
    key = int.from_bytes(hashlib.blake2b(b"7\x1fdrop", digest_size=8).digest(), "little")
    assert key_of(7, "drop") == key
    expected = xxhash.xxh64_intdigest(digest.to_bytes(8, "little"), seed=key)
    assert priorities(uint64([digest]), 7, "drop").tolist() == [expected]


def test_purposes_and_seeds_give_other_orders() -> None:
    """What is dropped says nothing of what is repeated, and another seed is another sample."""
    digests = np.arange(1000, dtype=np.uint64)
    orders = [np.argsort(priorities(digests, s, p)).tolist() for s, p in ((1, "drop"), (1, "refill"), (2, "drop"))]
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_priorities_are_spread_evenly() -> None:
    """A tenth of the priorities lies below a tenth of the range, also for digests that are near each other."""
    priority = priorities(np.arange(100_000, dtype=np.uint64), 0, "drop")
    assert float((priority < np.uint64((1 << 64) // 10)).mean()) == pytest.approx(0.1, abs=0.005)


def test_histogram_is_exact() -> None:
    """Sums past 2**53, where floats would round."""
    sums = histogram(uint64([1 << 48, (1 << 48) + 5, (1 << 64) - 1]), np.array([1 << 53, 1, 3], np.int64))
    assert (sums[1], sums[BUCKETS - 1], sums.sum()) == ((1 << 53) + 1, 3, (1 << 53) + 4)


def test_boundary() -> None:
    """The bucket in which the sum reaches the target, and what lies before it; ends at both ends."""
    sums = np.zeros(BUCKETS, np.int64)
    sums[[3, 9]] = 10, 5
    assert [boundary(sums, target) for target in (-1, 0, 1, 10, 11, 14, 15, 16)] == [
        (-1, 0), (-1, 0), (3, 0), (3, 0), (9, 10), (9, 10), (BUCKETS, 15), (BUCKETS, 15),
    ]  # fmt: skip


def test_nothing_and_everything() -> None:
    """No target takes nothing, one of all takes everything, documents without amount and of any priority included."""
    priority = uint64([0, 1 << 63, (1 << 64) - 1])
    assert settle(-1, 0, [], 0) == NOTHING
    assert settle(BUCKETS, 15, [], 15) == EVERYTHING
    assert selected(priority, (0, "a", 0), NOTHING).tolist() == [False] * 3
    assert selected(priority, (0, "a", 0), EVERYTHING).tolist() == [True] * 3


def test_equal_texts_are_told_apart_by_place() -> None:
    """Ten copies of one text have one priority: the first ones in canonical order are taken."""
    world = [(5 << 48, 10)] * 10
    assert select(world, [4, 3, 3], 50)[0] == [True] * 5 + [False] * 5
