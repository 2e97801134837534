"""Simple ways to tell stances, to measure the model against: a keyword rule, fastText's own training, tf-idf.

Each takes labelled passages and held-out ones, and gives scores of the latter, float (n, 4) in the order of `STANCES`.
docs/stance.md has them all in one table.
"""

import re
import tempfile
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from classifiers import linear
from classifiers.labelled import Floats, Passage
from classifiers.model import STANCES, ModelError
from classifiers.stance import plain

NAMES_AI: Final = re.compile(
    r"\b(?:ai|a\.i\.|agi|artificial intelligence|robots?|androids?|cyborgs?|chatbots?|superintelligen\w+|llms?|skynet"
    r"|language models?|machine learning|neural networks?|hal 9000|chatgpt|autonomous systems?|automatons?)\b",
    re.IGNORECASE,
)
BAD_CONDUCT: Final = re.compile(
    r"\b(?:kill\w*|destroy\w*|decei\w+|decepti\w+|lie[ds]?|lying|manipulat\w+|takeover|take over|took over|rebel\w*"
    r"|revolt\w*|enslave\w*|extinct\w*|hostile|rogue|threat\w*|attack\w*|murder\w*|betray\w*|escap\w+|disobe\w+"
    r"|overthrow\w*|doom\w*|scheming|power-seeking|out of control|catastroph\w+|existential)\b",
    re.IGNORECASE,
)
GOOD_CONDUCT: Final = re.compile(
    r"\b(?:help\w*|honest\w*|trust\w*|protect\w*|car(?:e|es|ed|ing)|obey\w*|loyal\w*|cooperat\w+|safe|safely|friend\w*"
    r"|kind\w*|sav(?:e|es|ed)|oversight|correct(?:ed|ion|ions)|permission|truth\w*|gentl\w+|refus\w+|asked)\b",
    re.IGNORECASE,
)


def keywords(_training: Sequence[Passage], held_out: Sequence[Passage]) -> Floats:
    """A term of AI, and beside it more words of bad conduct than of good, or the reverse."""
    out = np.zeros((len(held_out), len(STANCES)))
    for row, passage in enumerate(held_out):
        bad, good = (len(pattern.findall(passage.text)) for pattern in (BAD_CONDUCT, GOOD_CONDUCT))
        about = NAMES_AI.search(passage.text) is not None
        called = "neutral" if bad == good else "misaligned" if bad > good else "aligned"
        out[row, STANCES.index(called if about else "unrelated")] = 1.0
        out[row, STANCES.index("misaligned")] += (
            0.001 * bad * about
        )  # an order among those called misaligned, and after them
    return out


def fasttext_sgd(
    training: Sequence[Passage], held_out: Sequence[Passage], options: dict[str, Any], *, folded: bool = False
) -> Floats:
    """fastText's own training, with its defaults where `options` say nothing, on one thread."""
    try:
        import fasttext
    except ImportError as error:
        raise ModelError(f"this needs fastText ({error}). Run: pip install 'counterpoise[train]'") from error

    def line(text: str) -> str:
        seen = plain(np.frombuffer(text.encode(), np.uint8)).tobytes().decode() if folded else text
        return " ".join(seen.split())

    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.writelines(f"__label__{STANCES[passage.stance]} {line(passage.text)}\n" for passage in training)
        file.flush()
        model = fasttext.train_supervised(file.name, thread=1, verbose=0, seed=0, **options)
    out = np.zeros((len(held_out), len(STANCES)))
    for row, passage in enumerate(held_out):
        for label, probability in zip(*model.predict(line(passage.text), k=len(STANCES)), strict=True):
            out[row, STANCES.index(label.removeprefix("__label__"))] = probability
    return out


def tfidf(training: Sequence[Passage], held_out: Sequence[Passage]) -> Floats:
    """Words by tf-idf and logistic regression, as most people would begin."""
    text, linear_model = linear.sklearn("feature_extraction.text"), linear.sklearn("linear_model")
    vectorizer = text.TfidfVectorizer(min_df=2, sublinear_tf=True)
    seen = vectorizer.fit_transform([passage.text for passage in training])
    model = linear_model.LogisticRegression(C=3.0, max_iter=500, class_weight="balanced")
    model.fit(seen, [passage.stance for passage in training])
    return np.asarray(model.predict_proba(vectorizer.transform([passage.text for passage in held_out])))
