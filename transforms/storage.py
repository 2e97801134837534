"""Where bytes come from and go to: one small protocol over local disks, Google Cloud Storage, S3 and fsspec.

Every store promises the same: a listing is sorted, a pinned read gives the planned bytes or `InputChanged`,
a name is committed once and whole, and committing the same bytes again (after a lost reply, a retry, or by
another attempt at the same time) is success. Where a store cannot promise one of these, its module says so.

    storage            the protocol, retries, globs, the range reader, and `store_for`
    storage_local      local disks
    storage_gcs        gs://
    storage_fsspec     s3:// and whatever else fsspec opens
"""

import errno
import functools
import hashlib
import importlib
import io
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Final, NamedTuple, Protocol, TypeVar, cast

import tenacity

from transforms.errors import InputChanged, OutputConflict, StorageError

log = logging.getLogger(__name__)

BLOCK: Final = 1 << 20
READ_AHEAD: Final = 16 << 20  # at 100 MB/s a 16 MiB request takes 160 ms, so 30 ms of latency cost about a sixth

T = TypeVar("T")


class ObjectInfo(NamedTuple):
    """One object as its store knows it.

    Attributes:
      url: Full name; for listed local files the absolute path with symbolic links resolved.
      size: Bytes as stored (compressed, when the object is).
      version: What a read can be pinned to: GCS generation, S3 ETag, local "mtime_ns-size".
      checksum: "crc32c:" and 8 hex digits, "md5:" and 32, or "" where the store keeps none.
    """

    url: str
    size: int
    version: str
    checksum: str


class Store(Protocol):
    """What every store does; all methods may be called from several threads and processes at once.

    Raises (all methods): StorageError, saying what, where, the rule and the way out.
    """

    def list(self, pattern: str) -> Iterator[ObjectInfo]:
        """Yield the objects whose whole URL matches `pattern` (*, ?, [], **), sorted by URL, each once."""

    def stat(self, url: str) -> ObjectInfo | None:
        """Look one object up; None when there is none."""

    def open(self, url: str, version: str = "") -> BinaryIO:
        """Open the stored bytes for reading and seeking, never a mixture of two versions.

        Raises:
          InputChanged: `version` was given and the object is another by now, or gone.
        """

    def read_range(self, url: str, start: int, length: int, version: str = "") -> bytes:
        """Read up to `length` bytes from `start`; fewer only at the end of the object. Pinned as `open` is."""

    def create(self, url: str, path: str) -> ObjectInfo:
        """Commit the local file `path` under a new name, whole or not at all; the same bytes there are success.

        Raises:
          OutputConflict: The name holds other bytes.
        """

    def create_bytes(self, url: str, data: bytes) -> ObjectInfo:
        """Commit `data` as `create` commits a file."""

    def replace(self, url: str, data: bytes, expected: ObjectInfo | None) -> ObjectInfo:
        """Write a small pointer if it is still `expected` (None: absent); `data` there already is success.

        Raises:
          OutputConflict: Someone else was first.
        """

    def delete(self, url: str) -> None:
        """Delete an object; absent is fine."""


def store_for(url: str) -> Store:
    """The store of `url`, one for each scheme and process; no connection is made before the first call."""
    scheme, found, _ = url.partition("://")
    return _store(scheme if found else "file", os.getpid())


@functools.cache
def _store(scheme: str, _pid: int) -> Store:
    """The process id is in the key because connections and event loops do not survive a fork."""
    # By name, because these modules build on this one.
    if scheme == "file":
        return cast(Store, importlib.import_module("transforms.storage_local").LocalStore())
    if scheme == "gs":
        try:
            return cast(Store, importlib.import_module("transforms.storage_gcs").GcsStore())
        except ImportError as error:
            raise StorageError(f"gs:// needs a library ({error}): pip install 'counterpoise[gcp]'") from error
    others = importlib.import_module("transforms.storage_fsspec")
    return cast(Store, others.S3Store() if scheme == "s3" else others.FsspecStore(scheme))


def join(url: str, *parts: str) -> str:
    """Append relative parts to a URL, with one slash between them.

    >>> join("gs://corpus/out/", "counterpoised", "part-00000-of-00042.jsonl.zst")
    'gs://corpus/out/counterpoised/part-00000-of-00042.jsonl.zst'

    Raises:
      ValueError: A part is absolute or empty, or has an empty, "." or ".." segment, a backslash or a control
        character; such a name could leave the folder or mean different things to different stores.
    """
    for part in parts:
        if {"", ".", ".."} & set(part.split("/")) or re.search(r"[\\\x00-\x1f\x7f]", part):
            raise ValueError(f"{part!r} cannot be appended to {url!r}: use plain relative names")
    base = url if url.endswith("://") else url.rstrip("/") + "/"
    return base + "/".join(parts) if parts else url


# Retries


class Patience(NamedTuple):
    """How a failing call is repeated: by default with jitter, up to a minute apart, for 15 minutes in all."""

    wait: tenacity.wait.wait_base = tenacity.wait_random_exponential(1, max=60)
    stop: tenacity.stop.stop_base = tenacity.stop_after_delay(900)


PATIENCE: Final = Patience()


def status_of(error: BaseException) -> int:
    """The HTTP status that an error of google, requests, botocore or aiohttp carries, or 0."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore.exceptions.ClientError
        return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    found = getattr(response, "status_code", None) or getattr(error, "code", None) or getattr(error, "status", None)
    return found if isinstance(found, int) else 0


def is_transient(error: BaseException) -> bool:
    """Whether trying again can help: 408, 429, 5xx (not 501), resets and time-outs; never 403 or 404."""
    status = status_of(error)
    broken = isinstance(error, (ConnectionError, TimeoutError))
    return broken or status in (408, 429) or (status >= 500 and status != 501)


def with_retries(
    call: Callable[[], T],
    url: str,
    doing: str = "access",
    *,
    transient: Callable[[BaseException], bool] = is_transient,
    patience: Patience = PATIENCE,
) -> T:
    """Call until it succeeds, fails for good, or patience ends; every second failure is logged as a warning.

    Args:
      call: Must be safe to repeat.
      url: What it works on, for messages.
      doing: A verb for messages, such as "read".

    Raises:
      StorageError: Still failing when patience ended. Errors that are not transient pass through at once.
    """

    def warn(state: tenacity.RetryCallState) -> None:
        if state.attempt_number % 2 == 0 and state.outcome:
            cause = brief(state.outcome.exception())
            log.warning("cannot %s yet url=%s attempt=%d error=%s", doing, url, state.attempt_number, cause)

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(transient), wait=patience.wait, stop=patience.stop, before_sleep=warn
    )
    try:
        return retrying(call)
    except tenacity.RetryError as ended:
        error, tries = ended.last_attempt.exception(), ended.last_attempt.attempt_number
        raise StorageError(
            f"cannot {doing} {url}: still failing after {tries} tries ({brief(error)}). "
            "The same command continues where this one stopped, once the service answers."
        ) from error


def brief(error: BaseException | None) -> str:
    """An error without what may follow its first line or a URL's query, where signatures and tokens stand."""
    first = (str(error).splitlines() or [""])[0]
    shown = re.sub(r"[?]\S*", "?...", first)[:200]
    return f"{type(error).__name__}: {shown}"


# Globs


def has_wildcard(pattern: str) -> bool:
    """Whether a URL is a pattern."""
    return re.search(r"[*?[]", pattern) is not None


def literal_prefix(pattern: str) -> str:
    """What all names that match begin with."""
    return re.split(r"[*?[]", pattern, maxsplit=1)[0]


def glob_regex(pattern: str) -> re.Pattern[str]:
    """Translate a glob over a whole URL; wildcards stop at slashes, but a segment `**` is any number of folders.

    >>> [bool(glob_regex("gs://b/**/*.gz").fullmatch(name)) for name in ("gs://b/x.gz", "gs://b/y/z/x.gz", "gs://c/x.gz")]
    [True, True, False]
    """
    *folders, last = pattern.split("/")
    regex = "".join("(?:.*/)?" if folder == "**" else _segment_regex(folder) + "/" for folder in folders)
    try:
        return re.compile(regex + (".+" if last == "**" else _segment_regex(last)), re.DOTALL)
    except re.error as error:
        raise StorageError(f"{pattern} is not a pattern: {error}. Write a literal '[' as '[[]'.") from error


def _segment_regex(segment: str) -> str:
    return "".join(_token_regex(token) for token in re.findall(r"\[!?\]?[^\]]*\]|\*+|\?|[^*?[]+|\[", segment))


def _token_regex(token: str) -> str:
    if token[0] == "*":
        return "[^/]*"
    if token == "?":
        return "[^/]"
    if token[0] != "[" or token == "[":
        return re.escape(token)
    body = re.sub(r"([\\\]\[^&~|])", r"\\\1", token[1:-1].removeprefix("!"))
    return f"[^/{body}]" if token[1] == "!" else f"[{body}]"


# Reading by ranges


class RangeReader(io.RawIOBase):
    """A seekable file over `fetch(start, length)`: at most `READ_AHEAD` bytes are held.

    Reading on from where the last window ended doubles the window, from 1 to 16 MiB, so that a sequential
    reader makes few requests; a jump (Parquet's footer and column chunks) starts again with a small one.
    Bytes read from first to last are summed, and the last window is withheld when the sum is wrong.
    """

    def __init__(self, url: str, size: int, fetch: Callable[[int, int], bytes], checksum: str = "") -> None:
        self.url, self.size, self._fetch, self._checksum = url, size, fetch, checksum
        self._position = self._start = self._ahead = self._summed = 0
        self._window = b""
        self._sum = _summer(checksum)

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """The position of the next byte."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; a position past the end reads nothing."""
        position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        if position < 0:
            raise ValueError(f"negative position {position} in {self.url}")
        self._position = position
        return position

    def readinto(self, buffer: Any) -> int:
        """Fill from the window, fetching the next one when it is used up."""
        target = memoryview(buffer).cast("B")
        if self._position >= self.size or not target:
            return 0
        offset = self._position - self._start
        if not 0 <= offset < len(self._window):
            self._refill(len(target))
            offset = 0
        count = min(len(target), len(self._window) - offset)
        target[:count] = memoryview(self._window)[offset : offset + count]
        self._position += count
        return count

    def _refill(self, wanted: int) -> None:
        sequential = self._position == self._start + len(self._window)
        self._ahead = min(READ_AHEAD, self._ahead * 2) if sequential and self._ahead else BLOCK
        length = min(READ_AHEAD, max(wanted, self._ahead), self.size - self._position)
        self._window = b""  # before the next one arrives: the two need never be held together
        self._window, self._start = self._fetch(self._position, length), self._position
        if len(self._window) != length:
            raise StorageError(f"{self.url} ends at {self._start + len(self._window)} of {self.size} bytes. Try again.")
        if self._sum and self._start == self._summed:
            self._sum.update(self._window)
            self._summed += len(self._window)
            if self._summed == self.size:
                self._compare()

    def _compare(self) -> None:
        seen = f"{self._checksum.partition(':')[0]}:{self._sum.digest().hex()}"
        if seen != self._checksum:
            self._window = b""
            raise StorageError(
                f"{self.url} arrived damaged: its bytes have {seen}, the store says {self._checksum}. "
                "Run the command again; if it stays so, upload the object again."
            )


def _summer(checksum: str) -> Any:
    """A hash object for "crc32c:..." or "md5:...", else None."""
    if checksum.startswith("crc32c:"):
        import google_crc32c

        summer: Any = google_crc32c.Checksum  # whether it counts as typed depends on its release
        return summer()
    return hashlib.md5(usedforsecurity=False) if checksum.startswith("md5:") else None


def open_ranges(store: Store, url: str, version: str) -> BinaryIO:
    """What `Store.open` does where objects are read by ranges: pinned to the version found, planned or not."""
    info = store.stat(url)
    if info is None:
        raise vanished(url, version)
    if version and info.version != version:
        raise changed(url, version)

    def fetch(start: int, length: int) -> bytes:
        return store.read_range(url, start, length, info.version)

    return cast(BinaryIO, io.BufferedReader(RangeReader(url, info.size, fetch, info.checksum), BLOCK))


# Errors and comparing


def changed(url: str, version: str) -> InputChanged:
    """The error for a pinned object that is another by now."""
    return InputChanged(
        f"{url} is not what the plan was made from: version {version} is gone. Restore it, or plan again (--replan)."
    )


def vanished(url: str, version: str) -> StorageError:
    """The error for an object that is not there: its change when it was pinned, else its absence."""
    return changed(url, version) if version else StorageError(f"{url} does not exist. Check the name.")


def conflict(url: str, how: str = "holds other bytes") -> OutputConflict:
    """The error for a name that someone else has taken."""
    return OutputConflict(f"{url} {how}; nothing is ever overwritten. Choose a new output path, or remove it yourself.")


def same_bytes(source: BinaryIO, other: BinaryIO) -> bool:
    """Whether two files hold the same bytes, a megabyte of each in memory."""
    source.seek(0)
    return all(block == other.read(BLOCK) for block in iter(lambda: source.read(BLOCK), b"")) and not other.read(1)


_RULES: Final = {
    errno.ENOSPC: "the disk is full. Free space or choose another disk",
    errno.EDQUOT: "the disk quota is used up. Free space or choose another disk",
    errno.EFBIG: "the file is larger than the file system or `ulimit -f` allows. Raise it or write smaller files",
    errno.EACCES: "this user may not. Grant the permission or choose another path",
    errno.EPERM: "this user may not. Grant the permission or choose another path",
    errno.EROFS: "the file system is read-only. Choose another path",
    errno.ENAMETOOLONG: "the name is too long for this file system. Choose a shorter one",
    errno.EISDIR: "it is a folder. Name a file",
    errno.ENOTDIR: "a part of the path is a file. Choose another path",
    errno.EIO: "the disk reports an error. Check the disk",
}


DISK_ERRORS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM})
"""What a disk says when nothing can be written to it."""


@contextmanager
def os_errors(doing: str, url: str, only: frozenset[int] | None = None) -> Iterator[None]:
    """Turn errors of the operating system, or `only` some of them, into one readable line."""
    try:
        yield
    except OSError as error:
        if only is not None and error.errno not in only:
            raise
        rule = _RULES.get(error.errno or 0, "the operating system refused")
        where = f" (at {error.filename})" if error.filename not in (None, url.removeprefix("file://")) else ""
        raise StorageError(f"cannot {doing} {url}: {rule}{where} [{error.strerror or error}].") from error
