"""Builds with a date: `{date}` in `output.path`, and `latest.json` beside the dated outputs.

`latest.json` names the newest build that is complete and moved no further than the limits. It is replaced by compare
and swap, only after `_SUCCESS`, and never by an older date, so its readers see whole corpora only and two builds at
once leave one of them.
"""

import datetime as dt
import hashlib
import json
import re
from typing import Any, Final, NamedTuple

from beam_pipeline.config import Config
from beam_pipeline.drift import DriftLimits, compare, table
from transforms.commit import MANIFEST_VERSION
from transforms.errors import ConfigError, DriftExceeded, OutputConflict, StorageError
from transforms.storage import ObjectInfo, join, store_for

DATE: Final = "{date}"
POINTER: Final = "latest.json"


class Dated(NamedTuple):
    """The date of a build, and where `latest.json` lies."""

    date: str
    pointer: str


class Latest(NamedTuple):
    """The content of `latest.json`."""

    name: str
    path: str
    date: str
    manifest_sha256: str


class Previous(NamedTuple):
    """The build that `latest.json` names, as it was when looked at."""

    latest: Latest
    info: ObjectInfo
    record: dict[str, Any]
    manifest: dict[str, Any]


class Promotion(NamedTuple):
    """What the last step needs to make a finished build the latest."""

    pointer: str
    name: str
    date: str
    output: str
    limits: DriftLimits


def resolve(config: Config, date: str | None, now: dt.datetime | None = None) -> tuple[Config, Dated | None]:
    """Put the date (given, else today's in UTC) into `output.path`.

    Raises:
      ConfigError: The date is none, or there is no place for it.
    """
    pattern = config.output.path
    if DATE not in pattern:
        if date is not None:
            raise ConfigError([f"--date {date}: output.path {pattern} has no {DATE} to put it in"])
        return config, None
    if date is None:
        date = (now or dt.datetime.now(dt.timezone.utc)).date().isoformat()
    if not _is_date(date):
        raise ConfigError([f"--date {date}: no date; write YYYY-MM-DD, for example 2026-11-24"])
    folder = pattern[: pattern.index(DATE)].rpartition("/")[0]
    output = config.output.model_copy(update={"path": pattern.replace(DATE, date)})
    return config.model_copy(update={"output": output}), Dated(date, join(folder, POINTER))


def _is_date(text: str) -> bool:
    try:
        dt.date.fromisoformat(text)
    except ValueError:
        return False
    return re.fullmatch(r"\d{4}-\d{2}-\d{2}", text) is not None


def read_previous(pointer: str, name: str) -> Previous | None:
    """The latest build, or None where there is none yet.

    Raises:
      StorageError: `latest.json`, or what it names, is not there, cannot be read, or is from a newer version.
    """
    info = store_for(pointer).stat(pointer)
    if info is None:
        return None
    way_out = f"restore it, or delete {pointer} to begin anew"
    try:
        latest = Latest(**_read_json(pointer))
    except (ValueError, TypeError) as error:
        raise StorageError(f"{pointer} cannot be read ({error}); {way_out}") from error
    if latest.name != name:
        raise StorageError(f"{pointer} belongs to the build {latest.name}, not {name}; choose another output.path")
    found = []
    for part in ("_BUILD.json", "manifest.json"):
        url = join(latest.path, part)
        if store_for(url).stat(url) is None:
            raise StorageError(f"{pointer} names {latest.path}, which has no {part}; {way_out}")
        try:
            found.append(_read_json(url))
        except ValueError as error:
            raise StorageError(f"{url} cannot be read ({error}); {way_out}") from error
    version = found[1].get("manifest_version")
    if version != MANIFEST_VERSION:
        raise StorageError(f"{latest.path} has a manifest of version {version}, this release reads {MANIFEST_VERSION}; "
                           f"use the release that wrote it, or delete {pointer} to begin anew")  # fmt: skip
    return Previous(latest, info, found[0], found[1])


def same_build(record: bytes, previous: Previous) -> bool:
    """Whether a build would be, but for its date, what the latest is."""
    ours = json.loads(record)
    return bool({**ours, "date": ""} == {**previous.record, "date": ""})


def promote(manifest_url: str, promotion: Promotion) -> str:
    """Make a finished build the latest; returns what was done, as a sentence.

    Idempotent: a second attempt, or another build of the same date and inputs, finds it done.

    Raises:
      DriftExceeded: It moved beyond the limits since the latest; the corpus is there, `latest.json` stays.
      StorageError: The build is not finished, or the latest cannot be read.
      OutputConflict: Another build became the latest meanwhile.
    """
    pointer, output = promotion.pointer, promotion.output
    if store_for(output).stat(join(output, "_SUCCESS")) is None:
        raise StorageError(f"{output} has no _SUCCESS: it is not finished, {pointer} stays; build it again")
    with store_for(manifest_url).open(manifest_url) as file:
        data = file.read()
    ours = Latest(promotion.name, output, promotion.date, hashlib.sha256(data).hexdigest())
    previous = read_previous(pointer, promotion.name)
    if previous is not None and previous.latest == ours:
        return f"{pointer} names {output} already"
    if previous is not None and previous.latest.date > ours.date:
        return f"{pointer} stays at {previous.latest.date}, which is newer than {ours.date}"
    if previous is not None:
        moves = compare(previous.manifest, json.loads(data), promotion.limits)
        if any(move.exceeds for move in moves):
            raise DriftExceeded(
                f"{output} is complete, but moved beyond the limits since {previous.latest.path}:\n{table(moves)}\n"
                f"{pointer} stays. To accept it, run the same command with --date {ours.date} and wider limits, "
                "for example --set drift.stance=0.1"
            )
    content = json.dumps(ours._asdict(), indent=1).encode() + b"\n"
    try:
        store_for(pointer).replace(pointer, content, previous.info if previous else None)
    except OutputConflict:
        now = read_previous(pointer, promotion.name)
        if now is None or now.latest.date < ours.date:
            raise
        return f"{pointer} names {now.latest.path}, which was finished at the same time"
    return f"{pointer} names {output} now"


def _read_json(url: str) -> dict[str, Any]:
    with store_for(url).open(url) as file:
        values = json.loads(file.read())
    if not isinstance(values, dict):
        raise ValueError("it holds no object")  # noqa: TRY004 - a bad file, not a bad call
    return values
