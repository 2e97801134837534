"""Reading Parquet: the exact texts by row number, and later the very rows that were chosen.

Numbers in names are rows of the fault table.
"""

import base64
import datetime as dt
import decimal
import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import shards
from tests.reading import DOCS, Found, documents, fault_of, read, reasons, take
from transforms.decode import DecodeLimits
from transforms.errors import BadShard, ConfigError
from transforms.read import read_texts
from transforms.schema import BadRecord, Format, ShardFault


def read_parquet(data: bytes, **options: Any) -> tuple[Found, list[BadRecord]]:
    return read(data, "x.parquet", Format.PARQUET, **options)


def table_bytes(columns: dict[str, Any] | pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns) if isinstance(columns, dict) else columns, sink, **options)
    return sink.getvalue()


@given(documents, st.integers(1, 5), st.sampled_from([1, 64, 4 << 20]), st.randoms(use_true_random=False))
@settings(max_examples=80, deadline=None)
def test_any_documents_come_back_from_parquet(docs: list[shards.Document], group: int, block: int, random: Any) -> None:
    """Any documents in any row groups: exact texts by row number; slices add up; chosen rows are the original ones."""
    data = shards.parquet_bytes(docs, row_group=group, columns={"n": list(range(len(docs)))})
    limits = DecodeLimits(block_bytes=block)
    found, bad = read_parquet(data, limits=limits)
    assert found == dict(enumerate(docs)) and not bad
    groups = pq.ParquetFile(io.BytesIO(data)).metadata.num_row_groups
    middle = random.randint(0, groups)
    parts = [shards.whole("x", Format.PARQUET)._replace(start=a, end=b) for a, b in ((0, middle), (middle, groups))]
    assert read_parquet(data, part=parts[0])[0] | read_parquet(data, part=parts[1])[0] == found
    wanted = sorted(random.sample(sorted(found), random.randint(0, len(found))))
    rows = take(data, "rows", wanted, "x", Format.PARQUET, limits=limits)
    assert rows == [(i, {"id": docs[i][0], "text": docs[i][1], "n": i}) for i in wanted]
    rows = take(data, "converted", wanted, "x", Format.PARQUET, limits=limits)
    assert rows == [(i, {"id": docs[i][0], "text": docs[i][1], "metadata": f'{{"n":{i}}}'}) for i in wanted]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=str
)
def test_fault_25_every_kind_of_string_is_text(kind: pa.DataType) -> None:
    """string, large_string, string_view and dictionaries of strings are all read as the same texts."""
    values = pa.array([text for _, text in DOCS] + [None], pa.string()).cast(kind)
    found, bad = read_parquet(table_bytes({"id": pa.array(range(6)), "text": values}))
    assert [text for _, text in found.values()] == [text for _, text in DOCS]
    assert [name for name, _ in found.values()] == ["0", "1", "2", "3", "4"]
    assert bad == [BadRecord(5, "no_text", 0, b"")]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"id": ["a"], "body": ["x"]}, ["x.parquet", "'text' is not there", "'id', 'body'"]),
        ({"id": ["a"], "text": [b"x"]}, ["'text' is of type binary"]),
        ({"id": ["a"], "text": [["x"]]}, ["'text' is of type list"]),
        ({"id": ["a"], "text": [3]}, ["'text' is of type int64"]),
        ({"text": ["x"]}, ["id column 'id' is not there", "id: ''"]),
        ({"id": [1.5], "text": ["x"]}, ["'id' is of type double"]),
    ],
)
def test_fault_25_columns_that_do_not_fit(columns: dict[str, Any], words: list[str]) -> None:
    """A missing column or a wrong type is a mistake in the configuration that names shard, column and what there is."""
    with pytest.raises(ConfigError) as caught:
        read_parquet(table_bytes(columns))
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_fault_25_a_doubled_column() -> None:
    """A column that is there twice is named; every problem of a shard is told at once."""
    table = pa.table([pa.array(["x"]), pa.array(["y"]), pa.array(["z"])], names=["text", "text", "n"])
    with pytest.raises(ConfigError) as caught:
        read_parquet(table_bytes(table), source=shards.source(token_count="n"))
    assert len(caught.value.problems) == 3  # text twice, no id, token count a string
    assert "2 times" in caught.value.problems[0]


def test_nested_columns() -> None:
    """Dotted names find fields of structs; a null on the way is no text; metadata keep the rest of the struct."""
    data = table_bytes({"doc": [{"text": "a", "id": 1, "x": 2}, None, {"text": None, "id": 2, "x": 3}], "n": [1, 2, 3]})
    source = shards.source(text="doc.text", id="doc.id")
    found, bad = read_parquet(data, source=source)
    assert found == {0: ("1", "a")}
    assert [(each.position, each.reason) for each in bad] == [(1, "no_text"), (2, "no_text")]
    ((_, row),) = take(data, "converted", [0], "x", Format.PARQUET, source=source)
    assert row == {"id": "1", "text": "a", "metadata": '{"doc":{"x":2},"n":1}'}
    dotted = table_bytes({"doc.text": ["flat"], "id": ["i"]})
    assert read_parquet(dotted, source=shards.source(text="doc.text"))[0] == {0: ("i", "flat")}


def test_fault_15_invalid_utf8_in_parquet() -> None:
    """A row whose text or id is not UTF-8 goes to quarantine with its first bytes; the rows around it stay."""
    values = pa.array([b"a", b"\xff" * 2000, b"c", b"d"], pa.binary())
    ids = pa.array([b"1", b"2", b"\xfe", None], pa.binary())
    table = pa.table({"id": ids.view(pa.string()), "text": values.view(pa.string())})
    found, bad = read_parquet(table_bytes(table))
    assert found == {0: ("1", "a"), 3: (None, "d")}
    assert bad == [BadRecord(1, "not_utf8", 2000, b"\xff" * 1024), BadRecord(2, "not_utf8", 1, b"c")]


def test_parquet_amounts_and_long_texts() -> None:
    """Token counts and strata come from their columns; nulls, negatives and long texts are bad records."""
    columns = {"text": ["a", "b", "c", "x" * 500, "e"], "n": [1, None, -1, 4, 5], "q": [True, None, False, True, True]}
    source = shards.source(id="", token_count="n", quota_field="q")
    data = table_bytes(columns)
    limits = DecodeLimits(max_record_bytes=100)
    parts = list(read_texts(shards.opened(data), shards.whole("x", Format.PARQUET), source, limits))
    rows = [row for part in parts for row in part.batch.to_pylist()]
    assert [(r["position"], r["token_count"], r["stratum"]) for r in rows] == [(0, 1, "true"), (4, 5, "true")]
    assert reasons([b for part in parts for b in part.bad]) == ["no_token_count", "no_token_count", "too_long"]


def test_fault_24_parquet_that_is_none() -> None:
    """A cut file, another format, an empty object and an encrypted footer have reasons of their own."""
    data = shards.parquet_bytes(DOCS)
    for size in range(4, len(data)):
        assert fault_of(lambda size=size: read_parquet(data[:size])) == ShardFault.TRUNCATED, size
    assert fault_of(lambda: read_parquet(b"")) == ShardFault.EMPTY
    assert fault_of(lambda: read_parquet(b"PAR")) == ShardFault.NOT_THE_FORMAT
    assert fault_of(lambda: read_parquet(shards.jsonl_bytes(DOCS))) == ShardFault.NOT_THE_FORMAT
    assert fault_of(lambda: read_parquet(b"PARE" + data[4:-4] + b"PARE")) == ShardFault.ENCRYPTED


def test_fault_24_encrypted_columns() -> None:
    """Encrypted columns under a plain footer are found when they are read, and named as such."""
    encryption = pytest.importorskip("pyarrow.parquet.encryption")

    class Kms(encryption.KmsClient):  # type: ignore[name-defined]  # known at run time only
        """Keys wrapped in base64 and nothing else."""

        def wrap_key(self, key: bytes, _: str) -> bytes:
            return base64.b64encode(key)

        def unwrap_key(self, key: bytes, _: str) -> bytes:
            return base64.b64decode(key)

    factory = encryption.CryptoFactory(lambda _: Kms())
    config = encryption.EncryptionConfiguration(footer_key="f", column_keys={"t": ["text"]}, plaintext_footer=True)
    properties = factory.file_encryption_properties(encryption.KmsConnectionConfig(), config)
    data = table_bytes({"id": ["a"], "text": ["x"]}, encryption_properties=properties)
    assert fault_of(lambda: read_parquet(data)) == ShardFault.ENCRYPTED


@pytest.mark.parametrize(
    "options", [{}, {"compression": "none", "use_dictionary": False}, {"data_page_version": "2.0"}]
)
def test_fault_05_flipped_bits_in_parquet(options: dict[str, Any]) -> None:
    """With page CRCs, a flipped bit leaves every text as it was or is refused; no library error comes through.

    Flips in the footer's column names look like a column that is not there, which is refused as well.
    """
    docs = [(f"d{i}", "some text, some more text " * (i % 4) + str(i)) for i in range(40)]
    data = shards.parquet_bytes(docs, row_group=20, **options)
    expected = dict(enumerate(docs))
    refused = 0
    for bit in range(3, len(data) * 8, 23):
        try:
            found, bad = read_parquet(shards.flipped(data, bit))
        except (BadShard, ConfigError):
            refused += 1
        else:
            assert found == expected and not bad, bit
    assert refused > len(data) * 8 // 23 // 3


def test_storage_errors_stay_storage_errors() -> None:
    """An error of the file under a Parquet shard is not taken for damage of the shard."""

    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 100:
                raise TimeoutError("stalled")
            return super().read(size)

    with pytest.raises(TimeoutError, match="stalled"):
        read_parquet(b"", file=Failing(shards.parquet_bytes(DOCS * 100, use_dictionary=False)))


def test_parquet_reads_that_come_short() -> None:
    """A file that returns fewer bytes than asked for, as sockets do, is read whole."""
    data = shards.parquet_bytes(DOCS * 20, row_group=7)
    assert read_parquet(b"", file=shards.Dribble(data, 37))[0] == dict(enumerate(DOCS * 20))


def test_parquet_batches_stay_small() -> None:
    """Very long texts among short ones come in batches of about the block size, in less memory than their row group."""
    long = ["x" * 200_000 if i % 3 == 0 else "y" for i in range(600)]
    # A page is decoded whole, and pages end only between the writer's batches.
    data = table_bytes({"text": long}, row_group_size=600, use_dictionary=False, write_batch_size=8)
    limits = DecodeLimits(block_bytes=1 << 20)
    before = pa.total_allocated_bytes()
    peak = 0
    rows = 0
    for part in read_texts(shards.opened(data), shards.whole("x", Format.PARQUET), shards.source(id=""), limits):
        peak = max(peak, pa.total_allocated_bytes() - before)
        rows += part.batch.num_rows
        assert part.batch.nbytes < 3 << 20
    assert rows == 600
    assert peak < 30 << 20 < sum(map(len, long))


def test_rows_of_groups_without_wanted_records_are_not_decoded() -> None:
    """Damage in a row group from which nothing is taken does not matter, since it is not read."""
    docs: list[shards.Document] = [(str(i), f"text {i} " * 50) for i in range(20)]
    data = bytearray(shards.parquet_bytes(docs, row_group=10, use_dictionary=False))
    chunk = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0).column(1)
    place = chunk.data_page_offset + chunk.total_compressed_size - 20
    data[place] ^= 255
    assert [at for at, _ in take(bytes(data), "rows", [12], "x", Format.PARQUET)] == [12]
    assert fault_of(lambda: take(bytes(data), "rows", [2], "x", Format.PARQUET)) == ShardFault.CORRUPT


def test_parquet_metadata_as_json() -> None:
    """What JSON cannot hold becomes the documented string, at any depth, and NaN becomes null."""
    zone = dt.timezone(dt.timedelta(hours=2))
    moment = dt.datetime(2026, 11, 23, 12, 0, 0, 250_000)  # noqa: DTZ001  # columns without a zone exist
    stamp = pa.array([moment.replace(tzinfo=zone)], pa.timestamp("us", "+02:00"))
    columns = {
        "text": pa.array(["t"]),
        "local": pa.array([moment], pa.timestamp("ms")),
        "utc": stamp,
        "day": pa.array([moment.date()]),
        "clock": pa.array([moment.time()]),
        "money": pa.array([decimal.Decimal("12345678901234567890.10")]),
        "took": pa.array([dt.timedelta(seconds=2)], pa.duration("ms")),
        "raw": pa.array([b"\xff\x00"]),
        "nan": pa.array([float("nan")]),
        "list": pa.array([[moment.date(), None]]),
        "map": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
        "struct": pa.array([{"at": moment, "n": None}], pa.struct([("at", pa.timestamp("ms")), ("n", pa.int8())])),
        "word": pa.array(["w"]).dictionary_encode(),
        "big": pa.array([2**64 - 1], pa.uint64()),
        "nothing": pa.nulls(1),
    }
    ((_, row),) = take(table_bytes(columns), "converted", [0], "x", Format.PARQUET, source=shards.source(id=""))
    assert json.loads(row["metadata"]) == {
        "local": "2026-11-23 12:00:00.250",
        "utc": "2026-11-23 10:00:00.250000Z",
        "day": "2026-11-23",
        "clock": "12:00:00.250000",
        "money": "12345678901234567890.10",
        "took": 2000,
        "raw": "/wA=",
        "nan": None,
        "list": ["2026-11-23", None],
        "map": [["k", 1]],
        "struct": {"at": "2026-11-23 12:00:00.250", "n": None},
        "word": "w",
        "big": 2**64 - 1,
        "nothing": None,
    }
    assert row["id"] is None


def test_parquet_metadata_that_are_not_utf8() -> None:
    """Invalid UTF-8 in other columns costs no record: U+FFFD stands for it in converted metadata."""
    broken = pa.array([b"ok", b"a\xffb"], pa.binary()).view(pa.string())
    nested = pa.array([[b"x"], [b"\xff"]], pa.list_(pa.binary())).cast(pa.list_(pa.binary()))
    lists = pa.ListArray.from_arrays(nested.offsets, nested.values.view(pa.string()))
    data = table_bytes({"text": ["t", "u"], "m": broken, "l": lists})
    rows = take(data, "converted", [0, 1], "x", Format.PARQUET, source=shards.source(id=""))
    assert [json.loads(row["metadata"]) for _, row in rows] == [
        {"m": "ok", "l": ["x"]},
        {"m": "a\ufffdb", "l": ["\ufffd"]},
    ]
