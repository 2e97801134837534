"""Where bytes come from and go to: one small protocol over local disks, Google Cloud Storage, S3 and fsspec.

Every store promises the same: a listing is sorted, a pinned read gives the planned bytes or `InputChanged`,
a name is committed once and whole, and committing the same bytes again (after a lost reply, a retry, or by
another attempt at the same time) is success. Where a store cannot promise one of these, its module says so.

    storage            the protocol, retries, globs, the range reader, local files, and `store_for`
    storage_gcs        gs://
    storage_fsspec     s3:// and whatever else fsspec opens
"""

import errno
import fcntl
import functools
import hashlib
import io
import logging
import os
import re
import secrets
import shutil
import stat as stat_module
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, Final, NamedTuple, Protocol, TypeVar, cast

import tenacity

from transforms.errors import InputChanged, OutputConflict, StorageError

log = logging.getLogger(__name__)

TEMPORARY: Final = ".counterpoise-"
"""How unfinished local files begin; no listing shows them, and any left by a killed process may be deleted."""

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
    if scheme == "file":
        return LocalStore()
    if scheme == "gs":
        try:
            from transforms.storage_gcs import GcsStore
        except ImportError as error:
            raise StorageError(f"gs:// needs a library ({error}): pip install 'counterpoise[gcp]'") from error
        return GcsStore()
    from transforms.storage_fsspec import FsspecStore, S3Store

    return S3Store() if scheme == "s3" else FsspecStore(scheme)


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

        return google_crc32c.Checksum()  # type: ignore[no-untyped-call]  # typed in part
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


# Local files


class LocalStore:
    """Local disks and what is mounted like one; written data is on the disk before a name appears.

    A commit writes a hidden temporary file in the target's folder, syncs it, and links it to its name, which
    the kernel refuses when the name exists. Where there are no hard links, a lock in the folder (released by
    the kernel when its holder dies) keeps our own processes apart and the file is renamed: atomic for readers,
    and exclusive among processes of one machine. "mtime_ns-size" cannot tell two versions of equal size
    within one clock tick (4 ms on many kernels) apart, except for those that `replace` wrote.
    """

    def list(self, pattern: str) -> Iterator[ObjectInfo]:
        """See Store; two names of one file (symbolic links) are one object, a link to nothing is an error."""
        path = os.path.abspath(_local(pattern))
        with os_errors("list", pattern):
            found = _walk_matches(path) if has_wildcard(path) else [path]
            for real in sorted({os.path.realpath(name) for name in found}):
                if info := self.stat(real):
                    yield info

    def stat(self, url: str) -> ObjectInfo | None:
        """See Store; only regular files are objects."""
        with os_errors("look up", url):
            try:
                status = os.stat(_local(url))
            except (FileNotFoundError, NotADirectoryError):
                return None
        return _local_info(url, status) if stat_module.S_ISREG(status.st_mode) else None

    def open(self, url: str, version: str = "") -> BinaryIO:
        """See Store; a file that is changed in place while it is read is noticed at the next megabyte."""
        with os_errors("open", url):
            try:
                return cast(BinaryIO, io.BufferedReader(_LocalReader(url, version), BLOCK))
            except (FileNotFoundError, NotADirectoryError) as error:
                raise vanished(url, version) from error

    def read_range(self, url: str, start: int, length: int, version: str = "") -> bytes:
        """See Store."""
        with self.open(url, version) as file:
            file.seek(start)
            return file.read(length)

    def create(self, url: str, path: str) -> ObjectInfo:
        """See Store.

        A file whose own name begins with ".counterpoise-" is linked, not copied, when it lies on the same disk;
        it must not be written to afterwards.
        """
        with os_errors("create", url), open(path, "rb") as source:
            return _commit(url, source, path)

    def create_bytes(self, url: str, data: bytes) -> ObjectInfo:
        """See Store."""
        with os_errors("create", url):
            return _commit(url, io.BytesIO(data))

    def replace(self, url: str, data: bytes, expected: ObjectInfo | None) -> ObjectInfo:
        """See Store; exclusive among processes of one machine. The new time stamp is always later than the old."""
        path = _local(url)
        with os_errors("replace", url), _temporary(path, io.BytesIO(data)) as temporary, _locked(path):
            found = self.stat(url)
            if found and _is_same(io.BytesIO(data), path):
                return found
            if (found and found.version) != (expected and expected.version):
                raise conflict(url, "was replaced by someone else")
            if found:
                _stamp_after(temporary, path)
            os.replace(temporary, path)
            _sync_folder(os.path.dirname(path))
            return _local_info(url, os.stat(path))

    def delete(self, url: str) -> None:
        """See Store."""
        with os_errors("delete", url), suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(_local(url))


class _LocalReader(io.FileIO):
    """A file that was checked to be the planned version, and stays it while it is read."""

    def __init__(self, url: str, version: str) -> None:
        super().__init__(_local(url), "rb")
        self._url, self._version = url, version or self._seen()
        if self._seen() != self._version:
            self.close()
            raise changed(url, self._version)

    def _seen(self) -> str:
        return _local_info("", os.fstat(self.fileno())).version

    def readinto(self, buffer: Any) -> int:
        count = super().readinto(buffer)
        if self._seen() != self._version:
            raise changed(self._url, self._version)
        return count or 0

    def readall(self) -> bytes:
        data = super().readall()
        if self._seen() != self._version:
            raise changed(self._url, self._version)
        return data or b""


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


def _local(url: str) -> str:
    return url.removeprefix("file://")


def _local_info(url: str, status: os.stat_result) -> ObjectInfo:
    return ObjectInfo(url, status.st_size, f"{status.st_mtime_ns}-{status.st_size}", "")


def _walk_matches(pattern: str) -> Iterator[str]:
    """Yield the paths that match, links followed; a folder that contains itself by a link is entered once."""
    regex = glob_regex(pattern)
    root = os.path.dirname(literal_prefix(pattern))
    depth = None if "**" in pattern.split("/") else pattern.count("/") - root.rstrip("/").count("/")
    for path in _walk(root, depth, ()):
        if regex.fullmatch(path):
            if not os.path.exists(path):
                raise StorageError(f"{path} is a link to nothing. Restore its target or remove the link.")
            yield path


def _walk(folder: str, depth: int | None, above: tuple[str, ...]) -> Iterator[str]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    here = os.path.realpath(folder)
    for entry in entries:
        if entry.name.startswith(TEMPORARY):
            continue
        if not entry.is_dir():
            yield entry.path
        elif depth != 1 and here not in above:
            yield from _walk(entry.path, depth and depth - 1, (*above, here))


def _commit(url: str, source: BinaryIO, path: str = "") -> ObjectInfo:
    final = _local(url)
    if not os.path.lexists(final):
        with _temporary(final, source, path) as temporary, suppress(FileExistsError):
            _link(temporary, final)
        _sync_folder(os.path.dirname(final))
    if not _is_same(source, final):
        raise conflict(url)
    return _local_info(url, os.stat(final))


@contextmanager
def _temporary(final: str, source: BinaryIO, path: str = "") -> Iterator[str]:
    """A synced temporary file beside `final` with the bytes of `source`, gone afterwards."""
    folder = os.path.dirname(final)
    _make_folder(folder)
    temporary = os.path.join(folder, f"{TEMPORARY}{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as target:
            if _is_spool(path, target.fileno()):
                _adopt(path, temporary, os.fstat(target.fileno()).st_mode)
            else:
                source.seek(0)
                shutil.copyfileobj(source, target, BLOCK)
                target.flush()
        _sync(temporary)
        yield temporary
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


def _is_spool(path: str, target: int) -> bool:
    """Whether `path` is a temporary file of ours, on the disk of `target`, that may be linked, not copied."""
    ours = os.path.basename(path).startswith(TEMPORARY) and not os.path.islink(path)
    return ours and os.stat(path).st_dev == os.fstat(target).st_dev


def _adopt(path: str, temporary: str, mode: int) -> None:
    """Put `path` under the name `temporary` as well, with the permissions of a new file: spools are often private."""
    os.unlink(temporary)
    try:
        os.link(path, temporary)
    except OSError:  # no hard links here
        shutil.copyfile(path, temporary)
    os.chmod(temporary, stat_module.S_IMODE(mode))


def _link(temporary: str, final: str) -> None:
    """Give a finished file its name unless that is taken (FileExistsError)."""
    try:
        os.link(temporary, final)
    except OSError as error:
        # vfat and many FUSE mounts say EPERM, others ENOTSUP or ENOSYS; some say EMLINK at once
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        with _locked(final):
            if os.path.lexists(final):
                raise FileExistsError(final) from error
            os.rename(temporary, final)


@contextmanager
def _locked(final: str) -> Iterator[None]:
    """Hold the folder's lock file, which is removed afterwards; a dead holder's lock is free."""
    path = os.path.join(os.path.dirname(final), f"{TEMPORARY}lock")
    while True:
        with open(path, "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _is_at(lock, path):  # its last holder removed it while we waited
                continue
            try:
                yield
            finally:
                os.unlink(path)
            return


def _is_at(file: BinaryIO, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def same_bytes(source: BinaryIO, other: BinaryIO) -> bool:
    """Whether two files hold the same bytes, a megabyte of each in memory."""
    source.seek(0)
    return all(block == other.read(BLOCK) for block in iter(lambda: source.read(BLOCK), b"")) and not other.read(1)


def _is_same(source: BinaryIO, path: str) -> bool:
    with open(path, "rb") as other:
        size = os.fstat(other.fileno()).st_size
        return source.seek(0, io.SEEK_END) == size and same_bytes(source, other)


def _stamp_after(temporary: str, path: str) -> None:
    """Make the new file's time later than the old one's, so that the version changes within a clock tick too."""
    stamp = max(os.stat(temporary).st_mtime_ns, os.stat(path).st_mtime_ns + 1)
    os.utime(temporary, ns=(stamp, stamp))


def _make_folder(folder: str) -> None:
    if folder and not os.path.isdir(folder):
        _make_folder(os.path.dirname(folder))
        with suppress(FileExistsError):
            os.mkdir(folder)
        _sync_folder(os.path.dirname(folder))


def _sync(path: str) -> None:
    handle = os.open(path or ".", os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_folder(folder: str) -> None:
    """Make a name durable; file systems that cannot sync a folder (EINVAL on some network mounts) do without."""
    with suppress(OSError):
        _sync(folder)


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


@contextmanager
def os_errors(doing: str, url: str) -> Iterator[None]:
    """Turn errors of the operating system into one readable line."""
    try:
        yield
    except OSError as error:
        rule = _RULES.get(error.errno or 0, "the operating system refused")
        where = f" (at {error.filename})" if error.filename and str(error.filename) != _local(url) else ""
        raise StorageError(f"cannot {doing} {url}: {rule}{where} [{error.strerror or error}].") from error
