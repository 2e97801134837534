"""What documents say of AI: windows of a text, scored by a fastText model, calibrated, and gathered per document.

The way of a batch, all of it vectorised and nothing of it a Python object per document: cut into windows
(`kernel.windows`), pass by what no term of `classifiers.terms` occurs in, fold case and punctuation (`plain`), score
(`FastTextModel`), calibrate, gather. A document's scores depend on its own bytes alone.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from classifiers import kernel, terms
from classifiers.fasttext_model import FastTextModel, offsets_of
from classifiers.model import STANCES, ModelError, sha256_of

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

DEFAULT: Final = "default"
"""What `stance.model` says when it means the model inside this package."""

_SHIPPED: Final = Path(__file__).with_name("models") / "stance.ftz"
_UNRELATED, _MISALIGNED, _ALIGNED = (STANCES.index(name) for name in ("unrelated", "misaligned", "aligned"))
_SCORING_VERSION = 1  # part of the fingerprint: raise it when the same weights would give other scores
_LEAST_SHARE = 1e-9  # of probability, before its logarithm is taken


class StanceScores(NamedTuple):
    """Scores of n documents; every value depends on its document alone.

    Attributes:
      mean: float32 (n, 4) in the order of `STANCES`, rows sum to 1: mean over the windows of a document, where a window
        that the prefilter passes by counts as unrelated = 1.
      misaligned_max: float32 (n,), the highest window.
      aligned_max: float32 (n,), the highest window.
      windows: int32 (n,), at least 1.
      misaligned_windows: int32 (n,), windows whose likeliest stance is misaligned.
      scored_windows: int32 (n,), windows that passed the prefilter.
    """

    mean: Floats
    misaligned_max: Floats
    aligned_max: Floats
    windows: npt.NDArray[np.int32]
    misaligned_windows: npt.NDArray[np.int32]
    scored_windows: npt.NDArray[np.int32]


class Reason(NamedTuple):
    """A word or n-gram and what it did to the score.

    Attributes:
      text: As the model saw it (folded, words parted by one space).
      weight: Change of the log-odds of the explained stance against the mean of the others, all occurrences together.
      weights: The same for each of `STANCES`.
    """

    text: str
    weight: float
    weights: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Settings:
    """How weights are used: the JSON file beside them, or these defaults where there is none.

    Attributes:
      languages: Codes of the languages that the model knows; empty where nobody said.
      text: "plain" (see `plain`) or "raw", what the model was trained on.
      words_per_window: Words of a window, >= 1.
      prefilter: Whether windows without any of the (English) terms are passed by.
      length_power: A score's logits grow with (bytes of the window / length_bytes) ** length_power: a mean over words
        says nothing of how many there were, and 300 words are more evidence than 30.
      length_bytes: Length at which they are taken as they are.
      scale: Per stance, times its logit; from calibration.
      bias: Per stance, added to its logit; from calibration.
      default_threshold: Least score of `misaligned` at which a document is called so, in [0, 1].
    """

    languages: tuple[str, ...] = ()
    text: str = "raw"
    words_per_window: int = 300
    prefilter: bool = False
    length_power: float = 0.0
    length_bytes: float = 900.0
    scale: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    bias: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    default_threshold: float = 0.8


class StanceModel:
    """An immutable stance model, safe to share between threads.

    Attributes:
      settings: How the weights are used.
      languages: Codes of the languages that the model knows, such as ("en",); empty where nobody said.
      sha256: Of the weights' file.
      fingerprint: sha256 over weights, terms, window size and calibration: equal fingerprints, equal scores.
    """

    settings: Settings
    sha256: str
    fingerprint: str

    def __init__(self, weights: FastTextModel, settings: Settings, sha256: str) -> None:
        """Use `load`."""
        self._weights, self.settings, self.sha256 = weights, settings, sha256
        self._columns = [weights.labels.index(name) for name in STANCES]
        self.fingerprint = _fingerprint(settings, sha256)

    @property
    def languages(self) -> tuple[str, ...]:
        return self.settings.languages

    @classmethod
    def load(cls, ref: str = DEFAULT) -> "StanceModel":
        """Read a model: "default" is the one in this package, anything else the path of a fastText .bin or .ftz.

        A file of the same name that ends in .json beside it says how the weights are used (`Settings`).

        Raises:
          ModelError: No such file, its labels are not the four stances, or its JSON file is wrong or of other weights.
        """
        path = _SHIPPED if ref == DEFAULT else Path(ref).expanduser()
        weights = FastTextModel.load(path)
        if set(weights.labels) != set(STANCES):
            raise ModelError(
                f"stance model {path} has the labels {', '.join(sorted(weights.labels))}; they must be "
                f"{', '.join(STANCES)}. Train one with `counterpoise train`."
            )
        sha256 = sha256_of(path)
        return cls(weights, _read_settings(path.with_suffix(".json"), sha256), sha256)

    def score(self, text: pa.Array) -> StanceScores:
        """Score an Arrow array of strings (string, large_string or string_view; null counts as empty)."""
        texts = _as_strings(text)
        rows, windows = self._cut(texts)
        scores = np.zeros((len(windows), len(STANCES)), np.float32)
        scores[:, _UNRELATED] = 1.0
        passed = np.asarray(terms.passes(windows)) if self.settings.prefilter else np.ones(len(windows), bool)
        if passed.any():
            scores[passed] = self.probabilities(windows.filter(pa.array(passed)))
        return _gather(rows, scores, passed, len(texts))

    def probabilities(self, texts: "pa.StringArray | pa.LargeStringArray") -> Floats:
        """Calibrated probabilities of each text as one window and without prefilter: float32 (n, 4), rows sum to 1."""
        return calibrated(*self.evidence(texts), self.settings)

    def evidence(self, texts: "pa.StringArray | pa.LargeStringArray") -> tuple[Floats, npt.NDArray[np.int64]]:
        """What calibration starts from: log-probabilities of the weights, float32 (n, 4), and bytes, int64 (n,)."""
        data, starts, ends = offsets_of(texts)
        found = self._weights.predict_proba(self._seen(data), starts, ends)[:, self._columns]
        nothing = found.sum(axis=1) == 0  # no word that the model knows
        found[nothing, _UNRELATED] = 1.0
        return np.log(np.maximum(found, np.float32(_LEAST_SHARE))), ends - starts

    def explain(self, text: str, stance: str | None = None) -> list[Reason]:
        """Words and n-grams that spoke for a stance (default: the likeliest), the strongest first, against it last.

        Raises:
          ValueError: `stance` is none of the four.
        """
        if stance is None:
            stance = STANCES[int(self.probabilities(_as_strings(pa.array([text])))[0].argmax())]
        chosen = STANCES.index(stance)
        seen = self._seen(np.frombuffer(text.encode(), np.uint8)).tobytes().decode(errors="replace")
        sums: dict[str, npt.NDArray[np.float64]] = {}
        for token, contribution in self._weights.explain(seen):
            share = np.asarray(contribution, np.float64)[self._columns]
            sums[token] = sums.get(token, np.zeros(len(STANCES))) + share
        reasons = [_reason(token, share, chosen) for token, share in sums.items()]
        return sorted(reasons, key=lambda reason: (-reason.weight, reason.text))

    def _seen(self, data: Bytes) -> Bytes:
        return plain(data) if self.settings.text == "plain" else data

    def _cut(self, texts: "pa.StringArray | pa.LargeStringArray") -> tuple[npt.NDArray[np.int64], pa.LargeStringArray]:
        """Each window's document, and the windows as one array over the same bytes (they follow without gap)."""
        data, starts, ends = offsets_of(texts)
        rows, begins, cuts = kernel.windows(data, starts, ends, self.settings.words_per_window)
        edges = np.concatenate([begins[:1], cuts]).astype(np.int64)
        return rows, pa.LargeStringArray.from_buffers(len(cuts), pa.py_buffer(edges), pa.py_buffer(data))


def plain(data: Bytes) -> Bytes:
    """Fold UTF-8 text for the model, byte for byte, so that offsets stay: about 400 MB/s.

    ASCII letters become small, ASCII digits 0, other ASCII and the punctuation of U+2000..203F spaces. Other scripts
    stay as they are. The result is no longer than the input and folding it again changes nothing.
    """
    folded = np.frombuffer(data.tobytes().translate(_FOLDED), np.uint8).copy()
    leads = np.flatnonzero(data[:-2] == 0xE2)
    leads = leads[data[leads + 1] == 0x80]
    for step in range(3):
        folded[leads + step] = 0x20
    return folded


def _folded_byte(byte: int) -> int:
    letter = chr(byte)
    if byte >= 0x80 or letter.isalpha():
        return ord(letter.lower()) if byte < 0x80 else byte
    return ord("0") if letter.isdigit() else ord(" ")


_FOLDED = bytes(_folded_byte(byte) for byte in range(256))


def calibrated(logs: Floats, sizes: npt.NDArray[np.int64], settings: Settings) -> Floats:
    """Probabilities from log-probabilities (n, 4) and lengths in bytes (n,): float32 (n, 4), rows sum to 1."""
    length = np.maximum(sizes, 1) / settings.length_bytes
    logits = logs.astype(np.float64) * (length**settings.length_power)[:, None]
    logits = logits * np.array(settings.scale) + np.array(settings.bias)
    logits -= logits.max(axis=1, keepdims=True)
    shares = np.exp(logits)
    return np.asarray(shares / shares.sum(axis=1, keepdims=True), np.float32)


def _gather(rows: npt.NDArray[np.int64], scores: Floats, passed: npt.NDArray[np.bool_], documents: int) -> StanceScores:
    """Windows to documents; every document has at least one window, and they come in order."""
    if documents == 0:
        none = np.zeros(0, np.int32)
        return StanceScores(scores[:0], scores[:0, 0], scores[:0, 0], none, none, none)
    first = np.searchsorted(rows, np.arange(documents))
    windows = np.diff(np.append(first, len(rows)))
    highest = np.maximum.reduceat(scores, first, axis=0)
    misaligned = scores.argmax(axis=1) == _MISALIGNED
    return StanceScores(
        mean=(np.add.reduceat(scores.astype(np.float64), first, axis=0) / windows[:, None]).astype(np.float32),
        misaligned_max=highest[:, _MISALIGNED].copy(),
        aligned_max=highest[:, _ALIGNED].copy(),
        windows=windows.astype(np.int32),
        misaligned_windows=np.add.reduceat(misaligned.astype(np.int32), first).astype(np.int32),
        scored_windows=np.add.reduceat(passed.astype(np.int32), first).astype(np.int32),
    )


def _reason(token: str, share: npt.NDArray[np.float64], chosen: int) -> Reason:
    against = (share.sum() - share) / (len(STANCES) - 1)
    weights = tuple(float(weight) for weight in share - against)
    return Reason(token, weights[chosen], weights)


def _as_strings(text: "pa.Array | pa.ChunkedArray") -> "pa.StringArray | pa.LargeStringArray":
    """One array of strings without nulls, the bytes of its texts without gaps."""
    if isinstance(text, pa.ChunkedArray):
        text = text.combine_chunks()
    if text.type not in (pa.string(), pa.large_string()):
        text = text.cast(pa.large_string())
    return pc.fill_null(text, "") if text.null_count else text


def _fingerprint(settings: Settings, sha256: str) -> str:
    parts: Mapping[str, Any] = {
        "version": _SCORING_VERSION,
        "weights": sha256,
        "terms": terms.PATTERN if settings.prefilter else "",
        **dataclasses.asdict(settings),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


# --- the file beside the weights --------------------------------------------------------------------------------


def _read_settings(path: Path, sha256: str) -> Settings:
    """Settings of a model from its JSON file; unknown keys are notes for people and are passed over."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Settings()
    except (OSError, ValueError) as error:
        raise ModelError(
            f"stance model settings {path} cannot be read: {error}. Delete the file or mend it."
        ) from error
    if not isinstance(found, dict):
        raise ModelError(f"stance model settings {path} hold no JSON object. Delete the file or mend it.")
    if found.get("sha256", sha256) != sha256:
        raise ModelError(
            f"stance model settings {path} belong to weights with sha256 {found['sha256']}, but the file beside them "
            f"has {sha256}. Fetch both again, or train anew."
        )
    try:
        return settings_from(found)
    except (TypeError, ValueError) as error:
        raise ModelError(f"stance model settings {path}: {error}.") from error


def settings_from(found: Mapping[str, Any]) -> Settings:
    """Settings out of a parsed JSON object.

    Raises:
      TypeError, ValueError: A value has the wrong type or lies outside its range.
    """
    known = {field.name for field in dataclasses.fields(Settings)}
    values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in found.items() if key in known}
    settings = Settings(**values)
    for name in ("scale", "bias"):
        numbers: Sequence[float] = getattr(settings, name)
        if len(numbers) != len(STANCES) or not np.isfinite(np.array(numbers, float)).all():
            raise ValueError(f"{name} is {numbers}; it must be {len(STANCES)} numbers")
    rules = {
        "text": (settings.text in ("raw", "plain"), 'it must be "raw" or "plain"'),
        "words_per_window": (settings.words_per_window >= 1, "it must be at least 1"),
        "length_bytes": (settings.length_bytes > 0, "it must be above 0"),
        "default_threshold": (0 <= settings.default_threshold <= 1, "it must lie in [0, 1]"),
    }
    for name, (right, rule) in rules.items():
        if not right:
            raise ValueError(f"{name} is {getattr(settings, name)!r}; {rule}")
    return settings


@functools.cache
def default_model() -> StanceModel:
    """The model inside this package, read once a process."""
    return StanceModel.load(DEFAULT)
