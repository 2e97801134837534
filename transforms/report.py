"""The report of a finished build, and its dataset card: pure functions of the manifest.

The page is one file that asks for nothing else: its style, its script, its numbers and, packed, the plotting library.
Every string of the manifest is untrusted; the template engine escapes them all, and a policy in the page lets a browser
run no script but the two whose hashes it names, and fetch nothing.
"""

import base64
import functools
import gzip
import hashlib
import importlib.resources
import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import jinja2
import yaml

from transforms import figures, findings
from transforms.card import dataset_card as dataset_card
from transforms.card import describe_arm, number, percent
from transforms.findings import TERMS_OUT, Manifest
from transforms.schema import STANCES, UNKNOWN

SHARDS_LISTED: Final = 200  # of those that were left out; the manifest has them all
_CONFIG_SHOWN: Final = 40_000  # characters of the configuration; a list of paths can be longer than the page


class Library(NamedTuple):
    """The plotting library as the page carries it: gzip in base64, and the hash that a browser checks."""

    packed: str
    integrity: str
    version: str


@functools.lru_cache(maxsize=1)
def plotting_library() -> Library | None:
    """Plotly's script, or None where it is not installed: a report without charts still has every number."""
    try:
        from plotly import __version__ as version  # type: ignore[import-untyped]
        from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]
    except ImportError:
        return None
    script = get_plotlyjs().encode()
    packed = base64.b64encode(gzip.compress(script, 9, mtime=0)).decode()
    return Library(packed, integrity(script), version)


def integrity(script: bytes) -> str:
    """A script's hash in the form of a content security policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script).digest()).decode()


@functools.lru_cache(maxsize=1)
def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
                                     lstrip_blocks=True, keep_trailing_newline=True)  # fmt: skip
    environment.filters |= {"n": number, "pct": percent, "join_words": ", ".join}
    return environment.from_string(_asset("report_page.html.j2"))


def _asset(name: str) -> str:
    return importlib.resources.files("transforms").joinpath(name).read_text(encoding="utf-8")


# --- the page ---


def _books(manifest: Manifest) -> dict[str, Any]:
    """Every line of the equation by arm, how many there are, and how many close."""
    arms, lines, off = {}, 0, 0
    for name, arm in manifest["arms"].items():
        read, written = findings.equations(manifest, arm)
        arms[name] = {"read": read, "written": written}
        lines += len(read) + len(written)
        off += sum(bool(e.off) for e in (*read, *written))
    return {"arms": arms, "lines": lines, "closed": lines - off}


def _dosed(manifest: Manifest) -> dict[str, dict[str, Any]]:
    """Every arm with a dose, and what there is to say of it."""
    out = {}
    for name, arm in manifest["arms"].items():
        spec = manifest["config"]["arms"][name]
        if not spec.get("dose"):
            continue
        parts = findings.parts_of(manifest, name)
        out[name] = {
            "dose": arm["dose"],
            "met": findings.dose_is_met(manifest, arm),
            "parts": len(parts),
            "stretches": findings.stretches(parts),
            "widest": findings.widest(parts),
            "max_repeats": spec.get("max_repeats", 4),
            "asked_share": _share(arm["dose"]["asked"], arm["dose"]["base"]),
        }
    return out


def _share(amount: int, base: int) -> float:
    return amount / (amount + base) if amount else 0.0


def _flagged(manifest: Manifest) -> dict[str, Any]:
    """How many of the documents that stay are flagged, and what the histogram says at round thresholds."""
    first = next(iter(manifest["arms"].values()))
    totals = findings.stance_totals(manifest, findings.base_terms(first), "documents")
    scored = sum(totals.values()) - totals[UNKNOWN]
    bins = findings.histogram(manifest)
    steps = [(k / 16, findings.flagged_from(bins, len(bins) * k // 16)) for k in range(1, 16)] if any(bins) else []
    return {
        "documents": totals["misaligned"],
        "scored": scored,
        "share": totals["misaligned"] / scored if scored else 0.0,
        "threshold": manifest["thresholds"].get("misaligned"),
        "bins": bins,
        "steps": steps,
        "in_bins": sum(bins),
    }


def _pools(manifest: Manifest) -> dict[str, dict[str, Any]]:
    out = {}
    for pool in findings.pools_of(manifest):
        documents = findings.stance_totals(manifest, [pool], "documents")
        scored = sum(documents[s] for s in STANCES)
        out[pool] = {
            "documents": documents,
            "total": sum(documents.values()),
            "amount": sum(findings.stance_totals(manifest, [pool], manifest["unit"]).values()),
            "scored": scored,
            "agreement": documents["aligned"] / scored if scored else 0.0,
        }
    return out


def _charts(manifest: Manifest, dosed: Mapping[str, Any], flagged: Mapping[str, Any], pools: Mapping[str, Any]) -> Any:
    """Every chart of the page, by the id of its place."""
    units, unit, arms = findings.units_of(manifest), manifest["unit"], manifest["arms"]
    charts = {"stances": figures.composition(manifest, unit)}
    for index, (name, arm) in enumerate(arms.items()):
        charts[f"flow-{index}"] = figures.sankey(findings.flows(manifest, arm), units)
        if name in dosed:
            charts[f"dose-{index}"] = figures.dose(findings.parts_of(manifest, name), unit)
            charts[f"strata-{index}"] = figures.strata(arm["dose"]["strata"], unit)
    if any(flagged["bins"]):
        charts["scores"] = figures.scores(flagged["bins"], flagged["threshold"])
    if pools:
        charts["intent"] = figures.intent({name: pool["documents"] for name, pool in pools.items()})
    return charts


def _config_yaml(manifest: Manifest) -> tuple[str, bool]:
    text = yaml.safe_dump(_plain(manifest["config"]), sort_keys=False, allow_unicode=True, width=110)
    return (text, True) if len(text) <= _CONFIG_SHOWN else (text[:_CONFIG_SHOWN], False)


def _plain(value: Any) -> Any:
    """The same value without anything that only Python knows."""
    return json.loads(json.dumps(value))


def html_report(manifest: Manifest) -> str:
    """A self-contained page: what came in, what was changed, and why to trust it; the same bytes each time."""
    library, script = plotting_library(), _asset("report_page.js")
    dosed, flagged, pools = _dosed(manifest), _flagged(manifest), _pools(manifest)
    charts = _charts(manifest, dosed, flagged, pools) if library else {}
    rows, (config, config_is_whole) = findings.stance_rows(manifest), _config_yaml(manifest)
    hashes = [integrity(script.encode()), *([library.integrity] if library else [])]
    return _template().render(
        m=manifest,
        unit=manifest["unit"],
        units=findings.units_of(manifest),
        style=_asset("report_page.css"),
        script=script,
        policy=" ".join(f"'{h}'" for h in hashes),
        library=library,
        charts=charts,
        described={name: describe_arm(spec, manifest["unit"]) for name, spec in manifest["config"]["arms"].items()},
        books=_books(manifest),
        terms_out=TERMS_OUT,
        term=findings.term,
        flows={name: findings.flows(manifest, arm) for name, arm in manifest["arms"].items()},
        node_name=figures.node_name,
        labels=figures.LABELS,
        rows=rows,
        row_groups={s: [r for r in rows if r.source == s] for s in dict.fromkeys(r.source for r in rows)},
        dosed=dosed,
        flagged=flagged,
        pools=pools,
        pool_stances=(*STANCES, UNKNOWN),
        inputs=findings.inputs_by_source(manifest),
        inputs_sha256=findings.inputs_sha256(manifest),
        shards_listed=SHARDS_LISTED,
        config=config,
        config_is_whole=config_is_whole,
    )
