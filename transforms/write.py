"""Output files: spooled to local disk, summed while they are written, committed under their final name once."""

import gzip
import hashlib
import io
import os
from collections.abc import Iterable
from typing import Any, BinaryIO, Final, NamedTuple, Protocol, cast

import google_crc32c
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from transforms.annotation import PARQUET
from transforms.storage import store_for

ZSTD_LEVEL: Final = 3
GZIP_LEVEL: Final = 4  # stdlib zlib: igzip's bytes depend on the processor, and two builds must be byte-identical
ROW_GROUP_BYTES: Final = 32 << 20
ROW_GROUP_ROWS: Final = 1 << 16


class Written(NamedTuple):
    """One committed object: its URL, size in bytes, checksums, and the uncompressed bytes that went into it."""

    url: str
    bytes: int
    sha256: str
    crc32c: str
    uncompressed: int


class _Summed(io.RawIOBase):
    """A local file that sums what is written to it."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.file = open(path, "wb")  # noqa: SIM115 - closed by `close`
        self.sha256, self.crc32c, self.size = hashlib.sha256(), google_crc32c.Checksum(), 0

    def writable(self) -> bool:
        return True

    def write(self, data: bytes | bytearray | memoryview) -> int:  # type: ignore[override]
        view = bytes(data)
        self.sha256.update(view)
        self.crc32c.update(view)
        self.size += len(view)
        return self.file.write(view)

    def tell(self) -> int:
        return self.size

    def close(self) -> None:
        if not self.file.closed:
            self.file.flush()
            self.file.close()
        super().close()


class Output(Protocol):
    """A file in the making; `commit` gives it its final name."""

    def commit(self) -> Written:
        """Close, put the object into storage (idempotent), and say what it is."""
        ...


class LinesOutput:
    """JSON lines, plain or compressed."""

    def __init__(self, spool: str, url: str, output_format: str) -> None:
        self.url, self.path, self.uncompressed = url, spool, 0
        self.summed = _Summed(spool)
        self.stream: Any = self.summed
        if output_format == "jsonl.zst":
            compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True)
            self.stream = compressor.stream_writer(cast("BinaryIO", self.summed), closefd=False)
        elif output_format == "jsonl.gz":
            self.stream = gzip.GzipFile(fileobj=self.summed, mode="wb", compresslevel=GZIP_LEVEL, mtime=0, filename="")

    def write(self, pieces: Iterable[bytes | memoryview]) -> None:
        """Append whole lines, newline included."""
        data = b"".join(pieces)
        self.uncompressed += len(data)
        self.stream.write(data)

    def commit(self) -> Written:
        """Close, put the object into storage (idempotent), and say what it is."""
        if self.stream is not self.summed:
            self.stream.close()
        self.summed.close()
        return _commit(self.url, self.path, self.summed, self.uncompressed)


class RowsOutput:
    """Rows of Parquet; row groups of about 32 MiB, so that memory is bounded and readers can share the file."""

    def __init__(self, spool: str, url: str, schema: pa.Schema, **options: Any) -> None:
        self.url, self.path, self.schema, self.uncompressed = url, spool, schema, 0
        self.summed = _Summed(spool)
        self.writer = pq.ParquetWriter(pa.PythonFile(self.summed, mode="w"), schema, **{**PARQUET, **options})
        self.pending: list[pa.RecordBatch] = []
        self.pending_bytes = self.pending_rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows that have the file's schema."""
        self.pending.append(batch)
        self.pending_bytes += batch.nbytes
        self.pending_rows += len(batch)
        if self.pending_bytes >= ROW_GROUP_BYTES or self.pending_rows >= ROW_GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self.pending_rows:
            table = pa.Table.from_batches(self.pending, schema=self.schema).unify_dictionaries()
            self.writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
        self.uncompressed += self.pending_bytes
        self.pending, self.pending_bytes, self.pending_rows = [], 0, 0

    def commit(self) -> Written:
        """Close, put the object into storage (idempotent), and say what it is."""
        self._flush()
        self.writer.close()
        self.summed.close()
        return _commit(self.url, self.path, self.summed, self.uncompressed)


def _commit(url: str, path: str, summed: _Summed, uncompressed: int) -> Written:
    store_for(url).create(url, path)
    os.unlink(path)
    return Written(url, summed.size, summed.sha256.hexdigest(), summed.crc32c.digest().hex(), uncompressed)
