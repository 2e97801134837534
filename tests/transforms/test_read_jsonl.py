"""Reading JSON lines: the exact texts at stable positions, and later the very records that were chosen.

Numbers in names are rows of the fault table.
"""

import itertools
import json
import math
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import shards
from tests.reading import LIMITS, Found, block_sizes, documents, places, read, reasons, take, texts
from transforms.decode import DecodeLimits
from transforms.read import read_texts
from transforms.schema import RecordFault


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
