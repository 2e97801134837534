"""JSON lines of one slice: their texts, and later the bytes or the columns of those that were chosen."""

import itertools
import json
import operator
import re
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final

import numpy as np
import orjson

from transforms.decode import HEAD_BYTES, DecodeLimits, decompressed, sniff
from transforms.errors import BadShard
from transforms.lines import Lines, Positions, lines, pick
from transforms.record import (
    PARQUET_MAGIC,
    Fields,
    OnRaw,
    Records,
    Rows,
    among,
    converted_batch,
    dump,
    find,
    is_utf8,
    path_of,
    remove,
    says_compressed,
    texts_batch,
)
from transforms.schema import BadRecord, Codec, RecordFault, ShardFault, Slice, Source, Texts

_LINES: Final = 1 << 16  # most of one batch: a parsed line costs some 300 bytes, however short it is
_PAST_END: Final = 1 << 16
# A number past 64 bits as orjson writes it, having read it as a float.
_HUGE: Final = re.compile("[0-9]e[+]?(?:1[89]|[2-9][0-9]|[1-3][0-9][0-9])")


def jsonl_texts(file: BinaryIO, part: Slice, source: Source, limits: DecodeLimits, on_raw: OnRaw) -> Iterator[Texts]:
    """Yield the documents and bad lines of a slice, as `read_texts` says."""
    judge = _Judge(source)
    for run, bad in _slice_lines(file, part, limits, on_raw):
        yield from (_parse_lines(*portion, judge) for portion in _portions(run, bad))


def jsonl_records(
    file: BinaryIO,
    part: Slice,
    source: Source,
    limits: DecodeLimits,
    wanted: Positions,
    on_raw: OnRaw,
    *,
    converted: bool,
) -> Iterator[Records | Rows]:
    """Yield the wanted records of a slice: their bytes, or converted to columns."""
    for run, _ in _slice_lines(file, part, limits, on_raw):
        chosen = pick(run, among(run.position, wanted))
        if converted:
            yield from (_convert_lines(portion, source) for portion, _ in _portions(chosen, []))
        else:
            yield Records(*chosen)


def _slice_lines(
    file: BinaryIO, part: Slice, limits: DecodeLimits, on_raw: OnRaw
) -> Iterator[tuple[Lines, list[BadRecord]]]:
    """Yield the lines that belong to a slice."""
    if part.start == 0 and part.end < 0:
        blocks = decompressed(file, limits, compressed_name=says_compressed(part.shard), on_raw=on_raw)
        first = next(blocks, b"")
        if first.startswith((PARQUET_MAGIC, b"WARC/")):
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
    batch = texts_batch(run.position[chosen], *columns, sizes=(run.ends - run.starts)[chosen])
    return Texts(batch, bad, frozenset(judge.fields))


def _each(run: Lines) -> list[bytes]:
    """Return every line as bytes; they are adjacent, so one split finds them all."""
    if not len(run.position):
        return []
    return run.data[run.starts[0] : run.ends[-1]].tobytes().split(b"\n")


MAX_FIELDS: Final = 200  # where field names are data (a word each), their list is of no use


class _Judge:
    """Returns a line's text, id, token count and stratum, or what is wrong with it."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.text, self.tokens = _getter(source.text), _getter(source.token_count)
        self.id = path_of(source.id)
        self.stratum = _getter(source.quota_field)
        self.fields: set[str] = set()

    def __call__(self, line: bytes) -> tuple[str, str | None, int | None, str | None] | RecordFault:
        try:
            document = orjson.loads(line)
        except orjson.JSONDecodeError:
            return RecordFault.NOT_JSON if is_utf8(line) else RecordFault.NOT_UTF8
        if type(document) is not dict:
            return RecordFault.NOT_OBJECT
        text, tokens = self.text(document), None
        if type(text) is not str:
            return RecordFault.NO_TEXT if text is None else RecordFault.TEXT_NOT_STRING
        if len(self.fields) < MAX_FIELDS:
            self.fields.update(document)
        if self.source.token_count:
            tokens = self.tokens(document)
            if type(tokens) is not int or not 0 <= tokens < 1 << 63:
                return RecordFault.NO_TOKEN_COUNT
        stratum = _stratum(self.stratum(document)) if self.source.quota_field else None
        return text, _id(document, self.id, line), tokens, stratum


def _getter(name: str) -> Callable[[dict[str, Any]], Any]:
    """Return what finds a field in a parsed line, or None in its place."""
    path = path_of(name)
    return operator.methodcaller("get", name) if len(path) == 1 else lambda document: find(document, path)


def _id(document: dict[str, Any], path: tuple[str, ...], line: bytes) -> str | None:
    """Return a document's own id; numbers as the line spells them (orjson rounds integers past 64 bits)."""
    if not path:
        return None
    value = document.get(path[0]) if len(path) == 1 else find(document, path)
    if type(value) is str:
        return value
    if type(value) is int:
        return str(value)
    if type(value) is float:
        try:
            return str(find(json.loads(line, parse_int=str, parse_float=str), path))
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
        texts.append(find(document, fields.text))
        try:
            metadata.append(_other_fields(document, fields, line))
        except RecursionError:  # orjson reads 1,024 levels, and nothing here writes as many
            metadata.append(dump({"line": line.decode()}))
    return Rows(run.position, converted_batch(ids, texts, metadata))


def _fields(source: Source) -> Fields:
    return Fields(*map(path_of, (source.text, source.id, source.token_count, source.quota_field)))


def _other_fields(document: dict[str, Any], fields: Fields, line: bytes) -> str:
    """Return a line without text and id as JSON."""
    for path in (fields.text, fields.id):
        remove(document, path)
    found = dump(document)
    if not _HUGE.search(found):
        return found
    document = json.loads(line)  # orjson rounds integers past 64 bits
    for path in (fields.text, fields.id):
        remove(document, path)
    return dump(document)
