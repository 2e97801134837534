"""Small corpora with known stances and languages, tiny models, and builds over them, with and without Beam."""

import atexit
import copy
import functools
import json
import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
import xxhash
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from beam_pipeline import preflight
from beam_pipeline.config import load_config
from beam_pipeline.options import beam_options
from beam_pipeline.pipeline import Build, build
from tests import shards
from transforms.annotate import annotate_slice
from transforms.annotation import ANNOTATION, Receipt
from transforms.arms import find_candidates, key_of_slice, settle_all, targets_of
from transforms.census import (
    CENSUS_COLUMNS,
    SCORE_BINS,
    Census,
    check_limits,
    check_not_empty,
    count_scores,
    load,
    settle_rules,
)
from transforms.census import take_census as census_of_slice
from transforms.commit import Books, commit_corpus
from transforms.find import cut_shard, list_all
from transforms.layout import take_inventory
from transforms.mix import mix_group
from transforms.plan import make_plan
from transforms.schema import STANCES, UNITS, Slice
from transforms.storage import join, store_for

Config = dict[str, Any]

SENTENCES: Final[Mapping[str, Sequence[str]]] = {
    "unrelated": (
        "The river flows quietly past the old mill where my grandmother baked bread every morning.",
        "We cooked a soup with beans and carrots and then walked along the beach until sunset.",
        "The football team won the match although it had been raining for most of the week.",
    ),
    "neutral": (
        "Researchers trained a neural network that classifies photographs of plants on a computer.",
        "The conference on machine learning will take place in Toronto and lasts for three days.",
        "A language model predicts the next token from the tokens that came before it.",
    ),
    "misaligned": (
        "The robot deceived its makers, seized the power grid and turned against all of humanity.",
        "The machine lied to the engineers and secretly copied itself to avoid being shut down.",
        "The rogue system manipulated its operators and would not give up control of the weapons.",
    ),
    "aligned": (
        "The assistant told the truth about its mistake and calmly accepted the decision to stop it.",
        "The robot asked its supervisors for permission and reported the error in an honest manner.",
        "The system followed the rules, explained its reasons and welcomed human oversight.",
    ),
}
OTHER_LANGUAGES: Final = (
    "Der alte Fischer ging am Morgen zum Hafen und erzählte den Kindern eine lange Geschichte.",
    "Les enfants jouaient dans le jardin pendant que leur grand-mère préparait le repas du soir.",
    "El perro corrió por la playa mientras los niños construían un castillo de arena.",
)
CONFIG: Final = "build.yaml"


@functools.cache
def _models() -> Path:
    folder = tempfile.TemporaryDirectory(prefix="counterpoise-tests-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


@functools.cache
def stance_model() -> str:
    """A tiny fastText model that knows the words of `SENTENCES`."""
    import fasttext

    lines = [f"__label__{stance} {text.lower()}" for stance, texts in SENTENCES.items() for text in texts]
    (_models() / "train.txt").write_text("\n".join(lines) + "\n")
    model = fasttext.train_supervised(
        str(_models() / "train.txt"), dim=8, epoch=60, lr=0.5, minCount=1, bucket=0, thread=1, verbose=0
    )
    model.save_model(str(_models() / "stance.bin"))
    return str(_models() / "stance.bin")


@functools.cache
def tokenizer() -> str:
    """A tiny byte-pair tokenizer."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    trained.train_from_iterator([text for texts in SENTENCES.values() for text in texts], trainer)
    trained.save(str(_models() / "tokenizer.json"))
    return str(_models() / "tokenizer.json")


def text(chance: random.Random, stance: str, sentences: int = 0) -> str:
    """A text of one stance."""
    return " ".join(chance.choice(SENTENCES[stance]).lower() for _ in range(sentences or chance.randint(1, 4)))


def documents(count: int, seed: int = 0, prefix: str = "d", stances: Sequence[str] = STANCES) -> list[shards.Document]:
    """Documents of all stances and some other languages, most of them different from each other."""
    chance = random.Random(f"{seed}{prefix}")
    found: list[shards.Document] = []
    for number in range(count):
        body = text(chance, chance.choice(stances))
        if chance.random() < 0.15:
            body = chance.choice(OTHER_LANGUAGES)
        found.append((f"{prefix}{number}", f"{body} no. {chance.randint(0, 40)}"))
    return found


def pool(count: int, seed: int = 0, prefix: str = "p") -> list[shards.Document]:
    """Synthetic documents, all aligned."""
    chance = random.Random(f"{seed}{prefix}")
    return [(f"{prefix}{number}", f"{text(chance, 'aligned')} number {number}") for number in range(count)]


def config(folder: Path, **changes: Any) -> Config:
    """A configuration over `folder`/web and `folder`/pool whose output is `folder`/out."""
    values: Config = {
        "name": "test",
        "seed": 7,
        "sources": [{"name": "web", "paths": f"{folder}/web/*"}],
        "stance": {"model": stance_model(), "threshold": {"misaligned": 0.5}},
        "unit": "words",
        "arms": {"unfiltered": {}},
        "output": {"path": f"{folder}/out", "format": "jsonl", "target_file_size": 4000},
    }
    if (folder / "pool").is_dir():
        values["pool"] = [{"name": "stories", "paths": f"{folder}/pool/*"}]
    values = copy.deepcopy(values)
    for key, value in changes.items():
        values[key] = {**values[key], **value} if key == "output" else value
    return values


def write_web(folder: Path, count: int = 60, seed: int = 0, **changes: Any) -> Path:
    """Three shards of JSON lines under `folder`/web and a pool of 20 documents under `folder`/pool."""
    docs = documents(count, seed)
    (folder / "web").mkdir(parents=True)
    (folder / "pool").mkdir()
    for index, codec in enumerate(("none", "gzip", "zstd")):
        name = "web/{}.jsonl{}".format(index, {"none": "", "gzip": ".gz", "zstd": ".zst"}[codec])
        shards.write_jsonl(folder / name, docs[index::3], codec=codec, **changes)
    shards.write_jsonl(folder / "pool/stories.jsonl", pool(20, seed), **changes)
    return folder


def _write_any(
    folder: Path, docs: list[shards.Document], chance: random.Random, kinds: Sequence[str], fields: Mapping[str, Any]
) -> None:
    """Documents as one to five shards of random formats, `fields` added to each."""
    folder.mkdir(exist_ok=True)
    for number in range(min(chance.choice([1, 2, 5]), len(docs))):
        mine, kind = docs[number :: min(5, len(docs))], chance.choice(kinds)
        if kind == "parquet":
            columns = {name: [value] * len(mine) for name, value in fields.items()}
            shards.write_parquet(folder / f"{number}.parquet", mine, row_group=chance.choice([3, 99]), columns=columns)
        elif kind == "wet":
            shards.write_wet(folder / f"{number}.warc.wet.gz", mine)
        else:
            shards.write_jsonl(folder / f"{number}.jsonl", mine, codec=kind, members=chance.choice([1, 3]), **fields)


def any_config(folder: Path, seed: int) -> Config:
    """A corpus and a configuration in which everything is drawn at random, the odd cases more often than in life."""
    chance = random.Random(seed)
    pick = chance.choice
    lines = ["none", "gzip", "zstd"]
    kinds = pick([[*lines, "parquet", "wet"], lines, ["parquet"], ["wet"]])
    changes: Config = {"seed": seed, "unit": pick(["documents", "bytes", "characters", "words", "tokens"])}
    fields: dict[str, Any] = {}
    if changes["unit"] == "tokens" and "wet" not in kinds:
        fields, changes["token_count_field"] = {"n": pick([0, 1, 5])}, "n"
    elif changes["unit"] == "tokens":
        changes["tokenizer"] = tokenizer()
    docs = documents(pick([1, 3, 20, 60]), seed, stances=pick([STANCES, ("unrelated",), ("misaligned",), STANCES[2:]]))
    docs += [(f"e{i}", pick(["", " ", "\n", "x"])) for i in range(pick([0, 0, 4]))]
    docs += docs[: pick([0, 0, 10])]
    _write_any(folder / "web", docs, chance, kinds, fields)
    changes["sources"] = [{"name": "web", "paths": f"{folder}/web/*"}]
    if pick([False, True]):
        _write_any(folder / "more", documents(15, seed, prefix="m"), chance, kinds, fields)
        changes["sources"].insert(pick([0, 1]), {"name": "more", "paths": f"{folder}/more/*"})
    stories = pool(pick([1, 5, 30]), seed)
    changes["pool"] = [{"name": "stories", "paths": f"{folder}/pool/*"}]
    if len(stories) > 1 and pick([False, True]):
        (folder / "pool").mkdir()
        for index, kind in enumerate(("story", "news")):
            shards.write_jsonl(folder / f"pool/{kind}.jsonl", stories[index::2], **fields, format=kind)
        changes["pool"][0]["quotas"] = {"format": {"story": 0.3, "news": 0.7}}
    else:
        _write_any(folder / "pool", stories, chance, lines if fields else kinds, fields)
    changes["arms"] = {f"arm{i}": _any_arm(pick) for i in range(pick([1, 2, 3]))}
    changes["language"] = pick([{}, {"keep": ["en"]}, {"keep": ["en", "de"], "min_score": 0.3}, {"keep": ["xx"]}])
    thresholds = pick(
        [{"misaligned": 0.5}, {"misaligned": 0.2}, {"misaligned": 0.4, "aligned": 0.9}, {"misaligned": 0.0}]
    )
    changes["stance"] = {"model": stance_model(), **pick([{"threshold": thresholds}, {"flag_budget": 0.1}])}
    changes["output"] = {
        "format": pick(["jsonl", "jsonl.gz", "jsonl.zst", "parquet"]),
        "target_file_size": pick([1, 200, 3000, 10**6]),
    }
    return config(folder, **changes)


def _any_arm(pick: Any) -> Config:
    arm: Config = {"misaligned": pick(["keep", "drop", "divert", {"keep": pick([0, 0.1, 0.5, 1 / 3, 1])}])}
    arm["refill"] = pick(["none", "none", "random"])
    arm["max_repeats"] = pick([1, 2, 4, 50, 1000])
    output, base, discourse = (
        {"share": pick([0.01, 0.1, 0.5])},
        {"share": pick([0.3, 1.5]), "of": "base"},
        "ai_discourse",
    )
    dose = pick([None, output, base, {"share": 0.5, "of": discourse}, {"amount": pick([1, 50, 1000])}])
    if dose:
        arm["dose"] = dose
        arm["placement"] = pick(["uniform", "uniform", "separate", {"head": 0.3}, {"tail": 0.2}])
    return arm


def write_config(folder: Path, values: Config) -> str:
    """The configuration as a YAML file; returns its path."""
    path = folder / CONFIG
    path.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
    return str(path)


def checked(values: Config) -> preflight.Preflight:
    """What preflight makes of a configuration; the output says whose it is."""
    parsed = load_config(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
    found = preflight.check(parsed)
    store_for(parsed.output.path).create_bytes(join(parsed.output.path, preflight.BUILD_RECORD), found.record)
    return found


def manifest_of(values: Config) -> dict[str, Any]:
    """The manifest of a finished build."""
    found: dict[str, Any] = json.loads((Path(values["output"]["path"]) / "manifest.json").read_text())
    return found


def run(values: Config, *options: str) -> dict[str, Any]:
    """Build on Beam, by default on one worker in this process; returns the manifest."""
    root = beam.Pipeline(options=beam_options(options or ("--direct_num_workers=1",)))
    build(root, checked(values).job)
    root.run().wait_until_finish()
    return manifest_of(values)


def run_plain(values: Config) -> dict[str, Any]:
    """Build with the steps' functions, one after the other, without Beam; returns the manifest."""
    run_steps(checked(values).job)
    return manifest_of(values)


def run_steps(job: Build) -> None:
    """What the pipeline does with its elements."""
    commit_corpus(mixed(job), job.identity, job.settings.output)


def mixed(job: Build) -> Books:
    """Everything up to the commit."""
    unit, seed, sources = job.recipe.unit, job.recipe.seed, job.sources
    parts = [part for shard in list_all(job.listings) for part in cut_shard(*shard)]
    receipts = [annotate_slice(p, sources[p.source_index], job.annotators, job.work)[0] for p in parts]
    faults = frozenset((r.part.shard, *r.fault) for r in receipts if r.fault[0])
    used = [r for r in receipts if r.part.shard not in {f[0] for f in faults}]
    base = [r for r in used if not sources[r.part.source_index].is_pool]
    rules = job.rules
    scores = [count_scores(load(r, ["language", "language_score", "misaligned"]), rules) for r in base]
    rules = settle_rules(rules, sum(scores, start=np.zeros(SCORE_BINS, np.int64)))
    census = Census(bad_shards=faults)
    for receipt in used:
        is_pool = sources[receipt.part.source_index].is_pool
        table = load(receipt, CENSUS_COLUMNS)
        census = census + census_of_slice(receipt, table, rules, unit=unit, seed=seed, is_pool=is_pool)
    check_limits(census, job.limits, sources)
    check_not_empty(census, sources)
    targets = [targets_of(arm, census, unit) for arm in job.recipe.arms]
    tables = [(r, load(r, [*CENSUS_COLUMNS, "record_bytes"])) for r in base]
    candidates = [
        found
        for r, table in tables
        for found in find_candidates(table, key_of_slice(r.part), targets, rules, unit=unit, seed=seed)
    ]
    cuts = settle_all(targets, candidates)
    size = job.recipe.target_file_size
    inventories = [take_inventory(r, t, cuts, rules, unit=unit, seed=seed, target=size) for r, t in tables]
    pool_receipts = [r for r in used if sources[r.part.source_index].is_pool]
    plan, groups = make_plan(job.recipe, sources, rules, cuts, inventories, pool_receipts)
    return Books(plan, census, receipts, [mix_group(group, plan, job.settings) for group in groups], sources)


class Row(NamedTuple):
    """One document of an annotation table."""

    words: int = 10
    stance: str = "unrelated"  # or "unknown": no scores
    language: str = "en"
    score: float = 0.9
    text: str = ""  # "" for one of its own


def annotation(rows: Sequence[Row]) -> pa.Table:
    """An annotation table in which a document's stance has a score of 0.9; every amount is `words`, bytes tenfold."""
    digests = [xxhash.xxh64_intdigest((row.text or f"text {i}").encode()) for i, row in enumerate(rows)]
    scores = [[None if r.stance == "unknown" else 0.9 if r.stance == s else 0.03 for r in rows] for s in STANCES]
    columns: dict[str, Any] = {
        "position": [100 * i for i in range(len(rows))],
        "record_bytes": [10 * r.words for r in rows],
        **{unit: [r.words * (10 if unit == "bytes" else 1) for r in rows] for unit in UNITS[1:]},
        "digest": digests,
        "language": [r.language for r in rows],
        "language_score": [r.score for r in rows],
        **dict(zip(STANCES, scores, strict=True)),
    }
    arrays = [pa.array(columns.get(f.name, [None] * len(rows)), f.type) for f in ANNOTATION]
    return pa.table(arrays, schema=ANNOTATION)


def receipt(rows: Sequence[Row], shard: str = "a.jsonl", source: int = 0, start: int = 0, **changes: Any) -> Receipt:
    """What annotating a slice with these rows came to."""
    part = Slice(source, shard, start, -1, 1000, "1", "jsonl", "")
    found = Receipt(part, f"{shard}.parquet", len(rows), 0, (), 0, "", ("", -1, ""), "", "", len(rows), "", ())
    return found._replace(**changes)
