"""Exact selection by amount: which documents make up a target, whatever the order in which they are met.

A document's priority is a keyed 64-bit hash of its text's digest: XXH64 of the eight digest bytes with a key made
from the build's seed and the purpose. Documents are taken in the order of (priority, slice, row) up to the one with
which the running sum of their amounts reaches the target, and that one too if the sum is nearer to the target with it
than without. So the result is right to within half of a document and does not depend on workers, bundles, retries,
shard sizes or formats. A target of all or more takes everything, one of nothing takes nothing.

The world is never sorted: amounts are added up over the top 16 bits of the priority (`histogram`), the bucket in
which the running sum crosses the target is found (`boundary`), and only that bucket's documents are put in order
(`settle`).
"""

import hashlib
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from classifiers import kernel

BUCKET_BITS: Final = 16
BUCKETS: Final = 1 << BUCKET_BITS

UInt64s = npt.NDArray[np.uint64]
Int64s = npt.NDArray[np.int64]
SliceKey = tuple[int, str, int]


class Cut(NamedTuple):
    """The last document taken; all documents with (priority, slice, row) up to it are taken, it included.

    A priority of -1 takes nothing, one of 2**64 takes everything.
    """

    priority: int
    slice_key: SliceKey
    row: int


NOTHING: Final = Cut(-1, (0, "", 0), 0)
EVERYTHING: Final = Cut(1 << 64, (0, "", 0), 0)


class Candidate(NamedTuple):
    """A document of a boundary bucket."""

    priority: int
    slice_key: SliceKey
    row: int
    amount: int


def key_of(seed: int, purpose: str) -> int:
    """The 64-bit key of a purpose ("drop", "refill", ...); the same for every arm, so that arms are nested."""
    return int.from_bytes(hashlib.blake2b(f"{seed}\x1f{purpose}".encode(), digest_size=8).digest(), "little")


def priorities(digests: UInt64s, seed: int, purpose: str) -> UInt64s:
    """Priorities of documents with these text digests, uint64[n]; lower is taken first."""
    return kernel.mix64(digests, key_of(seed, purpose))


def buckets(priority: UInt64s) -> Int64s:
    """The bucket of each priority, its top 16 bits, int64[n]."""
    return (priority >> np.uint64(64 - BUCKET_BITS)).astype(np.int64)


def histogram(priority: UInt64s, amount: Int64s) -> Int64s:
    """The sum of `amount` in each of the 65,536 buckets, exact in int64."""
    sums = np.zeros(BUCKETS, dtype=np.int64)
    np.add.at(sums, buckets(priority), amount)
    return sums


def boundary(sums: Int64s, target: int) -> tuple[int, int]:
    """The bucket in which the running sum reaches `target`, and the sum of all buckets before it.

    Returns (-1, 0) for a target of nothing and (65536, total) for one of all or more: then no bucket needs settling.
    """
    running = np.cumsum(sums)
    if target <= 0:
        return -1, 0
    if target >= int(running[-1]):
        return BUCKETS, int(running[-1])
    bucket = int(np.searchsorted(running, target, side="left"))
    return bucket, int(running[bucket] - sums[bucket])


def settle(bucket: int, below: int, candidates: Sequence[Candidate], target: int) -> Cut:
    """The exact cut, from `boundary`'s answer and all documents of that bucket, in any order.

    The running sum ends as near to `target` as it can; of two equally near, the smaller.
    """
    if bucket < 0:
        return NOTHING
    if bucket >= BUCKETS:
        return EVERYTHING
    ordered = sorted(candidates)
    taken = nearest_prefix(np.array([c.amount for c in ordered], np.int64), target - below)
    if taken:
        last = ordered[taken - 1]
        return Cut(last.priority, last.slice_key, last.row)
    return Cut((bucket << (64 - BUCKET_BITS)) - 1, (1 << 62, "", 0), 0) if bucket else NOTHING


def selected(priority: UInt64s, slice_key: SliceKey, cut: Cut) -> npt.NDArray[np.bool_]:
    """Which rows of one slice, in row order, lie at or before the cut, bool[n]."""
    if cut.priority < 0 or cut.priority >= 1 << 64:
        return np.full(len(priority), cut.priority >= 0)
    limit = np.uint64(cut.priority)
    chosen: npt.NDArray[np.bool_] = priority < limit
    ties = np.flatnonzero(priority == limit)
    if len(ties):
        chosen[ties] = [(slice_key, int(row)) <= (cut.slice_key, cut.row) for row in ties]
    return chosen


def nearest_prefix(amounts: Int64s, target: int) -> int:
    """How many of the first amounts to take: up to the one that reaches `target`, and it where that is nearer.

    Of two sums equally near, the smaller; all amounts where even their sum is less than the target.
    """
    sums = np.cumsum(amounts, dtype=np.int64)
    reached = int(np.searchsorted(sums, target, side="left"))
    if reached == len(sums):
        return reached
    before = int(sums[reached - 1]) if reached else 0
    return reached + int(sums[reached] - target < target - before)
