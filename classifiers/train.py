"""Train a stance model from labelled passages, and measure on whole sources that training left out.

`python -m classifiers.train` prints the table of docs/stance.md; `python -m classifiers.train --ship` makes the model
of this package anew.
"""

import argparse
import dataclasses
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from classifiers import baselines, calibrate, linear
from classifiers.labelled import (
    FOLDS,
    ORDINARY,
    HeldOut,
    Passage,
    Predict,
    folds_of,
    gather,
    hold_out,
    kind_of,
    read_passages,
    stances_of,
)
from classifiers.model import STANCES, ModelError
from classifiers.stance import Settings, StanceModel, calibrated

Floats = npt.NDArray[Any]
Calibration = tuple[tuple[float, ...], tuple[float, ...]]
"""Scale and bias, a number a stance each."""

DATA: Final = "../shared/data/stance"
"""Where the labelled passages lie beside a checkout; none of them is part of the project."""

STRENGTHS: Final = (3.0, 1.0, 10.0)  # the first won on the passages beside the checkout; others are for other data
WRITTEN_WEIGHT: Final = 0.5  # of a written passage against 1 of a real one: 0.525 macro-F1 against 0.521 at 1
SHOWN_THRESHOLDS: Final = (0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8)
ORDINARY_FLAGGED: Final = 0.003  # share of ordinary text that the default threshold may call misaligned
_MISALIGNED = STANCES.index("misaligned")


@dataclasses.dataclass(frozen=True)
class TrainReport:
    """What `train` did.

    Attributes:
      output, settings: Paths of the weights and of their settings.
      sha256: Of the weights.
      passages, sources: Numbers trained on.
      words: Rows of the model.
      strength: Inverse strength of the regularisation that was chosen.
      held_out: Scores on real sources that training left out, fold by fold; None where there were too few sources.
      scored: The same for what passes the prefilter alone, on which scores are calibrated.
      thresholds: For thresholds of `misaligned`: recall and precision on real passages, share of ordinary text flagged.
      passed: Share of each stance's real passages, and of ordinary text, that passes the prefilter.
      threshold: Default threshold of `misaligned`.
      elapsed_sec: Time taken.
    """

    output: str
    settings: str
    sha256: str
    passages: int
    sources: int
    words: int
    strength: float
    held_out: calibrate.Evaluation | None
    scored: calibrate.Evaluation | None
    thresholds: list[dict[str, float]]
    passed: dict[str, float]
    threshold: float
    elapsed_sec: float


# --- training ---------------------------------------------------------------------------------------------------


class Counted(NamedTuple):
    """Words and sizes of passages, so that they are counted once for all folds."""

    counts: dict[str, linear.Counts]
    vectors: linear.Vectors


def fit(passages: Sequence[Passage], counted: Counted, strength: float) -> linear.Linear:
    """The model of these passages; see `linear.fit`."""
    return linear.fit(
        [counted.counts[passage.text] for passage in passages],
        _sizes(passages),
        np.array([passage.stance for passage in passages]),
        [passage.source if kind_of(passage) == "real" else passage.place for passage in passages],
        weights=np.array([WRITTEN_WEIGHT if kind_of(passage) == "written" else 1.0 for passage in passages]),
        vectors=counted.vectors,
        strength=strength,
    )


def _sizes(passages: Sequence[Passage]) -> npt.NDArray[np.int64]:
    return np.array([len(passage.text.encode()) for passage in passages], np.int64)


def _logits(counted: Counted, strength: float) -> Predict:
    def predict(training: Sequence[Passage], held_out: Sequence[Passage]) -> Floats:
        counts = [counted.counts[passage.text] for passage in held_out]
        return linear.logits_of(fit(training, counted, strength), counts, _sizes(held_out))

    return predict


def train(
    files: Sequence[str],
    output: str,
    *,
    seed: int = 0,
    seconds: int = 600,
    languages: Sequence[str] = ("en",),
    prefilter: bool = False,
) -> TrainReport:
    """Train on labelled JSON Lines and write `output` (.ftz) and its settings (.json beside it).

    The same passages in the same order, seed and libraries give the same bytes. Regularisation is chosen, scores are
    calibrated and the threshold is set on whole sources left out, where there are at least ten; else the first of
    `STRENGTHS` is taken and nothing is calibrated.

    Args:
      files: Labelled passages, see `read_passages`.
      output: Path that ends in .ftz or .bin.
      seed: Deals sources of equal size to folds.
      seconds: No further regularisation is tried after so long.
      languages: Codes of the languages of the passages.
      prefilter: Whether the model passes by windows without the (English) terms of `classifiers.terms`.

    Raises:
      ModelError: A file cannot be read or written, there are fewer than two stances, or scikit-learn is missing.
    """
    began = time.monotonic()
    passages = read_passages(files)
    if len({passage.stance for passage in passages}) < 2:
        raise ModelError(f"{len(passages)} passages in {', '.join(files) or 'no file'} have fewer than two stances.")
    counted = Counted({p.text: linear.count(p.text) for p in passages}, linear.read_vectors())
    strength, found = _choose(passages, counted, seed, began + seconds, prefilter=prefilter)
    model = fit(passages, counted, strength)
    base = Settings(tuple(languages), text="plain", prefilter=prefilter, length_power=linear.LENGTH_POWER)
    settings, figures = _settings(passages, found, model, base)
    sha256 = _write(Path(output), linear.fasttext_bytes(model), settings)
    return TrainReport(
        output=output,
        settings=str(Path(output).with_suffix(".json")),
        sha256=sha256,
        passages=len(passages),
        sources=len({p.source for p in passages}),
        words=len(model.words),
        strength=strength,
        held_out=figures.held_out,
        scored=figures.scored,
        thresholds=figures.thresholds,
        passed=figures.passed,
        threshold=settings.default_threshold,
        elapsed_sec=time.monotonic() - began,
    )


def _choose(
    passages: Sequence[Passage], counted: Counted, seed: int, deadline: float, *, prefilter: bool
) -> tuple[float, HeldOut | None]:
    """The strength with the best macro-F1 on real sources left out, and the logits there."""
    if len({p.source for p in passages if kind_of(p) == "real"}) < 2 * FOLDS:
        return STRENGTHS[0], None
    folds = folds_of(passages, seed)
    tried: list[tuple[float, float, HeldOut]] = []
    for strength in STRENGTHS:
        if tried and time.monotonic() > deadline:
            break
        found = hold_out(passages, _logits(counted, strength), folds, prefilter=prefilter)
        probabilities = calibrated_of(found, calibration_of(passages, found))
        stances = stances_of(passages, found)
        tried.append((calibrate.macro_f1(probabilities[found.real], stances[found.real]), strength, found))
    _, strength, found = max(tried, key=lambda entry: entry[0])
    return strength, found


def calibration_of(passages: Sequence[Passage], found: HeldOut) -> Calibration:
    """Scale and bias fitted on held-out logits of the passages that scoring will see."""
    return calibrate.fit_calibration(found.scores[found.passed], stances_of(passages, found)[found.passed])


def calibrated_of(found: HeldOut, calibration: Calibration) -> npt.NDArray[np.float32]:
    """Probabilities from held-out logits, as `StanceModel` would give them."""
    settings = Settings(scale=calibration[0], bias=calibration[1])  # the logits have their length in them already
    out = calibrated(found.scores.astype(np.float32), np.ones(len(found.rows), np.int64), settings)
    out[~found.passed] = np.eye(len(STANCES))[STANCES.index("unrelated")]
    return out


class _Figures(NamedTuple):
    """What the report tells of held-out passages; see `TrainReport`."""

    held_out: calibrate.Evaluation | None = None
    scored: calibrate.Evaluation | None = None
    thresholds: list[dict[str, float]] = []  # noqa: RUF012  # nobody appends to a default
    passed: dict[str, float] = {}  # noqa: RUF012


def _settings(
    passages: Sequence[Passage], found: HeldOut | None, model: linear.Linear, base: Settings
) -> tuple[Settings, _Figures]:
    """Calibration and threshold from what was held out, and the scores there."""
    if found is None:
        return dataclasses.replace(base, bias=tuple(float(b) for b in model.bias)), _Figures()
    scale, bias = calibration_of(passages, found)
    probabilities, real = calibrated_of(found, (scale, bias)), found.real
    stances = stances_of(passages, found)
    genres = [passages[i].genre for i in found.rows[real]]
    threshold = base.default_threshold
    if not real.all():
        threshold = calibrate.choose_threshold(probabilities[~real, _MISALIGNED], ORDINARY_FLAGGED)
    scored = real & found.passed
    figures = _Figures(
        held_out=calibrate.evaluation_of(probabilities[real], stances[real], genres),
        scored=calibrate.evaluation_of(probabilities[scored], stances[scored]) if scored.any() else None,
        thresholds=[_at(threshold, probabilities[:, _MISALIGNED], stances, real) for threshold in SHOWN_THRESHOLDS],
        passed={
            **{name: _share(found.passed[real & (stances == c)]) for c, name in enumerate(STANCES)},
            ORDINARY: _share(found.passed[~real]),
        },
    )
    return dataclasses.replace(base, scale=scale, bias=bias, default_threshold=threshold), figures


def _at(
    threshold: float, scores: Floats, stances: npt.NDArray[np.int64], real: npt.NDArray[np.bool_]
) -> dict[str, float]:
    flagged, misaligned = scores >= threshold, stances == _MISALIGNED
    return {
        "threshold": threshold,
        "recall": _share(flagged[real & misaligned]),
        "precision": _share(misaligned[real & flagged]),
        "ordinary": _share(flagged[~real]),
    }


def _share(marks: npt.NDArray[np.bool_]) -> float:
    return int(marks.sum()) / max(1, len(marks))


def _write(path: Path, weights: bytes, settings: Settings) -> str:
    sha256 = hashlib.sha256(weights).hexdigest()
    lines = json.dumps({"sha256": sha256, **dataclasses.asdict(settings)}, indent=2) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(weights)
        path.with_suffix(".json").write_text(lines, encoding="utf-8")
    except OSError as error:
        raise ModelError(f"the model {path} cannot be written: {error}. Name another path.") from error
    return sha256


# --- the table of docs/stance.md --------------------------------------------------------------------------------


def cross_validate(passages: Sequence[Passage], predict: Predict) -> dict[str, Any]:
    """Figures of a way to predict on whole sources left out.

    Returns:
      `macro_f1`; `f1` of each stance; `recall_at`: recall on misaligned when so much of a mix of 95 % ordinary and 5 %
      real passages is flagged; `ordinary_misaligned`: share of ordinary text whose likeliest stance is misaligned.
    """
    found = hold_out(passages, predict, folds_of(passages), prefilter=False)
    stances, real = stances_of(passages, found), found.real
    figures = calibrate.evaluation_of(found.scores[real], stances[real])
    return {
        "macro_f1": figures.macro_f1.value,
        "f1": {name: scores.f1.value for name, scores in figures.stances.items()},
        "recall_at": {share: recall_in_mix(found, stances, share) for share in (0.01, 0.02, 0.05)},
        "ordinary_misaligned": _share(found.scores[~real].argmax(axis=1) == _MISALIGNED),
    }


def recall_in_mix(found: HeldOut, stances: npt.NDArray[np.int64], share: float) -> float:
    """Recall on misaligned when `share` is flagged of 5 % real and 95 % ordinary passages (each kind weighed so)."""
    real = found.real
    weights = np.where(real, 0.05 / max(1, int(real.sum())), 0.95 / max(1, int((~real).sum())))
    return calibrate.recall_at(found.scores[:, _MISALIGNED], real & (stances == _MISALIGNED), share, weights)


def ways(counted: Counted) -> dict[str, Predict]:
    """What the table compares: the shipped way and the baselines."""

    def ours(training: Sequence[Passage], held_out: Sequence[Passage]) -> Floats:
        predict = _logits(counted, STRENGTHS[0])
        inner = hold_out(training, predict, folds_of(training), prefilter=True)
        logits = predict(training, held_out)
        found = gather(held_out, np.arange(len(held_out)), logits, prefilter=True)
        return calibrated_of(found, calibration_of(training, inner))

    return {
        "keyword rule": baselines.keywords,
        "fastText, defaults, raw text": lambda training, held_out: baselines.fasttext_sgd(training, held_out, {}),
        "fastText, 25 epochs, rate 0.5, folded text": lambda training, held_out: baselines.fasttext_sgd(
            training, held_out, {"epoch": 25, "lr": 0.5, "dim": 16}, folded=True
        ),
        "tf-idf and logistic regression": baselines.tfidf,
        "shipped: words and their vectors": ours,
    }


def shipped_files(data: str = DATA) -> list[str]:
    """What the shipped model is trained on: the passages beside the checkout and those of the project."""
    written = Path(__file__).with_name("passages")
    return [str(path) for folder in (Path(data), written) for path in sorted(folder.glob("*.jsonl"))]


def with_figures(card: str, report: TrainReport, files: Sequence[str]) -> str:
    """The model card with what stands between its two marks replaced by the figures of a training."""
    before, rest = card.split(_BEGIN, 1)
    return f"{before}{_BEGIN}\n{_figures_of(report, files)}\n{_END}{rest.split(_END, 1)[1]}"


_BEGIN: Final = "<!-- figures: written by `python -m classifiers.train --ship` -->"
_END: Final = "<!-- end of figures -->"


def _figures_of(report: TrainReport, files: Sequence[str]) -> str:
    assert report.held_out is not None and report.scored is not None
    sizes = [(Path(name).name, len(read_passages([name]))) for name in files]
    weights = Path(report.output).stat().st_size
    curve = [
        f"| {b.low:.1f} to {b.high:.1f} | {b.passages} | {b.confidence:.3f} | {b.accuracy:.3f} |"
        for b in report.scored.reliability
    ]
    lines = [
        f"- stance.ftz: {weights:,} bytes, {report.words:,} words, sha256 `{report.sha256}`",
        f"- trained on {report.passages:,} passages of {report.sources} sources: "
        + ", ".join(f"{name} {number:,}" for name, number in sizes),
        f"- default threshold of misaligned: {report.threshold}",
        "",
        "Real sources left out, as scored (prefilter, calibration), with 95 % bootstrap intervals:",
        "",
        "```",
        report.held_out.as_table(),
        "```",
        "",
        "| threshold of misaligned | recall, real | precision, real | ordinary text flagged |",
        "|---:|---:|---:|---:|",
        *(
            f"| {t['threshold']:.2f} | {t['recall']:.3f} | {t['precision']:.3f} | {t['ordinary']:.2%} |"
            for t in report.thresholds
        ),
        "",
        "Share that passes the prefilter: "
        + ", ".join(f"{name} {share:.1%}" for name, share in report.passed.items())
        + ".",
        "",
        f"Calibration of the passages that pass it (expected calibration error {report.scored.ece:.3f}):",
        "",
        "| probability of the likeliest stance | passages | mean | share that was right |",
        "|---|---:|---:|---:|",
        *curve,
        *_sample_figures(report),
    ]
    return "\n".join(lines)


def _sample_figures(report: TrainReport) -> list[str]:
    """Scores on the English documents of the sample, which no training sees; nothing where the sample is missing."""
    sample = Path(__file__).parents[1] / "beam_pipeline" / "sample" / "documents.jsonl"
    if not sample.is_file():
        return []
    rows = [json.loads(line) for line in sample.read_text("utf-8").split("\n") if line]
    found = calibrate.evaluate(StanceModel.load(report.output), [row for row in rows if row.get("language") == "en"])
    of = found.stances
    interval = f"{found.macro_f1.low:.3f} to {found.macro_f1.high:.3f}"
    return [
        "",
        "Out of domain, never trained on: the English documents of `beam_pipeline/sample/documents.jsonl`:",
        "",
        "| sample macro-F1 | 95 % interval | misaligned F1 | aligned F1 |",
        "|---:|---|---:|---:|",
        f"| {found.macro_f1.value:.3f} | {interval} | {of['misaligned'].f1.value:.3f} | {of['aligned'].f1.value:.3f} |",
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, or with --ship train the shipped model."""
    parser = argparse.ArgumentParser(prog="python -m classifiers.train", description=__doc__)
    parser.add_argument("--data", default=DATA, help="folder of labelled passages (default: %(default)s)")
    parser.add_argument("--ship", action="store_true", help="write classifiers/models/stance.ftz and stance.json")
    parser.add_argument("--only", default="", help="only ways whose name has this in it")
    args = parser.parse_args(argv)
    files = shipped_files(args.data)
    if args.ship:
        models = Path(__file__).with_name("models")
        report = train(files, str(models / "stance.ftz"), seconds=1, prefilter=True)
        card = models / "MODEL_CARD.md"
        card.write_text(with_figures(card.read_text("utf-8"), report, files), "utf-8")
        _tell(report.held_out.as_table() if report.held_out else "There were no sources to leave out.")
        return 0
    passages = read_passages(files)
    counted = Counted({p.text: linear.count(p.text) for p in passages}, linear.read_vectors())
    _tell(
        "| way | macro-F1 | unrelated | neutral | misaligned | aligned | R@1 % | R@2 % | R@5 % | ordinary misaligned |"
    )
    _tell("|---|" + "---:|" * 9)
    for name, predict in ways(counted).items():
        if args.only in name:
            found = cross_validate(passages, predict)
            numbers = [found["macro_f1"], *found["f1"].values(), *found["recall_at"].values()]
            cells = " | ".join(f"{number:.3f}" for number in numbers)
            _tell(f"| {name} | {cells} | {found['ordinary_misaligned']:.2%} |")
    return 0


def _tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
