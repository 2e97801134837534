"""Parquet: the texts of a run of row groups, and later the rows that were chosen."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from transforms.decode import HEAD_BYTES, DecodeLimits
from transforms.errors import BadShard, ConfigError, InputChanged
from transforms.lines import Positions
from transforms.record import (
    PARQUET_ENCRYPTED,
    PARQUET_MAGIC,
    Fields,
    OnRaw,
    Rows,
    among,
    converted_batch,
    dump,
    is_utf8,
    path_of,
    remove,
    texts_batch,
)
from transforms.schema import BadRecord, RecordFault, ShardFault, Slice, Source, Texts

_PARQUET_BUFFER: Final = 8 << 20  # without it Arrow holds whole column chunks: 316 MB against 42 MB for one shard
_PARQUET_ROWS: Final = 256  # most rows decoded at once, so that a run of very long texts stays small
_PARQUET_ERRORS: Final = (pa.ArrowException, OSError, MemoryError, OverflowError, UnicodeDecodeError)


class _Guarded:
    """A file whose own errors can be told from those of the Parquet reader, and which never reads short."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def read(self, size: int = -1) -> bytes:
        try:
            parts = [self.file.read(size)]
            while parts[-1] and 0 <= sum(map(len, parts)) < size:
                parts.append(self.file.read(size - sum(map(len, parts))))
        except OSError as error:
            self.error = error
            raise
        return b"".join(parts)

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return self.file.seek(offset, whence)
        except OSError as error:
            self.error = error
            raise

    def tell(self) -> int:
        return self.file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def close(self) -> None:
        """Leave the file to its owner."""


def _open_parquet(file: _Guarded, limits: DecodeLimits, on_raw: OnRaw) -> pq.ParquetFile:
    """Open a shard after looking at both its ends."""
    if on_raw is not None:
        while block := file.read(limits.block_bytes):
            on_raw(block)
    size = file.seek(0, 2)
    file.seek(0)
    head = file.read(4)
    file.seek(max(0, size - 4))
    tail = file.read(4)
    file.seek(0)
    if size == 0:
        raise BadShard(ShardFault.EMPTY.value, 0, "0 bytes; a Parquet file without rows has a footer")
    if PARQUET_ENCRYPTED in (head, tail):
        raise BadShard(ShardFault.ENCRYPTED.value, 0, "Parquet with an encrypted footer")
    if head != PARQUET_MAGIC:
        raise BadShard(ShardFault.NOT_THE_FORMAT.value, 0, f"starts with {head!r} in place of {PARQUET_MAGIC!r}")
    if tail != PARQUET_MAGIC or size < 12:
        raise BadShard(ShardFault.TRUNCATED.value, size, f"ends with {tail!r} in place of {PARQUET_MAGIC!r}")
    with _parquet_errors(file):
        return pq.ParquetFile(file, pre_buffer=False, buffer_size=_PARQUET_BUFFER, page_checksum_verification=True)


@contextlib.contextmanager
def _parquet_errors(file: _Guarded) -> Iterator[None]:
    """Turn what Arrow raises on a damaged shard into `BadShard`, and leave the storage's own errors alone."""
    try:
        yield
    except _PARQUET_ERRORS as error:
        if file.error is not None:
            raise file.error from None
        fault = ShardFault.ENCRYPTED if "crypt" in str(error).lower() else ShardFault.CORRUPT
        raise BadShard(fault.value, -1, f"Parquet: {str(error).partition(chr(10))[0][:300]}") from error


class _Table(NamedTuple):
    """An open Parquet shard and the paths of the columns that the source names; () for one it does not name."""

    parquet: pq.ParquetFile
    file: _Guarded
    fields: Fields


def _open_table(file: BinaryIO, part: Slice, source: Source, limits: DecodeLimits, on_raw: OnRaw) -> _Table:
    """Open a shard, prove that its footer agrees with itself, and find the source's columns."""
    guarded = _Guarded(file)
    parquet = _open_parquet(guarded, limits, on_raw)
    with _parquet_errors(guarded):
        schema = parquet.schema_arrow
        groups = [parquet.metadata.row_group(i).num_rows for i in range(parquet.metadata.num_row_groups)]
    if parquet.metadata.num_rows != sum(groups) or min(groups, default=0) < 0:
        raise BadShard(ShardFault.CORRUPT.value, -1, "Parquet: the footer's row counts do not add up")
    if max(part.start, part.end) > len(groups):
        raise InputChanged(f"{part.shard} has {len(groups)} row groups, and the plan reads to {part.end}; use --replan")
    problems: list[str] = []

    def path(role: str, name: str, accepts: Callable[[pa.DataType], bool], what: str) -> tuple[str, ...]:
        return _column(schema, part.shard, role, name, accepts, what, problems)

    fields = Fields(
        path("text", source.text, _is_string, "string"),
        path("id", source.id, lambda kind: _is_string(kind) or pa.types.is_integer(kind), "string or integer"),
        path("token_count", source.token_count, pa.types.is_integer, "integer"),
        path("quota", source.quota_field, _is_scalar, "string, number or boolean"),
    )
    if problems:
        raise ConfigError(problems)
    return _Table(parquet, guarded, fields)


def _column(
    schema: pa.Schema,
    shard: str,
    role: str,
    name: str,
    accepts: Callable[[pa.DataType], bool],
    what: str,
    problems: list[str],
) -> tuple[str, ...]:
    """Return the path of a named column, or note why there is none."""
    if not name:
        return ()
    path = (name,) if name in schema.names else path_of(name)
    count = len(schema.get_all_field_indices(path[0]))
    found: pa.DataType | None = schema.field(schema.get_all_field_indices(path[0])[0]).type if count else None
    for step in path[1:]:
        inside = isinstance(found, pa.StructType) and found.get_field_index(step) >= 0
        found = found.field(step).type if found is not None and inside else None
    where = f"{shard}: {role} column {name!r}"
    if count > 1:
        problems.append(f"{where} is there {count} times; rename all but one")
    elif found is None:
        drop = f", or leave it out with {role}: ''" if role == "id" else ""
        problems.append(f"{where} is not there; there are {', '.join(map(repr, schema.names))}. Name one of them{drop}")
    elif not accepts(_plain_type(found)):
        problems.append(f"{where} is of type {found}, and must be {what}")
    return path


def _plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of the values of a dictionary or extension type."""
    while True:
        if isinstance(kind, pa.DictionaryType):
            kind = kind.value_type
        elif isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        else:
            return kind


def _is_string(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_scalar(kind: pa.DataType) -> bool:
    return bool(
        _is_string(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_floating(kind)
    )


def _leaf(batch: pa.RecordBatch, path: tuple[str, ...]) -> pa.Array:
    """Return the (nested) column at a path; null where a parent is null. Dictionaries and extensions are undone."""
    column = _undo(batch.column(path[0]))
    for step in path[1:]:
        column = _undo(pc.struct_field(column, [column.type.get_field_index(step)]))
    return column


def _undo(column: pa.Array) -> pa.Array:
    while not column.type.equals(_plain_type(column.type)):
        column = column.dictionary_decode() if isinstance(column, pa.DictionaryArray) else column.storage
    return column


def _strings(batch: pa.RecordBatch, path: tuple[str, ...]) -> pa.Array:
    """Return a column as large_string; nulls where the source names no such column."""
    if not path:
        return pa.nulls(batch.num_rows, pa.large_string())
    return _leaf(batch, path).cast(pa.large_string())


def _row_batches(
    table: _Table, part: Slice, limits: DecodeLimits, columns: list[str] | None, wanted: Positions | None = None
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield the rows of a slice with the number of each batch's first row; without groups that hold nothing wanted."""
    metadata = table.parquet.metadata
    end = metadata.num_row_groups if part.end < 0 else part.end
    first = sum(metadata.row_group(i).num_rows for i in range(part.start))
    for group in range(part.start, end):
        rows = metadata.row_group(group).num_rows
        if wanted is None or np.searchsorted(wanted, first) < np.searchsorted(wanted, first + rows):
            at = first
            for batch in _gather_rows(_group_batches(table, group, limits, columns), limits.block_bytes):
                yield at, batch
                at += batch.num_rows
            if at != first + rows:
                raise BadShard(
                    ShardFault.CORRUPT.value, -1, f"Parquet: row group {group} has {at - first} rows of {rows}"
                )
        first += rows


def _group_batches(
    table: _Table, group: int, limits: DecodeLimits, columns: list[str] | None
) -> Iterator[pa.RecordBatch]:
    """Decode one row group in steps of about `block_bytes`, or of 256 rows where that is less."""
    with _parquet_errors(table.file):
        info = table.parquet.metadata.row_group(group)
        row_bytes = info.total_byte_size // max(1, info.num_rows)
        rows = max(1, min(_PARQUET_ROWS, limits.block_bytes // max(1, row_bytes)))
        yield from table.parquet.iter_batches(batch_size=rows, row_groups=[group], columns=columns, use_threads=False)


def _gather_rows(batches: Iterable[pa.RecordBatch], size: int) -> Iterator[pa.RecordBatch]:
    """Join small batches, and split large ones, to between `size` and twice that."""
    held: list[pa.RecordBatch] = []
    total = 0
    for batch in batches:
        held.append(batch)
        total += batch.nbytes
        if total >= size:
            yield from _halves(_joined(held), size)
            held, total = [], 0
    if held:
        yield _joined(held)


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    if len(batches) == 1:
        return batches[0]
    return pa.Table.from_batches(batches).combine_chunks().to_batches()[0]


def _halves(batch: pa.RecordBatch, size: int) -> Iterator[pa.RecordBatch]:
    if batch.num_rows < 2 or batch.nbytes <= 2 * size:
        yield batch
        return
    middle = batch.num_rows // 2
    yield from _halves(batch.slice(0, middle), size)
    yield from _halves(batch.slice(middle), size)


def parquet_texts(file: BinaryIO, part: Slice, source: Source, limits: DecodeLimits, on_raw: OnRaw) -> Iterator[Texts]:
    """Yield the documents and bad rows of a slice, as `read_texts` says."""
    table = _open_table(file, part, source, limits, on_raw)
    columns = sorted({".".join(path) for path in table.fields if path})
    for first, batch in _row_batches(table, part, limits, columns):
        with _parquet_errors(table.file):
            texts = _texts_of_rows(first, batch, table.fields, limits)
        yield texts


def _texts_of_rows(first: int, batch: pa.RecordBatch, fields: Fields, limits: DecodeLimits) -> Texts:
    """Tell the documents of a batch from its bad rows."""
    text = _strings(batch, fields.text)
    ids, strata = _strings(batch, fields.id), _strings(batch, fields.quota_field)
    sizes = pc.fill_null(pc.binary_length(text), 0).to_numpy(zero_copy_only=False)
    broken = np.zeros(batch.num_rows, bool)
    broken[[*_not_utf8(text), *_not_utf8(ids), *_not_utf8(strata)]] = True
    if fields.token_count:
        tokens = _leaf(batch, fields.token_count).cast(pa.int64(), safe=False)  # past 2**63 it turns negative
        uncounted = ~_truth(pc.fill_null(pc.greater_equal(tokens, 0), False))
    else:
        tokens, uncounted = pa.nulls(batch.num_rows, pa.int64()), np.zeros(batch.num_rows, bool)
    faults = {  # the first that holds is told
        RecordFault.NO_TEXT: _truth(pc.is_null(text)),
        RecordFault.TOO_LONG: sizes > limits.max_record_bytes,
        RecordFault.NOT_UTF8: broken,
        RecordFault.NO_TOKEN_COUNT: uncounted,
    }
    good = ~np.any(list(faults.values()), axis=0)
    bad = []
    for i in np.flatnonzero(~good).tolist():
        reason = next(fault.value for fault, holds in faults.items() if holds[i])
        bad.append(BadRecord(first + i, reason, int(sizes[i]), _head(text, i)))
    rows = texts_batch(np.arange(first, first + batch.num_rows), text, ids, tokens, strata, sizes=sizes)
    return Texts(rows.filter(pa.array(good)) if bad else rows, bad)


def _truth(column: pa.Array) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = column.to_numpy(zero_copy_only=False)
    return found


def _head(text: pa.Array, row: int) -> bytes:
    value = text[row].as_buffer()
    return b"" if value is None else value.slice(0, min(value.size, HEAD_BYTES)).to_pybytes()


def _not_utf8(column: pa.Array) -> list[int]:
    """Return the rows whose bytes are not UTF-8; Parquet does not ask."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        values = column.cast(pa.large_binary()).to_pylist()
        return [i for i, value in enumerate(values) if value is not None and not is_utf8(value)]
    return []


def parquet_rows(
    file: BinaryIO,
    part: Slice,
    source: Source,
    limits: DecodeLimits,
    wanted: Positions,
    on_raw: OnRaw,
    *,
    converted: bool,
) -> Iterator[Rows]:
    """Yield the wanted rows of a slice: the shard's own columns, or converted."""
    table = _open_table(file, part, source, limits, on_raw)
    for first, batch in _row_batches(table, part, limits, None, wanted):
        position = np.arange(first, first + batch.num_rows)
        keep = among(position, wanted)
        if not keep.any():
            continue
        with _parquet_errors(table.file):
            chosen = batch if keep.all() else batch.filter(pa.array(keep))
            rows = _convert_rows(chosen, table.fields) if converted else chosen
        yield Rows(position[keep], rows)


def _convert_rows(batch: pa.RecordBatch, fields: Fields) -> pa.RecordBatch:
    """Turn rows into `CONVERTED` columns; the metadata are the columns other than text and id."""
    whole = {path[0] for path in (fields.text, fields.id) if len(path) == 1}
    names = [name for name in batch.schema.names if name not in whole]
    columns = [_json_values(batch.column(name)) for name in names]
    metadata = []
    for values in zip(*columns, strict=True) if columns else [()] * batch.num_rows:
        row = dict(zip(names, values, strict=True))
        for path in (fields.text, fields.id):
            if len(path) > 1:
                remove(row, path)
        metadata.append(dump(row))
    return converted_batch(_strings(batch, fields.id), _strings(batch, fields.text), metadata)


def _json_values(column: pa.Array) -> list[Any]:
    """Return a column's values as what `dump` can write."""
    with contextlib.suppress(pa.ArrowNotImplementedError):
        column = column.cast(_json_type(column.type, zone="UTC")).cast(_json_type(column.type))
    try:
        values: list[Any] = column.to_pylist()
    except UnicodeDecodeError:
        values = [_decoded(value) for value in column.cast(_json_type(column.type, text=pa.large_binary())).to_pylist()]
    return values


def _decoded(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, list | tuple):
        return [_decoded(item) for item in value]
    if isinstance(value, dict):
        return {name: _decoded(item) for name, item in value.items()}
    return value


def _json_type(kind: pa.DataType, *, zone: str = "", text: pa.DataType | None = None) -> pa.DataType:
    """Return the type to cast to before writing JSON; with `zone` only time zones change, to that one."""

    def inside(field: pa.Field) -> pa.Field:
        return field.with_type(_json_type(field.type, zone=zone, text=text))

    kind = _plain_type(kind)
    if pa.types.is_struct(kind):
        return pa.struct([inside(kind.field(i)) for i in range(kind.num_fields)])
    if pa.types.is_map(kind):
        return pa.map_(_json_type(kind.key_type, zone=zone, text=text), inside(kind.item_field))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(inside(kind.value_field), kind.list_size)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return (pa.list_ if pa.types.is_list(kind) else pa.large_list)(inside(kind.value_field))
    return _json_leaf(kind, zone, text)


def _json_leaf(kind: pa.DataType, zone: str, text: pa.DataType | None) -> pa.DataType:
    """Do the same for a type that holds no others."""
    if zone:
        return pa.timestamp(kind.unit, zone) if pa.types.is_timestamp(kind) and kind.tz else kind
    if pa.types.is_temporal(kind) or pa.types.is_decimal(kind):
        return pa.int64() if pa.types.is_duration(kind) else pa.large_string()
    return text if text is not None and _is_string(kind) else kind
