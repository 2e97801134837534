"""Real shards of every format, whole or broken, from a list of (id, text) documents."""

import gzip
import io
import itertools
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from transforms.schema import Format, Slice, Source

Document = tuple[str | None, str]

CODECS: Final = ("none", "gzip", "zstd")
DATE: Final = "2026-11-23T10:00:00Z"


def source(**changes: Any) -> Source:
    """A source whose fields have the default names."""
    return Source("web", "text", "id", "", is_pool=False, index=0)._replace(**changes)


def whole(shard: str | Path, shard_format: Format | str = Format.JSONL, size: int = 0) -> Slice:
    """The slice that is the whole of a shard."""
    return Slice(0, str(shard), 0, -1, size, "1", Format(shard_format).value, "")


def jsonl_bytes(docs: Iterable[Document], *, extra: dict[str, Any] | None = None) -> bytes:
    """One JSON line for each document; `extra` fields are added to all."""
    lines = (({} if name is None else {"id": name}) | {"text": text} | (extra or {}) for name, text in docs)
    return b"".join(orjson.dumps(line) + b"\n" for line in lines)


def wet_record(name: str | None, text: str | bytes, *, kind: str = "conversion", **headers: str) -> bytes:
    """One WET record; header names are given with underscores for dashes."""
    block = text.encode() if isinstance(text, str) else text
    return warc_record(kind, name, block, content_type="text/plain", **headers)


def warc_record(kind: str, name: str | None, block: bytes, **headers: str) -> bytes:
    """One WARC record around `block`; a header given by keyword replaces the usual one, and "" leaves it out."""
    fields = {
        "warc_type": kind,
        "warc_target_uri": "http://example.org/" if kind != "warcinfo" else "",
        "warc_date": DATE,
        "warc_record_id": "" if name is None else name,
        "content_type": "application/http; msgtype=response",
        "content_length": str(len(block)),
    } | headers
    lines = [f"{field.replace('_', '-').title()}: {value}" for field, value in fields.items() if value]
    return "\r\n".join(["WARC/1.0", *lines, "", ""]).encode() + block + b"\r\n\r\n"


def http(
    body: bytes, *, content_type: str = "text/html; charset=utf-8", status: str = "200 OK", **headers: str
) -> bytes:
    """An HTTP response; header names are given with underscores for dashes."""
    fields = ({"content_type": content_type} if content_type else {}) | headers
    lines = [f"{field.replace('_', '-').title()}: {value}" for field, value in fields.items()]
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode() + body


def html(text: str) -> bytes:
    """A page whose main text is `text`, paragraph by paragraph."""
    body = "".join(f"<p>{line}</p>" for line in text.split("\n"))
    page = f"<html><head><title>A page</title></head><body><article>{body}</article></body></html>"
    return b"<!DOCTYPE html>" + page.encode()


def wet_bytes(docs: Iterable[Document]) -> bytes:
    """A WET file: warcinfo, then one conversion record for each document."""
    return warc_record("warcinfo", "<urn:uuid:info>", b"software: tests\r\n") + b"".join(
        wet_record(name, text) for name, text in docs
    )


def warc_bytes(docs: Iterable[Document]) -> bytes:
    """A WARC file: warcinfo, then a request and a response with an HTML page for each document."""
    parts = [warc_record("warcinfo", "<urn:uuid:info>", b"software: tests\r\n")]
    for name, text in docs:
        parts.append(warc_record("request", None, b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n"))
        parts.append(warc_record("response", name, http(html(text))))
    return b"".join(parts)


def split(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """Cut data at the given places (taken modulo its length)."""
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(places)] or [b""]


def compress(data: bytes, codec: str, *, cuts: Iterable[int] = (), checksum: bool = True, level: int = 3) -> bytes:
    """Compress data as one gzip member or zstd frame for each piece between `cuts`."""
    if codec == "none":
        return data
    if codec == "gzip":
        return b"".join(gzip.compress(piece, level, mtime=0) for piece in split(data, cuts))
    compressor = zstandard.ZstdCompressor(level=level, write_checksum=checksum)
    return b"".join(compressor.compress(piece) for piece in split(data, cuts))


def skippable(content: bytes, kind: int = 0) -> bytes:
    """A skippable zstd frame."""
    return struct.pack("<II", 0x184D2A50 + kind, len(content)) + content


def write(path: Path, data: bytes, codec: str = "none", *, members: int = 1, checksum: bool = True) -> Path:
    """Write data compressed with a codec, in `members` gzip members or zstd frames of about equal size."""
    step = max(1, -(-len(data) // members))
    path.write_bytes(compress(data, codec, cuts=range(0, len(data), step), checksum=checksum))
    return path


def write_jsonl(
    path: Path, docs: Iterable[Document], *, codec: str = "none", members: int = 1, checksum: bool = True, **extra: Any
) -> Path:
    """Write documents as JSON lines; `extra` fields are added to each."""
    return write(path, jsonl_bytes(docs, extra=extra), codec, members=members, checksum=checksum)


def write_wet(path: Path, docs: Iterable[Document], *, codec: str = "gzip") -> Path:
    """Write documents as WET, one gzip member or zstd frame for each record, as crawls do."""
    return _write_records(path, [wet_bytes([]), *(wet_record(name, text) for name, text in docs)], codec)


def write_warc(path: Path, docs: Iterable[Document], *, codec: str = "gzip") -> Path:
    """Write documents as HTML responses, one gzip member or zstd frame for each record."""
    return _write_records(path, [warc_bytes([]), *(warc_bytes([doc])[len(warc_bytes([])) :] for doc in docs)], codec)


def _write_records(path: Path, records: Iterable[bytes], codec: str) -> Path:
    path.write_bytes(b"".join(compress(record, codec) for record in records))
    return path


def parquet_bytes(
    docs: Sequence[Document],
    *,
    row_group: int = 1000,
    page_crc: bool = True,
    columns: dict[str, Any] | None = None,
    **options: Any,
) -> bytes:
    """A Parquet file with columns id and text, and others by name; the pages carry a CRC unless told otherwise."""
    names, texts = [name for name, _ in docs], [text for _, text in docs]
    table = pa.table({"id": pa.array(names, pa.string()), "text": pa.array(texts, pa.string())} | (columns or {}))
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=row_group, write_page_checksum=page_crc, **options)
    return sink.getvalue()


def write_parquet(path: Path, docs: Sequence[Document], **options: Any) -> Path:
    """Write documents as Parquet; the options are those of `parquet_bytes`."""
    path.write_bytes(parquet_bytes(docs, **options))
    return path


class Dribble(io.RawIOBase):
    """A file that returns at most `most` bytes a read, as sockets do."""

    def __init__(self, data: bytes, most: int) -> None:
        super().__init__()
        self.inner, self.most = io.BytesIO(data), most

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.inner.seek(offset, whence)

    def tell(self) -> int:
        return self.inner.tell()

    def read(self, size: int = -1) -> bytes:
        return self.inner.read(self.most if size < 0 else min(size, self.most))


class Endless(io.RawIOBase):
    """A file of `size` bytes that repeats a pattern, without holding it."""

    def __init__(self, pattern: bytes, size: int, end: bytes = b"") -> None:
        super().__init__()
        self.pattern, self.left, self.end = pattern, size, end

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if not self.left:
            end, self.end = self.end, b""
            return end
        size = min(size, self.left)
        self.left -= size
        return (self.pattern * (size // len(self.pattern) + 1))[:size]


def cuts_of(data: bytes, step: int = 1) -> Iterator[bytes]:
    """Every proper beginning of data, or one in `step`."""
    return (data[:size] for size in range(0, len(data), step))


def flipped(data: bytes, bit: int) -> bytes:
    """Data with one bit changed."""
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def opened(data: bytes) -> BinaryIO:
    """Data as a file."""
    return io.BytesIO(data)
