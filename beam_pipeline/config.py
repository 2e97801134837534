"""The configuration: one YAML file, one frozen tree, one hash; every problem is reported at once.

Keys are those of the reference in docs/configuration.md. Nothing here touches storage.
"""

import difflib
import hashlib
import json
import os
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Annotated, Any, Literal

import pydantic
import yaml
from pydantic import Field

from transforms.errors import ConfigError
from transforms.schema import STANCES

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Share = Annotated[float, Field(ge=0, le=1)]
Unit = Literal["tokens", "words", "characters", "bytes", "documents"]
OutputFormat = Literal["jsonl", "jsonl.gz", "jsonl.zst", "parquet"]
_SIZE = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)?)\s*(B|kB|KB|MB|GB|TB|KiB|MiB|GiB|TiB)?\s*$")
_FACTORS = {"B": 1, **{p + "B": 1000 ** (i + 1) for i, p in enumerate("KMGT")}, "kB": 1000,
            **{p + "iB": 1024 ** (i + 1) for i, p in enumerate("KMGT")}}  # fmt: skip


def parse_size(value: Any) -> Any:
    """Read "512MiB" as 536870912; a plain number is bytes; anything else is left for pydantic to refuse."""
    if isinstance(value, str) and (match := _SIZE.match(value)):
        return int(Fraction(match[1]) * _FACTORS[match[2] or "B"])
    return value


def absolute(value: Any) -> Any:
    """A local path as an absolute one, so that it means the same to every worker; a URL as it is."""
    return (
        os.path.abspath(os.path.expanduser(value)) if isinstance(value, str) and value and "://" not in value else value
    )


Place = Annotated[str, pydantic.BeforeValidator(absolute), Field(min_length=1)]
Size = Annotated[int, pydantic.BeforeValidator(parse_size), Field(ge=1)]


class _Node(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SourceConfig(_Node):
    """Where documents come from."""

    name: Name = Field(description="Unique; appears in provenance and manifest.")
    paths: str | tuple[str, ...] = Field(description="A glob or a list of globs: local, gs://, s3://.")
    format: Literal["auto", "jsonl", "parquet", "wet", "warc"] = Field("auto", description="auto goes by the names.")
    text: str = Field("text", min_length=1, description="Field of the text; dots descend into objects.")
    id: str = Field("id", description="Field of the document's own id; empty for none.")
    checksums: str | None = Field(None, description="A file as sha256sum or md5sum write it; raw bytes are held to it.")

    @property
    def patterns(self) -> tuple[str, ...]:
        """`paths` as a tuple."""
        return (self.paths,) if isinstance(self.paths, str) else self.paths


class PoolConfig(SourceConfig):
    """Synthetic counter-narrative documents."""

    quotas: dict[str, dict[str, Share]] = Field(
        default_factory=dict, description="Shares of the dose by the values of one field, for example format."
    )


class LanguageConfig(_Node):
    """Which languages stay."""

    model: str = Field("lid.176", description="lid.176, or the path of a fastText language model.")
    keep: Literal["all"] | tuple[str, ...] = Field("all", description="ISO codes, or all; the label is kept anyway.")
    min_score: Share = Field(0.65, description="Least score of a kept language.")
    max_chars: int = Field(10_000, ge=0, description="Characters of a document that are looked at; 0 for all.")


class StanceConfig(_Node):
    """What counts as misaligned."""

    model: str = Field("default", description="default, or the path of a fastText model with the four stances.")
    threshold: dict[str, Share] | None = Field(None, description="Least score of a stance, {misaligned: 0.80}.")
    flag_budget: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="In place of threshold: flag at most this share of the documents that stay."
    )


class KeepShare(_Node):
    """Keep a share of the misaligned text."""

    keep: Share


class DoseConfig(_Node):
    """How much synthetic text goes in."""

    share: float | None = Field(None, gt=0)
    of: Literal["output", "base", "ai_discourse"] = "output"
    amount: int | None = Field(None, gt=0)


class HeadPlacement(_Node):
    """All synthetic text in the first part of the corpus."""

    head: Annotated[float, Field(gt=0, le=1)]


class TailPlacement(_Node):
    """All synthetic text in the last part of the corpus."""

    tail: Annotated[float, Field(gt=0, le=1)]


class ArmConfig(_Node):
    """One output corpus."""

    misaligned: Literal["keep", "drop", "divert"] | KeepShare = "keep"
    dose: DoseConfig | None = None
    refill: Literal["none", "random"] = "none"
    placement: Literal["uniform", "separate"] | HeadPlacement | TailPlacement = "uniform"
    max_repeats: int = Field(4, ge=1)


class OutputConfig(_Node):
    """Where the corpora go."""

    path: Place
    format: OutputFormat = "jsonl.zst"
    target_file_size: Size = 512 << 20


class LimitsConfig(_Node):
    """How much bad input a build bears."""

    bad_records: Share = 0.001
    bad_shards: int = Field(0, ge=0)
    record_bytes: Size = Field(64 << 20, description="Longer records go to quarantine.")


class DriftConfig(_Node):
    """How far a dated rebuild may move from the one before until `latest.json` waits for a person."""

    stance: Share = Field(0.02, description="Of each stance's share of the documents, and of a dose's share of an arm.")
    language: Share = Field(0.05, description="Of each language's share of the documents.")
    quarantine: Share = Field(0.005, description="Of the share of bad records.")
    volume: float = Field(0.2, ge=0, description="Of documents and text read and written, relative.")


class Config(_Node):
    """A whole build."""

    name: Name
    seed: int = Field(0, ge=0, lt=1 << 63)
    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    pool: tuple[PoolConfig, ...] = ()
    language: LanguageConfig = LanguageConfig()
    stance: StanceConfig = StanceConfig()
    unit: Unit = "bytes"
    tokenizer: str | None = None
    token_count_field: str | None = None
    arms: dict[Name, ArmConfig] = Field(min_length=1)
    output: OutputConfig
    work: Place | None = None
    limits: LimitsConfig = LimitsConfig()
    tolerance: float = Field(0.001, ge=0, lt=1)
    drift: DriftConfig = DriftConfig()

    @property
    def work_path(self) -> str:
        """Where annotations lie."""
        return self.work or f"{self.output.path.rstrip('/')}/_work"

    def identity(self) -> dict[str, Any]:
        """What the corpus depends on: all but places (output, work) and the limits of drift; plain values."""
        values = self.model_dump(mode="json")
        del values["output"]["path"], values["work"], values["drift"]
        return values

    def sha256(self) -> str:
        """Hash of `identity`, in canonical form."""
        # Fields stand in the order of the models; arms and quotas in the user's, on which the corpus depends.
        canonical = json.dumps(self.identity(), separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that stands twice: YAML would silently let the last one win."""


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str | int | float | bool | None):
            raise ConfigError([f"line {key_node.start_mark.line + 1}: a key must be a word, not a list or a mapping"])
        if key in seen:
            raise ConfigError([f"line {key_node.start_mark.line + 1}: the key {key!r} stands twice"])
        seen.add(key)
    loader.flatten_mapping(node)
    return dict(loader.construct_pairs(node, deep=True))


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def load_config(text: str, overrides: Sequence[str] = ()) -> Config:
    """Parse and validate a configuration.

    Args:
      text: The YAML file's content.
      overrides: "dotted.key=YAML value" each, as given with --set.

    Raises:
      ConfigError: With one line for each problem, all of them.
    """
    try:
        values = yaml.load(text, _StrictLoader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise ConfigError([f"the file is not YAML: {' '.join(str(error).split())}"]) from error
    if not isinstance(values, dict):
        raise ConfigError([f"the file must hold keys such as name, sources, arms, output, not {type(values).__name__}"])
    for override in overrides:
        _override(values, override)
    if secrets := list(_secrets(values, "", set())):
        raise ConfigError(secrets)
    try:
        config = Config.model_validate(values)
    except pydantic.ValidationError as error:
        raise ConfigError(_explain(error)) from error
    if problems := list(_contradictions(config)):
        raise ConfigError(problems)
    return config


_SECRET = re.compile(
    r"[a-z][a-z0-9+.-]*://([^/?#]*:[^/?#]*@|\S*[?&][\w-]*(sig|signature|token|credential|secret|password|key)[\w-]*=)",
    re.IGNORECASE,
)


def _secrets(value: Any, key: str, seen: set[int]) -> Iterator[str]:
    """URLs with credentials in them would stand in manifests and messages for ever; the line does not repeat them."""
    if isinstance(value, str) and _SECRET.search(value):
        yield f"{key}: credentials do not belong into a URL; give them in the environment or the store's own settings"
    elif isinstance(value, dict | list) and id(value) not in seen:  # once each: aliases may name a value very often
        seen.add(id(value))
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for name, item in items:
            shown = str(name) if isinstance(name, str | int) and not _SECRET.search(str(name)) else "?"
            yield from _secrets(item, f"{key}.{shown}" if key else shown, seen)


def _override(values: dict[str, Any], override: str) -> None:
    key, found, value = override.partition("=")
    if not found:
        raise ConfigError([f"--set {override}: write key=value, for example --set seed=7"])
    *parents, last = key.strip().split(".")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError([f"--set {override}: the value is not YAML"]) from error
    node: Any = values
    for parent in parents:
        if isinstance(node, list) and parent.isdigit() and int(parent) < len(node):
            node = node[int(parent)]
        elif isinstance(node, dict):
            node = node.setdefault(parent, {})
        else:
            raise ConfigError([f"--set {override}: there is no {parent} to descend into"])
    if isinstance(node, list) and last.isdigit() and int(last) < len(node):
        node[int(last)] = parsed
    elif isinstance(node, dict):
        node[last] = parsed
    else:
        raise ConfigError([f"--set {override}: there is no {last} to set"])


def _explain(error: pydantic.ValidationError) -> list[str]:
    """One line for each problem: the key, what is wrong, and for unknown keys the nearest known one."""
    lines = []
    for problem in error.errors():
        if problem["type"] == "too_short" and problem["input"]:
            continue  # what is wrong with the items stands in lines of their own
        location = [p for p in problem["loc"] if not _is_branch(p)]
        key = ".".join(str(p) for p in location)
        if problem["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(location[-1]), _known_keys(location[:-1]), n=1, cutoff=0.5)
            known = ", ".join(_known_keys(location[:-1]))
            lines.append(f"{key}: unknown key; " + (f"did you mean {near[0]}?" if near else f"known here: {known}"))
        elif problem["type"] == "missing":
            lines.append(f"{key}: missing")
        else:
            value = reprlib.repr(problem.get("input")).strip("'\"")  # bounded, whatever YAML's aliases make of it
            lines.append(f"{key}: {problem['msg'][0].lower() + problem['msg'][1:]}, not {value[:80]!r}")
    return list(dict.fromkeys(lines))


def _is_branch(part: int | str) -> bool:
    """Whether pydantic named an alternative of a union rather than a key."""
    return isinstance(part, str) and (part in _BRANCHES or part.startswith(("literal[", "tuple[", "dict[")))


_BRANCHES = {"KeepShare", "HeadPlacement", "TailPlacement", "str", "[key]"}


def _known_keys(location: Sequence[int | str]) -> list[str]:
    """The keys that a configuration has at a place."""
    models: list[type[pydantic.BaseModel]] = [Config]
    for part in location:
        if isinstance(part, int):
            continue
        following: list[type[pydantic.BaseModel]] = []
        for model in models:
            field = model.model_fields.get(part)
            following += list(_models_in(field.annotation)) if field else [model] if model is ArmConfig else []
        models = following or models
    return sorted({name for model in models for name in model.model_fields})


def _models_in(annotation: Any) -> Iterator[type[pydantic.BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _models_in(inner)


def _contradictions(config: Config) -> Iterator[str]:
    """Problems that lie between keys."""
    names = [s.name for s in (*config.sources, *config.pool)]
    yield from (f"sources, pool: the name {n} is used twice" for n in sorted({n for n in names if names.count(n) > 1}))
    if config.unit == "tokens" and not (config.tokenizer or config.token_count_field):
        yield "unit: tokens needs tokenizer (a tokenizer.json) or token_count_field"
    if config.tokenizer and config.token_count_field:
        yield "tokenizer, token_count_field: give one of them, not both"
    if config.stance.threshold is not None and config.stance.flag_budget is not None:
        yield "stance: give threshold or flag_budget, not both"
    for stance in config.stance.threshold or {}:
        if stance not in STANCES[1:]:
            yield f"stance.threshold.{stance}: unknown stance; known are {', '.join(STANCES[1:])}"
    if "{date}" in config.output.path and config.work is None:
        yield "work: missing; output.path has {date}, and a work folder below it would be empty at every rebuild"
    if "{date}" in (config.work or ""):
        yield "work: one place for all dates, without {date}, or no rebuild finds the annotations of the one before"
    for pool in config.pool:
        yield from _quota_problems(pool)
    for name, arm in config.arms.items():
        yield from _arm_problems(name, arm, has_pool=bool(config.pool))


def _quota_problems(pool: PoolConfig) -> Iterator[str]:
    key = f"pool.{pool.name}.quotas"
    if len(pool.quotas) > 1:
        yield f"{key}: one field can have quotas, not {len(pool.quotas)} ({', '.join(pool.quotas)})"
    for field, shares in pool.quotas.items():
        total = sum(Fraction(str(s)) for s in shares.values())
        if total != 1:
            yield f"{key}.{field}: the shares add up to {float(total):g}, they must add up to 1"


def _arm_problems(name: str, arm: ArmConfig, *, has_pool: bool) -> Iterator[str]:
    key = f"arms.{name}"
    if name in ("quarantine", "diverted", "manifest.json", "README.md", "report.html", "croissant.json"):
        yield f"{key}: this name has a place of its own in every output; choose another"
    if arm.dose is None:
        return
    if not has_pool:
        yield f"{key}.dose: there is no pool to take it from; add pool"
    if (arm.dose.share is None) == (arm.dose.amount is None):
        yield f"{key}.dose: give share or amount, one of them"
    if arm.dose.share is not None and arm.dose.of == "output" and arm.dose.share >= 1:
        yield f"{key}.dose.share: a share of the output is less than 1, not {arm.dose.share:g}"


def as_yaml(values: Mapping[str, Any]) -> str:
    """Plain values as YAML, keys in their order."""
    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
