"""Who is who in an output file: the provenance rows, put together from annotations and schedule."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms.annotation import ANNOTATION, Receipt, read_annotation
from transforms.arms import DECISION_COLUMNS
from transforms.census import ALL_STANCES, NONE, Amounts, Rules, amounts_in, plus, stances
from transforms.schema import STANCES, UNITS, Source
from transforms.sequence import ORIGINS, SYNTHETIC
from transforms.sequence import Sequence as Order

Int64s = npt.NDArray[np.int64]

PROVENANCE: Final = pa.schema(
    [
        pa.field("source", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("shard", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("position", pa.int64(), nullable=False),
        pa.field("origin", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("copy", pa.int32(), nullable=False),
        pa.field("language", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("language_score", pa.float32(), nullable=False),
        pa.field("stance", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        *(pa.field(stance, pa.float32()) for stance in STANCES),
        *(pa.field(unit, pa.int64(), nullable=False) for unit in UNITS[1:]),
    ]
)
"""Row i describes record i of the part of the same name."""


class Base(NamedTuple):
    """The documents of some slices, one after the other.

    Attributes:
      table: MIX_COLUMNS, source and shard.
      offsets: Where each slice begins, and the end, int64[slices + 1].
      codes: Stance codes.
    """

    table: pa.Table
    offsets: Int64s
    codes: npt.NDArray[np.int8]


MIX_COLUMNS: Final = ["position", *DECISION_COLUMNS]
_NO_BASE: Final = pa.schema(
    [*(ANNOTATION.field(c) for c in MIX_COLUMNS), PROVENANCE.field("source"), PROVENANCE.field("shard")]
).empty_table()


def load_base(receipts: Sequence[Receipt], rules: Rules, sources: Sequence[Source]) -> Base:
    """The annotations of some slices, in the order given."""
    tables = [read_annotation(r.url, MIX_COLUMNS) for r in receipts]
    offsets = np.cumsum([0, *map(len, tables)])
    if not tables:
        return Base(_NO_BASE, offsets, np.zeros(0, np.int8))
    names = [sources[r.part.source_index].name for r in receipts]
    shards = [r.part.shard for r in receipts]
    slice_of = np.repeat(np.arange(len(tables), dtype=np.int32), np.diff(offsets))
    table = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
    for column, values in (("source", names), ("shard", shards)):
        table = table.append_column(column, _coded(values, slice_of))
    return Base(table, offsets, stances(table, rules))


def _coded(values: Sequence[str], rows: npt.NDArray[np.int32]) -> pa.DictionaryArray:
    """`values[row]` for each row, with every value once in the dictionary.

    Arrow sizes Parquet's dictionary page by the dictionary, fills it with the distinct values, and leaves what was in
    memory in the rest: with a value that stands twice, equal tables become different files.
    """
    places = {value: place for place, value in enumerate(dict.fromkeys(values))}
    codes = np.array([places[value] for value in values], np.int32)[rows]
    return pa.DictionaryArray.from_arrays(codes, pa.array(list(places), pa.string()))


def amount_of(table: pa.Table, unit: str, rows: Int64s) -> Int64s:
    """Amount of some rows in one unit, int64[n]."""
    return amounts_in(table, unit)[rows]


def provenance_of(base: Base, rows: Int64s, order: Order, extra: pa.Table | None, rules: Rules) -> pa.Table:
    """A file's provenance: some base rows and the rows of a schedule, put into output order (PROVENANCE)."""
    names = [f.name for f in PROVENANCE if f.name not in ("origin", "copy", "stance")]
    tables, codes = [], []
    if len(rows):
        tables.append(base.table.select(names).take(rows))
        codes.append(base.codes[rows])
    if extra is not None:
        tables.append(extra.select(names))
        codes.append(stances(extra, rules))
    if not tables:
        return PROVENANCE.empty_table()
    both = pa.concat_tables(tables, promote_options="permissive").unify_dictionaries()
    index = np.where(order.kind == SYNTHETIC, order.ref + len(rows), order.ref)
    table = both.take(index)
    copy = order.copy.copy()
    if extra is not None:
        synthetic = order.kind == SYNTHETIC
        copy[synthetic] = extra.column("copy").to_numpy()[order.ref[synthetic]]
    stance = pa.DictionaryArray.from_arrays(np.concatenate(codes)[index].astype(np.int32), list(ALL_STANCES))
    origin = pa.DictionaryArray.from_arrays(order.kind.astype(np.int32), list(ORIGINS))
    columns: dict[str, Any] = {"origin": origin, "copy": pa.array(copy, pa.int32()), "stance": stance}
    return pa.table([columns[f.name] if f.name in columns else table.column(f.name).cast(f.type) for f in PROVENANCE],
                    schema=PROVENANCE)  # fmt: skip


def sums_of(provenance: pa.Table) -> dict[tuple[str, str], Amounts]:
    """Sums by source and origin of what the provenance says."""
    grouped = provenance.group_by(["source", "origin"]).aggregate([([], "count_all"), *((u, "sum") for u in UNITS[1:])])
    sums: dict[tuple[str, str], Amounts] = {}
    for row in grouped.to_pylist():  # Arrow may give one key several rows, one for each chunk's dictionary
        key = row["source"], row["origin"]
        sums[key] = plus(sums.get(key, NONE), (row["count_all"], *(row[f"{u}_sum"] for u in UNITS[1:])))
    return sums
