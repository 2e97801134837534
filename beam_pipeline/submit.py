"""`counterpoise submit`: check everything that can be checked, bring the job to Dataflow, follow it to its end.

The job's graph holds no list of shards: listing happens inside it, so a million shards make it no larger.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    DebugOptions,
    GoogleCloudOptions,
    PipelineOptions,
    SetupOptions,
    StandardOptions,
    WorkerOptions,
)

from beam_pipeline import cloud, cost, preflight
from beam_pipeline.config import Config
from beam_pipeline.dated import Dated
from beam_pipeline.follow import follow
from beam_pipeline.options import beam_options
from beam_pipeline.package import write_package
from beam_pipeline.pipeline import build
from beam_pipeline.preflight import BUILD_RECORD, Preflight
from classifiers.model import LANGUAGE_MODEL, ModelError
from transforms.errors import ConfigError, CounterpoiseError, StorageError
from transforms.storage import brief, join, store_for

RUNNER: Final = "DataflowRunner"
MAX_GRAPH_BYTES: Final = 1_000_000  # the service takes 10 MB; ours is about 60 kB whatever the input


class Job(NamedTuple):
    """A job that is ready to go: its pipeline, its options, and what was checked."""

    root: beam.Pipeline
    options: PipelineOptions
    checked: Preflight
    graph_bytes: int


def cloud_options(argv: Sequence[str], name: str, date: str) -> PipelineOptions:
    """Beam's options with what a job of ours needs where the user says nothing.

    Raises:
      ConfigError: An unknown option, or another runner.
    """
    if not any(a.split("=")[0] == "--runner" for a in argv):
        argv = ["--runner", RUNNER, *argv]
    options = beam_options(argv)
    runner = options.view_as(StandardOptions).runner
    if runner.rsplit(".", 1)[-1] != RUNNER:
        raise ConfigError([f"--runner {runner}: submit is for {RUNNER}; others run with `counterpoise build`"])
    debug = options.view_as(DebugOptions)
    if debug.number_of_worker_harness_threads is None:
        # One slice at a time and process: a second would double its memory and, under the GIL, gain little.
        debug.number_of_worker_harness_threads = 1
    google = options.view_as(GoogleCloudOptions)
    if not google.job_name:
        # Fixed, so that the service refuses a second job while the first is running.
        google.job_name = job_name(name, date)
    return options


def job_name(name: str, date: str) -> str:
    """The job's name: the configuration's and the build's date, in the letters that the service allows.

    >>> job_name("FineWeb_2026", "2026-11-24")
    'counterpoise-fineweb-2026-2026-11-24'
    """
    words = re.sub(r"[^a-z0-9]+", "-", f"counterpoise-{name}-{date}".lower())
    return words.strip("-")


def prepare(config: Config, options: PipelineOptions, dated: Dated | None) -> tuple[Preflight, tuple[str, ...]]:
    """Check all that can be checked; returns it and the warnings.

    Raises:
      ConfigError: With every problem, those of the cloud and those of the build.
      ModelError, StorageError: Where nothing but a model or the output is wrong.
    """
    found = cloud.examine(config, options)
    try:
        checked = preflight.check(config, dated)
    except ConfigError as error:
        raise ConfigError([*found.problems, *error.problems]) from error
    except (CounterpoiseError, ModelError) as error:
        if found.problems:
            raise ConfigError([*found.problems, str(error)]) from error
        raise
    if found.problems:
        raise ConfigError(found.problems)
    return checked, found.warnings


@contextlib.contextmanager
def with_package(options: PipelineOptions, config: Config) -> Iterator[None]:
    """Within it, the options name a setup file: the user's, or one made of the running program; none for an image."""
    setup = options.view_as(SetupOptions)
    if setup.setup_file or options.view_as(WorkerOptions).sdk_container_image:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="counterpoise-") as folder:
        ours = config.language.model == LANGUAGE_MODEL
        setup.setup_file = str(write_package(Path(folder), with_language_model=ours))
        try:
            yield
        finally:
            setup.setup_file = None


def assemble(checked: Preflight, options: PipelineOptions) -> Job:
    """The whole build as a graph.

    Raises:
      ConfigError: It is too large, which only an endless list of paths can cause.
    """
    root = beam.Pipeline(options=options)
    build(root, checked.job, "commit")
    size = int(root.to_runner_api().ByteSize())
    if size >= MAX_GRAPH_BYTES:
        way_out = "name inputs by globs (the listing happens inside the job), not one by one"
        raise ConfigError([f"the job's graph has {size:,} bytes, {MAX_GRAPH_BYTES:,} are allowed: {way_out}"])
    return Job(root, options, checked, size)


def run_submit(args: argparse.Namespace) -> int:
    """Submit a build, or write down what would be submitted."""
    from beam_pipeline.commands import read_config

    assumed, config = cost.assumptions(args.assume), read_config(args)
    dated: Dated | None = args.dated
    options = cloud_options(args.beam_options, config.name, dated.date if dated else "")
    checked, warnings = prepare(config, options, dated)
    for warning in warnings:
        print(f"warning: {warning}")
    if checked.state in ("done", "unchanged"):
        print(checked.explain())
        if not options.view_as(GoogleCloudOptions).template_location:
            preflight.promote_finished(checked)
            return 0
        return _submit_nothing(options)
    price = cost.estimate(checked.input_bytes, assumed)
    print(f"{checked.shards:,} shards; about ${price.dollars:,.2f} ({price.core_hours:,.1f} core hours)")
    with with_package(options, config):
        job = assemble(checked, options)
        print(f"the graph has {job.graph_bytes:,} bytes")
        if args.dry_run:
            write_job(job, args.dry_run, price)
            return 0
        store_for(config.output.path).create_bytes(join(config.output.path, BUILD_RECORD), checked.record)
        return start(job, detach=args.detach, quiet=args.progress == "none")


def start(job: Job, *, detach: bool, quiet: bool = False) -> int:
    """Bring the job to the service, say where it can be seen, and follow it; returns the exit code.

    Raises:
      StorageError: The service refused it, for example because a job of this name is running.
    """
    result = _run(job.root)
    google = job.options.view_as(GoogleCloudOptions)
    if not result.has_job:
        print(f"the job was written to {google.template_location}")
        return 0
    place = f"{google.region}/{result.job_id()}?project={google.project}"
    address = f"https://console.cloud.google.com/dataflow/jobs/{place}"
    print(f"submitted {google.job_name}: {address}", flush=True)
    if detach:
        return 0
    return follow(result, job.root.runner.dataflow_client, address, quiet=quiet)


def _run(root: beam.Pipeline) -> Any:
    from apache_beam.runners.dataflow.internal.apiclient import DataflowJobAlreadyExistsError
    from google.api_core.exceptions import GoogleAPICallError

    try:
        return root.run()
    except (GoogleAPICallError, DataflowJobAlreadyExistsError) as error:
        hint = "; a job of this name is at work on the same build" if "already" in str(error).lower() else ""
        raise StorageError(f"Dataflow refused the job: {brief(error)}{hint}") from error


def _submit_nothing(options: PipelineOptions) -> int:
    """A template's launcher must leave a job behind; where nothing is to be done, this one does nothing."""
    options.view_as(SetupOptions).setup_file = None
    root = beam.Pipeline(options=options)
    _ = root | "NothingToDo" >> beam.Create(["nothing to do"])
    _run(root)
    return 0


def write_job(job: Job, folder: str, price: cost.Estimate) -> None:
    """Write everything that would be submitted: graph, options, files to stage, cost.

    Raises:
      ConfigError: The folder is not empty.
    """
    from apache_beam.transforms import environments

    target = Path(folder)
    if target.is_dir() and any(target.iterdir()):
        raise ConfigError([f"--dry-run {folder} is not empty; choose another folder"])
    staged = target / "staged"
    staged.mkdir(parents=True)
    listed = [_stage(part, staged) for part in environments.python_sdk_dependencies(job.options)]
    graph = job.root.to_runner_api()
    (target / "pipeline.pb").write_bytes(graph.SerializeToString(deterministic=True))
    (target / "pipeline.txt").write_text(_outline(graph), encoding="utf-8")
    options = {k: v for k, v in sorted(job.options.get_all_options(drop_default=True).items()) if k != "setup_file"}
    (target / "options.json").write_text(json.dumps(options, indent=1, default=str) + "\n", encoding="utf-8")
    (target / "_BUILD.json").write_bytes(job.checked.record)
    (target / "cost.txt").write_text("\n".join(price.lines) + "\n", encoding="utf-8")
    for line in price.lines:
        print(f"  {line}")
    for name, size in listed:
        print(f"  would stage {name}: {size:,} bytes")
    print(f"wrote the job to {folder}; nothing was submitted")


def _stage(part: Any, folder: Path) -> tuple[str, int]:
    """Copy one of the files that Beam would stage; returns its name and size."""
    from apache_beam.portability.api import beam_runner_api_pb2 as api

    source = api.ArtifactFilePayload.FromString(part.type_payload).path
    name = api.ArtifactStagingToRolePayload.FromString(part.role_payload).staged_name
    shutil.copyfile(source, folder / name)
    return name, os.path.getsize(source)


def _outline(graph: Any) -> str:
    """The steps, one a line, in the order of the data, inner steps indented."""
    steps = graph.components.transforms
    lines: list[str] = []

    def walk(key: str, depth: int) -> None:
        name = steps[key].unique_name.rpartition("/")[2]
        lines.append("  " * depth + f"{name}  [{steps[key].spec.urn}]")
        for inner in steps[key].subtransforms:
            walk(inner, depth + 1)

    for key in graph.root_transform_ids:
        for inner in steps[key].subtransforms or [key]:
            walk(inner, 0)
    return "\n".join(lines) + "\n"


def submit_arguments(sub: argparse.ArgumentParser) -> None:
    """The command's own options; everything else is Beam's."""
    sub.add_argument("--dry-run", metavar="FOLDER", help="write the job there (graph, options, files to stage, cost), "
                     "submit nothing")  # fmt: skip
    sub.add_argument("--detach", action="store_true", help="do not follow the job once it is submitted")
    sub.add_argument("--assume", action="append", default=[], metavar="NAME=NUMBER",
                     help=f"another number for the cost estimate: {', '.join(cost.ASSUMPTIONS)}")  # fmt: skip
