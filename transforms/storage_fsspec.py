"""S3 through botocore, and every other scheme that fsspec knows.

S3 keeps all of `Store`: names are created with `If-None-Match: *`, pointers replaced with `If-Match`, reads
pinned by ETag. (botocore itself, which s3fs brings along, rather than s3fs: it is what puts these headers on every
request, sends a file without holding it, and has no event loop that a fork would break.)

The others do what their file system offers: "version" is its ETag, generation or time stamp with the size, checked
when an object is opened and not while it is read; `create` opens the name exclusively where that exists ("xb"), else
looks first, so that of two writers at the same moment one may overwrite the other; a reader may see a part where
the file system shows unfinished files (sftp, ftp, hdfs); `replace` looks first as well.
"""

import functools
import hashlib
import io
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any, BinaryIO, Final, TypeVar

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
    same_bytes,
    status_of,
    vanished,
    with_retries,
)

SINGLE: Final = 1 << 30
"""Up to this size one PutObject sends the file as a stream (S3 allows 5 GiB); larger ones go in parts."""

PART: Final = 64 << 20
"""Held in memory while it is sent; S3 takes 10,000 parts, so objects above 625 GiB have larger ones."""

T = TypeVar("T")


class S3Store:
    """Objects named s3://bucket/key; credentials, region and endpoint come from AWS's usual places.

    A checksum is known from `stat`, and only where the ETag is an MD5: not for multipart uploads and not under
    KMS or customer keys; a listing does not say which of these an object is. An S3 look-alike without conditional
    writes answers 501, which is an error: nothing is written without the condition.
    """

    def __init__(self, patience: Patience = PATIENCE) -> None:
        self._patience = patience

    def list(self, pattern: str) -> Iterator[ObjectInfo]:
        """See Store."""
        if not has_wildcard(pattern):
            found = self.stat(pattern)
            yield from [found] if found else []
            return
        bucket, prefix = _split(literal_prefix(pattern))
        regex, below = glob_regex(pattern), pattern[len(f"s3://{bucket}/{prefix}") :]
        query = {"Bucket": bucket, "Prefix": prefix}
        if "/" not in below and "**" not in pattern.split("/"):
            query["Delimiter"] = "/"  # one level is listed without the rest
        found_all = []
        while True:
            page = self._call("list_objects_v2", pattern, "list", **query)
            for item in page.get("Contents", ()):
                info = ObjectInfo(f"s3://{bucket}/{item['Key']}", item["Size"], item["ETag"].strip('"'), "")
                if regex.fullmatch(info.url) and not info.url.endswith("/"):  # "folders" of the console
                    found_all.append(info)
            if not page.get("IsTruncated"):
                break
            query["ContinuationToken"] = page["NextContinuationToken"]
        yield from sorted(found_all)

    def stat(self, url: str) -> ObjectInfo | None:
        """See Store."""
        try:
            head = self._call("head_object", url, "look up", **_target(url))
        except _Refused as error:
            if error.status == 404:
                return None
            raise
        version = head["ETag"].strip('"')
        plain = head.get("ServerSideEncryption", "AES256") == "AES256" and "SSECustomerAlgorithm" not in head
        plain = plain and not _split(url)[0].endswith("--x-s3")  # the ETags of directory buckets are no sums
        checksum = f"md5:{version}" if plain and len(version) == 32 else ""
        return ObjectInfo(url, head["ContentLength"], version, checksum)

    def open(self, url: str, version: str = "") -> BinaryIO:
        """See Store; read in windows of up to 16 MiB, each retried by itself."""
        return open_ranges(self, url, version)

    def read_range(self, url: str, start: int, length: int, version: str = "") -> bytes:
        """See Store."""
        if length <= 0:
            return b""
        pinned = {"IfMatch": f'"{version}"'} if version else {}
        query = {**_target(url), **pinned, "Range": f"bytes={start}-{start + length - 1}"}

        def fetch() -> bytes:
            answer = _client().get_object(**query)
            with answer["Body"] as body:
                data: bytes = body.read()
            return data

        try:
            return self._retried(fetch, url, "read")
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
        size = source.seek(0, io.SEEK_END)
        if not self.stat(url):
            parts = size > SINGLE
            self._unless(
                412, lambda: self._put_parts(url, source, size) if parts else self._put(url, source, IfNoneMatch="*")
            )
        return self._settled(url, source, size) or _raise(conflict(url))

    def replace(self, url: str, data: bytes, expected: ObjectInfo | None) -> ObjectInfo:
        """See Store; an ETag is a sum of the bytes, so a pointer that went from A to B and back is A again."""
        condition = {"IfMatch": f'"{expected.version}"'} if expected else {"IfNoneMatch": "*"}
        gone = 404 if expected else 412
        self._unless(gone, lambda: self._put(url, io.BytesIO(data), **condition))
        settled = self._settled(url, io.BytesIO(data), len(data))
        return settled or _raise(conflict(url, "was replaced by someone else"))

    def _settled(self, url: str, source: BinaryIO, size: int) -> ObjectInfo | None:
        """The object if it has the bytes of `source`, by its MD5 or, where there is none, by reading it."""
        found = self.stat(url)
        if not found or found.size != size:
            return None
        if found.checksum and found.checksum == _md5(source):
            return found
        with self.open(url, found.version) as other:
            return found if same_bytes(source, other) else None

    def _unless(self, gone: int, put: Callable[[], None]) -> None:
        """Send unless the condition fails (412, or `gone`), maybe because of ourselves: the reply was lost."""
        try:
            put()
        except _Refused as error:
            if error.status not in (412, gone):
                raise

    def _put(self, url: str, source: BinaryIO, **condition: str) -> None:
        def attempt() -> None:
            source.seek(0)
            _client().put_object(Body=source, **_target(url), **condition)

        self._retried(attempt, url, "create")

    def _put_parts(self, url: str, source: BinaryIO, size: int) -> None:
        target, length = _target(url), max(PART, -(-size // 10_000))
        upload = {**target, "UploadId": self._call("create_multipart_upload", url, "create", **target)["UploadId"]}
        source.seek(0)
        try:
            parts = []
            for number, block in enumerate(iter(functools.partial(source.read, length), b""), 1):
                sent = self._call("upload_part", url, "create", **upload, PartNumber=number, Body=block)
                parts.append({"PartNumber": number, "ETag": sent["ETag"]})
            whole = {**upload, "MultipartUpload": {"Parts": parts}, "IfNoneMatch": "*"}
            self._call("complete_multipart_upload", url, "create", **whole)
        except BaseException:
            with suppress(StorageError):  # the parts would be paid for until a lifecycle rule removes them
                self._call("abort_multipart_upload", url, "create", **upload)
            raise

    def delete(self, url: str) -> None:
        """See Store."""
        self._call("delete_object", url, "delete", **_target(url))

    def _call(self, method: str, url: str, doing: str, **arguments: Any) -> Any:
        return self._retried(lambda: getattr(_client(), method)(**arguments), url, doing)

    def _retried(self, call: Callable[[], T], url: str, doing: str) -> T:
        try:
            return with_retries(call, url, doing, transient=_transient, patience=self._patience)
        except _library().exceptions.ClientError as error:
            raise _refused(error, url, doing) from error
        except _library().exceptions.BotoCoreError as error:
            raise StorageError(f"cannot {doing} {url}: {error}. Check the AWS credentials and region.") from error


class _Refused(StorageError):
    """The service answered with a status that no retry changes."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


_PERMISSIONS: Final = {
    "list": "s3:ListBucket",
    "look up": "s3:GetObject and s3:ListBucket",  # without the second, absent names are 403 too
    "read": "s3:GetObject",
    "create": "s3:PutObject",
    "delete": "s3:DeleteObject",
}


def _refused(error: Exception, url: str, doing: str) -> _Refused:
    status = status_of(error)
    reason = {
        403: f"permission denied. Grant this account {_PERMISSIONS[doing]} on s3://{_split(url)[0]}",
        404: "there is no such bucket or object. Check the name",
        501: "this service has no conditional writes, so no name could be committed once. Use another",
    }.get(status, "the service refused. Its answer says why")
    return _Refused(f"cannot {doing} {url}: {reason} [{status}: {brief(error)}].", status)


def _transient(error: BaseException) -> bool:
    """As `is_transient`, with broken connections, and 409: another conditional write to the name is under way."""
    exceptions = _library().exceptions
    broken = (exceptions.HTTPClientError, exceptions.IncompleteReadError)
    return isinstance(error, broken) or status_of(error) == 409 or is_transient(error)


def _raise(error: StorageError) -> Any:
    raise error


def _md5(source: BinaryIO) -> str:
    source.seek(0)
    digest = hashlib.md5(usedforsecurity=False)
    for block in iter(lambda: source.read(BLOCK), b""):
        digest.update(block)
    return f"md5:{digest.hexdigest()}"


def _split(url: str) -> tuple[str, str]:
    bucket, _, key = url.removeprefix("s3://").partition("/")
    if not bucket or has_wildcard(bucket):
        raise StorageError(f"{url} names no bucket. Write s3://BUCKET/KEY.")
    return bucket, key


def _target(url: str) -> dict[str, str]:
    bucket, key = _split(url)
    if not key:
        raise StorageError(f"{url} names no object. Write s3://BUCKET/KEY.")
    return {"Bucket": bucket, "Key": key}


@functools.cache
def _library() -> Any:
    try:
        import botocore.config  # type: ignore[import-untyped]
        import botocore.exceptions  # type: ignore[import-untyped]
        import botocore.session  # type: ignore[import-untyped]
    except ImportError as error:
        raise StorageError(f"s3:// needs a library ({error}): pip install 'counterpoise[s3]'") from error
    return botocore


def _client() -> Any:
    return _client_of(os.getpid(), os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", ""))


@functools.cache
def _client_of(_pid: int, _endpoint: str) -> Any:
    """One client for each process (they are safe in threads); its own retries are off, ours are all there are."""
    config = _library().config.Config(
        retries={"total_max_attempts": 1}, connect_timeout=60, read_timeout=60, max_pool_connections=32
    )
    return _library().session.get_session().create_client("s3", config=config)


class FsspecStore:
    """Any other scheme, with the limits that the module's docstring names.

    Args:
      scheme: As fsspec knows it, such as "memory" or "abfs".
      patience: How long a failing call is repeated.
    """

    def __init__(self, scheme: str, patience: Patience = PATIENCE) -> None:
        self._scheme, self._patience = scheme, patience

    def list(self, pattern: str) -> Iterator[ObjectInfo]:
        """See Store."""
        if not has_wildcard(pattern):
            found = self.stat(pattern)
            yield from [found] if found else []
            return
        regex, folder = glob_regex(pattern), literal_prefix(pattern).rpartition("/")[0]
        depth = None if "**" in pattern.split("/") else pattern[len(folder) :].count("/")
        root = self._name(folder)
        find = functools.partial(self._files.find, root, maxdepth=depth, detail=True)
        entries = self._retried(find, pattern, "list")
        infos = (self._info(folder + name.removeprefix(root.rstrip("/")), entry) for name, entry in entries.items())
        yield from sorted(info for info in infos if regex.fullmatch(info.url))

    def stat(self, url: str) -> ObjectInfo | None:
        """See Store."""
        try:
            entry = self._retried(lambda: self._files.info(self._name(url)), url, "look up", missing=True)
        except FileNotFoundError:
            return None
        return self._info(url, entry) if entry["type"] == "file" else None

    def open(self, url: str, version: str = "") -> BinaryIO:
        """See Store; read in windows of up to 16 MiB, each retried by itself."""
        return open_ranges(self, url, version)

    def read_range(self, url: str, start: int, length: int, version: str = "") -> bytes:
        """See Store; the version is looked at before, not with, the reading."""
        found = self.stat(url)
        if not found:
            raise vanished(url, version)
        if version and found.version != version:
            raise changed(url, version)
        end = min(start + length, found.size)
        if start >= end:
            return b""
        data: bytes = self._retried(lambda: self._files.cat_file(self._name(url), start=start, end=end), url, "read")
        return data

    def create(self, url: str, path: str) -> ObjectInfo:
        """See Store, and the module for its limits."""
        with os_errors("read", path), open(path, "rb") as source:
            return self._commit(url, source)

    def create_bytes(self, url: str, data: bytes) -> ObjectInfo:
        """See Store, and the module for its limits."""
        return self._commit(url, io.BytesIO(data))

    def _commit(self, url: str, source: BinaryIO) -> ObjectInfo:
        if not self.stat(url):
            with suppress(FileExistsError):
                self._retried(lambda: self._write(url, source), url, "create", missing=True)
        with self.open(url) as other:
            if not same_bytes(source, other):
                raise conflict(url)
        return self.stat(url) or _raise(vanished(url, ""))

    def replace(self, url: str, data: bytes, expected: ObjectInfo | None) -> ObjectInfo:
        """See Store, and the module for its limits."""
        found = self.stat(url)
        if found and self.read_range(url, 0, found.size) == data:
            return found
        if (found and found.version) != (expected and expected.version):
            raise conflict(url, "was replaced by someone else")
        self._retried(lambda: self._files.pipe_file(self._name(url), data), url, "create")
        return self.stat(url) or _raise(vanished(url, ""))

    def delete(self, url: str) -> None:
        """See Store."""
        with suppress(FileNotFoundError):
            self._retried(lambda: self._files.rm_file(self._name(url)), url, "delete", missing=True)

    def _write(self, url: str, source: BinaryIO) -> None:
        source.seek(0)
        name = self._name(url)
        self._files.makedirs(name.rpartition("/")[0], exist_ok=True)
        try:
            target = self._files.open(name, "xb")
        except (NotImplementedError, ValueError):  # no exclusive mode here
            target = self._files.open(name, "wb")
        with ExitStack() as undo:
            undo.callback(self._forget, name)
            with target:
                for block in iter(lambda: source.read(BLOCK), b""):
                    target.write(block)
            undo.pop_all()

    def _forget(self, name: str) -> None:
        """Remove what a broken write left: fsspec's files commit on close, whatever closed them."""
        with suppress(OSError):
            self._files.rm_file(name)

    def _info(self, url: str, entry: dict[str, Any]) -> ObjectInfo:
        keys = ("generation", "etag", "ETag", "content_md5", "mtime", "last_modified", "LastModified", "created")
        seen = next((entry[key] for key in keys if entry.get(key)), "")
        stamp = seen.timestamp() if hasattr(seen, "timestamp") else seen  # memory:// has both forms
        return ObjectInfo(url, entry["size"], f"{stamp}-{entry['size']}", "")

    def _name(self, url: str) -> str:
        name: str = self._files._strip_protocol(url)  # noqa: SLF001  # fsspec's own way to say it, without a public one
        return name

    @property
    def _files(self) -> Any:
        return _filesystem(self._scheme, os.getpid())

    def _retried(self, call: Callable[[], T], url: str, doing: str, *, missing: bool = False) -> T:
        """Repeat a call; with `missing`, errors about absent or present names are the caller's business."""
        try:
            return with_retries(call, url, doing, patience=self._patience)
        except (FileNotFoundError, FileExistsError) as error:
            if missing:
                raise
            raise vanished(url, "") from error
        except (OSError, ValueError, NotImplementedError) as error:
            raise StorageError(f"cannot {doing} {url}: {brief(error)}. Check the credentials and the path.") from error


@functools.cache
def _filesystem(scheme: str, _pid: int) -> Any:
    """One for each process; listings are never remembered, since others write too."""
    try:
        import fsspec

        return fsspec.filesystem(scheme, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        raise StorageError(f"{scheme}:// cannot be opened: {error}. Install its fsspec library.") from error
