"""WET and WARC: the texts of a shard, and later the columns of the records that were chosen."""

import itertools
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Final

import numpy as np
import pyarrow as pa

from transforms.decode import HEAD_BYTES, DecodeLimits, decompressed
from transforms.errors import BadShard
from transforms.lines import Positions
from transforms.record import OnRaw, Rows, converted_batch, dump, is_utf8, says_compressed, texts_batch
from transforms.schema import BadRecord, Format, RecordFault, ShardFault, Slice, Texts
from transforms.warc import WarcRecord, warc_records

_ARCHIVE_RECORDS: Final = 4096  # most of one batch


def _archive_records(
    file: BinaryIO, part: Slice, limits: DecodeLimits, on_raw: OnRaw
) -> Iterator[WarcRecord | BadRecord]:
    """Yield the records that may be documents."""
    blocks = decompressed(file, limits, compressed_name=says_compressed(part.shard), on_raw=on_raw)
    first = next(blocks, b"")
    if not b"WARC/".startswith(first[:5]):
        raise BadShard(ShardFault.NOT_THE_FORMAT.value, 0, f"starts with {first[:8]!r} in place of WARC/")
    kind = "conversion" if part.format == Format.WET else "response"
    return warc_records(itertools.chain([first] if first else [], blocks), limits, kinds=(kind,))


def _archive_text(record: WarcRecord, part: Slice, limits: DecodeLimits) -> bytes | RecordFault | None:
    """Return a record's text as UTF-8, why it has none, or None when it is no document."""
    if part.format == Format.WET:
        return record.payload if is_utf8(record.payload) else RecordFault.NOT_UTF8
    from transforms.extract import page_text  # trafilatura: 0.6 s and 60 MB that other formats do without

    text = page_text(record.headers, record.payload, limits.max_record_bytes)
    return text.encode() if isinstance(text, str) and not isinstance(text, RecordFault) else text


def archive_texts(file: BinaryIO, part: Slice, limits: DecodeLimits, on_raw: OnRaw) -> Iterator[Texts]:
    """Yield the documents and bad records of a shard, as `read_texts` says."""
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
    return Texts(texts_batch(position, _utf8(texts), ids, none, none, sizes=sizes), bad)


def _utf8(texts: Sequence[bytes]) -> pa.Array:
    """Build a large_string column from valid UTF-8, without going through str."""
    ends = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    return pa.LargeStringArray.from_buffers(len(texts), pa.py_buffer(ends), pa.py_buffer(b"".join(texts)))


def convert_archive(
    file: BinaryIO, part: Slice, limits: DecodeLimits, wanted: Positions, on_raw: OnRaw
) -> Iterator[Rows]:
    """Yield the wanted records of a shard, converted to columns."""
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
        found.append((record.position, name, text, dump(_archive_metadata(record, part))))
        total += len(text)
        if total >= limits.block_bytes or len(found) >= _ARCHIVE_RECORDS:
            yield _archive_rows(found)
            found, total = [], 0
    if found:
        yield _archive_rows(found)


def _archive_rows(found: list[tuple[int, str | None, bytes, str]]) -> Rows:
    position, ids, texts, metadata = zip(*found, strict=True)
    return Rows(np.array(position, np.int64), converted_batch(list(ids), _utf8(texts), list(metadata)))


def _archive_metadata(record: WarcRecord, part: Slice) -> dict[str, str | None]:
    """Return url and date, and for WET the languages that the crawler found; null where the record is silent."""
    url = record.headers.get("warc-target-uri")
    metadata = {"url": url.strip("<>") if url else None, "date": record.headers.get("warc-date")}
    if part.format == Format.WET:
        metadata["language"] = record.headers.get("warc-identified-content-language")
    return metadata
