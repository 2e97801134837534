"""Read a finished corpus again and recompute its manifest, without anything of the build's own code.

Files are decompressed, parsed and counted here with the plainest tools there are; only the manifest, the provenance
and the bytes of the parts are trusted to exist.
"""

import gzip
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import orjson
import pyarrow.parquet as pq
import zstandard

from transforms.errors import ConfigError, StorageError, Unaccounted
from transforms.storage import join, store_for

UNITS = ("documents", "bytes", "characters", "words")
TERMS_OUT = ("kept", "dropped_language", "dropped_misaligned", "diverted", "quarantined")


class Verified(NamedTuple):
    """What was read and found: files, records, bytes, and every disagreement."""

    files: int
    records: int
    bytes: int
    problems: tuple[str, ...]


class _Field(NamedTuple):
    """How a record's text is found: names of the text field for each source."""

    names: tuple[str, ...]


def verify(output: str, *, workers: int | None = None, progress: Callable[[str], None] = lambda _: None) -> Verified:
    """Recompute everything that can be recomputed from the output alone.

    Raises:
      StorageError: There is no finished corpus there.
    """
    store = store_for(output)
    if store.stat(join(output, "_SUCCESS")) is None:
        raise StorageError(f"{output} has no _SUCCESS: it is no finished corpus; run the build again to finish it")
    with store.open(join(output, "_SUCCESS")) as file:
        success = json.loads(file.read())
    with store.open(join(output, "manifest.json")) as file:
        data = file.read()
    problems = []
    if hashlib.sha256(data).hexdigest() != success["manifest_sha256"]:
        problems.append("manifest.json is not the one that _SUCCESS names")
    manifest = json.loads(data)
    jobs = [
        (output, entry, manifest["config"], arm, diverted)
        for arm, values in manifest["arms"].items()
        for diverted, key in ((False, "files"), (True, "diverted_files"))
        for entry in values[key]
    ]
    totals: dict[tuple[str, bool, str, str], list[int]] = {}
    dose: dict[str, list[tuple[int, int]]] = {}
    with ProcessPoolExecutor(max_workers=workers or os.cpu_count() or 1) as pool:
        for (_, entry, _, arm, diverted), (found, counted) in zip(jobs, pool.map(_verify_file, jobs), strict=True):
            problems += found
            progress(entry["path"])
            for (source, origin), amounts in counted.items():
                sums = totals.setdefault((arm, diverted, source, origin), [0] * len(UNITS))
                totals[arm, diverted, source, origin] = [a + b for a, b in zip(sums, amounts, strict=True)]
    problems += _unlisted(output, manifest)
    for arm, values in manifest["arms"].items():
        problems += _verify_equation(arm, values, totals, manifest)
        problems += _verify_doses(arm, values, manifest)
    problems += _verify_quarantine(output, manifest)
    return Verified(len(jobs), sum(j[1]["records"] for j in jobs), sum(j[1]["bytes"] for j in jobs), tuple(problems))


def check(output: str, *, workers: int | None = None) -> Verified:
    """`verify`, raising Unaccounted with all disagreements."""
    result = verify(output, workers=workers)
    if result.problems:
        raise Unaccounted(f"{output} does not agree with its manifest:\n" + "\n".join(result.problems[:50]))
    return result


def _verify_file(job: tuple[str, dict[str, Any], dict[str, Any], str, bool]) -> tuple[list[str], dict[Any, list[int]]]:
    """Problems of one file, and its amounts by (source, origin)."""
    output, entry, config, _, _ = job
    path, problems = entry["path"], []
    data = _read(join(output, *path.split("/")))
    if data is None:
        return [f"{path}: is missing"], {}
    if hashlib.sha256(data).hexdigest() != entry["sha256"] or len(data) != entry["bytes"]:
        problems.append(f"{path}: sha256 or size is not the manifest's")
    side = _read(join(output, *entry["provenance"]["path"].split("/")))
    if side is None or hashlib.sha256(side).hexdigest() != entry["provenance"]["sha256"]:
        return [*problems, f"{entry['provenance']['path']}: is missing or not the manifest's"], {}
    rows = pq.read_table(io.BytesIO(side)).to_pylist()
    texts = list(_texts(data, config))
    if not len(rows) == len(texts) == entry["records"]:
        return [*problems, f"{path}: {len(texts)} records, {len(rows)} rows of provenance, {entry['records']} in the manifest"], {}
    counted: dict[Any, list[int]] = {}
    for i, (text, row) in enumerate(zip(texts, rows, strict=True)):
        amounts = [1, len(text.encode()), len(text), len(text.split())]
        if amounts[1:] != [row[unit] for unit in UNITS[1:]]:
            problems.append(f"{path}: record {i} has {dict(zip(UNITS[1:], amounts[1:], strict=True))}, its provenance says otherwise")
        sums = counted.setdefault((row["source"], row["origin"]), [0] * len(UNITS))
        counted[row["source"], row["origin"]] = [a + b for a, b in zip(sums, amounts, strict=True)]
    unit = config["unit"]
    synthetic = sum(1 if unit == "documents" else row[unit] for row in rows if row["origin"] == "synthetic")
    if synthetic != entry["synthetic"]:
        problems.append(f"{path}: holds {synthetic} {unit} of synthetic text, the manifest says {entry['synthetic']}")
    return problems[:20], counted


def _read(url: str) -> bytes | None:
    store = store_for(url)
    if store.stat(url) is None:
        return None
    with store.open(url) as file:
        return file.read()


def _texts(data: bytes, config: Mapping[str, Any]) -> Iterator[str]:
    """The text of each record, in order."""
    kind = config["output"]["format"]
    names = list(dict.fromkeys([*(s["text"] for s in config["sources"]), "text"]))
    if kind == "parquet":
        for batch in pq.ParquetFile(io.BytesIO(data)).iter_batches(batch_size=1024):
            for record in batch.to_pylist():
                yield _text_of(record, names)
        return
    if kind == "jsonl.gz":
        data = gzip.decompress(data)
    elif kind == "jsonl.zst":
        data = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).read()
    for line in data.split(b"\n")[:-1]:
        yield _text_of(orjson.loads(line), names)


def _text_of(record: Mapping[str, Any], names: list[str]) -> str:
    for name in names:
        value: Any = record
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if isinstance(value, str):
            return value
    raise ConfigError([f"a record has none of the text fields {', '.join(names)}"])


def _unlisted(output: str, manifest: Mapping[str, Any]) -> list[str]:
    """Files in the arms' folders that the manifest does not name."""
    root = output.rstrip("/")
    listed = set()
    for values in manifest["arms"].values():
        for entry in (*values["files"], *values["diverted_files"]):
            listed |= {entry["path"], entry["provenance"]["path"]}
    found = []
    for arm in manifest["arms"]:
        for folder in (arm, f"diverted/{arm}"):
            for info in store_for(root).list(join(root, *folder.split("/"), "**")):
                tail = info.url[info.url.rindex(f"/{folder}/") + 1 :]
                if tail not in listed:
                    found.append(f"{tail}: is in the corpus, but not in the manifest")
    return found


def _verify_equation(arm: str, values: Mapping[str, Any], totals: Mapping[Any, list[int]], manifest: Mapping[str, Any]) -> list[str]:
    problems = []
    for source, terms in values["equation"].items():
        expected = [("synthetic", False, "synthetic")] if "synthetic" in terms else [
            ("kept", False, "base"), ("refilled", False, "refill"), ("diverted", True, "base")]  # fmt: skip
        for term, diverted, origin in expected:
            counted = totals.get((arm, diverted, source, origin), [0] * len(UNITS))
            stated = [terms[term][unit] for unit in UNITS]
            if counted != stated:
                problems.append(f"{arm}, {source}: {term} is {counted} when counted, {stated} in the manifest")
        if "read" in terms:
            for unit in (*UNITS, "tokens"):
                right = sum(terms[t][unit] for t in TERMS_OUT)
                if terms["read"][unit] != right:
                    problems.append(f"{arm}, {source}: read {terms['read'][unit]} {unit}, accounted for {right}")
            records = sum(i["records"] + i["quarantined"] for i in manifest["inputs"] if i["source"] == source and not i["left_out"])
            if records != terms["read"]["documents"]:
                problems.append(f"{arm}, {source}: the inputs hold {records} records, read are {terms['read']['documents']}")
    return problems


def _verify_doses(arm: str, values: Mapping[str, Any], manifest: Mapping[str, Any]) -> list[str]:
    """The whole dose against the configuration, and each file's against its share of the base."""
    dose, spec = values["dose"], manifest["config"]["arms"][arm]
    problems = []
    base, got = sum(f["base"] for f in values["files"]), sum(f["synthetic"] for f in values["files"])
    if (base, got) != (dose["base"], dose["got"]):
        problems.append(f"{arm}: the files hold {base} base and {got} synthetic, the manifest says {dose['base']} and {dose['got']}")
    wanted = 0.0
    if spec["dose"]:
        share, of = spec["dose"]["share"], spec["dose"]["of"]
        wanted = spec["dose"]["amount"] or share * {
            "output": base / (1 - share) if of == "output" else 0, "base": base, "ai_discourse": dose["ai_discourse"]}[of]  # fmt: skip
    if abs(got - wanted) > max(manifest["config"]["tolerance"] * wanted, dose["largest_document"]):
        problems.append(f"{arm}: asked for {wanted:.1f} {dose['unit']} of synthetic text, it holds {got}")
    if spec["placement"] == "uniform" and base:
        for file in values["files"]:
            share = file["base"] / base * got
            if abs(file["synthetic"] - share) > dose["largest_document"]:
                problems.append(f"{file['path']}: holds {file['synthetic']} {dose['unit']} of synthetic text, its share is {share:.1f}")
    return problems


def _verify_quarantine(output: str, manifest: Mapping[str, Any]) -> list[str]:
    data = _read(join(output, "quarantine", "records.jsonl.zst"))
    if data is None:
        return ["quarantine/records.jsonl.zst: is missing"]
    lines = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).read().split(b"\n")[:-1]
    shards = sum(orjson.loads(line)["reason"].startswith("shard:") for line in lines)
    stated = manifest["quarantine"]
    if (len(lines) - shards, shards) != (stated["records"], len(stated["shards"])):
        return [f"quarantine holds {len(lines) - shards} records and {shards} shards, the manifest says "
                f"{stated['records']} and {len(stated['shards'])}"]  # fmt: skip
    return []
