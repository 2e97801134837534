"""A build that is killed at any moment is finished by the same command, with the bytes of one that was not."""

import collections
import os
import random
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from beam_pipeline import leftovers
from beam_pipeline.verify import verify
from tests import corpora, shards
from tests.killing import Ended, Running, alive, names_below
from tests.test_agreement import ARMS, files_below

STEPS = ("start", "annotate", "plan", "mix", "commit")
Bytes = dict[str, bytes]


class Undisturbed(NamedTuple):
    """A build that nobody disturbed: its folder with the input, its files, how many it wrote, how long it took."""

    folder: Path
    files: Bytes
    written: int
    seconds: float

    def command(self, output: Path, *options: str) -> list[str]:
        return ["build", str(self.folder / "build.yaml"), "--set", f"output.path={output}", "--progress=none", *options]


ONE = "--direct_num_workers=1"
TWO = "--direct_num_workers=2"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = corpora.write_web(tmp_path_factory.mktemp("undisturbed"))
    shards.write_parquet(folder / "web/9.parquet", corpora.documents(30, 9), row_group=8)
    arms = {name: ARMS[name] for name in ("unfiltered", "apart", "all")}
    corpora.write_config(folder, corpora.config(folder, arms=arms, output={"format": "jsonl.zst"}))
    build = Undisturbed(folder, {}, 0, 0.0)
    Running(folder / "once", *build.command(folder / "first", ONE)).wait()  # the server and its models are up now
    ended = Running(folder / "twice", *build.command(folder / "out", ONE)).wait()
    assert ended.code == 0, ended.printed
    return build._replace(
        files=files_below(str(folder / "out")), written=len(names_below(folder / "out")), seconds=ended.seconds
    )


def step_of(names: set[str]) -> str:
    """The step that a build died in, from what it left."""
    if {"quarantine/records.jsonl.zst", "manifest.json"} & names:
        return "commit"
    if any("/part-" in name for name in names):
        return "mix"
    if any("_work/builds/" in name for name in names):
        return "plan"
    return "annotate" if any("_work/annotations/" in name for name in names) else "start"


def reused(ended: Ended) -> tuple[int, int]:
    """Annotations and groups that a build found, as it says."""
    said = re.search(r"reused (\d+) annotations, (\d+) groups", ended.printed)
    return (int(said[1]), int(said[2])) if said else (0, 0)


def finished_work(names: set[str]) -> tuple[int, int]:
    """Annotations and groups that are complete."""
    annotations = sum(bool(re.search(r"_work/annotations/../\w+\.parquet$", name)) for name in names)
    return annotations, sum(bool(re.search(r"_work/builds/\w+/groups/\d+\.json$", name)) for name in names)


def assert_recovered(undisturbed: Undisturbed, output: Path, ended: Ended, scratch: Path) -> None:
    """The corpus is the undisturbed one, and whatever else there is goes away with `clean`."""
    assert ended.code == 0, ended.printed
    found = leftovers.find(str(output), young=0)
    listed = {os.path.relpath(item.url, output) for item in found}
    files = {name: data for name, data in files_below(str(output)).items() if name not in listed}
    assert files.keys() == undisturbed.files.keys()
    assert [name for name in files if files[name] != undisturbed.files[name]] == []
    leftovers.delete(found)
    assert leftovers.find(str(output), young=0) == []
    assert list(scratch.iterdir()) == []
    left = {name for name in names_below(output) - files.keys() if not name.startswith("_work/annotations/")}
    assert left == set()
    assert not [name for name in names_below(output) if ".counterpoise-" in name]
    assert verify(str(output), workers=1).problems == ()


def wait(undisturbed: Undisturbed, build: Running, output: Path, chance: random.Random) -> None:
    """Until a random time, a random number of files, or the first sign of a random step; for a moment more or less."""
    kind = chance.choice(["time", "files", "step"])
    if kind == "time":
        build.process.join(chance.uniform(0, undisturbed.seconds))
        return
    files, step = chance.randint(1, undisturbed.written), chance.choice(STEPS[1:])
    if kind == "files":
        build.wait_until(lambda: len(names_below(output)) >= files)
    else:
        build.wait_until(lambda: step_of(names_below(output)) == step)
    build.process.join(chance.choice([0, 0, 0.002, 0.01]))


def kill_and_resume(undisturbed: Undisturbed, folder: Path, chance: random.Random) -> list[str]:
    """Kill a build one to three times, then let it end; returns the steps it died in."""
    output, deaths = folder / "out", list[str]()
    had = (0, 0)
    for _ in range(chance.choice([1, 1, 2, 3])):
        build = Running(folder, *undisturbed.command(output, ONE))
        wait(undisturbed, build, output, chance)
        ended = build.kill() if build.process.exitcode is None else build.wait()
        if ended.code == 0:
            break
        assert ended.code == -9, ended.printed
        had = finished_work(names_below(output))
        deaths.append(step_of(names_below(output)))
    ended = Running(folder, *undisturbed.command(output, ONE)).wait()
    if deaths and "nothing to do" not in ended.printed:
        assert reused(ended) >= had, (had, ended.printed)
    assert_recovered(undisturbed, output, ended, folder / "scratch")
    return deaths


@pytest.fixture(autouse=True)
def _own_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `clean` looks for in the scratch folder is what these builds left there."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))


@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_a_killed_build_is_finished_by_the_same_command(
    undisturbed: Undisturbed,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
    kills: int,
) -> None:
    """Killed at random moments of every step and run again: the same bytes, finished work reused, nothing left."""
    deaths: collections.Counter[str] = collections.Counter()
    recovered = number = 0
    while deaths.total() < kills:
        folder = tmp_path / str(number)
        monkeypatch.setattr(tempfile, "tempdir", str(folder / "scratch"))
        deaths.update(kill_and_resume(undisturbed, folder, random.Random(f"kill-{kills}-{number}")))
        recovered, number = recovered + 1, number + 1
    where = ", ".join(f"{deaths[step]} in {step}" for step in STEPS if deaths[step])
    record_property(
        "fault", (f"kill -9, {deaths.total()} times: {where}", "the same bytes", f"{recovered} of {recovered}", 0, 0)
    )
    assert kills < 50 or set(deaths) >= set(STEPS[1:])


# --- worker processes ---


def workers_of(build: Running) -> list[psutil.Process]:
    """The worker processes of a build."""
    return [child for child in build.children() if child.cmdline()[1:2] == ["-m"]]  # not their shells


def block(path: Path) -> None:
    """Whoever commits this name waits for ever: a pipe stands there, and nobody writes to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)


@pytest.mark.parametrize("name", ["README.md", pytest.param("unfiltered/part-00000", marks=pytest.mark.slow)])
def test_a_killed_worker_is_an_error_and_never_a_hang(
    undisturbed: Undisturbed, tmp_path: Path, record_property: Callable[[str, object], None], name: str
) -> None:
    """A worker that dies while it mixes or in the last step: exit code 1 in seconds, with the likely cause."""
    (file,) = (found for found in undisturbed.files if found.startswith(name))
    output = tmp_path / "out"
    block(output / file)
    build = Running(tmp_path, *undisturbed.command(output, TWO))

    before = {"README.md": "manifest.json"}.get(name, "_work/builds")
    assert build.wait_until(lambda: any(before in found for found in names_below(output))), build.log.read_text()
    victims = workers_of(build)
    assert len(victims) == 2
    for victim in victims if name == "README.md" else victims[:1]:
        victim.kill()
    ended = build.wait(20)
    assert ended.code == 1, ended.printed
    assert "a worker process died (out of memory?)" in ended.printed
    assert alive(victims) == []
    (output / file).unlink()
    record_property(
        "fault", (f"a worker is killed at {name}", "exit 1, then the same bytes", "exit 1, the same bytes", 0, 0)
    )
    assert_recovered(
        undisturbed, output, Running(tmp_path, *undisturbed.command(output, ONE)).wait(), tmp_path / "scratch"
    )
