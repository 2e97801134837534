"""Put an output file together: base records as they are read, held copies, and synthetic records fetched by range."""

from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from transforms.layout import Part
from transforms.plan import Plan, read_schedule
from transforms.provenance import Base, amount_of
from transforms.read import Records, Rows
from transforms.schema import CONVERTED, Source
from transforms.sequence import BASE, REFILL, SYNTHETIC, Sequence, sequence
from transforms.storage import store_for
from transforms.write import LinesOutput, RowsOutput

Int64s = npt.NDArray[np.int64]


class OutputFile:
    """One output file while its group is being read.

    Args:
      rows: Group rows of the base documents in it, ascending, int64[n].
      copies: How often each appears, int32[n].
    """

    def __init__(self, part: Part, rows: Int64s, copies: npt.NDArray[np.int32]) -> None:
        self.part, self.rows, self.copies = part, rows, copies
        self.output: Any = None  # LinesOutput or RowsOutput, as the plan's form wants
        self.synthetic: pa.Table = None  # rows of the schedule, where there are any
        self.written = 0

    def begin(self, base: Base, plan: Plan, output: LinesOutput | RowsOutput) -> None:
        """Settle the order of the records; only now, so that a group holds few orders at a time."""
        self.output = output
        amount = amount_of(base.table, plan.unit, self.rows) * self.copies
        url = plan.arm(self.part.stream.arm).schedule
        self.synthetic = (
            read_schedule(url, self.part.first, self.part.last) if self.part.last > self.part.first else None
        )
        places = self.synthetic.column("place").to_numpy() if self.synthetic is not None else np.zeros(0)
        self.order: Sequence = sequence(self.copies, self.part.base_start + np.cumsum(amount) - amount, places)
        refs = self.order.ref[self.order.kind == REFILL]
        self.copies_left = dict(zip(*(x.tolist() for x in np.unique(refs, return_counts=True)), strict=True))
        self.held: dict[int, Any] = {}

    def begins_by(self, row: int) -> bool:
        """Whether a base document of this file lies at or before a group row."""
        return bool(len(self.rows)) and int(self.rows[0]) <= row

    @property
    def is_complete(self) -> bool:
        """Whether every record is written."""
        return self.output is not None and self.written == len(self.order.kind)

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


class Composer:
    """Writes records in the plan's form; `main` is the source whose field names synthetic records take."""

    def __init__(self, plan: Plan, main: Source) -> None:
        self.plan, self.main = plan, main
        self.schema = pa.ipc.read_schema(pa.py_buffer(plan.columns)) if plan.columns else None

    def open(self, spool: str, url: str, output_format: str) -> LinesOutput | RowsOutput:
        """Begin an output object, spooled to the local file `spool`."""
        if self.plan.form == "lines":
            return LinesOutput(spool, url, output_format)
        return RowsOutput(spool, url, self.schema, use_dictionary=False)

    def write(self, file: OutputFile, batch_rows: Int64s, batch: Records | Rows | None) -> None:
        """Write all that can be written now that the batch's rows (group rows, ascending) were read."""
        last = int(batch_rows[-1]) if len(batch_rows) else np.iinfo(np.int64).max
        ready = file.ready(last)
        if self.plan.form == "lines":
            self._hold(file, batch_rows, lambda i: _line(batch, i))
            if ready.stop > ready.start:
                file.output.write(self._line_pieces(file, ready, batch_rows, batch))
        else:
            self._hold(file, batch_rows, lambda i: batch.rows.slice(i, 1))  # type: ignore[union-attr]
            if ready.stop > ready.start:
                file.output.write(self._rows(file, ready, batch_rows, batch))

    def _hold(self, file: OutputFile, batch_rows: Int64s, take: Any) -> None:
        """Keep the records of this batch that will be repeated later."""
        if not file.copies_left:
            return
        refs = np.searchsorted(file.rows, batch_rows)
        for i, ref in enumerate(refs.tolist()):
            if ref < len(file.rows) and file.rows[ref] == batch_rows[i] and ref in file.copies_left:
                file.held[ref] = take(i)

    def _line_pieces(self, file: OutputFile, ready: slice, batch_rows: Int64s, batch: Any) -> list[Any]:
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

    def _rows(self, file: OutputFile, ready: slice, batch_rows: Int64s, batch: Any) -> pa.RecordBatch:
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

    def _synthetic_record(self, file: OutputFile, ref: int) -> dict[str, Any]:
        row = file.synthetic.slice(ref, 1).to_pylist()[0]
        text = store_for(row["text_url"]).read_range(row["text_url"], row["offset"], row["bytes"]).decode()
        converted = self.schema is not None and self.schema.equals(CONVERTED)
        text_field, id_field = ("text", "id") if converted else (self.main.text, self.main.id)
        record: dict[str, Any] = {}
        if self.plan.with_id and id_field:
            _put(record, id_field, row["id"])
        _put(record, text_field, text)
        return record

    def _synthetic_line(self, file: OutputFile, ref: int) -> bytes:
        return orjson.dumps(self._synthetic_record(file, ref)) + b"\n"


def _put(record: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, name = dotted.split(".")
    for parent in parents:
        record = record.setdefault(parent, {})
    record[name] = value


def _lines(batch: Records, first: int, last: int) -> Any:
    return batch.data[batch.starts[first] : batch.ends[last] + 1].data


def as_lines(batch: Rows) -> Records:
    """Converted records as JSON lines; metadata is an object there."""
    lines = [
        orjson.dumps({**row, "metadata": orjson.Fragment(row["metadata"])}) + b"\n" for row in batch.rows.to_pylist()
    ]
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
