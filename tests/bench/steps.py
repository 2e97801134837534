"""A build's receipts, census, plan and groups, made with the steps' own functions and without Beam."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from beam_pipeline import preflight
from beam_pipeline.config import load_config
from beam_pipeline.pipeline import Build
from tests.bench.corpus import SAMPLE
from transforms.annotate import annotate_slice
from transforms.annotation import Receipt
from transforms.arms import DECISION_COLUMNS, find_candidates, key_of_slice, settle_all, targets_of
from transforms.census import CENSUS_COLUMNS, Census, Rules, count_scores, load, settle_rules, take_census
from transforms.find import cut_shard, list_all
from transforms.layout import Group, take_inventory
from transforms.plan import Plan, make_plan
from transforms.schema import Slice

ONE_ARM: Final[Mapping[str, Any]] = {"filtered": {"misaligned": "drop"}}
THREE_ARMS: Final[Mapping[str, Any]] = {
    "unfiltered": {},
    "filtered": {"misaligned": "drop", "refill": "random"},
    "counterpoised": {"misaligned": {"keep": 0.25}, "dose": {"share": 0.001, "of": "output"}, "max_repeats": 1000},
}
LANGUAGES: Final = ["en", "de", "fr", "es", "it", "nl", "pl", "pt", "ru", "ja", "zh", "ko", "sv", "tr", "hu", "cs",
                    "fi", "el", "hi", "vi"]  # fmt: skip
"""All of the corpus, so that nearly all of it is written again."""


def config(
    web: str, output: Path, arms: Mapping[str, Any], output_format: str = "jsonl.zst", file_size: str = "512MiB"
) -> str:
    """The YAML of a build over the shards at `web` (a glob)."""
    values = {
        "name": "bench",
        "seed": 7,
        "sources": [{"name": "web", "paths": web}],
        "pool": [{"name": "stories", "paths": str(SAMPLE / "pool.jsonl")}],
        "language": {"keep": LANGUAGES, "min_score": 0.65},
        "unit": "bytes",
        "arms": dict(arms),
        "output": {"path": str(output), "format": output_format, "target_file_size": file_size},
    }
    if not any("dose" in arm for arm in arms.values()):
        del values["pool"]
    return yaml.safe_dump(values, sort_keys=False)


class Prepared(NamedTuple):
    """A build up to the mix."""

    job: Build
    parts: Sequence[Slice]
    receipts: Sequence[Receipt]
    rules: Rules
    census: Census
    plan: Plan
    groups: Sequence[Group]


def job_of(text: str) -> tuple[Build, list[Slice]]:
    """The checked build of a configuration and the slices of its input."""
    job = preflight.check(load_config(text)).job
    return job, [part for shard in list_all(job.listings) for part in cut_shard(*shard)]


def annotate(job: Build, parts: Sequence[Slice], work: str) -> list[Receipt]:
    """Annotate every slice."""
    return [annotate_slice(part, job.sources[part.source_index], job.annotators, work)[0] for part in parts]


def count(job: Build, receipts: Sequence[Receipt]) -> tuple[Rules, Census]:
    """The settled rules and the census."""
    base = [r for r in receipts if not job.sources[r.part.source_index].is_pool]
    scores = [count_scores(load(r, ["language", "language_score", "misaligned"]), job.rules) for r in base]
    rules, census = settle_rules(job.rules, sum(scores[1:], start=scores[0])), Census()
    for receipt in receipts:
        census = census + take_census(
            receipt, load(receipt, CENSUS_COLUMNS), rules, unit=job.recipe.unit, seed=job.recipe.seed,
            is_pool=job.sources[receipt.part.source_index].is_pool,
        )  # fmt: skip
    return rules, census


def plan(job: Build, receipts: Sequence[Receipt], rules: Rules, census: Census) -> tuple[Plan, list[Group]]:
    """Candidates, cuts, inventories and the plan."""
    unit, seed, size = job.recipe.unit, job.recipe.seed, job.recipe.target_file_size
    base = [r for r in receipts if not job.sources[r.part.source_index].is_pool]
    targets = [targets_of(arm, census, unit) for arm in job.recipe.arms]
    read = functools.partial(load, columns=list(DECISION_COLUMNS))
    found = [
        c for r in base for c in find_candidates(read(r), key_of_slice(r.part), targets, rules, unit=unit, seed=seed)
    ]
    cuts = settle_all(targets, found)
    inventories = [take_inventory(r, read(r), cuts, rules, unit=unit, seed=seed, target=size) for r in base]
    pool = [r for r in receipts if job.sources[r.part.source_index].is_pool]
    return make_plan(job.recipe, job.sources, rules, cuts, inventories, pool)


def prepare(text: str) -> Prepared:
    """Everything up to the mix."""
    job, parts = job_of(text)
    receipts = annotate(job, parts, job.work)
    rules, census = count(job, receipts)
    return Prepared(job, parts, receipts, rules, census, *plan(job, receipts, rules, census))
