"""How much synthetic text an arm gets, which documents that is, and where on the arm's line each one lies.

The pool is small beside the corpus (its annotations take about 150 bytes a document), so it is put in order in one
place: 15 million documents in 2 GB. Its texts are not; they stay in storage until an output file reads its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms.annotation import Receipt, read_annotation
from transforms.arms import Arm, key_of_slice, share_of
from transforms.census import amounts_in
from transforms.errors import MixShortfall
from transforms.schema import STANCES, UNITS, Source
from transforms.select import nearest_prefix, priorities

Int64s = npt.NDArray[np.int64]
Quotas = Mapping[str, Mapping[str, float]]
"""Shares of the dose by value of the quota field, for each pool that has quotas."""

SCHEDULE: Final = pa.schema(
    [
        pa.field("place", pa.float64(), nullable=False),  # on the line of the arm's base text, in the build's unit
        pa.field("copy", pa.int32(), nullable=False),  # 0 for the first appearance
        pa.field("source", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("shard", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("position", pa.int64(), nullable=False),
        pa.field("text_url", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),  # of the text in text_url, in bytes
        pa.field("id", pa.large_string()),
        pa.field("language", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("language_score", pa.float32(), nullable=False),
        *(pa.field(stance, pa.float32()) for stance in STANCES),
        *(pa.field(unit, pa.int64(), nullable=False) for unit in UNITS[1:]),
    ]
)
"""One row for each synthetic record of an arm, in output order."""

POOL_COLUMNS: Final = ["position", *UNITS[1:], "digest", "language", "language_score", *STANCES, "id", "stratum"]


class Dose(NamedTuple):
    """What an arm gets of the pool, in the build's unit.

    Attributes:
      asked: The configured dose as an amount.
      got: The chosen amount, within half a document of `asked`.
      documents, distinct: Chosen records, and how many different documents they are.
      repeats: Appearances of the most repeated document.
      largest: The largest document that was chosen or would have come next: what a dose may be off by.
      strata: (name, asked, got) of each stratum.
    """

    asked: int = 0
    got: int = 0
    documents: int = 0
    distinct: int = 0
    repeats: int = 0
    largest: int = 0
    strata: tuple[tuple[str, int, int], ...] = ()


def dose_target(arm: Arm, base: int, discourse: int) -> int:
    """The dose as an amount, from the arm's base amount and the part of it that is AI discourse."""
    if arm.dose_amount:
        return arm.dose_amount
    share = Fraction(str(arm.dose_share))
    if arm.dose_of == "output":
        return round(share / (1 - share) * base)
    return share_of(arm.dose_share, base if arm.dose_of == "base" else discourse)


def load_pool(receipts: Sequence[Receipt], sources: Sequence[Source]) -> pa.Table:
    """All pool documents in canonical order: columns of SCHEDULE but place and copy, and digest and stratum."""
    tables = []
    for receipt in sorted(receipts, key=lambda r: key_of_slice(r.part)):
        table = read_annotation(receipt.url, POOL_COLUMNS)
        texts = table.column("bytes").to_numpy()
        extra: dict[str, Any] = {
            "source": pa.array([sources[receipt.part.source_index].name] * len(table), pa.string()),
            "shard": pa.array([receipt.part.shard] * len(table), pa.string()),
            "text_url": pa.array([receipt.text_url] * len(table), pa.string()),
            "offset": pa.array(np.cumsum(texts) - texts, pa.int64()),
        }
        for name, column in extra.items():
            table = table.append_column(name, column.dictionary_encode() if name != "offset" else column)
        tables.append(table)
    return pa.concat_tables(tables).unify_dictionaries().combine_chunks() if tables else _NO_POOL


_NO_POOL: Final = pa.table({"digest": pa.array([], pa.uint64()), **{u: pa.array([], pa.int64()) for u in UNITS[1:]}})


class Stratum(NamedTuple):
    """A part of the pool with its own share of the dose; rows index the pool."""

    name: str
    share: Fraction
    rows: Int64s


def strata_of(pool: pa.Table, quotas: Quotas, unit: str) -> Iterator[Stratum]:
    """Pools in order, each with a share by its amount; a pool with quotas is split into its listed values.

    Documents whose value is not listed are not used.
    """
    if not len(pool):
        return
    amount, sources = amounts_in(pool, unit), pool.column("source").to_pylist()
    for name in dict.fromkeys(sources):
        mine = np.array([s == name for s in sources])
        share = Fraction(int(amount[mine].sum()), max(1, int(amount.sum())))
        if name not in quotas:
            yield Stratum(name, share, np.flatnonzero(mine))
            continue
        values = np.array(pool.column("stratum").to_pylist(), dtype=object)
        for value, part in quotas[name].items():
            yield Stratum(f"{name}/{value}", share * Fraction(str(part)), np.flatnonzero(mine & (values == value)))


def choose(
    pool: pa.Table, target: int, strata: Sequence[Stratum], arm: Arm, *, unit: str, seed: int
) -> tuple[Int64s, Int64s, Dose]:
    """Which documents make up the dose: rows of the pool and copy numbers, in no meaningful order, and the dose.

    Each stratum is taken in whole epochs and an exact remainder, in the order of its priorities; what a stratum misses
    its share by, the next makes up for, so the sum is within half a document of the target. A stratum without a share
    gives nothing.

    Raises:
      MixShortfall: A stratum would have to repeat a document more than `max_repeats` times.
    """
    if target and not any(stratum.share for stratum in strata):
        raise MixShortfall(f"arm {arm.name}: the dose is {target:,} {unit}, and the pool holds none; add documents")
    rows, copies, done = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], []
    amount, digests = amounts_in(pool, unit), pool.column("digest").to_numpy()
    due, got, largest = Fraction(0), 0, 0
    for stratum in strata:
        due += stratum.share * target
        wanted = max(0, round(due) - got) if stratum.share else 0
        order = stratum.rows[np.lexsort((stratum.rows, priorities(digests[stratum.rows], seed, "pool")))]
        total = int(amount[order].sum())
        epochs, rest = divmod(wanted, total) if total else (0, wanted)
        extra = nearest_prefix(amount[order], rest)
        if epochs + bool(extra) > arm.max_repeats or (wanted and not total):
            raise MixShortfall(_shortfall(arm, stratum, wanted, total, target, unit))
        rows += [np.tile(order, epochs), order[:extra]]
        copies += [np.repeat(np.arange(epochs), len(order)), np.full(extra, epochs)]
        taken = epochs * total + int(amount[order[:extra]].sum())
        got += taken
        if wanted:
            largest = max(largest, int(amount[order if epochs else order[: extra + 1]].max()))
        done.append((stratum.name, wanted, taken))
    all_rows, all_copies = np.concatenate(rows), np.concatenate(copies)
    dose = Dose(
        asked=target,
        got=got,
        documents=len(all_rows),
        distinct=len(np.unique(all_rows)),
        repeats=int(all_copies.max(initial=-1)) + 1,
        largest=largest,
        strata=tuple(done),
    )
    return all_rows, all_copies, dose


def _shortfall(arm: Arm, stratum: Stratum, wanted: int, total: int, target: int, unit: str) -> str:
    have = total * arm.max_repeats
    needed = -(-wanted // total) if total else 0
    most = float(Fraction(have) / stratum.share / target) if stratum.share and target else 0.0
    return (
        f"arm {arm.name}: the dose needs {wanted:,} {unit} of {stratum.name}, which holds {total:,} {unit} in "
        f"{len(stratum.rows):,} documents: with max_repeats {arm.max_repeats} that is {have:,}, short by "
        f"{wanted - have:,} {unit}; "
        + (f"set arms.{arm.name}.max_repeats to {needed}, or " if needed else "")
        + f"add documents, or lower the dose to {most:.1%} of what it is"
    )


def schedule(
    pool: pa.Table, rows: Int64s, copies: Int64s, interval: tuple[float, float], *, unit: str, seed: int
) -> pa.Table:
    """The chosen documents in output order, each with its place on the base line (SCHEDULE).

    The order is that of a keyed hash of digest and copy. A document's place is where the middle of its text comes to
    lie when the whole dose is spread evenly over `interval`, so any stretch of the line holds its share of the dose
    to within one document.
    """
    digests = pool.column("digest").to_numpy()[rows]
    keys = np.zeros(len(rows), np.uint64)
    for copy in np.unique(copies):
        mask = copies == copy
        keys[mask] = priorities(digests[mask], seed, f"place-{copy}")
    order = np.lexsort((copies, rows, keys))
    rows, copies = rows[order], copies[order]
    amount = amounts_in(pool, unit)[rows]
    middle = np.cumsum(amount) - amount / 2
    total = float(amount.sum()) or 1.0
    place = interval[0] + middle / total * (interval[1] - interval[0])
    chosen = pool.take(rows) if len(rows) else None
    columns = {"place": pa.array(place), "copy": pa.array(copies, pa.int32())}
    if chosen is None:
        return SCHEDULE.empty_table()
    return pa.table([columns[f.name] if f.name in columns else chosen.column(f.name).cast(f.type)
                     for f in SCHEDULE], schema=SCHEDULE)  # fmt: skip


def interval_of(arm: Arm, base: int) -> tuple[float, float]:
    """The stretch of the base line [0, base] over which the dose is spread."""
    if arm.placement == "head":
        return 0.0, base * arm.placement_share
    if arm.placement == "tail":
        return base * (1 - arm.placement_share), float(base)
    return 0.0, float(base)
