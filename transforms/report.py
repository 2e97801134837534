"""What a finished build shows: the dataset card and the report, both pure functions of the manifest."""

import html
import json
from collections.abc import Mapping
from typing import Any

import yaml


def dataset_card(manifest: Mapping[str, Any]) -> str:
    """README.md of a corpus: a YAML head from which `datasets.load_dataset(path, arm)` works, then a table."""
    suffix = (
        "parquet" if manifest["config"]["output"]["format"] == "parquet" else manifest["config"]["output"]["format"]
    )
    head = {
        "pretty_name": manifest["name"],
        "configs": [
            {"config_name": arm, "data_files": f"{arm}/part-*.{suffix}", **({"default": True} if i == 0 else {})}
            for i, arm in enumerate(manifest["arms"])
        ],
    }
    unit = manifest["unit"]
    lines = [
        "---",
        yaml.safe_dump(head, sort_keys=False).strip(),
        "---",
        "",
        f"# {manifest['name']}",
        "",
        f"Rebalanced by Counterpoise {manifest['counterpoise']}; configuration `{manifest['config_sha256'][:16]}`.",
        "",
        f"| arm | documents | {unit} | synthetic {unit} | share of output | files |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, arm in manifest["arms"].items():
        total, dose = arm["written"]["total"], arm["dose"]
        lines.append(
            f"| {name} | {total['documents']:,} | {total[unit]:,} | {dose['got']:,} | "
            f"{dose['share_of_output']:.4%} | {len(arm['files'])} |"
        )
    lines += [
        "",
        "```python",
        "from datasets import load_dataset",
        f'load_dataset("PATH", "{next(iter(manifest["arms"]))}")',
        "```",
        "",
        "`manifest.json` holds every number and checksum; `counterpoise verify PATH` recomputes them. Row i of",
        "`<arm>/provenance/part-….parquet` describes record i of the part of the same name. The licences are those of",
        "the sources and of the pool.",
        "",
    ]
    return "\n".join(lines)


def html_report(manifest: Mapping[str, Any]) -> str:
    """A self-contained page with the equation of every arm."""
    rows = []
    for name, arm in manifest["arms"].items():
        for source, terms in arm["equation"].items():
            for term, amounts in terms.items():
                cells = "".join(f"<td>{value:,}</td>" for value in amounts.values())
                rows.append(
                    f"<tr><td>{html.escape(name)}</td><td>{html.escape(source)}</td><td>{term}</td>{cells}</tr>"
                )
    units = "".join(f"<th>{unit}</th>" for unit in ("documents", "bytes", "characters", "words", "tokens"))
    return (
        f"<!doctype html><meta charset=utf-8><title>{html.escape(manifest['name'])}</title>"
        f"<h1>{html.escape(manifest['name'])}</h1><table><tr><th>arm</th><th>source</th><th>term</th>{units}</tr>"
        f"{''.join(rows)}</table><pre>{html.escape(json.dumps(manifest['config'], indent=1))}</pre>\n"
    )
