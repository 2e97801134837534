"""A linear model of words, fitted with what is known of similar words, and its file in fastText's format.

fastText's classifier is a mean over rows of a matrix, and so is any linear model whose features are divided by their
number. Logistic regression on idf-weighted words finds better rows than fastText's own gradient descent
(docs/stance.md has both in one table), and with the identity as output matrix its file is an ordinary fastText file of
four dimensions, which every reader of the format scores alike.
"""

import collections
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from classifiers.model import STANCES, ModelError
from classifiers.stance import Settings, plain

Floats = npt.NDArray[np.float64]
Counts = collections.Counter[bytes]

LENGTH_POWER: Final = 0.5  # as dividing by the Euclidean norm does, which a mean cannot
LEAST_SOURCES: Final = 2  # a word of one work alone (its names) teaches nothing of others
VECTORS: Final = Path(__file__).with_name("models") / "words.npz"
_LEVELS = 256  # a weight is one byte: the nearest of so many values of its column


class Vectors(NamedTuple):
    """Words and what is known of their meaning: similar words have similar rows, float32 (n, d)."""

    words: list[bytes]
    rows: npt.NDArray[np.float32]


class Linear(NamedTuple):
    """A fitted model.

    Attributes:
      words: Its rows, sorted.
      weights: float64 (words, 4): what one occurrence adds to the logit of each stance, before division by the number
        of all occurrences; each row sums to 0.
      bias: float64 (4,), added to the logits.
    """

    words: list[bytes]
    weights: Floats
    bias: Floats


def count(text: str) -> Counts:
    """Words of a text as the model sees them."""
    return collections.Counter(plain(np.frombuffer(text.encode(), np.uint8)).tobytes().split())


def read_vectors(path: Path = VECTORS) -> Vectors:
    """Word vectors from a .npz file: `words` (uint8, parted by newlines), `rows` (int8), `scales` (of each column).

    Raises:
      ModelError: The file cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            words, rows = file["words"].tobytes().split(b"\n"), file["rows"] * file["scales"].astype(np.float32)
    except (OSError, KeyError, ValueError) as error:
        raise ModelError(f"word vectors {path} cannot be read: {error}. Install Counterpoise anew.") from error
    return Vectors(words, rows)


def fit(
    counts: Sequence[Counts],
    sizes: npt.NDArray[np.int64],
    stances: npt.NDArray[np.int64],
    sources: Sequence[str],
    *,
    weights: Floats,
    vectors: Vectors,
    strength: float,
) -> Linear:
    """Logistic regression on two views of a text: its words, each for itself, and the mean of their vectors.

    Both are linear in the words, so both go into the same row of the file. Through the second a word that training
    has seen once or never gets the weights of its neighbours. Every stance weighs alike, whatever its number.

    Args:
      counts: Words of each of n texts.
      sizes: Bytes of each text.
      stances: Index into `STANCES` of each text.
      sources: Source of each text.
      weights: How much each text counts.
      vectors: Meaning of words; all of them become rows.
      strength: Inverse strength of regularisation, above 0.

    Raises:
      ModelError: scikit-learn is missing.
    """
    linear_model = sklearn("linear_model")
    from scipy import sparse  # type: ignore[import-untyped]  # scipy ships no stubs

    words = sorted(set(vectors.words) | _shared(counts, sources))
    shares = shares_of(counts, words)
    idf = np.log((1 + len(counts)) / (1 + np.diff(shares.tocsc().indptr))) + 1
    own = sparse.diags(idf) / _norm(shares @ sparse.diags(idf))
    meaning = _meaning_of(words, vectors) * idf[:, None]
    meaning = meaning / _norm(sparse.csr_matrix(shares @ meaning))
    length = length_of(sizes)
    views = sparse.diags(length) @ sparse.hstack([shares @ own, shares @ meaning])
    found = linear_model.LogisticRegression(C=strength, max_iter=500, class_weight="balanced")
    found.fit(views.tocsr(), stances, sample_weight=weights)
    coefficients = _four_rows(found.coef_, found.classes_)
    rows = own @ coefficients[:, : len(words)].T + meaning @ coefficients[:, len(words) :].T
    return Linear(words, rows - rows.mean(axis=1, keepdims=True), _four_rows(found.intercept_, found.classes_))


def logits_of(model: Linear, counts: Sequence[Counts], sizes: npt.NDArray[np.int64]) -> Floats:
    """Logits before calibration and without bias, float64 (n, 4): what `StanceModel` makes of the file, unquantised."""
    return np.asarray((shares_of(counts, model.words) @ model.weights) * length_of(sizes)[:, None])


def length_of(sizes: npt.NDArray[np.int64]) -> Floats:
    """How much more the logits of a text weigh for its length in bytes; see `Settings.length_power`."""
    return np.asarray((np.maximum(1, sizes) / Settings.length_bytes) ** LENGTH_POWER)


def shares_of(counts: Sequence[Counts], words: Sequence[bytes]) -> Any:
    """Sparse matrix (texts, words) of shares among the known words of each text, as fastText's mean has them."""
    from scipy import sparse

    index = {word: row for row, word in enumerate(words)}
    cells = [(r, index[w], n) for r, counted in enumerate(counts) for w, n in counted.items() if w in index]
    places = np.array(cells, np.int64).reshape(-1, 3)
    shape = (len(counts), len(words))
    numbers = sparse.csr_matrix((places[:, 2].astype(np.float64), (places[:, 0], places[:, 1])), shape=shape)
    return sparse.diags(1 / np.maximum(1.0, np.asarray(numbers.sum(axis=1)).ravel())) @ numbers


def sklearn(module: str) -> Any:
    """A module of scikit-learn.

    Raises:
      ModelError: It is not installed.
    """
    import importlib

    try:
        return importlib.import_module(f"sklearn.{module}")
    except ImportError as error:
        raise ModelError(f"training needs scikit-learn ({error}). Run: pip install 'counterpoise[train]'") from error


def _shared(counts: Sequence[Counts], sources: Sequence[str]) -> set[bytes]:
    seen: dict[bytes, set[str]] = collections.defaultdict(set)
    for counted, source in zip(counts, sources, strict=True):
        for word in counted:
            if len(seen[word]) < LEAST_SOURCES:
                seen[word].add(source)
    return {word for word, found in seen.items() if len(found) >= LEAST_SOURCES}


def _meaning_of(words: Sequence[bytes], vectors: Vectors) -> Floats:
    out = np.zeros((len(words), vectors.rows.shape[1]))
    index = {word: row for row, word in enumerate(words)}
    for word, row in zip(vectors.words, vectors.rows, strict=True):
        out[index[word]] = row
    return out


def _norm(matrix: Any) -> float:
    """Mean Euclidean length of the rows of a sparse matrix, 1 where all are zero."""
    return float(np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel()).mean()) or 1.0


def _four_rows(found: Floats, classes: npt.NDArray[np.int64]) -> Floats:
    """Rows of all four stances from those of the stances that training had (one row where it had two)."""
    if len(classes) == 2:
        found = np.concatenate([-found / 2, found / 2])
    out = np.zeros((len(STANCES), *found.shape[1:]))
    out[classes] = found
    return out


# --- the file ---------------------------------------------------------------------------------------------------


def fasttext_bytes(model: Linear) -> bytes:
    """The model as a quantised fastText file, version 12 (FastText::saveModel): 13 bytes a word and its letters.

    Words have no hash that could meet another's, so the one loss is the rounding of weights to 256 values a column.
    """
    args = (len(STANCES), 5, 1, 1, 5, 1, 3, 3, 0, 0, 0, 100)  # words alone; loss 3: softmax; model 3: supervised
    entries = [_entry(word, 0) for word in model.words] + [_entry(b"__label__" + s.encode(), 1) for s in STANCES]
    parts = [
        struct.pack("<ii12id", 793712314, 12, *args, 1e-4),
        struct.pack("<iiiqq", len(entries), len(model.words), len(STANCES), len(model.words), -1),  # -1: not pruned
        *entries,
        b"\x01",  # the input matrix is quantised
        _quantised(model.weights.astype(np.float32)),
        b"\x00",  # the output matrix is not
        struct.pack("<qq", len(STANCES), len(STANCES)),
        np.eye(len(STANCES), dtype="<f4").tobytes(),
    ]
    return b"".join(parts)


def _entry(word: bytes, kind: int) -> bytes:
    return word + b"\0" + struct.pack("<qb", 1, kind)


def _quantised(matrix: npt.NDArray[np.float32]) -> bytes:
    """QuantMatrix::save with one column a group, so that each weight has the nearest value of its own column."""
    rows, columns = matrix.shape
    levels = [_levels(matrix[:, column]) for column in range(columns)]
    codes = np.stack([_nearest(matrix[:, c], levels[c]) for c in range(columns)], axis=1).astype(np.uint8)
    parts = [
        b"\x00",  # no norms apart
        struct.pack("<qqi", rows, columns, codes.size),
        codes.tobytes(),
        struct.pack("<iiii", columns, columns, 1, 1),
        np.concatenate(levels).astype("<f4").tobytes(),
    ]
    return b"".join(parts)


def _nearest(values: npt.NDArray[np.float32], levels: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    return np.searchsorted((levels[1:] + levels[:-1]) / 2, values)


def _levels(values: npt.NDArray[np.float32], rounds: int = 30) -> npt.NDArray[np.float32]:
    """Lloyd's algorithm on a line, from levels half by rank and half by range: the same in every run."""
    ranks = np.quantile(values, np.linspace(0, 1, _LEVELS // 2))
    levels = np.sort(np.concatenate([ranks, np.linspace(values.min(), values.max(), _LEVELS // 2)]))
    for _ in range(rounds):
        codes = _nearest(values, levels)
        sums, numbers = np.bincount(codes, values, _LEVELS), np.bincount(codes, minlength=_LEVELS)
        levels = np.sort(np.where(numbers > 0, sums / np.maximum(numbers, 1), levels))
    return levels.astype(np.float32)
