"""One build at a time in one output: who holds it, when a holder counts as gone, and what readers see meanwhile."""

import contextlib
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from beam_pipeline import leftovers, owner
from beam_pipeline.run import main
from beam_pipeline.verify import verify
from tests import corpora, servers
from tests.killing import Running
from tests.test_agreement import files_below
from transforms.commit import OWNER_RECORD
from transforms.errors import OutputConflict
from transforms.storage import join, store_for
from transforms.storage_local import TEMPORARY


@pytest.fixture(params=["local", "memory", "gs"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "gs":
        with servers.strict_gcs():
            yield f"gs://{servers.BUCKET}/out"
    else:
        yield {"local": f"{tmp_path}/out", "memory": f"memory://{tmp_path.name}/out"}[request.param]


def never(message: str) -> None:
    raise AssertionError(message)


def write(output: str, **changes: Any) -> None:
    """A record of someone else."""
    values = {"host": "far-away", "machine": "m", "pid": 7, "started": "1", "since": "noon", "token": "t", "renewed": 0}
    url = join(output, OWNER_RECORD)
    store_for(url).replace(url, json.dumps(values | changes).encode(), store_for(url).stat(url))


def test_an_output_is_held_and_given_back(output: str) -> None:
    """Inside the block others are refused, by name of the holder; after it nothing is left."""
    match = f"being built by process {os.getpid()} on .*, since .* UTC.*wait"
    with owner.owned(output, lost=never), pytest.raises(OutputConflict, match=match), owner.owned(output, lost=never):
        pass
    assert owner.find(output) is None
    with owner.owned(output, lost=never):
        assert owner.find(output)


def test_a_holder_renews(output: str) -> None:
    """The record changes while its holder lives, so a watcher elsewhere sees a sign of life."""
    with owner.owned(output, lost=never, renew=0.02):
        found = owner.find(output)
        assert found and found.holder
        assert owner.watch(output, found._replace(holder=found.holder._replace(host="elsewhere")), 10) == "alive"


def test_a_silent_holder_elsewhere_is_taken_over_after_the_grace(output: str) -> None:
    """Whatever its clock says: only that its record did not change while it was watched counts."""
    write(output, since="2199-01-01 00:00:00 UTC")
    said: list[str] = []
    with owner.owned(output, lost=never, say=said.append, grace=0.2):
        found = owner.find(output)
        assert found and found.holder and found.holder.pid == os.getpid()
    (line,) = said
    assert line.startswith(f"{output} is held by process 7 on far-away, since 2199-01-01 00:00:00 UTC; going on if")


def test_a_renewing_holder_elsewhere_is_left_alone(output: str) -> None:
    """A record that changes while it is watched is respected, though nothing else is known of its holder."""
    write(output)
    timer = threading.Timer(0.3, lambda: write(output, renewed=1))
    timer.start()
    with pytest.raises(OutputConflict, match="process 7 on far-away"), owner.owned(output, lost=never, grace=30):
        pass
    timer.join()


def test_an_unreadable_record_is_watched_too(output: str) -> None:
    """A record of another version, or no JSON at all, is neither obeyed for ever nor ignored."""
    for data in (b"", b"[]", b'{"pid": "x"}'):
        url = join(output, OWNER_RECORD)
        store_for(url).replace(url, data, store_for(url).stat(url))
        with owner.owned(output, lost=never, grace=0.1):
            pass
        assert owner.find(output) is None


def test_a_holder_that_was_taken_over_is_told(output: str) -> None:
    """Who slept for too long stops, instead of working beside its successor."""
    told = threading.Event()
    with owner.owned(output, lost=lambda message: told.set(), renew=0.02):
        with contextlib.suppress(OutputConflict):  # it may have been renewed just now
            write(output)
        with contextlib.suppress(OutputConflict):
            write(output)
        assert told.wait(20)
    found = owner.find(output)
    assert found and found.holder and found.holder.host == "far-away"


def _hold(output: str) -> None:
    with owner.owned(output, lost=never):
        os._exit(9)


def test_a_dead_holder_on_this_machine_is_seen_at_once(tmp_path: Path) -> None:
    """After a kill the same command need not wait; a later process that got the number is not taken for the holder."""
    output = str(tmp_path / "out")
    process = multiprocessing.get_context("spawn").Process(target=_hold, args=(output,))
    process.start()
    process.join()
    found = owner.find(output)
    assert process.exitcode == 9 and found and found.holder
    assert owner.life_of(found) == "dead"
    assert owner.life_of(found._replace(holder=found.holder._replace(pid=os.getppid()))) == "dead"
    with owner.owned(output, lost=never):
        pass


# --- whole builds ---


def test_the_second_of_two_builds_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """While one build is at work, the same build and another configuration end with 5 and say who holds the output."""
    folder = corpora.write_web(tmp_path / "input", 12)
    config = corpora.write_config(folder, corpora.config(folder))
    output = folder / "out"
    output.mkdir()
    os.mkfifo(output / "README.md")
    build = Running(tmp_path, "build", config, "--direct_num_workers=1", "--progress=none")
    assert build.wait_until((output / "manifest.json").exists), build.log.read_text()
    for options in ([], ["--set", "seed=8"]):
        assert main(["build", config, "--direct_num_workers=1", *options]) == 5
        assert f"process {build.pid} on" in capsys.readouterr().err
    with pytest.raises(OutputConflict, match=f"process {build.pid} on"):
        leftovers.find(str(output))
    build.kill()
    (output / "README.md").unlink()
    assert main(["build", config, "--direct_num_workers=1", "--progress=none"]) == 0
    assert "reused 4 annotations, 1 groups" in capsys.readouterr().err
    assert verify(str(output), workers=1).problems == ()


def test_two_builds_at_the_same_moment(tmp_path: Path) -> None:
    """Started together, one builds and the other is refused or finds it done; the corpus is one build's."""
    folder = corpora.write_web(tmp_path / "input", 12)
    config = corpora.write_config(folder, corpora.config(folder))
    arguments = ("build", config, "--direct_num_workers=1", "--progress=none")
    builds = [Running(tmp_path / str(number), *arguments) for number in range(2)]
    ended = [build.wait() for build in builds]
    assert {0} <= {end.code for end in ended} <= {0, 5}, ended
    assert [end for end in ended if end.code == 5 and "is being built by process" not in end.printed] == []
    assert verify(str(folder / "out"), workers=1).problems == ()
    assert OWNER_RECORD not in files_below(str(folder / "out"))


def test_readers_beside_a_build_see_a_whole_corpus_or_none(tmp_path: Path) -> None:
    """Whenever `_SUCCESS` is there, so is every byte of the corpus; other builds do not change it."""
    folder = corpora.write_web(tmp_path / "input", 12)
    config = corpora.write_config(folder, corpora.config(folder))
    output = folder / "out"
    build = Running(tmp_path, "build", config, "--direct_num_workers=1", "--progress=none")
    assert build.wait_until((output / "_SUCCESS").exists), build.log.read_text()
    # The hidden name under which `_SUCCESS` was written may outlive its link by a moment; no listing shows it.
    seen = {name: data for name, data in files_below(str(output)).items() if TEMPORARY not in name}
    assert OWNER_RECORD not in seen
    assert verify(str(output), workers=1).problems == ()
    assert build.wait().code == 0
    assert main(["build", config, "--direct_num_workers=1", "--set", "seed=9"]) == 5
    assert main(["build", config, "--direct_num_workers=1"]) == 0
    assert files_below(str(output)) == seen


def test_the_record_of_a_stopped_clock_is_no_clock(output: str) -> None:
    """No time of a record is ever compared: a record from the future or the past is watched for the same grace."""
    for since in ("1970-01-01 00:00:00 UTC", "2500-01-01 00:00:00 UTC"):
        write(output, since=since, token=since)
        found, began = owner.find(output), time.monotonic()
        assert found and owner.watch(output, found, 0.2) == "dead"
        assert time.monotonic() - began >= 0.2
