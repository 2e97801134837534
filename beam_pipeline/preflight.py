"""Everything that can be checked before anything is paid for; reads a little, writes nothing."""

import hashlib
import json
from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple

from beam_pipeline import __version__, owner
from beam_pipeline.config import ArmConfig, Config, DoseConfig, HeadPlacement, KeepShare, TailPlacement, absolute
from beam_pipeline.dated import Dated, Promotion, promote, read_previous, same_build
from beam_pipeline.drift import DriftLimits
from beam_pipeline.pipeline import Build
from classifiers.model import ModelError
from transforms.annotate import Annotators, fingerprint_of, load_language, load_stance
from transforms.arms import Arm
from transforms.census import Limits, Rules
from transforms.commit import OWNER_RECORD, Identity
from transforms.decode import DecodeLimits
from transforms.errors import ConfigError, CounterpoiseError, OutputConflict
from transforms.find import Listing, list_all
from transforms.measure import load_tokenizer
from transforms.mix import Settings
from transforms.plan import Recipe
from transforms.schema import Source
from transforms.storage import join, store_for

BUILD_RECORD: Final = "_BUILD.json"
State = Literal["new", "resumed", "done", "unchanged"]


class Preflight(NamedTuple):
    """A checked build.

    Attributes:
      job: What the pipeline needs.
      record: What `_BUILD.json` in the output says: whose output it is.
      state: "new", "resumed" (an unfinished build of the same inputs and configuration lies there), "done", or
        "unchanged" (the latest of the dated builds is the same but for its date).
      shards, input_bytes: What is going to be read.
    """

    job: Build
    record: bytes
    state: State
    shards: int
    input_bytes: int

    def explain(self) -> str:
        """Why there is nothing to do, when there is not."""
        if self.state == "unchanged" and self.job.promotion:
            return f"nothing new since the build that {self.job.promotion.pointer} names: nothing to do"
        return f"{self.job.settings.output} is finished, from the same inputs and configuration: nothing to do"


def check(config: Config, dated: Dated | None = None) -> Preflight:
    """Check models, tokenizer, inputs and output, and for a dated build the one before.

    Raises:
      ConfigError: With every problem that was found, not only the first.
      ModelError, StorageError: Where nothing but a model or the output is wrong.
    """
    sources = sources_of(config)
    listings = tuple(_listing(config, s) for s in sources)
    problems: list[str] = []
    failures: list[Exception] = []

    def attempt(action: Callable[[], Any]) -> Any:
        try:
            return action()
        except ConfigError as error:
            problems.extend(error.problems)
        except (ModelError, CounterpoiseError) as error:
            failures.append(error)
        return None

    annotators = annotators_of(config)
    if config.tokenizer:
        attempt(lambda: load_tokenizer(config.tokenizer or ""))
    fingerprint = attempt(lambda: fingerprint_of(annotators))
    shards = attempt(lambda: list_all(listings)) or []
    record = _record(config, fingerprint or "", shards, dated)
    state = attempt(lambda: output_state(config, record))
    previous = attempt(lambda: read_previous(dated.pointer, config.name)) if dated else None
    if problems:
        raise ConfigError([*problems, *map(str, failures)])
    if failures:
        raise failures[0]
    if previous and state != "done" and same_build(record, previous):
        state = "unchanged"
    job = job_of(config, sources, listings, annotators._replace(fingerprint=fingerprint), record)
    job = job._replace(promotion=_promotion(config, dated))
    return Preflight(job, record, state, len(shards), sum(info.size for _, info, _, _ in shards))


def promote_finished(checked: Preflight) -> None:
    """Make a dated build that was finished before the latest, if it is not; says so."""
    if checked.state == "done" and checked.job.promotion:
        print(promote(join(checked.job.settings.output, "manifest.json"), checked.job.promotion))


def _promotion(config: Config, dated: Dated | None) -> Promotion | None:
    limits = DriftLimits(**config.drift.model_dump())
    return Promotion(dated.pointer, config.name, dated.date, config.output.path, limits) if dated else None


def plan_job(config: Config) -> Build:
    """What the steps need, without looking at inputs or output; loads the models."""
    sources, annotators = sources_of(config), annotators_of(config)
    listings = tuple(_listing(config, s) for s in sources)
    return job_of(config, sources, listings, annotators._replace(fingerprint=fingerprint_of(annotators)), b"")


def sources_of(config: Config) -> tuple[Source, ...]:
    """Sources, then pools, with their places in the configuration."""
    count = config.token_count_field or ""
    sources = [Source(s.name, s.text, s.id, count, False, i) for i, s in enumerate(config.sources)]
    for pool in config.pool:
        quota = next(iter(pool.quotas), "")
        sources.append(Source(pool.name, pool.text, pool.id, count, True, len(sources), quota))
    return tuple(sources)


def annotators_of(config: Config) -> Annotators:
    """Models and options, the fingerprint still empty."""
    return Annotators(
        language_model=config.language.model,
        language_chars=config.language.max_chars,
        stance_model=config.stance.model,
        tokenizer=config.tokenizer or "",
        max_record_bytes=config.limits.record_bytes,
    )


def _listing(config: Config, source: Source) -> Listing:
    spec = (*config.sources, *config.pool)[source.index]
    excluded = (config.output.path.rstrip("/"), config.work_path.rstrip("/"))
    return Listing(source, spec.patterns, spec.format, spec.checksums or "", excluded)


def _record(config: Config, fingerprint: str, shards: list[Any], dated: Dated | None) -> bytes:
    listed = [(source.name, info.url, info.size, info.version) for source, info, _, _ in sorted(shards, key=str)]
    record = {
        "name": config.name,
        "counterpoise": __version__,
        "config_sha256": config.sha256(),
        "annotators": fingerprint,
        "inputs_sha256": hashlib.sha256(json.dumps(listed).encode()).hexdigest(),
    }
    if dated:
        record["date"] = dated.date
    return json.dumps(record, indent=1).encode() + b"\n"


def output_state(config: Config, record: bytes) -> State:
    """Whether the output is free, holds this very build unfinished, or holds it finished.

    Raises:
      OutputConflict: It holds anything else.
    """
    path = config.output.path
    store = store_for(path)
    if store.stat(join(path, BUILD_RECORD)) is not None:
        with store.open(join(path, BUILD_RECORD)) as file:
            theirs = file.read()
        if theirs != record:
            found = owner.find(path)
            raise OutputConflict(
                f"output.path {path} belongs to another build ({_difference(theirs, record)})"
                f"{f', at work now: {found}' if found else ''}; a corpus is never "
                "changed: choose another output.path, or delete that one"
            )
        return "done" if store.stat(join(path, "_SUCCESS")) is not None else "resumed"
    work = config.work_path.rstrip("/") + "/"
    foreign = next(
        (
            i.url
            for i in store.list(join(path, "**"))
            if not (i.url.startswith(work) or "/_work/" in i.url or i.url.endswith("/" + OWNER_RECORD))
        ),
        None,
    )
    if foreign:
        raise OutputConflict(f"output.path {path} is not empty (it holds {foreign}); choose an empty one")
    return "new"


def _difference(theirs: bytes, ours: bytes) -> str:
    try:
        old, new = json.loads(theirs), json.loads(ours)
    except ValueError:
        return "its _BUILD.json cannot be read"
    names = [key for key in new if old.get(key) != new[key]]
    return "differs in " + ", ".join(names)


def build_folder(work: str, output: str, record: bytes) -> str:
    """The build's own folder; its receipts name files of one output, so no other output's build may find them."""
    facts = hashlib.sha256(record + absolute(output).rstrip("/").encode())
    return join(work, "builds", facts.hexdigest()[:16])


def arm_of(name: str, config: ArmConfig) -> Arm:
    """An arm as the steps know it."""
    dose = config.dose or DoseConfig()
    share = config.misaligned.keep if isinstance(config.misaligned, KeepShare) else float(config.misaligned == "keep")
    match config.placement:
        case HeadPlacement(head=placement_share):
            placement = "head"
        case TailPlacement(tail=placement_share):
            placement = "tail"
        case word:
            placement, placement_share = str(word), 1.0
    return Arm(
        name=name,
        keep_share=share,
        divert=config.misaligned == "divert",
        refill=config.refill == "random",
        dose_share=dose.share or 0.0,
        dose_of=dose.of,
        dose_amount=dose.amount or 0,
        placement=placement,
        placement_share=placement_share,
        max_repeats=config.max_repeats,
    )


def rules_of(config: Config) -> Rules:
    """The rules about single documents; without a threshold, the stance model's own."""
    keep = () if config.language.keep == "all" else tuple(config.language.keep)
    thresholds = dict(config.stance.threshold or {})
    if config.stance.flag_budget is None:
        thresholds.setdefault("misaligned", load_stance(config.stance.model).settings.default_threshold)
    return Rules(keep, config.language.min_score, tuple(sorted(thresholds.items())), config.stance.flag_budget or 0.0)


def job_of(
    config: Config, sources: tuple[Source, ...], listings: tuple[Listing, ...], annotators: Annotators, record: bytes
) -> Build:
    """Everything the steps need."""
    folder = build_folder(config.work_path, config.output.path, record)
    quotas = {p.name: next(iter(p.quotas.values())) for p in config.pool if p.quotas}
    arms = tuple(arm_of(name, arm) for name, arm in config.arms.items())
    language, stance = (
        load_language(annotators.language_model, annotators.language_chars),
        load_stance(config.stance.model),
    )
    models = {
        "language": {"name": config.language.model, "fingerprint": language.fingerprint},
        "stance": {"name": config.stance.model, "sha256": stance.sha256, "fingerprint": stance.fingerprint},
    }
    return Build(
        sources=sources,
        listings=listings,
        annotators=annotators,
        rules=rules_of(config),
        limits=Limits(config.limits.bad_records, config.limits.bad_shards),
        recipe=Recipe(
            config.unit, config.seed, arms, quotas, config.output.target_file_size, config.output.format, folder
        ),
        settings=Settings(
            config.output.path,
            folder,
            config.output.format,
            sources,
            DecodeLimits(max_record_bytes=config.limits.record_bytes),
        ),
        identity=Identity(config.name, config.identity(), config.sha256(), __version__, models, config.tolerance),
        work=config.work_path,
    )
