"""The page of guarantees names tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")


def test_every_guarantee_links_to_a_test_that_is_there() -> None:
    """Each numbered promise has a link, each link a file, and each name in it a test of that file."""
    promises = re.split(r"\n\d+\. ", PAGE.split("## What it cannot")[0])[1:]
    assert len(promises) >= 10
    for promise in promises:
        links = re.findall(r"\[`([\w/.]+)`\]\(\.\./(tests/[\w/.]+)\)", promise)
        assert links, promise
        for name, path in links:
            text = (ROOT / path).read_text(encoding="utf-8")
            assert name == path or f"def {name}(" in text, f"{path} has no {name}"
