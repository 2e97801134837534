"""A small Google Cloud Storage that is strict about preconditions, and fails when told to.

The servers one can install are lax where exactly-once depends on it (see DEVIATIONS in test_storage.py): this one
checks `ifGenerationMatch` on insert, on the last chunk of a resumable upload, on read and on delete, serves no
generation but the live one, pages its lists, computes and checks crc32c and MD5, and serves gzip objects raw or
decompressed, as the request asks. Its faults happen on named operations: insert, start, chunk, get, read, list, delete.
"""

import base64
import dataclasses
import gzip
import hashlib
import json
import re
import socket
import threading
import time
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias
from urllib.parse import parse_qs, quote, unquote, urlsplit

import google_crc32c

Json: TypeAlias = dict[str, Any]


@dataclasses.dataclass
class Fault:
    """Something that goes wrong.

    Attributes:
      on: The operation.
      do: "status" (answer without doing it), "reset" (hang up without doing it), "cut_reply" (do it, then hang up),
        "status_after" (do it, then answer `status`), "cut_body" (hang up half-way through the body), "latency" (wait
        `seconds` first), "checksum" (name a wrong checksum), "corrupt" (flip a bit of a range).
      times: How often it happens.
      skip: How many such operations go well first.
      status: For "status" and "status_after".
      seconds: For "latency".
    """

    on: str
    do: str
    times: int = 1
    skip: int = 0
    status: int = 503
    seconds: float = 0.1


@dataclasses.dataclass(frozen=True)
class Blob:
    data: bytes
    generation: int
    encoding: str = ""

    @property
    def crc32c(self) -> str:
        return base64.b64encode(google_crc32c.value(self.data).to_bytes(4, "big")).decode()

    @property
    def md5(self) -> str:
        return base64.b64encode(hashlib.md5(self.data).digest()).decode()


@dataclasses.dataclass
class Session:
    bucket: str
    name: str
    generation: str | None
    metadata: Json
    data: bytearray = dataclasses.field(default_factory=bytearray)
    reply: Json | None = None


class Answer(Exception):
    """Ends a request with a status and a body."""

    def __init__(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        super().__init__(status)
        self.status, self.body, self.headers = status, body, headers or {}


class StrictGcs:
    """The server; `url` is for STORAGE_EMULATOR_HOST.

    Attributes:
      faults: What goes wrong, in order of precedence; may be changed at any time.
      done: Every operation asked for, in order, with the status of its answer (0: cut).
    """

    def __init__(self, page_size: int = 1000) -> None:
        self.page_size = page_size
        self.faults: list[Fault] = []
        self.done: list[tuple[str, int]] = []
        self.buckets: dict[str, dict[str, Blob]] = {}
        self.sessions: dict[str, Session] = {}
        self.lock = threading.RLock()
        self._generation = 1_700_000_000_000_000
        handler = type("Handler", (_Handler,), {"gcs": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> "StrictGcs":  # noqa: PYI034  # Self is not in the typing of Python 3.10
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def count(self, operation: str) -> int:
        return sum(name == operation for name, _ in self.done)

    def fault(self, operation: str, *kinds: str) -> Fault | None:
        """Take the next fault of these kinds that is due."""
        with self.lock:
            for fault in self.faults:
                if fault.on == operation and fault.do in kinds and fault.times:
                    if fault.skip:
                        fault.skip -= 1
                        return None
                    fault.times -= 1
                    return fault
        return None

    def put(self, bucket: str, name: str, data: bytes, expected: str | None, metadata: Json) -> Json:
        """Make `data` the live generation if the precondition holds and the named checksums are right."""
        with self.lock:
            live = self.bucket(bucket).get(name)
            if expected is not None and int(expected) != (live.generation if live else 0):
                raise error(412, "conditionNotMet")
            self._generation += 1
            blob = Blob(data, self._generation, metadata.get("contentEncoding", ""))
            if metadata.get("crc32c", blob.crc32c) != blob.crc32c or metadata.get("md5Hash", blob.md5) != blob.md5:
                raise error(400, "checksum does not match")
            self.buckets[bucket][name] = blob
            return self.describe(bucket, name, blob)

    def bucket(self, bucket: str) -> dict[str, Blob]:
        if bucket not in self.buckets:
            raise error(404, "no such bucket")
        return self.buckets[bucket]

    def live(self, bucket: str, name: str, query: dict[str, str]) -> Blob:
        """The object if it is there and is what the request expects."""
        blob = self.bucket(bucket).get(name)
        if blob is None or query.get("generation", str(blob.generation)) != str(blob.generation):
            raise error(404, "no such object")
        if query.get("ifGenerationMatch", str(blob.generation)) != str(blob.generation):
            raise error(412, "conditionNotMet")
        return blob

    def describe(self, bucket: str, name: str, blob: Blob) -> Json:
        found: Json = {"kind": "storage#object", "bucket": bucket, "name": name, "size": str(len(blob.data))}
        found |= {"generation": str(blob.generation), "metageneration": "1", "crc32c": blob.crc32c, "md5Hash": blob.md5}
        return found | ({"contentEncoding": blob.encoding} if blob.encoding else {})

    def list(self, bucket: str, query: dict[str, str]) -> Json:
        """One page: objects, and with a delimiter the prefixes that end at it, both counted."""
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        blobs = self.bucket(bucket)
        entries: dict[str, Json | None] = {}
        for name in sorted(blobs):
            if name.startswith(prefix):
                head, found, _ = name[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
                entries[prefix + head + found if found else name] = (
                    None if found else self.describe(bucket, name, blobs[name])
                )
        after = base64.b64decode(query.get("pageToken", "")).decode()
        rest = [key for key in entries if key > after]
        page = rest[: min(self.page_size, int(query.get("maxResults", self.page_size)))]
        reply: Json = {"kind": "storage#objects", "items": [entries[key] for key in page if entries[key]]}
        reply["prefixes"] = [key for key in page if entries[key] is None]
        if len(rest) > len(page):
            reply["nextPageToken"] = base64.b64encode(page[-1].encode()).decode()
        return reply


def error(status: int, reason: str) -> Answer:
    body = {"error": {"code": status, "message": reason, "errors": [{"reason": reason, "message": reason}]}}
    return Answer(status, json.dumps(body).encode(), {"Content-Type": "application/json"})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # head and body in one write: two would wait 40 ms for a delayed acknowledgement
    gcs: StrictGcs

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_PUT(self) -> None:
        self._answer("PUT")

    def do_DELETE(self) -> None:
        self._answer("DELETE")

    def _answer(self, method: str) -> None:
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        operation, act = self._route(method, parts.path, query, body)
        if fault := self.gcs.fault(operation, "latency"):
            time.sleep(fault.seconds)
        if self.gcs.fault(operation, "reset"):
            return self._hang_up(operation)
        if fault := self.gcs.fault(operation, "status"):
            return self._send(operation, error(fault.status, "injected"))
        try:
            with self.gcs.lock:
                answer = act()
        except Answer as refused:
            answer = refused
        if fault := self.gcs.fault(operation, "status_after"):
            answer = error(fault.status, "injected")
        if self.gcs.fault(operation, "cut_reply"):
            return self._hang_up(operation)
        return self._send(operation, answer)

    def _route(self, method: str, path: str, query: dict[str, str], body: bytes) -> tuple[str, Any]:
        if path.startswith("/upload/"):
            bucket = unquote(path.split("/")[5])
            if method == "POST" and query["uploadType"] == "multipart":
                return "insert", lambda: self._insert(bucket, query, body)
            if method == "POST":
                return "start", lambda: self._start(bucket, query, json.loads(body or b"{}"))
            return "chunk", lambda: self._chunk(query["upload_id"], body)
        found = re.fullmatch(r"(?:/download)?/storage/v1/b(?:/([^/]+)(?:/o(?:/(.+))?)?)?", path)
        bucket, name = (unquote(part or "") for part in found.groups()) if found else ("", "")
        if method == "POST":
            return "bucket", lambda: self._json({"name": self._make(json.loads(body)["name"])})
        if not name:
            return "list", lambda: self._json(self.gcs.list(bucket, query))
        if method == "DELETE":
            return "delete", lambda: self._delete(bucket, name, query)
        if query.get("alt") == "media":
            return "read", lambda: self._media(self.gcs.live(bucket, name, query))
        return "get", lambda: self._json(self.gcs.describe(bucket, name, self.gcs.live(bucket, name, query)))

    def _json(self, value: Json, **headers: str) -> Answer:
        return Answer(200, json.dumps(value).encode(), {"Content-Type": "application/json", **headers})

    def _make(self, bucket: str) -> str:
        self.gcs.buckets.setdefault(bucket, {})
        return bucket

    def _insert(self, bucket: str, query: dict[str, str], body: bytes) -> Answer:
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        boundary = b"\r\n--" + BytesParser().parsebytes(head).get_boundary("").encode()
        metadata, media = (b"\r\n" + body).split(boundary)[1:3]
        fields, data = json.loads(metadata.split(b"\r\n\r\n", 1)[1]), media.split(b"\r\n\r\n", 1)[1]
        return self._json(self.gcs.put(bucket, fields["name"], data, query.get("ifGenerationMatch"), fields))

    def _start(self, bucket: str, query: dict[str, str], fields: Json) -> Answer:
        self.gcs.bucket(bucket)
        key = f"session-{len(self.gcs.sessions)}"
        name = fields.get("name") or query["name"]
        self.gcs.sessions[key] = Session(bucket, name, query.get("ifGenerationMatch"), fields)
        place = f"{self.gcs.url}/upload/storage/v1/b/{quote(bucket)}/o?uploadType=resumable&upload_id={key}"
        return Answer(200, b"{}", {"Location": place, "X-GUploader-UploadID": key})

    def _chunk(self, key: str, body: bytes) -> Answer:
        session = self.gcs.sessions.get(key)
        if session is None:
            return error(404, "no such session")
        if session.reply is None:
            span, _, total = self.headers["Content-Range"].removeprefix("bytes ").partition("/")
            if span != "*":
                start = int(span.partition("-")[0])
                if start > len(session.data):
                    return error(400, f"chunk at {start}, expected {len(session.data)}")
                session.data += body[len(session.data) - start :]  # what was stored before is ignored, as documented
            if total == "*" or len(session.data) < int(total):
                return Answer(308, b"", {"Range": f"bytes=0-{len(session.data) - 1}"} if session.data else {})
            named = dict(part.split("=", 1) for part in self.headers.get("X-Goog-Hash", "").split(",") if part)
            fields = session.metadata | ({"crc32c": named["crc32c"]} if "crc32c" in named else {})
            session.reply = self.gcs.put(session.bucket, session.name, bytes(session.data), session.generation, fields)
        return self._json(session.reply)

    def _delete(self, bucket: str, name: str, query: dict[str, str]) -> Answer:
        self.gcs.live(bucket, name, query)
        del self.gcs.buckets[bucket][name]
        return Answer(204)

    def _media(self, blob: Blob) -> Answer:
        crc32c = "AAAAAA==" if self.gcs.fault("read", "checksum") else blob.crc32c
        headers = {"X-Goog-Hash": f"crc32c={crc32c},md5={blob.md5}", "X-Goog-Generation": str(blob.generation)}
        headers |= {"X-Goog-Stored-Content-Length": str(len(blob.data)), "Content-Type": "application/octet-stream"}
        headers["X-Goog-Stored-Content-Encoding"] = blob.encoding or "identity"
        data = blob.data
        if blob.encoding == "gzip" and "gzip" not in self.headers.get("Accept-Encoding", ""):
            return Answer(200, gzip.decompress(data), headers)  # the range is ignored then, as documented
        if blob.encoding:
            headers["Content-Encoding"] = blob.encoding
        flip = 1 if self.gcs.fault("read", "corrupt") else 0
        if not (asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))):
            return Answer(200, data, headers)
        start, end = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
        if start >= len(data):
            return error(416, "range")
        headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
        return Answer(206, bytes([data[start] ^ flip]) + data[start + 1 : end + 1], headers)

    def _send(self, operation: str, answer: Answer) -> None:
        cut = self.gcs.fault(operation, "cut_body")
        self.gcs.done.append((operation, answer.status))
        self.send_response(answer.status)
        for key, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(answer.body[: len(answer.body) // 2] if cut else answer.body)
        if cut:
            self._shut()

    def _hang_up(self, operation: str) -> None:
        self.gcs.done.append((operation, 0))
        self._shut()

    def _shut(self) -> None:
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)
