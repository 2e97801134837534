"""Faults of the data."""

from pathlib import Path
from typing import Any

import pytest

from tests.faults.data import CASES, Data, short, write_sums
from tests.faults.harness import HEALTHY, build, config, counted, row, write_healthy
from tests.faults.table import Table


def every() -> list[Any]:
    """All cases; those whose like is in the short form are marked slow."""
    few = short()
    return [pytest.param(c, id=c.name, marks=[] if c.name in few else [pytest.mark.slow]) for c in CASES]


@pytest.mark.parametrize("case", every())
def test_fault_of_the_data(tmp_path: Path, table: Table, case: Data) -> None:
    """Left out whole, or record by record into quarantine, within the limits; exit code 3 and its place past them."""
    folder = write_healthy(tmp_path / "build")
    (folder / "web" / case.shard).write_bytes(case.data)
    values = config(folder, limits={"bad_shards": 0, "bad_records": 0, **case.changes})
    if case.whole:
        values["sources"][0]["checksums"] = write_sums(folder, case)
    there = counted(HEALTHY) + case.texts
    if case.expected == "read":
        got = build(values)
        table.add(row(case.name, "read", got, there))
        assert (got.code, got.reasons, got.left_out) == (0, {}, {}), got
        return
    strict = build(values)
    values["limits"] = {"bad_shards": 1, "bad_records": 0.5, **case.changes}
    values["output"]["path"] += "-within-limits"
    got = build(values)
    table.add(row(case.name, str(case.expected), got, there))
    assert strict.code == 3, strict
    if isinstance(case.expected, str):
        assert got.left_out == {str(folder / "web" / case.shard): case.expected}, got
        assert f"{folder}/web/{case.shard}: {case.expected} (" in strict.said
        assert "--set limits.bad_shards=1" in strict.said
    else:
        assert (got.reasons, got.left_out) == (case.expected, {}), got
        assert all(f"{number} × {reason}" in strict.said for reason, number in case.expected.items())
        assert "--set limits.bad_records=" in strict.said
