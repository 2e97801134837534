"""Extraction: what a crawler stored becomes the text a reader saw, the same one each time, whatever the server did."""

import gzip
import zlib

import pytest
import trafilatura
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import shards
from transforms import extract
from transforms.extract import (
    Response,
    charset_of,
    decode_body,
    decode_text,
    html_text,
    join_chunks,
    media_type,
    page_text,
    parse_http,
)
from transforms.schema import RecordFault

LIMIT = 1 << 20
TEXT = "Zażółć gęślą jaźń – some words of a page"


def plain(body: bytes, *, cut: bool = False, content_type: str = "text/plain; charset=utf-8", **headers: str) -> object:
    """What `page_text` makes of a plain-text response."""
    warc_headers = {"warc-truncated": "length"} if cut else {}
    return page_text(warc_headers, shards.http(body, content_type=content_type, **headers), LIMIT)


def chunked(body: bytes, size: int = 7) -> bytes:
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x;ext=1\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


# HTTP


def test_a_response_is_split() -> None:
    """Status, headers with folded and repeated ones, and the body as it is, bare line feeds included."""
    response = parse_http(b"HTTP/1.1 404 Not Found\r\nA: 1\r\n b\r\nC:d:e\r\na: 2\r\nno colon\r\n\r\nbody\r\n\r\n")
    assert response == Response(404, {"a": "1 b", "c": "d:e"}, b"body\r\n\r\n")
    assert parse_http(b"HTTP/1.0 200 OK\nA: 1\n\n\nbody") == Response(200, {"a": "1"}, b"\nbody")
    assert parse_http(b"HTTP/2 200\r\n\r\nbody") == Response(200, {}, b"body")
    assert parse_http(b"HTTP/1.1 200 OK\r\n\r\n") == Response(200, {}, b"")


@pytest.mark.parametrize(
    "payload", [b"", b"HTTP", b"<html></html>", b"HTTP/1.1 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nA: 1\r\n"]
)
def test_what_is_no_response_is_a_bad_header(payload: bytes) -> None:
    """A record that does not begin as a response does, or whose head does not end, goes to quarantine."""
    assert page_text({}, payload, LIMIT) is RecordFault.BAD_HEADER


@given(st.binary(max_size=300))
@settings(max_examples=60)
def test_any_bytes_give_text_a_reason_or_nothing(body: bytes) -> None:
    """No response raises, whatever its body and its encodings claim."""
    for encoding in ("gzip", "deflate", "br", "identity", "gzip, br"):
        for content_type in ("text/html", "text/plain; charset=utf-16", "text/html; charset=x"):
            headers = {"content_encoding": encoding, "transfer_encoding": "chunked"}
            payload = shards.http(body, content_type=content_type, **headers)
            found = page_text({}, payload, LIMIT)
            assert isinstance(found, RecordFault) or found is not None
            assert found.encode().decode() == found
    page_text({}, body, LIMIT)


@pytest.mark.parametrize(
    ("sent", "found", "body", "media"),
    [
        ("Text/HTML; charset=x", "application/pdf", b"", "text/html"),
        ("", "text/html", b"", "text/html"),
        ("", "", b" \n<!DOCTYPE HTML><p>", "text/html"),
        ("", "", b"<HTML>", "text/html"),
        ("", "", b"%PDF", ""),
        ("image/png", "text/html", b"<html>", "image/png"),
    ],
)
def test_the_media_type(sent: str, found: str, body: bytes, media: str) -> None:
    """What the server said comes first, then what the crawler found, then what the body looks like."""
    response = Response(200, {"content-type": sent} if sent else {}, body)
    assert media_type({"warc-identified-payload-type": found}, response) == media


@pytest.mark.parametrize("content_type", ["application/pdf", "image/png", "application/json", "text/css"])
def test_other_media_are_no_documents(content_type: str) -> None:
    """Only HTML, XHTML and plain text are pages."""
    assert plain(b"x", content_type=content_type) is None


def test_pages_of_any_status_are_documents() -> None:
    """An error page is a page; what to do with it is decided later, by its text."""
    assert page_text({}, shards.http(b"gone", content_type="text/plain", status="410 Gone"), LIMIT) == "gone"


# Encodings of the body


@given(st.binary(min_size=1, max_size=200), st.integers(1, 50))
def test_chunks_are_joined(body: bytes, size: int) -> None:
    """Chunks of any size, with extensions, give the body."""
    assert join_chunks(chunked(body, size), cut=False) == body


def test_broken_chunks() -> None:
    """A chunked body that ends early is refused, or used as far as it goes where the crawler cut it."""
    body = chunked(b"0123456789", 4)
    for broken in (body[:-5], body[:12], body.replace(b"\r\n4", b"\r\nzz")):
        assert join_chunks(broken, cut=False) is None
        assert b"0123456789".startswith(join_chunks(broken, cut=True) or b"x")
    assert plain(body[:12], transfer_encoding="chunked") is RecordFault.UNDECODABLE
    assert plain(body[:12], transfer_encoding="chunked", cut=True) == "012"


def test_a_body_that_is_chunked_no_more() -> None:
    """Crawlers that store the joined body leave the header in place: the body is used as it is."""
    assert plain(b"no chunks here", transfer_encoding="chunked") == "no chunks here"


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "deflate", "raw deflate", "br", "identity", "none"])
def test_content_encodings(encoding: str) -> None:
    """Every encoding of the web is undone, under chunks as well."""
    body = TEXT.encode()
    if "gzip" in encoding:
        body = gzip.compress(body)
    elif encoding == "deflate":
        body = zlib.compress(body)
    elif encoding == "raw deflate":
        packer = zlib.compressobj(wbits=-15)
        body = packer.compress(body) + packer.flush()
    elif encoding == "br":
        body = pytest.importorskip("brotli").compress(body)
    name = encoding.rpartition(" ")[2]
    assert plain(body, content_encoding=name) == TEXT
    assert plain(chunked(body), content_encoding=name, transfer_encoding="chunked") == TEXT


def test_encodings_one_upon_the_other() -> None:
    """Several encodings are undone from the last to the first."""
    assert plain(gzip.compress(zlib.compress(TEXT.encode())), content_encoding="deflate, gzip") == TEXT


def packed(encoding: str, body: bytes) -> bytes:
    """A body in one content encoding."""
    if encoding == "br":
        return bytes(pytest.importorskip("brotli").compress(body))
    return gzip.compress(body) if encoding == "gzip" else zlib.compress(body)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br"])
def test_cut_encodings(encoding: str) -> None:
    """A body that ends too early is undecodable, and used as far as it goes where the crawler cut it."""
    text = "".join(f"{i} words of a page, " for i in range(500))
    body = packed(encoding, text.encode())[:-40]
    assert plain(body, content_encoding=encoding) is RecordFault.UNDECODABLE
    found = plain(body, content_encoding=encoding, cut=True)
    assert isinstance(found, str) and len(found) > 100 and text.startswith(found)


def test_a_body_that_is_gzip_no_more() -> None:
    """A body that is plainly not gzip under a header that says so was decoded by the crawler."""
    assert plain(b"plain", content_encoding="gzip") == "plain"


@pytest.mark.parametrize("encoding", ["zstd", "compress", "br" if not extract._BROTLI else "exi"])
def test_encodings_that_are_not_read(encoding: str) -> None:
    """A body in an encoding that is not known here is undecodable, and counted as such."""
    assert plain(b"\x00\x01", content_encoding=encoding) is RecordFault.UNDECODABLE


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br"])
def test_fault_13_a_bomb_in_a_page(encoding: str) -> None:
    """A body that grows past the record limit is too long, and is given up soon after."""
    body = packed(encoding, b"\0" * (20 << 20))
    response = Response(200, {"content-encoding": encoding}, body)
    assert decode_body(response, cut=False, max_bytes=1 << 20) is RecordFault.TOO_LONG


# Characters


@pytest.mark.parametrize(
    ("label", "codec"),
    [
        ("UTF-8", "utf-8"),
        ("utf8", "utf-8"),
        ("latin1", "cp1252"),
        ("us-ascii", "cp1252"),
        ("windows-1251", "cp1251"),
        ("Shift_JIS", "cp932"),
        ("gb2312", "gb18030"),
        ("EUC-KR", "cp949"),
        ("iso-8859-9", "cp1254"),
        (' "koi8-r" ', "koi8-r"),
        ("utf-7", None),
        ("rot13", None),
        ("zip", None),
        ("idna", None),
        ("unknown-8bit", None),
        ("", None),
        ("a\0b", None),
    ],
)
def test_charset_labels(label: str, codec: str | None) -> None:
    """Labels mean what browsers take them for, and codecs that the web has not are not run."""
    assert charset_of(label) == codec


@pytest.mark.parametrize(
    ("body", "content_type", "text"),
    [
        ("ż".encode(), "text/html; charset=utf-8", "ż"),
        ("ż".encode("iso-8859-2"), 'text/html; charset="ISO-8859-2"', "ż"),
        ("日本".encode("shift_jis"), "text/html;charset=Shift_JIS", "日本"),
        (b"\x93quoted\x94", "text/html; charset=iso-8859-1", "“quoted”"),
        (b"\xef\xbb\xbfx", "text/html; charset=latin1", "x"),
        ("é".encode("utf-16"), "text/html", "é"),
        (b"\xfe\xff\x00x", "text/html", "x"),
        ("ż".encode(), "text/html", "ż"),
        (b"caf\xe9", "text/html", "café"),
        (b"\x81caf\xe9", "text/html", "\ufffdcafé"),
        ("ż日".encode(), "text/html; charset=euc-jp", "ż日"),  # the header is wrong, and UTF-8 fits
        (b"a\xff\xffb", "text/html; charset=utf-8", "a\ufffd\ufffdb"),
        ("ü".encode(), "text/html; charset=nonsense", "ü"),
    ],
)
def test_charsets_of_the_header(body: bytes, content_type: str, text: str) -> None:
    """Byte-order mark, then header, then UTF-8 where valid, then windows-1252; nothing is ever lost to an exception."""
    assert decode_text(body, content_type, look_for_meta=True) == text


@pytest.mark.parametrize(
    "tag",
    [
        '<meta charset="{}">',
        "<META CHARSET={}>",
        '<meta http-equiv="Content-Type" content="text/html; charset={}">',
        "<meta http-equiv='Content-Type' content='text/html;charset={}'/>",
    ],
)
def test_charsets_of_the_page(tag: str) -> None:
    """Without a header, the page's own tag decides; for plain text there are no tags; the header comes before it."""
    body = ("<html><head>" + tag.format("windows-1251") + "</head>Привет").encode("cp1251")
    assert "Привет" in decode_text(body, "text/html", look_for_meta=True)
    assert "Привет" not in decode_text(body, "text/plain", look_for_meta=False)
    assert "Привет" not in decode_text(body, "text/html; charset=koi8-r", look_for_meta=True)
    utf16 = ("<html>" + tag.format("utf-16") + "ż").encode()
    assert "ż" in decode_text(utf16, "", look_for_meta=True)  # a tag that could be read as ASCII is not UTF-16


# HTML


def test_the_main_text_of_a_page() -> None:
    """Paragraphs stay, one a line; menus, scripts and comments go."""
    page = """<html><head><title>T</title><script>var x = "no";</script></head><body>
      <nav><a href="/">Home</a> <a href="/a">About us</a></nav>
      <article><h1>A heading of the page</h1><p>The first paragraph has &eacute;nough words to be kept.</p>
      <p>The second paragraph follows with some more words of text.</p></article>
      <div id="comments"><p>First!</p></div><footer>Copyright</footer></body></html>"""
    text = html_text(page)
    assert "The first paragraph has énough words to be kept.\nThe second paragraph follows" in text
    assert not any(word in text for word in ("var x", "First!", "About us"))


@pytest.mark.parametrize(
    "page",
    [
        "",
        " ",
        "<html></html>",
        "\0",
        "text without any tag",
        "<div>" * 5000,
        "<?xml version='1.0' encoding='utf-8'?>",
        "<",
    ],
)
def test_pages_without_text_are_empty(page: str) -> None:
    """A page from which nothing can be taken has the empty text, which is a document."""
    assert html_text(page) == ""
    assert page_text({}, shards.http(page.encode()), LIMIT) == ""


def test_pages_without_text_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A crawl has thousands of empty pages, and none of them says so in the log."""
    html_text("")
    html_text("<html></html>")
    assert not caplog.records


def test_errors_of_the_extractor_give_empty_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page on which the extractor fails costs its own text and nothing else."""

    def fail(*_: object, **__: object) -> str:
        raise RecursionError

    monkeypatch.setattr(trafilatura, "extract", fail)
    assert html_text("<p>text</p>") == ""


def test_text_can_always_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Surrogates, which UTF-8 cannot hold, become U+FFFD."""
    monkeypatch.setattr(trafilatura, "extract", lambda *_, **__: "a\ud800b")
    assert html_text("<p>text</p>") == "a\ufffdb"
    assert "\ud800" not in html_text("<html><body><p>bad &#xD800; reference in a longer text</p></body></html>")


def test_a_page_has_the_same_text_in_any_company() -> None:
    """Nothing is remembered from page to page: repeated texts and other pages before do not change a page's text."""
    page = shards.html("One and the same paragraph that stands on many pages of a site.").decode()
    first = html_text(page)
    assert first
    for i in range(5):
        html_text(shards.html(f"Another page {i} with other words on it, many of them.").decode())
        assert html_text(page) == first


def test_a_page_cut_by_the_crawler_is_used() -> None:
    """A page that ends in the middle of a tag, cut by the crawler, gives what it has."""
    payload = shards.http(shards.html("A first paragraph with enough words.\nA second one that is cut"))[:-60]
    text = page_text({"warc-truncated": "length"}, payload, LIMIT)
    assert isinstance(text, str) and "first paragraph" in text
