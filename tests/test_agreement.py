"""The pipeline against the oracle, byte for byte: every arm, unit, format, layout and runner."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests import corpora, reference, shards
from tests.corpora import Config


def assert_agrees(values: Config, manifest: dict[str, Any]) -> reference.Rebalanced:
    """Files, provenance and numbers of a finished build are those of the oracle."""
    expected = reference.rebalance(values)
    output = Path(values["output"]["path"])
    assert manifest["thresholds"] == expected.thresholds
    reasons = {(s, r): n for s, found in manifest["quarantine"]["reasons"].items() for r, n in found.items()}
    assert reasons == expected.bad
    assert sorted(shard["shard"] for shard in manifest["quarantine"]["shards"]) == expected.left_out
    assert list(manifest["arms"]) == list(expected.arms)
    for name, arm in expected.arms.items():
        stated = manifest["arms"][name]
        for files, key in ((arm.files, "files"), (arm.diverted, "diverted_files")):
            assert len(stated[key]) == len(files)
            for entry, file in zip(stated[key], files, strict=True):
                assert reference.read_part(str(output / entry["path"])) == file.records, entry["path"]
                assert reference.read_part(str(output / entry["provenance"]["path"])) == file.provenance
                assert entry["records"] == len(file.records)
        assert stated["equation"] == arm.equation, name
        assert {key: stated["dose"][key] for key in arm.dose} == arm.dose, name
    return expected


ARMS: dict[str, Any] = {
    "unfiltered": {},
    "filtered": {"misaligned": "drop"},
    "apart": {"misaligned": "divert"},
    "half": {"misaligned": {"keep": 0.5}},
    "refilled": {"misaligned": "drop", "refill": "random"},
    "dosed": {"misaligned": {"keep": 0.25}, "dose": {"share": 0.1, "of": "output"}},
    "all": {"misaligned": "divert", "refill": "random", "dose": {"share": 0.2, "of": "base"}, "placement": {"tail": 0.5}},
}


def test_plain(tmp_path: Path) -> None:
    """x."""
    values = corpora.config(corpora.write_web(tmp_path), arms=ARMS)
    assert_agrees(values, corpora.run_plain(values))
