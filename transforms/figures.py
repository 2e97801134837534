"""The report's charts as Plotly specifications: plain values, the same for the same manifest.

Colours are chosen to keep a contrast of 3:1 and more on light and on dark paper; text and lines of the axes are left to
the page's style sheet, which knows which of the two it is on. Names come from outside, so they are escaped: Plotly
reads a little HTML in labels.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from transforms import findings
from transforms.findings import Flow, Manifest, Stretch

Figure = dict[str, Any]

COLOURS: Final = {
    "unrelated": "#7f8a99",
    "neutral": "#4a80bd",
    "aligned": "#1a9a78",
    "misaligned": "#d9542b",
    "unknown": "#a98a4f",
    "synthetic": "#8a63d2",
    "refilled": "#4f9fae",
    "written": "#5b6675",
    "dropped_language": "#8d8d8d",
    "dropped_misaligned": "#c2402f",
    "diverted": "#b8860b",
    "quarantined": "#a3597f",
    "asked": "#bd8500",
}

LABELS: Final = {
    "refilled": "repeated to refill",
    "dropped_language": "dropped: language",
    "dropped_misaligned": "dropped: misaligned",
}

_FONT: Final = {"family": "ui-sans-serif, system-ui, sans-serif", "size": 13}
_LABEL_LENGTH: Final = 32
BARS: Final = 64  # of the histogram of scores; the slider has finer steps


def label(text: str) -> str:
    """A name as Plotly may show it: shortened, and nothing in it read as markup."""
    text = text if len(text) <= _LABEL_LENGTH else text[: _LABEL_LENGTH - 1] + "…"
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _layout(height: int, **more: Any) -> Figure:
    """What all charts have in common."""
    return {
        "height": height,
        "font": _FONT,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 64, "r": 16, "t": 8, "b": 44},
        "hoverlabel": {"bgcolor": "#1d2530", "bordercolor": "#1d2530", "font": {**_FONT, "color": "#ffffff"}},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "traceorder": "normal"},
        **more,
    }


def _title(text: str) -> Figure:
    """An axis title no larger than the rest."""
    return {"text": text, "font": _FONT, "standoff": 8}


def _tint(colour: str, alpha: float) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def _node_kind(name: str) -> str:
    return name if name in COLOURS else "synthetic" if name.startswith("pool:") else "written"


def node_name(node: str) -> str:
    """What a diagram or a table calls an end of a `Flow`."""
    kind, colon, name = node.partition(":")
    return LABELS.get(node, node) if not colon else name if kind == "source" else f"{name} (pool)"


def sankey(flows: Sequence[Flow], units: Sequence[str]) -> Figure:
    """A diagram of an arm's flows, one trace for each unit; the page shows one at a time."""
    traces = []
    for place, unit in enumerate(units):
        links = [f for f in flows if f.amounts[place]]
        nodes = list(dict.fromkeys(name for f in links for name in (f.start, f.end)))
        traces.append({
            "type": "sankey",
            "name": unit,
            "visible": place == 0,
            "arrangement": "snap",
            "domain": {"x": [0, 1], "y": [0, 1]},
            "valueformat": ",d",
            "valuesuffix": f" {unit}",
            "textfont": _FONT,
            "node": {
                "label": [label(node_name(n)) for n in nodes],
                "color": [COLOURS[_node_kind(n)] for n in nodes],
                "line": {"width": 0},
                "pad": 18,
                "thickness": 14,
                "hovertemplate": "%{label}<br>%{value}<extra></extra>",
            },
            "link": {
                "source": [nodes.index(f.start) for f in links],
                "target": [nodes.index(f.end) for f in links],
                "value": [f.amounts[place] for f in links],
                "color": [_tint(COLOURS[f.kind], 0.38) for f in links],
                "hovertemplate": "%{source.label} → %{target.label}<br>%{value}<extra></extra>",
            },
        })  # fmt: skip
    ends = max(len({f.start for f in flows}), len({f.end for f in flows}), 6)
    return {
        "data": traces,
        "layout": _layout(min(720, 120 + 36 * ends), margin={"l": 4, "r": 4, "t": 12, "b": 16}),
    }


def composition(manifest: Manifest, unit: str) -> Figure:
    """What was read in the languages that stay, and what every arm is made of, as stacked bars."""
    first = next(iter(manifest["arms"].values()))
    read = findings.stance_totals(manifest, findings.base_terms(first), unit)
    rows = {"read": read, **{n: findings.composition(manifest, a, unit) for n, a in manifest["arms"].items()}}
    names = [label(name) for name in rows]
    kinds = [k for k in ("unrelated", "neutral", "aligned", "misaligned", "unknown", "refilled", "synthetic")
             if any(r.get(k) for r in rows.values())]  # fmt: skip
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": LABELS.get(kind, kind),
            "y": list(range(len(names))),
            "x": [r.get(kind, 0) for r in rows.values()],
            "customdata": [[r.get(kind, 0) / (sum(r.values()) or 1)] for r in rows.values()],
            "marker": {"color": COLOURS[kind], "line": {"width": 0}},
            "hovertemplate": f"%{{x:,d}} {unit} (%{{customdata[0]:.2%}})<extra>%{{fullData.name}}</extra>",
        }
        for kind in kinds
    ]
    return {
        "data": traces,
        "layout": _layout(
            120 + 44 * len(names),
            barmode="stack",
            bargap=0.35,
            margin={"l": 8, "r": 16, "t": 8, "b": 44},
            xaxis={"title": _title(unit), "tickformat": "~s", "fixedrange": True, "zeroline": False},
            yaxis={"autorange": "reversed", "tickvals": list(range(len(names))), "ticktext": names, "fixedrange": True,
                   "automargin": True, "ticklabelstandoff": 8},
        ),
    }  # fmt: skip


def scores(bins: Sequence[int], used: float | None) -> Figure:
    """How many documents have which misaligned score; the page moves shape 0 with the slider."""
    wide = max(1, len(bins) // BARS)
    bars = [sum(bins[i : i + wide]) for i in range(0, len(bins), wide)]
    width = 1 / len(bars)
    shapes: list[Figure] = [
        {"type": "rect", "xref": "x", "yref": "paper", "x0": used or 0, "x1": 1, "y0": 0, "y1": 1, "line": {"width": 0},
         "fillcolor": _tint(COLOURS["misaligned"], 0.16), "layer": "below", "name": "flagged"},
    ]  # fmt: skip
    notes = []
    if used is not None and used <= 1:
        shapes.append({"type": "line", "xref": "x", "yref": "paper", "x0": used, "x1": used, "y0": 0, "y1": 1,
                       "line": {"width": 2, "dash": "dot", "color": COLOURS["misaligned"]}})  # fmt: skip
        notes.append({"xref": "x", "yref": "paper", "x": used, "y": 1, "yanchor": "bottom", "showarrow": False,
                      "xanchor": "left" if used < 0.7 else "right", "text": f"used here: {used:.4g}"})  # fmt: skip
    return {
        "data": [{
            "type": "bar",
            "x": [(i + 0.5) * width for i in range(len(bars))],
            "y": bars,
            "width": width,
            "marker": {"color": COLOURS["neutral"], "line": {"width": 0}},
            "hovertemplate": "scores around %{x:.3f}: %{y:,d} documents<extra></extra>",
        }],
        "layout": _layout(
            300,
            margin={"l": 64, "r": 16, "t": 28, "b": 44},
            bargap=0,
            shapes=shapes,
            annotations=notes,
            xaxis={"title": _title("misaligned score"), "range": [0, 1], "fixedrange": True, "zeroline": False},
            yaxis={"title": _title("documents (log)"), "type": "log", "dtick": 1, "fixedrange": True,
                   "tickformat": "~s", "range": [-0.3, _log_top(bars)]},
        ),
    }  # fmt: skip


def _log_top(bins: Sequence[int]) -> float:
    """The upper end of a logarithmic axis for these counts."""
    return len(str(max(bins, default=1))) + 0.1


def dose(parts: Sequence[Stretch], unit: str) -> Figure:
    """The dose along an arm: what every stretch of parts holds, and what it was to hold."""
    shown = findings.stretches(parts)
    middle = [(p.first + p.last) / 2 for p in shown]
    names = [f"part {p.first}" if p.first == p.last else f"parts {p.first}–{p.last}" for p in shown]
    got = [p.share(p.got) for p in shown]
    asked = [p.share(p.asked) for p in shown]
    return {
        "data": [
            {
                "type": "bar",
                "name": "written",
                "x": middle,
                "y": got,
                "customdata": [[n, p.got] for n, p in zip(names, shown, strict=True)],
                "marker": {"color": COLOURS["synthetic"], "line": {"width": 0}},
                "hovertemplate": f"%{{customdata[0]}}: %{{y:.3%}}, %{{customdata[1]:,d}} {unit}<extra>written</extra>",
            },
            {
                "type": "scatter",
                "mode": "lines+markers" if len(shown) <= 60 else "lines",
                "name": "asked",
                "x": middle,
                "y": asked,
                "customdata": [[n, p.asked] for n, p in zip(names, shown, strict=True)],
                "line": {"color": COLOURS["asked"], "width": 3, "shape": "hvh"},
                "marker": {"size": 7},
                "hovertemplate": f"%{{customdata[0]}}: %{{y:.3%}}, %{{customdata[1]:,.1f}} {unit}<extra>asked</extra>",
            },
        ],
        "layout": _layout(
            280,
            bargap=0.15 if len(shown) <= 60 else 0,
            xaxis={"title": _title("part"), "fixedrange": True, "zeroline": False, "tickformat": ",d",
                   **({"tickvals": middle, "ticktext": [str(p.first) for p in shown]} if len(shown) <= 16 else {})},
            yaxis={"title": _title("synthetic share"), "tickformat": ".2~%", "rangemode": "tozero", "fixedrange": True},
        ),
    }  # fmt: skip


def strata(found: Mapping[str, Mapping[str, int]], unit: str) -> Figure:
    """What every stratum of the pool was asked for, and gave."""
    names = [label(name) for name in found]
    return {
        "data": [
            {
                "type": "bar",
                "orientation": "h",
                "name": title,
                "y": list(range(len(names))),
                "x": [s[key] for s in found.values()],
                "marker": {"color": colour, "line": {"width": 0}},
                "hovertemplate": f"%{{x:,d}} {unit}<extra>{title}</extra>",
            }
            for key, title, colour in (("asked", "asked", COLOURS["asked"]), ("got", "written", COLOURS["synthetic"]))
        ],
        "layout": _layout(
            min(720, 110 + 48 * len(names)),
            barmode="group",
            margin={"l": 8, "r": 16, "t": 8, "b": 44},
            xaxis={"title": _title(unit), "tickformat": "~s", "fixedrange": True},
            yaxis={"autorange": "reversed", "tickvals": list(range(len(names))), "ticktext": names, "fixedrange": True,
                   "automargin": True, "ticklabelstandoff": 8},
        ),
    }  # fmt: skip


def intent(totals: Mapping[str, Mapping[str, int]]) -> Figure:
    """How the classifier labels the documents of each pool, all of which are meant to be aligned."""
    names = [label(name) for name in totals]
    order = ("aligned", "neutral", "unrelated", "misaligned", "unknown")
    kinds = [k for k in order if any(t[k] for t in totals.values())]
    return {
        "data": [
            {
                "type": "bar",
                "orientation": "h",
                "name": LABELS.get(kind, kind),
                "y": list(range(len(names))),
                "x": [t[kind] / (sum(t.values()) or 1) for t in totals.values()],
                "customdata": [[t[kind]] for t in totals.values()],
                "marker": {"color": COLOURS[kind], "line": {"width": 0}},
                "hovertemplate": "%{customdata[0]:,d} documents (%{x:.1%})<extra>%{fullData.name}</extra>",
            }
            for kind in kinds
        ],
        "layout": _layout(
            180 + 44 * len(names),
            barmode="stack",
            bargap=0.35,
            margin={"l": 8, "r": 16, "t": 8, "b": 44},
            xaxis={"title": _title("share of the pool's documents"), "tickformat": ".0%", "range": [0, 1],
                   "fixedrange": True},
            yaxis={"autorange": "reversed", "tickvals": list(range(len(names))), "ticktext": names, "fixedrange": True,
                   "automargin": True, "ticklabelstandoff": 8},
        ),
    }  # fmt: skip
