"""Labelled passages: their files, and whole sources of them left out of training."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from classifiers import terms
from classifiers.model import STANCES, ModelError

Floats = npt.NDArray[Any]

FOLDS: Final = 5
WRITTEN: Final = ("original", "written")
"""Sources of passages that were written for training: never held out, since a score on them says little."""
ORDINARY: Final = "ordinary"
"""Genre of text that names no AI: false alarms are counted on it."""


class Passage(NamedTuple):
    """A labelled text. `source` is the work or site: texts of one source never lie on both sides of a split."""

    text: str
    stance: int
    source: str
    genre: str
    place: str


class HeldOut(NamedTuple):
    """Scores of passages by models that saw nothing of their source.

    Attributes:
      rows: Which passages, int (m,); the others were in every training.
      scores: float (m, 4): probabilities, or in `train` logits before calibration.
      real: bool (m,): labelled real text; the rest is ordinary.
      passed: bool (m,): what the prefilter lets through, so that the model sees it.
    """

    rows: npt.NDArray[np.int64]
    scores: Floats
    real: npt.NDArray[np.bool_]
    passed: npt.NDArray[np.bool_]


# --- labelled files ---------------------------------------------------------------------------------------------


def read_passages(files: Sequence[str]) -> list[Passage]:
    """Read JSON Lines with `text` and `stance`, optionally `source` and `genre`.

    A source ends at its first ":"; a passage without one is a source of its own.

    Raises:
      ModelError: A file cannot be read, or a line is not of this form; names file and line.
    """
    return [passage for path in files for passage in _passages_of(path)]


def _passages_of(path: str) -> Iterator[Passage]:
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _passage(line, f"{path}:{number}")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"labelled passages {path} cannot be read: {error}. Give JSON Lines in UTF-8.") from error


def _passage(line: str, place: str) -> Passage:
    try:
        row: Any = json.loads(line)
        text, stance = row["text"], row["stance"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f'{place} is no object with "text" and "stance" ({error!r}). Mend or delete the line.'
        ) from error
    if not isinstance(text, str) or stance not in STANCES:
        raise ModelError(
            f"{place} has the stance {stance!r}; it must be one of {', '.join(STANCES)}, its text a string."
        )
    genre, source = str(row.get("genre") or ""), str(row.get("source") or "").split(":")[0]
    return Passage(text, STANCES.index(stance), source or place, genre, place)


# --- whole sources left out -------------------------------------------------------------------------------------


def folds_of(passages: Sequence[Passage], seed: int = 0) -> npt.NDArray[np.int64]:
    """Fold in which each passage is held out, -1 for written ones, which are in every training.

    Sources stay whole; the largest is dealt first, each to the fold with the fewest passages. Ordinary text is cut
    into runs, since neighbours in its file come from one article.
    """
    sizes: dict[str, int] = {}
    for passage in passages:
        if kind_of(passage) == "real":
            sizes[passage.source] = sizes.get(passage.source, 0) + 1
    loads, fold_of = [0] * FOLDS, {}
    for source in sorted(sizes, key=lambda name: (-sizes[name], hashlib.sha256(f"{seed}/{name}".encode()).digest())):
        fold_of[source] = min(range(FOLDS), key=lambda fold: (loads[fold], fold))
        loads[fold_of[source]] += sizes[source]
    ordinary = [i for i, passage in enumerate(passages) if kind_of(passage) == ORDINARY]
    out = np.array([fold_of.get(p.source, -1) if kind_of(p) == "real" else -1 for p in passages], np.int64)
    out[ordinary] = np.arange(len(ordinary)) * FOLDS // max(1, len(ordinary))
    return out


def kind_of(passage: Passage) -> str:
    """Which of "real", "written" and "ordinary" a passage is."""
    if passage.source in WRITTEN:
        return "written"
    return ORDINARY if passage.genre == ORDINARY else "real"


Predict = Callable[[Sequence[Passage], Sequence[Passage]], Floats]
"""(training, held out) to float (held out, 4)."""


def hold_out(
    passages: Sequence[Passage], predict: Predict, folds: npt.NDArray[np.int64], *, prefilter: bool
) -> HeldOut:
    """Scores of every passage that is held out, by the model of its fold."""
    scores = np.zeros((len(passages), len(STANCES)))
    for fold in sorted(set(folds[folds >= 0].tolist())):
        training = [passage for passage, own in zip(passages, folds, strict=True) if own != fold]
        inside = [passage for passage, own in zip(passages, folds, strict=True) if own == fold]
        scores[folds == fold] = predict(training, inside)
    rows = np.flatnonzero(folds >= 0)
    return gather([passages[int(i)] for i in rows], rows, scores[rows], prefilter=prefilter)


def gather(passages: Sequence[Passage], rows: npt.NDArray[np.int64], scores: Floats, *, prefilter: bool) -> HeldOut:
    """Held-out passages and their scores, with what else is to be known of them."""
    passed = np.ones(len(rows), np.bool_)
    if prefilter:
        passed = np.asarray(terms.passes(pa.array([passage.text for passage in passages], pa.large_string())))
    return HeldOut(rows, scores, np.array([kind_of(passage) == "real" for passage in passages], np.bool_), passed)


def stances_of(passages: Sequence[Passage], found: HeldOut) -> npt.NDArray[np.int64]:
    """True stances of what was held out."""
    return np.array([passages[i].stance for i in found.rows], np.int64)
