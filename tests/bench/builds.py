"""Whole builds as users start them: against datatrove, on one and two workers, over more and more shards."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from classifiers.fasttext_model import FastTextModel, offsets_of
from classifiers.model import find_language_model
from tests.bench import clock, corpus, steps
from tests.bench.clock import Used, median_ratio
from tests.bench.corpus import CACHE, ROOT, Corpus, megabytes
from tests.bench.table import Row

DATATROVE: Final = ("datatrove[io,processing]>=0.9,<1", "fsspec[http]")  # its language filter wants the latter
_VENV: Final = CACHE / "venv-datatrove"
_ENVIRONMENT: Final = {
    **{name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ},
    "HF_HOME": str(CACHE / "datatrove-home"),
    "HF_HUB_OFFLINE": "1",
}
_WHERE: Final = """
import os
from datatrove.io import cached_assets_path, strip_protocol
from datatrove.utils.lid import FT176LID as lid
folder = cached_assets_path(library_name="datatrove", namespace="lid", subfolder=lid.MODEL_SUBFOLDER)
print(os.path.join(folder, strip_protocol(lid.MODEL_URL).replace("/", "_")))
"""
_STANCE: Final = ROOT / "classifiers" / "models" / "stance.ftz"
_IN_MEMORY: Final = ("--direct_running_mode", "in_memory", "--direct_num_workers", "1")


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder for one run: under the cache, so that the output lies on the same disk as the input."""
    CACHE.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=CACHE))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def build(
    shards: Sequence[Path], arms: Mapping[str, Any], output_format: str, *, times: int = 1,
    options: Sequence[str] = _IN_MEMORY, file_size: str = "512MiB",
) -> Used:  # fmt: skip
    """`counterpoise build` over the shards, each `times` times, in a fresh process and a fresh folder."""
    with _folder() as folder:
        corpus.linked(shards, folder / "in", times)
        (folder / "build.yaml").write_text(
            steps.config(f"{folder}/in/*", folder / "out", arms, output_format, file_size), encoding="utf-8"
        )
        command = [sys.executable, "-m", "beam_pipeline", "build", str(folder / "build.yaml"), "--progress", "none"]
        return clock.run([*command, *options], folder / "log", cwd=ROOT)


# --- datatrove ---


def datatrove_python() -> Path | None:
    """The Python of an environment with datatrove and the lid model where datatrove looks; None where pip fails."""
    python = _VENV / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(_VENV)], check=True)
        made = subprocess.run([python, "-m", "pip", "install", "--quiet", *DATATROVE], check=False)
        if made.returncode:
            shutil.rmtree(_VENV)
            return None
    # It asks for the .bin; fastText looks at what is in a file, not at its name. Both tools get the same weights.
    asked = subprocess.run([python, "-c", _WHERE], env=_ENVIRONMENT, check=True, capture_output=True, text=True)
    place = Path(asked.stdout.strip())
    if not place.exists():
        shutil.copy(find_language_model(None).path, place)
        place.with_name(place.name + ".completed").touch()
    return python


def predict(found: Corpus, rounds: int) -> list[Row]:
    """fastText's own predict, as two distributions have it, against the kernel on lid.176; and whether labels agree."""
    section = "fastText's predict against the kernel: lid.176, no cut of the text"
    path, (shard, *others) = find_language_model(None).path, found.shards("jsonl.zst")
    column, other = corpus.texts([shard]), corpus.texts(others[:1])
    environments = {"fasttext-community": Path(sys.executable), "fasttext-numpy2-wheel": datatrove_python()}
    taken: dict[str, list[float]] = {}
    labels: dict[str, list[str]] = {}
    for _ in range(rounds):
        model = FastTextModel.load(path)
        model.predict_top(*offsets_of(other))  # its memory knows words as it does within a crawl, not this very text
        before = time.process_time()
        model.predict_top(*offsets_of(column))
        taken.setdefault("kernel", []).append(time.process_time() - before)
        for name, python in environments.items():
            if python is not None:
                job = [python, ROOT / "tests" / "bench" / "fasttext_job.py", path, shard]
                result = json.loads(subprocess.run(job, check=True, capture_output=True, text=True).stdout)
                taken.setdefault(f"{name}: predict(list of texts)", []).append(result["list"])
                taken.setdefault(f"{name}: predict(text, k=-1)", []).append(result["single"])
                labels[name] = result["labels"]
    ours = [model.labels[i] for i in model.predict_top(*offsets_of(column))[0].tolist()]
    same = ", ".join(f"{sum(map(str.__eq__, ours, found))} of {len(ours)} of {name}" for name, found in labels.items())
    mb = corpus.text_bytes(shard) / 1e6
    return [
        Row(section, name, mb / statistics.median(seconds), "",
            "" if name == "kernel" else f"kernel {median_ratio(taken['kernel'], seconds):.1f} ×",
            f"labels identical: {same}" if name == "kernel" else "", seconds)
        for name, seconds in taken.items()
    ]  # fmt: skip


def datatrove(python: Path, shards: Sequence[Path], codec: str) -> Used:
    """datatrove over the shards, in a fresh process and a fresh folder."""
    with _folder() as folder:
        corpus.linked(shards, folder / "in")
        model = folder / "stance.ftz"
        shutil.copy(_STANCE, model)
        script = ROOT / "tests" / "bench" / "datatrove_job.py"
        job: list[str | Path] = [python, script, folder / "in", folder / "out", codec, model]
        return clock.run([*job, ",".join(steps.LANGUAGES)], folder / "log", env=_ENVIRONMENT, cwd=folder)


def _tiny(shards: Sequence[Path], kind: str) -> list[Path]:
    """A shard with the first ten documents: what a run takes before it begins to work."""
    folder = CACHE / "tiny"
    if not (folder / kind).is_dir():
        docs = [(name, text) for name, text, _ in corpus.documents(shards[:1])][:10]
        shutil.rmtree(folder, ignore_errors=True)
        corpus.write(docs, folder, 1, ["jsonl.zst", "jsonl.gz"])
    return sorted((folder / kind).glob("*"))


def against_datatrove(
    found: Corpus, number: int, rounds: int, kinds: Sequence[str] = ("jsonl.gz", "jsonl.zst")
) -> list[Row]:
    """Language filter, stance filter, sampling, writing: in turns, one process each, CPU time without start-up.

    datatrove gets the first `number` shards, we all of them: what is left of our time without start-up would be too
    short to measure on what takes datatrove ten seconds.
    """
    section = f"whole build against datatrove: {found.name}, one worker, start-up taken off"
    python = datatrove_python()
    if python is None:
        return [Row(section, f"datatrove cannot be installed: pip install {' '.join(DATATROVE)}")]
    rows: list[Row] = []
    for kind in kinds:
        rows += _in_turns(python, found, kind, number, rounds, section)
    return rows


def _in_turns(python: Path, found: Corpus, kind: str, number: int, rounds: int, section: str) -> list[Row]:
    runs: dict[str, Callable[[Sequence[Path]], Used]] = {
        "datatrove": lambda paths: datatrove(python, paths[:number], kind.removeprefix("jsonl.")),
        "counterpoise, one arm": lambda paths: build(paths, steps.ONE_ARM, kind),
        "counterpoise, three arms": lambda paths: build(paths, steps.THREE_ARMS, kind),
    }
    shards, tiny, every = found.shards(kind), _tiny(found.shards("jsonl.zst"), kind), found.shards("jsonl.zst")
    mb = {name: megabytes(every[:number] if name == "datatrove" else every) for name in runs}
    begun, used = ({name: list[Used]() for name in runs} for _ in range(2))
    for action in runs.values():  # compiled code and the disk's cache are there from then on
        action(tiny)
    for _ in range(rounds):
        for name, action in runs.items():
            begun[name].append(action(tiny))
            used[name].append(action(shards))
    start = {name: statistics.median(run.cpu for run in each) for name, each in begun.items()}
    net = {name: [(run.cpu - start[name]) / mb[name] for run in each] for name, each in used.items()}
    return [
        Row(section, f"{name}, {kind} to {kind}", 1 / statistics.median(net[name]), "",
            "" if name == "datatrove" else f"{median_ratio(net[name], net['datatrove']):.1f} × datatrove",
            f"start-up {start[name]:.1f} s of CPU, peak {max(run.rss for run in used[name]) / 1e6:.0f} MB", net[name])
        for name in runs
    ]  # fmt: skip


# --- workers, shards, memory ---


def scaling(found: Corpus, times: int, rounds: int) -> list[Row]:
    """One worker process against two, over the corpus repeated until start-up does not dominate."""
    section = f"worker processes: {found.name} × {times}"
    shards, tiny = found.shards("jsonl.zst"), _tiny(found.shards("jsonl.zst"), "jsonl.zst")
    mb = megabytes(shards) * times
    used: dict[int, list[tuple[Used, Used]]] = {1: [], 2: []}

    def start(paths: Sequence[Path], workers: int, repeated: int) -> Used:
        options = ("--direct_running_mode", "multi_processing", "--direct_num_workers", str(workers))
        return build(paths, steps.THREE_ARMS, "jsonl.zst", times=repeated, options=options, file_size="32MiB")

    start(tiny, 1, 1)  # compiles, if nothing did
    for _ in range(rounds):
        for workers, pairs in used.items():
            pairs.append((start(tiny, workers, 1), start(shards, workers, times)))
    rows = []
    for workers, pairs in used.items():
        wall, idle = [w.wall - s.wall for s, w in pairs], [w.busiest - s.busiest for s, w in pairs]
        begin, cpu = statistics.median(s.wall for s, _ in pairs), statistics.median(w.cpu - s.cpu for s, w in pairs)
        peaks = ", ".join(f"{rss / 1e6:.0f}" for rss in max(pairs, key=lambda pair: pair[1].rss)[1].workers)
        rows.append(Row(section, f"{workers} worker(s)", mb / cpu, f"{statistics.median(wall):.1f} s wall", "",
                        f"start-up {begin:.1f} s; busiest {statistics.median(idle):.1f} s of CPU; peaks {peaks} MB",
                        wall))  # fmt: skip
    first, second = ([(w.wall - s.wall, w.busiest - s.busiest) for s, w in used[n]] for n in (1, 2))
    by_wall = statistics.median(a[0] / b[0] for a, b in zip(first, second, strict=True))
    by_cpu = statistics.median(a[1] / b[1] for a, b in zip(first, second, strict=True))
    rows.append(Row(section, "1 → 2", None, f"{by_wall:.2f} × wall", f"{by_cpu:.2f} × by the busiest process's CPU",
                    "wall counts all that runs on the machine; the busiest's CPU is wall on an idle one"))  # fmt: skip
    return rows


def shard_counts(found: Corpus, counts: Sequence[int], rounds: int) -> list[Row]:
    """Time against the number of shards of one size."""
    section = f"number of shards of equal size: {found.name}, one worker, one arm"
    every = corpus.small_shards(found, max(counts))
    taken: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(rounds):
        for count in counts:
            taken[count].append(build(every[:count], steps.ONE_ARM, "jsonl.zst").cpu)
    first, last = min(counts), max(counts)
    middle = {count: statistics.median(seconds) for count, seconds in taken.items()}
    each = (middle[last] - middle[first]) / (last - first)
    return [
        Row(section, f"{count} shards", None, f"{middle[count]:.2f} s of CPU",
            f"{middle[count] / (middle[first] + each * (count - first)) - 1:+.0%} of a straight line",
            f"{megabytes(every[:count]):.1f} MB of text", taken[count])
        for count in counts
    ]  # fmt: skip


def memory(found: Corpus) -> list[Row]:
    """Peak memory of one build in one process."""
    shards = found.shards("jsonl.zst")
    used = build(shards, steps.THREE_ARMS, "jsonl.zst")
    text = f"{megabytes(shards):.0f} MB of text, three arms"
    return [Row("peak memory of one process", found.name, None, f"{used.rss / 1e6:.0f} MB", "", text)]
