"""One build with something wrong in it, and what came of it, as texts that are there, too many, or too few."""

import collections
import contextlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import tenacity
import yaml
import zstandard
from google.cloud.storage.retry import DEFAULT_RETRY

from beam_pipeline import preflight
from beam_pipeline.config import load_config
from beam_pipeline.verify import verify
from classifiers.model import ModelError
from tests import corpora, shards
from transforms import storage, storage_gcs
from transforms.errors import CounterpoiseError
from transforms.storage import Patience, join, store_for

Texts = collections.Counter[str]
DOCUMENTS = corpora.documents(30, seed=3)
HEALTHY, OTHERS = DOCUMENTS[:20], DOCUMENTS[20:]
FAST = Patience(tenacity.wait_none(), tenacity.stop_after_attempt(8))


class Outcome(NamedTuple):
    """What came of one build.

    Attributes:
      code: The exit code that the command line would end with.
      said: The error's message, or "".
      texts: Of the arm that keeps everything; empty when there is no corpus.
      reasons: Of records in quarantine, how often each.
      left_out: Name and reason of the shards that were left out.
    """

    code: int
    said: str
    texts: Texts
    reasons: dict[str, int]
    left_out: dict[str, str]


class Row(NamedTuple):
    """One line of the table."""

    fault: str
    expected: str
    got: str
    lost: int
    duplicated: int


def counted(docs: Sequence[shards.Document]) -> Texts:
    """The texts of documents, how often each."""
    return Texts(text for _, text in docs)


def checked(values: corpora.Config) -> preflight.Preflight:
    """Preflight, and the record that says whose output it is."""
    config = load_config(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
    found = preflight.check(config)
    store_for(config.output.path).create_bytes(join(config.output.path, preflight.BUILD_RECORD), found.record)
    return found


def build(values: corpora.Config) -> Outcome:
    """Build without Beam and hold the corpus to the manifest; what goes wrong becomes the outcome."""
    output = values["output"]["path"]
    try:
        corpora.run_steps(checked(values).job)
    except (CounterpoiseError, ModelError) as found:
        error: Any = found
    else:
        return outcome_of(output)
    assert store_for(output).stat(join(output, "_SUCCESS")) is None, f"stopped, yet there is a corpus: {error}"
    return Outcome(error.exit_code, str(error), Texts(), {}, {})


def outcome_of(output: str) -> Outcome:
    """What a finished corpus holds; its books balance."""
    assert verify(output, workers=1).problems == ()
    manifest = json.loads(read(join(output, "manifest.json")))
    texts = Texts(
        orjson.loads(line)["text"]
        for entry in manifest["arms"]["unfiltered"]["files"]
        for line in read(join(output, *entry["path"].split("/"))).split(b"\n")
        if line
    )
    reasons: collections.Counter[str] = collections.Counter()
    for found in manifest["quarantine"]["reasons"].values():
        reasons.update(found)
    left_out = {shard["shard"]: shard["reason"] for shard in manifest["quarantine"]["shards"]}
    lines = zstandard.ZstdDecompressor().stream_reader(read(join(output, "quarantine", "records.jsonl.zst")),
                                                       read_across_frames=True).read()  # fmt: skip
    in_quarantine = collections.Counter(orjson.loads(line)["reason"] for line in lines.split(b"\n") if line)
    assert in_quarantine == reasons + collections.Counter(f"shard:{reason}" for reason in left_out.values())
    return Outcome(0, "", texts, dict(reasons), left_out)


def read(url: str) -> bytes:
    """A whole object."""
    with store_for(url).open(url) as file:
        return file.read()


def row(fault: str, expected: str, got: Outcome, there: Texts) -> Row:
    """A line of the table: a corpus must hold exactly `there`; where none was made, nothing can be lost."""
    said = {0: "a corpus"}.get(got.code, f"exit {got.code}")
    if got.left_out:
        said = "left out: " + ", ".join(sorted(set(got.left_out.values())))
    elif got.reasons:
        said = "quarantine: " + ", ".join(f"{n} {reason}" for reason, n in sorted(got.reasons.items()))
    lost = duplicated = 0
    if got.code == 0:
        lost, duplicated = (there - got.texts).total(), (got.texts - there).total()
    return Row(fault, expected, said, lost, duplicated)


def write_healthy(folder: Path) -> Path:
    """A folder with one healthy shard in its folder `web`."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "web").mkdir(parents=True)
    shards.write_jsonl(folder / "web/healthy.jsonl.gz", HEALTHY, codec="gzip")
    return folder


def config(folder: Path, **changes: Any) -> corpora.Config:
    """A build over it that bears nothing bad, and keeps annotations apart from the output."""
    defaults: corpora.Config = {"limits": {"bad_shards": 0, "bad_records": 0}, "work": f"{folder}/work"}
    return corpora.config(folder, **defaults | changes)


@contextlib.contextmanager
def impatient(patience: Patience = FAST) -> Iterator[None]:
    """Retries of gs:// without waiting; stores are made anew, now and afterwards."""
    initial = storage_gcs.GcsStore.__init__.__defaults__
    storage_gcs.GcsStore.__init__.__defaults__ = (patience, DEFAULT_RETRY.with_delay(0.001, 0.01))
    storage._store.cache_clear()
    try:
        yield
    finally:
        storage_gcs.GcsStore.__init__.__defaults__ = initial
        storage._store.cache_clear()
