"""The records of one slice as Arrow batches, whatever the format.

`read_texts` gives the text and amounts of every document; `read_records` later gives the records that were chosen,
by position. Both read the same slice in the same way, so a position means the same record in both.

Fields become Arrow columns as follows. A text must be a string; everything else is strict too:

    id             a string as it is, a number as its decimal string, anything else null
    token_count    a non-negative integer, or the record is bad
    stratum        a string as it is, a number or boolean as JSON writes it, anything else null

Metadata of a converted record is a JSON object. What JSON cannot hold becomes: timestamps, dates, times and decimals
their decimal or ISO form as Arrow prints it (UTC with a final Z); durations the integer count of their unit; bytes
base64; maps lists of pairs; NaN and infinities null; bytes that are not UTF-8 U+FFFD. A JSON line nested more than
about 900 levels deep is kept whole, as a string in the field "line".
"""

import base64
import contextlib
import itertools
import json
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from transforms.decode import (
    HEAD_BYTES,
    DecodeLimits,
    Lines,
    Positions,
    WarcRecord,
    decompressed,
    lines,
    pick,
    sniff,
    warc_records,
)
from transforms.errors import BadShard, ConfigError, InputChanged
from transforms.schema import (
    CONVERTED,
    TEXTS,
    BadRecord,
    Codec,
    Format,
    RecordFault,
    ShardFault,
    Slice,
    Source,
    Texts,
)

OnRaw = Callable[[bytes], None] | None

_PARQUET: Final = b"PAR1"
_PARQUET_ENCRYPTED: Final = b"PARE"
_PARQUET_BUFFER: Final = 8 << 20  # without it Arrow holds whole column chunks: 316 MB against 42 MB for one shard
_PARQUET_ROWS: Final = 256  # most rows decoded at once, so that a run of very long texts stays small
_PARQUET_ERRORS: Final = (pa.ArrowException, OSError, MemoryError, OverflowError, UnicodeDecodeError)
_LINES: Final = 1 << 16  # most of one batch: a parsed line costs some 300 bytes, however short it is
_PAST_END: Final = 1 << 16
_ARCHIVE_RECORDS: Final = 4096  # most of one batch
_ACCEPTED: Final = ".jsonl, .json or .ndjson (plain, .gz, .zst), .parquet, .warc.wet or .warc (plain, .gz, .zst)"
# A number past 64 bits as orjson writes it, having read it as a float.
_HUGE: Final = re.compile("[0-9]e[+]?(?:1[89]|[2-9][0-9]|[1-3][0-9][0-9])")
_COMPRESSED: Final = (".gz", ".gzip", ".zst", ".zstd")


class Records(NamedTuple):
    """JSON lines as they stand in the shard; the fields are those of `decode.Lines`."""

    position: Positions
    data: npt.NDArray[np.uint8]
    starts: Positions
    ends: Positions


class Rows(NamedTuple):
    """Records as columns: the shard's own (Parquet), or those of `schema.CONVERTED`."""

    position: Positions
    rows: pa.RecordBatch


def read_texts(
    file: BinaryIO, part: Slice, source: Source, limits: DecodeLimits, on_raw: OnRaw = None
) -> Iterator[Texts]:
    """Yield every document of a slice, with the bad records met on the way, in order.

    Batches hold about `limits.block_bytes` of text, or one longer document.

    Args:
      file: The shard, open at its start; seekable for Parquet and for a slice of plain JSONL.
      part: What to read of it.
      source: Field names.
      limits: Bounds on what the shard may ask for.
      on_raw: Sees the raw bytes in order and once: all of the shard, or the bytes read for a range of plain JSONL.
        (A Parquet shard is read through once more for it.)

    Raises:
      BadShard: Nothing of the shard may be used, what was yielded included.
      ConfigError: A Parquet shard lacks a column, or has it twice, or with another type.
    """
    match Format(part.format):
        case Format.JSONL:
            judge = _Judge(source)
            for run, bad in _slice_lines(file, part, limits, on_raw):
                yield from (_parse_lines(*portion, judge) for portion in _portions(run, bad))
        case Format.PARQUET:
            yield from _parquet_texts(file, part, source, limits, on_raw)
        case Format.WET | Format.WARC:
            yield from _archive_texts(file, part, limits, on_raw)


def read_records(
    file: BinaryIO,
    part: Slice,
    source: Source,
    limits: DecodeLimits,
    *,
    form: Literal["lines", "rows", "converted"],
    wanted: Positions,
    on_raw: OnRaw = None,
) -> Iterator[Records | Rows]:
    """Yield the records at the `wanted` positions, in order, and no others.

    Args:
      file, part, source, limits, on_raw: As for `read_texts`.
      form: "lines" (JSONL: the original bytes), "rows" (Parquet: the original columns) or "converted" (any format).
      wanted: Sorted positions that `read_texts` gave for this slice.

    Raises:
      BadShard: As in `read_texts`.
      InputChanged: A wanted record is not there, so the shard is not the one that was read before.
    """
    found = 0
    for records in _records(file, part, source, limits, form, wanted, on_raw):
        found += len(records.position)
        if len(records.position):
            yield records
    if found != len(wanted):
        raise InputChanged(
            f"{part.shard} has {found} of the {len(wanted)} records that the plan takes from it: it was replaced since "
            "the annotation; build again with --replan"
        )


def detect_format(name: str, head: bytes) -> Format:
    """Return the format of a shard from its name, or from its (decompressed) first bytes where the name says nothing.

    Raises:
      ConfigError: Neither shows an accepted format.
    """
    if head.startswith((_PARQUET, _PARQUET_ENCRYPTED)):
        return Format.PARQUET
    stem = name.lower()
    while stem.endswith(_COMPRESSED):
        stem = stem.rpartition(".")[0]
    for ending, shard_format in (
        (".parquet", Format.PARQUET),
        (".wet", Format.WET),
        (".warc", Format.WARC),
        (".jsonl", Format.JSONL),
        (".ndjson", Format.JSONL),
        (".json", Format.JSONL),
    ):
        if stem.endswith(ending):
            return shard_format
    if head.startswith(b"WARC/"):
        return Format.WET if b"WARC-Type: conversion" in head else Format.WARC
    if re.match(rb"(?:\xef\xbb\xbf)?\s*\{", head):
        return Format.JSONL
    raise ConfigError([f"{name}: no known format; accepted are {_ACCEPTED}. Name it with format:, or narrow paths:"])


def _records(
    file: BinaryIO, part: Slice, source: Source, limits: DecodeLimits, form: str, wanted: Positions, on_raw: OnRaw
) -> Iterator[Records | Rows]:
    shard_format = Format(part.format)
    if shard_format is Format.JSONL and form in ("lines", "converted"):
        for run, _ in _slice_lines(file, part, limits, on_raw):
            chosen = pick(run, _among(run.position, wanted))
            if form == "lines":
                yield Records(*chosen)
            else:
                yield from (_convert_lines(portion, source) for portion, _ in _portions(chosen, []))
    elif shard_format is Format.PARQUET and form in ("rows", "converted"):
        yield from _parquet_rows(file, part, source, limits, wanted, on_raw, converted=form == "converted")
    elif shard_format in (Format.WET, Format.WARC) and form == "converted":
        yield from _convert_archive(file, part, limits, wanted, on_raw)
    else:
        raise ValueError(f"{part.shard}: records of {shard_format.value} have no form {form!r}")


def _among(position: Positions, wanted: Positions) -> npt.NDArray[np.bool_]:
    """Tell which of the sorted positions are in the sorted `wanted`."""
    at = np.searchsorted(wanted, position)
    keep = at < len(wanted)
    keep[keep] = wanted[at[keep]] == position[keep]
    return keep


def _says_compressed(name: str) -> bool:
    return name.lower().endswith(_COMPRESSED)


# JSON lines


def _slice_lines(
    file: BinaryIO, part: Slice, limits: DecodeLimits, on_raw: OnRaw
) -> Iterator[tuple[Lines, list[BadRecord]]]:
    """Yield the lines that belong to a slice."""
    if part.start == 0 and part.end < 0:
        blocks = decompressed(file, limits, compressed_name=_says_compressed(part.shard), on_raw=on_raw)
        first = next(blocks, b"")
        if first.startswith((_PARQUET, b"WARC/")):
            raise BadShard(ShardFault.NOT_THE_FORMAT.value, 0, f"starts with {first[:4]!r}: not JSON lines")
        blocks = itertools.chain([first], blocks)
    else:
        end = part.end if part.end >= 0 else 1 << 62
        blocks = _plain_blocks(file, max(0, part.start - 1), end, limits, on_raw)
    return lines(blocks, limits, start=part.start, end=part.end)


def _plain_blocks(file: BinaryIO, start: int, end: int, limits: DecodeLimits, on_raw: OnRaw) -> Iterator[bytes]:
    """Read a plain shard from byte `start` on, and little past `end` at a time: only the last line goes there."""
    at = file.seek(start)
    while block := file.read(min(limits.block_bytes, max(end - at, _PAST_END))):
        if on_raw is not None:
            on_raw(block)
        if at == 0 and sniff(block) is not Codec.NONE:
            raise BadShard(ShardFault.NOT_THE_FORMAT.value, 0, "compressed data cannot be read from a byte offset")
        at += len(block)
        yield block


class _Fields(NamedTuple):
    """Where the fields of a document lie."""

    text: tuple[str, ...]
    id: tuple[str, ...]
    token_count: tuple[str, ...]
    quota_field: tuple[str, ...]


def _fields(source: Source) -> _Fields:
    return _Fields(*map(_path, (source.text, source.id, source.token_count, source.quota_field)))


def _path(name: str) -> tuple[str, ...]:
    return tuple(name.split(".")) if name else ()


def _find(document: Any, path: tuple[str, ...]) -> Any:
    """Return what lies at a path, or None. A member whose own name has the dots comes first."""
    if len(path) > 1 and isinstance(document, dict) and ".".join(path) in document:
        return document[".".join(path)]
    for name in path:
        if not isinstance(document, dict):
            return None
        document = document.get(name)
    return document


def _getter(name: str) -> Callable[[dict[str, Any]], Any]:
    """Return what finds a field in a parsed line, or None in its place."""
    path = _path(name)
    return operator.methodcaller("get", name) if len(path) == 1 else lambda document: _find(document, path)


def _portions(run: Lines, bad: list[BadRecord]) -> Iterator[tuple[Lines, list[BadRecord]]]:
    """Split a run of very many short lines, with the bad records that lie among them."""
    count = len(run.position)
    for a in range(0, max(1, count), _LINES):
        b = a + _LINES
        low = int(run.position[a]) if a else 0
        high = int(run.position[b]) if b < count else 1 << 63
        part = Lines(run.position[a:b], run.data, run.starts[a:b], run.ends[a:b])
        yield part, [each for each in bad if low <= each.position < high]


def _parse_lines(run: Lines, bad: list[BadRecord], judge: "_Judge") -> Texts:
    """Parse lines; one judge, orjson, decides what JSON is."""
    position = run.position.tolist()
    keep: list[int] = []
    columns: tuple[list[Any], ...] = ([], [], [], [])
    for i, line in enumerate(_each(run)):
        found = judge(line)
        if isinstance(found, RecordFault):
            bad.append(BadRecord(position[i], found.value, len(line), line[:HEAD_BYTES]))
            continue
        keep.append(i)
        for column, value in zip(columns, found, strict=True):
            column.append(value)
    bad.sort()
    chosen = np.array(keep, np.int64)
    return Texts(_texts(run.position[chosen], *columns, sizes=(run.ends - run.starts)[chosen]), bad)


def _each(run: Lines) -> list[bytes]:
    """Return every line as bytes; they are adjacent, so one split finds them all."""
    if not len(run.position):
        return []
    return run.data[run.starts[0] : run.ends[-1]].tobytes().split(b"\n")


class _Judge:
    """Returns a line's text, id, token count and stratum, or what is wrong with it."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.text, self.tokens = _getter(source.text), _getter(source.token_count)
        self.id = _path(source.id)
        self.stratum = _getter(source.quota_field)

    def __call__(self, line: bytes) -> tuple[str, str | None, int | None, str | None] | RecordFault:
        try:
            document = orjson.loads(line)
        except orjson.JSONDecodeError:
            return RecordFault.NOT_JSON if _is_utf8(line) else RecordFault.NOT_UTF8
        if type(document) is not dict:
            return RecordFault.NOT_OBJECT
        text, tokens = self.text(document), None
        if type(text) is not str:
            return RecordFault.NO_TEXT if text is None else RecordFault.TEXT_NOT_STRING
        if self.source.token_count:
            tokens = self.tokens(document)
            if type(tokens) is not int or not 0 <= tokens < 1 << 63:
                return RecordFault.NO_TOKEN_COUNT
        stratum = _stratum(self.stratum(document)) if self.source.quota_field else None
        return text, _id(document, self.id, line), tokens, stratum


def _id(document: dict[str, Any], path: tuple[str, ...], line: bytes) -> str | None:
    """Return a document's own id; numbers as the line spells them (orjson rounds integers past 64 bits)."""
    if not path:
        return None
    value = document.get(path[0]) if len(path) == 1 else _find(document, path)
    if type(value) is str:
        return value
    if type(value) is int:
        return str(value)
    if type(value) is float:
        try:
            return str(_find(json.loads(line, parse_int=str, parse_float=str), path))
        except RecursionError:  # orjson goes deeper than json
            return repr(value)
    return None


def _stratum(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    return orjson.dumps(value).decode() if isinstance(value, bool | int | float) else None


def _convert_lines(run: Lines, source: Source) -> Rows:
    """Turn lines that `read_texts` accepted into columns; the metadata are the other fields."""
    fields = _fields(source)
    ids, texts, metadata = [], [], []
    for line in _each(run):
        document = orjson.loads(line)
        ids.append(_id(document, fields.id, line))
        texts.append(_find(document, fields.text))
        try:
            metadata.append(_other_fields(document, fields, line))
        except RecursionError:  # orjson reads 1,024 levels, and nothing here writes as many
            metadata.append(_dump({"line": line.decode()}))
    return Rows(run.position, _converted(ids, texts, metadata))


def _other_fields(document: dict[str, Any], fields: _Fields, line: bytes) -> str:
    """Return a line without text and id as JSON."""
    for path in (fields.text, fields.id):
        _remove(document, path)
    found = _dump(document)
    if not _HUGE.search(found):
        return found
    document = json.loads(line)  # orjson rounds integers past 64 bits
    for path in (fields.text, fields.id):
        _remove(document, path)
    return _dump(document)


def _remove(document: Any, path: tuple[str, ...]) -> None:
    """Remove what `_find` finds."""
    if len(path) > 1 and ".".join(path) in document:
        del document[".".join(path)]
        return
    for name in path[:-1]:
        document = document.get(name)
        if not isinstance(document, dict):
            return
    if path:
        document.pop(path[-1], None)


def _dump(value: Any) -> str:
    try:
        return orjson.dumps(value, default=_json_default).decode()
    except orjson.JSONEncodeError:  # an integer past 64 bits
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _json_default(value: Any) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value)


def _converted(ids: Any, texts: Any, metadata: Any) -> pa.RecordBatch:
    columns = [c if isinstance(c, pa.Array) else pa.array(c, pa.large_string()) for c in (ids, texts, metadata)]
    return pa.RecordBatch.from_arrays(columns, schema=CONVERTED)


def _texts(position: Positions, texts: Any, ids: Any, tokens: Any, strata: Any, *, sizes: Any) -> pa.RecordBatch:
    """Build a batch with the columns `TEXTS`."""
    values = (position, texts, sizes, ids, tokens, strata)
    arrays = [
        v.cast(field.type) if isinstance(v, pa.Array) else pa.array(v, field.type)
        for v, field in zip(values, TEXTS, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=TEXTS)


# Parquet


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
    if _PARQUET_ENCRYPTED in (head, tail):
        raise BadShard(ShardFault.ENCRYPTED.value, 0, "Parquet with an encrypted footer")
    if head != _PARQUET:
        raise BadShard(ShardFault.NOT_THE_FORMAT.value, 0, f"starts with {head!r} in place of {_PARQUET!r}")
    if tail != _PARQUET or size < 12:
        raise BadShard(ShardFault.TRUNCATED.value, size, f"ends with {tail!r} in place of {_PARQUET!r}")
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
    fields: _Fields


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

    fields = _Fields(
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
    path = (name,) if name in schema.names else _path(name)
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


def _parquet_texts(file: BinaryIO, part: Slice, source: Source, limits: DecodeLimits, on_raw: OnRaw) -> Iterator[Texts]:
    table = _open_table(file, part, source, limits, on_raw)
    columns = sorted({".".join(path) for path in table.fields if path})
    for first, batch in _row_batches(table, part, limits, columns):
        with _parquet_errors(table.file):
            texts = _texts_of_rows(first, batch, table.fields, limits)
        yield texts


def _texts_of_rows(first: int, batch: pa.RecordBatch, fields: _Fields, limits: DecodeLimits) -> Texts:
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
    rows = _texts(np.arange(first, first + batch.num_rows), text, ids, tokens, strata, sizes=sizes)
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
        return [i for i, value in enumerate(values) if value is not None and not _is_utf8(value)]
    return []


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _parquet_rows(
    file: BinaryIO,
    part: Slice,
    source: Source,
    limits: DecodeLimits,
    wanted: Positions,
    on_raw: OnRaw,
    *,
    converted: bool,
) -> Iterator[Rows]:
    table = _open_table(file, part, source, limits, on_raw)
    for first, batch in _row_batches(table, part, limits, None, wanted):
        position = np.arange(first, first + batch.num_rows)
        keep = _among(position, wanted)
        if not keep.any():
            continue
        with _parquet_errors(table.file):
            chosen = batch if keep.all() else batch.filter(pa.array(keep))
            rows = _convert_rows(chosen, table.fields) if converted else chosen
        yield Rows(position[keep], rows)


def _convert_rows(batch: pa.RecordBatch, fields: _Fields) -> pa.RecordBatch:
    """Turn rows into `CONVERTED` columns; the metadata are the columns other than text and id."""
    whole = {path[0] for path in (fields.text, fields.id) if len(path) == 1}
    names = [name for name in batch.schema.names if name not in whole]
    columns = [_json_values(batch.column(name)) for name in names]
    metadata = []
    for values in zip(*columns, strict=True) if columns else [()] * batch.num_rows:
        row = dict(zip(names, values, strict=True))
        for path in (fields.text, fields.id):
            if len(path) > 1:
                _remove(row, path)
        metadata.append(_dump(row))
    return _converted(_strings(batch, fields.id), _strings(batch, fields.text), metadata)


def _json_values(column: pa.Array) -> list[Any]:
    """Return a column's values as what `_dump` can write."""
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


# WET and WARC


def _archive_records(
    file: BinaryIO, part: Slice, limits: DecodeLimits, on_raw: OnRaw
) -> Iterator[WarcRecord | BadRecord]:
    """Yield the records that may be documents."""
    blocks = decompressed(file, limits, compressed_name=_says_compressed(part.shard), on_raw=on_raw)
    first = next(blocks, b"")
    if not b"WARC/".startswith(first[:5]):
        raise BadShard(ShardFault.NOT_THE_FORMAT.value, 0, f"starts with {first[:8]!r} in place of WARC/")
    kind = "conversion" if part.format == Format.WET else "response"
    return warc_records(itertools.chain([first] if first else [], blocks), limits, kinds=(kind,))


def _archive_text(record: WarcRecord, part: Slice, limits: DecodeLimits) -> bytes | RecordFault | None:
    """Return a record's text as UTF-8, why it has none, or None when it is no document."""
    if part.format == Format.WET:
        return record.payload if _is_utf8(record.payload) else RecordFault.NOT_UTF8
    from transforms.extract import page_text  # trafilatura: 0.6 s and 60 MB that other formats do without

    text = page_text(record.headers, record.payload, limits.max_record_bytes)
    return text.encode() if isinstance(text, str) and not isinstance(text, RecordFault) else text


def _archive_texts(file: BinaryIO, part: Slice, limits: DecodeLimits, on_raw: OnRaw) -> Iterator[Texts]:
    found: list[tuple[int, bytes, str | None]] = []
    bad: list[BadRecord] = []
    total = 0
    for record in _archive_records(file, part, limits, on_raw):
        if isinstance(record, BadRecord):
            bad.append(record)
            continue
        text = _archive_text(record, part, limits)
        if isinstance(text, RecordFault):
            payload = record.payload
            bad.append(BadRecord(record.position, text.value, len(payload), payload[:HEAD_BYTES]))
        elif text is not None:
            found.append((record.position, text, record.headers.get("warc-record-id")))
            total += len(text)
        if total >= limits.block_bytes or len(found) + len(bad) >= _ARCHIVE_RECORDS:
            yield _archive_batch(found, bad)
            found, bad, total = [], [], 0
    if found or bad:
        yield _archive_batch(found, bad)


def _archive_batch(found: list[tuple[int, bytes, str | None]], bad: list[BadRecord]) -> Texts:
    none = pa.nulls(len(found))
    texts = [text for _, text, _ in found]
    position = np.array([at for at, _, _ in found], np.int64)
    sizes = np.array([len(text) for text in texts], np.int64)
    ids = [name for _, _, name in found]
    return Texts(_texts(position, _utf8(texts), ids, none, none, sizes=sizes), bad)


def _utf8(texts: Sequence[bytes]) -> pa.Array:
    """Build a large_string column from valid UTF-8, without going through str."""
    ends = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    return pa.LargeStringArray.from_buffers(len(texts), pa.py_buffer(ends), pa.py_buffer(b"".join(texts)))


def _convert_archive(
    file: BinaryIO, part: Slice, limits: DecodeLimits, wanted: Positions, on_raw: OnRaw
) -> Iterator[Rows]:
    chosen = set(wanted.tolist())
    found: list[tuple[int, str | None, bytes, str]] = []
    total = 0
    for record in _archive_records(file, part, limits, on_raw):
        if record.position not in chosen or isinstance(record, BadRecord):
            continue
        text = _archive_text(record, part, limits)
        if not isinstance(text, bytes):
            continue
        name = record.headers.get("warc-record-id")
        found.append((record.position, name, text, _dump(_archive_metadata(record, part))))
        total += len(text)
        if total >= limits.block_bytes or len(found) >= _ARCHIVE_RECORDS:
            yield _archive_rows(found)
            found, total = [], 0
    if found:
        yield _archive_rows(found)


def _archive_rows(found: list[tuple[int, str | None, bytes, str]]) -> Rows:
    position, ids, texts, metadata = zip(*found, strict=True)
    return Rows(np.array(position, np.int64), _converted(list(ids), _utf8(texts), list(metadata)))


def _archive_metadata(record: WarcRecord, part: Slice) -> dict[str, str | None]:
    """Return url and date, and for WET the languages that the crawler found; null where the record is silent."""
    url = record.headers.get("warc-target-uri")
    metadata = {"url": url.strip("<>") if url else None, "date": record.headers.get("warc-date")}
    if part.format == Format.WET:
        metadata["language"] = record.headers.get("warc-identified-content-language")
    return metadata
