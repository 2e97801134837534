"""Reading WET and WARC: the exact texts at stable positions, and later the records that were chosen.

Numbers in names are rows of the fault table.
"""

import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import shards
from tests.reading import DOCS, documents, fault_of, places, read, reasons, take
from transforms.decode import DecodeLimits
from transforms.errors import BadShard
from transforms.schema import BadRecord, Format, ShardFault


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
