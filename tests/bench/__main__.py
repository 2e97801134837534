"""`./dev bench`: one command, one table, and `--json FILE` with every single measurement."""

import argparse
import datetime as dt
import importlib.metadata
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa

from tests.bench import builds, clock, corpus, stages, table
from tests.bench.corpus import CACHE, ROOT, Corpus
from tests.bench.table import Row

_PARTS = ("stages", "predict", "datatrove", "scaling", "shards", "memory", "plan")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less text and one round: minutes, and rougher")
    parser.add_argument("--corpus", type=Path, metavar="DIR", help="a folder with jsonl.zst/ and perhaps jsonl.gz/, "
                        "parquet/, wet.gz/, warc.gz/ of the same documents, as make_corpus.py writes it")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every single measurement here")
    parser.add_argument("--only", nargs="+", choices=_PARTS, default=_PARTS, help="these parts and no others")
    parser.add_argument("--rounds", type=int, metavar="N", help="turns of each measurement; default 3, with --quick 1")
    args = parser.parse_args()
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    CACHE.mkdir(exist_ok=True)
    found = corpus.find(args.corpus)
    print(f"bench: {stages.corpus_facts(found)}", file=sys.stderr)
    rows: list[Row] = []
    for part in args.only:
        print(f"bench: {part} …", file=sys.stderr, flush=True)
        rows += measure(part, found, args.rounds or (1 if args.quick else 3), quick=args.quick)
        if args.json:
            table.write_json(rows, facts(found, quick=args.quick), args.json)
    title = f"MB of text a CPU second, medians; {stages.corpus_facts(found)}"
    table.show(rows, title)
    return 0


def measure(part: str, found: Corpus, rounds: int, *, quick: bool) -> list[Row]:
    """The rows of one part."""
    few = 1 if quick else 2
    match part:
        case "stages":
            long = corpus.long_documents(found)
            return [
                *stages.measure(found, few, rounds, everything=True),
                *stages.measure(long, few, rounds, everything=False),
            ]
        case "predict":
            return builds.predict(found, rounds)
        case "datatrove":
            return builds.against_datatrove(found, few, rounds)
        case "scaling":
            return builds.scaling(found, 1 if quick else 3, rounds)
        case "shards":
            return builds.shard_counts(found, (2, 8, 32) if quick else (2, 8, 32, 128), rounds)
        case "memory":
            return [*builds.memory(found), *builds.memory(corpus.long_documents(found))]
        case _:
            return plan_scale(10_000 if quick else 1_000_000)


def plan_scale(slices: int) -> list[Row]:
    """The plan at the size of a crawl, in a process of its own."""
    log = CACHE / "plan_scale.log"
    clock.run([sys.executable, "-m", "tests.bench.plan_scale", "--slices", str(slices), "--json"], log, cwd=ROOT)
    return [Row(**row) for row in json.loads(log.read_text().splitlines()[-1])]


def facts(found: Corpus, *, quick: bool) -> dict[str, Any]:
    """What the numbers were measured with."""
    versions = {
        name: importlib.metadata.version(name) for name in ("apache-beam", "numba", "numpy", "pyarrow", "zstandard")
    }
    return {
        "date": dt.datetime.now(dt.timezone.utc).date().isoformat(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "quick": quick,
        "corpus": stages.corpus_facts(found),
        "versions": versions,
    }


if __name__ == "__main__":
    sys.exit(main())
