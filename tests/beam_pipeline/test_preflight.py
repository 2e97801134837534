"""What is checked before anything is paid for: models, inputs and output, every problem at once, nothing written."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from beam_pipeline import preflight
from beam_pipeline.config import ArmConfig, load_config
from beam_pipeline.preflight import Preflight, arm_of
from classifiers.model import ModelError
from tests import corpora, shards
from tests.corpora import Config
from transforms.arms import Arm
from transforms.errors import ConfigError, OutputConflict, StorageError


def checked(values: Config) -> Preflight:
    """Preflight of a configuration; nothing is written."""
    return preflight.check(load_config(yaml.safe_dump(values)))


def conflict(values: Config) -> str:
    """Why the output cannot be used."""
    with pytest.raises(OutputConflict) as error:
        checked(values)
    return str(error.value)


def files_of(folder: Path) -> dict[Path, bytes]:
    """Everything in a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_preflight_reads_and_writes_nothing(tmp_path: Path) -> None:
    """What is going to be read is counted; neither output nor work folder come into being."""
    values = corpora.config(corpora.write_web(tmp_path))
    before = files_of(tmp_path)
    found = checked(values)
    assert (found.state, found.shards) == ("new", 4)
    assert found.input_bytes == sum(len(data) for data in before.values())
    assert files_of(tmp_path) == before
    assert not (tmp_path / "out").exists()


def test_every_problem_at_once(tmp_path: Path) -> None:
    """Paths, tokenizer and model, each with its key."""
    corpora.write_web(tmp_path)
    values = corpora.config(
        tmp_path,
        sources=[{"name": "web", "paths": f"{tmp_path}/none/*"}, {"name": "more", "paths": f"{tmp_path}/gone.jsonl"}],
        stance={"model": f"{tmp_path}/no.bin", "threshold": {"misaligned": 0.5}},
        unit="tokens",
        tokenizer=f"{tmp_path}/tokenizer.json",
    )
    with pytest.raises(ConfigError) as error:
        checked(values)
    text = "\n".join(error.value.problems)
    assert f"sources.web.paths: nothing matches {tmp_path}/none/*" in text
    assert f"sources.more.paths: nothing matches {tmp_path}/gone.jsonl" in text
    assert f"tokenizer: {tmp_path}/tokenizer.json does not exist; give the path of a tokenizer.json" in text


@pytest.mark.parametrize("name", ["no.bin", "text.bin"])
def test_models_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    """A stance model that is missing, or a file that is no model."""
    (corpora.write_web(tmp_path) / "text.bin").write_text("not a model")
    with pytest.raises(ModelError, match=name):
        checked(corpora.config(tmp_path, stance={"model": f"{tmp_path}/{name}", "threshold": {"misaligned": 0.5}}))


def test_a_language_model_that_cannot_be_read(tmp_path: Path) -> None:
    """The key is named."""
    values = corpora.config(corpora.write_web(tmp_path), language={"model": f"{tmp_path}/lid.bin"})
    with pytest.raises(ModelError, match=r"language.model: .*lid.bin"):
        checked(values)


def test_a_tokenizer_that_is_none(tmp_path: Path) -> None:
    """JSON that is no tokenizer."""
    (corpora.write_web(tmp_path) / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"tokenizer: .* is not a tokenizer.json of the tokenizers library"):
        checked(corpora.config(tmp_path, unit="tokens", tokenizer=f"{tmp_path}/tokenizer.json"))


def test_inputs_in_the_output(tmp_path: Path) -> None:
    """A pattern that would read the build's own output, or its work folder, is refused."""
    corpora.write_web(tmp_path)
    for folder in ("out/arm", "work/annotations"):
        (tmp_path / folder).mkdir(parents=True)
        shards.write_jsonl(tmp_path / folder / "a.jsonl", corpora.documents(2))
        values = corpora.config(tmp_path, sources=[{"name": "web", "paths": f"{tmp_path}/{folder}/*"}])
        with pytest.raises(ConfigError, match="lies in this build's own"):
            checked({**values, "work": f"{tmp_path}/work"})


# --- the output ---


def test_an_output_that_is_not_empty(tmp_path: Path) -> None:
    """Files of others are never mixed with a corpus."""
    values = corpora.config(corpora.write_web(tmp_path))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.txt").write_text("mine")
    assert f"output.path {tmp_path}/out is not empty (it holds {tmp_path}/out/notes.txt)" in conflict(values)


def test_an_output_with_nothing_but_work(tmp_path: Path) -> None:
    """Annotations in the work folder are no reason to refuse: plan and annotate leave them there."""
    values = corpora.config(corpora.write_web(tmp_path))
    (tmp_path / "out/_work/annotations").mkdir(parents=True)
    (tmp_path / "out/_work/annotations/x").write_text("")
    assert checked(values).state == "new"


def test_new_resumed_done(tmp_path: Path) -> None:
    """The states of an output in the order of a build."""
    values = corpora.config(corpora.write_web(tmp_path))
    assert checked(values).state == "new"
    corpora.checked(values)
    assert checked(values).state == "resumed"
    corpora.run_plain(values)
    assert checked(values).state == "done"


CHANGES: dict[str, dict[str, Any]] = {
    "config_sha256": {"seed": 8},
    "name": {"name": "other"},
    "annotators": {"limits": {"record_bytes": 1000}},
}


@pytest.mark.parametrize("key", CHANGES)
def test_an_output_of_another_build(tmp_path: Path, key: str) -> None:
    """Another configuration, name or annotator is refused, and the message says what differs."""
    values = corpora.config(corpora.write_web(tmp_path))
    corpora.checked(values)
    message = conflict(corpora.config(tmp_path, **CHANGES[key]))
    assert "belongs to another build (differs in " in message
    assert key in message.partition("differs in ")[2]
    assert "choose another output.path" in message


def test_an_output_of_other_inputs(tmp_path: Path) -> None:
    """A shard more, or one that was touched, is another build."""
    values = corpora.config(corpora.write_web(tmp_path))
    corpora.checked(values)
    shards.write_jsonl(tmp_path / "web/new.jsonl", corpora.documents(1, 9))
    assert "differs in inputs_sha256" in conflict(values)
    (tmp_path / "web/new.jsonl").unlink()
    assert checked(values).state == "resumed"
    shards.write_jsonl(tmp_path / "web/0.jsonl", corpora.documents(1, 9))
    assert "differs in inputs_sha256" in conflict(values)


def test_a_broken_record(tmp_path: Path) -> None:
    """A `_BUILD.json` that is not JSON is another's."""
    values = corpora.config(corpora.write_web(tmp_path))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/_BUILD.json").write_text("{")
    assert "its _BUILD.json cannot be read" in conflict(values)


def test_the_record_does_not_name_places(tmp_path: Path) -> None:
    """The same build into another output has the same record."""
    values = corpora.config(corpora.write_web(tmp_path))
    one, two = checked(values), checked({**values, "output": {**values["output"], "path": f"{tmp_path}/two"}})
    assert one.record == two.record
    assert json.loads(one.record)["name"] == "test"


def test_a_store_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Storage errors pass as they are where nothing else is wrong."""
    values = corpora.config(corpora.write_web(tmp_path))

    def refuse(*_: object) -> None:
        raise StorageError("no permission")

    monkeypatch.setattr(preflight, "output_state", refuse)
    with pytest.raises(StorageError, match="no permission"):
        checked(values)


# --- from configuration to steps ---


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, Arm("a")),
        ({"misaligned": "drop", "refill": "random"}, Arm("a", keep_share=0, refill=True)),
        ({"misaligned": "divert"}, Arm("a", keep_share=0, divert=True)),
        ({"misaligned": {"keep": 0.25}}, Arm("a", keep_share=0.25)),
        ({"dose": {"share": 0.1}}, Arm("a", dose_share=0.1)),
        ({"dose": {"share": 2, "of": "base"}, "max_repeats": 9}, Arm("a", dose_share=2, dose_of="base", max_repeats=9)),
        ({"dose": {"amount": 5}, "placement": "separate"}, Arm("a", dose_amount=5, placement="separate")),
        ({"placement": {"head": 0.1}}, Arm("a", placement="head", placement_share=0.1)),
        ({"placement": {"tail": 0.2}}, Arm("a", placement="tail", placement_share=0.2)),
    ],
)
def test_arms(values: dict[str, Any], expected: Arm) -> None:
    """Every form of an arm in the configuration, as the steps know it."""
    assert arm_of("a", ArmConfig.model_validate(values)) == expected


def test_rules_and_quotas(tmp_path: Path) -> None:
    """Thresholds, budget, languages, quotas and pools arrive where they are used."""
    corpora.write_web(tmp_path)
    pool = [{"name": "p", "paths": f"{tmp_path}/pool/*", "quotas": {"id": {"p1": 1.0}}, "id": ""}]
    stance = {"model": corpora.stance_model(), "flag_budget": 0.1, "threshold": None}
    job = checked(
        corpora.config(tmp_path, pool=pool, stance=stance, language={"keep": ["en", "de"], "min_score": 0.5})
    ).job
    assert job.rules == (("en", "de"), 0.5, (), 0.1)
    assert job.recipe.quotas == {"p": {"p1": 1.0}}
    assert [(s.name, s.is_pool, s.index, s.id, s.quota_field) for s in job.sources] == [
        ("web", False, 0, "id", ""), ("p", True, 1, "", "id"),
    ]  # fmt: skip


def test_the_threshold_of_the_model_is_the_default(tmp_path: Path) -> None:
    """Without threshold and budget the stance model's own is taken."""
    values = corpora.config(corpora.write_web(tmp_path), stance={"model": corpora.stance_model()})
    assert checked(values).job.rules.thresholds == (("misaligned", 0.8),)
