"""How the corpus lies in files: which slices make up an output file of each arm, and how much text that is.

A group is a run of slices that one worker reads once, writing all arms from that reading. Small slices are gathered
until the largest arm reaches the target file size; a slice that is larger by itself is cut into several files. The
layout is a pure function of the inventory, so it is the same on every runner.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms.annotation import Receipt
from transforms.arms import Cuts, decide, discourse, key_of_slice
from transforms.census import NONE, Amounts, Rules, amounts_of, plus, stances, stays
from transforms.schema import UNITS

Int64s = npt.NDArray[np.int64]


class Stream(NamedTuple):
    """A set of files: an arm's corpus, or what the arm diverted."""

    arm: str
    diverted: bool

    @property
    def folder(self) -> str:
        """Where its files lie below the output path."""
        return f"diverted/{self.arm}" if self.diverted else self.arm


class Segment(NamedTuple):
    """What one slice gives to one file of a stream: refill copies are counted, synthetic text is not.

    `amount` and `discourse` (its part about AI) are in the build's unit.
    """

    records: int
    record_bytes: int
    amount: int
    discourse: int

    def __add__(self, other: "Segment") -> "Segment":  # type: ignore[override]
        return Segment(*(a + b for a, b in zip(self, other, strict=True)))


NO_SEGMENT = Segment(0, 0, 0, 0)


class Terms(NamedTuple):
    """One arm's terms of the equation for one source, each in all units; language drops are in the census."""

    kept: Amounts = NONE
    dropped: Amounts = NONE
    diverted: Amounts = NONE
    refilled: Amounts = NONE

    def __add__(self, other: "Terms") -> "Terms":  # type: ignore[override]
        return Terms(*(plus(a, b) for a, b in zip(self, other, strict=True)))


class Inventory(NamedTuple):
    """What one slice gives to every stream."""

    receipt: Receipt
    segments: Mapping[Stream, tuple[Segment, ...]]
    terms: Mapping[str, Terms]


class Part(NamedTuple):
    """One output file.

    Attributes:
      segment: Which segment of the group's single large slice; -1 for all rows of the group's slices.
      base_start, base_amount: The file's interval on the line of the arm's base text, in the build's unit.
      first, last: Rows [first, last) of the arm's schedule of synthetic documents.
    """

    stream: Stream
    number: int
    total: int
    segment: int
    base: Segment
    base_start: int
    first: int = 0
    last: int = 0

    def name(self, suffix: str) -> str:
        """For example part-00000-of-00042.jsonl.zst."""
        return f"part-{self.number:05d}-of-{self.total:05d}.{suffix}"


class Group(NamedTuple):
    """One unit of the mix: slices to be read once, files to be written from them."""

    number: int
    receipts: tuple[Receipt, ...]
    parts: tuple[Part, ...]


def streams_of(cuts: Sequence[Cuts]) -> list[Stream]:
    """All streams, in the order of the configuration."""
    return [Stream(c.arm.name, diverted) for c in cuts for diverted in ((False, True) if c.arm.divert else (False,))]


def segment_index(weights: Int64s, target: int) -> Int64s:
    """To which of ceil(sum / target) nearly equal segments each row belongs, by the weight before it, int64[n]."""
    total = int(weights.sum())
    count = max(1, -(-total // target))
    before = np.cumsum(weights) - weights
    # Floats are exact enough (a boundary may move by a row, the same everywhere) and cannot overflow.
    return np.minimum((before * (count / max(1, total))).astype(np.int64), count - 1)


def take_inventory(
    receipt: Receipt, table: pa.Table, all_cuts: Sequence[Cuts], rules: Rules, *, unit: str, seed: int, target: int
) -> Inventory:
    """Count what a slice gives to every stream and every term of the equation."""
    amounts, codes = amounts_of(table), stances(table, rules)
    record_bytes, about_ai = table.column("record_bytes").to_numpy(), discourse(codes)
    in_unit = amounts[:, UNITS.index(unit)]
    segments: dict[Stream, tuple[Segment, ...]] = {}
    terms: dict[str, Terms] = {}
    for cuts in all_cuts:
        decision = decide(table, key_of_slice(receipt.part), cuts, rules, seed=seed)
        for stream in streams_of([cuts]):
            copies = decision.diverted.astype(np.int32) if stream.diverted else decision.copies
            segments[stream] = _segments(copies, record_bytes, in_unit, about_ai, target)
        terms[cuts.arm.name] = _terms(decision.copies, decision.diverted, amounts, stays(table, rules))
    return Inventory(receipt, segments, terms)


def _segments(
    copies: "npt.NDArray[np.int32]",
    record_bytes: Int64s,
    amount: Int64s,
    about_ai: "npt.NDArray[np.bool_]",
    target: int,
) -> tuple[Segment, ...]:
    weights = copies * record_bytes
    index = segment_index(weights, target)
    columns = [copies.astype(np.int64), weights, copies * amount, copies * amount * about_ai]
    number = int(index.max(initial=0)) + 1
    sums = [np.zeros(number, np.int64) for _ in columns]
    for total, column in zip(sums, columns, strict=True):
        np.add.at(total, index, column)
    return tuple(Segment(*(int(s[i]) for s in sums)) for i in range(number))


def _terms(
    copies: "npt.NDArray[np.int32]",
    diverted: "npt.NDArray[np.bool_]",
    amounts: Int64s,
    eligible: "npt.NDArray[np.bool_]",
) -> Terms:
    kept = copies > 0

    def total(mask: "npt.NDArray[np.bool_] | Int64s") -> Amounts:
        return tuple(int(x) for x in (amounts * np.asarray(mask, np.int64)[:, None]).sum(axis=0))

    return Terms(
        kept=total(kept),
        dropped=total(eligible & ~kept & ~diverted),
        diverted=total(diverted),
        refilled=total(np.maximum(copies - 1, 0).astype(np.int64)),
    )


def _gather(inventories: Iterable[Inventory], target: int) -> Iterator[list[Inventory]]:
    """Runs of slices in canonical order, each as large as fits the target in the largest stream."""
    group: list[Inventory] = []
    filled = 0
    for inventory in sorted(inventories, key=lambda i: key_of_slice(i.receipt.part)):
        weight = max(sum(s.record_bytes for s in segments) for segments in inventory.segments.values())
        if group and filled + weight > target:
            yield group
            group, filled = [], 0
        group.append(inventory)
        filled += weight
    if group:
        yield group


def lay_out(inventories: Iterable[Inventory], streams: Sequence[Stream], target: int) -> list[Group]:
    """Groups and their files in output order; synthetic documents and the totals in names are not yet given out.

    A stream to which a group gives nothing has no file of that group, but every stream has at least one file.
    """
    starts, numbers = dict.fromkeys(streams, 0), dict.fromkeys(streams, 0)
    groups: list[Group] = []
    for members in _gather(inventories, target):
        parts: list[Part] = []
        for stream in streams:
            segments = [segment for member in members for segment in member.segments[stream]]
            alone = len(members) == 1 and len(segments) > 1
            for index, segment in enumerate(segments if alone else [sum(segments, start=NO_SEGMENT)]):
                if segment.records:
                    parts.append(Part(stream, numbers[stream], 0, index if alone else -1, segment, starts[stream]))
                    numbers[stream] += 1
                    starts[stream] += segment.amount
        groups.append(Group(len(groups), tuple(m.receipt for m in members), tuple(parts)))
    missing = [s for s in streams if not numbers[s]]
    if missing:
        groups.append(Group(len(groups), (), tuple(Part(s, 0, 0, -1, NO_SEGMENT, 0) for s in missing)))
    return groups


def give_out(groups: Sequence[Group], stream: Stream, places: "npt.NDArray[np.float64]") -> list[Group]:
    """Give each file of a stream the scheduled documents whose place lies on its stretch of the base line."""
    starts = sorted(p.base_start for g in groups for p in g.parts if p.stream == stream)
    edges = [0, *(int(np.searchsorted(places, start, side="left")) for start in starts[1:]), len(places)]

    def filled(part: Part) -> Part:
        return part._replace(first=edges[part.number], last=edges[part.number + 1]) if part.stream == stream else part

    return [g._replace(parts=tuple(map(filled, g.parts))) for g in groups]


def give_apart(groups: Sequence[Group], stream: Stream, sizes: Int64s, target: int) -> list[Group]:
    """Put all scheduled documents, of `sizes` bytes, into files of their own behind the stream's others."""
    number = sum(p.stream == stream for g in groups for p in g.parts)
    index = segment_index(sizes, target)
    extra = []
    firsts = np.flatnonzero(
        np.diff(index, prepend=-1)
    ).tolist()  # a segment that one long document jumps over is no file
    for place, (first, last) in enumerate(itertools.pairwise([*firsts, len(sizes)])):
        part = Part(stream, number + place, 0, -1, NO_SEGMENT, 0, first, last)
        extra.append(Group(len(groups) + place, (), (part,)))
    return [*groups, *extra]


def with_totals(groups: Sequence[Group]) -> list[Group]:
    """Tell each file how many files its stream has."""
    totals = Counter(p.stream for g in groups for p in g.parts)
    return [g._replace(parts=tuple(p._replace(total=totals[p.stream]) for p in g.parts)) for g in groups]
