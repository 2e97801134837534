"""Prove the build, then say that it is complete: quarantine, manifest, card, `_SUCCESS` last.

The equation, for every source and arm, in documents and in each unit:
`read = kept + dropped(by reason) + diverted + quarantined`, `written = kept + refilled + synthetic`. Left and right
come from different countings: what was read from the census of the annotations, what was written from the files.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import apache_beam as beam
import google_crc32c
import zstandard
from apache_beam.typehints.decorators import no_annotations

from transforms import croissant, heartbeat, report
from transforms.annotation import Receipt
from transforms.arms import key_of_slice
from transforms.census import NONE, Amounts, Census, plus
from transforms.dose import dose_target
from transforms.errors import Unaccounted
from transforms.layout import Stream, Terms
from transforms.mix import FileReceipt, GroupReceipt
from transforms.plan import ArmPlan, Plan
from transforms.quarantine import quarantine_line
from transforms.read_jsonl import MAX_FIELDS
from transforms.schema import CONVERTED, UNITS, BadRecord, Format, Source
from transforms.spool import scratch
from transforms.storage import join, store_for

MANIFEST_VERSION: Final = 1
OWNER_RECORD: Final = "_OWNER.json"  # who is building; removed before `_SUCCESS`, so that no corpus has it


class Identity(NamedTuple):
    """What makes two builds the same: goes into the manifest.

    Attributes:
      name: The configuration's name.
      config: The resolved configuration without the places of output and work, as plain values.
      config_sha256: Its hash.
      version: Counterpoise's version.
      models: Name, file hash and fingerprint of each model.
      tolerance: Relative; how far a realised dose may be off.
    """

    name: str
    config: Mapping[str, Any]
    config_sha256: str
    version: str
    models: Mapping[str, Mapping[str, str]]
    tolerance: float


class Books(NamedTuple):
    """Everything that the proof is made from."""

    plan: Plan
    census: Census
    receipts: Sequence[Receipt]
    groups: Sequence[GroupReceipt]
    sources: Sequence[Source]


def named(amounts: Amounts) -> dict[str, int]:
    """Amounts as a mapping from unit to number."""
    return dict(zip(UNITS, amounts, strict=True))


def files_of(groups: Sequence[GroupReceipt], stream: Stream) -> list[FileReceipt]:
    """A stream's files in order."""
    return sorted((f for g in groups for f in g.files if f.stream == stream), key=lambda f: f.number)


def _written(files: Sequence[FileReceipt], source: str, origin: str) -> Amounts:
    total = NONE
    for file in files:
        total = plus(total, file.amounts.get((source, origin), NONE))
    return total


def equation(books: Books, arm: ArmPlan) -> dict[str, dict[str, dict[str, int]]]:
    """Every term for every source of one arm, and for each pool what was written of it.

    Raises:
      Unaccounted: The terms do not add up, for some source, in some unit.
    """
    name = arm.cuts.arm.name
    main = files_of(books.groups, Stream(name, diverted=False))
    aside = files_of(books.groups, Stream(name, diverted=True))
    out = {}
    for source in books.sources:
        if source.is_pool:
            out[source.name] = {"synthetic": named(_written(main, source.name, "synthetic"))}
            continue
        planned = arm.terms.get(source.index, Terms())
        quarantined = sum(n for (index, _), n in books.census.reasons.items() if index == source.index)
        readable = books.census.total(source=source.index)
        terms = {
            "read": plus(readable, (quarantined, *NONE[1:])),
            "kept": _written(main, source.name, "base"),
            "dropped_language": books.census.total(source=source.index, eligible=False),
            "dropped_misaligned": planned.dropped,
            "diverted": _written(aside, source.name, "base"),
            "quarantined": (quarantined, *NONE[1:]),
            "refilled": _written(main, source.name, "refill"),
        }
        _check(name, source.name, terms, planned)
        out[source.name] = {term: named(amounts) for term, amounts in terms.items()}
    return out


def _check(arm: str, source: str, terms: Mapping[str, Amounts], planned: Terms) -> None:
    right = NONE
    for term in ("kept", "dropped_language", "dropped_misaligned", "diverted", "quarantined"):
        right = plus(right, terms[term])
    differences = [
        f"{unit}: read {a:,}, accounted for {b:,}"
        for unit, a, b in zip(UNITS, terms["read"], right, strict=True)
        if a != b
    ]
    for term, plan in (("kept", planned.kept), ("diverted", planned.diverted), ("refilled", planned.refilled)):
        differences += [f"{term}: planned {plan}, written {terms[term]}"] if plan != terms[term] else []
    if differences:
        raise Unaccounted(f"arm {arm}, source {source}: the equation does not close ({'; '.join(differences)}); "
                          "this is a bug of Counterpoise: keep the work folder and report it")  # fmt: skip


def realised_dose(books: Books, arm: ArmPlan, tolerance: float) -> dict[str, Any]:
    """The dose that was asked and the one that was written, in all and for each file.

    Raises:
      Unaccounted: The amount is off by more than `tolerance` (relative) or one document, whichever is larger.
    """
    files = files_of(books.groups, Stream(arm.cuts.arm.name, diverted=False))
    base, got = sum(f.base_amount for f in files), sum(f.synthetic_amount for f in files)
    spec = arm.cuts.arm
    asked = dose_target(spec, base, arm.discourse) if spec.has_dose else 0
    if abs(got - asked) > max(tolerance * asked, arm.dose.largest):
        raise Unaccounted(f"arm {spec.name}: the dose is {got:,} {books.plan.unit}, asked were {asked:,}; tolerance is "
                          f"{tolerance:.2%} or one document ({arm.dose.largest:,})")  # fmt: skip
    return {
        "unit": books.plan.unit,
        "asked": asked,
        "got": got,
        "share_of_output": got / (base + got) if base + got else 0.0,
        "base": base,
        "ai_discourse": arm.discourse,
        "documents": arm.dose.documents,
        "distinct_documents": arm.dose.distinct,
        "most_repeats": arm.dose.repeats,
        "largest_document": arm.dose.largest,
        "strata": {name: {"asked": a, "got": g} for name, a, g in arm.dose.strata},
    }


def _file_entry(file: FileReceipt, output: str) -> dict[str, Any]:
    def relative(url: str) -> str:
        return url.removeprefix(output).lstrip("/")

    return {
        "path": relative(file.data.url),
        "records": file.records,
        "bytes": file.data.bytes,
        "uncompressed_bytes": file.data.uncompressed,
        "sha256": file.data.sha256,
        "crc32c": file.data.crc32c,
        "base": file.base_amount,
        "synthetic": file.synthetic_amount,
        "provenance": {
            "path": relative(file.provenance.url),
            "bytes": file.provenance.bytes,
            "sha256": file.provenance.sha256,
        },
    }


def make_manifest(books: Books, identity: Identity, output: str) -> dict[str, Any]:
    """The whole proof as plain values; raises `Unaccounted` instead of recording a sum that does not close."""
    arms = {}
    for arm in books.plan.arms:
        spec = arm.cuts.arm
        streams = [Stream(spec.name, diverted=False), *([Stream(spec.name, diverted=True)] if spec.divert else [])]
        arms[spec.name] = {
            "equation": equation(books, arm),
            "dose": realised_dose(books, arm, identity.tolerance),
            "written": _totals(files_of(books.groups, streams[0])),
            "files": [_file_entry(f, output) for f in files_of(books.groups, streams[0])],
            "diverted_files": [_file_entry(f, output) for s in streams[1:] for f in files_of(books.groups, s)],
        }
    return {
        "manifest_version": MANIFEST_VERSION,
        "name": identity.name,
        "counterpoise": identity.version,
        "config": identity.config,
        "config_sha256": identity.config_sha256,
        "models": identity.models,
        "unit": books.plan.unit,
        "thresholds": dict(books.plan.rules.thresholds),
        "inputs": _inputs(books),
        "columns": _columns(books),
        "quarantine": _quarantine(books),
        "stances": _stances(books),
        "score_histogram": {
            "stance": "misaligned",
            "documents": books.census.scores.reshape(256, -1).sum(axis=1).tolist(),
        },
        "arms": arms,
    }


def _totals(files: Sequence[FileReceipt]) -> dict[str, dict[str, int]]:
    out: dict[str, Amounts] = dict.fromkeys(("base", "refill", "synthetic"), NONE)
    for file in files:
        for (_, origin), amounts in file.amounts.items():
            out[origin] = plus(out[origin], amounts)
    everything = NONE
    for amounts in out.values():
        everything = plus(everything, amounts)
    return {**{origin: named(amounts) for origin, amounts in out.items()}, "total": named(everything)}


def _inputs(books: Books) -> list[dict[str, Any]]:
    bad = {shard for shard, *_ in books.census.bad_shards}
    entries = []
    for receipt in sorted(books.receipts, key=lambda r: key_of_slice(r.part)):
        part = receipt.part
        entry = {
            "source": books.sources[part.source_index].name,
            "shard": part.shard,
            "size": part.size,
            "version": part.version,
            "checksum": part.checksum or receipt.raw_crc32c,
            "records": receipt.records,
            "quarantined": receipt.bad,
            "left_out": part.shard in bad,
        }
        if part.end >= 0:
            entry["slice"] = [part.start, part.end]
        entries.append(entry)
    return entries


def _columns(books: Books) -> list[str]:
    """Names of the fields of the written JSON records; empty for Parquet, and where names are data."""
    base = [r for r in books.receipts if not books.sources[r.part.source_index].is_pool and not r.fault[0]]
    if books.plan.form != "lines":
        return []
    names = {name for receipt in base for name in receipt.fields}
    if any(receipt.part.format != Format.JSONL.value for receipt in base):
        names |= {field.name for field in CONVERTED}
    return sorted(names) if len(names) < MAX_FIELDS else []


def _quarantine(books: Books) -> dict[str, Any]:
    reasons: dict[str, dict[str, int]] = {}
    for (index, reason), number in sorted(books.census.reasons.items()):
        reasons.setdefault(books.sources[index].name, {})[reason] = number
    shards = [
        {"shard": shard, "reason": reason, "offset": offset, "detail": detail}
        for shard, reason, offset, detail in sorted(books.census.bad_shards)
    ]
    return {"records": books.census.bad, "reasons": reasons, "shards": shards}


def _stances(books: Books) -> list[dict[str, Any]]:
    return [
        {
            "source": books.sources[fate.source_index].name,
            "language": fate.language,
            "stance": fate.stance,
            "kept_language": fate.eligible,
            **named(amounts),
        }
        for fate, amounts in sorted(books.census.amounts.items())
    ]


def write_quarantine(books: Books, output: str) -> None:
    """Put all bad records, and a line for each shard left out, into quarantine/records.jsonl.zst."""
    url = join(output, "quarantine", "records.jsonl.zst")
    bad = {shard for shard, *_ in books.census.bad_shards}
    compressor = zstandard.ZstdCompressor(level=3, write_checksum=True)
    with scratch() as spool:
        path = os.path.join(spool, "records")
        with open(path, "wb") as file:
            shards = b"".join(
                quarantine_line(shard, BadRecord(offset, f"shard:{reason}", 0, detail.encode()))
                for shard, reason, offset, detail in sorted(books.census.bad_shards)
            )
            file.write(compressor.compress(shards))
            for receipt in sorted(books.receipts, key=lambda r: key_of_slice(r.part)):
                if receipt.quarantine and receipt.part.shard not in bad:
                    # Each is a whole zstd frame, and frames may follow one another.
                    with store_for(receipt.quarantine).open(receipt.quarantine) as raw:
                        file.write(raw.read())
        store_for(url).create(url, path)


def commit_corpus(books: Books, identity: Identity, output: str) -> dict[str, Any]:
    """Check everything, write quarantine, manifest, card and report, and `_SUCCESS` last; returns the manifest.

    Idempotent: a second attempt writes the same bytes.

    Raises:
      Unaccounted: The equation does not close, or a dose is off.
      OutputConflict: One of the names holds other bytes.
    """
    manifest = make_manifest(books, identity, output)
    write_quarantine(books, output)
    data = json.dumps(manifest, indent=1, ensure_ascii=False).encode()
    store = store_for(output)
    store.create_bytes(join(output, "manifest.json"), data)
    store.create_bytes(join(output, "README.md"), report.dataset_card(manifest).encode())
    store.create_bytes(join(output, "croissant.json"), croissant.croissant(manifest).encode())
    store.create_bytes(join(output, "report.html"), report.html_report(manifest).encode())
    success = {
        "manifest_sha256": hashlib.sha256(data).hexdigest(),
        "manifest_crc32c": google_crc32c.Checksum(data).digest().hex(),
    }
    store.delete(join(output, OWNER_RECORD))
    store.create_bytes(join(output, "_SUCCESS"), json.dumps(success).encode() + b"\n")
    return manifest


class CommitInputs(NamedTuple):
    """Inputs of `CommitCorpus`."""

    plan: beam.PCollection[Plan]
    census: beam.PCollection[Census]
    receipts: beam.PCollection[Receipt]
    groups: beam.PCollection[GroupReceipt]


@dataclasses.dataclass(kw_only=True, eq=False)
class CommitCorpus(beam.PTransform):
    """Commit the build once all groups are written; emits the manifest's path."""

    identity: Identity
    output: str
    sources: tuple[Source, ...]

    def __post_init__(self) -> None:
        super().__init__()

    @no_annotations
    def expand(self, inputs: CommitInputs) -> beam.PCollection[str]:
        return inputs.plan | "Commit" >> beam.ParDo(
            _Commit(self.identity, self.output, self.sources),
            beam.pvalue.AsSingleton(inputs.census),
            beam.pvalue.AsList(inputs.receipts),
            beam.pvalue.AsList(inputs.groups),
        )


class _Commit(beam.DoFn):
    def __init__(self, identity: Identity, output: str, sources: tuple[Source, ...]) -> None:
        super().__init__()
        self.identity, self.output, self.sources = identity, output, sources

    def process(self, plan: Plan, census: Census, receipts: list[Receipt], groups: list[GroupReceipt]) -> Iterator[str]:
        with heartbeat.working("commit", self.output):
            commit_corpus(Books(plan, census, receipts, groups, self.sources), self.identity, self.output)
        yield join(self.output, "manifest.json")
