"""The annotation object: its name, its columns, its footer.

The name is made from everything that the content depends on (shard, version, range, fields, models, options), so an
object that exists is valid, is never overwritten, and is what the next build reads in place of the models.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.schema import STANCES, UNITS, Format, Slice, Source
from transforms.storage import join, store_for

ANNOTATION: Final = pa.schema(
    [
        pa.field("position", pa.int64(), nullable=False),
        pa.field("record_bytes", pa.int64(), nullable=False),
        *(pa.field(unit, pa.int64(), nullable=False) for unit in UNITS[1:]),
        pa.field("digest", pa.uint64(), nullable=False),  # XXH64 of the text's UTF-8
        pa.field("language", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("language_score", pa.float32(), nullable=False),
        *(pa.field(stance, pa.float32()) for stance in STANCES),  # null: the stance model does not know the language
        pa.field("misaligned_max", pa.float32()),
        pa.field("aligned_max", pa.float32()),
        pa.field("windows", pa.int32()),
        pa.field("scored_windows", pa.int32()),
        pa.field("misaligned_windows", pa.int32()),
        pa.field("id", pa.large_string()),  # of pool documents; null for base documents
        pa.field("stratum", pa.large_string()),  # of pool documents under a quota
    ]
)
"""One row a document, in reading order: facts only, never a decision."""


PARQUET: Final[dict[str, Any]] = {
    "compression": "zstd",
    "compression_level": 3,
    "write_page_checksum": True,
    "use_dictionary": ["language", "stratum"],
}
"""How every Parquet object of ours is written: the same bytes for the same rows, and a flipped bit is noticed."""


class Receipt(NamedTuple):
    """What annotating one slice came to.

    Attributes:
      url: The annotation object.
      records: Readable documents; `bad` the number of quarantined records, `faults` the same by reason.
      text_bytes: UTF-8 bytes of all readable texts.
      raw_crc32c: "crc32c:HEX" of the raw bytes where the slice is a whole sequentially read shard, else "".
      fault: (reason, offset, detail) when the shard cannot be read whole, else ("", -1, "").
      quarantine: URL of the bad records as a zstd frame of JSON lines, or "".
      text_url: For a pool slice, the object with its texts one after the other, else "".
      with_id: Documents that have an id of their own.
      columns: Hash of a Parquet shard's schema, else "".
      fields: Names of the fields of JSONL records, sorted, else empty.
    """

    part: Slice
    url: str
    records: int
    bad: int
    faults: tuple[tuple[str, int], ...]
    text_bytes: int
    raw_crc32c: str
    fault: tuple[str, int, str]
    quarantine: str
    text_url: str
    with_id: int
    columns: str
    fields: tuple[str, ...]


def annotation_url(work: str, part: Slice, source: Source, fingerprint: str) -> str:
    """The object's name: the same for the same content, another for any other."""
    fields = [source.text, source.id, source.token_count, source.quota_field, source.is_pool]
    facts = [fingerprint, part.shard, part.version, part.size, part.start, part.end, part.format, part.checksum, fields]
    name = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
    return join(work, "annotations", name[:2], f"{name}.parquet")


def is_whole(part: Slice) -> bool:
    """Whether the slice is its whole shard, read from the first byte to the last."""
    return part.end < 0


def shard_schema(shard: str, version: str) -> pa.Schema:
    """The columns of a Parquet shard, without metadata."""
    with store_for(shard).open(shard, version) as raw, pq.ParquetFile(raw) as file:
        return file.schema_arrow.remove_metadata()


def columns_of(part: Slice) -> str:
    """Hash of the columns of a Parquet shard; "" for other formats."""
    if part.format != Format.PARQUET.value:
        return ""
    return hashlib.sha256(shard_schema(part.shard, part.version).serialize()).hexdigest()[:16]


@contextlib.contextmanager
def _open_annotation(url: str) -> Iterator[pq.ParquetFile]:
    with store_for(url).open(url) as raw, pq.ParquetFile(raw, page_checksum_verification=True) as file:
        yield file


def read_receipt(url: str) -> Receipt:
    """The receipt in the footer of an annotation object."""
    with _open_annotation(url) as file:
        values = json.loads(file.metadata.metadata[b"counterpoise"])
    part, *rest = values
    receipt = Receipt(Slice(*part), *rest)
    reason, offset, detail = receipt.fault
    faults = tuple((name, number) for name, number in receipt.faults)
    fields = tuple(receipt.fields)
    return placed(receipt._replace(fault=(reason, offset, detail), faults=faults, fields=fields), url)


def placed(receipt: Receipt, url: str) -> Receipt:
    """A receipt whose objects lie at `url` and beside it.

    In the footer there is only a mark for each, so that a work folder can be moved and two of them hold the same bytes.
    """
    beside = url.removesuffix(".parquet")
    return receipt._replace(
        url=url,
        quarantine=beside + ".bad.jsonl.zst" if receipt.quarantine else "",
        text_url=beside + ".texts" if receipt.text_url else "",
    )


def read_annotation(url: str, columns: list[str] | None = None) -> pa.Table:
    """Rows of an annotation object, all in memory (about 30 bytes a document with the columns of the census)."""
    with _open_annotation(url) as file:
        return file.read(columns=columns).unify_dictionaries()
