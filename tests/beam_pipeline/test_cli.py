"""The command line: what each command does, one test for every exit code, messages that say what to do."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest

from beam_pipeline import __version__, run
from beam_pipeline.options import LOCAL_RUNNER, beam_options, is_local, worker_count
from classifiers.model import ModelError
from tests import corpora, shards
from tests.corpora import Config
from transforms import annotate, commit, errors, mix
from transforms.errors import BadShard, ConfigError, CounterpoiseError

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")

ARMS: dict[str, Any] = {
    "unfiltered": {},
    "filtered": {"misaligned": "drop", "refill": "random"},
    "dosed": {"misaligned": "divert", "dose": {"share": 0.1}},
}
LOCAL = ("--progress=none", "--direct_num_workers=1")


def config(folder: Path, **changes: Any) -> Config:
    """A configuration with three arms."""
    return corpora.config(folder, **{"arms": ARMS, **changes})


def counterpoise(command: str, folder: Path, values: Config | None = None, *options: str) -> int:
    """Run a command on the configuration in a folder, on one worker in this process."""
    if values is not None:
        corpora.write_config(folder, values)
    return run.main([command, str(folder / corpora.CONFIG), *LOCAL, *options])


def files_below(folder: Path) -> dict[str, bytes]:
    """Every file of an output, the work folder aside."""
    paths = (path for path in folder.rglob("*") if path.is_file() and "_work" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


# --- 0 ---


def test_build_and_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 0: the corpus is there, the tables show it, and verify proves it."""
    assert counterpoise("build", tmp_path, config(corpora.write_web(tmp_path))) == 0
    printed = capsys.readouterr().out
    assert "what each arm holds (amounts in words)" in printed
    assert f"prove it with: counterpoise verify {tmp_path}/out" in " ".join(printed.split())
    assert (tmp_path / "out/_SUCCESS").exists()
    assert run.main(["verify", str(tmp_path / "out"), "--workers", "1"]) == 0
    assert "every sum, checksum and dose agrees with the manifest" in capsys.readouterr().out


def test_a_finished_build_is_not_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 0 at once, with nothing changed."""
    corpora.run_plain(config(corpora.write_web(tmp_path)))
    before = files_below(tmp_path / "out")
    monkeypatch.delattr(beam.Pipeline, "run")
    assert counterpoise("build", tmp_path, config(tmp_path)) == 0
    assert (
        f"{tmp_path}/out is finished, from the same inputs and configuration: nothing to do" in capsys.readouterr().out
    )
    assert files_below(tmp_path / "out") == before


def test_annotate_plan_and_mix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The steps one by one: annotations, then a plan that writes no corpus, then the corpus without any model."""
    values = config(corpora.write_web(tmp_path))
    assert counterpoise("annotate", tmp_path, values) == 0
    monkeypatch.delattr(annotate, "annotate_batch")
    capsys.readouterr()
    assert counterpoise("plan", tmp_path, values, "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert counterpoise("plan", tmp_path, values) == 0
    assert "what each arm would hold" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["_work"]
    assert counterpoise("mix", tmp_path, values) == 0
    manifest = corpora.manifest_of(values)
    for name, arm in manifest["arms"].items():
        planned = plan["arms"][name]
        assert planned["dose"]["got"] == arm["dose"]["got"]
        assert planned["base"] == arm["dose"]["base"]
        assert (planned["files"], planned["diverted_files"]) == (len(arm["files"]), len(arm["diverted_files"]))
        assert planned["terms"]["kept"] == arm["equation"]["web"]["kept"]


def test_overrides(tmp_path: Path) -> None:
    """--set changes one key, and may stand several times."""
    values = config(corpora.write_web(tmp_path))
    options = ("--set", f"output.path={tmp_path}/other", "--set", "arms={only: {misaligned: drop}}")
    assert counterpoise("build", tmp_path, values, *options) == 0
    assert list(json.loads((tmp_path / "other/manifest.json").read_text())["arms"]) == ["only"]


@pytest.mark.parametrize(
    "lost", ["_SUCCESS", "manifest.json", "filtered/part-00000", "dosed/provenance", "groups", "everything"]
)
def test_an_unfinished_build_is_resumed(tmp_path: Path, lost: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever a build had not yet written when it was killed, the same command ends with the same bytes."""
    values = config(corpora.write_web(tmp_path))
    corpora.run_plain(values)
    before = files_below(tmp_path / "out")
    for path in sorted((tmp_path / "out").rglob("*"), reverse=True):
        name = str(path.relative_to(tmp_path / "out"))
        if path.is_file() and name != "_BUILD.json" and (lost in name or name == "_SUCCESS" or lost == "everything"):
            path.unlink()
    assert counterpoise("build", tmp_path, values) == 0
    assert f"going on with the unfinished build in {tmp_path}/out" in capsys.readouterr().out
    assert files_below(tmp_path / "out") == before


def test_a_build_that_failed_halfway_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups that were finished are not written again."""
    values = config(corpora.write_web(tmp_path))
    with monkeypatch.context() as patch:
        patch.delattr(commit, "commit_corpus")
        assert counterpoise("build", tmp_path, values) == 1
    assert not (tmp_path / "out/_SUCCESS").exists()
    monkeypatch.delattr(mix, "_write_files")
    assert counterpoise("build", tmp_path) == 0
    assert run.main(["verify", str(tmp_path / "out"), "--workers=1"]) == 0


# --- 2 ---


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--set", "seeds=7"), "seeds: unknown key; did you mean seed?"),
        (("--set", "sources.0.paths=/nowhere/*.jsonl"), "sources.web.paths: nothing matches /nowhere/*.jsonl"),
        (("--direct_num_worker=1",), "--direct_num_worker=1: neither an option of Counterpoise nor of Beam"),
        (("--runner=DaskRunner",), "--runner DaskRunner: Beam 2.77's Dask runner loses"),
    ],
)
def test_exit_2_configuration(
    tmp_path: Path, options: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2, with the key and the way out, and no traceback."""
    assert counterpoise("build", tmp_path, config(corpora.write_web(tmp_path)), *options) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("counterpoise: ")
    assert says in printed
    assert "Traceback" not in printed


def test_exit_2_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2 where there is no configuration, or it is not text."""
    assert counterpoise("build", tmp_path) == 2
    assert "build.yaml does not exist; `counterpoise demo` writes an example" in capsys.readouterr().err
    (tmp_path / corpora.CONFIG).write_bytes(b"\xff\xfe")
    assert counterpoise("build", tmp_path) == 2
    assert "build.yaml is not UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["plan", "mix"])
def test_exit_2_several_problems(tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line for each problem."""
    values = config(corpora.write_web(tmp_path))
    assert counterpoise(command, tmp_path, values, "--set", "unit=bits", "--set", "seed=x") == 2
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_exit_2_not_annotated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`mix` runs no model: it says which shard has no annotation, and which command makes it."""
    assert counterpoise("mix", tmp_path, config(corpora.write_web(tmp_path))) == 2
    assert "is not annotated with these models and options; run `counterpoise annotate`" in capsys.readouterr().err


def test_exit_2_nothing_to_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Shards without a document are a mistake, not an empty corpus."""
    for folder in ("web", "pool"):
        (tmp_path / folder).mkdir()
    (tmp_path / "web/empty.jsonl").write_bytes(b"\n")
    shards.write_parquet(tmp_path / "web/empty.parquet", [])
    shards.write_jsonl(tmp_path / "pool/a.jsonl", corpora.pool(3))
    assert counterpoise("build", tmp_path, config(tmp_path)) == 2
    assert "sources: not one readable document in all shards" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [[], ["biuld"], ["build"], ["verify", "x", "--nonsense"]])
def test_exit_2_usage(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong words on the command line."""
    with pytest.raises(SystemExit) as error:
        run.main(argv)
    assert error.value.code == 2
    assert "usage: counterpoise" in capsys.readouterr().err


# --- 3 to 8 ---


def test_exit_3_a_bad_shard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 3, with the shard, what is wrong with it and the setting that allows it; then the build goes through."""
    values = config(corpora.write_web(tmp_path))
    data = (tmp_path / "web/1.jsonl.gz").read_bytes()
    (tmp_path / "web/1.jsonl.gz").write_bytes(data[:-5])
    assert counterpoise("build", tmp_path, values) == 3
    printed = capsys.readouterr().err
    assert "1.jsonl.gz: truncated" in printed
    assert "--set limits.bad_shards=1" in printed
    shutil.rmtree(tmp_path / "out")
    assert counterpoise("build", tmp_path, None, "--set", "limits.bad_shards=1") == 0
    assert "left out:" in capsys.readouterr().out


def test_exit_3_bad_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 3, with the reasons."""
    (corpora.write_web(tmp_path) / "web/bad.jsonl").write_bytes(b"{}\n")
    assert counterpoise("build", tmp_path, config(tmp_path)) == 3
    assert "web: 1 × no_text" in capsys.readouterr().err


def test_exit_4_shortfall(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 4 for a dose that the pool does not hold; nothing of the corpus is written."""
    values = config(corpora.write_web(tmp_path), arms={"a": {"dose": {"share": 0.9}}})
    assert counterpoise("build", tmp_path, values) == 4
    assert "arm a: the dose needs" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["_BUILD.json", "_work"]


def test_exit_5_an_output_in_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 5 for another build in the output, and for any other file in it."""
    corpora.checked(config(corpora.write_web(tmp_path)))
    assert counterpoise("build", tmp_path, config(tmp_path), "--set", "seed=8") == 5
    assert "belongs to another build (differs in config_sha256)" in capsys.readouterr().err
    (tmp_path / "out/_BUILD.json").rename(tmp_path / "out/mine")
    assert counterpoise("build", tmp_path) == 5
    assert "is not empty" in capsys.readouterr().err


def test_exit_5_a_changed_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 5 where a shard is replaced between annotation and mix."""
    values = config(corpora.write_web(tmp_path))
    real = mix.mix_group

    def then_mix(*args: Any) -> Any:
        shards.write_jsonl(tmp_path / "web/0.jsonl", corpora.documents(3, 4))
        return real(*args)

    monkeypatch.setattr(mix, "mix_group", then_mix)
    assert counterpoise("build", tmp_path, values) == 5
    assert "0.jsonl" in capsys.readouterr().err


def test_exit_5_nothing_to_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 5 for a folder that is no finished corpus."""
    assert run.main(["verify", str(tmp_path)]) == 5
    assert "has no _SUCCESS" in capsys.readouterr().err


def test_exit_6_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 6 for a corpus that does not agree with its manifest."""
    corpora.run_plain(config(corpora.write_web(tmp_path)))
    next((tmp_path / "out/filtered").glob("part-*")).write_bytes(b"")
    assert run.main(["verify", str(tmp_path / "out"), "--workers=1"]) == 6
    assert "sha256 or size is not the manifest's" in capsys.readouterr().err


def test_exit_6_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 6 where the books do not close, and no `_SUCCESS`."""
    monkeypatch.setattr(commit, "files_of", lambda *_: [])
    assert counterpoise("build", tmp_path, config(corpora.write_web(tmp_path))) == 6
    assert "the equation does not close" in capsys.readouterr().err
    assert not (tmp_path / "out/_SUCCESS").exists()


def test_exit_8_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 8 for a model that cannot be read."""
    values = config(corpora.write_web(tmp_path))
    assert counterpoise("build", tmp_path, values, "--set", f"stance.model={tmp_path}/none.bin") == 8
    assert "none.bin" in capsys.readouterr().err


# --- 1, 130, 143 ---


def test_exit_1_a_bug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 1 with the traceback, for anything that nobody foresaw, also in a worker."""
    values = config(corpora.write_web(tmp_path))
    monkeypatch.delattr(mix, "mix_group")
    assert counterpoise("build", tmp_path, values) == 1
    printed = capsys.readouterr().err
    assert "NameError" in printed
    assert printed.endswith("counterpoise: this is a bug; please report it with the lines above\n")


def test_debug_shows_the_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --debug a known error has its traceback too."""
    assert counterpoise("build", tmp_path, None, "--debug") == 2
    printed = capsys.readouterr().err
    assert "Traceback" in printed
    assert "counterpoise: " in printed


def test_exit_130_and_143_interrupted(tmp_path: Path) -> None:
    """SIGINT and SIGTERM end the process at once and say how to go on."""
    path = corpora.write_config(tmp_path, config(corpora.write_web(tmp_path)))
    code = (
        "import sys, time; from beam_pipeline import commands, run\n"
        "def wait(*_, **__): print('ready', flush=True); time.sleep(100)\n"
        f"commands.execute = wait; sys.exit(run.main(['build', {path!r}]))"
    )
    root = str(Path(run.__file__).parents[1])
    started = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=root)
        for _ in range(2)
    ]
    for process, number in zip(started, (signal.SIGINT, signal.SIGTERM), strict=True):
        with process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline() == b"ready\n"
            process.send_signal(number)
            assert process.wait(30) == 128 + number
            assert b"interrupted; the same command goes on where it stopped" in process.stderr.read()


# --- errors out of workers ---


def kinds() -> list[type[Exception]]:
    """All errors that a user is meant to read."""
    found = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, CounterpoiseError)]
    return [*found, ModelError]


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_errors_of_workers_keep_their_code(kind: type[Any]) -> None:
    """Runners turn errors of workers into the text of a RuntimeError; code and message are found in it."""
    error = (
        kind("corrupt", 5, "crc")
        if kind is BadShard
        else kind(["a: 1", "b: 2"])
        if kind is ConfigError
        else kind("a\nb")
    )
    last = f"{kind.__module__}.{kind.__name__}: {error} [while running 'Mix/Mix']"
    text = f"Traceback (most recent call last):\n  File x\n{last}\n"
    again = f"{text}\nDuring handling of the above exception, another exception occurred:\n\n{text}"
    for found in (run.known_error(RuntimeError(text)), run.known_error(RuntimeError(again)), run.known_error(error)):
        assert found == (error.exit_code, str(error))


def test_a_worker_that_died() -> None:
    """A killed worker process is no bug: the message says what to try."""
    found = run.known_error(RuntimeError("Channel closed prematurely."))
    assert found is not None
    assert (found[0], "fewer --direct_num_workers" in found[1]) == (1, True)
    assert run.known_error(RuntimeError("list index out of range")) is None


def test_exit_codes_are_those_of_the_reference() -> None:
    """The table of the documentation."""
    codes = {kind.__name__: kind.exit_code for kind in kinds()}  # type: ignore[attr-defined]
    assert codes == {
        "CounterpoiseError": 1, "ConfigError": 2, "InputError": 3, "BadShard": 3, "MixShortfall": 4, "StorageError": 5,
        "OutputConflict": 5, "InputChanged": 5, "Unaccounted": 6, "DriftExceeded": 7, "ModelError": 8,
    }  # fmt: skip


# --- options ---


@pytest.mark.parametrize(
    ("argv", "workers", "mode"),
    [
        (["--direct_num_workers=1"], 1, "in_memory"),
        (["--direct_num_workers=3"], 3, "multi_processing"),
        (["--direct_num_workers=3", "--direct_running_mode=multi_threading"], 3, "multi_threading"),
        (["--runner=DirectRunner", "--direct_num_workers=1"], 1, "in_memory"),
    ],
)
def test_local_runner(argv: list[str], workers: int, mode: str) -> None:
    """The local runner is named, so that nothing is downloaded; its workers are processes unless there is one."""
    options = beam_options(argv)
    everything = options.get_all_options()
    assert is_local(options)
    assert (everything["runner"], worker_count(options), everything["direct_running_mode"]) == (
        LOCAL_RUNNER,
        workers,
        mode,
    )


def test_other_runners_pass() -> None:
    """What Beam takes goes to Beam unchanged."""
    options = beam_options(
        ["--runner=DataflowRunner", "--project=p", "--region=r", "--temp_location=gs://b/t", "--num_workers=5"]
    )
    everything = options.get_all_options()
    assert not is_local(options)
    assert [everything[k] for k in ("runner", "project", "region", "num_workers")] == ["DataflowRunner", "p", "r", 5]


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    """The words that every user tries first."""
    for argv, says in ((["--version"], __version__), (["--help"], "exit"), (["build", "--help"], "example:")):
        with pytest.raises(SystemExit) as error:
            run.main(argv)
        assert error.value.code == 0
        assert says in capsys.readouterr().out or argv == ["--help"]


def test_an_error_in_a_worker_process_is_one_line(tmp_path: Path) -> None:
    """What a worker raises is told once and without the traceback that Beam's workers print; --debug shows it."""
    values = config(corpora.write_web(tmp_path), arms={"dosed": {"dose": {"share": 0.9}}})
    path = corpora.write_config(tmp_path, values)
    words = [sys.executable, "-m", "beam_pipeline", "plan", path, "--progress=none", "--direct_num_workers=2"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    lines = done.stderr.strip().split("\n")
    assert done.returncode == 4
    assert len(lines) == 1 and lines[0].startswith("counterpoise: arm dosed: the dose needs")
    done = subprocess.run([*words, "--debug"], capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert "Traceback" in done.stderr
