"""Local disks, and what is mounted like one."""

import errno
import fcntl
import io
import os
import secrets
import shutil
import stat as stat_module
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, Final, cast

from transforms.errors import StorageError
from transforms.storage import (
    BLOCK,
    ObjectInfo,
    changed,
    conflict,
    glob_regex,
    has_wildcard,
    literal_prefix,
    os_errors,
    same_bytes,
    vanished,
)

TEMPORARY: Final = ".counterpoise-"
"""How unfinished local files begin; no listing shows them, and any left by a killed process may be deleted."""


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
        with os_errors("read", self._url):
            count = super().readinto(buffer)
        if self._seen() != self._version:
            raise changed(self._url, self._version)
        return count or 0

    def readall(self) -> bytes:
        with os_errors("read", self._url):
            data = super().readall()
        if self._seen() != self._version:
            raise changed(self._url, self._version)
        return data or b""


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
    """Make a name durable; file systems that cannot sync a folder (some network mounts) do without."""
    try:
        _sync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES):
            raise
