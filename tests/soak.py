"""Builds over and over: random configurations, sizes and damage, held to the oracle. `./dev soak --minutes 60`.

A disagreement stops nothing; it is printed with the seed that repeats it (`./dev soak --seed N --builds 1`).
"""

import argparse
import collections
import contextlib
import random
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from beam_pipeline.verify import verify
from tests import corpora, reference, shards
from tests.test_agreement import assert_agrees
from transforms.errors import InputError, MixShortfall

DAMAGES = ("none", "none", "cut", "bad records", "killed half-way", "annotations there")


def damage(kind: str, values: corpora.Config, folder: Path, chance: random.Random) -> None:
    """Something wrong with one of the sources, or with what is there already."""
    lines = sorted(path for path in (folder / "web").iterdir() if path.suffix == ".jsonl")
    if kind == "cut" and lines:
        data = shards.compress(shards.jsonl_bytes(corpora.documents(20, chance.randint(0, 99), "x")), "gzip")
        (folder / "web/9.jsonl.gz").write_bytes(data[: chance.randrange(20, len(data))])
    elif kind == "bad records" and lines:
        bad = [b'{"text": 5}', b"[1]", b'{"text": "cut', b'{"text": "\xff"}', b"", b'{"id": "x"}']
        with chance.choice(lines).open("rb+") as file:
            if file.read(2)[:1] == b"{":  # not compressed
                file.seek(0, 2)
                file.write(b"\n".join(chance.choices(bad, k=4)) + b"\n")
    elif kind == "killed half-way":
        job = corpora.checked(values).job
        steps: Any = corpora
        original, left = steps.mix_group, [chance.randint(0, 3)]

        def die(*given: object) -> object:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            return original(*given)

        steps.mix_group = die
        try:
            with contextlib.suppress(KeyboardInterrupt, MixShortfall, InputError):
                corpora.run_steps(job)
        finally:
            steps.mix_group = original
    elif kind == "annotations there":
        other = {**values, "seed": values["seed"] + 1, "output": {**values["output"], "path": f"{folder}/other"}}
        with contextlib.suppress(MixShortfall, InputError):
            corpora.run_plain(other)


def once(seed: int) -> tuple[str, str]:
    """One build; returns the damage and what came of it, "agrees" or "both refuse". AssertionError otherwise."""
    chance = random.Random(f"soak-{seed}")
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        values = corpora.any_config(folder, seed)
        values |= {"limits": {"bad_records": 0.99, "bad_shards": 9}, "work": f"{folder}/work"}
        kind = chance.choice(DAMAGES)
        damage(kind, values, folder, chance)
        try:
            manifest = corpora.run_plain(values)
        except MixShortfall:
            try:
                reference.rebalance(values)
            except reference.Shortfall:
                return kind, "both refuse"
            raise AssertionError("the build finds a shortfall, the oracle does not") from None
        assert_agrees(values, manifest)
        assert verify(values["output"]["path"], workers=1).problems == ()
        return kind, "agrees"


def main() -> int:
    """The command line; exit code 1 when anything disagreed."""
    parser = argparse.ArgumentParser(prog="./dev soak", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--minutes", type=float, default=5.0, help="how long (default: 5)")
    parser.add_argument("--builds", type=int, default=0, help="stop after so many builds")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="the first seed (default: the time)")
    args = parser.parse_args()
    found: collections.Counter[tuple[str, str]] = collections.Counter()
    began, seed = time.monotonic(), args.seed
    while time.monotonic() - began < 60 * args.minutes and (not args.builds or found.total() < args.builds):
        try:
            found[once(seed)] += 1
        except Exception:  # noqa: BLE001  # whatever it is, it is a disagreement
            found["?", "disagrees"] += 1
            print(f"seed {seed}:", file=sys.stderr)
            traceback.print_exc()
        seed += 1
    for (kind, outcome), number in sorted(found.items()):
        print(f"{number:7,}  {kind}: {outcome}")
    faults = sum(number for (kind, _), number in found.items() if kind != "none")
    wrong = sum(number for (_, outcome), number in found.items() if outcome == "disagrees")
    minutes = (time.monotonic() - began) / 60
    print(f"{minutes:.1f} minutes, {found.total():,} builds, {faults:,} faults injected, {wrong:,} disagreements")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
