"""How far a build moved from the one before: shares and volumes of two manifests, held against limits. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple


class DriftLimits(NamedTuple):
    """How far a rebuild may move before it needs a person.

    Attributes:
      stance: Of the share of each stance among all documents read, and of a dose's share of an arm; absolute.
      language: Of the share of each language; absolute.
      quarantine: Of the share of bad records; absolute.
      volume: Of documents and text, read and written; relative to the build before.
    """

    stance: float = 0.02
    language: float = 0.05
    quarantine: float = 0.005
    volume: float = 0.2


class Move(NamedTuple):
    """One number of two builds; `change` is relative for volumes, else absolute, and infinite for what is new."""

    kind: str
    name: str
    before: float
    after: float
    change: float
    limit: float

    @property
    def exceeds(self) -> bool:
        """Whether it moved by more than its limit; rounding in the last place does not count."""
        return self.change > self.limit + 1e-12


def compare(before: Mapping[str, Any], after: Mapping[str, Any], limits: DriftLimits) -> list[Move]:
    """Every number that is watched, those beyond their limits first, then by how much of the limit they used."""
    old, new = dict(_measures(before)), dict(_measures(after))
    moves = []
    for kind, name in sorted(old.keys() | new.keys()):
        a, b = old.get((kind, name), 0.0), new.get((kind, name), 0.0)
        change = _relative(a, b) if kind == "volume" else abs(b - a)
        limit = getattr(limits, "stance" if kind == "dose" else kind)
        moves.append(Move(kind, name, a, b, change, limit))
    return sorted(moves, key=lambda m: (not m.exceeds, -m.change / m.limit if m.limit else -m.change))


def _relative(before: float, after: float) -> float:
    if before:
        return abs(after - before) / before
    return float("inf") if after else 0.0


def table(moves: list[Move]) -> str:
    """What moved beyond its limit, a line each, in columns."""
    lines = [f"{'what':<44} {'before':>14} {'now':>14} {'moved':>9} {'limit':>8}"]
    for move in moves:
        if move.exceeds:
            shown = f"{move.kind} {move.name}"[:44]
            values = [f"{v:,.0f}" if move.kind == "volume" else f"{v:.3%}" for v in (move.before, move.after)]
            moved = "new" if move.change == float("inf") else f"{move.change:.2%}"
            lines.append(f"{shown:<44} {values[0]:>14} {values[1]:>14} {moved:>9} {move.limit:>8.2%}")
    return "\n".join(lines)


def _measures(manifest: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str], float]]:
    arms = manifest["arms"]
    equation = next(iter(arms.values()))["equation"]
    base = {source for source, terms in equation.items() if "read" in terms}
    counts: dict[tuple[str, str], int] = {}
    for row in manifest["stances"]:
        if row["source"] in base:
            for key in (("stance", str(row["stance"])), ("language", str(row["language"]))):
                counts[key] = counts.get(key, 0) + int(row["documents"])
    total = sum(n for (kind, _), n in counts.items() if kind == "stance")
    for key, number in counts.items():
        yield key, number / total if total else 0.0
    read = sum(equation[source]["read"]["documents"] for source in base)
    yield ("quarantine", "records"), manifest["quarantine"]["records"] / read if read else 0.0
    units = ("documents", *([manifest["unit"]] if manifest["unit"] != "documents" else []))
    for source in sorted(base):
        for unit in units:
            yield ("volume", f"read {source} {unit}"), float(equation[source]["read"][unit])
    for name, arm in arms.items():
        for unit in units:
            yield ("volume", f"written {name} {unit}"), float(arm["written"]["total"][unit])
        yield ("dose", name), float(arm["dose"]["share_of_output"])
