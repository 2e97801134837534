"""Text from what a crawler stored: HTTP responses, their encodings, and the main text of HTML pages.

Everything here is a function of its arguments alone: two extractions of one response give the same text.
"""

import codecs
import logging
import re
import zlib
from typing import Final, NamedTuple

import lxml.etree  # type: ignore[import-untyped]
import trafilatura

from transforms.schema import RecordFault
from transforms.warc import header_fields

try:
    import brotli  # type: ignore[import-untyped]
except ImportError:  # pages in br are then `undecodable`
    brotli = None

_BROTLI: Final = hasattr(brotli, "Decompressor") and hasattr(brotli.Decompressor, "can_accept_more_data")
"""Brotli is there, and is 1.2 or newer: older ones have no bound on what a page may become."""

# It logs errors for each page without text, several lines apiece: at 10,000 pages a second that is all a log holds.
logging.getLogger("trafilatura").setLevel(logging.CRITICAL)

_HTML: Final = ("text/html", "application/xhtml+xml")
_MEDIA: Final = (*_HTML, "text/plain")
_META_BYTES: Final = 4096  # browsers look for a charset in the first 1,024; real pages put scripts before it
_SURROGATES: Final = re.compile("[\ud800-\udfff]")

_BOMS: Final = {b"\xef\xbb\xbf": "utf-8", b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}
_META: Final = re.compile(rb"""<meta[^>]{0,500}?charset\s*=\s*["']?\s*([A-Za-z0-9_:.\-]+)""", re.IGNORECASE)

# Browsers read these labels as the superset on the right: https://encoding.spec.whatwg.org/#names-and-labels
_SUPERSETS: Final = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "tis-620": "cp874",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "big5": "big5hkscs",
    "utf-16": "utf-16-le",
}
# Python knows other codecs under such names (zip, rot13, utf-7): only what the web uses is allowed.
_CHARSETS: Final = frozenset(
    ["utf-8", "utf-16-le", "utf-16-be", "cp866", "cp874", "koi8-r", "koi8-u", "mac-roman", "mac-cyrillic"]
    + ["gb18030", "big5hkscs", "euc_jp", "iso2022_jp", "cp932", "cp949"]
    + [f"cp125{n}" for n in range(9)]
    + [f"iso8859-{n}" for n in (2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 15, 16)]
)

# What lxml, trafilatura and its fallbacks were seen to raise on broken pages. A bug in them costs one page's text.
_EXTRACTION_ERRORS: Final = (
    lxml.etree.LxmlError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


class Response(NamedTuple):
    """An HTTP response as stored: status line's code, headers (names in lower case) and the body as sent."""

    status: int
    headers: dict[str, str]
    body: bytes


def page_text(warc_headers: dict[str, str], payload: bytes, max_bytes: int) -> str | RecordFault | None:
    """Return the text of a stored HTTP response, why it has none, or None when it is not a page.

    Pages are HTML and plain text of any status code. A page from which nothing can be extracted has the empty text.
    A record that the crawler cut short (WARC-Truncated) gives the text of what it has.

    Args:
      warc_headers: Of the `response` record, names in lower case.
      payload: The record's block.
      max_bytes: Bound on the decoded body; past it the page is `too_long`.
    """
    response = parse_http(payload)
    if response is None:
        return RecordFault.BAD_HEADER
    media = media_type(warc_headers, response)
    if media not in _MEDIA:
        return None
    body = decode_body(response, cut="warc-truncated" in warc_headers, max_bytes=max_bytes)
    if isinstance(body, RecordFault):
        return body
    is_html = media in _HTML
    page = decode_text(body, response.headers.get("content-type", ""), look_for_meta=is_html)
    return html_text(page) if is_html else page


def parse_http(payload: bytes) -> Response | None:
    """Split a response into status, headers and body; None when it does not begin as HTTP does."""
    match = re.match(rb"HTTP/\d(?:\.\d)? +(\d{3})[^\n]*\n", payload)
    if match is None:
        return None
    start = match.end()
    end = re.compile(rb"\r?\n\r?\n|\A\r?\n").search(payload, start - 1)  # `start - 1`: there may be no header at all
    if end is None:
        return None
    block = payload[start : max(start, end.start())].decode("latin-1")
    return Response(int(match[1]), header_fields(block), payload[end.end() :])


def media_type(warc_headers: dict[str, str], response: Response) -> str:
    """Return the media type that the server sent, else what the crawler found, else what the body looks like."""
    for value in (response.headers.get("content-type", ""), warc_headers.get("warc-identified-payload-type", "")):
        media = value.partition(";")[0].strip().lower()
        if media:
            return media
    return "text/html" if re.match(rb"\s*<(?:!doctype html|html)", response.body[:1024], re.IGNORECASE) else ""


def decode_body(response: Response, *, cut: bool, max_bytes: int) -> bytes | RecordFault:
    """Undo transfer and content encodings.

    Crawlers differ in whether they store the body as sent; a body that plainly is not in the declared encoding any
    more is taken as it is. With `cut`, an encoding that ends too early gives what there is.
    """
    body = response.body
    if "chunked" in response.headers.get("transfer-encoding", "").lower():
        joined = join_chunks(body, cut=cut)
        if joined is None:
            return RecordFault.UNDECODABLE
        body = joined
    for name in reversed(response.headers.get("content-encoding", "").lower().split(",")):
        decoded = _undo(name.strip(), body, cut=cut, max_bytes=max_bytes)
        if isinstance(decoded, RecordFault):
            return decoded
        body = decoded
    return body


def join_chunks(body: bytes, *, cut: bool) -> bytes | None:
    """Join the chunks of a chunked body; the body itself when it does not begin with a chunk; None when broken."""
    chunks: list[bytes] = []
    size_line = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]*)?\r?\n")
    match = size_line.match(body)
    if match is None:
        return body
    while match is not None:
        size, start = int(match[1], 16), match.end()
        if size == 0:
            return b"".join(chunks)
        chunks.append(body[start : start + size])
        if len(chunks[-1]) < size:
            break
        after = re.compile(rb"\r?\n").match(body, start + size)
        match = size_line.match(body, after.end()) if after else None
    return b"".join(chunks) if cut else None


def _undo(encoding: str, body: bytes, *, cut: bool, max_bytes: int) -> bytes | RecordFault:
    """Undo one content encoding."""
    if encoding in ("", "identity", "none") or not body:
        return body
    if encoding in ("gzip", "x-gzip"):
        return _inflate(body, 31, cut=cut, max_bytes=max_bytes) if body.startswith(b"\x1f\x8b") else body
    if encoding == "deflate":  # zlib by the standard, raw deflate by habit
        wrapped = len(body) > 1 and body[0] & 15 == 8 and (body[0] << 8 | body[1]) % 31 == 0
        return _inflate(body, 15 if wrapped else -15, cut=cut, max_bytes=max_bytes)
    if encoding == "br" and _BROTLI:
        return _unbrotli(body, cut=cut, max_bytes=max_bytes)
    return RecordFault.UNDECODABLE


def _inflate(body: bytes, wbits: int, *, cut: bool, max_bytes: int) -> bytes | RecordFault:
    decoder = zlib.decompressobj(wbits)
    try:
        data = decoder.decompress(body, max_bytes + 1)
    except zlib.error:
        return RecordFault.UNDECODABLE
    if len(data) > max_bytes:
        return RecordFault.TOO_LONG
    return data if decoder.eof or cut else RecordFault.UNDECODABLE


def _unbrotli(body: bytes, *, cut: bool, max_bytes: int) -> bytes | RecordFault:
    decoder = brotli.Decompressor()
    try:
        data: bytes = decoder.process(body, output_buffer_limit=max_bytes + 1)
    except brotli.error:
        return RecordFault.UNDECODABLE
    if len(data) > max_bytes:
        return RecordFault.TOO_LONG
    return data if decoder.is_finished() or cut else RecordFault.UNDECODABLE


def charset_of(label: str) -> str | None:
    """Return the Python codec for a charset label of the web, or None when it is not one.

    >>> charset_of("ISO-8859-1"), charset_of("rot13")
    ('cp1252', None)
    """
    try:
        name = codecs.lookup(label.strip(" \"'")).name
    except (LookupError, ValueError):  # ValueError: a NUL in the label
        return None
    name = _SUPERSETS.get(name, name)
    return name if name in _CHARSETS else None


def decode_text(body: bytes, content_type: str, *, look_for_meta: bool) -> str:
    """Decode a body: by its byte-order mark, else the header's charset, else the page's own, else as a browser would.

    A declared charset in which the body is not valid gives way to UTF-8 where the body is valid UTF-8, and otherwise
    leaves U+FFFD for what it cannot read. Without a declaration: UTF-8 where valid, else windows-1252.
    """
    for bom, codec in _BOMS.items():
        if body.startswith(bom):
            return body[len(bom) :].decode(codec, "replace")
    declared = None
    if match := re.search(r"charset\s*=\s*\"?'?([^\s;\"']+)", content_type, re.IGNORECASE):
        declared = charset_of(match[1])
    if declared is None and look_for_meta and (meta := _META.search(body, 0, _META_BYTES)):
        declared = charset_of(meta[1].decode("ascii"))
        if declared in ("utf-16-le", "utf-16-be"):
            declared = "utf-8"  # the tag was readable as ASCII
    for name in (declared, "utf-8"):
        if name is not None:
            try:
                return body.decode(name)
            except UnicodeDecodeError:
                continue
    return body.decode(declared or "cp1252", "replace")


def html_text(page: str) -> str:
    """Return the main text of an HTML page, or "" when there is none to be found.

    Precision is favoured, as in FineWeb; comments are left out; nothing is remembered from page to page.
    """
    try:
        text = trafilatura.extract(page, favor_precision=True, include_comments=False, deduplicate=False)
    except _EXTRACTION_ERRORS:
        return ""
    return _SURROGATES.sub("\ufffd", text) if text else ""
