"""Google Cloud Storage, through google-cloud-storage.

Guarantees beyond `Store`: a name is created with `if_generation_match=0`, so of any number of writers exactly
one generation comes to be; what arrived is compared by crc32c and size, in both directions; reads name the
generation, and come as stored even where `Content-Encoding: gzip` would have it otherwise. In a bucket with object
versioning a pinned read still gets the planned generation after it was replaced, if it is not looked up first.

The library's own retries (120 s by default, on every call) are off, or they would multiply with ours; only
the chunks of a resumable upload keep them, for a minute each, so that a lost chunk does not start the file anew.
"""

import base64
import functools
import io
import os
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final, TypeVar

import google_crc32c
import requests
import urllib3
from google.api_core.exceptions import GoogleAPICallError, RetryError
from google.api_core.retry import Retry
from google.auth.exceptions import GoogleAuthError, TransportError
from google.cloud import storage
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse
from google.cloud.storage.retry import DEFAULT_RETRY

from transforms.errors import StorageError
from transforms.storage import (
    BLOCK,
    PATIENCE,
    ObjectInfo,
    Patience,
    brief,
    changed,
    conflict,
    glob_regex,
    has_wildcard,
    is_transient,
    literal_prefix,
    open_ranges,
    os_errors,
    status_of,
    vanished,
    with_retries,
)

CHUNK: Final = 16 << 20
"""Of a resumable upload; the library holds two, so about 32 MiB (without a chunk size it holds 100 MB)."""

SINGLE: Final = 8 << 20
"""Up to this size the library sends one request, whatever the chunk size."""

TIMEOUT: Final = (60.0, 60.0)
"""Seconds to connect, and between bytes. The first also bounds the sending of a whole chunk (`socket.sendall`)."""

T = TypeVar("T")


class GcsStore:
    """Objects named gs://bucket/name; safe in threads, and after a fork each process connects for itself.

    Args:
      patience: How long a failing call is repeated.
      chunk_retry: How the library repeats one chunk of a resumable upload.
    """

    def __init__(self, patience: Patience = PATIENCE, chunk_retry: Retry | None = None) -> None:
        self._patience = patience
        self._chunk_retry = chunk_retry or DEFAULT_RETRY.with_timeout(60)

    def list(self, pattern: str) -> Iterator[ObjectInfo]:
        """See Store."""
        if not has_wildcard(pattern):
            found = self.stat(pattern)
            yield from [found] if found else []
            return
        bucket, prefix = _split(literal_prefix(pattern))
        regex, below = glob_regex(pattern), pattern[len(f"gs://{bucket}/{prefix}") :]
        delimiter = None if "/" in below or "**" in pattern.split("/") else "/"  # one level is listed without the rest
        matches = (
            info
            for blob in self._blobs(pattern, bucket, prefix, delimiter)
            if regex.fullmatch((info := _info(blob)).url) and not info.url.endswith("/")  # "folders" of the console
        )
        yield from sorted(matches)

    def _blobs(self, pattern: str, bucket: str, prefix: str, delimiter: str | None) -> Iterator[Any]:
        """List page by page, since a failed page ends the library's own iterator."""
        token: str | None = ""
        while token is not None:
            fetch = functools.partial(_page, bucket, prefix, delimiter, token)
            page, token = self._call(fetch, pattern, "list")
            yield from page

    def stat(self, url: str) -> ObjectInfo | None:
        """See Store."""
        blob = self._call(lambda: _bucket(url).get_blob(_name(url), timeout=TIMEOUT, retry=None), url, "look up")
        return _info(blob) if blob else None

    def open(self, url: str, version: str = "") -> BinaryIO:
        """See Store; read in windows of up to 16 MiB, each retried by itself."""
        return open_ranges(self, url, version)

    def read_range(self, url: str, start: int, length: int, version: str = "") -> bytes:
        """See Store."""
        generation = _generation(url, version) if version else None

        def fetch() -> bytes:
            data: bytes = _blob(url, generation).download_as_bytes(
                start=start,
                end=start + length - 1,
                raw_download=True,
                if_generation_match=generation,
                timeout=TIMEOUT,
                retry=None,
            )
            return data

        if length <= 0:
            return b""
        try:
            return self._call(fetch, url, "read")[:length]
        except _Refused as error:
            if error.status == 416:  # past the end
                return b""
            if error.status in (404, 412):
                raise vanished(url, version) from error
            raise

    def create(self, url: str, path: str) -> ObjectInfo:
        """See Store; the name is looked up first, to spare a build that is resumed the upload."""
        with os_errors("read", path), open(path, "rb") as source:
            return self._commit(url, source)

    def create_bytes(self, url: str, data: bytes) -> ObjectInfo:
        """See Store."""
        return self._commit(url, io.BytesIO(data))

    def _commit(self, url: str, source: BinaryIO) -> ObjectInfo:
        size, checksum = _sum(source)
        found = self.stat(url) or self._upload(url, source, size, 0) or self.stat(url)
        if not found or (found.size, found.checksum) != (size, checksum):
            raise conflict(url)
        return found

    def replace(self, url: str, data: bytes, expected: ObjectInfo | None) -> ObjectInfo:
        """See Store."""
        size, checksum = _sum(io.BytesIO(data))
        written = self._upload(url, io.BytesIO(data), size, _generation(url, expected.version) if expected else 0)
        found = written or self.stat(url)
        if not found or (found.size, found.checksum) != (size, checksum):
            raise conflict(url, "was replaced by someone else")
        return found

    def _upload(self, url: str, source: BinaryIO, size: int, generation: int) -> ObjectInfo | None:
        """Upload if the name is at `generation` (0: free); None when it is not, or not any more."""

        def attempt() -> ObjectInfo:
            blob = _bucket(url).blob(_name(url), chunk_size=CHUNK)
            blob.upload_from_file(
                source,
                rewind=True,
                size=size,
                content_type="application/octet-stream",
                if_generation_match=generation,
                checksum="crc32c",
                timeout=TIMEOUT,
                retry=self._chunk_retry if size > SINGLE else None,
            )
            return _info(blob)

        try:
            return self._call(attempt, url, "create", transient=_transient_upload)
        except _Refused as error:
            if error.status == 412:  # taken by another, or by ourselves when the reply was lost
                return None
            raise

    def delete(self, url: str) -> None:
        """See Store."""
        try:
            self._call(lambda: _blob(url).delete(timeout=TIMEOUT, retry=None), url, "delete")
        except _Refused as error:
            if error.status != 404:
                raise

    def _call(
        self, call: Callable[[], T], url: str, doing: str, transient: Callable[[BaseException], bool] | None = None
    ) -> T:
        try:
            return with_retries(call, url, doing, transient=transient or _transient, patience=self._patience)
        except (GoogleAPICallError, InvalidResponse) as error:
            raise _refused(error, url, doing) from error
        except (GoogleAuthError, OSError, ValueError) as error:
            raise StorageError(
                f"cannot {doing} {url}: {str(error).rstrip('.')}. If it is about credentials: "
                "gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS."
            ) from error


class _Refused(StorageError):
    """The service answered with a status that no retry changes."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


_PERMISSIONS: Final = {
    "list": "storage.objects.list",
    "look up": "storage.objects.get",
    "read": "storage.objects.get",
    "create": "storage.objects.create (and storage.objects.delete, to replace)",
    "delete": "storage.objects.delete",
}


def _refused(error: Exception, url: str, doing: str) -> _Refused:
    status = status_of(error)
    reason = {
        401: "the credentials are not accepted. Run: gcloud auth application-default login",
        403: f"permission denied. Grant this account {_PERMISSIONS[doing]} on gs://{_split(url)[0]}",
        404: "there is no such bucket or object. Check the name",
    }.get(status, "the service refused. Its answer says why")
    return _Refused(f"cannot {doing} {url}: {reason} [{status}: {brief(error)}].", status)


def _transient(error: BaseException) -> bool:
    """As `is_transient`, with what requests, google-auth and (on raw reads) urllib3 raise for broken connections."""
    broken = (
        urllib3.exceptions.ProtocolError,
        urllib3.exceptions.TimeoutError,
        requests.exceptions.ConnectionError,
        requests.exceptions.Timeout,
        requests.exceptions.ChunkedEncodingError,
        TransportError,
        DataCorruption,
        RetryError,
    )
    return isinstance(error, broken) or is_transient(error)


def _transient_upload(error: BaseException) -> bool:
    """Also 410: the session of a resumable upload is lost, and a new one may not be."""
    return status_of(error) == 410 or _transient(error)


def _client() -> Any:
    return _client_of(os.getpid(), os.environ.get("STORAGE_EMULATOR_HOST", ""))


@functools.cache
def _client_of(_pid: int, _emulator: str) -> Any:
    """One client for each process: its connections must not be shared across a fork. No project is needed."""
    # Since 3.x every client asks once for each bucket's project and place, for traces: one request more, from a thread
    # of its own, that needs storage.buckets.get and shows up in audit logs as denied.
    os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
    return storage.Client(project=None)


def _split(url: str) -> tuple[str, str]:
    bucket, _, name = url.removeprefix("gs://").partition("/")
    if not bucket or has_wildcard(bucket):
        raise StorageError(f"{url} names no bucket. Write gs://BUCKET/NAME.")
    return bucket, name


def _bucket(url: str) -> Any:
    return _client().bucket(_split(url)[0])


def _name(url: str) -> str:
    if not (name := _split(url)[1]):
        raise StorageError(f"{url} names no object. Write gs://BUCKET/NAME.")
    return name


def _blob(url: str, generation: int | None = None) -> Any:
    return _bucket(url).blob(_name(url), generation=generation)


def _generation(url: str, version: str) -> int:
    if not version.isdecimal():  # from another store: certainly not what is here
        raise changed(url, version)
    return int(version)


def _page(bucket: str, prefix: str, delimiter: str | None, token: str) -> tuple[list[Any], str | None]:
    """One page of a listing, and the token of the next."""
    iterator = _client().list_blobs(
        bucket,
        prefix=prefix or None,
        delimiter=delimiter,
        page_token=token or None,
        fields="items(bucket,name,generation,size,crc32c),nextPageToken",
        timeout=TIMEOUT,
        retry=None,
    )
    return [*next(iterator.pages, ())], iterator.next_page_token


def _info(blob: Any) -> ObjectInfo:
    checksum = f"crc32c:{base64.b64decode(blob.crc32c).hex()}" if blob.crc32c else ""
    return ObjectInfo(f"gs://{blob.bucket.name}/{blob.name}", blob.size or 0, str(blob.generation), checksum)


def _sum(source: BinaryIO) -> tuple[int, str]:
    """Size and crc32c of a whole file."""
    source.seek(0)
    value = size = 0
    while block := source.read(BLOCK):
        value, size = google_crc32c.extend(value, block), size + len(block)
    return size, f"crc32c:{value:08x}"
