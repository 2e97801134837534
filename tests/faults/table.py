"""The table of faults, gathered over tests and processes and printed at the end."""

from typing import Any

import pytest

from tests.faults.harness import Row


class Table:
    """Takes the lines of one test; they travel in its report, so it does not matter which process runs it."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self.properties: list[tuple[str, object]] = request.node.user_properties

    def add(self, row: Row) -> None:
        """Add a line; AssertionError when anything was lost or is there twice."""
        self.properties.append(("fault", list(row)))
        assert (row.lost, row.duplicated) == (0, 0), row


def lines(rows: list[Any]) -> list[str]:
    """The whole table as text, and its sum."""
    rows = sorted(Row(*row) for row in rows)
    head = Row("fault", "expected", "got", "lost", "duplicated")  # type: ignore[arg-type]
    widths = [max(len(str(cell)) for cell in column) for column in zip(head, *rows, strict=True)]
    text = [
        "  ".join(str(cell).ljust(width) for cell, width in zip(line, widths, strict=True)) for line in (head, *rows)
    ]
    lost, twice = sum(row.lost for row in rows), sum(row.duplicated for row in rows)
    return [*(line.rstrip() for line in text), f"{len(rows)} faults, {lost} records lost, {twice} duplicated"]
