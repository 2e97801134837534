"""What a report says, as plain numbers: everything is derived from the manifest and nothing else is read."""

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from transforms.schema import STANCES, UNITS, UNKNOWN

Manifest = Mapping[str, Any]

TERMS_OUT: Final = ("kept", "dropped_language", "dropped_misaligned", "diverted", "quarantined")
"""The right side of `read = …`, in the order in which it is shown."""

STRETCHES: Final = 200  # parts are drawn together past this number, so that a page stays small
LANGUAGES_SHOWN: Final = 40  # pairs of source and language that have rows of their own
SOURCES_DRAWN: Final = 12  # sources with a node of their own in a diagram


class Equation(NamedTuple):
    """One line of the books: `left = sum(right)`.

    Attributes:
      name: What is accounted for: a source, or "written".
      unit: One of `UNITS`.
      right: The terms, in the order of the table's columns.
    """

    name: str
    unit: str
    left: int
    right: tuple[int, ...]

    @property
    def off(self) -> int:
        """By how much it does not close; 0 for a line that does."""
        return self.left - sum(self.right)


class StanceRow(NamedTuple):
    """Text of one source, language and stance, before and in each arm, in documents and in the build's unit.

    `after` holds (least, most) pairs: where an arm keeps a share of what is flagged in several languages of one source,
    the manifest does not say how much of each language that is.
    """

    source: str
    language: str
    stance: str
    before: tuple[int, int]
    after: tuple[tuple[tuple[int, int], tuple[int, int]], ...]


class Stretch(NamedTuple):
    """Parts [first, last] of an arm: base text, and synthetic text asked and written, in the build's unit."""

    first: int
    last: int
    base: int
    asked: float
    got: int

    def share(self, amount: float) -> float:
        """An amount of synthetic text as a share of the stretch's output with that much in it."""
        return amount / (self.base + amount) if self.base + amount else 0.0


class Flow(NamedTuple):
    """A link of an arm's diagram; `amounts` is in the order of `units_of`, names begin with "source:" or "pool:"."""

    start: str
    end: str
    kind: str
    amounts: tuple[int, ...]


def units_of(manifest: Manifest) -> list[str]:
    """The units that were counted, the build's own first."""
    written = [arm["written"]["total"] for arm in manifest["arms"].values()]
    counted = [u for u in UNITS if u != manifest["unit"] and any(total[u] for total in written)]
    return [manifest["unit"], *counted]


def pools_of(manifest: Manifest) -> list[str]:
    """Names of the pool's sources."""
    return [pool["name"] for pool in manifest["config"].get("pool") or ()]


def base_terms(arm: Mapping[str, Any]) -> dict[str, Mapping[str, Mapping[str, int]]]:
    """The terms of every source of an arm that is no pool."""
    return {source: terms for source, terms in arm["equation"].items() if "read" in terms}


def term(arm: Mapping[str, Any], name: str, unit: str) -> int:
    """One term of an arm, summed over its sources."""
    return sum(int(terms[name][unit]) for terms in arm["equation"].values() if name in terms)


def equations(manifest: Manifest, arm: Mapping[str, Any]) -> tuple[list[Equation], list[Equation]]:
    """What was read, by source and unit, and what was written, by unit."""
    units = units_of(manifest)
    read = [
        Equation(source, unit, terms["read"][unit], tuple(terms[t][unit] for t in TERMS_OUT))
        for source, terms in base_terms(arm).items()
        for unit in units
    ]
    total, terms_in = arm["written"]["total"], ("kept", "refilled", "synthetic")
    written = [Equation("written", u, total[u], tuple(term(arm, t, u) for t in terms_in)) for u in units]
    return read, written


def dose_is_met(manifest: Manifest, arm: Mapping[str, Any]) -> bool:
    """Whether a dose is within the tolerance, or within one document where that is larger."""
    dose = arm["dose"]
    allowed = max(manifest["config"].get("tolerance", 0) * dose["asked"], dose["largest_document"])
    return bool(abs(dose["got"] - dose["asked"]) <= allowed)


# --- stances ---


def _flagged_languages(manifest: Manifest) -> dict[str, int]:
    """In how many languages each source has flagged documents that stay."""
    counts: dict[str, int] = {}
    for row in manifest["stances"]:
        if row["stance"] == "misaligned" and row["kept_language"]:
            counts[row["source"]] = counts.get(row["source"], 0) + 1
    return counts


def _flagged_kept(manifest: Manifest, arm: Mapping[str, Any], source: str, unit: str) -> int:
    """How much flagged text of a source an arm kept."""
    there = sum(
        row[unit]
        for row in manifest["stances"]
        if row["source"] == source and row["stance"] == "misaligned" and row["kept_language"]
    )
    terms = arm["equation"][source]
    return int(there - terms["dropped_misaligned"][unit] - terms["diverted"][unit])


def _after(
    manifest: Manifest, arm: Mapping[str, Any], row: Mapping[str, Any], unit: str, alone: int
) -> tuple[int, int]:
    """Least and most of a row's text that an arm kept."""
    there = int(row[unit])
    if not row["kept_language"]:
        return 0, 0
    if row["stance"] != "misaligned":
        return there, there
    kept = _flagged_kept(manifest, arm, row["source"], unit)
    if alone == 1:
        return kept, kept
    terms = arm["equation"][row["source"]]
    if terms["dropped_misaligned"]["documents"] + terms["diverted"]["documents"] == 0:
        return there, there
    others = kept + terms["dropped_misaligned"][unit] + terms["diverted"][unit] - there
    return max(0, kept - others), min(there, kept)


def stance_rows(manifest: Manifest) -> list[StanceRow]:
    """Text of the sources before and after, largest languages of each source first, the rest of them as "other"."""
    pools, unit = set(pools_of(manifest)), manifest["unit"]
    rows = [row for row in manifest["stances"] if row["source"] not in pools]
    weight: dict[tuple[str, str], int] = {}
    for row in rows:
        key = row["source"], row["language"]
        weight[key] = weight.get(key, 0) + row[unit]
    order = sorted(weight, key=lambda key: (-weight[key], key))
    shown = set(order[:LANGUAGES_SHOWN])
    flagged = _flagged_languages(manifest)
    merged: dict[tuple[str, str, str], StanceRow] = {}
    for row in rows:
        language = row["language"] if (row["source"], row["language"]) in shown else ""
        both = ("documents", unit)
        after = tuple(
            (_after(manifest, arm, row, "documents", flagged.get(row["source"], 0)),
             _after(manifest, arm, row, unit, flagged.get(row["source"], 0)))
            for arm in manifest["arms"].values()
        )  # fmt: skip
        new = StanceRow(row["source"], language, row["stance"], (row[both[0]], row[both[1]]), after)
        key3 = new.source, language, new.stance
        merged[key3] = _sum_rows(merged[key3], new) if key3 in merged else new
    names, stances = list(dict.fromkeys(r["source"] for r in rows)), (*STANCES, UNKNOWN)
    return sorted(
        merged.values(),
        key=lambda r: (names.index(r.source), not r.language, -weight.get((r.source, r.language), 0), r.language,
                       stances.index(r.stance) if r.stance in stances else len(stances)),
    )  # fmt: skip


def _sum_rows(a: StanceRow, b: StanceRow) -> StanceRow:
    def pair(x: tuple[int, int], y: tuple[int, int]) -> tuple[int, int]:
        return x[0] + y[0], x[1] + y[1]

    after = tuple((pair(x[0], y[0]), pair(x[1], y[1])) for x, y in zip(a.after, b.after, strict=True))
    return a._replace(before=pair(a.before, b.before), after=after)


def stance_totals(manifest: Manifest, sources: Iterable[str], unit: str) -> dict[str, int]:
    """Text in the languages that stay, by stance, of some sources, in the order of `STANCES`."""
    wanted = set(sources)
    totals = dict.fromkeys((*STANCES, UNKNOWN), 0)
    for row in manifest["stances"]:
        if row["source"] in wanted and row["kept_language"]:
            totals[row["stance"]] = totals.get(row["stance"], 0) + row[unit]
    return totals


def composition(manifest: Manifest, arm: Mapping[str, Any], unit: str) -> dict[str, int]:
    """What an arm is made of: base text by stance, refilled copies, synthetic text."""
    sources = base_terms(arm)
    parts = stance_totals(manifest, sources, unit)
    parts["misaligned"] = sum(_flagged_kept(manifest, arm, source, unit) for source in sources)
    return {**parts, "refilled": term(arm, "refilled", unit), "synthetic": term(arm, "synthetic", unit)}


# --- flow ---


def _folded(manifest: Manifest, names: Sequence[str]) -> dict[str, str]:
    """Names as a diagram shows them: the largest dozen, the rest together."""
    if len(names) <= SOURCES_DRAWN:
        return {name: name for name in names}
    totals = dict.fromkeys(names, 0)
    for row in manifest["stances"]:
        if row["source"] in totals:
            totals[row["source"]] += row[manifest["unit"]]
    large = sorted(names, key=lambda n: (-totals[n], n))[: SOURCES_DRAWN - 1]
    return {name: name if name in large else f"{len(names) - len(large)} other sources" for name in names}


def flows(manifest: Manifest, arm: Mapping[str, Any]) -> list[Flow]:
    """Every link of an arm's diagram: sources, what their text is, where it went."""
    units, sources = units_of(manifest), base_terms(arm)
    found: dict[tuple[str, str, str], list[int]] = {}

    def add(start: str, end: str, kind: str, amounts: Iterable[int]) -> None:
        link = found.setdefault((start, end, kind), [0] * len(units))
        for i, amount in enumerate(amounts):
            link[i] += amount

    shown = _folded(manifest, list(sources))
    for source, terms in sources.items():
        by_unit = [stance_totals(manifest, [source], unit) for unit in units]
        for stance in by_unit[0]:
            add(f"source:{shown[source]}", stance, stance, [totals[stance] for totals in by_unit])
        for name in ("dropped_language", "quarantined"):
            add(f"source:{shown[source]}", name, name, [terms[name][unit] for unit in units])
    by_unit = [stance_totals(manifest, sources, unit) for unit in units]
    for stance in by_unit[0]:
        if stance != "misaligned":
            add(stance, "written", stance, [totals[stance] for totals in by_unit])
    kept = [composition(manifest, arm, unit)["misaligned"] for unit in units]
    add("misaligned", "written", "misaligned", kept)
    for name in ("dropped_misaligned", "diverted"):
        add("misaligned", name, name, [term(arm, name, unit) for unit in units])
    add("refilled", "written", "refilled", [term(arm, "refilled", unit) for unit in units])
    pools = {name: terms["synthetic"] for name, terms in arm["equation"].items() if "synthetic" in terms}
    folded = _folded(manifest, list(pools))
    for pool, amounts in pools.items():
        add(f"pool:{folded[pool]}", "written", "synthetic", [amounts[unit] for unit in units])
    return [Flow(*key, tuple(amounts)) for key, amounts in found.items() if any(amounts)]


# --- scores ---


def histogram(manifest: Manifest) -> list[int]:
    """Documents by misaligned score in equal bins of [0, 1]; [] for a manifest that does not have them."""
    return [int(n) for n in (manifest.get("score_histogram") or {}).get("documents", ())]


def flagged_from(bins: Sequence[int], first: int) -> int:
    """How many documents have a score of at least `first / len(bins)`."""
    return sum(bins[first:])


# --- dose ---


def _asked_at(config: Mapping[str, Any], start: int, amount: int, dose: Mapping[str, Any]) -> float:
    """How much synthetic text a stretch of the base line was to get."""
    base, placement = dose["base"], config.get("placement", "uniform")
    low, high = 0.0, float(base)
    if isinstance(placement, Mapping):
        if "head" in placement:
            high = base * placement["head"]
        else:
            low = base * (1 - placement["tail"])
    overlap = max(0.0, min(start + amount, high) - max(start, low))
    return float(dose["asked"] * overlap / (high - low)) if high > low else 0.0


def parts_of(manifest: Manifest, name: str) -> list[Stretch]:
    """Every part of an arm; with `placement: separate` no part with base text is asked for anything."""
    arm, config = manifest["arms"][name], manifest["config"]["arms"][name]
    apart, start, parts = config.get("placement") == "separate", 0, []
    for number, file in enumerate(arm["files"]):
        asked = 0.0 if apart else _asked_at(config, start, file["base"], arm["dose"])
        parts.append(Stretch(number, number, file["base"], asked, file["synthetic"]))
        start += file["base"]
    if apart and (own := [p for p in parts if not p.base]):
        total = sum(p.got for p in own) or 1
        parts = [p._replace(asked=arm["dose"]["asked"] * p.got / total) if not p.base else p for p in parts]
    return parts


def stretches(parts: Sequence[Stretch], most: int = STRETCHES) -> list[Stretch]:
    """The parts, or runs of them, as equal in number as can be, when there are more than `most`."""
    if len(parts) <= most:
        return list(parts)
    edges = [round(i * len(parts) / most) for i in range(most + 1)]
    return [
        Stretch(parts[a].first, parts[b - 1].last, sum(p.base for p in parts[a:b]), sum(p.asked for p in parts[a:b]),
                sum(p.got for p in parts[a:b]))
        for a, b in itertools.pairwise(edges)
    ]  # fmt: skip


def widest(parts: Sequence[Stretch]) -> Stretch | None:
    """The part whose dose is furthest from what was asked."""
    return max(parts, key=lambda p: (abs(p.got - p.asked), -p.first), default=None)


# --- inputs ---


def inputs_by_source(manifest: Manifest) -> dict[str, dict[str, int]]:
    """Shards, bytes, records and faults of each source."""
    out: dict[str, dict[str, int]] = {}
    seen: set[tuple[str, str]] = set()
    for entry in manifest["inputs"]:
        row = out.setdefault(
            entry["source"], dict.fromkeys(("shards", "bytes", "records", "quarantined", "left_out", "summed"), 0)
        )
        row["records"] += entry["records"]
        row["quarantined"] += entry["quarantined"]
        if (entry["source"], entry["shard"]) not in seen:  # a shard may be read in several slices
            seen.add((entry["source"], entry["shard"]))
            row["shards"] += 1
            row["bytes"] += entry["size"]
            row["left_out"] += entry["left_out"]
            row["summed"] += bool(entry["checksum"])
    return out


def inputs_sha256(manifest: Manifest) -> str:
    """One number for all inputs: names, versions, sizes and checksums."""
    keys = ("source", "shard", "size", "version", "checksum")
    lines = [json.dumps([entry[k] for k in keys], ensure_ascii=False) for entry in manifest["inputs"]]
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()
