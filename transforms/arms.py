"""What each arm does with a document: how many copies of it stay, and whether it is diverted.

The same pure function decides for the inventory and for the mix, so both see the same corpus.
"""

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms.census import MISALIGNED, Census, Rules, amounts_in, stances, stays
from transforms.errors import MixShortfall
from transforms.schema import UNITS, Slice
from transforms.select import (
    BUCKET_BITS,
    BUCKETS,
    EVERYTHING,
    NOTHING,
    Candidate,
    Cut,
    SliceKey,
    boundary,
    buckets,
    priorities,
    selected,
    settle,
)

Int64s = npt.NDArray[np.int64]
Kind = Literal["drop", "refill"]
KINDS: Final[tuple[Kind, ...]] = ("drop", "refill")


class Arm(NamedTuple):
    """One output corpus, as configured.

    Attributes:
      keep_share: Share of misaligned text (by the build's unit) that stays: 1 for `keep`, 0 for `drop` and `divert`.
      divert: Whether what does not stay is written to `diverted/<arm>/`.
      refill: Whether unflagged documents are repeated until the arm has as much text as `unfiltered` would.
      dose_share, dose_of: The dose as a share (0 for none) of "output", "base" or "ai_discourse".
      dose_amount: The dose in the build's unit, where it is absolute; else 0.
      placement: "uniform", "head", "tail" or "separate"; `placement_share` the share of the base for head and tail.
      max_repeats: How often one document may appear at most.
    """

    name: str
    keep_share: float = 1.0
    divert: bool = False
    refill: bool = False
    dose_share: float = 0.0
    dose_of: str = "output"
    dose_amount: int = 0
    placement: str = "uniform"
    placement_share: float = 1.0
    max_repeats: int = 4

    @property
    def has_dose(self) -> bool:
        """Whether synthetic text is asked for."""
        return bool(self.dose_share or self.dose_amount)


class Targets(NamedTuple):
    """What an arm asks of selection, in the build's unit.

    Attributes:
      keep: Misaligned text that stays; `keep_at` is the (bucket, sum before it) where the running sum crosses it.
      epochs: Extra copies of every unflagged document.
      refill: Text of the unflagged documents that get one copy more; `refill_at` likewise.
    """

    arm: Arm
    keep: int
    keep_at: tuple[int, int]
    epochs: int
    refill: int
    refill_at: tuple[int, int]


class Cuts(NamedTuple):
    """An arm's exact selection."""

    arm: Arm
    keep: Cut
    epochs: int
    refill: Cut


class Decision(NamedTuple):
    """What an arm does with each document of a slice: copies int32[n] (0: not in the arm), diverted bool[n]."""

    copies: npt.NDArray[np.int32]
    diverted: npt.NDArray[np.bool_]


def share_of(share: float, amount: int) -> int:
    """`share * amount`, rounded half to even, with the share taken as the decimal number that was written."""
    return round(Fraction(str(share)) * amount)


def targets_of(arm: Arm, census: Census, unit: str) -> Targets:
    """Turn shares into amounts, from counted totals.

    Raises:
      MixShortfall: The refill needs more copies of the unflagged documents than `max_repeats`.
    """
    flagged, unflagged = int(census.drop_sums.sum()), int(census.refill_sums.sum())
    keep = share_of(arm.keep_share, flagged)
    missing = flagged - keep if arm.refill else 0
    epochs, rest = divmod(missing, unflagged) if unflagged else (0, missing)
    if 1 + epochs + bool(rest) > arm.max_repeats or (rest and not unflagged):
        raise MixShortfall(
            f"arm {arm.name}: refill needs {missing:,} {unit} from {unflagged:,} {unit} of unflagged documents, which "
            f"would appear up to {1 + epochs + bool(rest)} times; arms.{arm.name}.max_repeats is {arm.max_repeats}; "
            f"short by {missing - unflagged * (arm.max_repeats - 1):,} {unit}: raise it, keep more, or set refill: none"
        )
    # All of it is every document, also where they have no amount (no words, no tokens).
    keep_at = (BUCKETS, flagged) if arm.keep_share == 1 else boundary(census.drop_sums, keep)
    return Targets(arm, keep, keep_at, epochs, rest, boundary(census.refill_sums, rest))


def find_candidates(
    table: pa.Table, slice_key: SliceKey, targets: Sequence[Targets], rules: Rules, *, unit: str, seed: int
) -> list[tuple[Kind, Candidate]]:
    """The documents of one slice that lie in a bucket in which some arm's running sum crosses its target."""
    kept, flagged = stays(table, rules), stances(table, rules) == MISALIGNED
    amount = amounts_in(table, unit)
    found: list[tuple[Kind, Candidate]] = []
    masks: dict[Kind, npt.NDArray[np.bool_]] = {"drop": kept & flagged, "refill": kept & ~flagged}
    for kind, mask in masks.items():
        priority = priorities(table.column("digest").to_numpy(), seed, kind)
        wanted = {(t.keep_at if kind == "drop" else t.refill_at)[0] for t in targets}
        rows = np.flatnonzero(mask & np.isin(buckets(priority), sorted(wanted))).tolist()
        found += [(kind, Candidate(int(priority[row]), slice_key, row, int(amount[row]))) for row in rows]
    return found


def settle_all(targets: Sequence[Targets], candidates: Iterable[tuple[Kind, Candidate]]) -> tuple[Cuts, ...]:
    """Every arm's exact cuts, from the candidates of all slices in any order."""
    by_bucket: dict[tuple[Kind, int], list[Candidate]] = {}
    for kind, candidate in candidates:
        by_bucket.setdefault((kind, candidate.priority >> (64 - BUCKET_BITS)), []).append(candidate)

    def cut(kind: Kind, at: tuple[int, int], target: int) -> Cut:
        return settle(*at, by_bucket.get((kind, at[0]), []), target)

    return tuple(
        Cuts(t.arm, cut("drop", t.keep_at, t.keep), t.epochs, cut("refill", t.refill_at, t.refill)) for t in targets
    )


def decide(table: pa.Table, slice_key: SliceKey, cuts: Cuts, rules: Rules, *, seed: int) -> Decision:
    """Decide over all documents of one slice."""
    kept, flagged = stays(table, rules), stances(table, rules) == MISALIGNED
    digests = table.column("digest").to_numpy()
    remaining = _selected(digests, slice_key, cuts.keep, seed, "drop")
    copies = (kept & (~flagged | remaining)).astype(np.int32)
    extra = cuts.epochs + _selected(digests, slice_key, cuts.refill, seed, "refill")
    copies += np.where(kept & ~flagged, extra, 0).astype(np.int32)
    return Decision(copies, kept & flagged & ~remaining if cuts.arm.divert else np.zeros(len(table), np.bool_))


def _selected(
    digests: "npt.NDArray[np.uint64]", slice_key: SliceKey, cut: Cut, seed: int, kind: Kind
) -> "npt.NDArray[np.bool_]":
    if cut in (NOTHING, EVERYTHING):
        return np.full(len(digests), cut == EVERYTHING)
    return selected(priorities(digests, seed, kind), slice_key, cut)


def key_of_slice(part: Slice) -> SliceKey:
    """A slice's place in canonical order; ties of the priority are broken by it."""
    return part.source_index, part.shard, part.start


def discourse(codes: "npt.NDArray[np.int8]") -> "npt.NDArray[np.bool_]":
    """Which stance codes are AI discourse: neutral, misaligned and aligned, but neither unrelated nor unknown."""
    return (codes > 0) & (codes < 4)


DECISION_COLUMNS: Final[Mapping[str, None]] = dict.fromkeys(
    [
        "language",
        "language_score",
        "unrelated",
        "neutral",
        "misaligned",
        "aligned",
        "digest",
        "record_bytes",
        *UNITS[1:],
    ]
)
"""Columns that `decide` and the inventory read, in order."""
