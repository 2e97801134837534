"""Rows of the bench, and the one table that shows them."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclasses.dataclass
class Row:
    """One measurement.

    Attributes:
      section: The part of the table it stands in.
      rate: MB of text a CPU second, or None where that says nothing.
      value: Another number with its unit ("1.93 ×", "512 MB", "4.1 s").
      against: A ratio and what it is to ("0.41 of the limit loop").
      rounds: The single measurements behind it, CPU seconds unless `note` says otherwise.
    """

    section: str
    name: str
    rate: float | None = None
    value: str = ""
    against: str = ""
    note: str = ""
    rounds: Sequence[float] = ()


def show(rows: Iterable[Row], title: str) -> None:
    """Print all rows as one table."""
    table = Table("", "MB/s", "", "against", "note", title=title, title_justify="left")
    table.columns[1].justify = "right"
    section = None
    for row in rows:
        if row.section != section:
            if section is not None:
                table.add_section()
            section = row.section
            table.add_row(f"[bold]{section}[/]")
        rate = "" if row.rate is None else f"{row.rate:,.{1 if row.rate >= 1 else 2}f}"
        table.add_row(f"  {row.name}", rate, row.value, row.against, row.note)
    Console(width=150).print(table)


def write_json(rows: Iterable[Row], facts: dict[str, Any], path: Path) -> None:
    """Write everything that was measured, single rounds included."""
    path.write_text(json.dumps({**facts, "rows": [dataclasses.asdict(row) for row in rows]}, indent=1) + "\n")
