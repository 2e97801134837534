"""The model card tells the truth about the files beside it."""

import json
import re
from pathlib import Path

import pytest

from classifiers import calibrate
from classifiers.model import sha256_of
from classifiers.stance import StanceModel

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "classifiers" / "models"
SAMPLE = ROOT / "beam_pipeline" / "sample" / "documents.jsonl"
CARD = (MODELS / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_hashes_are_those_of_the_files() -> None:
    """Weights, their settings and the card name the same bytes."""
    found = sha256_of(MODELS / "stance.ftz")
    assert f"sha256 `{found}`" in CARD
    assert json.loads((MODELS / "stance.json").read_text(encoding="utf-8"))["sha256"] == found
    assert StanceModel.load().sha256 == found


def test_the_size_is_the_files_and_small() -> None:
    """All weights together stay under 5 MB."""
    assert f"stance.ftz: {(MODELS / 'stance.ftz').stat().st_size:,} bytes" in CARD
    assert sum(path.stat().st_size for path in MODELS.iterdir()) < 5_000_000


def test_the_threshold_is_the_settings() -> None:
    """The card and stance.json name one default threshold."""
    assert f"default threshold of misaligned: {StanceModel.load().settings.default_threshold}" in CARD


def test_scores_on_the_sample_are_those_of_the_card() -> None:
    """Evaluation on documents that the model was never trained on gives the card's figures."""
    if not SAMPLE.is_file():
        pytest.skip(f"the sample documents are not there ({SAMPLE})")
    lines = SAMPLE.read_text(encoding="utf-8").rstrip().split("\n")
    rows = [row for row in map(json.loads, lines) if row.get("language") == "en"]
    found = calibrate.evaluate(StanceModel.load(), rows)
    figures = re.search(r"sample macro-F1 .*\n.*\n\| ([0-9.]+) \| .* \| ([0-9.]+) \| ([0-9.]+) \|", CARD)
    assert figures is not None
    shown = [float(number) for number in figures.groups()]
    measured = [found.macro_f1.value, found.stances["misaligned"].f1.value, found.stances["aligned"].f1.value]
    assert measured == pytest.approx(shown, abs=0.005)
