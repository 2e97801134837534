"""Figures of a matrix of scores, probabilities out of logits, thresholds."""

import json

import numpy as np
import pytest

from classifiers import calibrate
from classifiers.model import STANCES, ModelError
from classifiers.stance import StanceModel

RNG = np.random.default_rng(1)
STANCE = np.repeat(np.arange(4), 25)


def perfect() -> np.ndarray:
    return np.eye(4)[STANCE]


def test_perfect_scores_are_ones() -> None:
    """Every figure of a model that is always right is 1, and its calibration error 0."""
    found = calibrate.evaluation_of(perfect(), STANCE)
    assert found.macro_f1 == calibrate.Interval(1.0, 1.0, 1.0)
    assert found.accuracy.value == 1.0 and found.ece == 0.0 and found.worst == []
    assert [found.stances[name].support for name in STANCES] == [25] * 4


def test_figures_of_a_known_confusion() -> None:
    """Precision, recall and F1 are those one computes by hand, and intervals hold the value."""
    scores = np.eye(4)[[2, 2, 2, 1, 0, 2]]
    found = calibrate.evaluation_of(scores, np.array([2, 2, 1, 1, 0, 3]), ["a", "a", "a", "b", "", "b"])
    misaligned = found.stances["misaligned"]
    assert (misaligned.precision.value, misaligned.recall.value) == (0.5, 1.0)
    assert misaligned.f1.value == pytest.approx(2 / 3)
    assert found.macro_f1.value == pytest.approx((1 + 2 / 3 + 2 / 3 + 0) / 4)
    assert found.macro_f1.low <= found.macro_f1.value <= found.macro_f1.high
    assert found.confusion[1] == [0, 1, 1, 0]
    assert set(found.genres) == {"a", "b"} and found.genres["a"]["passages"] == 3
    assert {entry["passage"] for entry in found.worst} == {2, 5}


def test_evaluations_are_the_same_in_every_run() -> None:
    """Bootstrap intervals come from a fixed seed."""
    scores = RNG.dirichlet(np.ones(4), 100)
    first, second = (calibrate.evaluation_of(scores, STANCE) for _ in range(2))
    assert first == second
    assert json.loads(json.dumps(first.as_dict())) == first.as_dict()
    assert "macro-F1" in first.as_table()


@pytest.mark.parametrize(("share", "recall"), [(0.1, 0.5), (0.2, 1.0), (0.05, 0.0)])
def test_recall_at_a_flagged_share(share: float, recall: float) -> None:
    """The highest scores are flagged, no more of them than asked."""
    scores, positive = np.arange(10) / 10, np.arange(10) >= 8
    assert calibrate.recall_at(scores, positive, share) == recall


def test_equal_scores_are_flagged_together_or_not_at_all() -> None:
    """Nothing is gained by giving everything the same score."""
    assert calibrate.recall_at(np.ones(10), np.arange(10) < 5, 0.5) == 0.0
    assert calibrate.recall_at(np.ones(10), np.arange(10) < 5, 1.0) == 1.0
    assert calibrate.recall_at(np.ones(10), np.zeros(10, bool), 1.0) == 0.0


def test_recall_at_a_share_of_a_weighted_mix() -> None:
    """Weights say how much of the mix a row stands for."""
    scores, positive = np.array([0.9, 0.8, 0.1]), np.array([True, False, True])
    assert calibrate.recall_at(scores, positive, 0.1, np.array([0.05, 0.9, 0.05])) == 0.5


def test_calibration_finds_the_scale_that_made_the_stances() -> None:
    """Logits that are too bold by two are halved, and the error of the probabilities goes down."""
    logits = RNG.normal(size=(4000, 4)) * 2
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    stances = np.array([RNG.choice(4, p=row) for row in shares])
    scale, bias = calibrate.fit_calibration(logits * 2, stances)
    assert scale == pytest.approx([0.5] * 4, abs=0.03)
    assert bias == pytest.approx([0.0] * 4, abs=0.15)


def test_calibration_is_finite_where_stances_are_parted_perfectly() -> None:
    """No logits make it diverge."""
    scale, bias = calibrate.fit_calibration(perfect() * 1e-3, STANCE)
    assert np.isfinite([*scale, *bias]).all()


def test_threshold_leaves_ordinary_text_alone() -> None:
    """The least threshold that fewer than the given share of scores reach."""
    assert calibrate.choose_threshold(np.array([0.1, 0.2, 0.3, 0.4]), 0.3) == 0.31
    assert calibrate.choose_threshold(np.array([1.0, 1.0]), 0.3) == 1.0


def test_a_row_that_is_not_labelled_is_named() -> None:
    """An unknown stance, a missing text, or no rows at all are errors that say where."""
    model = StanceModel.load()
    with pytest.raises(ModelError, match="row 2 has the stance 'evil'"):
        calibrate.evaluate(model, [{"text": "a", "stance": "neutral"}, {"text": "b", "stance": "evil"}])
    with pytest.raises(ModelError, match="no labelled passages"):
        calibrate.evaluate(model, [])


def test_predictions_come_in_order_one_a_row() -> None:
    """Each row gets its own scores, across batches, and the model's own."""
    texts = [f"The robot said {number} times that it would obey." for number in range(calibrate.BATCH + 3)]
    model = StanceModel.load()
    found = list(calibrate.predictions(model, ({"text": text, "id": i} for i, text in enumerate(texts))))
    assert [entry["id"] for entry in found] == list(range(len(texts)))
    assert np.allclose([[entry[name] for name in STANCES] for entry in found], calibrate.scores_of(model, texts))
    assert set(found[0]) > {"predicted", *STANCES, "windows", "misaligned_max"}
