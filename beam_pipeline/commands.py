"""The commands: what each takes and what it does; long work runs on Beam, the rest right here."""

import argparse
import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from beam_pipeline import dated, demo, inspection, leftovers, owner, preflight
from beam_pipeline.config import Config, load_config
from beam_pipeline.options import beam_options, is_local
from beam_pipeline.pipeline import Until, build
from beam_pipeline.preflight import BUILD_RECORD, Preflight
from beam_pipeline.progress import Progress
from beam_pipeline.submit import run_submit, submit_arguments
from beam_pipeline.verify import check
from beam_pipeline.workers import end_process, quiet
from classifiers import calibrate, train
from classifiers.model import STANCES
from classifiers.stance import StanceModel
from transforms.counters import Counter
from transforms.errors import ConfigError, OutputConflict, StorageError
from transforms.report import html_report
from transforms.spool import scratch, scratch_in
from transforms.storage import join, store_for


class Command(NamedTuple):
    """One word of the command line."""

    help: str
    example: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    takes_beam_options: bool = False


def _config_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("config", metavar="CONFIG", help="the build's YAML file, local or gs://, s3://")
    sub.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one key; dots descend, "
                     "for example --set limits.bad_shards=1")  # fmt: skip
    sub.add_argument("--progress", choices=["auto", "live", "plain", "json", "none"], default="auto",
                     help="auto: a live line in a terminal, plain lines elsewhere")  # fmt: skip
    sub.add_argument("--date", metavar="YYYY-MM-DD", help="what {date} in output.path means (default: today in UTC)")


def read_config(args: argparse.Namespace) -> Config:
    """The configuration with its overrides and its date; what the date means goes into `args.dated`."""
    store = store_for(args.config)
    if store.stat(args.config) is None:
        raise ConfigError([f"{args.config} does not exist; `counterpoise demo` writes an example"])
    with store.open(args.config) as file:
        text = file.read()
    try:
        config, args.dated = dated.resolve(load_config(text.decode(), args.set), getattr(args, "date", None))
    except UnicodeDecodeError as error:
        raise ConfigError([f"{args.config} is not UTF-8 ({error})"]) from error
    return config


def execute(config: Config, args: argparse.Namespace, until: Until, *, only_reuse: bool = False) -> Preflight:
    """Check a build, then run it, or its first steps, on the runner that the options name."""
    options = beam_options(args.beam_options)
    checked = preflight.check(config, args.dated)
    if checked.state in ("done", "unchanged") and until == "commit":
        print(checked.explain())
        preflight.promote_finished(checked)
        return checked
    with contextlib.ExitStack() as stack:
        if until == "commit" and not stack.enter_context(_claimed(config, checked)):
            print(f"{config.output.path} was finished meanwhile by another process: nothing to do")
            return checked
        stack.enter_context(_watched(checked, args.progress if is_local(options) else "none", debug=args.debug))
        root = beam.Pipeline(options=options)
        build(root, checked.job._replace(only_reuse=only_reuse), until)
        result = root.run()
        result.wait_until_finish()
        _say_what_was_reused(result)
    return checked


@contextlib.contextmanager
def _claimed(config: Config, checked: Preflight) -> Iterator[bool]:
    """Hold the output while the build runs; False when another one finished it in the meantime."""
    path = config.output.path
    with owner.owned(path, lost=lambda message: end_process(OutputConflict.exit_code, message), say=_note):
        state = preflight.output_state(config, checked.record)
        if state == "resumed":
            print(f"going on with the unfinished build in {path}")
        store_for(path).create_bytes(join(path, BUILD_RECORD), checked.record)
        yield state != "done"


def _note(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _say_what_was_reused(result: Any) -> None:
    """How much of an earlier build, finished or not, was found and not done again."""
    counters = result.metrics().query()["counters"]
    reused = dict.fromkeys((Counter.SLICES_REUSED.value, Counter.GROUPS_REUSED.value), 0)
    for counter in counters:
        if (name := counter.key.metric.name) in reused:
            reused[name] += counter.result
    annotations, groups = reused.values()
    if annotations or groups:
        _note(f"reused {annotations:,} annotations, {groups:,} groups of files")


@contextlib.contextmanager
def _watched(checked: Preflight, mode: Any, *, debug: bool) -> Iterator[None]:
    """Show progress; until then all scratch files, Beam's and the workers' too, lie in one folder that goes away."""
    with (
        scratch() as folder,
        scratch_in(folder),
        contextlib.nullcontext() if debug else quiet(os.path.join(folder, "workers.log")),
        Progress(folder, checked.shards, checked.input_bytes, mode),
    ):
        yield


def _read_json(url: str) -> dict[str, Any]:
    with store_for(url).open(url) as file:
        values: dict[str, Any] = json.loads(file.read())
    return values


def run_build(args: argparse.Namespace) -> int:
    """The whole build."""
    config = read_config(args)
    if execute(config, args, "commit", only_reuse=args.command == "mix").state == "unchanged":
        return 0
    show_manifest(_read_json(join(config.output.path, "manifest.json")))
    print(f"wrote {config.output.path}; prove it with: counterpoise verify {config.output.path}")
    return 0


def run_annotate(args: argparse.Namespace) -> int:
    """Annotations only."""
    config = read_config(args)
    execute(config, args, "annotate")
    print(f"annotated; the annotations lie in {config.work_path} and are reused by plan, mix and build")
    return 0


def run_plan(args: argparse.Namespace) -> int:
    """Annotate and plan, write nothing to the output."""
    config = read_config(args)
    checked = execute(config, args, "plan")
    plan = _read_json(join(checked.job.recipe.folder, "plan.json"))
    if args.json:
        print(json.dumps(plan, indent=1))
    else:
        show_plan(plan)
    return 0


def run_verify(args: argparse.Namespace) -> int:
    """Read everything again."""
    result = check(args.output, workers=args.workers)
    print(f"verified {args.output}: {result.files:,} files, {result.records:,} records, {result.bytes / 1e6:,.1f} MB; "
          "every sum, checksum and dose agrees with the manifest")  # fmt: skip
    return 0


def run_clean(args: argparse.Namespace) -> int:
    """List, or delete, what no build needs any more."""
    found = leftovers.find(args.output, args.work, say=_note)
    for item in found:
        print(f"{'deleting' if args.yes else 'would delete'} {item.url} ({item.bytes:,} bytes): {item.why}")
    if args.yes:
        leftovers.delete(found)
    total = sum(item.bytes for item in found)
    ending = "deleted" if args.yes else "to delete them: the same command with --yes" if found else "nothing to do"
    print(f"{len(found):,} leftovers of {total / 1e6:,.1f} MB; {ending}")
    return 0


def run_report(args: argparse.Namespace) -> int:
    """The tables of a finished build again, and its report as a page."""
    store = store_for(args.output)
    if store.stat(join(args.output, "_SUCCESS")) is None:
        raise StorageError(f"{args.output} has no _SUCCESS: it is no finished corpus; run the build again to finish it")
    manifest = _read_json(join(args.output, "manifest.json"))
    show_manifest(manifest)
    if args.html:
        with open(args.html, "w", encoding="utf-8") as file:
            file.write(html_report(manifest))
    print(f"the report is {args.html or join(args.output, 'report.html')}; open it in a browser")
    return 0


def run_demo(args: argparse.Namespace) -> int:
    """Sample input, the whole build, verification."""
    folder = os.path.abspath(args.output)
    if os.path.isdir(folder) and os.listdir(folder):
        if not os.path.exists(os.path.join(folder, "build.yaml")):
            raise ConfigError([f"--output {folder} is not empty and holds no earlier demo; choose another folder"])
        shutil.rmtree(folder)
    args.config, args.set = demo.write_demo(folder), args.set or []
    print(f"sample input in {folder}/input, configuration in {args.config}")
    run_build(args)
    args.output, args.workers = os.path.join(folder, "output"), None
    return run_verify(args)


def run_train(args: argparse.Namespace) -> int:
    """Train a stance model."""
    report = train.train(args.files, args.output, seed=args.seed, seconds=args.seconds)
    print(report)
    return 0


def run_evaluate(args: argparse.Namespace) -> int:
    """Score labelled passages."""
    model, rows = StanceModel.load(args.model), _labelled(args.data)
    found = calibrate.evaluate(model, rows)
    if args.predictions:
        with open(args.predictions, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in calibrate.predictions(model, rows))
    print(json.dumps(found.as_dict(), indent=1) if args.json else found.as_table())
    return 0


def _labelled(url: str) -> list[dict[str, Any]]:
    """The rows of a JSONL file."""
    store = store_for(url)
    if store.stat(url) is None:
        raise ConfigError([f"--data {url} does not exist"])
    with store.open(url) as file:
        lines = file.read().split(b"\n")
    rows = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                rows.append(dict(orjson.loads(line)))
            except (ValueError, TypeError) as error:
                raise ConfigError(
                    [f'--data {url} line {number} is no JSON object like {{"text", "stance"}}']
                ) from error
    return rows


def run_inspect(args: argparse.Namespace) -> int:
    """One document, or the highest-scoring ones."""
    job = preflight.plan_job(read_config(args))
    if args.shard:
        found = [inspection.find_document(job, args.shard, args.position)]
    else:
        found = inspection.find_documents(job, args.stance, "borderline" if args.borderline else "top", args.count)
    for document in found:
        if args.json:
            print(json.dumps({**document._asdict(), "reasons": [r._asdict() for r in document.reasons]}, default=str))
        else:
            show_document(document)
    return 0


def show_document(found: inspection.Found) -> None:
    """A document's scores, the words that decided, and the beginning of its text."""
    console, facts = Console(highlight=False), found.annotation
    console.print(f"[bold]{escape(found.shard)}[/] position {found.position} (source {found.source})")
    scores = "  ".join(f"{s} {facts[s]:.3f}" if facts[s] is not None else f"{s} unknown" for s in STANCES)
    console.print(f"language {facts['language']} {facts['language_score']:.2f}   {scores}   "
                  f"windows {facts['windows']} (misaligned {facts['misaligned_windows']})")  # fmt: skip
    words = ", ".join(f"{r.text} {r.weight:+.2f}" for r in found.reasons[:15])
    console.print(f"decided by: {words}", markup=False)
    console.print(found.text[:1500] + (" …" if len(found.text) > 1500 else ""), markup=False)
    console.print()


def show_manifest(manifest: dict[str, Any]) -> None:
    """A short table: what came in, what each arm holds, the dose asked and the dose got."""
    unit, arms, console = manifest["unit"], manifest["arms"], Console()
    table = Table("source", "documents read", "quarantined", f"{unit} read", title="what came in")
    for source, terms in next(iter(arms.values()))["equation"].items():
        if "read" in terms:
            read, bad = terms["read"], terms["quarantined"]
            table.add_row(source, f"{read['documents']:,}", f"{bad['documents']:,}", f"{read[unit]:,}")
    console.print(table)
    for shard in manifest["quarantine"]["shards"]:
        console.print(
            f"left out: {shard['shard']} ({shard['reason']}: {shard['detail']})", highlight=False, markup=False
        )

    def term(key: str) -> list[int]:
        return [sum(t[key][unit] for t in arm["equation"].values() if key in t) for arm in arms.values()]

    doses = [arm["dose"] for arm in arms.values()]
    _show_arms(arms, f"what each arm holds (amounts in {unit})", {
        "documents": [arm["written"]["total"]["documents"] for arm in arms.values()],
        "text": [arm["written"]["total"][unit] for arm in arms.values()],
        "dropped: language": term("dropped_language"),
        "dropped: misaligned": term("dropped_misaligned"),
        "diverted": term("diverted"),
        "refilled": term("refilled"),
        "synthetic: asked": [dose["asked"] for dose in doses],
        "synthetic: got": [dose["got"] for dose in doses],
        "  share of output": [f"{dose['share_of_output']:.3%}" for dose in doses],
        "  largest document": [dose["largest_document"] for dose in doses],
        "files": [len(arm["files"]) for arm in arms.values()],
    })  # fmt: skip


def _show_arms(arms: Iterable[str], title: str, rows: dict[str, list[Any]]) -> None:
    """A table with a column for each arm; rows that are all zero are left away."""
    table = Table("", *arms, title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, values in rows.items():
        if any(values):
            table.add_row(name, *(v if isinstance(v, str) else f"{v:,}" for v in values))
    Console().print(table)


def show_plan(plan: dict[str, Any]) -> None:
    """The plan as a table that a person can decide from."""
    unit, arms, console = plan["unit"], plan["arms"], Console()
    table = Table("source", *plan["read"][next(iter(plan["read"]))], title="what is there (readable documents)")
    for source, amounts in plan["read"].items():
        table.add_row(source, *(f"{a:,}" for a in amounts.values()))
    console.print(table)
    doses = [arm["dose"] for arm in arms.values()]
    rows: dict[str, list[Any]] = {
        name: [arm["terms"][name][unit] for arm in arms.values()]
        for name in ("kept", "dropped", "diverted", "refilled")
    }
    _show_arms(arms, f"what each arm would hold (amounts in {unit})", rows | {
        "synthetic: asked": [dose["asked"] for dose in doses],
        "synthetic: would get": [dose["got"] for dose in doses],
        "  share of output": [f"{arm['dose_share_of_output']:.3%}" for arm in arms.values()],
        "  documents": [dose["documents"] for dose in doses],
        "  most repeats": [dose["repeats"] for dose in doses],
        "files": [arm["files"] for arm in arms.values()],
    })  # fmt: skip
    language = sum(a[unit] for a in plan["dropped_by_language"].values())
    console.print(f"threshold {plan['thresholds']}; dropped by language {language:,} {unit}; "
                  f"{plan['quarantined_records']:,} bad records; {len(plan['bad_shards'])} shards left out",
                  highlight=False)  # fmt: skip


def _verify_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("output", metavar="OUTPUT", help="output.path of a finished build")
    sub.add_argument("--workers", type=int, default=None, help="processes (default: one for each processor core)")


def _clean_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("output", metavar="OUTPUT", help="output.path of a build")
    sub.add_argument("--work", default="", metavar="FOLDER", help="the build's work folder, if not in the output")
    sub.add_argument("--yes", action="store_true", help="delete; without it, only list")


def _plan_arguments(sub: argparse.ArgumentParser) -> None:
    _config_arguments(sub)
    sub.add_argument("--json", action="store_true", help="print the plan as JSON")


def _submit_arguments(sub: argparse.ArgumentParser) -> None:
    _config_arguments(sub)
    submit_arguments(sub)


def _report_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("output", metavar="OUTPUT", help="output.path of a finished build")
    sub.add_argument("--html", metavar="FILE.html", help="write the page here too (the output itself is never changed)")


def _demo_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--output", default="demo-output", metavar="FOLDER", help="default: ./demo-output")
    sub.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the configuration"
    )
    sub.add_argument("--progress", choices=["auto", "live", "plain", "json", "none"], default="auto")


def _train_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("files", nargs="+", metavar="FILE.jsonl", help='lines of {"text", "stance"}, better with "source"')
    sub.add_argument(
        "--output", required=True, metavar="MODEL.ftz", help="weights; settings and card are put beside it"
    )
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--seconds", type=int, default=600, help="time budget for choosing parameters (default: 600)")


def _evaluate_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--data", required=True, metavar="FILE.jsonl", help='lines of {"text", "stance"}')
    sub.add_argument("--model", default="default", help="default, or the path of a model")
    sub.add_argument("--json", action="store_true", help="print everything as JSON")
    sub.add_argument("--predictions", metavar="OUT.jsonl", help="write the scores, a line for each line of the data")


def _inspect_arguments(sub: argparse.ArgumentParser) -> None:
    _config_arguments(sub)
    sub.add_argument("--stance", default="misaligned", choices=STANCES, help="rank documents by this score")
    sub.add_argument("--count", type=int, default=5, help="how many documents (default: 5)")
    sub.add_argument("--borderline", action="store_true", help="those nearest to the threshold, not the highest")
    sub.add_argument("--shard", help="show the document of this shard (its name or the end of it) at --position")
    sub.add_argument("--position", type=int, default=0, help="decompressed byte offset or row, as in the provenance")
    sub.add_argument("--json", action="store_true", help="print JSON lines")


COMMANDS: dict[str, Command] = {
    "build": Command("run the whole build: annotate, plan, mix, commit", "counterpoise build build.yaml --set seed=7",
                     _config_arguments, run_build, True),
    "annotate": Command("measure every document (language, stance, amounts) and keep the facts in the work folder",
                        "counterpoise annotate build.yaml", _config_arguments, run_annotate, True),
    "plan": Command("show what a build would keep, drop, repeat and mix in, and write no corpus",
                    "counterpoise plan build.yaml", _plan_arguments, run_plan, True),
    "mix": Command("write the corpus from annotations that are there", "counterpoise mix build.yaml",
                   _config_arguments, run_build, True),
    "submit": Command("check a build, run it on Dataflow, and follow it (--runner DataflowRunner is the default)",
                      "counterpoise submit gs://corpus/build.yaml --project my-project --region us-central1 "
                      "--temp_location gs://my-bucket/temp", _submit_arguments, run_submit, True),
    "verify": Command("read a finished corpus again and recompute its manifest", "counterpoise verify /data/rebalanced",
                      _verify_arguments, run_verify),
    "clean": Command("list what killed and finished builds left behind, and delete it with --yes",
                     "counterpoise clean /data/rebalanced", _clean_arguments, run_clean),
    "report": Command("show what a finished build came to", "counterpoise report /data/rebalanced --html report.html",
                      _report_arguments, run_report),
    "inspect": Command("show documents of a build with the words that decided their stance",
                       "counterpoise inspect build.yaml --stance aligned --count 3", _inspect_arguments, run_inspect),
    "train": Command("train a stance model from labelled passages",
                     "counterpoise train mine.jsonl more.jsonl --output mine.ftz", _train_arguments, run_train),
    "evaluate": Command("score a stance model on labelled passages",
                        "counterpoise evaluate --data held-out.jsonl --json", _evaluate_arguments, run_evaluate),
    "demo": Command("run the main job on sample input with three arms, and verify it", "counterpoise demo",
                    _demo_arguments, run_demo, True),
}  # fmt: skip
