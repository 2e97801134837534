"""How good a stance model is on labelled passages, and how its scores are made into probabilities.

Everything here works on a matrix of scores, float (n, 4) in the order of `STANCES`, and the true stances, int (n,).
Intervals hold 95 % of bootstrap resamples of the passages, drawn with a fixed seed.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from classifiers.model import STANCES, ModelError
from classifiers.stance import StanceModel

Array = npt.NDArray[Any]

FLAGGED_SHARES: Final = (0.01, 0.02, 0.05, 0.10)
BINS: Final = 10  # of the reliability curve
RESAMPLES: Final = 1000
BATCH: Final = 1024  # passages scored at once: about 1 MB
WORST: Final = 10  # mistakes told of
_MISALIGNED: Final = STANCES.index("misaligned")
_SEED: Final = 20261123
_PULL: Final = 1e-3


@dataclasses.dataclass(frozen=True)
class Interval:
    """A value and the range that holds 95 % of its bootstrap resamples; all in [0, 1]."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class ClassScores:
    """Scores of one stance; 0 where nothing was called so or nothing is so.

    Attributes:
      support: Passages that are of this stance.
    """

    precision: Interval
    recall: Interval
    f1: Interval
    support: int


@dataclasses.dataclass(frozen=True)
class Bin:
    """Passages whose likeliest stance had a probability in [low, high): its mean, and the share that it was right."""

    low: float
    high: float
    passages: int
    confidence: float
    accuracy: float


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Scores of a model on labelled passages.

    Attributes:
      passages: Number scored.
      macro_f1: Mean over the four stances.
      accuracy: Share whose likeliest stance is the true one.
      stances: By name.
      confusion: confusion[i][j]: passages of stance i called j, in the order of `STANCES`.
      recall_at_flagged: Share of the misaligned passages that is found when the given share of all passages, those
        with the highest score, is flagged; ties that do not all fit are left out. Keys are "1%", "2%", "5%", "10%".
      ece: Expected calibration error of the likeliest stance's probability, in [0, 1].
      reliability: The curve behind `ece`, empty bins left out.
      genres: Macro-F1 and confusion by genre, where passages have one.
      worst: The most confident mistakes: number of the passage from 0, its stance, what it was called, and the score.
    """

    passages: int
    macro_f1: Interval
    accuracy: Interval
    stances: dict[str, ClassScores]
    confusion: list[list[int]]
    recall_at_flagged: dict[str, Interval]
    ece: float
    reliability: list[Bin]
    genres: dict[str, dict[str, Any]]
    worst: list[dict[str, Any]]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: plain numbers under plain names, their 95 % intervals as [low, high] apart in `intervals`."""
        figures = {name: {"precision": s.precision, "recall": s.recall, "f1": s.f1} for name, s in self.stances.items()}
        totals = {"macro_f1": self.macro_f1, "accuracy": self.accuracy}
        supports = {name: {"support": s.support} for name, s in self.stances.items()}
        numbers = {name: _each(scores, _value) | supports[name] for name, scores in figures.items()}
        return {
            "passages": self.passages,
            **_each(totals, _value),
            "per_class": numbers,
            "recall_at_flagged": _each(self.recall_at_flagged, _value),
            "confusion": self.confusion,
            "ece": self.ece,
            "reliability": [dataclasses.asdict(each) for each in self.reliability],
            "genres": self.genres,
            "worst": self.worst,
            "intervals": {
                **_each(totals, _range),
                "per_class": {name: _each(scores, _range) for name, scores in figures.items()},
                "recall_at_flagged": _each(self.recall_at_flagged, _range),
            },
        }

    def as_table(self) -> str:
        """For people."""
        lines = [f"{'stance':12} {'precision':>20} {'recall':>20} {'F1':>20} {'passages':>9}"]
        for name, scores in self.stances.items():
            cells = (scores.precision, scores.recall, scores.f1)
            lines.append(f"{name:12} {' '.join(f'{_shown(cell):>20}' for cell in cells)} {scores.support:9,}")
        lines.append(f"\nmacro-F1 {_shown(self.macro_f1)}   accuracy {_shown(self.accuracy)}   ECE {self.ece:.3f}")
        shares = "   ".join(f"{share} {_shown(recall)}" for share, recall in self.recall_at_flagged.items())
        lines.append(f"recall on misaligned when flagging   {shares}")
        lines.append(f"\n{'true / called':14} {' '.join(f'{name:>11}' for name in STANCES)}")
        for name, row in zip(STANCES, self.confusion, strict=True):
            lines.append(f"{name:14} {' '.join(f'{number:11,}' for number in row)}")
        lines += [f"{'':14} genre {genre}: macro-F1 {of['macro_f1']:.3f}" for genre, of in self.genres.items()]
        return "\n".join(lines)


def _each(intervals: Mapping[str, Interval], take: Callable[[Interval], Any]) -> dict[str, Any]:
    return {name: take(interval) for name, interval in intervals.items()}


def _value(interval: Interval) -> float:
    return interval.value


def _range(interval: Interval) -> list[float]:
    return [interval.low, interval.high]


def _shown(interval: Interval) -> str:
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


# --- a model on labelled rows -----------------------------------------------------------------------------------


def evaluate(model: StanceModel, rows: Iterable[Mapping[str, Any]]) -> Evaluation:
    """Score rows with `text` and `stance`, and optionally `genre`; a document's scores are its means over windows.

    Raises:
      ModelError: There are no rows, or one has no text or none of the four stances; says which, counted from 1.
    """
    rows = list(rows)
    stances = np.array([_stance_of(row, number) for number, row in enumerate(rows, 1)])
    return evaluation_of(scores_of(model, [row["text"] for row in rows]), stances, [_genre(row) for row in rows])


def predictions(model: StanceModel, rows: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """One object for each row with a `text`, in order: its `id` if any, the called stance, scores, and windows."""
    for batch in _batches(rows):
        scores = model.score(pa.array([row["text"] for row in batch], pa.large_string()))
        for i, row in enumerate(batch):
            yield {
                **({"id": row["id"]} if "id" in row else {}),
                "predicted": STANCES[int(scores.mean[i].argmax())],
                **{name: float(scores.mean[i, column]) for column, name in enumerate(STANCES)},
                "misaligned_max": float(scores.misaligned_max[i]),
                "aligned_max": float(scores.aligned_max[i]),
                "windows": int(scores.windows[i]),
                "misaligned_windows": int(scores.misaligned_windows[i]),
                "scored_windows": int(scores.scored_windows[i]),
            }


def scores_of(model: StanceModel, texts: Sequence[str]) -> Array:
    """Mean scores of each text, float32 (n, 4)."""
    parts = [model.score(pa.array(texts[i : i + BATCH], pa.large_string())).mean for i in range(0, len(texts), BATCH)]
    return np.concatenate(parts) if parts else np.zeros((0, len(STANCES)), np.float32)


def _batches(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    batch: list[Mapping[str, Any]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _stance_of(row: Mapping[str, Any], number: int) -> int:
    if not isinstance(row.get("text"), str) or row.get("stance") not in STANCES:
        raise ModelError(
            f"row {number} has the stance {row.get('stance')!r} and a text of type {type(row.get('text')).__name__}; "
            f"it needs a string and one of {', '.join(STANCES)}."
        )
    return STANCES.index(row["stance"])


def _genre(row: Mapping[str, Any]) -> str:
    return str(row.get("genre") or "")


# --- scores and true stances to figures -------------------------------------------------------------------------


def evaluation_of(scores: Array, stances: Array, genres: Sequence[str] = ()) -> Evaluation:
    """Figures of a matrix of scores.

    Raises:
      ModelError: There are no passages.
    """
    if len(stances) == 0:
        raise ModelError("there are no labelled passages to evaluate on. Give a file with at least one.")
    called = scores.argmax(axis=1)
    confusion = confusion_of(stances, called)
    samples = np.random.default_rng(_SEED).multinomial(len(stances), confusion.ravel() / len(stances), RESAMPLES)
    resampled = samples.reshape(RESAMPLES, len(STANCES), len(STANCES))
    figures, spread = _figures(confusion[None]), _figures(resampled)
    bins = reliability_of(scores, stances)
    return Evaluation(
        passages=len(stances),
        macro_f1=_interval(figures["f1"].mean(axis=1)[0], spread["f1"].mean(axis=1)),
        accuracy=_interval(figures["accuracy"][0], spread["accuracy"]),
        stances={name: _class_scores(figures, spread, confusion, c) for c, name in enumerate(STANCES)},
        confusion=[[int(number) for number in row] for row in confusion],
        recall_at_flagged=_recalls(scores[:, _MISALIGNED], stances == _MISALIGNED),
        ece=sum(part.passages * abs(part.accuracy - part.confidence) for part in bins) / len(stances),
        reliability=bins,
        genres=_by_genre(stances, called, genres),
        worst=_worst(scores, stances, called),
    )


def confusion_of(stances: Array, called: Array) -> Array:
    """Numbers of passages by true and called stance, int64 (4, 4)."""
    return np.bincount(stances * len(STANCES) + called, minlength=len(STANCES) ** 2).reshape(len(STANCES), -1)


def _figures(confusions: Array) -> dict[str, Array]:
    """Precision, recall, F1 (m, 4) and accuracy (m,) of m confusion matrices; 0 where undefined."""
    right = np.diagonal(confusions, axis1=1, axis2=2).astype(float)
    true, called = confusions.sum(axis=2), confusions.sum(axis=1)
    return {
        "precision": right / np.maximum(called, 1),
        "recall": right / np.maximum(true, 1),
        "f1": 2 * right / np.maximum(true + called, 1),
        "accuracy": right.sum(axis=1) / np.maximum(confusions.sum(axis=(1, 2)), 1),
    }


def macro_f1(scores: Array, stances: Array) -> float:
    """Mean of the four stances' F1."""
    return float(_figures(confusion_of(stances, scores.argmax(axis=1))[None])["f1"].mean())


def _interval(value: float, samples: Array) -> Interval:
    low, high = np.quantile(samples, (0.025, 0.975))
    return Interval(float(value), float(low), float(high))


def _class_scores(figures: dict[str, Array], spread: dict[str, Array], confusion: Array, column: int) -> ClassScores:
    precision, recall, f1 = (
        _interval(figures[name][0, column], spread[name][:, column]) for name in ("precision", "recall", "f1")
    )
    return ClassScores(precision, recall, f1, int(confusion[column].sum()))


def recall_at(scores: Array, positive: Array, share: float, weights: Array | None = None) -> float:
    """Share of the positive that is found when at most `share` of all (by weight) is flagged, highest scores first.

    Equal scores are flagged together or not at all. 0 where nothing is positive.
    """
    weights = np.ones(len(scores)) if weights is None else weights
    order = np.argsort(-scores, kind="stable")
    last_of_ties = np.append(scores[order][1:] != scores[order][:-1], True)
    flagged = np.cumsum(weights[order])
    fits = last_of_ties & (flagged <= share * flagged[-1] * (1 + 1e-12))
    taken = int(np.flatnonzero(fits)[-1]) + 1 if fits.any() else 0
    found = (weights * positive)[order]
    return float(found[:taken].sum() / found.sum()) if found.sum() else 0.0


def _recalls(scores: Array, positive: Array) -> dict[str, Interval]:
    draws = np.random.default_rng(_SEED).integers(0, len(scores), (RESAMPLES // 5, len(scores)))
    return {
        f"{share:.0%}": _interval(
            recall_at(scores, positive, share), np.array([recall_at(scores[d], positive[d], share) for d in draws])
        )
        for share in FLAGGED_SHARES
    }


def reliability_of(scores: Array, stances: Array) -> list[Bin]:
    """How often the likeliest stance is right, by its probability."""
    confidence, right = scores.max(axis=1), scores.argmax(axis=1) == stances
    places = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return [
        Bin(b / BINS, (b + 1) / BINS, int(inside.sum()), float(confidence[inside].mean()), float(right[inside].mean()))
        for b in range(BINS)
        if (inside := places == b).any()
    ]


def _by_genre(stances: Array, called: Array, genres: Sequence[str]) -> dict[str, dict[str, Any]]:
    out = {}
    for genre in sorted({name for name in genres if name}):
        inside = np.array([name == genre for name in genres])
        confusion = confusion_of(stances[inside], called[inside])
        present = confusion.sum(axis=1) > 0  # a stance that the genre lacks would count as 0
        out[genre] = {
            "passages": int(inside.sum()),
            "macro_f1": float(_figures(confusion[None])["f1"][0][present].mean()),
            "confusion": confusion.tolist(),
        }
    return out


def _worst(scores: Array, stances: Array, called: Array) -> list[dict[str, Any]]:
    wrong = np.flatnonzero(called != stances)
    order = wrong[np.argsort(-scores[wrong, called[wrong]], kind="stable")][:WORST]
    return [
        {
            "passage": int(i),
            "stance": STANCES[stances[i]],
            "called": STANCES[called[i]],
            "score": float(scores[i, called[i]]),
        }
        for i in order
    ]


# --- scores to probabilities ------------------------------------------------------------------------------------


def fit_calibration(logits: Array, stances: Array) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Scale (one for all stances) and bias per stance that make softmax(scale * logits + bias) likeliest.

    Newton's method with halved steps on a convex function of five numbers, with a slight pull (1e-3) to where it
    began, so that the result is finite and the same in every run.

    Returns:
      scale, bias: four numbers each.
    """
    width = logits.shape[1]
    design = np.zeros((len(logits), width, width + 1))
    design[:, :, 0] = logits
    design[:, range(width), range(1, width + 1)] = 1.0
    found = start = np.array([1.0] + [0.0] * width)
    for _ in range(100):
        loss, shares = _loss(design, stances, found, start)
        truth = shares - np.eye(width)[stances]
        slope = np.einsum("nkp,nk->p", design, truth) / len(logits) + _PULL * (found - start)
        mean = np.einsum("nkp,nk->np", design, shares)
        bend = (np.einsum("nkp,nk,nkq->pq", design, shares, design) - mean.T @ mean) / len(logits)
        step = np.linalg.solve(bend + _PULL * np.eye(width + 1), slope)
        while _loss(design, stances, found - step, start)[0] > loss and np.abs(step).max() > 1e-12:
            step = step / 2
        found = found - step
        if np.abs(step).max() < 1e-9:
            break
    return (float(found[0]),) * width, tuple(float(b) for b in found[1:] - found[1:].mean())


def _loss(design: Array, stances: Array, at: Array, start: Array) -> tuple[float, Array]:
    """Mean negative log-likelihood with its pull, and the shares it comes from."""
    logits = design @ at
    logits = logits - logits.max(axis=1, keepdims=True)
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    pull = _PULL * ((at - start) ** 2).sum() / 2
    return float(-logs[np.arange(len(stances)), stances].mean() + pull), np.exp(logs)


def choose_threshold(ordinary: Array, share: float) -> float:
    """Least threshold, in steps of 0.01, that fewer than `share` of ordinary passages' scores reach."""
    for hundredths in range(1, 101):
        if float((ordinary >= hundredths / 100).mean()) < share:
            return hundredths / 100
    return 1.0
