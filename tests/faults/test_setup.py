"""Faults of what is around a build: paths, outputs, disks, models, configuration."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import corpora, shards
from tests.faults.harness import HEALTHY, OTHERS, Texts, build, config, counted, row, write_healthy
from tests.faults.table import Table
from transforms import storage_local, write

ALL = counted(HEALTHY)
Break = Callable[[Path, corpora.Config], Any]


def taken_part(folder: Path, values: corpora.Config) -> None:
    """A file of somebody else, after the build began, under a name of the corpus."""
    corpora.run_plain({**values, "output": {**values["output"], "path": f"{folder}/other"}})
    corpora.checked(values)
    (folder / "out/unfiltered").mkdir()
    name = min(path.name for path in (folder / "other/unfiltered").glob("part-*"))
    (folder / "out/unfiltered" / name).write_text("theirs")


def another_build(folder: Path, values: corpora.Config) -> None:
    corpora.checked({**values, "seed": 99})


def in_two_sources(folder: Path, values: corpora.Config) -> None:
    values["sources"].append({"name": "again", "paths": f"{folder}/web/healthy*"})


def with_links(folder: Path, values: corpora.Config) -> None:
    (folder / "web/link.jsonl.gz").symlink_to(folder / "web/healthy.jsonl.gz")
    values["sources"][0]["paths"] = [f"{folder}/web/*", f"{folder}/web/../web/*.gz"]


def unnamed_sum(folder: Path, values: corpora.Config) -> None:
    (folder / "SUMS").write_text("0" * 64 + "  other.jsonl\n")
    values["sources"][0]["checksums"] = f"{folder}/SUMS"


def small_pool(folder: Path, values: corpora.Config) -> None:
    (folder / "pool").mkdir()
    shards.write_jsonl(folder / "pool/p.jsonl", corpora.pool(1))
    values["pool"] = [{"name": "stories", "paths": f"{folder}/pool/*"}]
    values["arms"]["dosed"] = {"dose": {"share": 0.9}, "max_repeats": 1}


def no_column(folder: Path, values: corpora.Config) -> None:
    shards.write_parquet(folder / "web/t.parquet", OTHERS)
    values["sources"][0].update(paths=f"{folder}/web/*.parquet", text="body")


def strange_name(folder: Path, values: corpora.Config) -> None:
    (folder / "web/healthy.jsonl.gz").rename(folder / "web/ü <b>'\"%20;&\n.jsonl.gz")


def put(name: str, data: bytes = b"x") -> Break:
    """Write a file somewhere in the build's folder."""

    def act(folder: Path, values: corpora.Config) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)

    return act


def set_(key: str, value: Any) -> Break:
    """Change a key of the first source or of the configuration."""

    def act(folder: Path, values: corpora.Config) -> None:
        target = values["sources"][0] if key in ("paths", "text", "format") else values
        target[key] = value.format(folder=folder) if isinstance(value, str) else value

    return act


STOPS: dict[str, tuple[int, str, Break]] = {
    "output holds files of others": (5, "is not empty (it holds ", put("out/theirs.txt")),
    "output holds another build": (5, "belongs to another build (differs in config_sha256)", another_build),
    "a part's name is taken": (5, " holds other bytes; nothing is ever overwritten", taken_part),
    "the output is inside the source's glob": (2, "lies in this build's own", lambda f, v: (
        put("web/out/healthy.jsonl", b"{}")(f, v), set_("paths", "{folder}/web/**")(f, v),
        v["output"].update(path=f"{f}/web/out"))),
    "one shard in two sources": (2, "healthy.jsonl.gz is in web and in again; it would count twice", in_two_sources),
    "no shard in the glob: README.md": (2, "README.md has none of the endings .jsonl", put("web/README.md")),
    "a glob that matches nothing": (2, "nothing matches", set_("paths", "{folder}/nothing/*")),
    "a link to nothing": (5, "is a link to nothing", lambda f, v: (f / "web/l.jsonl").symlink_to(f / "gone")),
    "a shard that `checksums` does not name": (2, "does not name", unnamed_sum),
    "no such text field": (3, "no_text", set_("text", "body")),
    "no such column": (2, "", no_column),
    "a model that is not there": (8, "nowhere.bin", set_("stance", {"model": "/nowhere.bin"})),
    "a pool that is too small": (4, "max_repeats", small_pool),
}  # fmt: skip


@pytest.mark.parametrize("name", STOPS)
def test_fault_of_the_surroundings(tmp_path: Path, table: Table, name: str) -> None:
    """An exit code, a message that names what and where, and no corpus."""
    folder = write_healthy(tmp_path / "build")
    values = config(folder, output={"target_file_size": 1500})
    code, said, act = STOPS[name]
    act(folder, values)
    got = build(values)
    table.add(row(name, f"exit {code}", got, Texts()))
    assert (got.code, said in got.said) == (code, True), got


HARMLESS: dict[str, Break] = {
    "hidden names beside the shards": lambda f, v: [put(f"web/{n}")(f, v) for n in ("_SUCCESS", ".a.crc", "_x.jsonl")],
    "links, and two globs for one shard": with_links,
    "a shard from the future": lambda f, v: os.utime(f / "web/healthy.jsonl.gz", (4e9, 4e9)),
    "odd characters in a shard's name": strange_name,
}  # fmt: skip


@pytest.mark.parametrize("name", HARMLESS)
def test_oddity_that_changes_nothing(tmp_path: Path, table: Table, name: str) -> None:
    """Every text once."""
    folder = write_healthy(tmp_path / "build")
    values = config(folder)
    HARMLESS[name](folder, values)
    got = build(values)
    table.add(row(name, "read", got, ALL))
    assert got.code == 0, got


def test_two_outputs_with_one_work_folder(tmp_path: Path, table: Table) -> None:
    """The second build finds the annotations of the first, and writes every file of its own."""
    folder = write_healthy(tmp_path / "build")
    values = config(folder)
    corpora.run_plain({**values, "output": {**values["output"], "path": f"{folder}/first"}})
    table.add(row("two outputs, one work folder", "read", build(values), ALL))


def full(place: str) -> Callable[..., Any]:
    """What a full disk says."""

    def raise_(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), place)

    return raise_


@pytest.mark.parametrize("where", ["scratch", "output"])
def test_a_full_disk_stops_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: Table, where: str) -> None:
    """Exit code 5, nothing half-written under a final name; with space again the same command ends well."""
    folder = write_healthy(tmp_path / "build")
    values = config(folder, output={"format": "jsonl.zst"})
    with monkeypatch.context() as patched:
        if where == "scratch":
            patched.setattr(write._Summed, "write", full("scratch"))
        else:
            patched.setattr(storage_local.shutil, "copyfileobj", full("output"))  # type: ignore[attr-defined]
        got = build(values) if where == "scratch" else build_after_check(values)
    assert got.code == 5 and "the disk is full. Free space or choose another disk" in got.said, got
    assert not list((folder / "out").rglob("*part-*"))
    assert not list(folder.rglob(".counterpoise-*"))
    values["output"]["format"] = "jsonl"
    values["output"]["path"] += "-again"
    table.add(row(f"disk full ({where})", "exit 5, then the same command ends well", build(values), ALL))


def build_after_check(values: corpora.Config) -> Any:
    """As `build`; the record of the build needs a disk too."""
    from tests.faults.harness import Outcome
    from transforms.errors import StorageError

    try:
        corpora.checked(values)
    except StorageError as error:
        return Outcome(error.exit_code, str(error), Texts(), {}, {})
    raise AssertionError("the disk was not full")
