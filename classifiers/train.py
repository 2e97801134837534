"""Train a stance model from labelled passages: a linear model of words and n-grams, written as a fastText file.

fastText's classifier is a mean over rows of a matrix, and so is any linear model whose features are divided by their
number. Logistic regression on idf-weighted words and n-grams finds better rows than fastText's own gradient descent
(docs/stance.md has both in one table), and with the identity as output matrix its file is an ordinary fastText file of
four dimensions, which every reader of the format scores alike.
"""

import collections
import dataclasses
import json
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from classifiers import calibrate
from classifiers.model import STANCES, ModelError, sha256_of
from classifiers.stance import Settings, plain

Floats = npt.NDArray[np.float64]

FOLDS: Final = 5
BUCKETS: Final = 1 << 21  # with 60,000 n-grams kept, one unseen n-gram in 35 falls on the row of another
GRAMS: Final = 2  # words in the longest n-gram
LENGTH_POWER: Final = 0.5  # as dividing by the Euclidean norm does, which a mean cannot
NEVER_HELD_OUT: Final = ("original", "written")
"""Sources of passages that were written for training; a score on them would say little."""


class Passage(NamedTuple):
    """A labelled text. `source` is the work or site: texts of one source never lie on both sides of a split."""

    text: str
    stance: int
    source: str
    genre: str


@dataclasses.dataclass(frozen=True)
class TrainReport:
    """What `train` did.

    Attributes:
      output, settings: Paths of the weights and of their settings.
      sha256: Of the weights.
      passages, sources: Numbers trained on.
      rows: Words and n-grams in the model.
      strength: Inverse strength of the regularisation that was chosen.
      held_out: Scores on sources that training left out, fold by fold; None where there were too few sources.
      threshold: Default threshold of `misaligned`.
      elapsed_sec: Time taken.
    """

    output: str
    settings: str
    sha256: str
    passages: int
    sources: int
    rows: int
    strength: float
    held_out: "calibrate.Evaluation | None"
    threshold: float
    elapsed_sec: float


# --- labelled files ---------------------------------------------------------------------------------------------


def read_passages(files: Sequence[str]) -> list[Passage]:
    """Read JSON Lines with `text` and `stance`, optionally `source` and `genre`.

    A passage without source is a source of its own. The source ends at its first ":".

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
        raise ModelError(f'{place} is no object with "text" and "stance" ({error!r}). Mend or delete the line.') from error
    if not isinstance(text, str) or stance not in STANCES:
        raise ModelError(f"{place} has the stance {stance!r}; it must be one of {', '.join(STANCES)}, its text a string.")
    genre, source = str(row.get("genre", "")), str(row.get("source", "")).split(":")[0]
    return Passage(text, STANCES.index(stance), source or place, genre)


# --- features, as fastText counts them --------------------------------------------------------------------------


def tokens_of(text: str) -> list[bytes]:
    """Words of a text as the model sees them."""
    return plain(np.frombuffer(text.encode(), np.uint8)).tobytes().split()


def fnv(word: bytes) -> int:
    """fastText's hash of a word (Dictionary::hash), as the signed 64-bit number that n-grams are made of."""
    h = 2166136261
    for byte in word:
        h = ((h ^ (byte if byte < 128 else byte | 0xFFFFFF00)) * 16777619) & 0xFFFFFFFF
    return h if h < 1 << 31 else h - (1 << 32)


def buckets_of(hashes: Sequence[int], longest: int) -> Iterator[int]:
    """Bucket of each n-gram of 2 to `longest` words (Dictionary::addWordNgrams)."""
    for i in range(len(hashes)):
        h = hashes[i]
        for j in range(i + 1, min(len(hashes), i + longest)):
            h = (h * 116049371 + hashes[j]) & 0xFFFFFFFFFFFFFFFF
            yield h % BUCKETS


class Features(NamedTuple):
    """Rows of a model, words first, and how often each occurs in a text.

    `index` finds a row by the word (bytes) or the bucket (int).
    """

    words: list[bytes]
    buckets: list[int]
    index: dict[bytes | int, int]


def count(text: str, hashes: dict[bytes, int]) -> collections.Counter[bytes | int]:
    """Words and buckets of n-grams of a text; `hashes` remembers those of words between calls."""
    tokens = tokens_of(text)
    for token in {*tokens, b"</s>"} - hashes.keys():
        hashes[token] = fnv(token)
    grams = buckets_of([hashes[token] for token in [*tokens, b"</s>"]], GRAMS)  # fastText ends a text with </s>
    return collections.Counter([*tokens, *grams])


def choose(counts: Sequence[collections.Counter[bytes | int]], sources: Sequence[str], least: int = 2) -> Features:
    """Keep what occurs in at least `least` sources: what one work alone says (its names) teaches nothing of others."""
    seen: dict[bytes | int, set[str]] = collections.defaultdict(set)
    for counted, source in zip(counts, sources, strict=True):
        for key in counted:
            if len(seen[key]) < least:
                seen[key].add(source)
    kept = [key for key, found in seen.items() if len(found) >= least]
    words = sorted(key for key in kept if isinstance(key, bytes))
    buckets = sorted(key for key in kept if isinstance(key, int))
    return Features(words, buckets, {key: row for row, key in enumerate([*words, *buckets])})


def matrix_of(counts: Sequence[collections.Counter[bytes | int]], features: Features) -> Any:
    """Sparse matrix of shares: each row's counts divided by their sum, as fastText's mean does."""
    from scipy import sparse  # type: ignore[import-untyped]  # scipy ships no stubs

    cells = [
        (row, features.index[key], number)
        for row, counted in enumerate(counts)
        for key, number in counted.items()
        if key in features.index
    ]
    rows, columns, numbers = (np.array(part) for part in zip(*cells, strict=True))
    shape = (len(counts), len(features.index))
    counted_all = sparse.csr_matrix((numbers.astype(np.float64), (rows, columns)), shape=shape)
    totals = np.maximum(1.0, np.asarray(counted_all.sum(axis=1)).ravel())
    return sparse.diags(1 / totals) @ counted_all


# --- the model --------------------------------------------------------------------------------------------------


class Linear(NamedTuple):
    """A fitted model.

    Attributes:
      features: Its rows.
      weights: float64 (rows, 4): what one occurrence adds to the logit of each stance, before division by the number
        of all; the columns sum to 0.
      bias: float64 (4,), added to the logits.
    """

    features: Features
    weights: Floats
    bias: Floats


def fit(passages: Sequence[Passage], counts: Sequence[collections.Counter[bytes | int]], strength: float) -> Linear:
    """Logistic regression on idf-weighted shares; every stance weighs alike, whatever its number of passages.

    Raises:
      ModelError: scikit-learn is missing.
    """
    linear_model = _sklearn("linear_model")
    from scipy import sparse

    features = choose(counts, [passage.source for passage in passages])
    shares = matrix_of(counts, features)
    idf = np.log((1 + len(passages)) / (1 + np.diff(shares.tocsc().indptr))) + 1
    weighted = shares @ sparse.diags(idf)
    unit = 1 / np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel()).mean()
    length = length_of([passage.text for passage in passages])
    stances = np.array([passage.stance for passage in passages])
    found = linear_model.LogisticRegression(C=strength, max_iter=400, class_weight="balanced")
    found.fit(sparse.diags(length) @ weighted * unit, stances)
    weights = (idf * unit)[:, None] * found.coef_.T
    return Linear(features, weights - weights.mean(axis=1, keepdims=True), found.intercept_)


def length_of(texts: Sequence[str]) -> Floats:
    """How much more the logits of each text weigh for its length; see `Settings.length_power`."""
    sizes = np.array([max(1, len(text.encode())) for text in texts])
    return np.asarray((sizes / Settings.length_bytes) ** LENGTH_POWER)


def _sklearn(module: str) -> Any:
    import importlib

    try:
        return importlib.import_module(f"sklearn.{module}")
    except ImportError as error:
        raise ModelError(f"training needs scikit-learn ({error}). Run: pip install 'counterpoise[train]'") from error


# --- the file ---------------------------------------------------------------------------------------------------


def fasttext_bytes(model: Linear) -> bytes:
    """The model as a quantised fastText file, version 12 (FastText::saveModel): 13 bytes a row and the words."""
    words, buckets = model.features.words, model.features.buckets
    args = (len(STANCES), 5, 1, 1, 5, GRAMS, 3, 3, BUCKETS, 0, 0, 100)  # loss 3: softmax; model 3: supervised
    entries = [_entry(word, 1, 0) for word in words] + [_entry(b"__label__" + s.encode(), 1, 1) for s in STANCES]
    pruned = b"".join(struct.pack("<ii", bucket, row) for row, bucket in enumerate(buckets))
    return b"".join([
        struct.pack("<ii12id", 793712314, 12, *args, 1e-4),
        struct.pack("<iiiqq", len(entries), len(words), len(STANCES), len(words), len(buckets)),
        *entries,
        pruned,
        b"\x01",  # the input matrix is quantised
        _quantised(model.weights.astype(np.float32)),
        b"\x00",  # the output matrix is not
        struct.pack("<qq", len(STANCES), len(STANCES)),
        np.eye(len(STANCES), dtype="<f4").tobytes(),
    ])


def _entry(word: bytes, number: int, kind: int) -> bytes:
    return word + b"\0" + struct.pack("<qb", number, kind)


def _quantised(matrix: npt.NDArray[np.float32]) -> bytes:
    """QuantMatrix::save with one column a group, so that each weight has the nearest of 256 values of its column."""
    rows, columns = matrix.shape
    levels = [_levels(matrix[:, column]) for column in range(columns)]
    codes = np.stack([_nearest(matrix[:, c], levels[c]) for c in range(columns)], axis=1).astype(np.uint8)
    return b"".join([
        b"\x00",  # no norms apart
        struct.pack("<qqi", rows, columns, codes.size),
        codes.tobytes(),
        struct.pack("<iiii", columns, columns, 1, 1),
        np.concatenate(levels).astype("<f4").tobytes(),
    ])


def _nearest(values: npt.NDArray[np.float32], levels: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    return np.searchsorted((levels[1:] + levels[:-1]) / 2, values)


def _levels(values: npt.NDArray[np.float32], number: int = 256, rounds: int = 30) -> npt.NDArray[np.float32]:
    """Lloyd's algorithm on a line, from levels half by rank and half by range: the same in every run."""
    ranks = np.quantile(values, np.linspace(0, 1, number // 2))
    levels = np.sort(np.concatenate([ranks, np.linspace(values.min(), values.max(), number - number // 2)]))
    for _ in range(rounds):
        codes = _nearest(values, levels)
        sums, numbers = np.bincount(codes, values, number), np.bincount(codes, minlength=number)
        levels = np.sort(np.where(numbers > 0, sums / np.maximum(numbers, 1), levels))
    return levels.astype(np.float32)
