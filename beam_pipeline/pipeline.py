"""The main path: from sources to a committed corpus, as one Beam pipeline."""

from typing import Literal, NamedTuple

import apache_beam as beam

from beam_pipeline.dated import Promotion, promote
from transforms.annotate import AnnotateSlices, Annotators
from transforms.annotation import Receipt
from transforms.census import Limits, Rules, TakeCensus
from transforms.commit import CommitCorpus, CommitInputs, Identity
from transforms.find import FindShards, Listing
from transforms.mix import MixSlices, Settings
from transforms.plan import MakePlan, PlanInputs, Recipe
from transforms.schema import Source

Until = Literal["annotate", "plan", "commit"]


class Build(NamedTuple):
    """All that the steps need, taken out of the configuration.

    `promotion` is for dated builds: what makes a finished one the latest.
    """

    sources: tuple[Source, ...]
    listings: tuple[Listing, ...]
    annotators: Annotators
    rules: Rules
    limits: Limits
    recipe: Recipe
    settings: Settings
    identity: Identity
    work: str
    only_reuse: bool = False
    promotion: Promotion | None = None


def build(root: beam.Pipeline, job: Build, until: Until = "commit") -> None:
    """Assemble one build, or its first steps; nothing runs until the caller runs `root`."""
    unit, seed = job.recipe.unit, job.recipe.seed
    slices = root | "FindShards" >> FindShards(listings=job.listings)
    receipts = slices | "AnnotateSlices" >> AnnotateSlices(
        sources=job.sources, annotators=job.annotators, work=job.work, only_reuse=job.only_reuse
    )
    bad = receipts | "NameBadShards" >> beam.FlatMap(bad_shard)
    counted = (receipts, bad) | "TakeCensus" >> TakeCensus(
        sources=job.sources, rules=job.rules, limits=job.limits, unit=unit, seed=seed
    )
    if until == "annotate":
        return
    planned = PlanInputs(receipts, bad, counted.rules, counted.census) | "MakePlan" >> MakePlan(
        recipe=job.recipe, sources=job.sources
    )
    if until == "plan":
        return
    mixed = (planned.groups, planned.plan) | "MixSlices" >> MixSlices(settings=job.settings)
    committed = CommitInputs(planned.plan, counted.census, receipts, mixed) | "CommitCorpus" >> CommitCorpus(
        identity=job.identity, output=job.settings.output, sources=job.sources
    )
    if job.promotion:
        _ = committed | "PromoteLatest" >> beam.Map(promote, job.promotion)


def bad_shard(receipt: Receipt) -> list[str]:
    """The shard's name if it cannot be read whole; then all its slices are left out."""
    return [receipt.part.shard] if receipt.fault[0] else []
