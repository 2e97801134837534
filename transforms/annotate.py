"""Measure every document of a slice once, and keep the facts as one Parquet object.

Text never leaves the process: batches stream from the decoder through both models into columns.
"""

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterator
from typing import Any, BinaryIO, Final, NamedTuple

import apache_beam as beam
import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import zstandard

from classifiers import kernel
from classifiers.fasttext_model import offsets_of
from classifiers.language import LanguageModel
from classifiers.model import find_language_model
from classifiers.stance import StanceModel
from transforms import heartbeat
from transforms.annotation import (
    ANNOTATION,
    PARQUET,
    Receipt,
    annotation_url,
    columns_of,
    is_whole,
    placed,
    read_receipt,
)
from transforms.counters import Counter, count
from transforms.decode import DecodeLimits
from transforms.errors import BadShard, ConfigError
from transforms.measure import amounts
from transforms.quarantine import quarantine_line
from transforms.read import read_texts
from transforms.schema import STANCES, UNITS, ShardFault, Slice, Source, Texts
from transforms.spool import scratch
from transforms.storage import store_for

VERSION: Final = 1  # raise it whenever an annotation's content changes for the same input
ROW_GROUP: Final = 1 << 16


class Annotators(NamedTuple):
    """What annotations depend on besides the shard; equal values give equal annotations.

    Attributes:
      language_model: Path of a fastText model, or "lid.176" for the standard one.
      language_chars: Characters of a document that are looked at for its language; 0 for all.
      stance_model: "default" or the path of a fastText model with the four stances.
      tokenizer: URL of a tokenizer.json, or "" to count no tokens.
      max_record_bytes: Longer records go to quarantine.
      fingerprint: Hash of the models' bytes and all options, from `fingerprint_of`.
    """

    language_model: str
    language_chars: int
    stance_model: str
    tokenizer: str
    max_record_bytes: int
    fingerprint: str = ""

    def limits(self) -> DecodeLimits:
        """The decoder's limits under these options."""
        return DecodeLimits(max_record_bytes=self.max_record_bytes)


@functools.cache
def load_language(ref: str, max_chars: int) -> LanguageModel:
    """The language model, one per process."""
    return LanguageModel.load(find_language_model(None if ref == "lid.176" else ref), max_chars=max_chars)


@functools.cache
def load_stance(ref: str) -> StanceModel:
    """The stance model, one per process."""
    return StanceModel.load(ref)


def fingerprint_of(annotators: Annotators) -> str:
    """Hash of the models, their options and this module's version; loads the models."""
    tokenizer = ""
    if annotators.tokenizer:
        with store_for(annotators.tokenizer).open(annotators.tokenizer) as file:
            tokenizer = hashlib.sha256(file.read()).hexdigest()
    facts = [
        VERSION,
        load_language(annotators.language_model, annotators.language_chars).fingerprint,
        load_stance(annotators.stance_model).fingerprint,
        tokenizer,
        annotators.max_record_bytes,
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


@functools.cache
def check_models(annotators: Annotators) -> None:
    """Make sure, once a process, that this machine has the models that the launcher had.

    Raises:
      ConfigError: It has others, which an older image may hold; their annotations would pass for the right ones.
    """
    found = fingerprint_of(annotators)
    if annotators.fingerprint not in ("", found):
        theirs = f"{found[:12]}, the launcher's {annotators.fingerprint[:12]}"
        raise ConfigError(
            [f"this worker's models have the fingerprint {theirs}: bring both to one release (the image)"]
        )


def annotate_batch(batch: pa.RecordBatch, annotators: Annotators, *, is_pool: bool) -> pa.RecordBatch:
    """All measurements of one batch of texts, a row each."""
    text = batch.column("text")
    measured = amounts(text, annotators.tokenizer, batch.column("token_count"))
    data, starts, ends = offsets_of(text)
    labels, scores = load_language(annotators.language_model, annotators.language_chars).identify(text)
    stance_model = load_stance(annotators.stance_model)
    known = _known(labels, stance_model.languages)
    columns: dict[str, Any] = {
        "position": batch.column("position"),
        "record_bytes": batch.column("record_bytes"),
        "digest": kernel.digest(data, starts, ends),
        "language": labels,
        "language_score": scores,
        "id": batch.column("id") if is_pool else pa.nulls(len(text), pa.large_string()),
        "stratum": batch.column("stratum"),
    }
    columns |= {unit: measured[:, i] for i, unit in enumerate(UNITS) if i}
    columns |= _stance_columns(stance_model, text, known)
    arrays = [pa.array(columns[f.name], type=f.type) if isinstance(columns[f.name], np.ndarray) else columns[f.name]
              for f in ANNOTATION]  # fmt: skip
    return pa.record_batch(arrays, schema=ANNOTATION)


def _known(labels: pa.DictionaryArray, languages: tuple[str, ...]) -> "np.ndarray[Any, Any]":
    """Which documents are in a language that the stance model knows; a model that names none is asked about all."""
    if not languages:
        return np.ones(len(labels), np.bool_)
    names = labels.dictionary.to_numpy(zero_copy_only=False).astype(str)
    return np.asarray(np.isin(names, languages)[labels.indices.to_numpy()])


def _stance_columns(
    model: StanceModel, text: pa.LargeStringArray, known: "np.ndarray[Any, Any]"
) -> dict[str, pa.Array]:
    """Stance columns; null where the model does not know the document's language: never a guess."""
    rows = np.flatnonzero(known)
    scores = model.score(text if len(rows) == len(text) else text.take(rows))
    facts = {stance: scores.mean[:, i] for i, stance in enumerate(STANCES)}
    facts |= {name: getattr(scores, name) for name in
              ("misaligned_max", "aligned_max", "windows", "scored_windows", "misaligned_windows")}  # fmt: skip
    columns = {}
    for name, values in facts.items():
        spread = np.zeros(len(text), dtype=values.dtype)
        spread[rows] = values
        columns[name] = pa.array(spread, mask=~known)
    return columns


class _RawSum:
    """CRC32C and, where asked, another checksum of the raw bytes, as they are read."""

    def __init__(self, checksum: str) -> None:
        self.kind, _, self.expected = checksum.partition(":")
        self.crc32c = google_crc32c.Checksum()
        self.other = hashlib.new(self.kind) if self.kind in ("md5", "sha256") else None

    def update(self, raw: bytes) -> None:
        self.crc32c.update(raw)
        if self.other is not None:
            self.other.update(raw)

    def check(self) -> None:
        """Raise BadShard when the raw bytes are not those that were summed outside."""
        got = self.other.hexdigest() if self.other is not None else self.crc32c.digest().hex()
        if self.expected and got != self.expected:
            raise BadShard(
                ShardFault.CHECKSUM.value, -1, f"{self.kind} of the bytes is {got}, should be {self.expected}"
            )


def _sum_whole_shard(file: BinaryIO, raw_sum: _RawSum) -> None:
    """Check a shard that is read in pieces; costs one more sequential reading, so only where a sum is given."""
    while block := file.read(8 << 20):
        raw_sum.update(block)
    raw_sum.check()
    file.seek(0)


def read_checked(part: Slice, source: Source, limits: DecodeLimits, raw_sum: _RawSum) -> Iterator[Texts]:
    """The slice's texts; the last batch comes only after the raw bytes proved to be the ones expected."""
    with store_for(part.shard).open(part.shard, part.version) as file:
        if is_whole(part):
            yield from read_texts(file, part, source, limits, on_raw=raw_sum.update)
            raw_sum.check()
        else:
            if part.checksum and part.start == 0:
                _sum_whole_shard(file, raw_sum)
            yield from read_texts(file, part, source, limits)


def annotate_slice(
    part: Slice, source: Source, annotators: Annotators, work: str, *, only_reuse: bool = False
) -> tuple[Receipt, bool]:
    """Annotate one slice, or find it annotated; returns the receipt and whether it was reused.

    Idempotent: any number of attempts, also at once, leave the same objects. A shard that cannot be read whole gives
    a receipt with its `fault` and an annotation object without rows.

    Raises:
      ConfigError: `only_reuse`, and there is no valid annotation; or this machine's models are not the launcher's.
    """
    url = annotation_url(work, part, source, annotators.fingerprint)
    store = store_for(url)
    if store.stat(url) is not None:
        return read_receipt(url), True
    if only_reuse:
        raise ConfigError([f"{part.shard} is not annotated with these models and options; run `counterpoise annotate`"])
    check_models(annotators)
    with scratch() as spool:
        receipt = placed(_annotate_into(spool, part, source, annotators), url)
        if receipt.text_url:
            store.create(receipt.text_url, os.path.join(spool, "texts"))
        if receipt.quarantine:
            store.create(receipt.quarantine, os.path.join(spool, "bad"))
        store.create(url, os.path.join(spool, "annotation"))  # last: it says that the other two are there
    return receipt, False


@dataclasses.dataclass
class _Tally:
    """Running counts of one slice."""

    records: int = 0
    text_bytes: int = 0
    with_id: int = 0
    columns: str = ""
    fields: frozenset[str] = frozenset()
    faults: dict[str, int] = dataclasses.field(default_factory=dict)


def _annotate_into(spool: str, part: Slice, source: Source, annotators: Annotators) -> Receipt:
    raw_sum, tally, fault = _RawSum(part.checksum), _Tally(), ("", -1, "")
    try:
        _write_annotation(spool, part, source, annotators, raw_sum, tally)
    except BadShard as error:
        fault, tally = (error.reason, error.offset, error.detail), _Tally()
    receipt = _receipt_of(part, source, tally, raw_sum, fault)
    if fault[0]:
        _write_table(os.path.join(spool, "annotation"), ANNOTATION.empty_table(), receipt)
    return receipt


def _receipt_of(part: Slice, source: Source, tally: _Tally, raw_sum: _RawSum, fault: tuple[str, int, str]) -> Receipt:
    whole = is_whole(part) and not fault[0]
    return Receipt(
        part=part,
        url="",
        records=tally.records,
        bad=sum(tally.faults.values()),
        faults=tuple(sorted(tally.faults.items())),
        text_bytes=tally.text_bytes,
        raw_crc32c="crc32c:" + raw_sum.crc32c.digest().hex() if whole else "",
        fault=fault,
        quarantine="there" if tally.faults else "",
        text_url="there" if source.is_pool and not fault[0] else "",
        with_id=tally.with_id,
        columns=tally.columns,
        fields=tuple(sorted(tally.fields)),
    )


def _write_annotation(
    spool: str, part: Slice, source: Source, annotators: Annotators, raw_sum: _RawSum, tally: _Tally
) -> None:
    compressor = zstandard.ZstdCompressor(level=3, write_checksum=True)
    with (
        pq.ParquetWriter(os.path.join(spool, "annotation"), ANNOTATION, **PARQUET) as writer,
        open(os.path.join(spool, "texts"), "wb") as texts,
        open(os.path.join(spool, "bad"), "wb") as bad_file,
        compressor.stream_writer(bad_file, closefd=False) as bad,
    ):
        pending: list[pa.RecordBatch] = []
        for batch, bad_records, tally.fields in read_checked(part, source, annotators.limits(), raw_sum):
            for record in bad_records:
                tally.faults[record.reason] = tally.faults.get(record.reason, 0) + 1
                bad.write(quarantine_line(part.shard, record))
            pending.append(annotate_batch(batch, annotators, is_pool=source.is_pool))
            if source.is_pool:
                texts.write("".join(batch.column("text").to_pylist()).encode())
            text_bytes = int(pc.sum(pending[-1].column("bytes")).as_py() or 0)
            tally.records, tally.text_bytes = tally.records + len(batch), tally.text_bytes + text_bytes
            tally.with_id += len(batch) - batch.column("id").null_count
            heartbeat.add(documents=len(batch), text_bytes=text_bytes, bad=len(bad_records))
            if sum(map(len, pending)) >= ROW_GROUP:
                writer.write_table(_table(pending))
                pending = []
        if pending:
            writer.write_table(_table(pending))
        tally.columns = columns_of(part)
        receipt = _receipt_of(part, source, tally, raw_sum, ("", -1, ""))
        writer.add_key_value_metadata({"counterpoise": json.dumps(receipt)})


def _table(batches: list[pa.RecordBatch]) -> pa.Table:
    return pa.Table.from_batches(batches, schema=ANNOTATION).unify_dictionaries()


def _write_table(path: str, table: pa.Table, receipt: Receipt) -> None:
    with pq.ParquetWriter(path, table.schema, **PARQUET) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({"counterpoise": json.dumps(receipt)})


@dataclasses.dataclass(kw_only=True, eq=False)
class AnnotateSlices(beam.PTransform):
    """Annotate each slice once; emits exactly one Receipt per Slice, in no particular order.

    Args:
      sources: All sources and pools; a slice names its own by index.
      annotators: Models and options, with their fingerprint.
      work: Where annotation objects lie.
      only_reuse: Fail at a slice that has no annotation instead of running the models.
    """

    sources: tuple[Source, ...]
    annotators: Annotators
    work: str
    only_reuse: bool = False

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, slices: beam.PCollection[Slice]) -> beam.PCollection[Receipt]:
        return slices | "Annotate" >> beam.ParDo(
            _Annotate(self.sources, self.annotators, self.work, only_reuse=self.only_reuse)
        )


class _Annotate(beam.DoFn):
    def __init__(self, sources: tuple[Source, ...], annotators: Annotators, work: str, *, only_reuse: bool) -> None:
        super().__init__()
        self.sources, self.annotators, self.work, self.only_reuse = sources, annotators, work, only_reuse

    def process(self, part: Slice) -> Iterator[Receipt]:
        with heartbeat.working("annotate", part.shard):
            source = self.sources[part.source_index]
            receipt, reused = annotate_slice(part, source, self.annotators, self.work, only_reuse=self.only_reuse)
        count(Counter.SLICES_REUSED if reused else Counter.SLICES_ANNOTATED)
        count(Counter.SHARDS_BAD, int(bool(receipt.fault[0])))
        count(Counter.RECORDS_BAD, receipt.bad)
        count(Counter.DOCUMENTS_READ, receipt.records)
        count(Counter.TEXT_BYTES_READ, receipt.text_bytes)
        heartbeat.done("annotate", reused=reused)
        yield receipt
