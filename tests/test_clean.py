"""`counterpoise clean`: lists by default, deletes with --yes, and never touches a corpus or a build at work."""

import fcntl
import os
import tempfile
from pathlib import Path

import pytest

from beam_pipeline import leftovers, owner
from beam_pipeline.run import main
from beam_pipeline.verify import verify
from tests import corpora, servers
from tests.faults.harness import impatient
from tests.faults.on_gcs import moved, objects, upload
from tests.test_agreement import files_below
from tests.test_owner import never, write
from transforms.commit import OWNER_RECORD
from transforms.errors import OutputConflict
from transforms.storage import join, store_for


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished corpus with a temporary file, a stale scratch folder and one in use beside it."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    folder = corpora.write_web(tmp_path / "input", 12)
    values = corpora.config(folder)
    corpora.run_plain(values)
    (folder / "out/unfiltered/.counterpoise-0123456789abcdef.tmp").write_bytes(b"half")
    for name in ("counterpoise-scratch-dead", "counterpoise-scratch-new", "counterpoise-scratch-held", "somebody-else"):
        (tmp_path / "scratch" / name).mkdir()
        (tmp_path / "scratch" / name / "spool").write_bytes(b"x" * 1000)
        if name != "counterpoise-scratch-new":
            os.utime(tmp_path / "scratch" / name, (1e9, 1e9))
    return folder / "out"


def test_clean_lists_and_deletes(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --yes nothing changes; with it what was listed goes, and the corpus and its annotations stay."""
    held = os.open(tmp_path / "scratch/counterpoise-scratch-held", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    before, (kept,) = files_below(str(finished)), {len(list(finished.glob("_work/annotations/*/*")))}
    assert main(["clean", str(finished)]) == 0
    listed = capsys.readouterr().out
    assert files_below(str(finished)) == before and listed.count("would delete ") >= 3
    for part in (".counterpoise-0123456789abcdef.tmp (4 bytes): temporary file of a process that is gone",
                 "/groups/000000.json", "counterpoise-scratch-dead (1,000 bytes): scratch of a process that is gone",
                 "to delete them: the same command with --yes"):  # fmt: skip
        assert part in listed
    assert main(["clean", str(finished), "--yes"]) == 0
    assert capsys.readouterr().out.count("deleting ") == listed.count("would delete ")
    left = {path.name for path in (tmp_path / "scratch").iterdir()}
    assert left >= {"counterpoise-scratch-new", "counterpoise-scratch-held", "somebody-else"}
    assert "counterpoise-scratch-dead" not in left
    assert not (finished / "_work/builds").is_dir() or not list((finished / "_work/builds").rglob("*.*"))
    assert len(list(finished.glob("_work/annotations/*/*"))) == kept > 0
    assert verify(str(finished), workers=1).problems == ()
    assert main(["clean", str(finished)]) == 0
    assert "0 leftovers of 0.0 MB; nothing to do" in capsys.readouterr().out
    os.close(held)


def test_an_unfinished_build_keeps_what_it_needs(finished: Path) -> None:
    """Receipts and plan of a build without `_SUCCESS` are what its next run goes on from."""
    (finished / "_SUCCESS").unlink()
    assert [Path(item.url).name[:14] for item in leftovers.find(str(finished), young=1e12)] == [".counterpoise-"]


def test_clean_keeps_away_from_a_build_at_work(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 5, who is at work, and nothing deleted."""
    before = files_below(str(finished))
    with owner.owned(str(finished), lost=never):
        assert main(["clean", str(finished), "--yes"]) == 5
        assert f"is being built by process {os.getpid()}" in capsys.readouterr().err
    assert files_below(str(finished)) == before


def test_an_expired_owner_record_is_a_leftover(finished: Path) -> None:
    """One that shows no sign of life for the grace is listed; one that is renewed meanwhile is a build at work."""
    write(str(finished))
    found = [item for item in leftovers.find(str(finished), grace=0.2, young=1e12) if item.url.endswith(OWNER_RECORD)]
    assert [item.why for item in found] == ["owner record of process 7 on far-away, since noon, which is gone"]
    leftovers.delete(found)
    assert owner.find(str(finished)) is None
    with owner.owned(str(finished), lost=never, renew=0.05), pytest.raises(OutputConflict):
        leftovers.find(str(finished), grace=30)


def test_a_folder_without_a_build_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A mistyped path is exit code 5, not "nothing to do"."""
    (tmp_path / "mine.txt").write_text("x")
    assert main(["clean", str(tmp_path), "--yes"]) == 5
    assert "holds no build (no _BUILD.json)" in capsys.readouterr().err
    assert (tmp_path / "mine.txt").exists()


def test_clean_on_gs(tmp_path: Path) -> None:
    """On an object store there are no temporary files; a finished build's receipts and an expired record are listed."""
    folder, root = corpora.write_web(tmp_path / "input", 12), f"gs://{servers.BUCKET}/clean"
    with servers.strict_gcs(), impatient():
        upload(folder, root)
        values = moved(corpora.config(folder), folder, root)
        corpora.run_steps(corpora.checked(values).job)
        output, before = f"{root}/out", objects(f"{root}/out")
        write(output)
        leftovers.delete(leftovers.find(output, grace=0.1, young=1e12))
        assert objects(output) == before
        left = [info.url for info in store_for(output).list(join(output, "_work", "**"))]
        assert left and all("/_work/annotations/" in url for url in left)
