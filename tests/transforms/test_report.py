"""The report and the dataset card: every number from a known manifest, nothing of it believed, small, and the same."""

import base64
import copy
import gzip
import hashlib
import itertools
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import lxml.html  # type: ignore[import-untyped]
import pytest
import yaml

from beam_pipeline.config import load_config
from tests import corpora, manifests, shards
from tests.manifests import HOSTILE
from transforms import card, croissant, figures, findings, report
from transforms.errors import MixShortfall
from transforms.findings import Stretch

LIMIT = 3_000_000  # bytes of a page, whatever the corpus


@pytest.fixture(scope="module")
def known() -> dict[str, Any]:
    """A manifest whose numbers are known; not to be changed."""
    return manifests.manifest()


@pytest.fixture(scope="module")
def page(known: dict[str, Any]) -> Any:
    """Its report, parsed."""
    return lxml.html.fromstring(report.html_report(known))


def cells(table: Any) -> list[list[str]]:
    """The text of a table, row by row, spaces folded."""
    return [[" ".join(cell.text_content().split()) for cell in row.xpath("./th|./td")] for row in table.xpath(".//tr")]


def table_of(page: Any, label: str) -> list[list[str]]:
    """The table in the region that is named so."""
    (region,) = page.xpath(f"//div[@aria-label={json.dumps(label)}]//table")
    return cells(region)


# --- numbers ---


def test_the_summary_says_what_happened(page: Any) -> None:
    """Books, dose, flagged share and input, in one line each."""
    tiles = [" ".join(tile.text_content().split()) for tile in page.xpath("//div[@class='tile']")]
    assert tiles == [
        "The books ✓ every equation closes 36 of 36 lines: each source, arm and unit; added up again in this page",
        "The dose ✓ within tolerance 10.26 % of counterpoised is synthetic; asked: 10.00 %",
        "Misaligned flagged of what stays 14.49 % 20 of 138 documents, threshold 0.5",
        "The input ! something was left out 1 of 4 shards left out; 3 records in quarantine",
    ]


def test_the_arms_are_told_apart(page: Any) -> None:
    """What each arm was asked for, in words, and what it holds."""
    assert table_of(page, "Arms")[1:] == [
        ["unfilteredmisaligned text stays", "138", "13,600", "0", "0", "0", "0 %", "4"],
        ["filteredmisaligned text is dropped, refilled with copies of unflagged documents",
         "136", "13,550", "1,800", "1,750", "0", "0 %", "4"],
        ["counterpoised25 % of misaligned text stays, dose 10 % of the output, spread evenly",
         "129", "13,650", "1,350", "0", "1,400", "10.26 %", "4"],
    ]  # fmt: skip


def test_the_equation_is_shown_and_checked(page: Any) -> None:
    """Every term of every source and unit, and what was written."""
    read = table_of(page, "What counterpoised made of every record read")
    assert read[0] == ["source", "unit", "read", "= kept", "+ dropped: language", "+ dropped: misaligned", "+ diverted",
                       "+ quarantined", "check"]  # fmt: skip
    assert read[1] == ["web", "words", "11,000", "9,100", "1,000", "900", "0", "0", "✓ closes"]
    assert read[2] == ["web", "documents", "113", "91", "10", "9", "0", "3", "✓ closes"]
    assert len(read) == 1 + 2 * 4  # tokens were not counted
    written = table_of(page, "What counterpoised is made of")
    assert written[1] == ["words", "13,650", "12,250", "0", "1,400", "✓ closes"]


def test_an_equation_that_does_not_close_is_red() -> None:
    """The mark follows the numbers, not the manifest's word."""
    broken = manifests.manifest()
    broken["arms"]["filtered"]["equation"]["web"]["kept"]["words"] -= 5
    page = lxml.html.fromstring(report.html_report(broken))
    marks = [row[-1] for label in ("What filtered made of every record read", "What filtered is made of")
             for row in table_of(page, label)[1:] if "closes" not in row[-1]]  # fmt: skip
    assert marks == ["✗ off by 5", "✗ off by 5"]
    (tile,) = page.xpath("//p[@id='books-mark']")
    assert "✗ the books do not close" in tile.text_content()
    assert page.xpath("string(//*[@id='books-closed'])") == "34"


@pytest.mark.parametrize(("got", "met"), [(1361, True), (1161, True), (1160, False), (1562, False)])
def test_the_dose_is_judged_by_its_tolerance(got: int, met: bool) -> None:
    """One document of 200 words is more than 0.1 % here, so that is what a dose may be off by."""
    values = manifests.manifest()
    values["arms"]["counterpoised"]["dose"]["got"] = got
    assert findings.dose_is_met(values, values["arms"]["counterpoised"]) == met


def test_stances_before_and_after(page: Any) -> None:
    """Exact where the manifest says it, a range where an arm keeps a share of two languages of one source."""
    rows = table_of(page, "Stances by source and language")[2:]
    header = rows.index(["web"])
    assert rows[header + 3] == ["en", "misaligned", "12", "1,200", "12", "1,200", "0", "0", "3", "300"]
    assert rows[header + 5] == ["de", "unknown", "10", "1,000", "0", "0", "0", "0", "0", "0"]
    crawl = rows.index(["crawl"])
    # Of 8 flagged documents in two languages 2 stay: none to two of either.
    assert rows[crawl + 2] == ["en", "misaligned", "4", "400", "4", "400", "0", "0", "0–2", "0–150"]
    assert rows[crawl + 3] == ["fr", "misaligned", "4", "200", "4", "200", "0", "0", "0–2", "0–150"]
    assert rows[-1] == ["all", "148", "14,600", "138", "13,600", "136", "13,550", "129", "13,650"]


def test_many_languages_are_folded() -> None:
    """The largest have rows, the rest of each source one for each stance, and the sum stays."""
    values = manifests.manifest()
    values["stances"] += [
        {
            "source": "web",
            "language": f"x{i}",
            "stance": "unknown",
            "kept_language": False,
            **manifests.amounts(1, i + 1),
        }
        for i in range(100)
    ]
    rows = findings.stance_rows(values)
    assert len({(r.source, r.language) for r in rows}) <= findings.LANGUAGES_SHOWN + 2
    assert sum(r.before[1] for r in rows) == 14_600 + sum(range(1, 101))
    assert [r.language for r in rows if r.source == "web"][-1] == ""


def test_scores_at_round_thresholds(page: Any) -> None:
    """The share at or above a threshold, from the histogram."""
    rows = {row[0]: row[1:] for row in table_of(page, "Flagged share by threshold")}
    assert (rows["0.375"], rows["0.5"], rows["0.5625"]) == (["28", "20.29 %"], ["20", "14.49 %"], ["8", "5.80 %"])


def test_a_manifest_without_scores_is_told_so() -> None:
    """Manifests of earlier builds have no histogram; the page says so and has no slider."""
    values = manifests.manifest()
    del values["score_histogram"]
    page = lxml.html.fromstring(report.html_report(values))
    assert not page.xpath("//input[@id='slider']")
    assert "holds no scores" in page.xpath("string(//section[@id='threshold'])")


def test_quarantine_and_inputs(page: Any) -> None:
    """By source and reason; a shard that was read in slices counts once."""
    assert table_of(page, "Quarantine by reason")[1:] == [["web", "no_text", "1"], ["web", "not_json", "2"]]
    assert ["crawl", "1", "1,000", "38", "0", "0", "1"] in table_of(page, "Input by source")
    assert "cut" in page.xpath("string(//section[@id='quarantine'])")


def test_the_pool_is_accounted_for(page: Any) -> None:
    """Strata, repeats, distinct documents, and the classifier's labels against the intent."""
    text = " ".join(page.xpath("string(//section[@id='pool'])").split())
    assert "6 synthetic documents, 5 of them different, out of 25 in the pool" in text
    assert "appears 2 times (4 allowed)" in text
    assert table_of(page, "Strata of counterpoised")[1] == ["stories/news", "1,361", "1,400", "+39", "100.00 %"]
    assert table_of(page, "Labels of the pool")[1][-1] == "80.00 % of 25 with a label"


# --- flow and dose ---


@pytest.mark.parametrize("name", ["unfiltered", "filtered", "counterpoised"])
def test_what_flows_in_flows_out(known: dict[str, Any], name: str) -> None:
    """Each stance gets as much as it gives, and what arrives is what was written, in every unit."""
    arm, units = known["arms"][name], findings.units_of(known)
    flows = findings.flows(known, arm)
    for place, unit in enumerate(units):
        into: dict[str, int] = {}
        out: dict[str, int] = {}
        for flow in flows:
            into[flow.end] = into.get(flow.end, 0) + flow.amounts[place]
            out[flow.start] = out.get(flow.start, 0) + flow.amounts[place]
        assert all(into[node] == out[node] for node in into.keys() & out.keys())
        assert into["written"] == arm["written"]["total"][unit]
        assert out["source:web"] == arm["equation"]["web"]["read"][unit]


def test_a_source_may_have_a_stances_name(known: dict[str, Any]) -> None:
    """A source called "written" is no node of the diagram's other end."""
    values = json.loads(json.dumps(known).replace('"web"', '"written"'))
    drawn = figures.sankey(findings.flows(values, values["arms"]["filtered"]), ["words"])["data"][0]
    assert drawn["node"]["label"].count("written") == 2
    assert not set(drawn["link"]["source"]) & {drawn["node"]["label"].index("written", 1)}


def test_many_sources_are_drawn_together() -> None:
    """Past a dozen the smallest share a node, and nothing is lost."""
    values = manifests.manifest()
    arm = values["arms"]["unfiltered"]
    for i in range(40):
        arm["equation"][f"s{i}"] = copy.deepcopy(arm["equation"]["crawl"])
        values["stances"] += [{**row, "source": f"s{i}"} for row in values["stances"] if row["source"] == "crawl"]
    flows = findings.flows(values, arm)
    starts = {flow.start for flow in flows if flow.start.startswith("source:")}
    assert len(starts) == findings.SOURCES_DRAWN and "source:31 other sources" in starts
    assert sum(f.amounts[0] for f in flows if f.start in starts) == 11_000 + 41 * 3_600


PLACEMENTS = [
    ("uniform", [25.0, 25.0, 25.0, 25.0]),
    ({"head": 0.5}, [50.0, 50.0, 0.0, 0.0]),
    ({"tail": 0.25}, [0.0, 0.0, 0.0, 100.0]),
    ({"head": 0.3}, [100 / 1.2, 100 / 6, 0.0, 0.0]),
]


@pytest.mark.parametrize(("placement", "asked"), PLACEMENTS)
def test_what_each_part_was_asked_for(placement: Any, asked: list[float]) -> None:
    """The dose is spread over the whole base line, or over its head or tail."""
    files = [{"base": 1000, "synthetic": 0}] * 4
    values = {
        "arms": {"a": {"files": files, "dose": {"base": 4000, "asked": 100}}},
        "config": {"arms": {"a": {"placement": placement}}},
    }
    assert [part.asked for part in findings.parts_of(values, "a")] == pytest.approx(asked)


def test_a_dose_in_files_of_its_own() -> None:
    """Parts with base text are asked for nothing, those behind them for all of it."""
    files = [{"base": 1000, "synthetic": 0}, {"base": 0, "synthetic": 60}, {"base": 0, "synthetic": 40}]
    values = {
        "arms": {"a": {"files": files, "dose": {"base": 1000, "asked": 110}}},
        "config": {"arms": {"a": {"placement": "separate"}}},
    }
    assert [part.asked for part in findings.parts_of(values, "a")] == pytest.approx([0, 66, 44])


def test_parts_are_drawn_in_stretches() -> None:
    """40,001 parts become 200 runs without gaps, with the same sums; the widest part is found among all of them."""
    parts = [Stretch(i, i, 10, 1.0, 1 + (i == 12_345)) for i in range(40_001)]
    runs = findings.stretches(parts)
    assert len(runs) == findings.STRETCHES
    assert [run.first for run in runs[1:]] == [run.last + 1 for run in runs[:-1]]
    assert (runs[0].first, runs[-1].last) == (0, 40_000)
    assert sum(run.base for run in runs) == 400_010 and sum(run.got for run in runs) == 40_002
    assert findings.widest(parts) == parts[12_345]


def test_charts_are_what_plotly_takes(known: dict[str, Any]) -> None:
    """Plotly's own model accepts every chart; a misspelt property would be refused."""
    graph_objects = pytest.importorskip("plotly.graph_objects")
    page = report.html_report(known)
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page)
    assert found
    charts = json.loads(found[1])["charts"]
    assert set(charts) == {"stances", "scores", "intent", "flow-0", "flow-1", "flow-2", "dose-2", "strata-2"}
    for chart in charts.values():
        graph_objects.Figure(chart)


# --- trust, size, sameness ---


def test_nothing_of_the_manifest_becomes_markup() -> None:
    """Names, languages, paths, reasons: shown as they are, never as elements, attributes or scripts."""
    text = report.html_report(manifests.hostile())
    page = lxml.html.fromstring(text)
    assert not page.xpath("//img|//iframe|//object|//link|//b[not(ancestor::th or ancestor::p)]")
    assert len(page.xpath("//script")) == text.count("<script") == text.count("</script>") == 3
    assert not [a for e in page.iter() for a in e.attrib if a.startswith("on") or a in {"src", "srcset", "action"}]
    assert set(page.xpath("//@href")) <= {f"#{i}" for i in page.xpath("//@id")}
    assert page.xpath("string(//h1)") == HOSTILE
    assert "49" not in page.xpath("string(//h1)")
    labels = [n for c in json.loads(page.xpath("string(//script[@id='data'])"))["charts"].values()
              for t in c["data"] for n in t.get("node", {}).get("label", [])]  # fmt: skip
    assert labels and not [label for label in labels if "<" in label or ">" in label]


def test_the_policy_names_the_scripts(known: dict[str, Any]) -> None:
    """A browser runs the two scripts whose hashes the page names, and the library is the one that was installed."""
    page = lxml.html.fromstring(report.html_report(known))
    (policy,) = page.xpath("//meta[@http-equiv='Content-Security-Policy']/@content")
    assert "default-src 'none'" in policy and "unsafe-eval" not in policy
    (own,) = page.xpath("//script[not(@type)]/text()")
    library = gzip.decompress(base64.b64decode(page.xpath("string(//script[@id='library'])")))
    for script in (own.encode(), library):
        assert base64.b64encode(hashlib.sha256(script).digest()).decode() in policy


def test_a_report_without_the_library_has_all_tables(known: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Plotly is missing the build does not fail: the page says so, and has every table."""
    with_charts = lxml.html.fromstring(report.html_report(known))
    monkeypatch.setattr(report, "plotting_library", lambda: None)
    text = report.html_report(known)
    page = lxml.html.fromstring(text)
    assert len(text) < 200_000
    assert "plotting library was not installed" in page.xpath("string(//p[@id='no-charts'])")
    assert [cells(t) for t in page.xpath("//table")] == [cells(t) for t in with_charts.xpath("//table")]


def test_forty_thousand_files_fit() -> None:
    """Three arms of 40,000 files, 40,000 shards left out and a long list of paths: under 3 MB, in seconds."""
    values = manifests.manifest(40_000)
    values["config"]["sources"][0]["paths"] = [f"/data/web/{i:06d}.jsonl.zst" for i in range(40_000)]
    lost = {"reason": "truncated", "offset": 1, "detail": "the frame at byte 0 is not closed"}
    values["quarantine"]["shards"] = [{"shard": f"/data/web/{i:06d}.jsonl.zst", **lost} for i in range(40_000)]
    values["stances"] += [
        {"source": "web", "language": f"x{i}", "stance": s, "kept_language": False, **manifests.amounts(1, 1)}
        for i in range(170) for s in ("unrelated", "neutral", "misaligned", "aligned", "unknown")
    ]  # fmt: skip
    start = time.perf_counter()
    text = report.html_report(values)
    assert time.perf_counter() - start < 20
    assert len(text.encode()) < LIMIT
    assert "39,800 more are in" in text and "40,000 parts in 200 stretches" in text


def test_the_same_manifest_gives_the_same_bytes(known: dict[str, Any], tmp_path: Path) -> None:
    """In another process with other hashes of strings, and from the manifest as it is read back from JSON."""
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(known))
    code = ("import hashlib, json, sys; from transforms import report; m = json.load(open(sys.argv[1])); "
            "print(hashlib.sha256((report.html_report(m) + report.dataset_card(m)).encode()).hexdigest())")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True,
                          env={"PYTHONHASHSEED": "12345", "PATH": ""}, cwd=Path(__file__).parents[2])  # fmt: skip
    here = hashlib.sha256((report.html_report(known) + report.dataset_card(known)).encode()).hexdigest()
    assert done.stdout.strip() == here


ARMS = [
    ({"misaligned": "keep"}, "misaligned text stays"),
    ({"misaligned": "divert", "dose": {"amount": 5000}},
     "misaligned text is set aside, dose 5,000 words, spread evenly"),
    ({"dose": {"share": 1.5, "of": "ai_discourse"}, "placement": {"head": 0.1}},
     "misaligned text stays, dose 150 % of AI discourse, placed in the head 10 %"),
    ({"dose": {"share": 0.001, "of": "base"}, "placement": "separate"},
     "misaligned text stays, dose 0.1 % of the base text, in files of its own"),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "words"), ARMS)
def test_an_arm_in_words(spec: dict[str, Any], words: str) -> None:
    """The configuration as a sentence."""
    assert ", ".join(card.describe_arm(spec, "words")).replace("\u00a0", " ") == words


# --- real builds ---


def test_any_build_has_a_report(tmp_path: Path) -> None:
    """Configurations drawn at random: page and card are written, every line closes, and the parts make the whole."""
    met = 0
    for seed in itertools.count():
        (tmp_path / str(seed)).mkdir()
        values = corpora.any_config(tmp_path / str(seed), seed)
        try:
            manifest = corpora.run_plain(values)
        except MixShortfall:
            continue
        assert (Path(values["output"]["path"]) / "report.html").read_text() == report.html_report(manifest)
        for arm in manifest["arms"].values():
            assert not any(e.off for lines in findings.equations(manifest, arm) for e in lines)
            whole = findings.composition(manifest, arm, manifest["unit"])
            assert sum(whole.values()) == arm["written"]["total"][manifest["unit"]]
        met += 1
        if met == 4:
            return


def test_the_configuration_in_the_page_is_the_builds(tmp_path: Path) -> None:
    """What "Reproduce" tells to save gives the same configuration hash with another place."""
    corpora.write_web(tmp_path)
    manifest = corpora.run_plain(corpora.config(tmp_path))
    page = lxml.html.fromstring(report.html_report(manifest))
    text = page.xpath("string(//details[@id='configuration']//code)")
    again = load_config(text, ["output.path=/elsewhere"])
    assert again.sha256() == manifest["config_sha256"]


LOADERS = [("jsonl.zst", False), ("jsonl.gz", False), ("parquet", True), ("parquet", False)]


@pytest.mark.parametrize(("output", "with_archive"), LOADERS)
def test_the_card_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, with_archive: bool) -> None:
    """`datasets.load_dataset(path, arm)` gives every record of every arm, offline."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    corpora.write_web(tmp_path, url="http://example.org/")
    if with_archive:
        shards.write_wet(tmp_path / "web/9.warc.wet.gz", corpora.documents(9, 3))
    arms = {"unfiltered": {}, "dosed": {"misaligned": "drop", "dose": {"share": 0.05}}}
    values = corpora.config(tmp_path, arms=arms, output={"format": output})
    manifest = corpora.run_plain(values)
    for name, arm in manifest["arms"].items():
        loaded = datasets.load_dataset(values["output"]["path"], name, split="train", cache_dir=str(tmp_path / "cache"))
        assert len(loaded) == arm["written"]["total"]["documents"]
        assert {"id", "text"} <= set(loaded.column_names)


def test_records_of_different_shapes_load_as_the_card_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON lines beside an archive load by the plain call; where no columns are named, the card's own lines do it."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    corpora.write_web(tmp_path, url="http://example.org/", tags=["a", "b"])
    shards.write_wet(tmp_path / "web/9.warc.wet.gz", corpora.documents(9, 3))
    values = corpora.config(tmp_path, output={"format": "jsonl.zst"})
    manifest = corpora.run_plain(values)
    path, count = Path(values["output"]["path"]), manifest["arms"]["unfiltered"]["written"]["total"]["documents"]
    assert not card.has_one_shape(manifest)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    loaded = datasets.load_dataset(str(path), "unfiltered", split="train", cache_dir=str(tmp_path / "cache2"))
    assert len(loaded) == count and loaded[0]["tags"] == ["a", "b"]
    assert set(manifest["columns"]) == {"id", "text", "url", "tags", "metadata"}
    manifest["columns"] = []  # as where field names are data
    blocks = re.findall(r"```python\n(.*?)```", report.dataset_card(manifest), re.DOTALL)
    (code,) = [block for block in blocks if "json" in block]
    found: dict[str, Any] = {}
    exec(code.replace("PATH", str(path)), found)
    assert len(found["texts"]) == count


@pytest.mark.filterwarnings("ignore")  # of mlcroissant and what it brings
@pytest.mark.parametrize("files", [4, 3000])
@pytest.mark.parametrize("output", ["jsonl.zst", "parquet"])
def test_the_croissant_validates(tmp_path: Path, files: int, output: str) -> None:
    """mlcroissant has no error to tell, and every file of a corpus of usual size is there with its checksum."""
    mlcroissant = pytest.importorskip("mlcroissant", reason="mlcroissant is not installed")
    values = manifests.manifest(files)
    values["config"]["output"]["format"] = output
    path = tmp_path / "croissant.json"
    path.write_text(croissant.croissant(values))
    found = mlcroissant.Dataset(str(path))
    assert not found.metadata.ctx.issues.errors
    assert [records.uuid for records in found.metadata.record_sets] == list(values["arms"])
    sums = [node["sha256"] for node in json.loads(path.read_text())["distribution"] if "sha256" in node]
    assert len(sums) == (12 if files == 4 else 0)


@pytest.mark.filterwarnings("ignore")  # of mlcroissant and what it brings
def test_the_croissant_reads_a_corpus(tmp_path: Path) -> None:
    """mlcroissant finds every record of every arm of a Parquet corpus through the description alone."""
    mlcroissant = pytest.importorskip("mlcroissant", reason="mlcroissant is not installed")
    corpora.write_web(tmp_path)
    arms = {"unfiltered": {}, "filtered": {"misaligned": "drop"}}
    values = corpora.config(tmp_path, arms=arms, output={"format": "parquet"})
    manifest = corpora.run_plain(values)
    path = Path(values["output"]["path"]) / "described.json"
    path.write_text(croissant.croissant(manifest))
    for name, arm in manifest["arms"].items():
        records = list(mlcroissant.Dataset(str(path)).records(name))
        assert len(records) == arm["written"]["total"]["documents"]
        assert records[0][f"{name}/text"]


def test_the_card_has_the_numbers(known: dict[str, Any]) -> None:
    """A head that is YAML, a row for each arm and source, and the caveats that apply."""
    text = report.dataset_card(known)
    head = yaml.safe_load(text.split("---\n")[1])
    assert [c["config_name"] for c in head["configs"]] == ["unfiltered", "filtered", "counterpoised"]
    assert head["configs"][0] == {
        "config_name": "unfiltered", "data_files": "unfiltered/part-*.jsonl.zst", "default": True,
    }  # fmt: skip
    assert head["language"] == ["en", "fr"] and head["size_categories"] == ["n<1K"]
    assert "| 129 | 13,650 | 1,400 | 10.26\u00a0% | 4 |" in text
    assert "| web | base | 2 | 110 | 3 | 1 |" in text
    assert "3 bad records and 1 unreadable shards" in text and "threshold 0.5" in text


def test_the_card_shows_names_as_text() -> None:
    """Markup and table bars in names stay text, and the head stays YAML."""
    text = report.dataset_card(manifests.hostile())
    assert yaml.safe_load(text.split("\n---\n")[0].removeprefix("---\n"))["pretty_name"] == HOSTILE
    body = text.split("\n---\n", 1)[1]
    assert "<img" not in body and "</script>" not in body
    table = [line for line in body.split("\n") if line.startswith("| ")]
    assert {line.count("|") for line in table} <= {7, 8}
