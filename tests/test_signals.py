"""A build that stands still says why, and one that is told to stop stops, with everything it started."""

import io
import json
import os
import signal
import time
from pathlib import Path

import pytest

from beam_pipeline.progress import Progress
from tests import corpora
from tests.killing import Running, alive, names_below
from transforms.heartbeat import VARIABLE


def beat(folder: Path, pid: int, **totals: int) -> None:
    """A worker's sign of life."""
    doing = {"step": "annotate", "what": "gs://corpus/7.jsonl.gz", "since": f"{time.time() - 90:.0f}"}
    (folder / f"{pid}.json").write_text(json.dumps({"pid": pid, "totals": totals, "doing": doing}))


@pytest.mark.parametrize("mode", ["plain", "json", "none", "live"])
def test_a_build_without_progress_says_what_each_worker_does(tmp_path: Path, mode: str) -> None:
    """After so many seconds without any change: which worker, which step, which shard, since when; and who is gone."""
    stream = io.StringIO()
    beat(tmp_path, os.getpid(), documents=5)
    beat(tmp_path, 1 << 22, documents=5)  # above the highest process number there is
    with Progress(str(tmp_path), 1, 1, mode, stream, stalled=0.1):  # type: ignore[arg-type]
        ends = time.monotonic() + 20
        while "is gone" not in stream.getvalue() and time.monotonic() < ends:
            time.sleep(0.02)
    said = " ".join(stream.getvalue().split())
    assert "no progress for 0 s: worker" in said
    assert f"worker {os.getpid()}: annotate gs://corpus/7.jsonl.gz for 9" in said
    assert f"worker {1 << 22} (this process is gone): annotate" in said


def test_a_build_with_progress_is_not_called_stalled(tmp_path: Path) -> None:
    """As long as any total changes, nothing is said."""
    stream = io.StringIO()
    with Progress(str(tmp_path), 1, 1, "none", stream, stalled=0.5):
        for number in range(40):
            beat(tmp_path, os.getpid(), documents=number)
            time.sleep(0.02)
    assert stream.getvalue() == ""
    assert VARIABLE not in os.environ


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_signal_ends_a_hung_build_at_once(tmp_path: Path, number: signal.Signals, workers: int) -> None:
    """SIGINT gives 130 and SIGTERM 143 within a second or two, no process is left, and the output is free again."""
    folder = corpora.write_web(tmp_path / "input", 12)
    config = corpora.write_config(folder, corpora.config(folder))
    output = folder / "out"
    output.mkdir()
    os.mkfifo(output / "README.md")  # whoever commits this name waits for ever
    build = Running(tmp_path, "build", config, f"--direct_num_workers={workers}", "--progress=none")
    assert build.wait_until((output / "manifest.json").exists), build.log.read_text()
    children = build.children()
    assert len(children) == (4 if workers == 2 else 0)  # each worker and its shell
    sent = time.monotonic()
    ended = build.signal(number)
    seconds = time.monotonic() - sent
    assert ended.code == 128 + number, ended.printed
    assert "interrupted; the same command goes on where it stopped" in ended.printed
    assert alive(children) == []
    assert not {"_OWNER.json", "_SUCCESS"} & names_below(output)
    assert seconds < 5  # a second on a machine that has nothing else to do
