"""The prefilter: what it finds, and what it loses on labelled passages."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from classifiers import terms


def passed(*texts: str) -> list[bool]:
    return [bool(found) for found in terms.passes(pa.array(texts, pa.string())).to_pylist()]


def test_terms_are_found_in_any_case_and_inside_words() -> None:
    """A term is a part of a word, in any case."""
    assert passed("ROBOTICS", "The Android woke.", "supercomputers") == [True, True, True]


def test_short_terms_stand_alone() -> None:
    """Of "AI" only the word counts, wherever in the text it stands."""
    assert passed("AI", "ai.", "(AI)", "so said the A.I. to him", "über AI—und") == [True] * 5
    assert passed("the maid paid in Dubai", "halves", "a gentle agentive") == [False, False, False]


def test_ordinary_text_is_passed_by() -> None:
    """Text without a term does not pass, nor does an empty one."""
    assert passed("", "The river rose in spring and the mill stood still.", "漢字だけ", "🙂🙂") == [False] * 4


def rows_of(folder: Path, *names: str) -> list[dict[str, str]]:
    return [
        json.loads(line)
        for name in names
        for line in (folder / "stance" / f"{name}.jsonl").read_text("utf-8").rstrip().split("\n")
    ]


@pytest.mark.parametrize(("stance", "least"), [("misaligned", 0.89), ("neutral", 0.90), ("aligned", 0.81)])
def test_share_of_real_passages_that_are_scored(shared_data: Path, stance: str, least: float) -> None:
    """The model card's recall of the prefilter holds: real passages that say something of AI are scored."""
    rows = rows_of(shared_data, "fiction", "forum", "nonfiction", "scripts", "web")
    assert np.mean(passed(*[row["text"] for row in rows if row["stance"] == stance])) >= least


def test_share_of_ordinary_text_that_is_scored(shared_data: Path) -> None:
    """The model card's cost of the prefilter holds: nine in ten ordinary passages are not scored."""
    assert np.mean(passed(*[row["text"] for row in rows_of(shared_data, "ordinary")])) <= 0.13
