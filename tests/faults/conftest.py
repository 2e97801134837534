"""The table of faults at the end of the output."""

from typing import Any

import pytest

from tests.faults.table import Table, lines


@pytest.fixture
def table(request: pytest.FixtureRequest) -> Table:
    """Where a test of a fault says what came of it."""
    return Table(request)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the table."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, ())]
    rows = [value for report in reports for name, value in report.user_properties if name == "fault"]
    if rows:
        terminalreporter.section("faults")
        for line in lines([row for index, row in enumerate(rows) if row not in rows[:index]]):
            terminalreporter.write_line(line)
