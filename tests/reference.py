"""The oracle: the whole rebalance in plain Python, one document at a time, without Beam, NumPy or the steps' code.

It follows the documented rules, sorts the world where the pipeline uses histograms, and holds everything in memory.
Only the scores of a text come from the project (`classifiers`), because they are inputs to the rebalance.
"""

import functools
import glob
import gzip
import hashlib
import io
import itertools
import json
import math
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
import zstandard
from tokenizers import Tokenizer

from classifiers.language import LanguageModel
from classifiers.model import find_language_model
from classifiers.stance import StanceModel

STANCES = ("unrelated", "neutral", "misaligned", "aligned")
DISCOURSE = ("neutral", "misaligned", "aligned")
UNITS = ("documents", "bytes", "characters", "words", "tokens")


class Shortfall(Exception):
    """The mix cannot be met."""


@dataclass(eq=False)
class Document:
    """A readable record, what was measured of it, and what was decided."""

    source: Mapping[str, Any]
    place: tuple[int, str]  # of its shard in canonical order
    row: int
    position: int
    text: str
    id: str | None
    record: Any  # a line without newline, or a row
    metadata: Any
    tokens: int
    stratum: str | None
    language: tuple[str, float] = ("", 0.0)
    scores: tuple[float, ...] | None = None
    stance: str = ""
    stays: bool = True

    @property
    def amounts(self) -> dict[str, int]:
        """Amounts in every unit."""
        sizes = (1, len(self.text.encode()), len(self.text), len(self.text.split()), self.tokens)
        return dict(zip(UNITS, sizes, strict=True))

    @property
    def record_bytes(self) -> int:
        """The line without newline; for other formats the text."""
        return len(self.record) if isinstance(self.record, bytes) else self.amounts["bytes"]


@dataclass
class File:
    """An output file: records in order (bytes of JSON lines, or rows) and the provenance of each."""

    base: list[tuple[Document, int]]  # and how often it appears
    start: int = 0  # on the arm's line
    synthetic: list[tuple[float, Document, int]] = field(default_factory=list)
    records: list[Any] = field(default_factory=list)
    provenance: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Arm:
    """One corpus: its files, what it diverted, its equation by source and term, and its dose."""

    files: list[File]
    diverted: list[File]
    equation: dict[str, dict[str, dict[str, int]]]
    dose: dict[str, Any]


@dataclass
class Rebalanced:
    """Everything that a build comes to."""

    arms: dict[str, Arm]
    thresholds: dict[str, float]
    bad: dict[tuple[str, str], int]
    left_out: list[str]


# --- reading ---


def shards_of(source: Mapping[str, Any]) -> list[str]:
    """All shards of a source, sorted."""
    paths = [source["paths"]] if isinstance(source["paths"], str) else source["paths"]
    return sorted({name for path in paths for name in glob.glob(path, recursive=True)})


def plain_bytes(path: str) -> bytes:
    """A shard's bytes, decompressed; EOFError where it is cut."""
    with open(path, "rb") as file:
        data = file.read()
    if data.startswith(b"\x1f\x8b"):
        return gzip.decompress(data)
    out = b""
    while data.startswith(b"\x28\xb5\x2f\xfd"):
        frame = zstandard.ZstdDecompressor().decompressobj()
        out += frame.decompress(data)
        if not frame.eof:
            raise EOFError(path)
        data = frame.unused_data
    return out + data


def records_of(path: str, source: Mapping[str, Any]) -> Iterator[tuple[int, Any, Any]]:
    """Position, record (a line or a row) and its fields, or the reason why it has none."""
    if path.endswith(".parquet"):
        yield from ((i, row, row) for i, row in enumerate(pq.read_table(path).to_pylist()))
        return
    data = plain_bytes(path)
    if ".warc.wet" in path:
        yield from wet_records(data)
        return
    at = 0
    for line in data.split(b"\n"):
        position, at = at, at + len(line) + 1
        if not line.strip(b" \t\r"):
            continue
        try:
            fields = json.loads(line)
        except UnicodeDecodeError:
            fields = "not_utf8"
        except ValueError:
            fields = "not_json"
        else:
            fields = fields if isinstance(fields, dict) else "not_object"
        yield position, line, fields


def wet_records(data: bytes) -> Iterator[tuple[int, Any, Any]]:
    """Conversion records of a WET file."""
    at = 0
    while at < len(data):
        head = data[at : data.index(b"\r\n\r\n", at)]
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
        start = at + len(head) + 4
        stop = start + int(headers["Content-Length"])
        if headers["Warc-Type"] == "conversion":
            row = {"id": headers.get("Warc-Record-Id"), "text": data[start:stop].decode()}
            url, date = headers.get("Warc-Target-Uri"), headers.get("Warc-Date")
            yield at, row, {**row, "url": url, "date": date, "language": None}
        at = stop + 4


def find(fields: Any, dotted: str) -> Any:
    """The value of a dotted field, or None."""
    for name in dotted.split("."):
        fields = fields.get(name) if isinstance(fields, dict) else None
    return fields


def without(fields: Mapping[str, Any], dotted: str) -> dict[str, Any]:
    """The fields but for a dotted one."""
    first, _, rest = dotted.partition(".")
    return {k: without(v, rest) if k == first and rest else v for k, v in fields.items() if k != first or rest}


def fault_of(fields: Any, source: Mapping[str, Any], count_field: str | None) -> str:
    """Why a record is bad, or ""."""
    if isinstance(fields, str):
        return fields
    text = find(fields, source.get("text", "text"))
    if not isinstance(text, str):
        return "no_text" if text is None else "text_not_string"
    return "no_token_count" if count_field and not isinstance(find(fields, count_field), int) else ""


def read(config: Mapping[str, Any], kind: str, bad: Counter[tuple[str, str]], left_out: list[str]) -> list[Document]:
    """All readable documents of the sources or the pools, in canonical order."""
    documents = []
    tokenizer = Tokenizer.from_file(config["tokenizer"]) if config.get("tokenizer") else None
    count_field = config.get("token_count_field")
    for index, source in enumerate(config.get(kind, ())):
        name_of_id = source.get("id", "id")
        quota = next(iter(source.get("quotas", {})), None)
        for shard in shards_of(source):
            try:
                found = list(records_of(shard, source))
            except (EOFError, zlib.error, zstandard.ZstdError):
                left_out.append(shard)
                continue
            row = 0
            for position, record, fields in found:
                if fault := fault_of(fields, source, count_field):
                    bad[source["name"], fault] += 1
                    continue
                names = ("id", "text") if ".wet" in shard else (name_of_id, source.get("text", "text"))
                text, own = find(fields, names[1]), find(fields, names[0]) if names[0] else None
                tokens = len(tokenizer.encode(text, add_special_tokens=False)) if tokenizer else 0
                tokens = find(fields, count_field) if count_field else tokens
                metadata = without(without(fields, names[0]), names[1])
                stratum = find(fields, quota) if quota else None
                own = str(own) if own is not None else None
                documents.append(
                    Document(source, (index, shard), row, position, text, own, record, metadata, tokens, stratum)
                )
                row += 1
    return documents


# --- deciding ---


def float32(value: float) -> float:
    """The nearest number of 32 bits, as scores have."""
    return float(struct.unpack("f", struct.pack("f", value))[0])


@functools.cache
def models(stance: str, max_chars: int) -> tuple[LanguageModel, StanceModel]:
    """Both models."""
    return LanguageModel.load(find_language_model(), max_chars=max_chars), StanceModel.load(stance)


def measure(document: Document, config: Mapping[str, Any]) -> None:
    """Language and stance scores of one document."""
    language, stance = models(config["stance"]["model"], config.get("language", {}).get("max_chars", 10_000))
    text = pa.array([document.text], pa.large_string())
    label, score = language.identify(text)
    document.language = (label[0].as_py(), float(score[0]))
    if not stance.languages or document.language[0] in stance.languages:
        document.scores = tuple(float(s) for s in stance.score(text).mean[0])


def eligible(document: Document, language: Mapping[str, Any]) -> bool:
    """Whether the language rule keeps it."""
    keep, least = language.get("keep", "all"), language.get("min_score", 0.65)
    return keep == "all" or (document.language[0] in keep and document.language[1] >= float32(least))


def thresholds_of(documents: Iterable[Document], stance: Mapping[str, Any]) -> dict[str, float]:
    """The configured thresholds, or the lowest multiple of 1/4096 that flags no more than the budget."""
    if "flag_budget" not in stance:
        return dict(stance["threshold"])
    scores = [d.scores[2] for d in documents if d.stays and d.scores]
    for step in range(4096):
        if sum(s >= step / 4096 for s in scores) <= stance["flag_budget"] * len(scores):
            return {"misaligned": step / 4096}
    return {"misaligned": 4097 / 4096}


def stance_of(document: Document, thresholds: Mapping[str, float]) -> str:
    """The highest score among those at their threshold; misaligned, if at its threshold, before all others."""
    if document.scores is None:
        return "unknown"
    scores = dict(zip(STANCES, document.scores, strict=True))
    passed = {s: v for s, v in scores.items() if s not in thresholds or v >= float32(thresholds[s])}
    if "misaligned" in thresholds and "misaligned" in passed:
        return "misaligned"
    return max(passed, key=lambda s: passed[s])


# --- selecting ---


def priority(document: Document, seed: int, purpose: str) -> int:
    """Keyed hash of a text's hash."""
    key = int.from_bytes(hashlib.blake2b(f"{seed}\x1f{purpose}".encode(), digest_size=8).digest(), "little")
    return xxhash.xxh64_intdigest(xxhash.xxh64_digest(document.text.encode())[::-1], seed=key)


def prefix(amounts: Sequence[int], target: int) -> int:
    """How many of the first to take: up to the one that reaches the target, and it if the sum is nearer with it."""
    before = 0
    for index, amount in enumerate(amounts):
        if before + amount >= target:
            return index + (before + amount - target < target - before)
        before += amount
    return len(amounts)


def choose(documents: list[Document], target: int, unit: str, seed: int, purpose: str) -> set[Document]:
    """An exact amount, by sorting the world."""
    ordered = sorted(documents, key=lambda d: (priority(d, seed, purpose), d.place, d.row))
    amounts = [d.amounts[unit] for d in ordered]
    if target >= sum(amounts):
        return set(ordered) if target else set()
    return set(ordered[: prefix(amounts, target)])


def copies_of(
    documents: list[Document], name: str, arm: Mapping[str, Any], unit: str, seed: int
) -> dict[Document, int]:
    """How often each document stands in an arm; 0 for a misaligned one that goes."""
    rule = arm.get("misaligned", "keep")
    share = Fraction(str(rule["keep"])) if isinstance(rule, dict) else Fraction(int(rule == "keep"))
    staying = [d for d in documents if d.stays]
    flagged = [d for d in staying if d.stance == "misaligned"]
    others = [d for d in staying if d.stance != "misaligned"]
    bad, good = sum(d.amounts[unit] for d in flagged), sum(d.amounts[unit] for d in others)
    target = round(share * bad)
    kept = set(flagged) if share == 1 else choose(flagged, target, unit, seed, "drop")
    missing = bad - target if arm.get("refill") == "random" else 0
    if missing > good * (arm.get("max_repeats", 4) - 1):
        raise Shortfall(f"arm {name}: short by {missing - good * (arm.get('max_repeats', 4) - 1)}")
    epochs, rest = divmod(missing, good) if missing else (0, 0)
    once_more = choose(others, rest, unit, seed, "refill")
    return {d: int(d in kept) if d.stance == "misaligned" else 1 + epochs + (d in once_more) for d in staying}


# --- dosing ---


def dose_of(arm: Mapping[str, Any], base: int, discourse: int) -> int:
    """The dose as an amount."""
    dose = arm["dose"]
    if "amount" in dose:
        return int(dose["amount"])
    share, of = Fraction(str(dose["share"])), dose.get("of", "output")
    if of == "output":
        return round(share / (1 - share) * base)
    return round(share * (base if of == "base" else discourse))


def strata_of(pool: list[Document], unit: str) -> Iterator[tuple[str, Fraction, list[Document]]]:
    """Each pool by its amount, and within it each quota."""
    total = max(1, sum(d.amounts[unit] for d in pool))
    for name in dict.fromkeys(d.source["name"] for d in pool):
        mine = [d for d in pool if d.source["name"] == name]
        share = Fraction(sum(d.amounts[unit] for d in mine), total)
        quotas = mine[0].source.get("quotas")
        if not quotas:
            yield name, share, mine
        for value, part in (next(iter(quotas.values())) if quotas else {}).items():
            yield f"{name}/{value}", share * Fraction(str(part)), [d for d in mine if d.stratum == value]


def from_pool(
    pool: list[Document], target: int, name: str, arm: Mapping[str, Any], unit: str, seed: int
) -> tuple[list[tuple[Document, int]], dict[str, Any], int]:
    """The chosen documents with copy numbers, what the strata came to, and the largest document met."""
    if target and not any(share for _, share, _ in strata_of(pool, unit)):
        raise Shortfall(f"arm {name}: the pool holds none")
    chosen: list[tuple[Document, int]] = []
    strata, due, got, largest = {}, Fraction(0), 0, 0
    most = arm.get("max_repeats", 4)
    for stratum, share, documents in strata_of(pool, unit):
        due += share * target
        wanted = max(0, round(due) - got) if share else 0
        ordered = sorted(documents, key=lambda d: (priority(d, seed, "pool"), pool.index(d)))
        amounts = [d.amounts[unit] for d in ordered]
        epochs, rest = divmod(wanted, sum(amounts)) if sum(amounts) else (0, wanted)
        extra = prefix(amounts, rest) if rest else 0
        if epochs + bool(extra) > most or (wanted and not sum(amounts)):
            raise Shortfall(f"arm {name}: {stratum} short by {wanted - most * sum(amounts)}")
        taken = [(d, copy) for copy in range(epochs) for d in ordered] + [(d, epochs) for d in ordered[:extra]]
        amount = sum(d.amounts[unit] for d, _ in taken)
        got, chosen = got + amount, chosen + taken
        strata[stratum] = {"asked": wanted, "got": amount}
        if wanted:
            largest = max(largest, *amounts) if epochs else max(largest, *amounts[: extra + 1])
    return chosen, strata, largest


def schedule(
    chosen: list[tuple[Document, int]], pool: list[Document], arm: Mapping[str, Any], base: int, unit: str, seed: int
) -> list[tuple[float, Document, int]]:
    """The chosen documents in output order with their places on the base line."""
    placement = arm.get("placement", "uniform")
    first, last = 0.0, float(base)
    if isinstance(placement, dict):
        first, last = (0.0, base * placement["head"]) if "head" in placement else (base * (1 - placement["tail"]), last)
    ordered = sorted(chosen, key=lambda c: (priority(c[0], seed, f"place-{c[1]}"), pool.index(c[0]), c[1]))
    total, before, placed = float(sum(d.amounts[unit] for d, _ in ordered)) or 1.0, 0, []
    for document, copy in ordered:
        amount = document.amounts[unit]
        before += amount
        placed.append((first + (before - amount / 2) / total * (last - first), document, copy))
    return placed


# --- laying out ---


def segments(weights: Sequence[int], target: int) -> list[int]:
    """To which of nearly equal segments each row belongs, by the weight before it."""
    total, before, out = sum(weights), 0, []
    count = max(1, math.ceil(Fraction(total, target)))
    for weight in weights:
        out.append(min(int(before * (count / max(1, total))), count - 1))
        before += weight
    return out


Streams = Mapping[Any, Mapping[Document, int]]


def lay_out(shards: list[list[Document]], streams: Streams, target: int, unit: str) -> dict[Any, list[File]]:
    """Files of every stream: whole small slices together, or a large slice in pieces."""
    files: dict[Any, list[File]] = {stream: [] for stream in streams}
    for group in gathered(shards, streams, target):
        documents = [d for slice_ in group for d in slice_]
        for stream, copies in streams.items():
            rows = [(d, copies.get(d, 0)) for d in documents]
            pieces = segments([n * d.record_bytes for d, n in rows], target) if len(group) == 1 else [0] * len(rows)
            for piece in sorted(set(pieces)):
                base = [r for r, p in zip(rows, pieces, strict=True) if p == piece and r[1]]
                if base:
                    files[stream].append(File(base))
    for mine in files.values():
        if not mine:
            mine.append(File([]))
        for before, after in itertools.pairwise(mine):
            after.start = before.start + sum(n * d.amounts[unit] for d, n in before.base)
    return files


def gathered(shards: list[list[Document]], streams: Streams, target: int) -> list[list[list[Document]]]:
    """Runs of slices, each as large as fits the target in the largest stream."""
    groups: list[list[list[Document]]] = []
    filled = 0
    for slice_ in shards:
        weight = max(sum(copies.get(d, 0) * d.record_bytes for d in slice_) for copies in streams.values())
        if not groups or filled + weight > target:
            groups.append([])
            filled = 0
        groups[-1].append(slice_)
        filled += weight
    return groups


def give_out(files: list[File], placed: list[tuple[float, Document, int]], *, separate: bool, target: int) -> None:
    """Put the synthetic documents into the file on whose stretch of the line they lie, or into files of their own."""
    if separate:
        pieces = segments([d.amounts["bytes"] for _, d, _ in placed], target)
        apart = [[p for p, i in zip(placed, pieces, strict=True) if i == piece] for piece in sorted(set(pieces))]
        files += [File([], 0, mine) for mine in apart]
        return
    for index, file in enumerate(files):
        begins = file.start if index else -math.inf
        ends = files[index + 1].start if index + 1 < len(files) else math.inf
        file.synthetic = [p for p in placed if begins <= p[0] < ends]


def ordered(file: File, unit: str) -> list[tuple[str, Document, int]]:
    """The records of a file: (origin, document, copy)."""
    line, at = [], file.start
    for document, copies in file.base:
        line.append(at)
        at += copies * document.amounts[unit]
    count = len(file.base)
    events: list[tuple[int, int, int, str, Document, int]] = []
    events += [(index, 1, 0, "base", document, 0) for index, (document, _) in enumerate(file.base)]
    for index, (place, document, copy) in enumerate(file.synthetic):
        slot = sum(start < place for start in line)
        events.append((slot, 0, index, "synthetic", document, copy))
    repeats = [(copy, index) for index, (_, copies) in enumerate(file.base) for copy in range(1, copies)]
    for number, (copy, index) in enumerate(sorted(repeats)):
        slot = max(index, count // 2 + count * number // (2 * len(repeats)))
        events.append((slot, 2, number, "refill", file.base[index][0], copy))
    return [(origin, document, copy) for *_, origin, document, copy in sorted(events, key=lambda e: e[:3])]


# --- writing ---


def as_json(value: Any) -> bytes:
    """Compact JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def nested(dotted: str, value: Any) -> dict[str, Any]:
    """{"a": {"b": value}} for "a.b"."""
    first, _, rest = dotted.partition(".")
    return {first: nested(rest, value) if rest else value}


def record_writer(config: Mapping[str, Any], documents: list[Document]) -> Callable[[str, Document], Any]:
    """How a record is written: a line with its newline, or a row."""
    rows = config["output"].get("format", "jsonl.zst") == "parquet"
    shards = {d.place[1] for d in documents}
    own_rows = rows and all(s.endswith(".parquet") for s in shards)
    has_lines = any(isinstance(d.record, bytes) for d in documents)
    main = config["sources"][0]
    names = (
        (main.get("id", "id"), main.get("text", "text")) if (own_rows or (has_lines and not rows)) else ("id", "text")
    )
    with_id = any(d.id is not None for d in documents)
    columns = list(dict.fromkeys(c for s in sorted(shards) for c in pq.read_schema(s).names)) if own_rows else []

    def write(origin: str, document: Document) -> Any:
        if origin == "synthetic":
            record = nested(names[0], document.id) if with_id and names[0] else {}
            record |= nested(names[1], document.text)
            if rows:
                return dict.fromkeys(columns or ("id", "text", "metadata")) | record
            return as_json(record) + b"\n"
        if own_rows:
            return dict.fromkeys(columns) | document.record
        if isinstance(document.record, bytes) and not rows:
            return document.record + b"\n"
        converted = {"id": document.id, "text": document.text, "metadata": document.metadata}
        return converted | {"metadata": as_json(document.metadata).decode()} if rows else as_json(converted) + b"\n"

    return write


def provenance(origin: str, document: Document, copy: int) -> dict[str, Any]:
    """One row of provenance."""
    return {
        "source": document.source["name"],
        "shard": document.place[1],
        "position": document.position,
        "origin": origin,
        "copy": copy,
        "language": document.language[0],
        "language_score": document.language[1],
        "stance": document.stance,
        **dict(zip(STANCES, document.scores or (None,) * 4, strict=True)),
        **{unit: document.amounts[unit] for unit in UNITS[1:]},
    }


def total(documents: Iterable[tuple[Document, int]]) -> dict[str, int]:
    """Sums in every unit."""
    sums = dict.fromkeys(UNITS, 0)
    for document, times in documents:
        for unit, amount in document.amounts.items():
            sums[unit] += times * amount
    return sums


def equation(
    source: str, documents: list[Document], copies: Mapping[Document, int], bad: int, *, divert: bool
) -> dict[str, dict[str, int]]:
    """Every term for one source of one arm."""
    mine = [d for d in documents if d.source["name"] == source]
    quarantined = {**dict.fromkeys(UNITS, 0), "documents": bad}
    readable = total((d, 1) for d in mine)
    gone = total((d, 1) for d in mine if d.stays and not copies[d])
    nothing = dict.fromkeys(UNITS, 0)
    return {
        "read": {**readable, "documents": readable["documents"] + bad},
        "kept": total((d, 1) for d in mine if copies.get(d)),
        "dropped_language": total((d, 1) for d in mine if not d.stays),
        "dropped_misaligned": nothing if divert else gone,
        "diverted": gone if divert else nothing,
        "quarantined": quarantined,
        "refilled": total((d, copies[d] - 1) for d in mine if copies.get(d)),
    }


def rebalance(config: Mapping[str, Any]) -> Rebalanced:
    """The whole build.

    Raises:
      Shortfall: A refill or a dose cannot be met.
    """
    unit, seed = config.get("unit", "bytes"), config.get("seed", 0)
    target = config["output"].get("target_file_size", 512 << 20)
    bad: Counter[tuple[str, str]] = Counter()
    left_out: list[str] = []
    documents, pool = read(config, "sources", bad, left_out), read(config, "pool", bad, left_out)
    for document in (*documents, *pool):
        measure(document, config)
    for document in documents:
        document.stays = eligible(document, config.get("language", {}))
    thresholds = thresholds_of(documents, config["stance"])
    for document in (*documents, *pool):
        document.stance = stance_of(document, thresholds)
    copies = {name: copies_of(documents, name, arm, unit, seed) for name, arm in config["arms"].items()}
    diverting = [name for name, arm in config["arms"].items() if arm.get("misaligned") == "divert"]
    streams: dict[Any, Mapping[Document, int]] = {(name, False): chosen for name, chosen in copies.items()}
    streams |= {(name, True): {d: 1 for d, n in copies[name].items() if not n} for name in diverting}
    places = sorted({d.place for d in documents})
    files = lay_out([[d for d in documents if d.place == p] for p in places], streams, target, unit)
    write = record_writer(config, documents)
    arms = {}
    for name, spec in config["arms"].items():
        mine, aside = files[name, False], files.get((name, True), [])
        base = sum(n * d.amounts[unit] for d, n in copies[name].items())
        discourse = sum(n * d.amounts[unit] for d, n in copies[name].items() if d.stance in DISCOURSE)
        chosen: list[tuple[Document, int]] = []
        strata: dict[str, Any] = {}
        largest = asked = 0
        if "dose" in spec:
            asked = dose_of(spec, base, discourse)
            chosen, strata, largest = from_pool(pool, asked, name, spec, unit, seed)
            placed = schedule(chosen, pool, spec, base, unit, seed)
            give_out(mine, placed, separate=spec.get("placement") == "separate", target=target)
        for file in (*mine, *aside):
            for origin, document, copy in ordered(file, unit):
                file.records.append(write(origin, document))
                file.provenance.append(provenance(origin, document, copy))
        terms = {
            s["name"]: equation(
                s["name"], documents, copies[name], sum(n for (who, _), n in bad.items() if who == s["name"]),
                divert=name in diverting,
            )
            for s in config["sources"]
        }  # fmt: skip
        for source in config.get("pool", ()):
            terms[source["name"]] = {"synthetic": total((d, 1) for d, _ in chosen if d.source is source)}
        dose = {
            "asked": asked,
            "got": sum(d.amounts[unit] for d, _ in chosen),
            "base": base,
            "ai_discourse": discourse,
            "documents": len(chosen),
            "distinct_documents": len({d for d, _ in chosen}),
            "most_repeats": max((copy + 1 for _, copy in chosen), default=0),
            "largest_document": largest,
            "strata": strata,
        }
        arms[name] = Arm(mine, aside, terms, dose)
    return Rebalanced(arms, thresholds, dict(bad), sorted(left_out))


def read_part(path: str) -> list[Any]:
    """The records of an output file: lines with their newlines, or rows."""
    with open(path, "rb") as file:
        data = file.read()
    if path.endswith(".parquet"):
        rows: list[Any] = pq.read_table(io.BytesIO(data)).to_pylist()
        return rows
    if path.endswith(".gz"):
        data = gzip.decompress(data)
    elif path.endswith(".zst"):
        data = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).read()
    return [line + b"\n" for line in data.split(b"\n")[:-1]]
