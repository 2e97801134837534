"""Read a finished corpus again and recompute its manifest, without anything of the build's own code.

Files are decompressed, parsed and counted here with the plainest tools there are; only the manifest, the provenance
and the bytes of the parts are trusted to exist.
"""

import gzip
import hashlib
import io
import itertools
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import orjson
import pyarrow.parquet as pq
import zstandard
from tokenizers import Tokenizer

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
    with ProcessPoolExecutor(workers or os.cpu_count() or 1, mp_context=multiprocessing.get_context("spawn")) as pool:
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
    url, side = (join(output, *path.split("/")) for path in (entry["path"], entry["provenance"]["path"]))
    problems = [*_sum_problems(url, entry), *_sum_problems(side, entry["provenance"])]
    if problems:
        return problems, {}
    count_tokens = _token_counter(config)
    units = UNITS if count_tokens is None else (*UNITS, "tokens")
    counted: dict[Any, list[int]] = {}
    synthetic = number = 0
    for text, row in itertools.zip_longest(_texts(url, config), _rows(side)):
        if text is None or row is None:
            return [f"{entry['path']}: the part and its provenance differ in length after {number} records"], {}
        amounts = [1, len(text.encode()), len(text), len(text.split())]
        amounts += [count_tokens(text)] if count_tokens else []
        if amounts[1:] != [row[unit] for unit in units[1:]]:
            found = dict(zip(units[1:], amounts[1:], strict=True))
            problems.append(f"{entry['path']}: record {number} has {found}, its provenance says otherwise")
        sums = counted.setdefault((row["source"], row["origin"]), [0] * len(UNITS))
        counted[row["source"], row["origin"]] = [a + b for a, b in zip(sums, amounts, strict=False)]
        number += 1
        if row["origin"] == "synthetic":
            synthetic += 1 if config["unit"] == "documents" else row[config["unit"]]
    if number != entry["records"]:
        problems.append(f"{entry['path']}: holds {number} records, the manifest says {entry['records']}")
    if synthetic != entry["synthetic"]:
        found_text = f"{synthetic} {config['unit']} of synthetic text"
        problems.append(f"{entry['path']}: holds {found_text}, the manifest says {entry['synthetic']}")
    return problems[:20], counted


def _token_counter(config: Mapping[str, Any]) -> Callable[[str], int] | None:
    if not config["tokenizer"]:
        return None
    with store_for(config["tokenizer"]).open(config["tokenizer"]) as file:
        tokenizer = Tokenizer.from_buffer(file.read())
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False))


def _sum_problems(url: str, entry: Mapping[str, Any]) -> list[str]:
    """Whether an object is there and has the manifest's size and sha256."""
    store, digest, size = store_for(url), hashlib.sha256(), 0
    if store.stat(url) is None:
        return [f"{entry['path']}: is missing"]
    with store.open(url) as file:
        while block := file.read(1 << 20):
            digest.update(block)
            size += len(block)
    if (digest.hexdigest(), size) != (entry["sha256"], entry["bytes"]):
        return [f"{entry['path']}: sha256 or size is not the manifest's"]
    return []


def _read(url: str) -> bytes | None:
    store = store_for(url)
    if store.stat(url) is None:
        return None
    with store.open(url) as file:
        return file.read()


def _rows(url: str) -> Iterator[dict[str, Any]]:
    """Rows of a Parquet object, in order and bounded memory."""
    with store_for(url).open(url) as raw, pq.ParquetFile(raw, page_checksum_verification=True) as file:
        for batch in file.iter_batches(batch_size=1024):
            yield from batch.to_pylist()


def _texts(url: str, config: Mapping[str, Any]) -> Iterator[str]:
    """The text of each record, in order and bounded memory."""
    kind = config["output"]["format"]
    names = list(dict.fromkeys([*(s["text"] for s in config["sources"]), "text"]))
    if kind == "parquet":
        yield from (_text_of(record, names) for record in _rows(url))
        return
    with store_for(url).open(url) as raw:
        stream: Any = raw
        if kind == "jsonl.gz":
            stream = gzip.GzipFile(fileobj=raw)
        elif kind == "jsonl.zst":
            stream = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
        for line in io.BufferedReader(stream, 1 << 20):
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


def _verify_equation(
    arm: str, values: Mapping[str, Any], totals: Mapping[Any, list[int]], manifest: Mapping[str, Any]
) -> list[str]:
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
            records = sum(
                i["records"] + i["quarantined"]
                for i in manifest["inputs"]
                if i["source"] == source and not i["left_out"]
            )
            if records != terms["read"]["documents"]:
                problems.append(
                    f"{arm}, {source}: the inputs hold {records} records, read are {terms['read']['documents']}"
                )
    return problems


def _verify_doses(arm: str, values: Mapping[str, Any], manifest: Mapping[str, Any]) -> list[str]:
    """The whole dose against the configuration, and each file's against its share of the base."""
    dose, spec = values["dose"], manifest["config"]["arms"][arm]
    problems = []
    base, got = sum(f["base"] for f in values["files"]), sum(f["synthetic"] for f in values["files"])
    if (base, got) != (dose["base"], dose["got"]):
        problems.append(
            f"{arm}: the files hold {base} base and {got} synthetic, the manifest says {dose['base']} and {dose['got']}"
        )
    wanted = 0.0
    if spec["dose"]:
        share, of = spec["dose"]["share"], spec["dose"]["of"]
        if spec["dose"]["amount"] is not None:
            wanted = spec["dose"]["amount"]
        elif of == "output":
            wanted = share / (1 - share) * base
        else:
            wanted = share * (base if of == "base" else dose["ai_discourse"])
    # One unit: amounts are whole, and where half a word is asked there may be no document to be off by.
    if abs(got - wanted) > max(manifest["config"]["tolerance"] * wanted, dose["largest_document"], 1):
        problems.append(f"{arm}: asked for {wanted:.1f} {dose['unit']} of synthetic text, it holds {got}")
    if spec["placement"] == "uniform" and base:
        for file in values["files"]:
            share = file["base"] / base * got
            if abs(file["synthetic"] - share) > dose["largest_document"]:
                found = f"{file['synthetic']} {dose['unit']} of synthetic text"
                problems.append(f"{file['path']}: holds {found}, its share is {share:.1f}")
    return problems


def _verify_quarantine(output: str, manifest: Mapping[str, Any]) -> list[str]:
    data = _read(join(output, "quarantine", "records.jsonl.zst"))
    if data is None:
        return ["quarantine/records.jsonl.zst: is missing"]
    lines = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).read().split(b"\n")[:-1]
    shards = sum(orjson.loads(line)["reason"].startswith("shard:") for line in lines)
    stated = manifest["quarantine"]
    if (len(lines) - shards, shards) != (stated["records"], len(stated["shards"])):
        found = f"{len(lines) - shards} records and {shards} shards"
        return [f"quarantine holds {found}, the manifest says {stated['records']} and {len(stated['shards'])}"]
    return []
