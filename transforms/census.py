"""Count what the annotations hold: every number that the plan is made from, in one pass of additions.

A census is the sum of the censuses of all slices, in any order and grouping. The first pass counts scores (from which
a flag budget becomes a threshold), the second counts amounts by fate and stance, and over the priorities' histograms.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any, Final, NamedTuple

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from apache_beam.typehints.decorators import no_annotations

from transforms.annotation import Receipt, read_annotation
from transforms.errors import ConfigError, InputError
from transforms.schema import STANCES, UNITS, UNKNOWN, Source
from transforms.select import BUCKETS, histogram, priorities

MISALIGNED: Final = STANCES.index("misaligned")
UNKNOWN_STANCE: Final = len(STANCES)  # the code of "unknown" in arrays of stances
SCORE_BINS: Final = 1 << 12
ALL_STANCES: Final = (*STANCES, UNKNOWN)

Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Stances = npt.NDArray[np.int8]


class Rules(NamedTuple):
    """What decides about a single document, before any arm.

    Attributes:
      keep: Language codes that stay, or () for all.
      min_score: Least language score, in [0, 1].
      thresholds: (stance, least score) pairs; a stance below its threshold is not given.
      flag_budget: Largest share of documents to be flagged misaligned, or 0 for a fixed threshold.
    """

    keep: tuple[str, ...]
    min_score: float
    thresholds: tuple[tuple[str, float], ...]
    flag_budget: float = 0.0


def stays(table: pa.Table, rules: Rules) -> Bools:
    """Which documents the language rule keeps, bool[n]."""
    if not rules.keep:
        return np.ones(len(table), dtype=np.bool_)
    language = table.column("language").combine_chunks()
    wanted = np.isin(language.dictionary.to_numpy(zero_copy_only=False).astype(str), rules.keep)
    if not len(wanted):
        return np.zeros(len(table), dtype=np.bool_)
    enough = table.column("language_score").to_numpy() >= np.float32(rules.min_score)
    kept: Bools = wanted[language.indices.to_numpy()] & enough
    return kept


def stances(table: pa.Table, rules: Rules) -> Stances:
    """The stance code of each document, int8[n]: the highest score among those that reach their threshold.

    A stance without a threshold always reaches it; of equal scores the first stance in `STANCES` wins. A misaligned
    score at its threshold wins over a higher one. Documents without scores get `UNKNOWN_STANCE`. Thresholds are
    compared as float32, as the scores are.
    """
    scores = np.stack([table.column(s).to_numpy(zero_copy_only=False) for s in STANCES], axis=1).astype(np.float32)
    unknown = np.isnan(scores[:, 0])
    scores[unknown] = 0
    for stance, threshold in rules.thresholds:
        column = scores[:, STANCES.index(stance)]
        column[column < np.float32(threshold)] = -1
    # A misaligned score at its threshold wins over a higher one: that is what a threshold of less than 0.5 asks for.
    codes: Stances = scores.argmax(axis=1).astype(np.int8)
    if "misaligned" in dict(rules.thresholds):
        codes[scores[:, MISALIGNED] >= 0] = MISALIGNED
    codes[unknown] = UNKNOWN_STANCE
    return codes


def amounts_of(table: pa.Table) -> Int64s:
    """Amounts of each document, int64[n, 5] in the order of `UNITS`."""
    ones = np.ones(len(table), dtype=np.int64)
    return np.stack([ones, *(table.column(unit).to_numpy() for unit in UNITS[1:])], axis=1)


def amounts_in(table: pa.Table, unit: str) -> Int64s:
    """Amount of each document in one unit, int64[n]."""
    return np.ones(len(table), np.int64) if unit == UNITS[0] else table.column(unit).to_numpy()


class Fate(NamedTuple):
    """A key of the census: whose documents, in which language, of which stance, and whether they may enter an arm."""

    source_index: int
    language: str
    stance: str
    eligible: bool


Amounts = tuple[int, ...]
"""Documents, bytes, characters, words, tokens."""

NONE: Final[Amounts] = (0,) * len(UNITS)


def plus(a: Amounts, b: Amounts) -> Amounts:
    """Add two amounts, unit by unit."""
    return tuple(x + y for x, y in zip(a, b, strict=True))


@dataclasses.dataclass(frozen=True)
class Census:
    """Totals of any number of slices; `a + b` is the census of both.

    Attributes:
      amounts: Amounts by fate.
      scores: Documents that stay, by misaligned score in 4,096 equal bins, int64[4096].
      drop_sums, refill_sums: Amount in the build's unit over the priority buckets of flagged and of unflagged
        documents, int64[65536].
      records, bad: Readable and quarantined records; `reasons` counts the latter by (source, reason).
      bad_shards: (shard, reason, offset, detail) of every shard that was left out.
      largest: Greatest amount of one document, in the build's unit.
    """

    amounts: Mapping[Fate, Amounts] = dataclasses.field(default_factory=dict)
    scores: Int64s = dataclasses.field(default_factory=lambda: np.zeros(SCORE_BINS, np.int64))
    drop_sums: Int64s = dataclasses.field(default_factory=lambda: np.zeros(BUCKETS, np.int64))
    refill_sums: Int64s = dataclasses.field(default_factory=lambda: np.zeros(BUCKETS, np.int64))
    records: int = 0
    bad: int = 0
    reasons: Mapping[tuple[int, str], int] = dataclasses.field(default_factory=dict)
    bad_shards: frozenset[tuple[str, str, int, str]] = frozenset()
    largest: int = 0

    def __add__(self, other: "Census") -> "Census":
        amounts, reasons = dict(self.amounts), dict(self.reasons)
        for fate, amount in other.amounts.items():
            amounts[fate] = plus(amounts.get(fate, NONE), amount)
        for key, number in other.reasons.items():
            reasons[key] = reasons.get(key, 0) + number
        return Census(
            amounts=amounts,
            scores=self.scores + other.scores,
            drop_sums=self.drop_sums + other.drop_sums,
            refill_sums=self.refill_sums + other.refill_sums,
            records=self.records + other.records,
            bad=self.bad + other.bad,
            reasons=reasons,
            bad_shards=self.bad_shards | other.bad_shards,
            largest=max(self.largest, other.largest),
        )

    def total(self, *, source: int | None = None, eligible: bool | None = None, stance: str | None = None) -> Amounts:
        """Amounts of all fates that agree with what is given."""
        out = NONE
        for fate, amount in self.amounts.items():
            if (source is None or fate.source_index == source) and (eligible is None or fate.eligible == eligible):
                out = plus(out, amount) if stance is None or fate.stance == stance else out
        return out


def count_scores(table: pa.Table, rules: Rules) -> Int64s:
    """Documents that stay, by misaligned score in `SCORE_BINS` equal bins of [0, 1], int64[4096]."""
    scores = table.column("misaligned").to_numpy(zero_copy_only=False)
    scores = scores[stays(table, rules) & ~np.isnan(scores)]
    bins = np.minimum((scores * np.float32(SCORE_BINS)).astype(np.int64), SCORE_BINS - 1)
    return np.bincount(bins, minlength=SCORE_BINS)


def settle_rules(rules: Rules, scores: Int64s) -> Rules:
    """Turn a flag budget into the lowest threshold (a multiple of 1/4096) that flags no more than the budget.

    The share is one of the documents that stay and have scores. Where even 4095/4096 flags too many, nothing is
    flagged.
    """
    if not rules.flag_budget:
        return rules
    flagged = np.cumsum(scores[::-1])[::-1]  # flagged[b]: documents with a score of at least b / SCORE_BINS
    allowed = np.flatnonzero(flagged <= rules.flag_budget * scores.sum())
    # One step past the last bin where even that flags too many: then nothing is flagged.
    threshold = (int(allowed[0]) if len(allowed) else SCORE_BINS + 1) / SCORE_BINS
    others = tuple(t for t in rules.thresholds if t[0] != "misaligned")
    return rules._replace(thresholds=(*others, ("misaligned", threshold)), flag_budget=0.0)


def take_census(receipt: Receipt, table: pa.Table, rules: Rules, *, unit: str, seed: int, is_pool: bool) -> Census:
    """The census of one slice; pool documents are never subject to a rule, but their labels are counted."""
    index = receipt.part.source_index
    kept = np.ones(len(table), dtype=np.bool_) if is_pool else stays(table, rules)
    codes, amounts = stances(table, rules), amounts_of(table)
    in_unit = amounts[:, UNITS.index(unit)]
    flagged = kept & (codes == MISALIGNED)
    digests = table.column("digest").to_numpy()
    empty = np.zeros(BUCKETS, np.int64)
    return Census(
        amounts=_by_fate(table, index, kept, codes, amounts),
        scores=np.zeros(SCORE_BINS, np.int64) if is_pool else count_scores(table, rules),
        drop_sums=empty if is_pool else _sums(digests, in_unit, flagged, seed, "drop"),
        refill_sums=empty if is_pool else _sums(digests, in_unit, kept & ~flagged, seed, "refill"),
        records=receipt.records,
        bad=receipt.bad,
        reasons={(index, reason): number for reason, number in receipt.faults},
        largest=int(in_unit.max(initial=0)),
    )


def _sums(digests: "npt.NDArray[np.uint64]", amounts: Int64s, mask: Bools, seed: int, purpose: str) -> Int64s:
    return histogram(priorities(digests[mask], seed, purpose), amounts[mask])


def _by_fate(table: pa.Table, index: int, kept: Bools, codes: Stances, amounts: Int64s) -> dict[Fate, Amounts]:
    language = table.column("language").combine_chunks()
    names = language.dictionary.to_pylist()
    key = (language.indices.to_numpy().astype(np.int64) * len(ALL_STANCES) + codes) * 2 + kept
    out = {}
    for value in np.unique(key):
        rest, eligible = divmod(int(value), 2)
        code, stance = divmod(rest, len(ALL_STANCES))
        sums = amounts[key == value].sum(axis=0)
        out[Fate(index, names[code], ALL_STANCES[stance], bool(eligible))] = tuple(int(s) for s in sums)
    return out


CENSUS_COLUMNS: Final = ["language", "language_score", *STANCES, *UNITS[1:], "digest"]


class _SumCensus(beam.CombineFn):
    """Add up (receipt, source flag) elements; the annotations are read here, so no table crosses a shuffle."""

    def create_accumulator(self) -> Census:
        return Census()

    def add_input(self, accumulator: Census, element: Census) -> Census:
        return accumulator + element

    def merge_accumulators(self, accumulators: Iterable[Census]) -> Census:
        total = Census()
        for census in accumulators:
            total = total + census
        return total

    def extract_output(self, accumulator: Census) -> Census:
        return accumulator


class Limits(NamedTuple):
    """How much bad input a build bears: a share of all records, and a number of shards."""

    bad_records: float
    bad_shards: int


def check_limits(census: Census, limits: Limits, sources: tuple[Source, ...]) -> None:
    """Raise InputError when quarantine holds more than the limits allow, with the first ten reasons."""
    # A shard with several damaged slices is one bad shard.
    shards = sorted({bad[0]: bad for bad in sorted(census.bad_shards, reverse=True)}.values())
    if len(shards) > limits.bad_shards:
        lines = [f"  {shard}: {reason} ({detail})" for shard, reason, _, detail in shards[:10]]
        raise InputError(
            f"{len(shards)} shard(s) cannot be read whole, limits.bad_shards is {limits.bad_shards}:\n"
            + "\n".join(lines)
            + f"\nrepair or remove them, or allow them with --set limits.bad_shards={len(shards)}"
        )
    share = census.bad / max(1, census.bad + census.records)
    if share > limits.bad_records:
        enough = math.ceil(Fraction(census.bad * 1_000_000, census.bad + census.records)) / 1e6
        lines = [f"  {sources[i].name}: {n:,} × {reason}" for (i, reason), n in sorted(census.reasons.items())[:10]]
        raise InputError(
            f"{census.bad:,} of {census.bad + census.records:,} records are bad ({share:.4%}), "
            f"limits.bad_records is {limits.bad_records:.4%}:\n"
            + "\n".join(lines)
            + f"\nlook at them with `counterpoise annotate`, or allow them with --set limits.bad_records={enough:.6f}"
        )


def check_not_empty(census: Census, sources: tuple[Source, ...]) -> None:
    """Raise ConfigError when no source gave a single document: then the paths or the fields are wrong."""
    if not any(fate.source_index == s.index for fate in census.amounts for s in sources if not s.is_pool):
        raise ConfigError(["sources: not one readable document in all shards; look at paths, format and text"])


def load(receipt: Receipt, columns: list[str]) -> pa.Table:
    """The named columns of a slice's annotation."""
    return read_annotation(receipt.url, columns)


def _scores_of(receipt: Receipt, rules: Rules, bad: list[str]) -> Any:
    if receipt.part.shard not in bad:
        table = load(receipt, ["language", "language_score", "misaligned"])
        yield count_scores(table, rules)


def _census_of(
    receipt: Receipt, rules: Rules, bad: list[str], sources: tuple[Source, ...], unit: str, seed: int
) -> Census:
    fault = receipt.fault
    if fault[0]:
        return Census(bad_shards=frozenset([(receipt.part.shard, *fault)]))
    if receipt.part.shard in bad:
        return Census()
    is_pool = sources[receipt.part.source_index].is_pool
    return take_census(receipt, load(receipt, CENSUS_COLUMNS), rules, unit=unit, seed=seed, is_pool=is_pool)


class Counted(NamedTuple):
    """Outputs of `TakeCensus`: one settled `Rules` and one `Census`, both singletons."""

    rules: beam.PCollection[Rules]
    census: beam.PCollection[Census]


@dataclasses.dataclass(kw_only=True, eq=False)
class TakeCensus(beam.PTransform):
    """Add up all slices, settle the thresholds, and hold quarantine against the limits.

    Takes receipts and, as `bad`, the shards that are left out in all their slices.

    Raises (when run):
      InputError: More bad records or shards than `limits` allows.
    """

    sources: tuple[Source, ...]
    rules: Rules
    limits: Limits
    unit: str
    seed: int

    def __post_init__(self) -> None:
        super().__init__()

    @no_annotations
    def expand(self, inputs: tuple[beam.PCollection[Receipt], beam.PCollection[str]]) -> Counted:
        receipts, bad = inputs
        bad_list = beam.pvalue.AsList(bad)
        base = receipts | "BaseOnly" >> beam.Filter(_is_base, self.sources)
        rules = (
            base
            | "CountScores" >> beam.FlatMap(_scores_of, self.rules, bad_list)
            | "SumScores" >> beam.CombineGlobally(_sum_arrays)
            | "SettleRules" >> beam.Map(_settled, self.rules)
        )
        census = (
            receipts
            | "CountAmounts"
            >> beam.Map(_census_of, beam.pvalue.AsSingleton(rules), bad_list, self.sources, self.unit, self.seed)
            | "SumAmounts" >> beam.CombineGlobally(_SumCensus())
            | "CheckLimits" >> beam.Map(_checked, self.limits, self.sources)
        )
        return Counted(rules, census)


def _is_base(receipt: Receipt, sources: tuple[Source, ...]) -> bool:
    return not sources[receipt.part.source_index].is_pool


def _sum_arrays(arrays: Iterable[Int64s]) -> Int64s:
    return sum(arrays, start=np.zeros(SCORE_BINS, np.int64))


def _settled(scores: Int64s, rules: Rules) -> Rules:
    return settle_rules(rules, scores)


def _checked(census: Census, limits: Limits, sources: tuple[Source, ...]) -> Census:
    check_limits(census, limits, sources)
    check_not_empty(census, sources)
    return census
