"""The sample input in every shard format, one of them damaged on purpose, and a build of three arms over it."""

import gzip
import importlib.resources
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

Documents = list[dict[str, Any]]

CONFIG: Final = """\
name: demo
seed: 20261123
sources:
  - name: web
    paths: [{input}/*.jsonl, {input}/*.jsonl.gz, {input}/*.jsonl.zst]
  - name: tables
    paths: {input}/*.parquet
  - name: crawl
    paths: [{input}/*.warc.wet.gz, {input}/*.warc.gz]
pool:
  - name: counter-narratives
    paths: {input}/pool/*.jsonl.zst
    quotas: {{format: {{story: 0.4, news: 0.35, paper: 0.25}}}}
language: {{keep: [en], min_score: 0.65}}
unit: words
arms:
  unfiltered: {{}}
  filtered: {{misaligned: drop, refill: random}}
  counterpoised: {{misaligned: {{keep: 0.25}}, dose: {{share: 0.1, of: output}}}}
output:
  path: {output}
  format: jsonl.zst
  target_file_size: 64KiB
limits: {{bad_records: 0.02, bad_shards: 1}}
"""


def sample(name: str) -> Documents:
    """The documents of a sample file that ships with the package: "documents" or "pool"."""
    text = importlib.resources.files("beam_pipeline").joinpath("sample", f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


def write_sample(folder: str) -> None:
    """Write the sample as shards: two of each format, the last .jsonl.gz cut short, one record that is not JSON."""
    documents = sample("documents")
    writers: dict[str, Callable[[Documents], bytes]] = {
        "jsonl": jsonl,
        "jsonl.gz": lambda docs: _member(jsonl(docs)),
        "jsonl.zst": lambda docs: _zstd(jsonl(docs)),
        "parquet": parquet,
        "warc.wet.gz": wet,
        "warc.gz": warc,
    }
    count = 2 * len(writers)
    for index in range(count):
        suffix = list(writers)[index // 2]
        data = writers[suffix](documents[index::count])
        _write(folder, f"part-{index:05d}.{suffix}", data)
    cut = _member(jsonl(documents[:20]))
    _write(folder, "damaged.jsonl.gz", cut[: len(cut) * 2 // 3])
    _write(folder, "one-bad-record.jsonl", b'{"id": "cut", "text": "this record ends too s\n')
    _write(os.path.join(folder, "pool"), "pool.jsonl.zst", _zstd(jsonl(sample("pool"))))


def _write(folder: str, name: str, data: bytes) -> None:
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, name), "wb") as file:
        file.write(data)


def jsonl(documents: Iterable[Mapping[str, Any]]) -> bytes:
    """A JSON object a line."""
    return b"".join(json.dumps(d, ensure_ascii=False).encode() + b"\n" for d in documents)


def parquet(documents: Documents) -> bytes:
    """A Parquet file with page checksums, a column a field."""
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(documents), buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()


def _zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=3, write_checksum=True).compress(data)


def _member(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def _record(kind: str, document: Mapping[str, Any], content_type: str, payload: bytes) -> bytes:
    """One WARC record as a gzip member of its own, as Common Crawl writes it."""
    number = int(str(document["id"]).rsplit("-", 1)[-1])
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {document['url']}\r\nWARC-Date: 2026-11-01T00:00:00Z\r\n"
        f"WARC-Record-ID: <urn:uuid:00000000-0000-4000-8000-{number:012d}>\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(payload)}\r\n\r\n"
    )
    return _member(head.encode() + payload + b"\r\n\r\n")


def wet(documents: Documents) -> bytes:
    """A WET file: the text of pages, as Common Crawl publishes it."""
    return b"".join(_record("conversion", d, "text/plain", d["text"].encode()) for d in documents)


def warc(documents: Documents) -> bytes:
    """A WARC file: pages as they came over HTTP."""
    records = []
    for document in documents:
        lines = (
            line.replace("&", "&amp;").replace("<", "&lt;") for line in document["text"].split("\n") if line.strip()
        )
        page = f"<html><head><title>{document['id']}</title></head><body><article>" + "".join(
            f"<p>{line}</p>\n" for line in lines
        )
        http = (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n"
            + (page + "</article></body></html>").encode()
        )
        records.append(_record("response", document, "application/http; msgtype=response", http))
    return b"".join(records)


def write_demo(folder: str) -> str:
    """Write the sample input and a configuration for it; returns the configuration's path."""
    write_sample(os.path.join(folder, "input"))
    path = os.path.join(folder, "build.yaml")
    with open(path, "w", encoding="utf-8") as file:
        file.write(CONFIG.format(input=os.path.join(folder, "input"), output=os.path.join(folder, "output")))
    return path
