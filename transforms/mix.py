"""Write the corpora: every slice is read once more, and all arms are written from that one reading.

Base records are copied as their original bytes where the formats allow. The order of each file is known from the
annotations before its first record is read, so the provenance is a table operation and the bulk is copying.
"""

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import apache_beam as beam
import google_crc32c
import numpy as np
import numpy.typing as npt
from apache_beam.typehints.decorators import no_annotations

from transforms import heartbeat
from transforms.annotation import Receipt, is_whole
from transforms.arms import decide, key_of_slice
from transforms.census import Amounts
from transforms.compose import Composer, OutputFile, as_lines
from transforms.counters import Counter, count
from transforms.decode import DecodeLimits
from transforms.errors import InputChanged, Unaccounted
from transforms.layout import Group, Stream, segment_index
from transforms.plan import Plan
from transforms.provenance import PROVENANCE, Base, amount_of, load_base, provenance_of, sums_of
from transforms.read import Rows, read_records
from transforms.schema import UNITS, Form, Format, Source
from transforms.spool import scratch
from transforms.storage import join, store_for
from transforms.write import RowsOutput, Written

Int64s = npt.NDArray[np.int64]


class Settings(NamedTuple):
    """Where and how to write.

    Attributes:
      output: The corpus's path; `folder` the build's own folder for receipts of finished groups.
      output_format: "jsonl", "jsonl.gz", "jsonl.zst" or "parquet".
    """

    output: str
    folder: str
    output_format: str
    sources: tuple[Source, ...]
    limits: DecodeLimits


class FileReceipt(NamedTuple):
    """One written file and its provenance; `amounts` by (source name, origin)."""

    stream: Stream
    number: int
    records: int
    data: Written
    provenance: Written
    amounts: Mapping[tuple[str, str], Amounts]
    base_amount: int
    synthetic_amount: int
    largest: int


class GroupReceipt(NamedTuple):
    """All files of a group, and whether they were there already."""

    number: int
    files: tuple[FileReceipt, ...]
    reused: bool


def _copies_by_stream(group: Group, plan: Plan, base: Base) -> dict[Stream, npt.NDArray[np.int32]]:
    out: dict[Stream, list[npt.NDArray[np.int32]]] = {p.stream: [] for p in group.parts}
    for receipt, start, stop in zip(group.receipts, base.offsets[:-1], base.offsets[1:], strict=True):
        table = base.table.slice(start, stop - start)
        for arm in plan.arms:
            decision = decide(table, key_of_slice(receipt.part), arm.cuts, plan.rules, seed=plan.seed)
            for stream, copies in (
                (Stream(arm.cuts.arm.name, diverted=False), decision.copies),
                (Stream(arm.cuts.arm.name, diverted=True), decision.diverted.astype(np.int32)),
            ):
                if stream in out:
                    out[stream].append(copies)
    return {stream: np.concatenate([np.zeros(0, np.int32), *copies]) for stream, copies in out.items()}


def _files_of(group: Group, plan: Plan, base: Base) -> list[OutputFile]:
    """The group's files with their base rows; `segment_index` cuts as the inventory did."""
    files, by_stream = [], _copies_by_stream(group, plan, base)
    for part in group.parts:
        copies = by_stream[part.stream]
        mine = copies > 0
        if part.segment >= 0:
            weights = copies * base.table.column("record_bytes").to_numpy()
            mine &= segment_index(weights, plan.target_file_size) == part.segment
        rows = np.flatnonzero(mine)
        files.append(OutputFile(part, rows, copies[rows]))
    return files


def _read_batches(
    receipt: Receipt, base: Base, start: int, stop: int, wanted: Int64s, plan: Plan, settings: Settings
) -> Iterator[tuple[Int64s, Any]]:
    """Batches of the wanted records of one slice, with their group rows.

    Raises:
      InputChanged: The shard does not hold what was annotated.
    """
    part, source = receipt.part, settings.sources[receipt.part.source_index]
    positions = base.table.column("position").to_numpy()[start:stop]
    rows = wanted[(wanted >= start) & (wanted < stop)]
    seen, crc32c = 0, google_crc32c.Checksum()
    form: Form = "converted" if plan.form == "lines" and part.format != Format.JSONL.value else plan.form
    with store_for(part.shard).open(part.shard, part.version) as file:
        for batch in read_records(
            file,
            part,
            source,
            settings.limits,
            form=form,
            wanted=positions[rows - start],
            on_raw=crc32c.update if is_whole(part) else None,
        ):
            group_rows = start + np.searchsorted(positions, batch.position)
            seen += len(group_rows)
            yield group_rows, as_lines(batch) if plan.form == "lines" and isinstance(batch, Rows) else batch
    same = not is_whole(part) or "crc32c:" + crc32c.digest().hex() == receipt.raw_crc32c
    if seen != len(rows) or not same:
        raise InputChanged(
            f"{part.shard}: {seen:,} of {len(rows):,} records are where they were annotated"
            f"{'' if same else ', and its bytes are others'}: the object changed during the build; build again"
        )


def mix_group(group: Group, plan: Plan, settings: Settings) -> GroupReceipt:
    """Write all files of a group, or find them written.

    Idempotent: every attempt writes the same bytes under the same names; the group's receipt comes last.

    Raises:
      InputChanged: A slice is not what was annotated.
      OutputConflict: A file of that name holds other bytes.
    """
    url = join(settings.folder, "groups", f"{group.number:06d}.json")
    store = store_for(url)
    if store.stat(url) is not None:
        with store.open(url) as raw:
            receipt = _from_json(json.loads(raw.read()))
        if all(_is_there(written) for file in receipt.files for written in (file.data, file.provenance)):
            return receipt._replace(reused=True)
    base = load_base(group.receipts, plan.rules, settings.sources)
    with scratch() as spool:
        receipts = tuple(_write_files(_files_of(group, plan, base), group, base, plan, settings, spool))
    done = GroupReceipt(group.number, receipts, reused=False)
    store.create_bytes(url, json.dumps(_to_json(done)).encode())
    return done


def _write_files(
    files: list[OutputFile], group: Group, base: Base, plan: Plan, settings: Settings, spool: str
) -> Iterator[FileReceipt]:
    """Read every slice once and write all files; each is committed as soon as it is complete."""
    composer = Composer(plan, next(s for s in settings.sources if not s.is_pool))
    wanted = np.unique(np.concatenate([np.zeros(0, np.int64), *(f.rows for f in files)]))
    receipts: dict[int, FileReceipt] = {}

    def write(rows: Int64s, batch: Any) -> None:
        last = int(rows[-1]) if len(rows) else np.iinfo(np.int64).max
        for index, file in enumerate(files):
            if index in receipts or not (len(rows) == 0 or file.begins_by(last)):
                continue
            if file.output is None:
                url = join(settings.output, file.part.stream.folder, file.part.name(settings.output_format))
                file.begin(base, plan, composer.open(os.path.join(spool, f"{index}.data"), url, settings.output_format))
            composer.write(file, rows, batch)
            if file.is_complete:
                receipts[index] = _finish(file, base, plan, settings, os.path.join(spool, f"{index}.provenance"))
                files[index] = OutputFile(file.part, file.rows[:0], file.copies[:0])  # let go of its memory

    for receipt, start, stop in zip(group.receipts, base.offsets[:-1], base.offsets[1:], strict=True):
        for rows, batch in _read_batches(receipt, base, int(start), int(stop), wanted, plan, settings):
            if len(rows):
                write(rows, batch)
                heartbeat.add(mixed_records=len(rows))
    write(np.zeros(0, np.int64), None)
    if len(receipts) != len(files):
        raise Unaccounted(f"group {group.number}: {len(files) - len(receipts)} files are not complete; this is a bug")
    yield from (receipts[index] for index in range(len(files)))


def _is_there(written: Written) -> bool:
    info = store_for(written.url).stat(written.url)
    return info is not None and info.size == written.bytes


def _finish(file: OutputFile, base: Base, plan: Plan, settings: Settings, spool: str) -> FileReceipt:
    part = file.part
    data = file.output.commit() if file.output else None
    if data is None or file.held:
        raise Unaccounted(f"{part.stream.folder} file {part.number}: {len(file.held)} copies were not written")
    url = join(settings.output, part.stream.folder, "provenance", part.name("parquet"))
    provenance = provenance_of(base, file.rows, file.order, file.synthetic, plan.rules)
    table = RowsOutput(spool, url, PROVENANCE, use_dictionary=_DICTIONARY)
    for batch in provenance.to_batches(max_chunksize=1 << 16):
        table.write(batch)
    amounts, unit = sums_of(provenance), UNITS.index(plan.unit)
    synthetic = sum(a[unit] for (_, origin), a in amounts.items() if origin == "synthetic")
    total = sum(a[unit] for a in amounts.values())
    largest = 0
    if file.synthetic is not None:
        largest = int(amount_of(file.synthetic, plan.unit, np.arange(len(file.synthetic))).max())
    records = len(file.order.kind)
    return FileReceipt(
        part.stream, part.number, records, data, table.commit(), amounts, total - synthetic, synthetic, largest
    )


_DICTIONARY: Final = ["source", "shard", "origin", "language", "stance"]


def _to_json(receipt: GroupReceipt) -> dict[str, Any]:
    files = []
    for file in receipt.files:
        values = file._asdict()
        values["amounts"] = [[*key, *amounts] for key, amounts in sorted(file.amounts.items())]
        files.append(values)
    return {"number": receipt.number, "files": files}


def _from_json(values: dict[str, Any]) -> GroupReceipt:
    files = []
    for file in values["files"]:
        file["stream"], file["data"] = Stream(*file["stream"]), Written(*file["data"])
        file["provenance"] = Written(*file["provenance"])
        file["amounts"] = {(source, origin): tuple(amounts) for source, origin, *amounts in file["amounts"]}
        files.append(FileReceipt(**file))
    return GroupReceipt(values["number"], tuple(files), reused=False)


@dataclasses.dataclass(kw_only=True, eq=False)
class MixSlices(beam.PTransform):
    """Write every group's files; takes groups and the plan, emits one GroupReceipt per Group, in no set order."""

    settings: Settings

    def __post_init__(self) -> None:
        super().__init__()

    @no_annotations
    def expand(self, inputs: tuple[beam.PCollection[Group], beam.PCollection[Plan]]) -> beam.PCollection[GroupReceipt]:
        groups, plan = inputs
        mix = beam.ParDo(_Mix(self.settings), beam.pvalue.AsSingleton(plan))
        return groups | "Deal" >> beam.Reshuffle() | "Mix" >> mix


class _Mix(beam.DoFn):
    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings

    def process(self, group: Group, plan: Plan) -> Iterator[GroupReceipt]:
        with heartbeat.working("mix", f"group {group.number} ({len(group.receipts)} slices)"):
            receipt = mix_group(group, plan, self.settings)
        count(Counter.GROUPS_REUSED, int(receipt.reused))
        count(Counter.PARTS_WRITTEN, len(receipt.files))
        count(Counter.RECORDS_WRITTEN, sum(f.records for f in receipt.files))
        count(Counter.BYTES_WRITTEN, sum(f.data.bytes for f in receipt.files))
        heartbeat.done("mix", reused=receipt.reused)
        yield receipt
