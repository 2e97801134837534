"""Reading: every format gives the exact texts at stable positions, and the records chosen later are those very records.

Numbers in names are rows of the fault table.
"""

import base64
import datetime as dt
import decimal
import gzip
import io
import itertools
import json
import math
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import shards
from transforms.decode import DecodeLimits
from transforms.errors import BadShard, ConfigError, InputChanged
from transforms.read import Records, Rows, detect_format, read_records, read_texts
from transforms.schema import CONVERTED, TEXTS, BadRecord, Format, RecordFault, ShardFault, Slice, Source

LIMITS = DecodeLimits()
Form = Literal["lines", "rows", "converted"]
Found = dict[int, tuple[str | None, str]]

DOCS: list[shards.Document] = [
    ("a", "Hello"),
    ("b", ""),
    (None, 'quotes " and \\ and \n line ends \r\n'),
    ("d", "日本語 и кириллица \U0001f600"),
    ("e", "separators \u2028 \u2029 \x85 \x1e \0 nul"),
]

texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40) | st.sampled_from([t for _, t in DOCS])
documents = st.lists(
    st.tuples(st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=5), texts), max_size=12
)
places = st.lists(st.integers(0, 1 << 16), max_size=5)
block_sizes = st.sampled_from([1, 2, 5, 31, 300, 4 << 20])


def read(
    data: bytes,
    name: str = "x.jsonl",
    shard_format: Format = Format.JSONL,
    *,
    source: Source | None = None,
    part: Slice | None = None,
    limits: DecodeLimits = LIMITS,
    file: Any = None,
) -> tuple[Found, list[BadRecord]]:
    """Ids and texts by position, and the bad records, after checking what every batch promises."""
    found: Found = {}
    bad: list[BadRecord] = []
    seen = -1
    for batch, problems in read_texts(
        file or shards.opened(data),
        part or shards.whole(name, shard_format),
        source or shards.source(),
        limits,
    ):
        assert batch.schema.equals(TEXTS)
        batch.validate(full=True)
        positions = [*batch["position"].to_pylist(), *(each.position for each in problems)]
        assert len(set(positions)) == len(positions) and min(positions) > seen
        seen = max(positions)
        for at, name_, text in zip(*(batch[c].to_pylist() for c in ("position", "id", "text")), strict=True):
            found[at] = (name_, text)
        if shard_format is not Format.JSONL:
            sizes = [len(text.encode()) for text in batch["text"].to_pylist()]
            assert batch["record_bytes"].to_pylist() == sizes
        bad += problems
    assert all(type(each.reason) is str and len(each.head) <= 1024 for each in bad)
    return found, bad


def take(
    data: bytes,
    form: Form,
    wanted: Sequence[int],
    name: str = "x.jsonl",
    shard_format: Format = Format.JSONL,
    *,
    source: Source | None = None,
    part: Slice | None = None,
    limits: DecodeLimits = LIMITS,
) -> list[tuple[int, Any]]:
    """Records by position: bytes of a line, or a row as a dict."""
    found: list[tuple[int, Any]] = []
    for batch in read_records(
        shards.opened(data),
        part or shards.whole(name, shard_format),
        source or shards.source(),
        limits,
        form=form,
        wanted=np.array(wanted, np.int64),
    ):
        if isinstance(batch, Records):
            whole = batch.data.tobytes()
            values: list[Any] = [whole[a:b] for a, b in zip(batch.starts, batch.ends, strict=True)]
            assert (batch.starts[1:] == batch.ends[:-1] + 1).all()
        else:
            assert isinstance(batch, Rows)
            assert form != "converted" or batch.rows.schema.equals(CONVERTED)
            batch.rows.validate(full=True)
            values = batch.rows.to_pylist()
        found += zip(batch.position.tolist(), values, strict=True)
    return found


def fault_of(call: Callable[[], Any]) -> str:
    with pytest.raises(BadShard) as caught:
        call()
    assert type(caught.value.reason) is str
    return caught.value.reason


def reasons(bad: list[BadRecord]) -> list[str]:
    return [each.reason for each in bad]


# JSON lines


def oracle(data: bytes) -> tuple[Found, dict[int, str]]:
    """Documents and faults of plain JSON lines, by position, with nothing but the standard library."""
    found: Found = {}
    bad: dict[int, str] = {}
    at = 0
    for line in data.split(b"\n"):
        if line.strip(b" \t\r"):
            fault, document = judged(line)
            if fault:
                bad[at] = fault
            else:
                name = document.get("id")
                is_number = isinstance(name, int | float) and not isinstance(name, bool)
                found[at] = (name if isinstance(name, str) else str(name) if is_number else None, document["text"])
        at += len(line) + 1
    return found, bad


def judged(line: bytes) -> tuple[str, Any]:
    def refuse(value: str) -> float:
        raise ValueError(value)

    def finite(value: str) -> float:
        return float(value) if math.isfinite(float(value)) else refuse(value)

    try:
        text = line.decode()
    except UnicodeDecodeError:
        return "not_utf8", None
    try:
        document = json.loads(text.strip(" \t\r"), parse_constant=refuse, parse_float=finite)
        json.dumps(document, ensure_ascii=False).encode()  # lone surrogates
    except ValueError:
        return "not_json", None
    if not isinstance(document, dict):
        return "not_object", None
    if document.get("text") is None:
        return "no_text", None
    return ("", document) if isinstance(document["text"], str) else ("text_not_string", None)


ODD_LINES = [
    b"",
    b" ",
    b"\t\r",
    b"{}",
    b"[]",
    b"null",
    b"3",
    b'"text"',
    b"{",
    b'{"text": "cut',
    b'{"text": null}',
    b'{"text": 1}',
    b'{"text": ["a"]}',
    b'{"text": {"a": 1}}',
    b'{"text": "a"}{"text": "b"}',
    b'{"text": "a"} x',
    b'{"text": NaN}',
    b'{"text": "a", "x": NaN}',
    b'{"text": "a", "x": Infinity}',
    b'{"text": "a", "x": 1e999}',
    b'{"text": "a", "x": 01}',
    b'{"text": "\\ud800"}',
    b'{"text": "a", "\\udfff": 1}',
    b'{"text": "\\ud83d\\ude00"}',
    b'{"text": "\xff"}',
    b'{"text": "a", "x": "\xc3"}',
    b'{"text": "\xed\xa0\x80"}',
    b'{"text": "a\0b"}',
    b'{"text": "a\tb"}',
    b'{"text": "a\\u0000b"}',
    b'{"text": "first", "text": "last"}',
    b'{"text": "x", "text": null}',
    '{"text": "\u2028\x85"}'.encode(),
    b'{"text": "crlf"}\r',
    b'  {"text": "padded"}  ',
    b'{"id": 7, "text": "n"}',
    b'{"id": true, "text": "b"}',
    b'{"id": 123456789012345678901234567890, "text": "long"}',
    b'{"id": null, "text": ""}',
    b'{"id": ["x"], "text": ""}',
    b"\xef\xbb\xbf{}",
    b"'text'",
]


@given(
    st.lists(st.sampled_from(ODD_LINES) | texts.map(lambda t: orjson.dumps({"text": t, "id": t[:3]})), max_size=15),
    st.sampled_from(shards.CODECS),
    places,
    block_sizes,
    st.booleans(),
)
@settings(max_examples=250, deadline=None)
def test_json_lines_agree_with_plain_python(
    lines: list[bytes], codec: str, cuts: list[int], block: int, last: bool
) -> None:
    """Any good and bad lines, in any codec, members and blocks: documents, faults and positions are the oracle's."""
    data = b"\n".join([b'{"text": "first"}', *lines]) + (b"\n" if last else b"")
    raw = shards.compress(data, codec, cuts=cuts)
    found, bad = read(raw, limits=DecodeLimits(block_bytes=block))
    expected, faults = oracle(data)
    assert found == expected
    assert {each.position: each.reason for each in bad} == faults
    everything = data.split(b"\n")
    assert {each.head for each in bad} <= {line[:1024] for line in everything}


@given(documents, st.sampled_from(shards.CODECS), places, block_sizes, st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_any_documents_come_back_as_they_are(
    docs: list[shards.Document], codec: str, cuts: list[int], block: int, random: Any
) -> None:
    """Any documents through any codec: the exact texts, and the original bytes of just the records that were chosen."""
    data = shards.jsonl_bytes(docs)
    raw = shards.compress(data, codec, cuts=cuts)
    limits = DecodeLimits(block_bytes=block)
    found, bad = read(raw, limits=limits)
    assert list(found.values()) == docs and not bad
    wanted = sorted(random.sample(sorted(found), random.randint(0, len(found))))
    lines = dict(take(raw, "lines", wanted, limits=limits))
    assert list(lines) == wanted
    assert all(data.startswith(line + b"\n", at) for at, line in lines.items())
    rows = dict(take(raw, "converted", wanted, limits=limits))
    assert {at: (row["id"], row["text"]) for at, row in rows.items()} == {at: found[at] for at in wanted}


@given(st.lists(texts, min_size=1, max_size=10), places, block_sizes)
@settings(max_examples=150, deadline=None)
def test_slices_of_a_plain_shard_add_up(values: list[str], cuts: list[int], block: int) -> None:
    """The byte ranges of a plain shard give each document once, whatever the cuts, and their records as well."""
    data = shards.jsonl_bytes([(None, value) for value in values])
    whole = read(data)[0]
    found: Found = {}
    lines: list[tuple[int, Any]] = []
    for start, end in itertools.pairwise(sorted({0, len(data), *(cut % len(data) for cut in cuts)})):
        part = shards.whole("x.jsonl")._replace(start=start, end=end)
        here = read(data, part=part, limits=DecodeLimits(block_bytes=block))[0]
        assert not found.keys() & here.keys()
        found |= here
        lines += take(data, "lines", sorted(here), part=part)
    assert found == whole
    assert b"".join(line + b"\n" for _, line in lines) == data


def test_the_last_line_may_lack_its_newline() -> None:
    """A shard whose last line is not ended gives that line, with the bytes it has."""
    data = b'{"text": "a"}\n{"text": "b"}'
    assert list(read(data)[0]) == [0, 14]
    assert take(data, "lines", [0, 14]) == [(0, b'{"text": "a"}'), (14, b'{"text": "b"}')]


def one(line: bytes, **source: Any) -> str:
    """The text of one line, or the reason why it is bad."""
    found, bad = read(b'{"text": "good", "n": 0}\n' + line + b"\n", source=shards.source(**source))
    assert len(found) + len(bad) == 2
    return reasons(bad)[0] if bad else found[25][1]


@pytest.mark.parametrize(
    "line", [b'{"text": "\xff"}', b"\x80", '{"text": "é"}'.encode("latin-1"), b'{"text": "\xed\xa0\x80"}']
)
def test_fault_15_invalid_utf8(line: bytes) -> None:
    """Invalid UTF-8 anywhere in a line, surrogates in disguise included, sends that line to quarantine."""
    assert one(line) == RecordFault.NOT_UTF8


def test_fault_16_lone_surrogates() -> None:
    """An escaped lone surrogate is no text; a pair is one character."""
    assert one(b'{"text": "\\ud800"}') == RecordFault.NOT_JSON
    assert one(b'{"text": "\\ud83d\\ude00"}') == "\U0001f600"


def test_fault_17_raw_control_characters() -> None:
    """Raw NUL and other control characters are refused; escaped ones are text."""
    assert one(b'{"text": "a\0b"}') == one(b'{"text": "a\x01b"}') == RecordFault.NOT_JSON
    assert one(b'{"text": "a\\u0000b"}') == "a\0b"


def test_fault_18_bom_crlf_and_unicode_line_ends() -> None:
    """After a BOM the first position is 3; CR stays in the record; U+2028 ends no line."""
    data = '\ufeff{"text": "a"}\r\n\r\n{"text": "\u2028"}\n'.encode()
    found, bad = read(data)
    assert found == {3: (None, "a"), 20: (None, "\u2028")} and not bad
    assert take(data, "lines", [3, 20])[0] == (3, b'{"text": "a"}\r')


def test_fault_19_the_last_of_equal_keys_wins() -> None:
    """A key given twice has its last value, and the record keeps its bytes."""
    assert one(b'{"text": "first", "text": "last"}') == "last"


@pytest.mark.parametrize("depth", [900, 1020, 1030, 100_000])
def test_fault_20_nesting(depth: int) -> None:
    """Deep nesting is a bad record past 1,024 levels and never an exception, converted or not."""
    line = b'{"text": "deep", "x": ' + b"[" * depth + b"]" * depth + b"}"
    assert one(line) == ("deep" if depth < 1024 else RecordFault.NOT_JSON)
    if depth < 1024:
        ((_, row),) = take(line, "converted", [0])
        assert "[[[[[" in row["metadata"] and row["text"] == "deep"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_fault_20_numbers_that_are_none(number: str) -> None:
    """Numbers that JSON does not have make a bad record."""
    assert one(b'{"text": "a", "n": %s}' % number.encode()) == RecordFault.NOT_JSON


def test_fault_21_two_objects_on_a_line() -> None:
    """Two objects on a line are one bad record; the positions after it do not shift."""
    data = b'{"text": "a"}{"text": "b"}\n{"text": "c"}\n'
    found, bad = read(data)
    assert found == {27: (None, "c")}
    assert reasons(bad) == [RecordFault.NOT_JSON] and bad[0].length == 26


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"x": 1}', RecordFault.NO_TEXT),
        (b'{"text": null}', RecordFault.NO_TEXT),
        (b'{"text": 5}', RecordFault.TEXT_NOT_STRING),
        (b'{"text": ["a"]}', RecordFault.TEXT_NOT_STRING),
        (b'{"text": false}', RecordFault.TEXT_NOT_STRING),
        (b"[1]", RecordFault.NOT_OBJECT),
        (b"7", RecordFault.NOT_OBJECT),
    ],
)
def test_fault_22_texts_that_are_none(line: bytes, reason: RecordFault) -> None:
    """A missing text, and one that is no string, have reasons of their own; empty text is a document."""
    assert one(line) == reason
    assert one(b'{"text": ""}') == ""


def test_fault_23_bad_lines_do_not_spoil_their_neighbours() -> None:
    """In a block of a thousand lines with a bad one at each hundred, the other lines are all there."""
    lines = [b'{"text": "%d"}' % i if i % 100 else b'{"text": %d}' % i for i in range(1000)]
    found, bad = read(b"\n".join(lines))
    assert len(found) == 990
    assert reasons(bad) == ["text_not_string"] * 10
    assert [text for _, text in found.values()] == [str(i) for i in range(1000) if i % 100]


def test_fault_14_a_long_line_goes_to_quarantine() -> None:
    """A line over the limit is a bad record with its first bytes; its neighbours are read and can be taken."""
    data = b'{"text": "a"}\n{"text": "%s"}\n{"text": "c"}\n' % (b"x" * 5000)
    limits = DecodeLimits(max_record_bytes=1000, block_bytes=64)
    found, bad = read(data, limits=limits)
    assert [text for _, text in found.values()] == ["a", "c"]
    assert [each[:3] for each in bad] == [(14, "too_long", 5012)]
    assert len(bad[0].head) > 1000 and data.startswith(bad[0].head, 14)
    assert take(data, "lines", list(found), limits=limits)[1][1] == b'{"text": "c"}'


def test_dotted_names_descend() -> None:
    """Dots descend into objects; a field whose own name has the dots comes first; a dead end is no text."""
    names = {"text": "body.text", "id": "meta.key"}
    data = b"""{"body": {"text": "deep"}, "meta": {"key": "k"}}
{"body.text": "flat", "body": {"text": "deep"}, "meta": 3}
{"body": "text"}
{"body": null, "text": "elsewhere"}
"""
    found, bad = read(data, source=shards.source(**names))
    assert list(found.values()) == [("k", "deep"), (None, "flat")]
    assert reasons(bad) == ["no_text", "no_text"]
    rows = take(data, "converted", list(found), source=shards.source(**names))
    assert [json.loads(row["metadata"]) for _, row in rows] == [
        {"body": {}, "meta": {}},
        {"body": {"text": "deep"}, "meta": 3},
    ]


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ('"x"', "x"),
        ('""', ""),
        ("5", "5"),
        ("-5", "-5"),
        ("18446744073709551616", "18446744073709551616"),
        ("1.50", "1.50"),
        ("1e3", "1e3"),
        ("true", None),
        ("null", None),
        ("[1]", None),
        ("{}", None),
    ],
)
def test_ids_are_strings(value: str, name: str | None) -> None:
    """Strings stay, numbers become the digits of the line, anything else is no id; without a field there is none."""
    line = f'{{"id": {value}, "text": ""}}'.encode()
    assert read(line)[0] == {0: (name, "")}
    assert read(line, source=shards.source(id=""))[0] == {0: (None, "")}


@pytest.mark.parametrize(("value", "good"), [("0", True), ("12", True), ("-1", False), ("1.0", False), ('"3"', False)])
def test_token_counts_are_counts(value: str, good: bool) -> None:
    """With a field for token counts, a record without a non-negative integer there is bad; else they are null."""
    line = f'{{"text": "a", "n": {value}}}'.encode()
    assert one(line, token_count="n") == ("a" if good else RecordFault.NO_TOKEN_COUNT)
    assert one(b'{"text": "a"}', token_count="n") == RecordFault.NO_TOKEN_COUNT
    assert one(b'{"text": "a", "n": 99999999999999999999}', token_count="n") == RecordFault.NO_TOKEN_COUNT
    (batch,) = (each.batch for each in read_texts(shards.opened(line), shards.whole("x"), shards.source(), LIMITS))
    assert batch["token_count"].to_pylist() == [None]
    assert batch["record_bytes"].to_pylist() == [len(line)]


def test_strata_are_strings() -> None:
    """The quota field's value comes as a string, numbers and booleans as JSON writes them, anything else as null."""
    data = b"\n".join(b'{"text": "", "q": {"f": %s}}' % v for v in (b'"story"', b"3", b"true", b"1.5", b"null", b"[]"))
    parts = read_texts(shards.opened(data), shards.whole("x"), shards.source(quota_field="q.f"), LIMITS)
    assert [s for part in parts for s in part.batch["stratum"].to_pylist()] == ["story", "3", "true", "1.5", None, None]


def test_converted_json_lines_keep_every_other_field() -> None:
    """Metadata are all fields but text and id, integers past 64 bits to the last digit."""
    line = '{"id": "i", "n": 123456789012345678901234567890, "text": "t", "o": {"é": [1, null, 2.5]}}'.encode()
    ((_, row),) = take(line, "converted", [0])
    assert (row["id"], row["text"]) == ("i", "t")
    assert json.loads(row["metadata"]) == {"n": 123456789012345678901234567890, "o": {"é": [1, None, 2.5]}}
    ((_, row),) = take(line, "converted", [0], source=shards.source(id=""))
    assert json.loads(row["metadata"])["id"] == "i" and row["id"] is None


def test_fault_27_28_a_record_that_is_not_there_any_more() -> None:
    """A wanted position without a record means another shard than the plan's: the build stops."""
    data = shards.jsonl_bytes(DOCS)
    with pytest.raises(InputChanged, match=r"x\.jsonl has 1 of the 2 records"):
        take(data, "lines", [0, 5])
    with pytest.raises(InputChanged, match="0 of the 1"):
        take(shards.parquet_bytes(DOCS), "rows", [99], "x.parquet", Format.PARQUET)


def test_forms_that_a_format_has_not() -> None:
    """Lines of Parquet and rows of JSON lines are a mistake of the caller."""
    with pytest.raises(ValueError, match="no form"):
        take(shards.parquet_bytes(DOCS), "lines", [0], "x.parquet", Format.PARQUET)
    with pytest.raises(ValueError, match="no form"):
        take(shards.jsonl_bytes(DOCS), "rows", [0])


def test_other_formats_are_not_taken_for_json_lines() -> None:
    """Parquet and WARC bytes under a JSONL name are one bad shard, and not thousands of bad records."""
    assert fault_of(lambda: read(shards.parquet_bytes(DOCS))) == ShardFault.NOT_THE_FORMAT
    assert fault_of(lambda: read(gzip.compress(shards.wet_bytes(DOCS)))) == ShardFault.NOT_THE_FORMAT
    part = shards.whole("x.jsonl")._replace(end=10)
    assert fault_of(lambda: read(gzip.compress(b"{}"), part=part)) == ShardFault.NOT_THE_FORMAT


@pytest.mark.parametrize("shard_format", list(Format))
def test_raw_bytes_are_seen_once_and_in_order(shard_format: Format) -> None:
    """Whatever the format, the raw bytes of a whole shard pass `on_raw` once and in order, for its checksum."""
    data = {
        Format.JSONL: shards.compress(shards.jsonl_bytes(DOCS), "zstd"),
        Format.PARQUET: shards.parquet_bytes(DOCS, row_group=2),
        Format.WET: shards.compress(shards.wet_bytes(DOCS), "gzip"),
        Format.WARC: shards.warc_bytes(DOCS),
    }[shard_format]
    seen: list[bytes] = []
    part = shards.whole("x", shard_format)
    for _ in read_texts(shards.opened(data), part, shards.source(), DecodeLimits(block_bytes=50), seen.append):
        pass
    assert b"".join(seen) == data


SAMPLES = [
    ("x.jsonl", Format.JSONL, shards.jsonl_bytes(DOCS)),
    ("x.jsonl.gz", Format.JSONL, shards.compress(shards.jsonl_bytes(DOCS), "gzip", cuts=[50])),
    ("x.jsonl.zst", Format.JSONL, shards.compress(shards.jsonl_bytes(DOCS), "zstd", cuts=[50], checksum=False)),
    ("x.parquet", Format.PARQUET, shards.parquet_bytes(DOCS, row_group=2, page_crc=False)),
    ("x.wet", Format.WET, shards.wet_bytes(DOCS)),
    ("x.warc", Format.WARC, shards.warc_bytes(DOCS[:2])),
]


@given(
    st.sampled_from(SAMPLES),
    st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 2), st.integers(0, 255)), min_size=1, max_size=6),
)
@settings(max_examples=300, deadline=None)
def test_damage_never_raises_anything_else(
    sample: tuple[str, Format, bytes], edits: list[tuple[int, int, int]]
) -> None:
    """Bytes changed, lost or added anywhere, even where no checksum looks, end in texts, bad records or a bad shard."""
    name, shard_format, data = sample
    changed = bytearray(data)
    for place, lost, byte in edits:
        at = place % (len(changed) + 1)
        changed[at : at + lost] = bytes([byte])
    try:
        found, _ = read(bytes(changed), name, shard_format)
        assert len(take(bytes(changed), "converted", list(found), name, shard_format)) == len(found)
    except (BadShard, ConfigError):
        return


# Parquet


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

    class Kms(encryption.KmsClient):  # type: ignore[misc]
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


# WET and WARC


@given(documents, st.sampled_from(shards.CODECS), places, st.sampled_from([1, 64, 1000, 4 << 20]))
@settings(max_examples=80, deadline=None)
def test_any_documents_come_back_from_wet(docs: list[shards.Document], codec: str, cuts: list[int], block: int) -> None:
    """Any texts as WET, members split anywhere: exact texts, record ids, and the position of each record."""
    docs = [(f"<urn:uuid:{i}>", text) for i, (_, text) in enumerate(docs)]
    data = shards.wet_bytes(docs)
    raw = shards.compress(data, codec, cuts=cuts)
    limits = DecodeLimits(block_bytes=block)
    found, bad = read(raw, "x.warc.wet", Format.WET, limits=limits)
    assert list(found.values()) == docs and not bad
    assert all(data.startswith(b"WARC/1.0\r\nWarc-Type: conversion", at) for at in found)
    rows = dict(take(raw, "converted", list(found)[::2], "x", Format.WET, limits=limits))
    assert [(row["id"], row["text"]) for row in rows.values()] == docs[::2]
    url = {"url": "http://example.org/", "date": shards.DATE, "language": None}
    assert all(json.loads(row["metadata"]) == url for row in rows.values())


def test_wet_records_that_are_no_documents() -> None:
    """Only conversion records are documents; one that is not UTF-8 goes to quarantine; languages are kept."""
    good = shards.wet_record("<g>", "good", warc_identified_content_language="eng,deu")
    bad_text = shards.wet_record("<b>", b"caf\xe9")
    data = shards.wet_bytes([]) + shards.warc_record("metadata", "<m>", b"x: y\r\n") + bad_text + good
    found, bad = read(data, "x.wet", Format.WET)
    assert list(found.values()) == [("<g>", "good")]
    assert bad == [BadRecord(len(data) - len(good) - len(bad_text), "not_utf8", 4, b"caf\xe9")]
    ((_, row),) = take(data, "converted", list(found), "x.wet", Format.WET)
    assert json.loads(row["metadata"])["language"] == "eng,deu"


def test_fault_14_a_long_wet_record_goes_to_quarantine() -> None:
    """A record over the limit is a bad record; long records of other kinds are nothing."""
    data = (
        shards.wet_record("<long>", "x" * 5000)
        + shards.warc_record("metadata", None, b"y" * 5000)
        + shards.wet_record("<z>", "z")
    )
    found, bad = read(data, "x.wet", Format.WET, limits=DecodeLimits(max_record_bytes=1000))
    assert list(found.values()) == [("<z>", "z")]
    assert [(each.position, each.reason) for each in bad] == [(0, "too_long")]


@pytest.mark.parametrize("shard_format", [Format.WET, Format.WARC])
def test_fault_01_to_03_every_cut_of_an_archive_is_seen(shard_format: Format) -> None:
    """An archive in one gzip member is a bad shard wherever it is cut; an empty plain one holds nothing."""
    make = shards.wet_bytes if shard_format is Format.WET else shards.warc_bytes
    raw = gzip.compress(make(DOCS[:2]))
    for size in range(0, len(raw), 3):
        assert fault_of(lambda size=size: read(raw[:size], "x.gz", shard_format)) in {"truncated", "empty"}
    assert read(b"", "x.wet", shard_format) == ({}, [])
    assert fault_of(lambda: read(b"<html>", "x.wet", shard_format)) == ShardFault.NOT_THE_FORMAT


def test_fault_05_flipped_bits_in_an_archive() -> None:
    """A flipped bit in a gzip archive leaves the texts as they were or is refused."""
    docs: list[shards.Document] = [("<a>", "some text"), ("<b>", "日本")]
    raw = gzip.compress(shards.wet_bytes(docs))
    expected = read(raw, "x.gz", Format.WET)
    for bit in range(0, len(raw) * 8, 5):
        try:
            found = read(shards.flipped(raw, bit), "x.gz", Format.WET)
        except BadShard:
            continue
        assert found == expected, bit


def test_warc_pages_become_text() -> None:
    """Responses with HTML or plain text are documents, in order; other records and other media are not."""
    pages = [
        shards.warc_record("response", "<1>", shards.http(shards.html("A first paragraph of text."))),
        shards.warc_record("response", "<2>", shards.http(b"plain \xe2\x82\xac text", content_type="text/plain")),
        shards.warc_record("response", "<3>", shards.http(b"%PDF", content_type="application/pdf")),
        shards.warc_record("response", "<4>", shards.http(b"", status="204 No Content")),
        shards.warc_record("response", "<5>", b"\x00garbage"),
        shards.warc_record("response", "<6>", shards.http(b"junk", content_encoding="zstd")),
        shards.warc_record("resource", "<7>", b"<html>not a response</html>"),
    ]
    data = b"".join(pages)
    found, bad = read(data, "x.warc", Format.WARC)
    assert list(found.values()) == [("<1>", "A first paragraph of text."), ("<2>", "plain € text"), ("<4>", "")]
    assert reasons(bad) == ["bad_header", "undecodable"]
    rows = take(data, "converted", list(found)[:2], "x.warc", Format.WARC)
    assert [row["text"] for _, row in rows] == ["A first paragraph of text.", "plain € text"]
    assert json.loads(rows[0][1]["metadata"]) == {"url": "http://example.org/", "date": shards.DATE}


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.wet.gz", "x.parquet"])
def test_long_shards_stay_small_in_memory(name: str, tmp_path: Path) -> None:
    """Memory is bounded by the block size, not by the shard: 60 MB of text pass in less than 25 MB."""
    docs: list[shards.Document] = [(str(i), f"{i} " + "some words and more " * 150) for i in range(20_000)]
    path = tmp_path / name
    shard_format = detect_format(name, b"")
    if shard_format is Format.PARQUET:
        shards.write_parquet(path, docs, row_group=20_000)
    else:
        make = shards.jsonl_bytes if shard_format is Format.JSONL else shards.wet_bytes
        shards.write(path, make(docs), "gzip", members=50)
    limits = DecodeLimits(block_bytes=1 << 20)
    arrow = pa.total_allocated_bytes()
    count = peak = 0
    tracemalloc.start()
    try:
        with path.open("rb") as file:
            for part in read_texts(file, shards.whole(name, shard_format), shards.source(), limits):
                count += part.batch.num_rows
                peak = max(peak, pa.total_allocated_bytes() - arrow)
        peak += tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == len(docs)
    assert peak < 25 << 20


# Formats and real archives


@pytest.mark.parametrize(
    ("name", "head", "shard_format"),
    [
        ("a/b.jsonl", b"", Format.JSONL),
        ("a/b.JSONL.ZST", b"", Format.JSONL),
        ("b.json.gz", b"", Format.JSONL),
        ("b.ndjson", b"", Format.JSONL),
        ("b.parquet", b"", Format.PARQUET),
        ("b.warc.wet.gz", b"", Format.WET),
        ("b.wet", b"", Format.WET),
        ("b.warc.gz", b"", Format.WARC),
        ("b.warc.zst", b"", Format.WARC),
        ("b.jsonl", b"PAR1\x15", Format.PARQUET),
        ("part-0001", b'\xef\xbb\xbf {"text": 1}', Format.JSONL),
        ("part-0001", b"WARC/1.0\r\nWARC-Type: response", Format.WARC),
        ("part-0001", b"WARC/1.0\r\nWARC-Type: conversion", Format.WET),
    ],
)
def test_formats_are_told_by_name_and_magic(name: str, head: bytes, shard_format: Format) -> None:
    """Parquet is told by its magic number, the others by name, and shards without a telling name by their beginning."""
    assert detect_format(name, head) is shard_format


@pytest.mark.parametrize(
    ("name", "head"), [("x.csv", b"a,b"), ("x.txt", b""), ("x.gz", b"text"), ("x.jsonl.bz2", b"BZh")]
)
def test_unknown_formats_say_what_is_accepted(name: str, head: bytes) -> None:
    """A shard of no known format is a mistake in the configuration, and the message lists the known ones."""
    with pytest.raises(ConfigError, match=r"accepted are \.jsonl"):
        detect_format(name, head)


@pytest.mark.parametrize(
    ("name", "count", "words"),
    [
        ("cc_en_head-0091.jsonl.gz", 10, "weekly teleconferences"),
        ("dolma-sample-0000.warc.gz", 22, "research"),
        ("whirlwind.warc.wet.gz", 1, "Biquipedia, a enciclopedia libre"),
        ("whirlwind.warc.gz", 1, "escopete"),
        ("warcio-example.warc.gz", 1, "illustrative examples"),  # the body is gzip inside
        ("warcio-iana-chunked.warc", 1, "Root Zone trust anchor"),  # and chunked here
    ],
)
def test_real_archives(shared_data: Path, name: str, count: int, words: str) -> None:
    """Real crawls give the documents that they are known to hold, and the same texts again as records."""
    data = (shared_data / "web" / name).read_bytes()
    shard_format = detect_format(name, b"")
    found, bad = read(data, name, shard_format)
    assert len(found) == count and not bad
    assert any(words in text for _, text in found.values())
    rows = take(data, "converted", list(found), name, shard_format)
    assert {at: (row["id"], row["text"]) for at, row in rows} == found
    if shard_format is Format.JSONL:
        whole = gzip.decompress(data)
        assert all(whole.startswith(line + b"\n", at) for at, line in take(data, "lines", list(found), name))


def test_real_archives_agree_with_warcio(shared_data: Path) -> None:
    """The records found in real archives, and their payloads, are those that warcio finds."""
    archiveiterator = pytest.importorskip("warcio.archiveiterator")
    name = "whirlwind.warc.wet.gz"
    data = (shared_data / "web" / name).read_bytes()
    records = archiveiterator.ArchiveIterator(io.BytesIO(data), no_record_parse=True)
    expected = [
        (record.rec_headers.get_header("WARC-Record-ID"), record.raw_stream.read().decode())
        for record in records
        if record.rec_type == "conversion"
    ]
    assert list(read(data, name, Format.WET)[0].values()) == expected
