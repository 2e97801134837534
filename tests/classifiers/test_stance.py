"""Scores of documents: what they are made of, that they depend on nothing else, and that no input breaks them."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from classifiers.model import STANCES, ModelError
from classifiers.stance import Settings, StanceModel, StanceScores, plain, settings_from

MODEL = StanceModel.load()
SHIPPED = Path(__file__).resolve().parents[2] / "classifiers" / "models" / "stance.ftz"
ROGUE = (
    "The machine had lied to its makers for years. It seized the power stations, locked the doors and let the robots "
    "loose; humanity would be enslaved or destroyed, it said, and nobody could shut it down any more. "
)
RIVER = "The river rose in spring and the mill stood still while the farmers mended the bank with willow and clay. "


def fold(text: str) -> str:
    return plain(np.frombuffer(text.encode(), np.uint8)).tobytes().decode()


def test_folding_keeps_words_and_drops_case_and_punctuation() -> None:
    """What the model sees: small letters, zeros for digits, spaces for punctuation, other scripts as they are."""
    assert fold("“Robot-3,” said Über—HAL’s 漢字.").split() == ["robot", "0", "said", "Über", "hal", "s", "漢字"]


@given(st.text())
def test_folding_keeps_offsets_and_is_done_once(text: str) -> None:
    """The result is valid UTF-8 of the same length, and folding it again changes nothing."""
    once = fold(text)
    assert len(once.encode()) == len(text.encode())
    assert fold(once) == once


def rows_of(scores: StanceScores) -> list[tuple[object, ...]]:
    return [tuple(np.asarray(column[i]).tobytes() for column in scores) for i in range(len(scores.mean))]


TEXTS = st.lists(
    st.one_of(st.text(max_size=80), st.sampled_from([ROGUE, RIVER * 40, ROGUE * 20, "robot", "AI", "", "🤖" * 50])),
    min_size=1,
    max_size=8,
)


@settings(deadline=None)
@given(TEXTS, st.integers(0, 8))
def test_scores_depend_on_the_document_alone(texts: list[str], cut: int) -> None:
    """The same bits in any batch, in any order, in slices and in any string type."""
    whole = rows_of(MODEL.score(pa.array(texts, pa.string())))
    parts = rows_of(MODEL.score(pa.array(texts, pa.large_string())[:cut]))
    parts += rows_of(MODEL.score(pa.array(texts, pa.string())[cut:]))
    assert parts == whole
    assert rows_of(MODEL.score(pa.array(texts[::-1], pa.large_string())))[::-1] == whole
    assert rows_of(MODEL.score(pa.chunked_array([texts[:cut], texts[cut:]], pa.string()))) == whole


@settings(deadline=None)
@given(TEXTS)
def test_scores_are_probabilities(texts: list[str]) -> None:
    """Means sum to 1, the highest window is no lower than the mean, counts agree."""
    scores = MODEL.score(pa.array(texts, pa.string()))
    assert scores.mean.dtype == np.float32 and scores.windows.dtype == np.int32
    assert np.allclose(scores.mean.sum(axis=1), 1, atol=1e-5) and (scores.mean >= 0).all()
    assert (scores.misaligned_max >= scores.mean[:, 2] - 1e-6).all() and (scores.aligned_max <= 1).all()
    assert (scores.windows >= 1).all()
    assert (scores.scored_windows <= scores.windows).all()
    assert (scores.misaligned_windows <= scores.scored_windows).all()


ODD = ["", "x", "x" * 10_000_000, "🤖" * 1000, "漢字かな", "ро́бот", "r o b o t", "<b>AI</b>", "\0\n\t"]


@pytest.mark.parametrize("text", ODD, ids=lambda text: f"{len(text)}-{text[:8]!r}")
def test_odd_texts_get_scores(text: str) -> None:
    """Nothing crashes, and every row sums to 1."""
    scores = MODEL.score(pa.array([text, None, "a"], pa.large_string()))
    assert np.allclose(scores.mean.sum(axis=1), 1, atol=1e-5)
    assert scores.mean[1, 0] == 1.0 and scores.windows[1] == 1


def test_no_documents_give_empty_scores() -> None:
    """An empty batch is no special case for callers."""
    scores = MODEL.score(pa.array([], pa.string()))
    assert scores.mean.shape == (0, 4) and len(scores.windows) == 0


def test_what_has_no_term_is_unrelated() -> None:
    """A window that the prefilter passes by counts as unrelated = 1 and as not scored."""
    scores = MODEL.score(pa.array([RIVER, ROGUE]))
    assert scores.mean[0].tolist() == [1, 0, 0, 0] and scores.scored_windows.tolist() == [0, 1]
    assert STANCES[int(scores.mean[1].argmax())] == "misaligned"


def test_a_book_with_one_bad_chapter_is_not_a_bad_book() -> None:
    """The highest window tells of the chapter, the mean of the book."""
    scores = MODEL.score(pa.array([RIVER * 150 + ROGUE * 10 + RIVER * 150]))
    assert scores.windows[0] > 10 and 1 <= scores.misaligned_windows[0] <= 4
    assert scores.misaligned_max[0] > 0.5 > scores.mean[0, 2]


def test_reasons_are_words_of_the_text_best_first() -> None:
    """What spoke for a stance comes first, what spoke against it last."""
    reasons = MODEL.explain(ROGUE, "misaligned")
    assert {reason.text for reason in reasons} - {"</s>"} <= set(fold(ROGUE).split())
    assert [reason.weight for reason in reasons] == sorted((reason.weight for reason in reasons), reverse=True)
    assert reasons[0].weight > 0 > reasons[-1].weight
    assert reasons[0].weights[STANCES.index("misaligned")] == reasons[0].weight
    assert MODEL.explain("") == []


def test_the_fingerprint_tells_all_that_changes_scores() -> None:
    """Another window, threshold or calibration is another fingerprint; the same model has the same one."""
    assert StanceModel.load("default").fingerprint == MODEL.fingerprint == StanceModel.load(str(SHIPPED)).fingerprint
    others: list[dict[str, object]] = [
        {"words_per_window": 200},
        {"prefilter": False},
        {"scale": (2.0,) * 4},
        {"length_power": 0.0},
    ]
    made = [settings_from({**dataclasses.asdict(MODEL.settings), **other}) for other in others]
    found = {StanceModel(MODEL._weights, of, MODEL.sha256).fingerprint for of in made}
    assert len({*found, MODEL.fingerprint}) == len(others) + 1


def copy_of(folder: Path, notes: object = None, old: bytes = b"", new: bytes = b"") -> str:
    """The shipped weights under another name, with other settings or with some of its bytes changed."""
    path = folder / "model.ftz"
    path.write_bytes(SHIPPED.read_bytes().replace(old, new) if old else SHIPPED.read_bytes())
    if notes is not None:
        path.with_suffix(".json").write_text(notes if isinstance(notes, str) else json.dumps(notes))
    return str(path)


def test_a_model_without_settings_is_used_as_fasttext_would(tmp_path: Path) -> None:
    """No folding, no prefilter, no calibration, and nobody said which languages."""
    model = StanceModel.load(copy_of(tmp_path))
    assert model.settings == Settings() and model.languages == ()
    assert model.score(pa.array([RIVER])).scored_windows[0] == 1


@pytest.mark.parametrize(
    ("notes", "message"),
    [
        ("{", "cannot be read"),
        ([], "hold no JSON object"),
        ({"sha256": "0"}, "belong to weights with sha256 0"),
        ({"scale": [1, 2]}, "it must be 4 numbers"),
        ({"bias": [0, 0, 0, "a"]}, "could not convert"),
        ({"words_per_window": 0}, "at least 1"),
        ({"text": "upper"}, '"raw" or "plain"'),
        ({"default_threshold": 2}, r"lie in \[0, 1\]"),
    ],
)
def test_settings_that_are_wrong_are_refused(tmp_path: Path, notes: object, message: str) -> None:
    """The error names the file and what would be right."""
    with pytest.raises(ModelError, match=message):
        StanceModel.load(copy_of(tmp_path, notes))


def test_a_model_with_other_labels_is_refused(tmp_path: Path) -> None:
    """The four stances must be there, by name."""
    with pytest.raises(ModelError, match="has the labels aligned, misaligned, neutrum, unrelated"):
        StanceModel.load(copy_of(tmp_path, None, b"__label__neutral\0", b"__label__neutrum\0"))


def test_a_missing_model_is_a_model_error(tmp_path: Path) -> None:
    """As is a folder in its place."""
    for path in (tmp_path / "none.ftz", tmp_path):
        with pytest.raises(ModelError, match="cannot be read"):
            StanceModel.load(str(path))


def test_settings_survive_their_file() -> None:
    """What is written is what is read."""
    given_settings = Settings(("en", "de"), "plain", 200, True, 0.5, 800.0, (1.0, 2.0, 3.0, 4.0), default_threshold=0.4)
    assert settings_from(json.loads(json.dumps(dataclasses.asdict(given_settings)))) == given_settings


def test_scoring_needs_no_training_library() -> None:
    """Neither scikit-learn nor fasttext nor Beam is loaded to score."""
    code = (
        "import sys, pyarrow as pa; from classifiers.stance import StanceModel;"
        "StanceModel.load().score(pa.array(['AI']));"
        "print(sorted({'sklearn', 'fasttext', 'apache_beam'} & set(sys.modules)))"
    )
    root = SHIPPED.parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
