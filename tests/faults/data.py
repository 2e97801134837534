"""Faults of the data: one shard among healthy ones, with what must come of it."""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from tests import shards
from tests.faults.harness import OTHERS, Texts, counted

LINES: Final = shards.jsonl_bytes(OTHERS)
GZ: Final = shards.compress(LINES, "gzip")
ZST: Final = shards.compress(LINES, "zstd")
PARQUET: Final = shards.parquet_bytes(OTHERS, row_group=4)
ALL: Final = counted(OTHERS)
NOTHING: Final = Texts()


class Data(NamedTuple):
    """A shard with something wrong, or odd.

    Attributes:
      expected: "read", "stop N" (an exit code), a `ShardFault` value, or `RecordFault` values with their numbers.
      texts: Those of the shard that must be in the corpus where it is not left out.
      whole: The shard as it was, whose sum a `checksums` file names; b"" for no such file.
      changes: Of `limits`.
    """

    name: str
    shard: str
    data: bytes
    expected: str | dict[str, int] = "read"
    texts: Texts = ALL
    whole: bytes = b""
    changes: dict[str, Any] = {}  # noqa: RUF012  # never changed


def window(data: bytes) -> bytes:
    """A frame that asks for a window of 1 GiB, as `zstd --long=30` makes."""
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=30, enable_ldm=True)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()  # no size: the window counts
    return stream.compress(data) + stream.flush()


def bomb() -> bytes:
    """80 MiB of one letter in a few KiB."""
    stream = zstandard.ZstdCompressor(level=19).compressobj()
    head = b'{"text": "'
    return stream.compress(head) + b"".join(stream.compress(b"a" * (1 << 20)) for _ in range(80)) + stream.flush()


def flipped_page() -> bytes:
    """A bit of a text inside a Parquet page."""
    data = shards.parquet_bytes(OTHERS, compression="none", use_dictionary=False)
    return shards.flipped(data, (data.index(OTHERS[3][1].encode()) + 5) * 8)


def encrypted() -> bytes:
    """A Parquet file with an encrypted footer ends in PARE."""
    return b"PARE" + PARQUET[4:-4] + b"PARE"


def with_text(column: Any) -> bytes:
    """A Parquet file whose text column is of another type."""
    sink = io.BytesIO()
    ids = pa.array([name for name, _ in OTHERS])
    pq.write_table(pa.table({"id": ids, "text": column}), sink, write_page_checksum=True)
    return sink.getvalue()


def line(text: bytes) -> bytes:
    """A record with raw bytes for its text, between two good ones."""
    good = [orjson.dumps({"text": doc}) for _, doc in OTHERS[:2]]
    return b"\n".join([good[0], b'{"text": "' + text + b'"}', good[1], b""])


def between(record: bytes) -> bytes:
    """A whole record between two good ones."""
    return line(b"x").replace(b'{"text": "x"}', record)


def lying_wet() -> bytes:
    """The third record says that it is longer than it is."""
    records = [shards.wet_record(name, text) for name, text in OTHERS]
    records[2] = shards.wet_record(*OTHERS[2], content_length=str(len(OTHERS[2][1].encode()) + 700))
    return b"".join(shards.compress(record, "gzip") for record in records)


TWO: Final = counted(OTHERS[:2])
PAIR: Final = shards.compress(shards.jsonl_bytes(OTHERS[:5]), "gzip")
REST: Final = shards.compress(shards.jsonl_bytes(OTHERS[5:]), "gzip")


def bad(name: str, data: bytes, **reasons: int) -> Data:
    """A shard of JSON lines with bad records between the first two documents."""
    return Data(name, "odd.jsonl", data, dict(reasons), TWO)


def texts(name: str, data: bytes, *more: str) -> Data:
    """A shard of JSON lines that is read whole."""
    return Data(name, "odd.jsonl", data, "read", TWO + Texts(more))


CASES: Final[Sequence[Data]] = [
    *(Data(f"{kind} cut in its {place}", f"odd.jsonl.{kind}", data[:at], "truncated", NOTHING)
      for kind, data in (("gz", GZ), ("zst", ZST))
      for place, at in (("header", 5), ("middle", len(data) // 2), ("last byte", len(data) - 1))),
    Data("two-member gz cut between the members, sum known", "odd.jsonl.gz", PAIR,
         "checksum_mismatch", NOTHING, PAIR + REST),
    Data("a bit flipped in gz", "odd.jsonl.gz", shards.flipped(GZ, 8 * (len(GZ) // 2) + 3), "corrupt", NOTHING),
    Data("a bit flipped in zst with a checksum", "odd.jsonl.zst",
         shards.flipped(ZST, 8 * (len(ZST) - 9)), "corrupt", NOTHING),
    Data("a bit flipped in plain JSON lines, sum known", "odd.jsonl", shards.flipped(LINES, 1603),
         "checksum_mismatch", NOTHING, LINES),
    Data("a bit flipped in a Parquet page", "odd.parquet", flipped_page(), "corrupt", NOTHING),
    Data("Parquet cut", "odd.parquet", PARQUET[: len(PARQUET) // 2], "truncated", NOTHING),
    Data("Parquet without its last byte", "odd.parquet", PARQUET[:-1], "truncated", NOTHING),
    Data("text named .parquet", "odd.parquet", LINES, "not_the_format", NOTHING),
    Data("Parquet named .jsonl", "odd.jsonl", PARQUET, "not_the_format", NOTHING),
    Data("encrypted Parquet", "odd.parquet", encrypted(), "encrypted", NOTHING),
    Data("empty plain file", "odd.jsonl", b"", "read", NOTHING),
    *(Data(f"0 bytes named .{kind}", f"odd.{kind}", b"", "empty", NOTHING)
      for kind in ("jsonl.gz", "jsonl.zst", "parquet")),
    Data("gzip named .zst", "odd.jsonl.zst", GZ),
    Data("zstd named .jsonl", "odd.jsonl", ZST),
    Data("gz of many members", "odd.jsonl.gz",
         b"".join(shards.compress(part + b"\n", "gzip") for part in LINES.split(b"\n")[:-1])),
    Data("zst of two frames and skippable ones", "odd.jsonl.zst", shards.skippable(b"x")
         + b"".join(shards.compress(part, "zstd") + shards.skippable(b"index") for part in shards.split(LINES, [300]))),
    Data("zeros after gz (padding)", "odd.jsonl.gz", GZ + b"\0" * 512),
    Data("junk after gz", "odd.jsonl.gz", GZ + b"junk", "trailing_bytes", NOTHING),
    Data("junk after zst", "odd.jsonl.zst", ZST + b"junk", "trailing_bytes", NOTHING),
    Data("zst with a window of 1 GiB", "odd.jsonl.zst", window(LINES), "window_too_large", NOTHING),
    Data("decompression bomb", "odd.jsonl.zst", bomb(), "expands_too_much", NOTHING),
    Data("WET with a lying Content-Length", "odd.warc.wet.gz", lying_wet(), "framing_lost", NOTHING),
    Data("large_string text", "odd.parquet", with_text(pa.array([t for _, t in OTHERS], pa.large_string()))),
    Data("dictionary text", "odd.parquet", with_text(pa.array([t for _, t in OTHERS]).dictionary_encode())),
    bad("a line over the limit", line(b"a" * 70_000), too_long=1)._replace(changes={"record_bytes": "64KiB"}),
    bad("invalid UTF-8", line(b"\xff\xfe"), not_utf8=1),
    bad("lone surrogate", line(b"\\ud800"), not_json=1),
    bad("raw NUL", line(b"a\0b"), not_json=1),
    texts("escaped NUL", line(b"a\\u0000b"), "a\0b"),
    texts("duplicate keys: the last wins", between(b'{"text": "first", "text": "last"}'), "last"),
    texts("empty text", line(b""), ""),
    texts("BOM, CRLF and blank lines", b"\xef\xbb\xbf" + between(b"").replace(b"\n", b"\r\n")),
    texts("U+2028 is no line end", line("a\u2028b".encode()), "a\u2028b"),
    texts("no newline at the end", line(b"z")[:-1], "z"),
    bad("10,000 levels deep", between(b'{"text": ' + b"[" * 10_000 + b"]" * 10_000 + b"}"), not_json=1),
    bad("NaN, Infinity, 1e999", between(b'{"text": "a", "x": NaN}\n{"text": "b", "x": Infinity}'), not_json=2),
    bad("two objects on a line", between(b'{"text": "a"} {"text": "b"}'), not_json=1),
    bad("text missing, number, list, null", between(b'{"id": 1}\n{"text": 5}\n{"text": ["a"]}\n{"text": null}'),
        no_text=2, text_not_string=2),
    bad("no object", between(b'[1]\n"text"\n7'), not_object=3),
    bad("line cut short", between(b'{"text": "and then'), not_json=1),
]  # fmt: skip


def short() -> list[str]:
    """One case for each expectation, for the suite that runs all the time."""
    found = {str(case.expected): case.name for case in CASES[::-1]}
    return [*found.values(), "gzip named .zst", "BOM, CRLF and blank lines", "zst cut in its last byte"]


def write_sums(folder: Path, case: Data) -> str:
    """A `checksums` file with the sum of the shard as it was, and of the healthy ones as they are."""
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (folder / "web").iterdir()}
    sums[case.shard] = hashlib.sha256(case.whole).hexdigest()
    (folder / "SHA256SUMS").write_text("".join(f"{value}  {name}\n" for name, value in sums.items()))
    return f"{folder}/SHA256SUMS"
