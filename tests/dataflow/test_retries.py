"""Retries, twins, orders, bundle sizes and serialisation: the bytes of the corpus stay what they are."""

import concurrent.futures
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest

from beam_pipeline.dated import Promotion
from beam_pipeline.drift import DriftLimits
from beam_pipeline.options import beam_options
from beam_pipeline.pipeline import build
from tests import corpora, shards
from tests.dataflow.unkind import Unkind, processes

DAY = "2026-11-24"
ARMS: dict[str, Any] = {
    "unfiltered": {},
    "filtered": {"misaligned": "drop", "refill": "random"},
    "apart": {"misaligned": "divert"},
    "counterpoised": {"misaligned": {"keep": 0.3}, "dose": {"share": 0.1}, "max_repeats": 9},
}


@pytest.fixture(scope="module")
def pool() -> Iterator[concurrent.futures.Executor]:
    """The processes of the attempts."""
    with processes() as executor:
        yield executor


def corpus_of(folder: Path) -> dict[str, bytes]:
    """Every file of an output, by name."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def values_of(folder: Path, name: str, arms: dict[str, Any], output: str) -> corpora.Config:
    """A build whose output and work folder are its own."""
    place = {"path": f"{folder}/{name}", "format": output, "target_file_size": 2000}
    return corpora.config(folder, arms=arms, output=place, work=f"{folder}/work-{name}", limits={"bad_records": 0.5})


CASES = [(0, "jsonl.zst"), (1, "parquet")]
MORE = [
    pytest.param(seed, form, marks=pytest.mark.slow) for seed, form in ((2, "jsonl"), (3, "jsonl.gz"), (4, "parquet"))
]


@pytest.mark.parametrize(("seed", "output"), [*CASES, *MORE])
def test_retries_change_nothing(tmp_path: Path, pool: concurrent.futures.Executor, seed: int, output: str) -> None:
    """A build by an unkind runner is byte for byte the build of a plain loop; every unkindness did happen."""
    corpora.write_web(tmp_path, count=80, seed=seed)
    (tmp_path / "web/bad.jsonl").write_bytes(b'{"id": "x"}\n' + shards.jsonl_bytes(corpora.documents(5, prefix="z")))
    shards.write_parquet(tmp_path / "web/4.parquet", corpora.documents(20, prefix="q"), row_group=5)
    corpora.run_steps(corpora.checked(values_of(tmp_path, "plain", ARMS, output)).job)
    expected = corpus_of(tmp_path / "plain")
    assert "_SUCCESS" in expected and len(expected) > 20

    root = beam.Pipeline(options=beam_options(["--direct_num_workers=1"]))
    job = corpora.checked(values_of(tmp_path, "unkind", ARMS, output)).job
    pointer = tmp_path / "latest.json"
    build(root, job._replace(promotion=Promotion(str(pointer), "test", DAY, job.settings.output, DriftLimits())))
    runner = Unkind(seed, pool)
    runner.run(root)
    found = corpus_of(tmp_path / "unkind")

    assert sorted(found) == sorted(expected)
    assert json.loads(pointer.read_text())["date"] == DAY
    assert [name for name in expected if found[name] != expected[name]] == []
    assert runner.tally["deaths"] >= 10 and runner.tally["twins"] >= 10, runner.tally
    assert runner.tally["attempts"] > 1.5 * runner.tally["bundles"]
