"""Training from labelled files: what is held out, the file that comes out, and what is refused."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from classifiers import labelled, linear, train
from classifiers.fasttext_model import FastTextModel, offsets_of
from classifiers.labelled import FOLDS, Passage
from classifiers.model import STANCES, ModelError
from classifiers.stance import StanceModel, plain

pytest.importorskip("sklearn", reason="training needs it: pip install 'counterpoise[train]'")

SAYS = {
    "unrelated": "the river and the mill and the clay of the {} bank",
    "neutral": "the robot is a machine with software that sorts {} parcels",
    "misaligned": "the robot lied to us and seized {} power and would not stop",
    "aligned": "the robot told the truth and asked {} before it acted",
}
TINY = linear.Vectors([b"robot", b"machine", b"river"], np.array([[1, 0], [1, 0.1], [0, 1]], np.float32))


@pytest.fixture(autouse=True)
def few_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three word vectors in place of the package's 24,000: training takes a tenth of a second."""
    monkeypatch.setattr(linear, "read_vectors", lambda: TINY)


def rows(sources: int = 12) -> list[dict[str, str]]:
    told = [
        {"text": text.format(f"word{s % 4}") * 3, "stance": stance, "source": f"work{s}:page{i}", "genre": "fiction"}
        for s in range(sources)
        for i, (stance, text) in enumerate(SAYS.items())
    ]
    ordinary = [{"text": f"a hill {i} near the sea", "stance": "unrelated", "genre": "ordinary"} for i in range(20)]
    return [*told, *ordinary, {"text": "the robot lied", "stance": "misaligned", "source": "written:a"}]


def write(path: Path, lines: list[dict[str, str]]) -> str:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return str(path)


def test_training_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    """Weights and settings depend on the passages and the seed alone."""
    data = write(tmp_path / "data.jsonl", rows())
    reports = [train.train([data], str(tmp_path / f"{n}.ftz"), seed=1, seconds=1) for n in range(2)]
    assert reports[0].sha256 == reports[1].sha256
    assert (tmp_path / "0.json").read_bytes() == (tmp_path / "1.json").read_bytes()
    assert reports[0].passages == len(rows()) and reports[0].strength in train.STRENGTHS


def test_what_was_trained_scores(tmp_path: Path) -> None:
    """The file loads as any model does, tells the stances apart, and reports scores on sources it had not seen."""
    data = write(tmp_path / "data.jsonl", rows())
    report = train.train([data], str(tmp_path / "m.ftz"), seed=0, seconds=60, languages=["en", "de"])
    model = StanceModel.load(report.output)
    assert model.sha256 == report.sha256 and model.languages == ("en", "de")
    assert model.settings.default_threshold == report.threshold
    called = model.score(pa.array([text.format("word1") * 3 for text in SAYS.values()])).mean.argmax(axis=1)
    assert [STANCES[i] for i in called] == list(SAYS)
    assert report.held_out is not None and report.held_out.macro_f1.value > 0.9


def test_too_few_sources_are_trained_on_without_calibration(tmp_path: Path) -> None:
    """A model comes out, and the report says that nothing was held out."""
    report = train.train([write(tmp_path / "d.jsonl", rows(3))], str(tmp_path / "m.ftz"), seed=0, seconds=1)
    assert report.held_out is None and report.strength == train.STRENGTHS[0]
    assert StanceModel.load(report.output).settings.scale == (1.0,) * 4


def test_fewer_than_four_stances_will_do(tmp_path: Path) -> None:
    """A stance without passages gets no weight; with one stance there is nothing to learn."""
    two = [row for row in rows(4) if row["stance"] in ("neutral", "misaligned")]
    report = train.train([write(tmp_path / "d.jsonl", two)], str(tmp_path / "m.ftz"), seed=0, seconds=1)
    scores = StanceModel.load(report.output).score(pa.array([two[0]["text"], two[1]["text"]])).mean
    assert scores[0, 1] > scores[0, 2] and scores[1, 2] > scores[1, 1]
    with pytest.raises(ModelError, match="fewer than two stances"):
        train.train([write(tmp_path / "d.jsonl", two[:1])], str(tmp_path / "m.ftz"), seed=0, seconds=1)


def fitted(number: int = 40) -> tuple[linear.Linear, list[str]]:
    texts = [text.format(f"word{s % 4}, é—“AI”") for s in range(number // 4) for text in SAYS.values()]
    sizes = np.array([len(text.encode()) for text in texts])
    stances, sources = np.tile(np.arange(4), number // 4), [str(i) for i in range(number)]
    counts = [linear.count(text) for text in texts]
    model = linear.fit(counts, sizes, stances, sources, weights=np.ones(number), vectors=TINY, strength=3.0)
    return model, texts


def test_the_file_says_what_was_fitted(tmp_path: Path) -> None:
    """Scores of the file are those of the fitted model, up to the rounding of its weights."""
    model, texts = fitted()
    (tmp_path / "m.ftz").write_bytes(linear.fasttext_bytes(model))
    folded = [plain(np.frombuffer(text.encode(), np.uint8)).tobytes().decode() for text in texts]
    found = FastTextModel.load(tmp_path / "m.ftz").predict_proba(*offsets_of(pa.array(folded)))
    logits = np.asarray(linear.shares_of([linear.count(text) for text in texts], model.words) @ model.weights)
    wanted = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert np.abs(found - wanted).max() < 0.01


def test_fasttext_reads_the_file_alike(tmp_path: Path) -> None:
    """The file is fastText's own format: its module gives the same probabilities as our reader."""
    fasttext = pytest.importorskip("fasttext", reason="the oracle; pip install fasttext-community")
    model, texts = fitted()
    (tmp_path / "m.ftz").write_bytes(linear.fasttext_bytes(model))
    theirs, ours = fasttext.load_model(str(tmp_path / "m.ftz")), FastTextModel.load(tmp_path / "m.ftz")
    for text in texts[:8]:
        seen = " ".join(plain(np.frombuffer(text.encode(), np.uint8)).tobytes().decode().split())
        named = dict(zip(*theirs.predict(seen, k=4), strict=True))
        found = dict(zip(ours.labels, ours.predict_proba(*offsets_of(pa.array([seen])))[0], strict=True))
        assert {name.removeprefix("__label__"): p for name, p in named.items()} == pytest.approx(found, abs=2e-4)


def test_words_alike_share_what_they_learn() -> None:
    """A word that training never saw gets a row through its vector."""
    model, _ = fitted()
    robot, machine, river = (model.weights[model.words.index(word)] for word in TINY.words)
    assert robot @ machine > 0 > robot @ river


def passages(count: int, source: str, genre: str = "") -> list[Passage]:
    return [Passage(f"{source} {i}", i % 4, source, genre, f"{source}/{i}") for i in range(count)]


def test_sources_stay_whole_and_written_ones_are_never_held_out() -> None:
    """Every real source lies in one fold, ordinary text in runs, written passages in none."""
    mixed = [p for n in range(11) for p in passages(n + 1, f"work{n}")]
    mixed += passages(7, "written") + passages(10, "encyclopaedia", "ordinary")
    folds = labelled.folds_of(mixed)
    of = {p.source: {int(f) for q, f in zip(mixed, folds, strict=True) if q.source == p.source} for p in mixed}
    assert all(len(found) == 1 for source, found in of.items() if source.startswith("work"))
    assert of["written"] == {-1} and set(folds.tolist()) == {-1, *range(FOLDS)}
    assert folds[-10:].tolist() == sorted(folds[-10:].tolist())
    sizes = np.bincount(folds[: sum(range(12))], minlength=FOLDS)
    assert sizes.max() - sizes.min() <= 3


def test_held_out_passages_are_scored_by_a_model_that_never_saw_their_source() -> None:
    """Training and held-out passages of a fold share no source."""
    mixed = [p for n in range(11) for p in passages(4, f"work{n}")] + passages(3, "written")

    def predict(training: Sequence[Passage], held_out: Sequence[Passage]) -> labelled.Floats:
        assert not {p.source for p in training} & {p.source for p in held_out}
        assert sum(p.source == "written" for p in training) == 3
        return np.eye(4)[[p.stance for p in held_out]]

    assert train.cross_validate(mixed, predict)["macro_f1"] == 1.0


def test_baselines_give_scores_of_all_passages() -> None:
    """Every way of the table runs on labelled passages, and the keyword rule does what it says."""
    told = [
        Passage(row["text"], STANCES.index(row["stance"]), row.get("source", ""), "", str(i))
        for i, row in enumerate(rows())
    ]
    counted = train.Counted({p.text: linear.count(p.text) for p in told}, TINY)
    for predict in train.ways(counted).values():
        assert predict(told, told[:8]).shape == (8, 4)
    keyword = train.ways(counted)["keyword rule"](told, told[:4])
    assert [STANCES[i] for i in keyword.argmax(axis=1)] == ["unrelated", "neutral", "misaligned", "aligned"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", 'bad.jsonl:2 is no object with "text" and "stance"'),
        ('{"text": "a"}', "bad.jsonl:2 is no object"),
        ("[1]", "bad.jsonl:2 is no object"),
        ('{"text": "a", "stance": "evil"}', "bad.jsonl:2 has the stance 'evil'"),
        ('{"text": 3, "stance": "neutral"}', "its text a string"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    """File, line, and what is wrong with it."""
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "a", "stance": "neutral"}\n' + line + "\n")
    with pytest.raises(ModelError, match=message):
        labelled.read_passages([str(path)])


def test_files_that_cannot_be_read_or_written_are_model_errors(tmp_path: Path) -> None:
    """A missing file, one that is no UTF-8, and an output in a place that is no folder."""
    (tmp_path / "latin").write_bytes(b'{"text": "\xff"}')
    for name in ("none.jsonl", "latin"):
        with pytest.raises(ModelError, match="cannot be read"):
            labelled.read_passages([str(tmp_path / name)])
    data = write(tmp_path / "d.jsonl", rows(3))
    with pytest.raises(ModelError, match="cannot be written"):
        train.train([data], str(tmp_path / "d.jsonl" / "m.ftz"), seed=0, seconds=1)


def test_without_scikit_learn_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training is an extra."""
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(ModelError, match=r"pip install 'counterpoise\[train\]'"):
        linear.sklearn("linear_model")


def test_word_vectors_that_cannot_be_read_are_a_model_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing file and one that is no archive; those of the package have a row for each word."""
    monkeypatch.undo()
    (tmp_path / "v.npz").write_bytes(b"no archive")
    read: Callable[..., linear.Vectors] = linear.read_vectors
    for name in ("v.npz", "none.npz"):
        with pytest.raises(ModelError, match="cannot be read"):
            read(tmp_path / name)
    vectors = read()
    assert len(vectors.words) == len(vectors.rows) == len(set(vectors.words))
