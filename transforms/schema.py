"""The values that travel between the steps, and the columns of what is written.

All are frozen and hold plain values, so that they pickle the same in every process and serve as keys.
Positions are decompressed byte offsets, or row numbers for Parquet; amounts are non-negative integers.
"""

import enum
from typing import Final, Literal, NamedTuple

import pyarrow as pa

from classifiers.model import STANCES as STANCES

UNITS: Final = ("documents", "bytes", "characters", "words", "tokens")
"""Units of amount. Bytes are UTF-8; words are runs of non-whitespace, as `str.split` counts them."""

UNKNOWN: Final = "unknown"
"""The stance of a document in a language that the stance model does not know; the language of empty text."""


class Codec(str, enum.Enum):
    """How an object is compressed; the first bytes decide, not the name."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"


class Format(str, enum.Enum):
    """How records lie in a (decompressed) shard."""

    JSONL = "jsonl"
    PARQUET = "parquet"
    WET = "wet"
    WARC = "warc"


class RecordFault(str, enum.Enum):
    """Why one record went to quarantine."""

    NOT_UTF8 = "not_utf8"
    NOT_JSON = "not_json"
    NOT_OBJECT = "not_object"
    NO_TEXT = "no_text"
    TEXT_NOT_STRING = "text_not_string"
    TOO_LONG = "too_long"
    BAD_HEADER = "bad_header"
    UNDECODABLE = "undecodable"
    NO_TOKEN_COUNT = "no_token_count"


class ShardFault(str, enum.Enum):
    """Why a whole shard was left out."""

    EMPTY = "empty"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    TRAILING = "trailing_bytes"
    WINDOW = "window_too_large"
    BOMB = "expands_too_much"
    CHECKSUM = "checksum_mismatch"
    NOT_THE_FORMAT = "not_the_format"
    ENCRYPTED = "encrypted"
    FRAMING = "framing_lost"


Form = Literal["lines", "rows", "converted"]
"""How records travel in the mix: JSON lines, the rows of a Parquet source, or rows of CONVERTED."""


class Source(NamedTuple):
    """Where documents come from and where their fields lie.

    Attributes:
      name: Unique; appears in provenance and in the equation.
      text, id: Field (JSONL) or column (Parquet) names; dots descend into objects. `id` may be "" for none.
      token_count: Field with a ready token count, or "".
      is_pool: True for synthetic documents.
      index: Place in the configuration; pools come after sources.
    """

    name: str
    text: str
    id: str
    token_count: str
    is_pool: bool
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody asks of a source
    quota_field: str = ""


class Slice(NamedTuple):
    """One unit of work: a run of row groups, a byte range of plain JSONL, or a whole shard.

    Tuples compare in canonical order: by source, then shard name, then start; every output is laid out in that
    order.

    Attributes:
      source_index: Place of the source in the configuration.
      shard: The object's URL.
      start, end: Row groups [start, end) of Parquet, bytes [start, end) of plain JSONL; 0 and -1 for a whole shard.
      size: The object's size in bytes as listed.
      version: Generation, etag or modification time that every reading is pinned to.
      format: A `Format` value.
      checksum: "sha256:HEX", "md5:HEX" or "crc32c:HEX" (8 hex digits) that the raw bytes must have, or "".
    """

    source_index: int
    shard: str
    start: int
    end: int
    size: int
    version: str
    format: str
    checksum: str


class BadRecord(NamedTuple):
    """One record in quarantine: where it began, why it is there, how long it was, and its first bytes.

    `length` is in bytes of the decompressed shard; `head` holds at most 1,024 of them.
    """

    position: int
    reason: str
    length: int
    head: bytes


class Texts(NamedTuple):
    """A batch of readable documents and the bad records met on the way, both in reading order.

    `fields` are the names of the records' fields met so far in the slice (JSONL; empty for other formats).
    """

    batch: pa.RecordBatch
    bad: list[BadRecord]
    fields: frozenset[str] = frozenset()


TEXTS: Final = pa.schema(
    [
        pa.field("position", pa.int64(), nullable=False),
        pa.field("text", pa.large_string(), nullable=False),
        pa.field("record_bytes", pa.int64(), nullable=False),  # the line without newline; other formats: the text
        pa.field("id", pa.large_string()),  # null where the record has none
        pa.field("token_count", pa.int64()),  # null unless the source names a field for it
        pa.field("stratum", pa.large_string()),  # a pool document's value of the quota field, else null
    ]
)
"""Columns of `Texts.batch`."""

CONVERTED: Final = pa.schema([("id", pa.large_string()), ("text", pa.large_string()), ("metadata", pa.large_string())])
"""A record of a format that has no record bytes to copy (or whose bytes do not fit the output); metadata is JSON."""
