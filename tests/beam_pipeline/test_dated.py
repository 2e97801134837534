"""Builds with a date: the pointer to the latest, rebuilds, double fires, and drift that is held back."""

import concurrent.futures
import datetime as dt
import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import yaml

from beam_pipeline import dated, preflight, run
from beam_pipeline.config import load_config
from beam_pipeline.dated import Promotion, promote, resolve
from beam_pipeline.drift import DriftLimits
from tests import corpora, shards
from transforms.commit import MANIFEST_VERSION
from transforms.errors import ConfigError, DriftExceeded, OutputConflict, StorageError
from transforms.storage import join, store_for

DAY = "2026-11-24"


def config(folder: Path, **changes: Any) -> corpora.Config:
    """A configuration whose output has a date and whose annotations are shared by all dates."""
    values = corpora.config(folder, work=f"{folder}/work", limits={"bad_records": 0.5}, **changes)
    values["output"]["path"] = f"{folder}/builds/{{date}}"
    return values


def command(folder: Path, date: str, *more: str) -> int:
    """`counterpoise build` for a date, in this process."""
    words = ["build", str(folder / corpora.CONFIG), "--direct_num_workers=1", "--progress", "none"]
    return run.main([*words, "--date", date, *more])


def latest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "builds/latest.json").read_text())
    return found


def files_of(folder: Path) -> dict[str, bytes]:
    """The corpus: every file but the record of the build, which has its date."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*"))
            if p.is_file() and p.name != preflight.BUILD_RECORD}  # fmt: skip


# --- the date ---


def test_the_date_is_given_or_todays(tmp_path: Path) -> None:
    """In UTC, in the output's path alone; the pointer lies beside the dated outputs."""
    parsed = load_config(yaml.safe_dump(config(tmp_path, sources=[{"name": "web", "paths": "x"}])))
    given, found = resolve(parsed, DAY)
    assert (given.output.path, found) == (f"{tmp_path}/builds/{DAY}", (DAY, f"{tmp_path}/builds/latest.json"))
    late = dt.datetime(2026, 11, 24, 23, 30, tzinfo=dt.timezone(dt.timedelta(hours=-5)))
    assert resolve(parsed, None, late.astimezone(dt.timezone.utc))[1] == (
        "2026-11-25",
        f"{tmp_path}/builds/latest.json",
    )
    assert given.sha256() == parsed.sha256(), "the date is no part of what the corpus depends on"


@pytest.mark.parametrize("date", ["yesterday", "2026-02-30", "20261124", "2026-11-24T00:00", ""])
def test_a_date_that_is_none_is_refused(tmp_path: Path, date: str) -> None:
    """Before anything is looked at, with exit code 2."""
    parsed = load_config(yaml.safe_dump(config(tmp_path, sources=[{"name": "web", "paths": "x"}])))
    with pytest.raises(ConfigError, match="no date"):
        resolve(parsed, date)


def test_a_date_needs_a_place_and_a_shared_work_folder(tmp_path: Path) -> None:
    """A date for a path without one, and a work folder that every date would find empty, are mistakes."""
    plain = corpora.config(tmp_path, sources=[{"name": "web", "paths": "x"}])
    with pytest.raises(ConfigError, match=r"has no \{date\}"):
        resolve(load_config(yaml.safe_dump(plain)), DAY)
    plain["output"]["path"] = f"{tmp_path}/{{date}}"
    with pytest.raises(ConfigError, match="work: missing"):
        load_config(yaml.safe_dump(plain))
    with pytest.raises(ConfigError, match="one place for all dates"):
        load_config(yaml.safe_dump({**plain, "work": f"{tmp_path}/{{date}}/work"}))


def test_the_limits_of_drift_are_no_part_of_the_corpus(tmp_path: Path) -> None:
    """So they can be widened for a corpus that is there."""
    values = config(tmp_path, sources=[{"name": "web", "paths": "x"}])
    one, two = (load_config(yaml.safe_dump({**values, "drift": {"stance": share}})) for share in (0.02, 0.5))
    assert one.sha256() == two.sha256()
    assert two.drift.stance == 0.5
    with pytest.raises(ConfigError, match=r"drift\.stanse: unknown key; did you mean stance"):
        load_config(yaml.safe_dump({**values, "drift": {"stanse": 1}}))


# --- the pointer ---


def finished(folder: Path, date: str, **changes: Any) -> Promotion:
    """A build that looks finished, with a manifest of few numbers."""
    output = folder / "builds" / date
    output.mkdir(parents=True)
    manifest = {"manifest_version": MANIFEST_VERSION, "unit": "documents", "stances": [], "quarantine": {"records": 0},
                "arms": {"a": {"equation": {}, "written": {"total": {"documents": 100}},
                               "dose": {"share_of_output": 0.0}}}, **changes}  # fmt: skip
    (output / "manifest.json").write_text(json.dumps(manifest))
    (output / "_BUILD.json").write_text("{}")
    (output / "_SUCCESS").write_text("{}")
    return Promotion(str(folder / "builds/latest.json"), "test", date, str(output), DriftLimits())


def advance(promotion: Promotion) -> str:
    return promote(join(promotion.output, "manifest.json"), promotion)


def test_the_pointer_moves_forward_only(tmp_path: Path) -> None:
    """A newer build takes it, an older one never, and saying it twice changes nothing."""
    first, second = finished(tmp_path, "2026-11-24"), finished(tmp_path, "2026-11-25")
    assert advance(first).endswith("now")
    assert advance(first).endswith("already")
    assert advance(second).endswith("now")
    before = (tmp_path / "builds/latest.json").stat()
    assert "stays at 2026-11-25, which is newer than 2026-11-24" in advance(first)
    assert latest(tmp_path)["date"] == "2026-11-25"
    assert (tmp_path / "builds/latest.json").stat().st_mtime_ns == before.st_mtime_ns


def test_nothing_is_pointed_at_before_success(tmp_path: Path) -> None:
    """A corpus without _SUCCESS is never the latest."""
    promotion = finished(tmp_path, DAY)
    (Path(promotion.output) / "_SUCCESS").unlink()
    with pytest.raises(StorageError, match="has no _SUCCESS"):
        advance(promotion)
    assert not Path(promotion.pointer).exists()


def test_a_previous_build_that_cannot_be_read_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    """Its manifest gone, of a newer version, the pointer damaged, or of another build: exit code 5."""
    first, second = finished(tmp_path, "2026-11-24"), finished(tmp_path, "2026-11-25")
    advance(first)
    manifest = Path(first.output) / "manifest.json"
    kept = manifest.read_text()
    manifest.unlink()
    with pytest.raises(StorageError, match=r"has no manifest.json; restore it, or delete .*latest.json to begin anew"):
        advance(second)
    manifest.write_text(kept.replace(f'"manifest_version": {MANIFEST_VERSION}', '"manifest_version": 99'))
    with pytest.raises(StorageError, match="a manifest of version 99, this release reads"):
        advance(second)
    with pytest.raises(StorageError, match="belongs to the build test, not other"):
        advance(second._replace(name="other"))
    Path(first.pointer).write_text("[]")
    with pytest.raises(StorageError, match="cannot be read"):
        advance(second)


def test_drift_holds_the_pointer(tmp_path: Path) -> None:
    """Beyond the limits it stays, with a table of what moved; wider limits let it go."""
    first = finished(tmp_path, "2026-11-24")
    arm = {"equation": {}, "written": {"total": {"documents": 500}}, "dose": {"share_of_output": 0.0}}
    second = finished(tmp_path, "2026-11-25", arms={"a": arm})
    advance(first)
    with pytest.raises(DriftExceeded, match=r"volume written a documents\s+100\s+500\s+400.00%\s+20.00%"):
        advance(second)
    assert latest(tmp_path)["date"] == "2026-11-24"
    advance(second._replace(limits=DriftLimits(volume=10)))
    assert latest(tmp_path)["date"] == "2026-11-25"


def test_a_lost_race_for_the_pointer_is_settled_by_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever was first with the same or a newer date has done our work; an older one is an error to try again."""
    first, second, third = (finished(tmp_path, f"2026-11-{day}") for day in (24, 25, 26))
    store = store_for(first.pointer)
    replace = type(store).replace

    def overtaken(by: Promotion) -> Any:
        def late(self: Any, url: str, data: bytes, expected: Any) -> Any:
            monkeypatch.setattr(type(store), "replace", replace)
            advance(by)
            return replace(self, url, data, expected)

        return late

    monkeypatch.setattr(type(store), "replace", overtaken(third))
    assert "was finished at the same time" in advance(second)
    assert latest(tmp_path)["date"] == "2026-11-26"
    Path(first.pointer).unlink()
    monkeypatch.setattr(type(store), "replace", overtaken(first))
    with pytest.raises(OutputConflict):
        advance(second)
    assert advance(second).endswith("now")


# --- whole builds ---


def test_a_rebuild_with_nothing_new_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another day with the same inputs and configuration says so; not a file is touched."""
    corpora.write_web(tmp_path, count=30)
    corpora.write_config(tmp_path, config(tmp_path))
    assert command(tmp_path, "2026-11-24") == 0
    assert json.loads((tmp_path / "builds/2026-11-24/_BUILD.json").read_text())["date"] == "2026-11-24"
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    capsys.readouterr()
    assert command(tmp_path, "2026-11-25") == 0
    assert "nothing new since the build that" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before
    assert command(tmp_path, "2026-11-24") == 0
    assert "nothing to do" in capsys.readouterr().out


def test_drift_is_exit_code_7_and_can_be_accepted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The corpus is written and proved, the pointer stays, the table is shown, and --set with --date accepts it."""
    corpora.write_web(tmp_path, count=60)
    corpora.write_config(tmp_path, config(tmp_path))
    assert command(tmp_path, "2026-11-24") == 0
    more = corpora.documents(60, prefix="new", stances=["misaligned"])
    shards.write_jsonl(tmp_path / "web/new.jsonl", more)
    capsys.readouterr()
    assert command(tmp_path, "2026-11-25") == 7
    said = capsys.readouterr().err
    assert "stance misaligned" in said and "volume read web documents" in said
    assert "--date 2026-11-25" in said
    assert (tmp_path / "builds/2026-11-25/_SUCCESS").exists()
    assert latest(tmp_path)["date"] == "2026-11-24"
    corpus = files_of(tmp_path / "builds/2026-11-25")
    wide = [word for key in ("stance", "language", "quarantine", "volume") for word in ("--set", f"drift.{key}=1")]
    assert command(tmp_path, "2026-11-25") == 7
    assert command(tmp_path, "2026-11-25", *wide, "--set", "drift.volume=9") == 0
    assert latest(tmp_path)["date"] == "2026-11-25"
    assert files_of(tmp_path / "builds/2026-11-25") == corpus


def test_a_double_fire_ends_in_one_build(tmp_path: Path) -> None:
    """Two starts for one date at once: each ends well or gives way, and there is one corpus, the right one."""
    corpora.write_web(tmp_path, count=30)
    corpora.write_config(tmp_path, config(tmp_path))
    with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        codes = list(pool.map(command, [tmp_path] * 2, [DAY] * 2))
    assert set(codes) <= {0, 5}, codes
    assert 0 in codes
    assert latest(tmp_path)["path"] == f"{tmp_path}/builds/{DAY}"
    assert sorted(p.name for p in (tmp_path / "builds").iterdir()) == [DAY, "latest.json"]
    plain = {**config(tmp_path), "work": f"{tmp_path}/other"}
    plain["output"] = {**plain["output"], "path": f"{tmp_path}/plain"}
    corpora.run_plain(plain)
    assert files_of(tmp_path / "builds" / DAY) == files_of(tmp_path / "plain")


@pytest.mark.parametrize(("count", "changes"), [(50, 3), pytest.param(1000, 10, marks=pytest.mark.slow)])
def test_a_rebuild_reads_what_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], count: int, changes: int
) -> None:
    """Some shards changed, 1 is new, 1 gone: those are annotated, and the corpus is that of a build from nothing."""
    (tmp_path / "web").mkdir()
    docs = corpora.documents(3 * count)
    for number in range(count):
        shards.write_jsonl(tmp_path / f"web/{number:04}.jsonl", docs[number::count])
    arms = {"unfiltered": {}, "filtered": {"misaligned": {"keep": 0.5}}}
    values = config(tmp_path, arms=arms, output={"target_file_size": 10**6})
    corpora.write_config(tmp_path, values)
    assert command(tmp_path, "2026-11-24") == 0
    first = set((tmp_path / "work/annotations").rglob("*.parquet"))
    assert len(first) == count
    changed = corpora.documents(3 * changes, seed=1, prefix="c")
    for number in range(changes):
        shards.write_jsonl(tmp_path / f"web/{number * 7:04}.jsonl", changed[number::changes])
    shards.write_jsonl(tmp_path / "web/new.jsonl", corpora.documents(3, prefix="n"))
    (tmp_path / f"web/{count - 1:04}.jsonl").unlink()
    capsys.readouterr()
    assert command(tmp_path, "2026-11-25") == 0
    said = capsys.readouterr()
    assert str(count - 1 - changes) in said.out + said.err, "how many slices were reused is said"
    assert len(set((tmp_path / "work/annotations").rglob("*.parquet")) - first) == changes + 1
    assert latest(tmp_path)["date"] == "2026-11-25"
    anew = {**values, "work": f"{tmp_path}/nothing", "output": {**values["output"], "path": f"{tmp_path}/anew"}}
    corpora.run_plain(anew)
    assert files_of(tmp_path / "builds/2026-11-25") == files_of(tmp_path / "anew")


def test_the_module_names_what_it_writes() -> None:
    """The pointer's name is part of the contract with its readers."""
    assert (dated.POINTER, dated.Latest._fields) == ("latest.json", ("name", "path", "date", "manifest_sha256"))
