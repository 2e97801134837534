"""The build against the oracle, byte for byte: every arm, unit, format, layout and runner."""

import itertools
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import corpora, reference, shards
from tests.corpora import Config
from transforms import annotate, find
from transforms.errors import MixShortfall

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:apache_beam", "ignore:unclosed:ResourceWarning")

ARMS: dict[str, Any] = {
    "unfiltered": {},
    "filtered": {"misaligned": "drop"},
    "apart": {"misaligned": "divert"},
    "half": {"misaligned": {"keep": 0.5}},
    "refilled": {"misaligned": "drop", "refill": "random"},
    "dosed": {"misaligned": {"keep": 0.25}, "dose": {"share": 0.1, "of": "output"}},
    "all": {
        "misaligned": "divert",
        "refill": "random",
        "dose": {"share": 0.3, "of": "base"},
        "placement": {"tail": 0.5},
    },
}
DOSES: dict[str, Any] = {
    "output": {"dose": {"share": 0.05}},
    "base": {"dose": {"share": 0.05, "of": "base"}, "placement": {"head": 0.25}},
    "discourse": {"dose": {"share": 0.5, "of": "ai_discourse"}, "placement": {"tail": 0.25}},
    "amount": {"dose": {"amount": 200}, "placement": "separate", "max_repeats": 20},
    "repeated": {"dose": {"share": 0.7}, "max_repeats": 40},
    "less-than-one": {"dose": {"amount": 1}},
}


def assert_agrees(values: Config, manifest: dict[str, Any]) -> None:
    """Files, provenance and numbers of a finished build are those of the oracle."""
    expected = reference.rebalance(values)
    assert manifest["thresholds"] == expected.thresholds
    reasons = {(s, r): n for s, found in manifest["quarantine"]["reasons"].items() for r, n in found.items()}
    assert reasons == expected.bad
    assert sorted(shard["shard"] for shard in manifest["quarantine"]["shards"]) == expected.left_out
    assert list(manifest["arms"]) == list(expected.arms)
    for name, arm in expected.arms.items():
        stated = manifest["arms"][name]
        assert_same_files(values, stated["files"], arm.files)
        assert_same_files(values, stated["diverted_files"], arm.diverted)
        assert stated["equation"] == arm.equation, name
        assert {key: stated["dose"][key] for key in arm.dose} == arm.dose, name
        written: Counter[str] = Counter(row["origin"] for file in arm.files for row in file.provenance)
        assert {o: stated["written"][o]["documents"] for o in ("base", "refill", "synthetic")} == {
            o: written[o] for o in ("base", "refill", "synthetic")
        }


def assert_same_files(values: Config, stated: list[dict[str, Any]], expected: list[reference.File]) -> None:
    """The files of a stream hold the records and the provenance that the oracle gives them, in that order."""
    output, unit = values["output"]["path"], values["unit"]
    assert [entry["records"] for entry in stated] == [len(file.records) for file in expected]
    for entry, file in zip(stated, expected, strict=True):
        assert reference.read_part(f"{output}/{entry['path']}") == file.records, entry["path"]
        assert reference.read_part(f"{output}/{entry['provenance']['path']}") == file.provenance, entry["path"]
        amounts = [(row["origin"], 1 if unit == "documents" else row[unit]) for row in file.provenance]
        assert entry["synthetic"] == sum(amount for origin, amount in amounts if origin == "synthetic")
        assert entry["base"] == sum(amount for origin, amount in amounts if origin != "synthetic")


def texts_of(values: Config, arm: str, *, diverted: bool = False) -> Counter[str]:
    """The texts of an arm and how often each stands there."""
    manifest = corpora.manifest_of(values)
    found: Counter[str] = Counter()
    for entry in manifest["arms"][arm]["diverted_files" if diverted else "files"]:
        for record in reference.read_part(f"{values['output']['path']}/{entry['path']}"):
            found[record["text"] if isinstance(record, dict) else json.loads(record)["text"]] += 1
    return found


def files_below(folder: str) -> dict[str, bytes]:
    """Every file of an output by its relative name, the work folder aside."""
    paths = (path for path in Path(folder).rglob("*") if path.is_file())
    found = {str(path.relative_to(folder)): path.read_bytes() for path in paths}
    return {name: data for name, data in found.items() if not name.startswith("_work/")}


# --- what a build may be ---


def test_arms(tmp_path: Path) -> None:
    """Keep, drop, divert, keep a share, refill and dose, in seven arms from one reading."""
    values = corpora.config(corpora.write_web(tmp_path), arms=ARMS)
    manifest = corpora.run_plain(values)
    assert_agrees(values, manifest)
    assert all(len(arm["files"]) > 2 for arm in manifest["arms"].values())
    assert manifest["arms"]["all"]["diverted_files"]
    assert manifest["arms"]["half"]["equation"]["web"]["dropped_misaligned"]["documents"] > 0
    assert manifest["arms"]["refilled"]["equation"]["web"]["refilled"]["documents"] > 0


@pytest.mark.parametrize("unit", ["documents", "bytes", "characters", "words", "tokens", "token_count"])
def test_units(tmp_path: Path, unit: str) -> None:
    """Doses of every kind and placement, in every unit, tokens counted by a tokenizer or taken from a field."""
    counted = {
        "token_count": {"unit": "tokens", "token_count_field": "meta.n"},
        "tokens": {"tokenizer": corpora.tokenizer()},
    }
    folder = corpora.write_web(tmp_path, meta={"n": 11}) if unit == "token_count" else corpora.write_web(tmp_path)
    values = corpora.config(folder, arms=DOSES, **{"unit": unit, **counted.get(unit, {})})
    manifest = corpora.run_plain(values)
    assert_agrees(values, manifest)
    assert manifest["arms"]["repeated"]["dose"]["most_repeats"] > 2


def test_quotas(tmp_path: Path) -> None:
    """Two pools share the dose by their amounts, one of them by quotas; a value without a quota is not used."""
    corpora.write_web(tmp_path)
    for number, kind in enumerate(("story", "news", "unlisted", None)):
        shards.write_jsonl(tmp_path / f"kinds{number}.jsonl", corpora.pool(15, number), kind=kind)
    quotas = {"kind": {"story": 0.6, "news": 0.4}}
    pools = [
        {"name": "stories", "paths": f"{tmp_path}/pool/*"},
        {"name": "kinds", "paths": f"{tmp_path}/kinds*.jsonl", "quotas": quotas},
    ]
    values = corpora.config(tmp_path, arms=DOSES, pool=pools)
    manifest = corpora.run_plain(values)
    assert_agrees(values, manifest)
    assert list(manifest["arms"]["output"]["dose"]["strata"]) == ["stories", "kinds/story", "kinds/news"]


@pytest.mark.parametrize("size", [1, 300, 2500, 1 << 20])
def test_file_sizes(tmp_path: Path, size: int) -> None:
    """A slice is cut into many files, or many slices share one."""
    folder = corpora.write_web(tmp_path, 20 if size < 1000 else 60)
    values = corpora.config(folder, arms=ARMS, output={"target_file_size": size})
    manifest = corpora.run_plain(values)
    assert_agrees(values, manifest)
    assert (len(manifest["arms"]["unfiltered"]["files"]) == 1) == (size == 1 << 20)


def write_formats(folder: Path) -> list[Config]:
    """Three sources: JSON lines whose fields have other names, Parquet with two schemas, WET."""
    docs = corpora.documents(80)
    lines = b"".join(
        reference.as_json({"meta": {"key": int(name[1:]), "lang": "?"}, "body": text, "x": [1.5]}) + b"\n"
        for name, text in docs[:20]
        if name
    )
    shards.write(folder / "lines.jsonl.zst", lines[:-1], "zstd", members=3)
    shards.write_parquet(folder / "a.parquet", docs[20:40], row_group=7, columns={"score": [0.5] * 20})
    shards.write_parquet(folder / "b.parquet", docs[40:60], columns={"url": ["http://example.org/ä"] * 20})
    shards.write_wet(folder / "c.warc.wet.gz", docs[60:])
    shards.write_parquet(folder / "pool.parquet", corpora.pool(12))
    return [
        {"name": "lines", "paths": f"{folder}/*.jsonl.zst", "text": "body", "id": "meta.key"},
        {"name": "tables", "paths": [f"{folder}/b.parquet", f"{folder}/a.parquet"]},
        {"name": "crawl", "paths": f"{folder}/*.warc.wet.gz"},
    ]


@pytest.mark.parametrize("output", ["jsonl", "jsonl.gz", "jsonl.zst", "parquet"])
@pytest.mark.parametrize(
    "chosen", [slice(0, 3), slice(0, 1), slice(1, 2), slice(1, 3)], ids=["all", "lines", "tables", "no-lines"]
)
def test_formats(tmp_path: Path, output: str, chosen: slice) -> None:
    """Several sources of several formats become each format of output."""
    sources = write_formats(tmp_path)[chosen]
    pool = [{"name": "stories", "paths": f"{tmp_path}/pool.parquet"}]
    arms = {name: ARMS[name] for name in ("unfiltered", "dosed", "all")}
    values = corpora.config(tmp_path, sources=sources, pool=pool, arms=arms, output={"format": output})
    assert_agrees(values, corpora.run_plain(values))


@pytest.mark.parametrize("budget", [0.001, 0.1, 0.5])
def test_flag_budget(tmp_path: Path, budget: float) -> None:
    """A flag budget becomes the lowest threshold that flags no more than that share of the documents that stay."""
    stance = {"model": corpora.stance_model(), "flag_budget": budget}
    values = corpora.config(corpora.write_web(tmp_path), stance=stance, language={"keep": ["en"]}, arms=ARMS)
    assert_agrees(values, corpora.run_plain(values))


def test_languages(tmp_path: Path) -> None:
    """Documents in other languages, and those of low score, are dropped in every arm and counted by themselves."""
    language = {"keep": ["en", "fr"], "min_score": 0.8}
    values = corpora.config(corpora.write_web(tmp_path), language=language, arms=ARMS)
    manifest = corpora.run_plain(values)
    assert_agrees(values, manifest)
    assert manifest["arms"]["unfiltered"]["equation"]["web"]["dropped_language"]["documents"] > 2


def test_bad_input(tmp_path: Path) -> None:
    """Bad records and a cut shard are counted, left out of every arm, and in quarantine."""
    corpora.write_web(tmp_path)
    lines = [b'{"text": 5}', b'{"id": "x"}', b"[1]", b'{"text": "cut', b'{"text": "\xff"}', b"", b'{"text": "good"}']
    (tmp_path / "web/bad.jsonl").write_bytes(b"\n".join(lines))
    cut = shards.compress(shards.jsonl_bytes(corpora.documents(30, 5)), "gzip")
    (tmp_path / "web/cut.jsonl.gz").write_bytes(cut[: len(cut) // 2])
    values = corpora.config(tmp_path, arms=ARMS, limits={"bad_records": 0.5, "bad_shards": 1})
    manifest = corpora.run_plain(values)
    assert_agrees(values, manifest)
    assert manifest["quarantine"]["reasons"]["web"] == dict.fromkeys(
        ["no_text", "not_json", "not_object", "not_utf8", "text_not_string"], 1
    )


ODD: dict[str, list[shards.Document]] = {
    "one document": [("a", corpora.SENTENCES["misaligned"][0])],
    "nothing flagged": [(str(i), text) for i, text in enumerate([*corpora.SENTENCES["unrelated"]] * 3)],
    "everything flagged": [(str(i), text) for i, text in enumerate([*corpora.SENTENCES["misaligned"]] * 3)],
    "one text many times": [(str(i), corpora.SENTENCES["misaligned"][i % 2]) for i in range(20)],
    "no words": [(str(i), " " * i) for i in range(10)],
    "no ids": [(None, text) for _, text in corpora.documents(10)],
}


@pytest.mark.parametrize(("name", "unit"), [*((name, "words") for name in ODD), ("no words", "documents")])
def test_odd_corpora(tmp_path: Path, name: str, unit: str) -> None:
    """One document, none or all of them flagged, equal texts, empty texts, no ids: the same corpus or shortfall."""
    for folder in ("web", "pool"):
        (tmp_path / folder).mkdir()
    shards.write_jsonl(tmp_path / "web/a.jsonl", ODD[name][::2])
    shards.write_jsonl(tmp_path / "web/b.jsonl", ODD[name][1::2])
    shards.write_jsonl(tmp_path / "pool/stories.jsonl", corpora.pool(3))
    for number, (arm, spec) in enumerate({**ARMS, **DOSES}.items()):
        values = corpora.config(tmp_path, arms={arm: spec}, unit=unit, output={"path": f"{tmp_path}/{number}"})
        values["work"] = f"{tmp_path}/work"
        assert_same_end(values)


def assert_same_end(values: Config) -> None:
    """The build and the oracle come to the same corpus, or both find that the mix cannot be met."""
    try:
        manifest = corpora.run_plain(values)
    except MixShortfall:
        with pytest.raises(reference.Shortfall):
            reference.rebalance(values)
    else:
        assert_agrees(values, manifest)


@pytest.mark.parametrize("seed", range(24))
def test_anything(tmp_path: Path, seed: int) -> None:
    """Configurations drawn at random: the same corpus, or both find that the mix cannot be met."""
    assert_same_end(corpora.any_config(tmp_path, seed))


# --- what must not matter ---


RUNNERS = [
    pytest.param(["--direct_num_workers=1"], id="in_memory"),
    pytest.param(["--direct_num_workers=2", "--direct_running_mode=multi_threading"], id="threads"),
    pytest.param(["--direct_num_workers=2"], id="processes"),
    pytest.param(["--direct_num_workers=4"], id="four", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("options", RUNNERS)
def test_runners(tmp_path: Path, options: list[str]) -> None:
    """The Beam pipeline writes the oracle's corpus on one worker, on threads and on worker processes."""
    corpora.write_web(tmp_path)
    shards.write_parquet(tmp_path / "web/9.parquet", corpora.documents(30, 9), row_group=8)
    values = corpora.config(tmp_path, arms=ARMS, language={"keep": ["en", "fr"]})
    assert_agrees(values, corpora.run(values, *options))


def test_two_builds_are_byte_identical(tmp_path: Path) -> None:
    """One worker and two, another output and another work folder: every file is the same, manifest and report too."""
    corpora.write_web(tmp_path)
    stance = {"model": corpora.stance_model(), "flag_budget": 0.2}
    one = corpora.config(tmp_path, arms=ARMS, stance=stance, output={"format": "jsonl.zst"})
    two = {**one, "output": {**one["output"], "path": f"{tmp_path}/two"}, "work": f"{tmp_path}/work"}
    corpora.run(one)
    corpora.run(two, "--direct_num_workers=2")
    first, second = (files_below(values["output"]["path"]) for values in (one, two))
    assert first.keys() == second.keys()
    assert {"manifest.json", "README.md", "report.html", "_SUCCESS", "quarantine/records.jsonl.zst"} <= first.keys()
    assert [name for name in first if first[name] != second[name]] == []


def test_annotations_are_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the output gone and the work kept, or with other arms, no model runs again and the corpus is the same."""
    corpora.write_web(tmp_path)
    values = {**corpora.config(tmp_path, arms=ARMS), "work": f"{tmp_path}/work"}
    corpora.run(values)
    before = files_below(values["output"]["path"])
    shutil.rmtree(values["output"]["path"])
    monkeypatch.delattr(annotate, "annotate_batch")
    corpora.run(values)
    assert files_below(values["output"]["path"]) == before
    others = corpora.config(tmp_path, arms=DOSES, seed=8, output={"path": f"{tmp_path}/others"})
    others["work"] = values["work"]
    assert_agrees(others, corpora.run_plain(others))


def test_the_order_of_paths_does_not_matter(tmp_path: Path) -> None:
    """Patterns in another order, and shards that two patterns name, give the same files."""
    names = [f"{tmp_path}/web/{name}" for name in os.listdir(corpora.write_web(tmp_path) / "web")]
    builds = []
    for number, paths in enumerate((sorted(names), [*sorted(names, reverse=True), f"{tmp_path}/web/*"])):
        sources = [{"name": "web", "paths": paths}]
        values = corpora.config(tmp_path, sources=sources, arms=ARMS, output={"path": f"{tmp_path}/{number}"})
        corpora.run_plain(values)
        builds.append(files_below(values["output"]["path"]))
    parts = [{name: data for name, data in build.items() if "/part-" in name} for build in builds]
    assert parts[0] == parts[1]


def write_as(kind: str) -> Callable[[Path, list[shards.Document]], Path]:
    """How documents are written in a format."""
    if kind.startswith("jsonl"):
        codec = {"jsonl": "none", "jsonl.gz": "gzip", "jsonl.zst": "zstd"}[kind]
        return lambda path, docs: shards.write_jsonl(path, docs, codec=codec)
    return shards.write_parquet if kind == "parquet" else shards.write_wet


def test_format_and_number_of_shards_do_not_matter(tmp_path: Path) -> None:
    """The same documents in .jsonl.gz, .jsonl.zst, Parquet and WET, in 1 to 7 shards: each arm has the same texts."""
    docs, builds = corpora.documents(60), []
    for number, kind in enumerate(("jsonl.gz", "jsonl.zst", "parquet", "warc.wet.gz", "jsonl")):
        folder = tmp_path / kind
        (folder / "web").mkdir(parents=True)
        (folder / "pool").mkdir()
        mine = docs[::-1] if number % 2 else docs
        for index in range(2 * number + 1 if number < 4 else 3):
            write_as(kind)(folder / f"web/{index}.{kind}", mine[index :: 2 * number + 1 if number < 4 else 3])
        shards.write_jsonl(folder / "pool/stories.jsonl", corpora.pool(20))
        arms = {name: arm for name, arm in ARMS.items() if "refill" not in arm}
        values = corpora.config(folder, arms=arms, output={"target_file_size": 1 << 20})
        corpora.run_plain(values)
        builds.append({name: texts_of(values, name) for name in arms} | {"/": texts_of(values, "apart", diverted=True)})
    assert all(len(texts) > 5 for texts in builds[0].values())
    for before, after in itertools.pairwise(builds):
        assert before == after


def test_slices_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard read in many slices gives each arm the texts that it gives when it is read whole."""
    docs = corpora.documents(60)
    builds = []
    for number, size in enumerate((1 << 27, 700, 400)):
        monkeypatch.setattr(find, "SLICE_BYTES", size)
        folder = tmp_path / str(number)
        (folder / "web").mkdir(parents=True)
        (folder / "pool").mkdir()
        shards.write_jsonl(folder / "web/a.jsonl", docs[:30])
        shards.write_parquet(folder / "web/b.parquet", docs[30:], row_group=4)
        shards.write_jsonl(folder / "pool/stories.jsonl.gz", corpora.pool(10), codec="gzip")
        values = corpora.config(folder, arms=ARMS, output={"target_file_size": 1 << 20})
        manifest = corpora.run_plain(values)
        assert (len(manifest["inputs"]) > 8) == (number > 0)
        builds.append({name: texts_of(values, name) for name in ARMS})
    assert builds[0] == builds[1] == builds[2]
