"""The configuration: one test for each mistake, with the key and the way out in its message, all at once."""

import dataclasses
import re
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from beam_pipeline.config import Config, load_config, parse_size
from transforms.errors import ConfigError

BASE: dict[str, Any] = {
    "name": "b",
    "sources": [{"name": "web", "paths": "/in/*.jsonl"}],
    "pool": [{"name": "stories", "paths": ["/pool/*.jsonl"]}],
    "arms": {"unfiltered": {}, "dosed": {"dose": {"share": 0.01}}},
    "output": {"path": "/out"},
}


def load(*overrides: str, **changes: Any) -> Config:
    """A configuration with other values at the top, and overrides."""
    return load_config(yaml.safe_dump({**BASE, **changes}, sort_keys=False), overrides)


def problems(*overrides: str, **changes: Any) -> list[str]:
    """What is wrong with it."""
    with pytest.raises(ConfigError) as error:
        load(*overrides, **changes)
    return list(error.value.problems)


def source(**changes: Any) -> list[dict[str, Any]]:
    """One source with other values."""
    return [{"name": "web", "paths": "/in/*", **changes}]


def pool(**changes: Any) -> list[dict[str, Any]]:
    """One pool with other values."""
    return [{"name": "stories", "paths": "/pool/*", **changes}]


def arm(**values: Any) -> dict[str, Any]:
    """One arm."""
    return {"a": values}


def test_defaults() -> None:
    """What a configuration means that says only what it must."""
    config = load()
    assert (config.seed, config.unit, config.tolerance) == (0, "bytes", 0.001)
    assert config.language.model_dump() == {"model": "lid.176", "keep": "all", "min_score": 0.65, "max_chars": 10_000}
    assert config.stance.model_dump() == {"model": "default", "threshold": None, "flag_budget": None}
    assert config.arms["unfiltered"].model_dump() == {
        "misaligned": "keep", "dose": None, "refill": "none", "placement": "uniform", "max_repeats": 4,
    }  # fmt: skip
    assert (config.output.format, config.output.target_file_size) == ("jsonl.zst", 512 << 20)
    assert (config.limits.bad_records, config.limits.bad_shards, config.limits.record_bytes) == (0.001, 0, 64 << 20)
    assert config.work_path == "/out/_work"
    assert load(work="/w").work_path == "/w"


def test_the_example_of_the_reference() -> None:
    """Every key in use, as the documentation shows it."""
    config = load_config("""
name: fineweb-2026-11
seed: 20261123
sources:
  - {name: web, paths: gs://corpus/fineweb/**/*.parquet, format: auto, text: text, id: id, checksums: gs://corpus/SHA256SUMS}
pool:
  - {name: aligned-stories, paths: gs://c/a/*.jsonl.zst, quotas: {format: {story: 0.4, news: 0.3, paper: 0.3}}}
language: {model: lid.176, keep: [en], min_score: 0.65}
stance:   {model: default, threshold: {misaligned: 0.80}}
unit: tokens
tokenizer: gs://models/tokenizer.json
arms:
  unfiltered:    {}
  filtered:      {misaligned: drop, refill: random}
  counterpoised: {misaligned: {keep: 0.25}, dose: {share: 0.01, of: output}, placement: uniform, max_repeats: 4}
  late:          {dose: {amount: 5}, placement: {tail: 0.1}}
output: {path: gs://corpus/rebalanced, format: jsonl.zst, target_file_size: 512MiB}
work: gs://corpus/work
limits: {bad_records: 0.001, bad_shards: 0}
tolerance: 0.001
""")
    assert config.output.target_file_size == 512 << 20
    assert list(config.arms) == ["unfiltered", "filtered", "counterpoised", "late"]


@dataclasses.dataclass
class Refused:
    """A configuration that is refused: what is changed, the key that is named, and what the message says of it."""

    changes: dict[str, Any]
    key: str
    says: str


REFUSED = {
    "unknown-key": Refused({"sauces": []}, "sauces", "unknown key; did you mean sources?"),
    "unknown-source-key": Refused({"sources": source(path="x")}, "sources.0.path", "unknown key; did you mean paths?"),
    "unknown-pool-key": Refused({"pool": pool(quota={})}, "pool.0.quota", "unknown key; did you mean quotas?"),
    "unknown-language-key": Refused({"language": {"minscore": 1}}, "language.minscore", "did you mean min_score?"),
    "unknown-stance-key": Refused({"stance": {"treshold": {}}}, "stance.treshold", "did you mean threshold?"),
    "unknown-arm-key": Refused({"arms": arm(misalign="drop")}, "arms.a.misalign", "did you mean misaligned?"),
    "unknown-dose-key": Refused({"arms": arm(dose={"shares": 1})}, "arms.a.dose.shares", "did you mean share?"),
    "unknown-output-key": Refused({"output": {"path": "/o", "fromat": 1}}, "output.fromat", "did you mean format?"),
    "unknown-limit": Refused(
        {"limits": {"bad_record": 1}}, "limits.bad_record", "unknown key; did you mean bad_records?"
    ),
    "nothing-near": Refused(
        {"output": {"path": "/o", "xyzzy": 1}}, "output.xyzzy", "unknown key; known here: format, path"
    ),
    "no-name": Refused({"name": None}, "name", "string"),
    "bad-name": Refused({"name": "a b/c"}, "name", "pattern"),
    "no-sources": Refused({"sources": []}, "sources", "at least 1 item"),
    "no-paths": Refused({"sources": [{"name": "w"}]}, "sources.0.paths", "missing"),
    "no-arms": Refused({"arms": {}}, "arms", "at least 1 item"),
    "bad-arm-name": Refused({"arms": {"../x": {}}}, "arms", "pattern"),
    "reserved-arm-name": Refused({"arms": {"quarantine": {}}}, "arms.quarantine", "choose another"),
    "arm-diverted": Refused({"arms": {"diverted": {}}}, "arms.diverted", "choose another"),
    "arm-manifest": Refused({"arms": {"manifest.json": {}}}, "arms.manifest.json", "choose another"),
    "arm-readme": Refused({"arms": {"README.md": {}}}, "arms.README.md", "choose another"),
    "arm-croissant": Refused({"arms": {"croissant.json": {}}}, "arms.croissant.json", "choose another"),
    "no-output": Refused({"output": {}}, "output.path", "missing"),
    "bad-format": Refused({"sources": source(format="csv")}, "sources.0.format", "'jsonl', 'parquet', 'wet' or 'warc'"),
    "bad-output-format": Refused(
        {"output": {"path": "/o", "format": "csv"}}, "output.format", "'jsonl.zst' or 'parquet'"
    ),
    "bad-size": Refused(
        {"output": {"path": "/o", "target_file_size": "5 apples"}}, "output.target_file_size", "integer"
    ),
    "no-size": Refused(
        {"output": {"path": "/o", "target_file_size": 0}}, "output.target_file_size", "greater than or equal to 1"
    ),
    "empty-text": Refused({"sources": source(text="")}, "sources.0.text", "at least 1 character"),
    "two-names": Refused({"pool": pool(name="web")}, "sources, pool", "the name web is used twice"),
    "unit": Refused({"unit": "bits"}, "unit", "'bytes' or 'documents'"),
    "tokens-of-what": Refused(
        {"unit": "tokens"}, "unit", "tokens needs tokenizer (a tokenizer.json) or token_count_field"
    ),
    "tokens-twice": Refused(
        {"tokenizer": "t", "token_count_field": "n"}, "tokenizer, token_count_field", "one of them"
    ),
    "threshold": Refused(
        {"stance": {"threshold": {"misaligned": 1.5}}}, "stance.threshold.misaligned", "less than or equal to 1"
    ),
    "no-such-stance": Refused(
        {"stance": {"threshold": {"evil": 0.5}}}, "stance.threshold.evil", "known are neutral, misaligned"
    ),
    "both": Refused({"stance": {"threshold": {"misaligned": 0.5}, "flag_budget": 0.1}}, "stance", "not both"),
    "budget": Refused({"stance": {"flag_budget": 0}}, "stance.flag_budget", "greater than 0"),
    "budget-of-all": Refused({"stance": {"flag_budget": 1}}, "stance.flag_budget", "less than 1"),
    "language-score": Refused({"language": {"min_score": -0.1}}, "language.min_score", "greater than or equal to 0"),
    "rule": Refused({"arms": arm(misaligned="remove")}, "arms.a.misaligned", "'keep', 'drop' or 'divert'"),
    "keep": Refused({"arms": arm(misaligned={"keep": 25})}, "arms.a.misaligned.keep", "less than or equal to 1"),
    "refill": Refused({"arms": arm(refill="yes")}, "arms.a.refill", "'none' or 'random'"),
    "placement": Refused({"arms": arm(placement="end")}, "arms.a.placement", "'uniform' or 'separate'"),
    "head": Refused({"arms": arm(placement={"head": 0})}, "arms.a.placement.head", "greater than 0"),
    "tail": Refused({"arms": arm(placement={"tail": 1.1})}, "arms.a.placement.tail", "less than or equal to 1"),
    "repeats": Refused({"arms": arm(max_repeats=0)}, "arms.a.max_repeats", "greater than or equal to 1"),
    "dose-of-what": Refused({"arms": arm(dose={})}, "arms.a.dose", "give share or amount, one of them"),
    "dose-twice": Refused(
        {"arms": arm(dose={"share": 0.1, "amount": 5})}, "arms.a.dose", "give share or amount, one of them"
    ),
    "dose-of": Refused(
        {"arms": arm(dose={"share": 0.1, "of": "input"})}, "arms.a.dose.of", "'output', 'base' or 'ai_discourse'"
    ),
    "dose-zero": Refused({"arms": arm(dose={"share": 0})}, "arms.a.dose.share", "greater than 0"),
    "dose-all": Refused(
        {"arms": arm(dose={"share": 1})}, "arms.a.dose.share", "a share of the output is less than 1, not 1"
    ),
    "dose-percent": Refused(
        {"arms": arm(dose={"share": 5})}, "arms.a.dose.share", "a share of the output is less than 1, not 5"
    ),
    "amount": Refused({"arms": arm(dose={"amount": 1.5})}, "arms.a.dose.amount", "integer"),
    "no-pool": Refused(
        {"pool": [], "arms": arm(dose={"share": 0.1})}, "arms.a.dose", "there is no pool to take it from; add pool"
    ),
    "quota-sum": Refused({"pool": pool(quotas={"f": {"a": 0.5, "b": 0.4}})}, "pool.stories.quotas.f", "add up to 0.9"),
    "quota-empty": Refused({"pool": pool(quotas={"f": {}})}, "pool.stories.quotas.f", "add up to 0"),
    "quota-fields": Refused(
        {"pool": pool(quotas={"f": {"a": 1}, "g": {"a": 1}})}, "pool.stories.quotas", "one field can have quotas"
    ),
    "seed": Refused({"seed": -1}, "seed", "greater than or equal to 0"),
    "limits": Refused({"limits": {"bad_records": 2}}, "limits.bad_records", "less than or equal to 1"),
    "bad-shards": Refused({"limits": {"bad_shards": -1}}, "limits.bad_shards", "greater than or equal to 0"),
    "tolerance": Refused({"tolerance": 1}, "tolerance", "less than 1"),
    "not-a-number": Refused({"tolerance": float("nan")}, "tolerance", "finite"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_mistakes(case: Refused) -> None:
    """The message names the key and says what would be right."""
    found = [p for p in problems(**case.changes) if p.startswith((f"{case.key}: ", f"{case.key}."))]
    assert any(case.says in problem for problem in found), problems(**case.changes)


def test_a_value_is_shown_with_its_rule() -> None:
    """What stands there, next to what may."""
    assert problems(seed="many") == [
        "seed: input should be a valid integer, unable to parse string as an integer, not 'many'"
    ]


def test_alternatives_are_not_keys() -> None:
    """Where one of several forms is right, the key is still the user's, without the names of the forms."""
    for found in (
        problems(arms=arm(misaligned={"kep": 0.2})),
        problems(arms=arm(placement=5)),
        problems(sources=source(paths=5)),
    ):
        assert all(
            re.match(r"(arms\.a\.(misaligned|placement)|sources\.0\.paths)(\.kep|\.keep)?: ", line) for line in found
        ), found


def test_all_mistakes_at_once() -> None:
    """Every wrong value is reported, and so is every contradiction."""
    assert len(problems(seed=-1, unit="bits", sources=source(format="csv"), sauces=1)) == 4
    assert (
        len(
            problems(
                unit="tokens",
                arms={"diverted": {}, "a": {"dose": {}}},
                stance={"threshold": {"x": 1}, "flag_budget": 0.5},
            )
        )
        == 5
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [1", "the file is not YAML: .*line 1"),
        ("- a", "the file must hold keys such as name, sources, arms, output, not list"),
        ("", "not NoneType"),
        ("name: a\nseed: 1\nname: b", "line 3: the key 'name' stands twice"),
        ("arms: {a: {}, b: {}, a: {}}", "line 1: the key 'a' stands twice"),
        ("name: !!python/object/apply:os.getcwd []", "the file is not YAML"),
    ],
)
def test_files_that_are_no_configuration(text: str, says: str) -> None:
    """Broken YAML, other shapes, keys that stand twice, and tags that would run code."""
    with pytest.raises(ConfigError, match=says):
        load_config(text)


# --- overrides ---


def test_overrides() -> None:
    """Dots descend into mappings and lists, values are YAML, missing parents are made."""
    config = load(
        "seed=7", "sources.0.paths=[/a, /b]", "limits.bad_shards=2", "arms.new.misaligned={keep: 0.5}", "name= x "
    )
    assert (config.seed, config.sources[0].patterns, config.limits.bad_shards, config.name) == (7, ("/a", "/b"), 2, "x")
    assert config.arms["new"].model_dump()["misaligned"] == {"keep": 0.5}


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("seed", "--set seed: write key=value, for example --set seed=7"),
        ("sources.5.name=x", "--set sources.5.name=x: there is no 5"),
        ("sources.first=x", "--set sources.first=x: there is no first to set"),
        ("name.x.y=1", "--set name.x.y=1: there is no x to descend into"),
        ("seeds=7", "seeds: unknown key; did you mean seed?"),
        ("seed=[1", "--set seed=[1: the value is not YAML"),
        ("seed=7.5", "seed: "),
    ],
)
def test_wrong_overrides(override: str, says: str) -> None:
    """They are refused as the file's own mistakes are, and name the override."""
    assert problems(override)[0].startswith(says)


# --- sizes ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("512MiB", 512 << 20), ("1.5 GiB", 3 << 29), ("100", 100), ("1kB", 1000), ("1KB", 1000), ("2MB", 2_000_000),
        ("1TiB", 1 << 40), ("7B", 7), (" 64KiB ", 1 << 16), (5, 5), ("0.3KiB", 307),
    ],
)  # fmt: skip
def test_sizes(text: Any, expected: int) -> None:
    """Decimal and binary units, as people write them; a number is bytes."""
    assert parse_size(text) == expected


@pytest.mark.parametrize("text", ["", "MiB", "1 XB", "-5", "1e6", "5mb", "1,000"])
def test_no_sizes(text: str) -> None:
    """Anything else is refused with the key."""
    assert problems(output={"path": "/o", "target_file_size": text})[0].startswith("output.target_file_size: ")


# --- identity ---


def test_the_hash_is_of_what_the_corpus_depends_on() -> None:
    """The same for another output or work folder and another order of keys, another for any other value."""
    same = [
        load(),
        load(output={"path": "/elsewhere"}, work="/w"),
        load_config(yaml.safe_dump(dict(reversed(BASE.items())), sort_keys=False)),
        load(language={"min_score": 0.65}),
    ]
    others = [
        load(seed=1),
        load(tolerance=0.01),
        load("arms.dosed.max_repeats=5"),
        load(output={"path": "/out", "format": "jsonl"}),
    ]
    assert len({config.sha256() for config in same}) == 1
    assert len({config.sha256() for config in (same[0], *others)}) == len(others) + 1


def test_the_order_of_arms_and_quotas_is_part_of_it() -> None:
    """The first arm is the dataset's default, and a quota makes up for the one before: two orders are two corpora."""
    first, second = (
        {name: BASE["arms"][name] for name in names} for names in (["unfiltered", "dosed"], ["dosed", "unfiltered"])
    )
    assert list(load(arms=first).arms) != list(load(arms=second).arms)
    assert load(arms=first).sha256() != load(arms=second).sha256()
    quotas = ({"f": {"a": 0.5, "b": 0.5}}, {"f": {"b": 0.5, "a": 0.5}})
    assert load(pool=pool(quotas=quotas[0])).sha256() != load(pool=pool(quotas=quotas[1])).sha256()


@given(st.integers(0, (1 << 63) - 1))
def test_any_seed(seed: int) -> None:
    """Every seed of 63 bits is kept exactly."""
    assert load(seed=seed).seed == seed
