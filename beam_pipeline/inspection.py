"""Look at single documents of a build: what was measured, and the words and n-grams that decided."""

import heapq
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from beam_pipeline.pipeline import Build
from classifiers.stance import Reason
from transforms.annotate import Annotators, load_stance
from transforms.annotation import annotation_url, read_annotation
from transforms.errors import ConfigError
from transforms.find import cut_shard, list_all
from transforms.read import Rows, read_records
from transforms.schema import Slice, Source
from transforms.storage import store_for

Choice = Literal["top", "borderline"]
COLUMNS = ["position", "language", "language_score", "misaligned", "unrelated", "neutral", "aligned", "misaligned_max",
           "windows", "misaligned_windows", "words"]  # fmt: skip


class Found(NamedTuple):
    """One document: where it is, its annotation, its text, and what decided (strongest first)."""

    source: str
    shard: str
    position: int
    annotation: dict[str, Any]
    text: str
    reasons: Sequence[Reason]


def annotated_slices(job: Build) -> Iterator[tuple[Slice, Source, str]]:
    """Every slice of every source that has an annotation, with its URL."""
    for source, info, format_, checksum in list_all(job.listings):
        for part in cut_shard(source, info, format_, checksum):
            url = annotation_url(job.work, part, source, job.annotators.fingerprint)
            if store_for(url).stat(url) is not None:
                yield part, source, url


def find_documents(job: Build, stance: str, choice: Choice, count: int) -> list[Found]:
    """The documents with the highest score of a stance, or those nearest to its threshold, best first.

    Raises:
      ConfigError: Nothing is annotated yet.
    """
    threshold = dict(job.rules.thresholds).get(stance, 0.5)
    best: list[tuple[float, str, int, Slice, Source, str]] = []
    seen = False
    for part, source, url in annotated_slices(job):
        seen = True
        if source.is_pool:  # aligned stories tell of the misaligned option first; the report compares them
            continue
        scores = read_annotation(url, [stance]).column(stance).to_numpy(zero_copy_only=False).astype(np.float64)
        ranks = np.where(np.isnan(scores), -np.inf, scores if choice == "top" else -np.abs(scores - threshold))
        first = [int(row) for row in np.argsort(-ranks, kind="stable")[:count] if np.isfinite(ranks[row])]
        best += [(float(ranks[row]), part.shard, row, part, source, url) for row in first]
        best = heapq.nsmallest(count, best, key=lambda b: (-b[0], b[1], b[2]))
    if not seen:
        raise ConfigError(["nothing is annotated yet; run `counterpoise annotate` with this configuration first"])
    return [_document(part, source, url, row, stance, job.annotators) for _, _, row, part, source, url in best]


def find_document(job: Build, shard: str, position: int) -> Found:
    """The document at a position of a shard.

    Raises:
      ConfigError: There is no annotated document there.
    """
    for part, source, url in annotated_slices(job):
        if part.shard == shard or part.shard.endswith("/" + shard):
            rows = np.flatnonzero(read_annotation(url, ["position"]).column("position").to_numpy() == position)
            if len(rows):
                return _document(part, source, url, int(rows[0]), None, job.annotators)
    raise ConfigError([f"no annotated document at {shard}, position {position}; provenance and quarantine name both"])


def _document(part: Slice, source: Source, url: str, row: int, stance: str | None, annotators: Annotators) -> Found:
    annotation = read_annotation(url, COLUMNS).slice(row, 1).to_pylist()[0]
    wanted = np.array([annotation["position"]], dtype=np.int64)
    with store_for(part.shard).open(part.shard, part.version) as file:
        batches = read_records(file, part, source, annotators.limits(), form="converted", wanted=wanted)
        text = next(str(b.rows.column("text")[0]) for b in batches if isinstance(b, Rows) and len(b.position))
    reasons = load_stance(annotators.stance_model).explain(text, stance)
    return Found(source.name, part.shard, annotation["position"], annotation, text, reasons)
