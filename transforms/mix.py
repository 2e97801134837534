"""Write the corpora: every slice is read once more, and all arms are written from that one reading.

Base records are copied as their original bytes where the formats allow. The order of each file is known from the
annotations before its first record is read, so the provenance is a table operation and the bulk is copying.
"""

import dataclasses
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import apache_beam as beam
import google_crc32c
import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
from apache_beam.typehints.decorators import no_annotations

from transforms import heartbeat
from transforms.annotate import ANNOTATION, Receipt, is_whole, read_annotation
from transforms.arms import DECISION_COLUMNS, decide, key_of_slice
from transforms.census import ALL_STANCES, NONE, Amounts, plus, stances
from transforms.counters import Counter, count
from transforms.decode import DecodeLimits
from transforms.errors import InputChanged, Unaccounted
from transforms.layout import Group, Part, Stream, segment_index
from transforms.plan import Plan, read_schedule
from transforms.read import Records, Rows, read_records
from transforms.schema import CONVERTED, STANCES, UNITS, Format, Source
from transforms.sequence import BASE, ORIGINS, REFILL, SYNTHETIC, sequence
from transforms.sequence import Sequence as Order
from transforms.storage import join, store_for
from transforms.write import LinesOutput, RowsOutput, Written

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


class Settings(NamedTuple):
    """Where and how to write.

    Attributes:
      output: The corpus's path; `folder` the build's own folder for receipts of finished groups.
      output_format: "jsonl", "jsonl.gz", "jsonl.zst" or "parquet".
    """

    output: str
    folder: str
    output_format: str
    sources: tuple[Source, ...]
    limits: DecodeLimits


class FileReceipt(NamedTuple):
    """One written file and its provenance; `amounts` by (source name, origin)."""

    stream: Stream
    number: int
    records: int
    data: Written
    provenance: Written
    amounts: Mapping[tuple[str, str], Amounts]
    base_amount: int
    synthetic_amount: int
    largest: int


class GroupReceipt(NamedTuple):
    """All files of a group, and whether they were there already."""

    number: int
    files: tuple[FileReceipt, ...]
    reused: bool


class _Base(NamedTuple):
    """The documents of a group's slices, one after the other: annotation columns and where each slice begins."""

    table: pa.Table
    offsets: Int64s
    codes: npt.NDArray[np.int8]


MIX_COLUMNS: Final = ["position", *DECISION_COLUMNS]
_NO_BASE: Final = pa.schema(
    [*(ANNOTATION.field(c) for c in MIX_COLUMNS), PROVENANCE.field("source"), PROVENANCE.field("shard")]
).empty_table()


def _load_base(group: Group, plan: Plan, sources: Sequence[Source]) -> _Base:
    tables = [read_annotation(r.url, MIX_COLUMNS) for r in group.receipts]
    offsets = np.cumsum([0, *map(len, tables)])
    if not tables:
        return _Base(_NO_BASE, offsets, np.zeros(0, np.int8))
    names = [sources[r.part.source_index].name for r in group.receipts]
    shards = [r.part.shard for r in group.receipts]
    slice_of = np.repeat(np.arange(len(tables), dtype=np.int32), np.diff(offsets))
    table = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
    for column, values in (("source", names), ("shard", shards)):
        table = table.append_column(column, pa.DictionaryArray.from_arrays(slice_of, pa.array(values, pa.string())))
    return _Base(table, offsets, stances(table, plan.rules))


class _File:
    """One output file while its group is being read."""

    def __init__(self, part: Part, rows: Int64s, order: Order, provenance: pa.Table, extra: pa.Table) -> None:
        self.part, self.rows, self.order, self.provenance, self.synthetic = part, rows, order, provenance, extra
        self.written = 0
        refs = order.ref[order.kind == REFILL]
        self.copies_left = dict(zip(*(x.tolist() for x in np.unique(refs, return_counts=True)), strict=True))
        self.held: dict[int, Any] = {}
        self.data: Any = None

    def ready(self, last_row: int) -> slice:
        """The records that can be written once all group rows up to `last_row` were read."""
        stop = int(np.searchsorted(self.order.after, np.searchsorted(self.rows, last_row, side="right"), side="left"))
        ready = slice(self.written, stop)
        self.written = stop
        return ready

    def release(self, ref: int) -> Any:
        """The held record of a refill copy; forgotten with the last one."""
        record = self.held[ref]
        self.copies_left[ref] -= 1
        if not self.copies_left[ref]:
            del self.held[ref]
        return record


def _copies_by_stream(group: Group, plan: Plan, base: _Base) -> dict[Stream, npt.NDArray[np.int32]]:
    out: dict[Stream, list[npt.NDArray[np.int32]]] = {p.stream: [] for p in group.parts}
    for receipt, start, stop in zip(group.receipts, base.offsets[:-1], base.offsets[1:], strict=True):
        table = base.table.slice(start, stop - start)
        for arm in plan.arms:
            decision = decide(table, key_of_slice(receipt.part), arm.cuts, plan.rules, seed=plan.seed)
            for stream, copies in (
                (Stream(arm.cuts.arm.name, diverted=False), decision.copies),
                (Stream(arm.cuts.arm.name, diverted=True), decision.diverted.astype(np.int32)),
            ):
                if stream in out:
                    out[stream].append(copies)
    return {stream: np.concatenate([np.zeros(0, np.int32), *copies]) for stream, copies in out.items()}


def _files_of(group: Group, plan: Plan, base: _Base) -> list[_File]:
    files = []
    by_stream = _copies_by_stream(group, plan, base)
    for part in group.parts:
        copies = by_stream[part.stream]
        weights = copies * base.table.column("record_bytes").to_numpy()
        mine = copies > 0
        if part.segment >= 0:
            mine &= segment_index(weights, plan.target_file_size) == part.segment
        rows = np.flatnonzero(mine)
        own = copies[rows]
        amount = _amount(base.table, plan.unit, rows) * own
        url = plan.arm(part.stream.arm).schedule
        extra = read_schedule(url, part.first, part.last) if part.last > part.first else None
        places = extra.column("place").to_numpy() if extra is not None else np.zeros(0)
        order = sequence(own, part.base_start + np.cumsum(amount) - amount, places)
        files.append(_File(part, rows, order, _provenance(base, rows, order, extra, plan), extra))
    return files


def _amount(table: pa.Table, unit: str, rows: Int64s) -> Int64s:
    return np.ones(len(rows), np.int64) if unit == UNITS[0] else table.column(unit).to_numpy()[rows]


def _provenance(base: _Base, rows: Int64s, order: Order, extra: pa.Table | None, plan: Plan) -> pa.Table:
    """The file's provenance: base rows and synthetic rows put into output order."""
    names = [f.name for f in PROVENANCE if f.name not in ("origin", "copy", "stance")]
    tables, codes = [], []
    if len(rows):
        tables.append(base.table.select(names).take(rows))
        codes.append(base.codes[rows])
    if extra is not None:
        tables.append(extra.select(names))
        codes.append(stances(extra, plan.rules))
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
    columns = {"origin": origin, "copy": pa.array(copy, pa.int32()), "stance": stance}
    return pa.table([columns[f.name] if f.name in columns else table.column(f.name).cast(f.type) for f in PROVENANCE],
                    schema=PROVENANCE)  # fmt: skip


def _amounts(provenance: pa.Table) -> dict[tuple[str, str], Amounts]:
    """Sums by source and origin of what the provenance says."""
    grouped = provenance.group_by(["source", "origin"]).aggregate([([], "count_all"), *((u, "sum") for u in UNITS[1:])])
    sums: dict[tuple[str, str], Amounts] = {}
    for row in grouped.to_pylist():  # Arrow may give one key several rows, one for each chunk's dictionary
        key = row["source"], row["origin"]
        sums[key] = plus(sums.get(key, NONE), (row["count_all"], *(row[f"{u}_sum"] for u in UNITS[1:])))
    return sums


class _Writer:
    """Writes the files of one group in one of the three forms."""

    def __init__(self, plan: Plan, settings: Settings, spool: str) -> None:
        self.plan, self.settings, self.spool = plan, settings, spool
        self.schema = pa.ipc.read_schema(pa.py_buffer(plan.columns)) if plan.columns else None
        self.main = next(s for s in settings.sources if not s.is_pool)

    def open(self, file: _File, index: int) -> None:
        """Begin a file."""
        part = file.part
        url = join(self.settings.output, part.stream.folder, part.name(self.settings.output_format))
        path = os.path.join(self.spool, f"{index}.data")
        if self.plan.form == "lines":
            file.data = LinesOutput(path, url, self.settings.output_format)
        else:
            file.data = RowsOutput(path, url, self.schema, use_dictionary=False)

    def write(self, file: _File, batch_rows: Int64s, batch: Records | Rows | None) -> None:
        """Write all that can be written now that the batch's rows (group rows, ascending) were read."""
        last = int(batch_rows[-1]) if len(batch_rows) else np.iinfo(np.int64).max
        ready = file.ready(last)
        if self.plan.form == "lines":
            self._hold(file, batch_rows, lambda i: _line(batch, i))
            if ready.stop > ready.start:
                file.data.write(self._line_pieces(file, ready, batch_rows, batch))
        else:
            self._hold(file, batch_rows, lambda i: batch.rows.slice(i, 1))  # type: ignore[union-attr]
            if ready.stop > ready.start:
                file.data.write(self._rows(file, ready, batch_rows, batch))

    def _hold(self, file: _File, batch_rows: Int64s, take: Any) -> None:
        """Keep the records of this batch that will be repeated later."""
        if not file.copies_left:
            return
        refs = np.searchsorted(file.rows, batch_rows)
        for i, ref in enumerate(refs.tolist()):
            if ref < len(file.rows) and file.rows[ref] == batch_rows[i] and ref in file.copies_left:
                file.held[ref] = take(i)

    def _line_pieces(self, file: _File, ready: slice, batch_rows: Int64s, batch: Any) -> list[Any]:
        kinds, refs = file.order.kind[ready], file.order.ref[ready]
        pieces: list[Any] = []
        base = kinds == BASE
        at = np.searchsorted(batch_rows, file.rows[refs[base]]) if base.any() else np.zeros(0, np.int64)
        index = np.full(len(kinds), -1)
        index[base] = at
        # A run of base records that lie one behind the other in the block is copied as one piece.
        new_run = np.ones(len(kinds), dtype=np.bool_)
        if base.any():
            starts, ends = batch.starts[index], batch.ends[index]
            new_run[1:] = ~(base[1:] & base[:-1] & (starts[1:] == ends[:-1] + 1))
        firsts = np.flatnonzero(new_run)
        for first, stop in zip(firsts.tolist(), [*firsts[1:].tolist(), len(kinds)], strict=True):
            if base[first]:
                pieces.append(_lines(batch, int(index[first]), int(index[stop - 1])))
            elif kinds[first] == REFILL:
                pieces.append(file.release(int(refs[first])))
            else:
                pieces.append(self._synthetic_line(file, int(refs[first])))
        return pieces

    def _rows(self, file: _File, ready: slice, batch_rows: Int64s, batch: Any) -> pa.RecordBatch:
        kinds, refs = file.order.kind[ready], file.order.ref[ready]
        index = np.zeros(len(kinds), np.int64)
        base, refill = kinds == BASE, np.flatnonzero(kinds == REFILL)
        tables: list[pa.RecordBatch] = []
        if base.any():
            index[base] = np.searchsorted(batch_rows, file.rows[refs[base]])
            tables.append(_fit(batch.rows, self.schema))
        offset = sum(map(len, tables))
        index[refill] = offset + np.arange(len(refill))
        tables += [_fit(file.release(int(refs[i])), self.schema) for i in refill]
        synthetic = np.flatnonzero(kinds == SYNTHETIC)
        index[synthetic] = offset + len(refill) + np.arange(len(synthetic))
        if len(synthetic):
            records = [self._synthetic_record(file, int(refs[i])) for i in synthetic]
            tables.append(_synthetic_rows(records, self.schema))
        return pa.concat_batches(tables).take(index)

    def _synthetic_record(self, file: _File, ref: int) -> dict[str, Any]:
        row = file.synthetic.slice(ref, 1).to_pylist()[0]
        text = store_for(row["text_url"]).read_range(row["text_url"], row["offset"], row["bytes"]).decode()
        converted = self.schema is not None and self.schema.equals(CONVERTED)
        text_field, id_field = ("text", "id") if converted else (self.main.text, self.main.id)
        record: dict[str, Any] = {}
        if self.plan.with_id and id_field:
            _put(record, id_field, row["id"])
        _put(record, text_field, text)
        return record

    def _synthetic_line(self, file: _File, ref: int) -> bytes:
        return orjson.dumps(self._synthetic_record(file, ref)) + b"\n"


def _put(record: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, name = dotted.split(".")
    for parent in parents:
        record = record.setdefault(parent, {})
    record[name] = value


def _lines(batch: Records, first: int, last: int) -> Any:
    piece = memoryview(batch.data)[batch.starts[first] : batch.ends[last] + 1]
    # Only the last line of a shard may lack its newline; two records must never become one.
    return piece if len(piece) > batch.ends[last] - batch.starts[first] else bytes(piece) + b"\n"


def _as_lines(batch: Rows) -> Records:
    """Converted records as JSON lines; metadata is an object there."""
    lines = [orjson.dumps({**row, "metadata": orjson.Fragment(row["metadata"])}) + b"\n" for row in batch.rows.to_pylist()]
    sizes = np.array([len(line) for line in lines], np.int64)
    ends = np.cumsum(sizes) - 1
    return Records(batch.position, np.frombuffer(b"".join(lines), np.uint8), ends - sizes + 1, ends)


def _line(batch: Any, index: int) -> bytes:
    return bytes(_lines(batch, index, index))


def _fit(rows: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Rows with the output's columns: what a shard lacks is null."""
    if rows.schema.equals(schema):
        return rows
    columns = [rows.column(f.name).cast(f.type) if f.name in rows.schema.names else pa.nulls(len(rows), f.type)
               for f in schema]  # fmt: skip
    return pa.record_batch(columns, schema=schema)


def _synthetic_rows(records: list[dict[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    """Synthetic records as rows; an id column that holds no strings stays null."""
    textual = [f.name for f in schema if _is_text(f.type)]
    records = [{k: v for k, v in r.items() if k in textual or isinstance(v, dict)} for r in records]
    return pa.RecordBatch.from_pylist(records, schema=pa.schema([f.with_nullable(True) for f in schema])).cast(schema)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _read_batches(
    receipt: Receipt, base: _Base, start: int, stop: int, wanted: Int64s, plan: Plan, settings: Settings
) -> Iterator[tuple[Int64s, Any]]:
    """Batches of the wanted records of one slice, with their group rows.

    Raises:
      InputChanged: The shard does not hold what was annotated.
    """
    part, source = receipt.part, settings.sources[receipt.part.source_index]
    positions = base.table.column("position").to_numpy()[start:stop]
    rows = wanted[(wanted >= start) & (wanted < stop)]
    seen, crc32c = 0, google_crc32c.Checksum()
    form = "converted" if plan.form == "lines" and part.format != Format.JSONL.value else plan.form
    with store_for(part.shard).open(part.shard, part.version) as file:
        for batch in read_records(
            file, part, source, settings.limits, form=form, wanted=positions[rows - start], on_raw=crc32c.update
        ):
            group_rows = start + np.searchsorted(positions, batch.position)
            seen += len(group_rows)
            yield group_rows, batch if form == plan.form else _as_lines(batch)
    same = not is_whole(part) or "crc32c:" + crc32c.digest().hex() == receipt.raw_crc32c
    if seen != len(rows) or not same:
        raise InputChanged(
            f"{part.shard}: {seen:,} of {len(rows):,} records are where they were annotated"
            f"{'' if same else ', and its bytes are others'}: the object changed during the build; build again"
        )


def mix_group(group: Group, plan: Plan, settings: Settings) -> GroupReceipt:
    """Write all files of a group, or find them written.

    Idempotent: every attempt writes the same bytes under the same names; the group's receipt comes last.

    Raises:
      InputChanged: A slice is not what was annotated.
      OutputConflict: A file of that name holds other bytes.
    """
    url = join(settings.folder, "groups", f"{group.number:06d}.json")
    store = store_for(url)
    if store.stat(url) is not None:
        with store.open(url) as raw:
            receipt = _from_json(json.loads(raw.read()))
        if all(_is_there(written) for file in receipt.files for written in (file.data, file.provenance)):
            return receipt._replace(reused=True)
    base = _load_base(group, plan, settings.sources)
    files = _files_of(group, plan, base)
    with tempfile.TemporaryDirectory(prefix="counterpoise-") as spool:
        writer = _Writer(plan, settings, spool)
        for index, file in enumerate(files):
            writer.open(file, index)
        wanted = np.unique(np.concatenate([np.zeros(0, np.int64), *(f.rows for f in files)]))
        for receipt_, start, stop in zip(group.receipts, base.offsets[:-1], base.offsets[1:], strict=True):
            for rows, batch in _read_batches(receipt_, base, int(start), int(stop), wanted, plan, settings):
                if len(rows):
                    for file in files:
                        writer.write(file, rows, batch)
                    heartbeat.add(mixed_records=len(rows))
        for file in files:
            writer.write(file, np.zeros(0, np.int64), None)
        receipts = tuple(_finish(file, index, plan, settings, spool) for index, file in enumerate(files))
    done = GroupReceipt(group.number, receipts, reused=False)
    store.create_bytes(url, json.dumps(_to_json(done)).encode())
    return done


def _is_there(written: Written) -> bool:
    info = store_for(written.url).stat(written.url)
    return info is not None and info.size == written.bytes


def _finish(file: _File, index: int, plan: Plan, settings: Settings, spool: str) -> FileReceipt:
    part = file.part
    if file.written != len(file.order.kind) or file.held:
        raise Unaccounted(f"{part.stream.folder} file {part.number}: wrote {file.written} of {len(file.order.kind)} records")
    data = file.data.commit()
    url = join(settings.output, part.stream.folder, "provenance", part.name("parquet"))
    table = RowsOutput(os.path.join(spool, f"{index}.provenance"), url, PROVENANCE, use_dictionary=_DICTIONARY)
    for batch in file.provenance.to_batches(max_chunksize=1 << 16):
        table.write(batch)
    amounts = _amounts(file.provenance)
    unit = UNITS.index(plan.unit)
    by_origin: dict[str, Amounts] = {}
    for (_, origin), amount in amounts.items():
        by_origin[origin] = plus(by_origin.get(origin, NONE), amount)
    synthetic = by_origin.get("synthetic", NONE)[unit]
    total = sum(a[unit] for a in by_origin.values())
    largest = 0 if file.synthetic is None else int(_amount(file.synthetic, plan.unit, np.arange(len(file.synthetic))).max())
    return FileReceipt(
        part.stream, part.number, len(file.order.kind), data, table.commit(), amounts, total - synthetic, synthetic, largest
    )


_DICTIONARY: Final = ["source", "shard", "origin", "language", "stance"]


def _to_json(receipt: GroupReceipt) -> dict[str, Any]:
    files = []
    for file in receipt.files:
        values = file._asdict()
        values["amounts"] = [[*key, *amounts] for key, amounts in sorted(file.amounts.items())]
        files.append(values)
    return {"number": receipt.number, "files": files}


def _from_json(values: dict[str, Any]) -> GroupReceipt:
    files = []
    for file in values["files"]:
        file["stream"], file["data"] = Stream(*file["stream"]), Written(*file["data"])
        file["provenance"] = Written(*file["provenance"])
        file["amounts"] = {(source, origin): tuple(amounts) for source, origin, *amounts in file["amounts"]}
        files.append(FileReceipt(**file))
    return GroupReceipt(values["number"], tuple(files), reused=False)


@dataclasses.dataclass(kw_only=True, eq=False)
class MixSlices(beam.PTransform):
    """Write every group's files; takes groups and the plan, emits one GroupReceipt per Group, in no set order."""

    settings: Settings

    def __post_init__(self) -> None:
        super().__init__()

    @no_annotations
    def expand(
        self, inputs: tuple[beam.PCollection[Group], beam.PCollection[Plan]]
    ) -> beam.PCollection[GroupReceipt]:
        groups, plan = inputs
        mix = beam.ParDo(_Mix(self.settings), beam.pvalue.AsSingleton(plan))
        return groups | "Deal" >> beam.Reshuffle() | "Mix" >> mix


class _Mix(beam.DoFn):
    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings

    def process(self, group: Group, plan: Plan) -> Iterator[GroupReceipt]:
        with heartbeat.working("mix", f"group {group.number} ({len(group.receipts)} slices)"):
            receipt = mix_group(group, plan, self.settings)
        count(Counter.GROUPS_REUSED, int(receipt.reused))
        count(Counter.PARTS_WRITTEN, len(receipt.files))
        count(Counter.RECORDS_WRITTEN, sum(f.records for f in receipt.files))
        count(Counter.BYTES_WRITTEN, sum(f.data.bytes for f in receipt.files))
        heartbeat.done("mix", reused=receipt.reused)
        yield receipt
