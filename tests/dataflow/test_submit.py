"""Submission for real, to a stand-in of the service: what is sent, what is staged, what is refused and why."""

import io
import json
import random
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam
import pytest
import yaml
from apache_beam.portability.api import beam_runner_api_pb2 as api

from beam_pipeline import cloud as checks
from beam_pipeline import cost, follow, run, submit
from tests import corpora, shards
from tests.dataflow import service
from tests.servers import BUCKET

ROOT = Path(__file__).resolve().parents[2]
PLACE = f"gs://{BUCKET}"
CONFIG: dict[str, Any] = {
    "name": "test",
    "sources": [{"name": "web", "paths": f"{PLACE}/web/*"}],
    "pool": [{"name": "stories", "paths": f"{PLACE}/pool/*"}],
    "arms": {"unfiltered": {}, "mixed": {"dose": {"share": 0.1}}},
    "output": {"path": f"{PLACE}/out"},
}
IMAGE = f"--sdk_container_image=europe-docker.example.com/p/counterpoise:0.1.0-beam{apache_beam.__version__}"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "POLL_SEC", [0.05])


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[service.Cloud]:
    """Storage with three shards and a pool, and the service."""
    with service.cloud(tmp_path) as found:
        for number in range(3):
            data = shards.jsonl_bytes(corpora.documents(5, prefix=f"{number}-"))
            found.gcs.put(BUCKET, f"web/{number}.jsonl", data, None, {})
        found.gcs.put(BUCKET, "pool/p.jsonl", shards.jsonl_bytes(corpora.pool(9)), None, {})
        yield found


def written(folder: Path, **changes: Any) -> str:
    """The configuration as a file."""
    path = folder / "build.yaml"
    path.write_text(yaml.safe_dump({**CONFIG, **changes}))
    return str(path)


def test_a_job_is_submitted_whole(cloud: service.Cloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The request, the graph and the package are what a worker needs; the job is followed to its end."""
    cloud.service.counters = {"slices_annotated": 3, "documents_read": 15}
    hint = ["--resource_hint=min_ram=4GB", "--experiments=upload_graph_not", "--max_num_workers=7"]
    assert run.main(["submit", written(tmp_path), *cloud.options, *hint]) == 0
    said = capsys.readouterr().out
    assert "https://console.cloud.google.com/dataflow/jobs/us-central1/2026-11-24_00_00_00-1?project=p-123456" in said
    assert "DONE  slices_annotated 3  documents_read 15" in said

    (job,) = cloud.service.jobs
    (pool,) = job["environment"]["workerPools"]
    assert job["name"] == "counterpoise-test"
    assert pool["numThreadsPerWorker"] == 1
    assert "upload_graph_not" in job["environment"]["experiments"]
    assert pool["autoscalingSettings"]["maxNumWorkers"] == 7
    assert pool["sdkHarnessContainerImages"][0]["containerImage"].endswith(f":{apache_beam.__version__}")
    assert {p["name"] for p in pool["packages"]} == {"workflow.tar.gz", "submission_environment_dependencies.txt"}
    assert "out/_BUILD.json" in cloud.objects("out/")
    assert not [name for name in cloud.objects() if "main_session" in name]
    _check_graph(cloud.staged("pipeline.pb"))
    _check_package(cloud.staged("workflow.tar.gz"))


def _check_graph(data: bytes) -> None:
    graph = api.Pipeline.FromString(data)
    steps = {t.unique_name: t for t in graph.components.transforms.values()}
    assert len(data) < 200_000
    wanted = ("FindShards/List", "FindShards/Cut", "AnnotateSlices/Annotate", "TakeCensus/SumAmounts", "MixSlices/Mix",
              "MakePlan/Plan/ParDo(_Plan)", "CommitCorpus/Commit")  # fmt: skip
    assert not [name for name in wanted if name not in steps]
    dofns = {name: api.ParDoPayload.FromString(t.spec.payload) for name, t in steps.items()
             if t.spec.urn == "beam:transform:pardo:v1"}  # fmt: skip
    sides = {name: len(dofn.side_inputs) for name, dofn in dofns.items()}
    assert (sides["MixSlices/Mix"], sides["CommitCorpus/Commit"]) == (1, 3)
    assert sides["MakePlan/Plan/ParDo(_Plan)"] >= 5
    assert not [name for name, dofn in dofns.items() if b"__main__" in dofn.do_fn.payload]
    assert not [name for name, dofn in dofns.items() if dofn.state_specs or dofn.timer_family_specs]
    # Data is dealt out after each of these, so that stages are not fused into one machine's work.
    groupings = [name for name, t in steps.items() if t.spec.urn == "beam:transform:group_by_key:v1"]
    for dealt in ("FindShards/DealShards", "FindShards/DealSlices", "MixSlices/Deal"):
        assert any(name.startswith(dealt) for name in groupings), dealt
    environments = [e for e in graph.components.environments.values() if e.dependencies]
    assert {h.decode() for e in environments for h in e.resource_hints.values()} == {"4000000000"}
    _check_keys(graph, groupings)


def _check_keys(graph: api.Pipeline, groupings: list[str]) -> None:
    """Keys of every grouping have a coder of Beam's own that is deterministic."""
    components = graph.components
    sound = {"beam:coder:varint:v1", "beam:coder:string_utf8:v1", "beam:coder:bytes:v1", "beam:coder:bool:v1"}
    for transform in components.transforms.values():
        if transform.unique_name in groupings:
            (source,) = transform.inputs.values()
            coder = components.coders[components.pcollections[source].coder_id]
            assert coder.spec.urn == "beam:coder:kv:v1", transform.unique_name
            key = components.coders[coder.component_coder_ids[0]]
            inner = components.coders[key.component_coder_ids[0]] if key.component_coder_ids else key
            # A sum over everything has None for a key, pickled; there is one None.
            void = "CombinePerKey" in transform.unique_name
            assert inner.spec.urn in sound or void, f"{transform.unique_name}: {inner.spec.urn}"


def _check_package(data: bytes) -> None:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
        top = tar.getnames()[0].partition("/")[0]
        setup = tar.extractfile(f"{top}/setup.py")
        assert setup is not None
        assert f"apache-beam=={apache_beam.__version__}" in setup.read().decode()
    folders = ["beam_pipeline", "transforms", "classifiers"]
    listing = subprocess.run(["git", "ls-files", "-z", *folders], cwd=ROOT, capture_output=True, check=False)
    tracked = {name for name in listing.stdout.decode().split("\0") if name and (ROOT / name).exists()}
    assert sorted(tracked - names) == []
    assert "classifiers/models/lid.176.ftz" in names
    assert not [name for name in names if re.search(r"__pycache__|\.nb[ci]$|^tests", name)]


def test_a_failed_job_fails_the_command(
    cloud: service.Cloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the code of the error in the job's messages; no package is made for an image that has the program."""
    cloud.service.states = ["JOB_STATE_RUNNING", "JOB_STATE_FAILED"]
    cloud.service.messages = ["boom", "Traceback …\ntransforms.errors.MixShortfall: the pool is too small"]
    assert run.main(["submit", written(tmp_path), *cloud.options, IMAGE]) == 4
    assert "the job failed: the pool is too small" in capsys.readouterr().out
    assert not [name for name in cloud.objects() if "workflow" in name]


@pytest.mark.parametrize(
    ("state", "messages", "code", "said"),
    [
        ("FAILED", "Workflow failed. Causes: quota", 1, "quota"),
        ("FAILED", "transforms.errors.DriftExceeded: it moved [while running 'PromoteLatest']", 7, "it moved\n"),
        ("FAILED", "classifiers.model.ModelError: no model", 8, "no model"),
        ("FAILED", "", 1, "it left no message"),
        ("CANCELLED", "", 130, "ended as CANCELLED"),
        ("DONE", "", 0, ""),
    ],
)
def test_the_exit_code_is_that_of_the_job(
    capsys: pytest.CaptureFixture[str], state: str, messages: str, code: int, said: str
) -> None:
    """A job's end is the command's end."""
    assert follow.exit_code(state, messages, "https://console.example.com") == code
    assert said in capsys.readouterr().out


def test_a_second_fire_is_refused(cloud: service.Cloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The job's name is the build's, so the service refuses a second job while one is running."""
    words = ["submit", written(tmp_path), *cloud.options, IMAGE, "--detach"]
    assert run.main(words) == 0
    assert run.main(words) == 5
    assert len(cloud.service.jobs) == 1
    assert "a job of this name is at work on the same build" in capsys.readouterr().err


def test_a_dry_run_writes_the_whole_job(
    cloud: service.Cloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Graph, options, package and cost lie in a folder; nothing was sent and nothing stored."""
    before, folder = cloud.objects(), tmp_path / "job"
    words = ["submit", written(tmp_path), *cloud.options, "--dry-run", str(folder), "--assume", "core_hour=1"]
    assert run.main(words) == 0
    assert not cloud.service.asked
    assert cloud.objects() == before
    assert api.Pipeline.FromString((folder / "pipeline.pb").read_bytes()).components.transforms
    assert "MixSlices" in (folder / "pipeline.txt").read_text()
    options = json.loads((folder / "options.json").read_text())
    assert (options["project"], options["number_of_worker_harness_threads"]) == ("p-123456", 1)
    _check_package((folder / "staged/workflow.tar.gz").read_bytes())
    assert "price    1 +" in (folder / "cost.txt").read_text()
    assert "would stage workflow.tar.gz" in capsys.readouterr().out
    assert run.main(words) == 2


def test_a_template_writes_a_job_and_never_fails_for_want_of_work(cloud: service.Cloud, tmp_path: Path) -> None:
    """A template's launcher gets a job file when there is work, and an empty job when the output is finished."""
    words = ["submit", written(tmp_path), *cloud.options, IMAGE]
    assert run.main([*words, f"--template_location={PLACE}/temp/one"]) == 0
    cloud.gcs.put(BUCKET, "out/_SUCCESS", b"{}", None, {})
    assert run.main([*words, f"--template_location={PLACE}/temp/two"]) == 0
    first, second = (json.loads(cloud.objects()[f"temp/{name}"]) for name in ("one", "two"))
    assert first["name"] == second["name"] == "counterpoise-test"
    assert not cloud.service.jobs


def test_a_dated_build_ends_with_the_pointer(cloud: service.Cloud, tmp_path: Path) -> None:
    """The date is in the job's name and the record; moving latest.json is the job's last step, not the launcher's."""
    dated = {"output": {"path": f"{PLACE}/builds/{{date}}"}, "work": f"{PLACE}/work"}
    words = ["submit", written(tmp_path, **dated), *cloud.options, IMAGE, "--date", "2026-11-24", "--detach"]
    assert run.main(words) == 0
    assert cloud.service.jobs[0]["name"] == "counterpoise-test-2026-11-24"
    graph = api.Pipeline.FromString(cloud.staged("pipeline.pb"))
    (last,) = (t for t in graph.components.transforms.values() if t.unique_name == "PromoteLatest")
    (source,) = last.inputs.values()
    (maker,) = (t for t in graph.components.transforms.values()
                if source in t.outputs.values() and t.spec.urn == "beam:transform:pardo:v1")  # fmt: skip
    assert maker.unique_name == "CommitCorpus/Commit"
    assert json.loads(cloud.objects()["builds/2026-11-24/_BUILD.json"])["date"] == "2026-11-24"
    assert "builds/latest.json" not in cloud.objects()


GOOD = {"project": "p-123456", "region": "us-central1", "temp_location": f"{PLACE}/temp"}


@pytest.mark.parametrize(
    ("changes", "options", "said"),
    [
        ({}, {"project": ""}, "--project: missing"),
        ({}, {"project": "My Project"}, "is no project id"),
        ({}, {"region": ""}, "--region: missing"),
        ({}, {"region": "us-central1-a"}, "is a zone; its region is us-central1"),
        ({}, {"temp_location": ""}, "Beam would create a bucket by itself"),
        ({}, {"temp_location": "/tmp/x"}, "is no gs://BUCKET/FOLDER"),
        ({}, {"machine_type": "e2-highcpu-8"}, "has 1 GB a core"),
        ({}, {"machine_type": "n2-custom-8-16384"}, "has 2 GB a core"),
        ({}, {"sdk_container_image": "r.example.com/x:1-beam2.60.0"}, "has Beam 2.60.0"),
        ({}, {"save_main_session": "yes"}, "--save_main_session: leave it away"),
        ({}, {"runner": "FlinkRunner"}, "submit is for DataflowRunner"),
        ({}, {"max_num_wrokers": "3"}, "neither an option of Counterpoise nor of Beam"),
        ({"output": {"path": "/data/out"}}, {}, "output.path: /data/out lies on this machine"),
        ({"stance": {"model": "/data/mine.ftz"}}, {}, "stance.model: /data/mine.ftz is a file of this machine"),
        ({"language": {"model": "/data/lid.ftz"}}, {}, "build it into the image below /opt/counterpoise/"),
        ({"output": {"path": f"{PLACE}/{{date}}"}}, {}, "work: missing"),
    ],
)
def test_what_would_fail_later_is_refused_now(
    cloud: service.Cloud, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any],
    options: dict[str, str], said: str,
) -> None:  # fmt: skip
    """Every mistake costs a line and exit code 2, before a request is sent."""
    given = [f"--{k}" if v == "yes" else f"--{k}={v}" for k, v in {**GOOD, **options}.items() if v]
    endpoint = ["--dataflow_endpoint", cloud.service.url, "--no_auth"]
    assert run.main(["submit", written(tmp_path, **changes), *given, *endpoint]) == 2
    assert said in capsys.readouterr().err
    assert not cloud.service.asked


def test_all_mistakes_are_told_at_once(
    cloud: service.Cloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of the options, of the places and of the inputs."""
    path = written(tmp_path, sources=[{"name": "web", "paths": f"{PLACE}/none/*"}], work="/data/work")
    assert run.main(["submit", path]) == 2
    said = capsys.readouterr().err
    for part in ("--project", "--region", "--temp_location", "work: /data/work lies", "nothing matches"):
        assert part in said


def test_places_are_held_against_the_region() -> None:
    """A bucket in the region, in a multi-region around it, or unknown is fine; any other costs traffic."""
    fine = [
        ("US-CENTRAL1", "us-central1"),
        ("US", "us-east4"),
        ("EU", "europe-west4"),
        ("NAM4", "us-east1"),
        ("", "x-y1"),
    ]
    bad = [("EU", "us-central1"), ("US-EAST1", "us-central1"), ("NAM4", "us-west1")]
    assert [checks.region_problem("b", *pair) for pair in fine] == [""] * len(fine)
    assert all("gs://b lies in" in checks.region_problem("b", *pair) for pair in bad)


def test_a_bucket_elsewhere_is_refused_and_an_input_elsewhere_warned_of(
    cloud: service.Cloud, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the job writes must lie in its region; what it only reads may lie elsewhere, at a price."""
    cloud.gcs.buckets["far"] = dict(cloud.gcs.buckets[BUCKET])
    places = {BUCKET: "US", "far": "EU"}
    monkeypatch.setattr(checks, "location_of", lambda bucket: (places[bucket], ""))
    far = written(tmp_path, sources=[{"name": "web", "paths": "gs://far/web/*"}])
    assert run.main(["submit", far, *cloud.options, IMAGE, "--detach"]) == 0
    assert "warning: gs://far lies in EU" in capsys.readouterr().out
    places[BUCKET] = "EU"
    assert run.main(["submit", written(tmp_path), *cloud.options, IMAGE]) == 2
    assert f"gs://{BUCKET} lies in EU, the job would run in us-central1" in capsys.readouterr().err


def test_a_bucket_that_is_not_there_is_named(
    cloud: service.Cloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before Beam would create it."""
    options = [o for o in cloud.options if "location=gs" not in o]
    assert run.main(["submit", written(tmp_path), *options, "--temp_location=gs://gone-away/temp", IMAGE]) == 2
    assert "gs://gone-away does not exist" in capsys.readouterr().err


def test_the_graph_does_not_grow_with_the_shards(cloud: service.Cloud, tmp_path: Path) -> None:
    """Ten times the shards, the same graph; an endless list of paths is refused."""
    from beam_pipeline.config import load_config

    sizes = []
    for number in (10, 100):
        for index in range(number):
            cloud.gcs.put(BUCKET, f"web/more-{index}.jsonl", b'{"text": "x"}\n', None, {})
        config = load_config(Path(written(tmp_path)).read_text())
        options = submit.cloud_options([*cloud.options, IMAGE], config.name, "")
        checked, _ = submit.prepare(config, options, None)
        sizes.append(submit.assemble(checked, options).graph_bytes)
        assert checked.shards == number + 4
    assert abs(sizes[0] - sizes[1]) < 200
    assert sizes[1] < 200_000
    job, chance = checked.job, random.Random(0)  # names that do not compress
    many = job._replace(
        listings=(
            job.listings[0]._replace(paths=tuple(f"gs://corpus/{chance.randbytes(40).hex()}" for _ in range(40_000))),
        )
    )
    with pytest.raises(Exception, match="name inputs by globs"):
        submit.assemble(checked._replace(job=many), options)


def test_the_estimate_shows_its_arithmetic() -> None:
    """Twice the input is twice the work, the price is of the options, and a wrong one is refused."""
    one, two = (cost.estimate(size, {**cost.ASSUMPTIONS, "start_minutes": 1e-9}) for size in (10**12, 2 * 10**12))
    assert two.dollars == pytest.approx(2 * one.dollars)
    assert any("per core and second" in line for line in one.lines)
    assert cost.assumptions(["core_hour=0.1"])["core_hour"] == 0.1
    with pytest.raises(Exception, match="known names are"):
        cost.assumptions(["gpu=1"])
    with pytest.raises(Exception, match="positive number"):
        cost.assumptions(["cores=-1"])


def test_every_step_pickles_by_reference(cloud: service.Cloud, tmp_path: Path) -> None:
    """A worker imports every function of ours by its name; nothing of a module's globals travels."""
    import apache_beam as beam
    from apache_beam.pipeline import AppliedPTransform, PipelineVisitor

    from beam_pipeline.config import load_config

    config = load_config(Path(written(tmp_path)).read_text())
    options = submit.cloud_options([*cloud.options, IMAGE], config.name, "")
    root = submit.assemble(submit.prepare(config, options, None)[0], options).root
    ours, odd = set(), []

    class Look(PipelineVisitor):
        def visit_transform(self, node: AppliedPTransform) -> None:
            fn = getattr(node.transform, "fn", None)
            for found in (fn, *_functions_in(fn)):
                module, name = (
                    getattr(found, "__module__", ""),
                    getattr(found, "__qualname__", type(found).__qualname__),
                )
                if module and module.split(".")[0] in ("transforms", "beam_pipeline", "classifiers", "__main__"):
                    ours.add(name)
                    odd.extend([f"{module}.{name}"] if "<" in name or module == "__main__" else [])

    root.visit(Look())
    assert {"_Annotate", "_Mix", "_Commit", "_Plan", "_is_base", "list_all", "_census_of"} <= ours
    assert odd == []
    assert isinstance(root, beam.Pipeline)


def _functions_in(fn: Any) -> Iterator[Any]:
    """The functions that Beam's wrappers hold in their closures."""
    todo, seen = [fn, getattr(fn, "_fn", None), getattr(fn, "process", None)], set()
    while todo:
        found = todo.pop()
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        if callable(found) and hasattr(found, "__code__"):
            yield found
            cells = [c.cell_contents for c in found.__closure__ or ()]
            todo += [c for c in cells if callable(c)] + [getattr(found, "__wrapped__", None)]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_empty_environment_with_the_package_has_every_step(cloud: service.Cloud, tmp_path: Path) -> None:
    """Only the staged package and the lock: every module imports, every DoFn unpickles, the language model is there."""
    folder = tmp_path / "job"
    assert run.main(["submit", written(tmp_path), *cloud.options, "--dry-run", str(folder)]) == 0
    python = str(tmp_path / "venv/bin/python")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    lock = subprocess.run([sys.executable, ROOT / "deploy/runtime_lock.py"], capture_output=True, check=True)
    (tmp_path / "runtime.lock").write_bytes(lock.stdout)
    subprocess.run([*pip, "--require-hashes", "-r", str(tmp_path / "runtime.lock")], check=True)
    subprocess.run([*pip, "--no-deps", "--no-build-isolation", str(folder / "staged/workflow.tar.gz")], check=True)
    script = tmp_path / "look.py"
    script.write_text(_LOOK)
    words = [python, "-I", str(script), str(folder / "pipeline.pb")]
    environment = {"PATH": "/usr/bin:/bin", "COUNTERPOISE_CACHE": str(tmp_path / "empty"), "HOME": str(tmp_path)}
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    counted = json.loads(done.stdout.splitlines()[-1])
    assert counted["dofns"] > 20
    assert counted["modules"] > 60
    assert counted["model"] == "package"


_LOOK = """
import importlib, json, pkgutil, sys
from apache_beam.internal import pickler
from apache_beam.portability.api import beam_runner_api_pb2 as api
modules = 0
for top in ("classifiers", "transforms", "beam_pipeline"):
    package = importlib.import_module(top)
    assert "site-packages" in package.__file__, package.__file__
    for found in pkgutil.walk_packages(package.__path__, top + "."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
            modules += 1
dofns = 0
graph = api.Pipeline.FromString(open(sys.argv[1], "rb").read())
for step in graph.components.transforms.values():
    if step.spec.urn == "beam:transform:pardo:v1":
        fn = api.ParDoPayload.FromString(step.spec.payload).do_fn
        if fn.urn == "beam:dofn:pickled_python_info:v1":
            pickler.loads(fn.payload)
            dofns += 1
from classifiers.model import find_language_model
print(json.dumps({"modules": modules, "dofns": dofns, "model": find_language_model().origin}))
"""
