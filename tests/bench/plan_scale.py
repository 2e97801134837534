"""The plan at the size of a crawl, simulated: 1,000,000 slices, 3 billion documents, a pool of 2 million.

What the steps before it would give (an inventory of each slice, the candidates of the boundary buckets, the pool's
annotations) is made up; everything from there on is the code that plans. Run on its own, since it measures memory:

    python -m tests.bench.plan_scale --slices 1000000
"""

import argparse
import dataclasses
import gc
import json
import pickle
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
import pyarrow as pa

from tests.bench import table
from tests.bench.table import Row
from transforms import dose, layout, plan
from transforms.annotation import Receipt
from transforms.arms import Arm, Cuts, Kind, Targets, settle_all
from transforms.layout import Group, Inventory, Segment, Stream, Terms
from transforms.schema import STANCES, UNITS, Slice
from transforms.select import BUCKET_BITS, BUCKETS, EVERYTHING, NOTHING, Candidate

DOCUMENTS: Final = 3_000  # a slice, of 6 kB each: 18 TB in all
DOCUMENT_BYTES: Final = 6_000
FLAGGED: Final = 0.02
POOL: Final = 2_000_000
TARGET: Final = 512 << 20
ARMS: Final = (
    Arm("unfiltered"),
    Arm("filtered", keep_share=0.0, refill=True),
    Arm("counterpoised", keep_share=0.25, dose_share=0.001, max_repeats=10),
)
_SECTION: Final = "plan by simulation"
_T = TypeVar("_T")


def resident(field: str = "VmHWM") -> float:
    """Resident MB of this process: "VmHWM" at its highest, "VmRSS" now."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith(field))


class Clock:
    """Runs the steps one after the other and keeps a row of each."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def step(self, name: str, action: Callable[[], _T], note: str = "") -> _T:
        """Run an action; the row says its CPU time and what the process holds after it."""
        gc.collect()
        before, start = resident("VmRSS"), time.process_time()
        result = action()
        taken = time.process_time() - start
        held = resident("VmRSS") - before
        self.rows.append(Row(_SECTION, name, None, f"{taken:.1f} s", f"{held:+,.0f} MB held", note, [taken]))
        return result


def gathered(count: int) -> tuple[list[Inventory], plan.TermsByArm]:
    """What the runner gathers for the plan: inventories without their terms, each from a worker, and the terms' sum."""
    made: list[Inventory] = []
    sums: plan.TermsByArm = {}
    for inventory in inventories(count):
        made.append(pickle.loads(pickle.dumps(plan._without_terms(inventory))))
        sums = plan.sum_terms([sums, plan.terms_of(inventory)])
    return made, sums


def inventories(count: int) -> Iterator[Inventory]:
    """What `take_inventory` would give for each of `count` slices under three arms."""
    chance = random.Random(0)
    streams = [Stream(arm.name, diverted=False) for arm in ARMS]
    for number in range(count):
        shard = f"gs://corpus/crawl-data/CC-MAIN-2026-04/segments/{number // 900:06d}/wet/{number:08d}.warc.wet.gz"
        size = chance.randint(DOCUMENT_BYTES // 2, DOCUMENT_BYTES * 3 // 2) * DOCUMENTS
        part = Slice(0, shard, 0, -1, size // 3, f"17640{number:010d}", "wet", "")
        receipt = Receipt(
            part=part, url=f"gs://corpus/work/annotations/{number:032x}.parquet", records=DOCUMENTS, bad=0, faults=(),
            text_bytes=size, raw_crc32c=f"crc32c:{number:08x}", fault=("", -1, ""), quarantine="", text_url="",
            with_id=DOCUMENTS, columns="", fields=(),
        )  # fmt: skip
        segments = {
            s: (Segment(DOCUMENTS - i, size - i * 1000, size - i * 1000, size // 50),) for i, s in enumerate(streams)
        }
        terms = {arm.name: _terms(size) for arm in ARMS}
        yield Inventory(receipt, segments, terms)


def _terms(size: int) -> Terms:
    kept = (DOCUMENTS - 60, size, size, size // 6, size // 4)
    gone = (60, size // 50, size // 50, size // 300, size // 200)
    return Terms(kept=kept, dropped=gone, diverted=(0,) * len(UNITS), refilled=gone)


def targets(documents: int) -> tuple[Targets, ...]:
    """Targets whose cuts fall into the middle of a bucket."""
    flagged, amount = round(documents * FLAGGED) * DOCUMENT_BYTES, documents * DOCUMENT_BYTES
    middle, half = BUCKETS // 2, 0.5 + 0.5 / BUCKETS
    return (
        Targets(ARMS[0], flagged, (BUCKETS, flagged), 0, 0, (-1, 0)),
        Targets(ARMS[1], 0, (-1, 0), 0, round(amount * half), (middle, amount // 2)),
        Targets(ARMS[2], round(flagged * half), (middle, flagged // 2), 0, 0, (-1, 0)),
    )


def candidates(documents: int) -> list[tuple[Kind, Candidate]]:
    """All documents of the two boundary buckets."""
    chance, found = random.Random(1), list[tuple[Kind, Candidate]]()
    shares: dict[Kind, float] = {"drop": FLAGGED, "refill": 1 - FLAGGED}
    for kind, share in shares.items():
        for row in range(round(documents * share / BUCKETS)):
            priority = (BUCKETS // 2 << (64 - BUCKET_BITS)) + chance.getrandbits(64 - BUCKET_BITS)
            key = (0, f"gs://corpus/crawl-data/CC-MAIN-2026-04/{chance.randrange(10**8):08d}.warc.wet.gz", 0)
            found.append((kind, Candidate(priority, key, row % DOCUMENTS, chance.randint(200, 2 * DOCUMENT_BYTES))))
    return found


def pool(count: int) -> pa.Table:
    """What `load_pool` would give: annotations of the pool, with where each text lies."""
    chance = np.random.default_rng(2)
    sizes = chance.integers(500, 12_000, count)
    shards = pa.array([f"gs://corpus/synthetic/{i:05d}.jsonl.zst" for i in range(200)])
    of_shard = pa.DictionaryArray.from_arrays(pa.array(np.sort(chance.integers(0, 200, count)), pa.int32()), shards)
    one = pa.DictionaryArray.from_arrays(pa.array(np.zeros(count), pa.int32()), pa.array(["en"]))
    source = pa.DictionaryArray.from_arrays(pa.array(np.zeros(count), pa.int32()), pa.array(["stories"]))
    columns = {
        "position": pa.array(np.cumsum(sizes)),
        "digest": pa.array(chance.integers(0, 1 << 63, count).astype(np.uint64)),
        "bytes": pa.array(sizes),
        "characters": pa.array(sizes),
        "words": pa.array(sizes // 6),
        "tokens": pa.array(sizes // 4),
        "language": one,
        "language_score": pa.array(np.ones(count, np.float32)),
        **{stance: pa.array(np.full(count, 0.25, np.float32)) for stance in STANCES},
        "id": pa.array([f"story-{i}" for i in range(count)], pa.large_string()),
        "stratum": pa.nulls(count, pa.large_string()),
        "source": source,
        "shard": of_shard,
        "text_url": of_shard,
        "offset": pa.array(np.cumsum(sizes) - sizes),
    }
    return pa.table(columns)


def simulate(slices: int) -> list[Row]:
    """Plan a crawl of so many slices."""
    clock, documents = Clock(), slices * DOCUMENTS
    made, terms = clock.step("inventories, made up", lambda: gathered(slices), f"{documents:,} documents")
    pickled = len(pickle.dumps(made[:1000])) / 1000
    clock.rows.append(Row(_SECTION, "one inventory", None, f"{pickled:,.0f} B pickled", "", "what crosses the runner"))
    wanted = targets(documents)
    found = clock.step("candidates, made up", lambda: candidates(documents))
    cuts = clock.step("settle_all", lambda: settle_all(wanted, found), f"{len(found):,} candidates")
    groups = clock.step("lay_out", lambda: layout.lay_out(made, layout.streams_of(cuts), TARGET))
    assert {arm for arm, _ in terms} == {arm.name for arm in ARMS}
    groups = give_dose(clock, groups, cuts, slices)
    groups = clock.step("with_totals", lambda: layout.with_totals(groups))
    number = f"{len(groups):,} groups, {sum(len(g.parts) for g in groups):,} files"
    clock.rows.append(Row(_SECTION, "peak memory", None, f"{resident():,.0f} MB", "", number))
    return clock.rows


def give_dose(clock: Clock, groups: Sequence[Group], cuts: Sequence[Cuts], slices: int) -> list[Group]:
    """Choose the dose, put it in order and give it out."""
    arm, size = ARMS[2], POOL if slices >= 1_000_000 else POOL * slices // 1_000_000
    stories = clock.step("pool, made up", lambda: pool(size), f"{size:,} documents")
    stream = Stream(arm.name, diverted=False)
    base = sum(p.base.amount for g in groups for p in g.parts if p.stream == stream)
    target = dose.dose_target(arm, base, 0)
    strata = clock.step("strata_of", lambda: list(dose.strata_of(stories, {}, "bytes")))
    rows, copies, got = clock.step(
        "choose",
        lambda: dose.choose(stories, target, strata, arm, unit="bytes", seed=7),
        f"a dose of {target / 1e9:,.1f} GB",
    )
    made = clock.step(
        "schedule", lambda: dose.schedule(stories, rows, copies, dose.interval_of(arm, base), unit="bytes", seed=7),
        f"{got.documents:,} records",
    )  # fmt: skip
    assert cuts[0].keep == EVERYTHING
    assert cuts[0].refill == NOTHING
    return clock.step("give_out", lambda: layout.give_out(groups, stream, made.column("place").to_numpy()))


def main() -> int:
    """Simulate and print, as a table or as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = simulate(args.slices)
    if args.json:
        print(json.dumps([dataclasses.asdict(row) for row in rows]))
    else:
        table.show(rows, "the plan of a crawl")
    return 0


if __name__ == "__main__":
    sys.exit(main())
