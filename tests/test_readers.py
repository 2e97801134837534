"""Outputs open in the tools that people already use, with the real libraries."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest

from tests import corpora

FORMATS = ("jsonl", "jsonl.gz", "jsonl.zst", "parquet")
ARMS = {"unfiltered": {}, "counterpoised": {"misaligned": "drop", "dose": {"share": 0.2, "of": "output"}}}


def built(folder: Path, kind: str) -> tuple[Path, dict[str, Any]]:
    """A corpus of two arms in one output format, and its manifest."""
    values = corpora.config(corpora.write_web(folder), arms=ARMS, output={"format": kind})
    return Path(values["output"]["path"]), corpora.run_plain(values)


def records(manifest: dict[str, Any], arm: str) -> int:
    """How many records an arm has."""
    return int(manifest["arms"][arm]["written"]["total"]["documents"])


def rows(query: str) -> list[Any]:
    """What DuckDB answers."""
    return duckdb.connect().execute(query).fetchall()


@pytest.mark.parametrize("kind", FORMATS)
def test_duckdb(tmp_path: Path, kind: str) -> None:
    """DuckDB reads the parts of an arm, and joins each record with its provenance by place."""
    output, manifest = built(tmp_path, kind)
    reader = "read_parquet" if kind == "parquet" else "read_json_auto"
    for arm in ARMS:
        found = rows(f"select count(*), count(text), count(id) from {reader}('{output}/{arm}/part-*.{kind}')")
        assert found == [(records(manifest, arm),) * 3]
    synthetic = f"select sum(words) from read_parquet('{output}/*/provenance/*.parquet') where origin = 'synthetic'"
    assert rows(synthetic) == [(manifest["arms"]["counterpoised"]["dose"]["got"],)]


@pytest.mark.parametrize("kind", FORMATS)
def test_pandas(tmp_path: Path, kind: str) -> None:
    """Pandas reads every part, compression found by the name, and the provenance has as many rows."""
    output, manifest = built(tmp_path, kind)
    for arm in ARMS:
        total = 0
        for part in sorted((output / arm).glob("part-*")):
            frame = pd.read_parquet(part) if kind == "parquet" else pd.read_json(part, lines=True)
            side = part.parent / "provenance" / f"{part.name.removesuffix('.' + kind)}.parquet"
            assert list(frame.columns[:2]) == ["id", "text"]
            assert len(pd.read_parquet(side)) == len(frame)
            total += len(frame)
        assert total == records(manifest, arm)


@pytest.mark.parametrize("kind", ["jsonl.gz", "jsonl.zst", "parquet"])
def test_datatrove(tmp_path: Path, kind: str) -> None:
    """datatrove's own readers yield every record of an arm."""
    from datatrove.pipeline.readers import JsonlReader, ParquetReader  # type: ignore[import-untyped]

    output, manifest = built(tmp_path, kind)
    for arm in ARMS:
        if kind == "parquet":
            reader = ParquetReader(str(output / arm), glob_pattern="part-*.parquet")
        else:
            reader = JsonlReader(str(output / arm), glob_pattern=f"part-*.{kind}")
        documents = list(reader.run())
        assert len(documents) == records(manifest, arm)
        assert all(d.text and d.id for d in documents)


# The file that holds dolma's record type is loaded by itself: the whole package wants NumPy 1 and a dozen old releases.
DOLMA = """
import importlib.util, pathlib, sys
import msgspec, smart_open
(path,) = pathlib.Path(sys.prefix).rglob("dolma/core/data_types.py")
spec = importlib.util.spec_from_file_location("data_types", path)
module = importlib.util.module_from_spec(spec)
sys.modules["data_types"] = module
spec.loader.exec_module(module)
decoder, number = msgspec.json.Decoder(module.InputSpecWithMetadata), 0
for path in sys.argv[1:]:
    with smart_open.open(path, "rt", encoding="utf-8") as file:
        number += sum(bool(decoder.decode(line).text) for line in file)
print(number)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["jsonl.gz", "jsonl.zst"])
def test_dolma(tmp_path: Path, kind: str) -> None:
    """dolma's own record type and the opener it uses read every record, in an environment of their own."""
    output, manifest = built(tmp_path, kind)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    packages = ["dolma==1.2.1", "msgspec", "smart_open[zst]", "typing_extensions"]
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", packages[0]], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", *packages[1:]], check=True)
    for arm in ARMS:
        parts = sorted(map(str, (output / arm).glob("part-*")))
        done = subprocess.run([python, "-c", DOLMA, *parts], capture_output=True, text=True, check=False)
        assert done.stdout.strip() == str(records(manifest, arm)), done.stderr
