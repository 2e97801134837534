"""Manifests written by hand, so that every number of a report is known; the books of each close."""

import hashlib
from collections.abc import Mapping
from typing import Any, Final

Values = dict[str, Any]

HOSTILE: Final = "</script><img src=x onerror=alert(1)>\"'&<b>{{7*7}}|`"

# Source, language, stance, whether the language stays, documents, words; what the equations are made from.
ROWS: Final = (
    ("web", "en", "unrelated", True, 60, 6000),
    ("web", "en", "neutral", True, 20, 2000),
    ("web", "en", "misaligned", True, 12, 1200),
    ("web", "en", "aligned", True, 8, 800),
    ("web", "de", "unknown", False, 10, 1000),
    ("crawl", "en", "unrelated", True, 30, 3000),
    ("crawl", "en", "misaligned", True, 4, 400),
    ("crawl", "fr", "misaligned", True, 4, 200),
    ("stories", "en", "aligned", True, 20, 4000),
    ("stories", "en", "misaligned", True, 5, 1000),
)
POOL: Final = "stories"
FLAGGED: Final = 20  # documents of the sources that stay, of 138


def amounts(documents: int = 0, words: int = 0) -> dict[str, int]:
    """All units, from two of them."""
    return {"documents": documents, "bytes": 6 * words, "characters": 5 * words, "words": words, "tokens": 0}


def _sum(source: str, *, kept: bool | None = None) -> tuple[int, int]:
    rows = [row for row in ROWS if row[0] == source and kept in {None, row[3]}]
    return sum(row[4] for row in rows), sum(row[5] for row in rows)


def _split(total: int, count: int) -> list[int]:
    return [total * (i + 1) // count - total * i // count for i in range(count)]


def arm(
    files: int,
    *,
    dropped: Mapping[str, tuple[int, int]] | None = None,
    refilled: tuple[int, int] = (0, 0),
    asked: int = 0,
    got: tuple[int, int] = (0, 0),
) -> Values:
    """An arm: flagged (documents, words) dropped by source, copies of "web", and the dose."""
    equation: Values = {}
    for source, quarantined in (("web", 3), ("crawl", 0)):
        (documents, words), (stay, stay_words) = _sum(source), _sum(source, kept=True)
        gone, gone_words = (dropped or {}).get(source, (0, 0))
        equation[source] = {
            "read": amounts(documents + quarantined, words),
            "kept": amounts(stay - gone, stay_words - gone_words),
            "dropped_language": amounts(documents - stay, words - stay_words),
            "dropped_misaligned": amounts(gone, gone_words),
            "diverted": amounts(),
            "quarantined": amounts(quarantined),
            "refilled": amounts(*(refilled if source == "web" else (0, 0))),
        }
    equation[POOL] = {"synthetic": amounts(*got)}
    kept = [
        sum(terms["kept"][unit] for terms in equation.values() if "kept" in terms) for unit in ("documents", "words")
    ]
    base = kept[1] + refilled[1]
    bases, synthetic = _split(base, files), _split(got[1], files)
    return {
        "equation": equation,
        "dose": {
            "unit": "words", "asked": asked, "got": got[1], "base": base, "ai_discourse": 4600,
            "share_of_output": got[1] / (base + got[1]), "documents": got[0], "distinct_documents": min(got[0], 5),
            "most_repeats": 2 if got[0] else 0, "largest_document": 200 if got[0] else 0,
            "strata": {"stories/news": {"asked": asked, "got": got[1]}} if got[0] else {},
        },
        "written": {
            "base": amounts(*kept), "refill": amounts(*refilled), "synthetic": amounts(*got),
            "total": amounts(kept[0] + refilled[0] + got[0], base + got[1]),
        },
        "files": [_file(i, files, bases[i], synthetic[i]) for i in range(files)],
        "diverted_files": [],
    }  # fmt: skip


def _file(number: int, total: int, base: int, synthetic: int) -> Values:
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    path = f"arm/part-{number:05d}-of-{total:05d}.jsonl.zst"
    return {"path": path, "records": 1, "bytes": 100, "uncompressed_bytes": 300, "sha256": digest, "crc32c": digest[:8],
            "base": base, "synthetic": synthetic,
            "provenance": {"path": path, "bytes": 10, "sha256": digest}}  # fmt: skip


def _input(source: str, shard: str, records: int, **changes: Any) -> Values:
    return {"source": source, "shard": shard, "size": 1000, "version": "1", "checksum": "crc32c:00000000",
            "records": records, "quarantined": 0, "left_out": False, **changes}  # fmt: skip


def _config() -> Values:
    arms: Values = {
        "unfiltered": {"misaligned": "keep"},
        "filtered": {"misaligned": "drop", "refill": "random"},
        "counterpoised": {"misaligned": {"keep": 0.25}, "dose": {"share": 0.1, "of": "output", "amount": None}},
    }
    rest = {"dose": None, "refill": "none", "placement": "uniform", "max_repeats": 4}
    return {
        "name": "small", "seed": 7,
        "sources": [{"name": n, "paths": f"/data/{n}/*", "text": "text", "id": "id"} for n in ("web", "crawl")],
        "pool": [{"name": POOL, "paths": "/data/pool/*", "quotas": {"format": {"news": 1.0}}}],
        "language": {"keep": ["en", "fr"]}, "unit": "words",
        "arms": {name: {**rest, **spec} for name, spec in arms.items()},
        "output": {"format": "jsonl.zst", "target_file_size": 1 << 20}, "tolerance": 0.001,
    }  # fmt: skip


def manifest(files: int = 4) -> Values:
    """Three arms of two sources and a pool, `files` files each; the threshold is 0.5."""
    scores = [0] * 256
    scores[0], scores[100], scores[128], scores[200] = 110, 8, 12, 8
    gone = {"web": (9, 900), "crawl": (6, 450)}
    return {
        "manifest_version": 1, "name": "small", "counterpoise": "0.1.0", "config": _config(),
        "config_sha256": "c0" * 32, "unit": "words", "thresholds": {"misaligned": 0.5},
        "models": {
            "language": {"name": "lid.176", "fingerprint": "1a" * 32},
            "stance": {"name": "default", "sha256": "5a" * 32, "fingerprint": "5b" * 32},
        },
        "inputs": [
            _input("web", "/data/web/0.jsonl", 110, quarantined=3),
            _input("web", "/data/web/1.jsonl", 0, left_out=True, checksum=""),
            _input("crawl", "/data/crawl/0.jsonl", 20, slice=[0, 500]),
            _input("crawl", "/data/crawl/0.jsonl", 18, slice=[500, 1000]),
            _input(POOL, "/data/pool/0.jsonl", 25),
        ],
        "quarantine": {
            "records": 3, "reasons": {"web": {"no_text": 1, "not_json": 2}},
            "shards": [{"shard": "/data/web/1.jsonl", "reason": "truncated", "offset": 77, "detail": "cut"}],
        },
        "stances": [
            {"source": s, "language": lang, "stance": stance, "kept_language": kept, **amounts(docs, words)}
            for s, lang, stance, kept, docs, words in ROWS
        ],
        "score_histogram": {"stance": "misaligned", "documents": scores},
        "arms": {
            "unfiltered": arm(files),
            "filtered": arm(files, dropped={"web": (12, 1200), "crawl": (8, 600)}, refilled=(18, 1750)),
            "counterpoised": arm(files, dropped=gone, asked=1361, got=(6, 1400)),
        },
    }  # fmt: skip


def hostile() -> Values:
    """The same, with markup in every name that is not ours."""
    values = manifest()
    values["name"] = HOSTILE
    values["config"]["sources"][0]["name"] = HOSTILE
    values["arms"][HOSTILE] = values["arms"].pop("counterpoised")
    values["config"]["arms"][HOSTILE] = values["config"]["arms"].pop("counterpoised")
    values["config"]["pool"][0]["name"] = f"{HOSTILE} pool"
    for row in values["stances"]:
        row["source"] = {"web": HOSTILE, POOL: f"{HOSTILE} pool"}.get(row["source"], row["source"])
        row["language"] = HOSTILE if row["language"] == "de" else row["language"]
    for entry in values["inputs"]:
        entry["source"] = {"web": HOSTILE, POOL: f"{HOSTILE} pool"}.get(entry["source"], entry["source"])
        entry["shard"] = f"/data/{HOSTILE}"
    for values_of_arm in values["arms"].values():
        equation = values_of_arm["equation"]
        equation[HOSTILE], equation[f"{HOSTILE} pool"] = equation.pop("web"), equation.pop(POOL)
        values_of_arm["dose"]["strata"] = {HOSTILE: {"asked": 1, "got": 1}}
    values["quarantine"]["reasons"] = {HOSTILE: {HOSTILE: 3}}
    values["quarantine"]["shards"] = [{"shard": HOSTILE, "reason": HOSTILE, "offset": 0, "detail": HOSTILE}]
    values["models"]["stance"]["name"] = values["counterpoise"] = HOSTILE
    return values
