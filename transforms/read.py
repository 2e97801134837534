"""The records of one slice as Arrow batches, whatever the format.

`read_texts` gives the text and amounts of every document; `read_records` later gives the records that were chosen,
by position. Both read the same slice in the same way, so a position means the same record in both.

Fields become Arrow columns as follows. A text must be a string; everything else is strict too:

    id             a string as it is, a number as its decimal string, anything else null
    token_count    a non-negative integer, or the record is bad
    stratum        a string as it is, a number or boolean as JSON writes it, anything else null

Metadata of a converted record is a JSON object. What JSON cannot hold becomes: timestamps, dates, times and decimals
their decimal or ISO form as Arrow prints it (UTC with a final Z); durations the integer count of their unit; bytes
base64; maps lists of pairs; NaN and infinities null; bytes that are not UTF-8 U+FFFD. A JSON line nested more than
about 900 levels deep is kept whole, as a string in the field "line".
"""

import re
from collections.abc import Iterator
from typing import BinaryIO, Final, Literal

from transforms.decode import DecodeLimits
from transforms.errors import ConfigError, InputChanged
from transforms.lines import Positions
from transforms.read_archive import archive_texts, convert_archive
from transforms.read_jsonl import jsonl_records, jsonl_texts
from transforms.read_parquet import parquet_rows, parquet_texts
from transforms.record import COMPRESSED, PARQUET_ENCRYPTED, PARQUET_MAGIC, OnRaw
from transforms.record import Records as Records
from transforms.record import Rows as Rows
from transforms.schema import Format, Slice, Source, Texts

_ACCEPTED: Final = ".jsonl, .json or .ndjson (plain, .gz, .zst), .parquet, .warc.wet or .warc (plain, .gz, .zst)"


def read_texts(
    file: BinaryIO, part: Slice, source: Source, limits: DecodeLimits, on_raw: OnRaw = None
) -> Iterator[Texts]:
    """Yield every document of a slice, with the bad records met on the way, in order.

    Batches hold about `limits.block_bytes` of text, or one longer document.

    Args:
      file: The shard, open at its start; seekable for Parquet and for a slice of plain JSONL.
      part: What to read of it.
      source: Field names.
      limits: Bounds on what the shard may ask for.
      on_raw: Sees the raw bytes in order and once: all of the shard, or the bytes read for a range of plain JSONL.
        (A Parquet shard is read through once more for it.)

    Raises:
      BadShard: Nothing of the shard may be used, what was yielded included.
      ConfigError: A Parquet shard lacks a column, or has it twice, or with another type.
    """
    match Format(part.format):
        case Format.JSONL:
            yield from jsonl_texts(file, part, source, limits, on_raw)
        case Format.PARQUET:
            yield from parquet_texts(file, part, source, limits, on_raw)
        case Format.WET | Format.WARC:
            yield from archive_texts(file, part, limits, on_raw)


def read_records(
    file: BinaryIO,
    part: Slice,
    source: Source,
    limits: DecodeLimits,
    *,
    form: Literal["lines", "rows", "converted"],
    wanted: Positions,
    on_raw: OnRaw = None,
) -> Iterator[Records | Rows]:
    """Yield the records at the `wanted` positions, in order, and no others.

    Args:
      file, part, source, limits, on_raw: As for `read_texts`.
      form: "lines" (JSONL: the original bytes), "rows" (Parquet: the original columns) or "converted" (any format).
      wanted: Sorted positions that `read_texts` gave for this slice.

    Raises:
      BadShard: As in `read_texts`.
      InputChanged: A wanted record is not there, so the shard is not the one that was read before.
    """
    found = 0
    for records in _records(file, part, source, limits, form, wanted, on_raw):
        found += len(records.position)
        if len(records.position):
            yield records
    if found != len(wanted):
        raise InputChanged(
            f"{part.shard} has {found} of the {len(wanted)} records that the plan takes from it: it was replaced since "
            "the annotation; build again with --replan"
        )


def detect_format(name: str, head: bytes) -> Format:
    """Return the format of a shard from its name, or from its (decompressed) first bytes where the name says nothing.

    Raises:
      ConfigError: Neither shows an accepted format.
    """
    if head.startswith((PARQUET_MAGIC, PARQUET_ENCRYPTED)):
        return Format.PARQUET
    stem = name.lower()
    while stem.endswith(COMPRESSED):
        stem = stem.rpartition(".")[0]
    for ending, shard_format in (
        (".parquet", Format.PARQUET),
        (".wet", Format.WET),
        (".warc", Format.WARC),
        (".jsonl", Format.JSONL),
        (".ndjson", Format.JSONL),
        (".json", Format.JSONL),
    ):
        if stem.endswith(ending):
            return shard_format
    if head.startswith(b"WARC/"):
        return Format.WET if b"WARC-Type: conversion" in head else Format.WARC
    if re.match(rb"(?:\xef\xbb\xbf)?\s*\{", head):
        return Format.JSONL
    raise ConfigError([f"{name}: no known format; accepted are {_ACCEPTED}. Name it with format:, or narrow paths:"])


def _records(
    file: BinaryIO, part: Slice, source: Source, limits: DecodeLimits, form: str, wanted: Positions, on_raw: OnRaw
) -> Iterator[Records | Rows]:
    shard_format = Format(part.format)
    if shard_format is Format.JSONL and form in ("lines", "converted"):
        yield from jsonl_records(file, part, source, limits, wanted, on_raw, converted=form == "converted")
    elif shard_format is Format.PARQUET and form in ("rows", "converted"):
        yield from parquet_rows(file, part, source, limits, wanted, on_raw, converted=form == "converted")
    elif shard_format in (Format.WET, Format.WARC) and form == "converted":
        yield from convert_archive(file, part, limits, wanted, on_raw)
    else:
        raise ValueError(f"{part.shard}: records of {shard_format.value} have no form {form!r}")
