"""A stand-in for the Dataflow service: takes jobs, says what became of them, and keeps every request."""

import contextlib
import dataclasses
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeAlias

from tests.servers import BUCKET, environment, strict_gcs
from tests.strict_gcs import StrictGcs

Json: TypeAlias = dict[str, Any]


@dataclasses.dataclass
class Dataflow:
    """The service; `url` is for --dataflow_endpoint.

    Attributes:
      states: What the job's state is at each look; the last one stays.
      messages: The job's error messages.
      counters: Counters of ours, as the service would report them.
      jobs: The bodies of all jobs that were created.
      asked: Every request, as "METHOD path".
    """

    states: list[str] = dataclasses.field(default_factory=lambda: ["JOB_STATE_RUNNING", "JOB_STATE_DONE"])
    messages: list[str] = dataclasses.field(default_factory=list)
    counters: dict[str, int] = dataclasses.field(default_factory=dict)
    jobs: list[Json] = dataclasses.field(default_factory=list)
    asked: list[str] = dataclasses.field(default_factory=list)
    url: str = ""

    def answer(self, method: str, path: str, body: Json) -> tuple[int, Json]:
        """What the service says to one request."""
        self.asked.append(f"{method} {path}")
        found = re.fullmatch(r"/v1b3/projects/([^/]+)/locations/([^/]+)/jobs(?:/([^/]+)(/\w+)?)?", path)
        if not found:
            return 404, {"error": {"code": 404, "message": f"no such method: {path}"}}
        project, region, job, what = found.groups()
        if method == "POST":
            if any(j["name"] == body["name"] for j in self.jobs):
                return 409, {"error": {"code": 409, "message": f"There is already an active job named {body['name']}"}}
            self.jobs.append(body)
            job = f"2026-11-24_00_00_00-{len(self.jobs)}"
        if what == "/metrics":
            return 200, {"metrics": [m for item in self.counters.items() for m in _metrics(*item)]}
        if what == "/messages":
            return 200, {"jobMessages": [
                {"id": str(i), "messageText": text, "messageImportance": "JOB_MESSAGE_ERROR"}
                for i, text in enumerate(self.messages)]}  # fmt: skip
        state = self.states[0] if method == "POST" or len(self.states) == 1 else self.states.pop(0)
        return 200, {"id": job, "projectId": project, "location": region, "currentState": state,
                     "name": self.jobs[-1]["name"], "type": "JOB_TYPE_BATCH"}  # fmt: skip


def _metrics(name: str, value: int) -> list[Json]:
    """A counter as the service reports it: what is committed, and what attempts have counted so far."""
    context = {"namespace": "counterpoise", "step": "s2"}
    return [
        {"name": {"origin": "user", "name": name, "context": {**context, **more}}, "scalar": value}
        for more in ({}, {"tentative": "true"})
    ]


@contextlib.contextmanager
def dataflow() -> Iterator[Dataflow]:
    """The service on a free port, in this process."""
    service = Dataflow()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            self._answer("GET")

        def do_POST(self) -> None:
            self._answer("POST")

        def _answer(self, method: str) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, reply = service.answer(method, self.path.partition("?")[0], json.loads(body or b"{}"))
            data = json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    service.url = f"http://localhost:{server.server_port}"  # spelt so, or Beam takes gRPC with TLS
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def service_account(folder: Path) -> Path:
    """A throw-away key, without which Beam looks for credentials for 22 s."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    values = {"type": "service_account", "project_id": "p-123456", "private_key_id": "1", "private_key": key.decode(),
              "client_email": "test@p-123456.iam.example.com", "client_id": "1",
              "token_uri": "http://localhost:9/token"}  # fmt: skip
    path = folder / "key.json"
    path.write_text(json.dumps(values))
    return path


@dataclasses.dataclass
class Cloud:
    """Storage and Dataflow at once, and the options that lead a submission to them."""

    gcs: StrictGcs
    service: Dataflow

    @property
    def options(self) -> list[str]:
        place = f"gs://{BUCKET}/temp"
        options = {"project": "p-123456", "region": "us-central1", "temp_location": place, "staging_location": place,
                   "dataflow_endpoint": self.service.url}  # fmt: skip
        return [f"--{key}={value}" for key, value in options.items()] + ["--no_auth", "--sdk_location=container"]

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        return {n: b.data for n, b in self.gcs.buckets[BUCKET].items() if n.startswith(prefix)}

    def staged(self, name: str) -> bytes:
        """The one staged object whose name ends so."""
        (found,) = (data for key, data in self.objects("temp/").items() if key.endswith(name))
        return found


@contextlib.contextmanager
def cloud(folder: Path) -> Iterator[Cloud]:
    """A whole cloud in this process."""
    with (
        strict_gcs() as gcs,
        dataflow() as service,
        environment(GOOGLE_APPLICATION_CREDENTIALS=str(service_account(folder))),
    ):
        yield Cloud(gcs, service)
