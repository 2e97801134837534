"""The dataset card: README.md of a finished corpus, from which `datasets.load_dataset(path, arm)` works."""

from collections.abc import Mapping
from typing import Any, Final

import yaml

from transforms import findings
from transforms.findings import Manifest

_SIZES: Final = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B",
                 "10B<n<100B", "100B<n<1T", "n>1T")  # fmt: skip


def number(value: float) -> str:
    """12,345; one decimal where it is not whole."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def percent(value: float) -> str:
    """A share as it was counted, to four digits or so: 12.34 %, 0.1234 %, 0 %."""
    digits = 2 if value >= 0.01 else 4 if value >= 0.0001 else 6
    return f"{100 * value:.{digits}f}\u00a0%" if value else "0\u00a0%"


def configured(share: float) -> str:
    """A share as somebody wrote it: 25 %, 0.1 %."""
    return f"{100 * share:.6g}\u00a0%"


def describe_arm(spec: Mapping[str, Any], unit: str) -> list[str]:
    """An arm's configuration in words, one phrase for each thing that is not left as it is."""
    rule = spec.get("misaligned", "keep")
    said = {"keep": "misaligned text stays", "drop": "misaligned text is dropped",
            "divert": "misaligned text is set aside"}  # fmt: skip
    words = [f"{configured(rule['keep'])} of misaligned text stays" if isinstance(rule, Mapping) else said[rule]]
    words += ["refilled with copies of unflagged documents"] if spec.get("refill", "none") != "none" else []
    if dose := spec.get("dose"):
        of = {"ai_discourse": "AI discourse", "base": "the base text"}.get(dose.get("of"), "the output")
        amount = dose.get("amount")
        words.append(f"dose {configured(dose['share'])} of {of}" if amount is None else f"dose {number(amount)} {unit}")
        placement = spec.get("placement", "uniform")
        if isinstance(placement, Mapping):
            words += [f"placed in the {where} {configured(share)}" for where, share in placement.items()]
        else:
            words.append({"uniform": "spread evenly", "separate": "in files of its own"}[placement])
    return words


# --- the head that programs read ---


def _head(manifest: Manifest) -> dict[str, Any]:
    """The YAML of the card; the first arm is the default."""
    arms, output = manifest["arms"], manifest["config"]["output"]["format"]
    keep = manifest["config"]["language"]["keep"]
    largest = max(arm["written"]["total"]["documents"] for arm in arms.values())
    head: dict[str, Any] = {
        "pretty_name": manifest["name"],
        "license": "other",
        "license_name": "see-the-sources",
        **({"language": sorted(keep)} if isinstance(keep, list) and keep else {}),
        "task_categories": ["text-generation"],
        "size_categories": [_SIZES[min(max(len(str(largest)) - 3, 0), len(_SIZES) - 1)]],
        "tags": ["counterpoise", "pretraining", "ai-discourse"],
        "configs": [
            {"config_name": arm, "data_files": f"{arm}/part-*.{output}", **({"default": True} if i == 0 else {})}
            for i, arm in enumerate(arms)
        ],
    }
    if columns := _columns(manifest):
        head["dataset_info"] = [{"config_name": arm, "features": columns} for arm in arms]
    return head


def _columns(manifest: Manifest) -> list[dict[str, str]]:
    """Every field of JSON records with its type, where the manifest names them; else the loader infers them."""
    if has_one_shape(manifest) or not manifest.get("columns"):
        return []
    main = manifest["config"]["sources"][0]
    texts = {main["text"], main["id"] or "id"}
    names = dict.fromkeys([main["id"] or "id", main["text"], *manifest["columns"]])
    return [{"name": name, "dtype": "string" if name in texts else "json"} for name in names if "." not in name]


def has_one_shape(manifest: Manifest) -> bool:
    """Whether all records have the same fields as far as the manifest tells: Parquet, or JSON lines of one kind."""
    if manifest["config"]["output"]["format"] == "parquet":
        return True
    pools, kinds = findings.pools_of(manifest), set()
    for entry in manifest["inputs"]:
        if entry["source"] not in pools and not entry["left_out"]:
            # What is no JSON becomes {"id", "text", "metadata"}; JSON lines keep their own fields.
            kinds.add(entry["source"] if ".jsonl" in entry["shard"].rpartition("/")[2] else "")
    return len(kinds) <= 1


# --- the text that people read ---


def plain(text: Any) -> str:
    """A string of the manifest that can be nothing but text in a Markdown table."""
    out = " ".join(str(text).split())
    for character, written in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "&#124;"), ("`", "&#96;"),
                               ("[", "&#91;"), ("]", "&#93;"), ("*", "&#42;"), ("!", "&#33;")):  # fmt: skip
        out = out.replace(character, written)
    return out


def _arms(manifest: Manifest) -> list[str]:
    unit = manifest["unit"]
    lines = [
        f"| arm | what it is | documents | {unit} | synthetic {unit} | share of output | files |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, arm in manifest["arms"].items():
        total, dose = arm["written"]["total"], arm["dose"]
        words = ", ".join(describe_arm(manifest["config"]["arms"][name], unit))
        lines.append(
            f"| {plain(name)} | {words} | {total['documents']:,} | {total[unit]:,} | {dose['got']:,} | "
            f"{percent(dose['share_of_output'])} | {len(arm['files']):,} |"
        )
    return lines


def _sources(manifest: Manifest) -> list[str]:
    pools = findings.pools_of(manifest)
    lines = ["| source | role | shards | records | in quarantine | shards left out |",
             "| --- | --- | ---: | ---: | ---: | ---: |"]  # fmt: skip
    for name, row in findings.inputs_by_source(manifest).items():
        role = "synthetic" if name in pools else "base"
        lines.append(
            f"| {plain(name)} | {role} | {row['shards']:,} | {row['records']:,} | {row['quarantined']:,} | "
            f"{row['left_out']:,} |"
        )
    return lines


def _loading(manifest: Manifest) -> list[str]:
    arm, output = next(iter(manifest["arms"])), manifest["config"]["output"]["format"]
    lines = ["```python", "from datasets import load_dataset", f'load_dataset("PATH", "{arm}")', "```"]
    if has_one_shape(manifest) or manifest.get("columns"):
        return lines
    text = manifest["config"]["sources"][0]["text"]
    return [
        "Records are the original bytes of sources whose records may have different fields, and `load_dataset` wants",
        "the same fields in all of them. If it complains, take the lines and what you need of each:",
        "",
        "```python",
        "import json",
        "from datasets import load_dataset",
        f'lines = load_dataset("text", data_files="PATH/{arm}/part-*.{output}", split="train")',
        f'texts = lines.map(lambda line: {{"text": json.loads(line["text"])["{text}"]}})',
        "```",
        "",
        "Where they are the same, one line does:",
        "",
        *lines,
    ]


def _caveats(manifest: Manifest) -> list[str]:
    threshold = manifest["thresholds"].get("misaligned")
    model, quarantine = manifest["models"].get("stance", {}), manifest["quarantine"]
    lines = [
        f"- What counts as misaligned is the judgement of a classifier (`{plain(model.get('name', 'default'))}`"
        + (f", threshold {threshold}" if threshold is not None else "")
        + "): some such text is missed, and some other text is taken for it. Text in languages that it does not know "
        "is never flagged.",
        "- Synthetic documents look like the others; only the provenance says which they are.",
    ]
    if any(spec.get("refill", "none") != "none" for spec in manifest["config"]["arms"].values()):
        lines.append("- Refilled arms hold copies of documents; the provenance numbers them (`copy`).")
    if quarantine["records"] or quarantine["shards"]:
        lines.append(
            f"- {quarantine['records']:,} bad records and {len(quarantine['shards']):,} unreadable shards were left "
            "out; `quarantine/records.jsonl.zst` names each."
        )
    return lines


def dataset_card(manifest: Manifest) -> str:
    """README.md of a corpus: a YAML head from which `datasets.load_dataset(path, arm)` works, then what to know."""
    lines = [
        "---",
        yaml.safe_dump(_head(manifest), sort_keys=False, allow_unicode=True).strip(),
        "---",
        "",
        f"# {plain(manifest['name'])}",
        "",
        f"Matched pretraining corpora, rebalanced by Counterpoise {plain(manifest['counterpoise'])} in how they",
        f"portray AI; amounts in {manifest['unit']}, configuration `{manifest['config_sha256'][:16]}`.",
        "",
        *_arms(manifest),
        "",
        "## Loading",
        "",
        *_loading(manifest),
        "",
        "Row i of `<arm>/provenance/part-….parquet` describes record i of the part of the same name: source, shard,",
        "position, origin (base, refill or synthetic), language, stance and scores.",
        "",
        "## Where it comes from",
        "",
        *_sources(manifest),
        "",
        "## Licences",
        "",
        "Each document keeps the licence of its source; Counterpoise adds none. See the sources above, and the pool's",
        "own card for the synthetic documents.",
        "",
        "## Know before use",
        "",
        *_caveats(manifest),
        "",
        "## Proof",
        "",
        "`manifest.json` holds every number and checksum, `report.html` shows them; `counterpoise verify PATH` reads",
        "all files again and recomputes them.",
        "",
    ]
    return "\n".join(lines)
