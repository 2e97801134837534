"""Every number that the mix needs, from counted totals, before a byte of output is written."""

import dataclasses
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.typehints.decorators import no_annotations

from transforms.annotation import PARQUET, Receipt, shard_schema
from transforms.arms import (
    DECISION_COLUMNS,
    Arm,
    Cuts,
    Kind,
    Targets,
    find_candidates,
    key_of_slice,
    settle_all,
    targets_of,
)
from transforms.census import Census, Rules, load
from transforms.dose import Dose, Quotas, choose, dose_target, interval_of, load_pool, schedule, strata_of
from transforms.errors import ConfigError
from transforms.layout import (
    Group,
    Inventory,
    Stream,
    Terms,
    give_apart,
    give_out,
    lay_out,
    streams_of,
    take_inventory,
    with_totals,
)
from transforms.schema import CONVERTED, UNITS, Form, Format, Source
from transforms.select import Candidate
from transforms.storage import join, store_for

SCHEDULE_ROWS: Final = 1 << 14  # rows of a row group, so that an output file reads little more than its own


class Recipe(NamedTuple):
    """What the plan is made by: the configuration's share in it.

    Attributes:
      unit: The build's unit of amount.
      seed: Of every keyed hash.
      arms: In the order of the configuration.
      quotas: By pool name.
      target_file_size: Uncompressed bytes.
      output_format: "jsonl", "jsonl.gz", "jsonl.zst" or "parquet".
      folder: Where plan and schedules are kept, one folder a build.
    """

    unit: str
    seed: int
    arms: tuple[Arm, ...]
    quotas: Quotas
    target_file_size: int
    output_format: str
    folder: str


class ArmPlan(NamedTuple):
    """One arm's numbers, amounts in the build's unit.

    Attributes:
      base: Text of base documents, refill copies included; `discourse` the part of it that is about AI.
      schedule: URL of the schedule of synthetic documents, or "".
      files: Output files, and `diverted_files`.
      terms: The equation's terms by source index.
    """

    cuts: Cuts
    base: int
    discourse: int
    dose: Dose
    schedule: str
    files: int
    diverted_files: int
    terms: Mapping[int, Terms]


class Plan(NamedTuple):
    """All that a mixing worker must know besides its group.

    Attributes:
      form: How base records are written: "lines" (JSON lines), "rows" (the Parquet columns of the source) or
        "converted" (id, text, metadata).
      columns: Serialised Arrow schema of the output for "rows" and "converted", and for "lines" that are all converted
        because no input has lines; else empty.
      with_id: Whether any base document has an id; synthetic records have one only then.
    """

    rules: Rules
    unit: str
    seed: int
    target_file_size: int
    form: Form
    columns: bytes
    with_id: bool
    arms: tuple[ArmPlan, ...]
    groups: int

    def arm(self, name: str) -> ArmPlan:
        """The plan of the arm of that name."""
        return next(a for a in self.arms if a.cuts.arm.name == name)


def make_plan(
    recipe: Recipe,
    sources: Sequence[Source],
    rules: Rules,
    cuts: Sequence[Cuts],
    inventories: Sequence[Inventory],
    pool_receipts: Sequence[Receipt],
    terms: "TermsByArm | None" = None,
) -> tuple[Plan, list[Group]]:
    """Put the layout, the doses and the schedules together; writes the schedules.

    `terms` are those of the inventories, where these were summed before.

    Raises:
      MixShortfall: A dose cannot be met.
      ConfigError: Parquet shards whose columns do not fit together are to be written as Parquet.
    """
    terms = sum_terms(map(terms_of, inventories)) if terms is None else terms
    groups = lay_out(inventories, streams_of(cuts), recipe.target_file_size)
    pool = load_pool(pool_receipts, sources)
    strata = list(strata_of(pool, recipe.quotas, recipe.unit))
    arms = []
    for cut in cuts:
        stream = Stream(cut.arm.name, diverted=False)
        parts = [p for g in groups for p in g.parts if p.stream == stream]
        base, discourse = sum(p.base.amount for p in parts), sum(p.base.discourse for p in parts)
        dose, url = Dose(), ""
        if cut.arm.has_dose:
            target = dose_target(cut.arm, base, discourse)
            rows, copies, dose = choose(pool, target, strata, cut.arm, unit=recipe.unit, seed=recipe.seed)
            table = schedule(pool, rows, copies, interval_of(cut.arm, base), unit=recipe.unit, seed=recipe.seed)
            url = _write_schedule(recipe, cut.arm, table)
            if cut.arm.placement == "separate":
                groups = give_apart(groups, stream, table.column("bytes").to_numpy(), recipe.target_file_size)
            else:
                groups = give_out(groups, stream, table.column("place").to_numpy())
        arms.append(ArmPlan(cut, base, discourse, dose, url, 0, 0, _of_arm(terms, cut.arm.name)))
    groups = with_totals(groups)
    receipts = [i.receipt for i in inventories]
    form, columns = _form(recipe.output_format, receipts)
    plan = Plan(
        rules, recipe.unit, recipe.seed, recipe.target_file_size, form, columns,
        any(r.with_id for r in receipts), tuple(_with_files(a, groups) for a in arms), len(groups),
    )  # fmt: skip
    return plan, groups


def _with_files(arm: ArmPlan, groups: Sequence[Group]) -> ArmPlan:
    streams = [p.stream for g in groups for p in g.parts if p.stream.arm == arm.cuts.arm.name]
    diverted = sum(s.diverted for s in streams)
    return arm._replace(files=len(streams) - diverted, diverted_files=diverted)


TermsByArm = Mapping[tuple[str, int], Terms]
"""The equation's terms by arm and source index."""


def terms_of(inventory: Inventory) -> TermsByArm:
    """What one slice adds to the terms."""
    index = inventory.receipt.part.source_index
    return {(arm, index): terms for arm, terms in inventory.terms.items()}


def sum_terms(added: Iterable[TermsByArm]) -> TermsByArm:
    """Terms of any number of slices, in any order and grouping."""
    total: dict[tuple[str, int], Terms] = {}
    for each in added:
        for key, terms in each.items():
            total[key] = total.get(key, Terms()) + terms
    return total


def _of_arm(terms: TermsByArm, arm: str) -> dict[int, Terms]:
    return {index: found for (name, index), found in sorted(terms.items()) if name == arm}


def _without_terms(inventory: Inventory) -> Inventory:
    """The terms are 60 % of an inventory: summed on the way, a crawl's million slices take 2 GB less in the plan."""
    return inventory._replace(terms={})


def _write_schedule(recipe: Recipe, arm: Arm, table: pa.Table) -> str:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=SCHEDULE_ROWS, **{**PARQUET, "use_dictionary": False})
    url = join(recipe.folder, f"schedule-{arm.name}.parquet")
    store_for(url).create_bytes(url, buffer.getvalue())
    return url


def read_schedule(url: str, first: int, last: int) -> pa.Table:
    """Rows [first, last) of a schedule."""
    with store_for(url).open(url) as raw, pq.ParquetFile(raw, page_checksum_verification=True) as file:
        if first == last:
            return file.schema_arrow.empty_table()
        start, stop = first // SCHEDULE_ROWS, (last - 1) // SCHEDULE_ROWS + 1
        table = file.read_row_groups(list(range(start, stop)))
    return table.slice(first - start * SCHEDULE_ROWS, last - first)


def _form(output_format: str, receipts: Sequence[Receipt]) -> tuple[Form, bytes]:
    """How base records are written, and the serialised columns where they are rows."""
    if output_format != "parquet":
        copied = any(r.part.format == Format.JSONL.value for r in receipts)
        return "lines", b"" if copied else CONVERTED.serialize().to_pybytes()
    if any(r.part.format != Format.PARQUET.value for r in receipts) or not receipts:
        return "converted", CONVERTED.serialize().to_pybytes()
    examples = {r.columns: r.part for r in sorted(receipts, key=lambda r: key_of_slice(r.part), reverse=True)}
    schemas = {part.shard: shard_schema(part.shard, part.version) for part in examples.values()}
    try:
        return "rows", pa.unify_schemas(list(schemas.values())).serialize().to_pybytes()
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        shards = ", ".join(schemas)
        way_out = "build them apart, or set output.format: jsonl.zst"
        raise ConfigError([f"sources: the columns of {shards} do not fit together ({error}); {way_out}"]) from error


def summary(plan: Plan, census: Census, sources: Sequence[Source]) -> dict[str, Any]:
    """The plan as plain values, for plan.json and for the table that people read."""
    read = {s.name: dict(zip(UNITS, census.total(source=s.index), strict=True)) for s in sources}
    return {
        "unit": plan.unit,
        "thresholds": dict(plan.rules.thresholds),
        "read": read,
        "dropped_by_language": {
            s.name: dict(zip(UNITS, census.total(source=s.index, eligible=False), strict=True))
            for s in sources
            if not s.is_pool
        },
        "quarantined_records": census.bad,
        "bad_shards": [list(b) for b in sorted(census.bad_shards)],
        "groups": plan.groups,
        "arms": {a.cuts.arm.name: _arm_summary(a) for a in plan.arms},
    }


def _arm_summary(arm: ArmPlan) -> dict[str, Any]:
    total = sum(arm.terms.values(), start=Terms())
    output = arm.base + arm.dose.got
    return {
        "terms": {name: dict(zip(UNITS, value, strict=True)) for name, value in total._asdict().items()},
        "base": arm.base,
        "ai_discourse": arm.discourse,
        "dose": arm.dose._asdict(),
        "dose_share_of_output": arm.dose.got / output if output else 0.0,
        "files": arm.files,
        "diverted_files": arm.diverted_files,
    }


def _targets(census: Census, recipe: Recipe) -> list[Targets]:
    return [targets_of(arm, census, recipe.unit) for arm in recipe.arms]


def _candidates(receipt: Receipt, targets: list[Targets], rules: Rules, recipe: Recipe) -> list[tuple[Kind, Candidate]]:
    table = load(receipt, list(DECISION_COLUMNS))
    return find_candidates(table, key_of_slice(receipt.part), targets, rules, unit=recipe.unit, seed=recipe.seed)


def _cuts(candidates: list[tuple[Kind, Candidate]], targets: list[Targets]) -> tuple[Cuts, ...]:
    return settle_all(targets, candidates)


def _inventory(receipt: Receipt, cuts: tuple[Cuts, ...], rules: Rules, recipe: Recipe) -> Inventory:
    table = load(receipt, list(DECISION_COLUMNS))
    return take_inventory(
        receipt, table, cuts, rules, unit=recipe.unit, seed=recipe.seed, target=recipe.target_file_size
    )


def _is_used(receipt: Receipt, bad: list[str]) -> bool:
    return receipt.part.shard not in bad


def _is_pool(receipt: Receipt, sources: tuple[Source, ...]) -> bool:
    return sources[receipt.part.source_index].is_pool


def _is_base(receipt: Receipt, sources: tuple[Source, ...]) -> bool:
    return not _is_pool(receipt, sources)


class _Plan(beam.DoFn):
    def __init__(self, recipe: Recipe, sources: tuple[Source, ...]) -> None:
        super().__init__()
        self.recipe, self.sources = recipe, sources

    def process(
        self,
        _: None,
        rules: Rules,
        census: Census,
        cuts: tuple[Cuts, ...],
        inventories: list[Inventory],
        pool: list[Receipt],
        terms: TermsByArm,
    ) -> Iterator[Any]:
        plan, groups = make_plan(self.recipe, self.sources, rules, cuts, inventories, pool, terms)
        url = join(self.recipe.folder, "plan.json")
        store_for(url).create_bytes(url, json.dumps(summary(plan, census, self.sources), indent=1).encode())
        yield plan
        # Largest first: the local runner deals them out once and never again.
        for group in sorted(groups, key=lambda g: -sum(r.part.size for r in g.receipts)):
            yield beam.pvalue.TaggedOutput("groups", group)


class Planned(NamedTuple):
    """Outputs of `MakePlan`: one Plan, and the groups of the mix, largest first."""

    plan: beam.PCollection[Plan]
    groups: beam.PCollection[Group]


class PlanInputs(NamedTuple):
    """Inputs of `MakePlan`: all receipts, the shards left out, the settled rules and the census."""

    receipts: beam.PCollection[Receipt]
    bad: beam.PCollection[str]
    rules: beam.PCollection[Rules]
    census: beam.PCollection[Census]


@dataclasses.dataclass(kw_only=True, eq=False)
class MakePlan(beam.PTransform):
    """Settle every selection exactly and lay out every file.

    Raises (when run):
      MixShortfall: A dose, quota or refill cannot be met; says by how much and what would do.
    """

    recipe: Recipe
    sources: tuple[Source, ...]

    def __post_init__(self) -> None:
        super().__init__()

    @no_annotations
    def expand(self, inputs: PlanInputs) -> Planned:
        rules = beam.pvalue.AsSingleton(inputs.rules)
        used = inputs.receipts | "LeaveOutBadShards" >> beam.Filter(_is_used, beam.pvalue.AsList(inputs.bad))
        base = used | "BaseOnly" >> beam.Filter(_is_base, self.sources)
        pool = used | "PoolOnly" >> beam.Filter(_is_pool, self.sources)
        targets = beam.pvalue.AsSingleton(inputs.census | "SetTargets" >> beam.Map(_targets, self.recipe))
        candidates = base | "FindCandidates" >> beam.FlatMap(_candidates, targets, rules, self.recipe)
        cuts = candidates | "GatherCandidates" >> beam.combiners.ToList() | "SettleCuts" >> beam.Map(_cuts, targets)
        inventories = base | "TakeInventory" >> beam.Map(_inventory, beam.pvalue.AsSingleton(cuts), rules, self.recipe)
        terms = inventories | "TakeTerms" >> beam.Map(terms_of) | "SumTerms" >> beam.CombineGlobally(sum_terms)
        bare = inventories | "LeaveOutTerms" >> beam.Map(_without_terms)
        outputs = (
            inputs.census.pipeline
            | "Start" >> beam.Create([None])
            | "Plan"
            >> beam.ParDo(
                _Plan(self.recipe, self.sources),
                rules,
                beam.pvalue.AsSingleton(inputs.census),
                beam.pvalue.AsSingleton(cuts),
                beam.pvalue.AsList(bare),
                beam.pvalue.AsList(pool),
                beam.pvalue.AsSingleton(terms),
            ).with_outputs("groups", main="plan")
        )
        return Planned(outputs.plan, outputs.groups)
