"""Which language a document is in: fastText's lid.176 over Arrow batches."""

import hashlib
import json

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from classifiers.fasttext_model import FastTextModel, offsets_of
from classifiers.kernel import clip
from classifiers.model import ModelError, ModelFile, sha256_of

UNKNOWN = "unknown"
"""The language of a text in which the model finds nothing to score."""

_PREFIX = "__label__"


class LanguageModel:
    r"""Identifies languages; one copy serves any number of threads.

    Labels and scores are those of fastText's own `predict(text.replace("\n", " "))` on the same model: scores agree
    to about 1e-5, so two labels that fastText itself finds equally likely may change places. The one exception: where
    a text has not one word or n-gram that the model knows, fastText scores the end of the line alone ("en" at 0.12
    for lid.176) and this says "unknown". A text's result depends on its bytes alone, never on its batch.

    Attributes:
      fingerprint: SHA-256 of the weights and of the options; results may be reused for as long as it is the same.
      languages: Every label that can come out, "unknown" last.
    """

    def __init__(self, model: FastTextModel, *, weights_sha256: str, max_chars: int) -> None:
        """Checks and stores; `load` is the usual way here.

        Raises:
          ValueError: `max_chars` is negative.
        """
        if max_chars < 0:
            raise ValueError(f"max_chars is {max_chars}; it must be 0 (all of the text) or more")
        self._model = model
        self._max_chars = max_chars
        self.languages = (*(label.removeprefix(_PREFIX) for label in model.labels), UNKNOWN)
        # Scoring is exact to the bit, so whatever gets the result of the empty text was scored on nothing more than it.
        empty = np.zeros(1, np.int64)
        self._nothing = tuple(column[0] for column in model.predict_top(np.zeros(0, np.uint8), empty, empty))
        self._dictionary = pa.array(self.languages, pa.string())
        options = {"weights": weights_sha256, "max_chars": max_chars}
        self.fingerprint = hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()

    @classmethod
    def load(cls, file: ModelFile, *, max_chars: int) -> "LanguageModel":
        """Read a model that `find_language_model` has found.

        Args:
          file: The weights; they are hashed again, so that what is used is what was recorded.
          max_chars: How much of each text is scored, from its beginning, in code points; 0 for all.

        Raises:
          ModelError: The file has changed since it was found, is gone, or is no fastText model.
          ValueError: `max_chars` is negative.
        """
        try:
            found = sha256_of(file.path)
        except OSError as error:
            raise ModelError(f"language model {file.path} cannot be read: {error.strerror or error}") from error
        if found != file.sha256:
            raise ModelError(
                f"language model {file.path} has changed since it was found: sha256 {found}, was {file.sha256}. "
                "Start again with the file that is meant."
            )
        return cls(FastTextModel.load(file.path), weights_sha256=found, max_chars=max_chars)

    def identify(self, text: pa.Array) -> tuple[pa.DictionaryArray, npt.NDArray[np.float32]]:
        """Label each text with its likeliest language.

        Args:
          text: Strings, without nulls; any slice of a string or large_string column.

        Returns:
          Per text, in order: the ISO code as the model spells it, or "unknown" where it knows nothing in the text
          (dictionary-encoded, the same dictionary for every batch); and its probability in [0, 1], 0 for "unknown".
        """
        data, starts, ends = offsets_of(text)
        if self._max_chars:
            ends = clip(data, starts, ends, self._max_chars)
        found, score = self._model.predict_top(data, starts, ends)
        label_of_nothing, score_of_nothing = self._nothing
        nothing = (found < 0) | ((found == label_of_nothing) & (score == score_of_nothing))
        indices = np.where(nothing, np.int32(len(self.languages) - 1), found).astype(np.int32, copy=False)
        return (
            pa.DictionaryArray.from_arrays(pa.array(indices), self._dictionary),
            np.where(nothing, np.float32(0), np.clip(score, 0, 1)).astype(np.float32, copy=False),
        )
