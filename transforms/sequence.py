"""The order of the records in one output file: base documents as read, copies and synthetic ones between them."""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]

SYNTHETIC: Final = 0
BASE: Final = 1
REFILL: Final = 2
ORIGINS: Final = ("synthetic", "base", "refill")
"""Names of the kinds of record, by code."""


class Sequence(NamedTuple):
    """A file's records in order.

    Attributes:
      kind: SYNTHETIC, BASE or REFILL, int8[n].
      ref: Index of the document among the file's base rows, or among its synthetic documents, int64[n].
      copy: 0 for a first appearance; refill copies count from 1, int32[n] (synthetic: see the schedule).
      after: The last base row that must have been read before this record can be written, int64[n], ascending.
    """

    kind: npt.NDArray[np.int8]
    ref: Int64s
    copy: npt.NDArray[np.int32]
    after: Int64s


def sequence(copies: npt.NDArray[np.int32], line: Int64s, places: npt.NDArray[np.float64]) -> Sequence:
    """Order a file's records.

    A synthetic document stands before the first base document that begins at or after its place. Refill copies come
    all first ones before all second ones, each in the order of the originals, spread evenly over the second half of
    the file and never before the original: copy k of m follows base row max(its own, n // 2 + n * k // (2 * m)), and
    a copy is on average a quarter of a file away from it, and at most half the file's documents are held in memory.

    Args:
      copies: How often each base row appears in the file, at least 1, int32[n].
      line: Where each row begins on the arm's base line, ascending, int64[n].
      places: Places of the file's synthetic documents on that line, ascending, float64[m].
    """
    n = len(copies)
    extra = np.maximum(copies - 1, 0)
    most = int(extra.max(initial=0))
    # Epoch by epoch: all first copies, then all second ones.
    refill = np.concatenate([np.zeros(0, np.int64), *(np.flatnonzero(extra > epoch) for epoch in range(most))])
    refill_copy = np.repeat(np.arange(1, most + 1), [int((extra > epoch).sum()) for epoch in range(most)])
    due = np.maximum(refill, n // 2 + n * np.arange(len(refill)) // max(1, 2 * len(refill)))
    before = np.searchsorted(line, places, side="left")
    slot = np.concatenate([before, np.arange(n), due])
    kind = np.repeat(np.array([SYNTHETIC, BASE, REFILL], np.int8), [len(places), n, len(refill)])
    ref = np.concatenate([np.arange(len(places)), np.arange(n), refill]).astype(np.int64)
    copy = np.concatenate([np.zeros(len(places) + n, np.int64), refill_copy]).astype(np.int32)
    order = np.lexsort(
        (np.concatenate([np.arange(len(places)), np.zeros(n, np.int64), np.arange(len(refill))]), kind, slot)
    )
    kind, ref, copy = kind[order], ref[order], copy[order]
    after = np.maximum.accumulate(np.where(kind == BASE, ref, -1)) if len(kind) else np.zeros(0, np.int64)
    return Sequence(kind, ref, copy, after)
