"""What a cloud would be given, checked without one: image, template, schedule, rights, and that their names agree."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from beam_pipeline import run, template
from beam_pipeline.run import parser

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
TERRAFORM = DEPLOY / "terraform"
ENVIRONMENT = {**os.environ, "CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "true", "CLOUDSDK_CORE_DISABLE_PROMPTS": "1"}


def program(name: str) -> str:
    """A program beside this Python or on the PATH, or the test is skipped."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if not found:
        pytest.skip(f"{name} is not installed here")
    return found


def call(*words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        words, cwd=ROOT, capture_output=True, text=True, check=False, env={**ENVIRONMENT, **environment}, timeout=100
    )


def instructions() -> list[str]:
    """The Dockerfile's instructions, continued lines joined, comments left out."""
    text = re.sub(r"^\s*#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
    return [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def resources() -> dict[tuple[str, str], Any]:
    """Every resource of the Terraform files by type and name."""
    found = {}
    for block in blocks("resource"):
        for kind, named in block.items():
            for name, body in named.items():
                found[kind.strip('"'), name.strip('"')] = body
    return found


def blocks(kind: str) -> Iterator[dict[str, Any]]:
    hcl2 = pytest.importorskip("hcl2", reason="python-hcl2 is not installed here")
    for path in sorted(TERRAFORM.glob("*.tf")):
        with path.open() as file:
            yield from hcl2.load(file).get(kind, [])


def strings(value: Any) -> Iterator[str]:
    """Every string in a tree, keys too."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from strings(key)
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)
    elif isinstance(value, str):
        yield value


def workflow(name: str) -> Any:
    return yaml.safe_load((TERRAFORM / f"{name}.yaml").read_text())


def launch() -> dict[str, Any]:
    """The body of flexTemplates:launch in the workflow."""
    steps = {key: step for item in workflow("rebuild")["main"]["steps"] for key, step in item.items()}
    body: dict[str, Any] = steps["launch"]["try"]["args"]["body"]["launchParameter"]
    return body


# --- the image ---


def test_the_dockerfile_passes_hadolint() -> None:
    """The linter of Dockerfiles has nothing to say."""
    done = call(program("hadolint"), str(DEPLOY / "Dockerfile"))
    assert done.returncode == 0, done.stdout


def test_the_image_has_what_a_worker_needs() -> None:
    """Lock with hashes, consistent packages, kernels compiled for any worker, the model by hash, no root, a build."""
    lines = instructions()
    runs = [line for line in lines if line.startswith("RUN")]
    steps = ("--require-hashes", "pip check", "find_language_model", "kernel.warm_up()", "python smoke.py")
    order = [next(i for i, line in enumerate(lines) if step in line) for step in steps]
    assert order == sorted(order)
    (user,) = (i for i, line in enumerate(lines) if line.startswith("USER"))
    assert lines[user] != "USER root"
    assert user < order[-1], "the five documents are built with the user that the workers have"
    environment = next(i for i, line in enumerate(lines) if line.startswith("ENV"))
    assert "NUMBA_CPU_NAME=x86-64-v3" in lines[environment]
    assert "NUMBA_CPU_FEATURES=+avx2,+bmi,+bmi2,+popcnt,+lzcnt,+fma" in lines[environment]
    assert environment < lines.index(runs[0])
    assert not [line for line in lines if line.startswith("ENTRYPOINT")], "Beam's own boot program starts the workers"


def test_the_image_copies_only_what_is_there() -> None:
    """Every file that the Dockerfile copies exists, is not ignored, and the template's entry point is among them."""
    allowed = [line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"]
    copied = [word for line in instructions() if line.startswith("COPY") and "--from" not in line
              for word in line.split()[1:-1]]  # fmt: skip
    assert [name for name in copied if not (ROOT / name).exists()] == []
    assert [name for name in copied if not any(Path(name).match(a) for a in allowed)] == []
    environment = next(line for line in instructions() if line.startswith("ENV"))
    assert "FLEX_TEMPLATE_PYTHON_PY_FILE=/opt/counterpoise/main.py" in environment
    assert "deploy/main.py" in copied


def test_the_runtime_lock_is_the_closure_of_what_runs() -> None:
    """Everything that a build imports on Dataflow is in it with its hashes, and no test tool."""
    done = call(sys.executable, str(DEPLOY / "runtime_lock.py"))
    assert done.returncode == 0, done.stderr
    names = set(re.findall(r"^([\w.-]+)==", done.stdout, re.MULTILINE))
    assert {"apache-beam", "google-cloud-storage", "numba", "llvmlite", "setuptools", "protobuf", "certifi"} <= names
    assert not names & {"pytest", "moto", "ruff", "mypy", "datatrove", "fasttext-community", "duckdb"}
    assert all("--hash=sha256:" in entry for entry in re.split(r"\n(?=\w)", done.stdout))
    assert done.stdout.count("\n") < (ROOT / "requirements.lock").read_text().count("\n")


def test_beam_is_named_the_same_in_the_cloud() -> None:
    """Image, tag of the build and lock name one release."""
    (locked,) = re.findall(r"^apache-beam==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    places = (DEPLOY / "Dockerfile", DEPLOY / "cloudbuild.yaml", DEPLOY / "README.md", ROOT / "docs/dataflow.md")
    named = re.findall(r"(?:_sdk:|beam)(2\.\d+\.\d+)", "\n".join(path.read_text() for path in places))
    assert len(named) >= 3
    assert set(named) == {locked}


def test_five_documents_are_built(tmp_path: Path) -> None:
    """What the image's build runs at its end runs here too."""
    spec = importlib.util.spec_from_file_location("smoke", DEPLOY / "smoke.py")
    assert spec is not None and spec.loader is not None
    smoke = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(smoke)
    assert smoke.smoke(tmp_path) == 0
    assert json.loads((tmp_path / "out/manifest.json").read_text())["inputs"][0]["records"] == 5


# --- the template ---


def test_the_metadata_is_made_from_the_options() -> None:
    """deploy/metadata.json is what `python -m beam_pipeline.template` prints."""
    assert json.loads((DEPLOY / "metadata.json").read_text()) == template.metadata()


def test_the_metadata_has_the_fields_that_the_service_knows() -> None:
    """Unknown fields and parameter types pass gcloud unseen, and fail at the first launch."""
    types = pytest.importorskip("google.cloud.dataflow_v1beta3.types", reason="the gcp extra is not installed here")
    kinds = {kind.name for kind in types.ParameterType}
    for parameter in template.metadata()["parameters"]:
        assert parameter.keys() <= {"name", "label", "helpText", "isOptional", "regexes", "paramType"}
        assert {"name", "label", "helpText"} <= parameter.keys()
        assert parameter["paramType"] in kinds
        for regex in parameter["regexes"]:
            re.compile(regex)


def test_the_template_speaks_the_programs_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher's arguments become those of submit, and Beam's stay as they are."""
    said: list[list[str]] = []

    def main(words: list[str]) -> int:
        said.append(list(words))
        return 0

    monkeypatch.setattr(run, "main", main)
    beam = ["--runner=DataflowRunner", "--template_location=gs://b/t"]
    assert template.main(["--config=gs://b/c.yaml", "--date=2026-11-24", "--set=seed=7; tolerance=0.1", *beam]) == 0
    assert template.main(["--config=gs://b/c.yaml", *beam]) == 0
    assert said[1] == ["submit", "gs://b/c.yaml", *beam]
    args, rest = parser().parse_known_args(said[0])
    assert (args.command, args.config, args.date) == ("submit", "gs://b/c.yaml", "2026-11-24")
    assert args.set == ["seed=7", "tolerance=0.1"]
    assert rest == beam


def test_gcloud_takes_the_metadata(tmp_path: Path) -> None:
    """`gcloud dataflow flex-template build --print-only` makes a container spec with our image and parameters."""
    done = call(
        program("gcloud"), "dataflow", "flex-template", "build", "gs://b/spec.json", "--image=r.example.com/p/i:1",
        "--sdk-language=PYTHON", f"--metadata-file={DEPLOY / 'metadata.json'}", "--print-only", "--project=p-123456",
        CLOUDSDK_CONFIG=str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    spec = json.loads(done.stdout[done.stdout.index("{") :])
    assert spec["image"] == "r.example.com/p/i:1"
    assert spec["sdkInfo"] == {"language": "PYTHON"}
    assert [p["name"] for p in spec["metadata"]["parameters"]] == list(template.PARAMETERS)


# --- the schedule ---


def test_the_launch_names_the_templates_parameters() -> None:
    """A parameter misspelt in the workflow would fail every night."""
    known = {p["name"]: p["isOptional"] for p in template.metadata()["parameters"]}
    given = launch()["parameters"].keys()
    assert given <= known.keys()
    assert {name for name, optional in known.items() if not optional} <= given
    assert "date" in given, "the build's date is the workflow's, so that a retry at midnight means the same build"


def test_the_launch_has_the_fields_that_the_service_knows() -> None:
    """The body against the service's own types."""
    types = pytest.importorskip("google.cloud.dataflow_v1beta3.types", reason="the gcp extra is not installed here")

    def snake(name: str) -> str:
        return re.sub(r"(?=[A-Z])", "_", name).lower()

    body = launch()
    assert {snake(k) for k in body} <= set(types.LaunchFlexTemplateParameter.meta.fields)
    assert {snake(k) for k in body["environment"]} <= set(types.FlexTemplateRuntimeEnvironment.meta.fields)
    assert {"tempLocation", "sdkContainerImage", "serviceAccountEmail", "maxWorkers"} <= body["environment"].keys()


@pytest.mark.parametrize("name", ["rebuild", "watch"])
def test_a_workflow_gets_the_values_that_it_asks_for(name: str) -> None:
    """Every sys.get_env has its variable, no variable is for nothing, and every `next` names a step."""
    text = (TERRAFORM / f"{name}.yaml").read_text()
    given = resources()["google_workflows_workflow", name]["user_env_vars"]
    assert set(re.findall(r'sys\.get_env\("(\w+)"\)', text)) == {key.strip('"') for key in given if "__" not in key}
    steps = {key for item in workflow(name)["main"]["steps"] for key in item}
    assert set(re.findall(r"next: (\w+)", text)) <= steps


@pytest.mark.parametrize("name", ["rebuild", "watch"])
def test_the_clock_starts_the_workflow(name: str) -> None:
    """The body is what executions.create takes, whose argument is JSON in a string, and the token is OAuth's."""
    (target,) = resources()["google_cloud_scheduler_job", name]["http_target"]
    assert f"google_workflows_workflow.{name}.id}}/executions" in target["uri"]
    assert "workflowexecutions.googleapis.com" in target["uri"]
    assert target["body"] == "${base64encode(jsonencode({argument = jsonencode({})}))}"
    assert "oauth_token" in target, "Google's APIs take OAuth tokens, not OpenID ones"


def test_every_reference_resolves() -> None:
    """Variables and resources that are named exist, and no variable is for nothing."""
    defined = resources()
    variables = {name.strip('"') for block in blocks("variable") for name in block}
    used = set()
    for text in strings([*defined.values(), *blocks("output"), *blocks("provider")]):
        used |= set(re.findall(r"\bvar\.(\w+)", text))
        for kind, name in re.findall(r"\b(google_\w+)\.(\w+)", text):
            assert (kind, name) in defined, f"{kind}.{name} is named and not defined"
    assert used == variables
    for name in re.findall(r'file\("\$\{path\.module\}/([\w.]+)"\)', (TERRAFORM / "schedule.tf").read_text()):
        assert (TERRAFORM / name).exists()


def test_the_rights_are_the_least() -> None:
    """No owner, no editor, no administrator; inputs are read only; workers cannot start jobs."""
    roles: dict[str, set[str]] = {}
    for (kind, name), body in resources().items():
        if kind.endswith(("_iam_member", "_iam_binding")):
            texts = set(strings(body))
            found = {t.strip('"') for t in texts if t.strip('"').startswith("roles/")}
            found |= {r for t in texts for r in re.findall(r"roles/[\w.]+", t)}
            roles[name] = found
    everything = set().union(*roles.values())
    assert not [role for role in everything if re.search(r"owner|editor|admin", role, re.IGNORECASE)]
    assert roles["worker_reads"] == {"roles/storage.objectViewer"}
    assert "roles/dataflow.developer" not in roles["worker"]


def test_buckets_keep_and_forget() -> None:
    """Corpora are versioned; work and temporary files go by themselves; none can be made public."""
    buckets = {name: body for (kind, name), body in resources().items() if kind == "google_storage_bucket"}
    assert buckets["corpus"]["versioning"][0]["enabled"] is True
    assert all(body["lifecycle_rule"] for body in buckets.values())
    assert all("enforced" in body["public_access_prevention"] for body in buckets.values())
    assert all(body["location"] == "${var.region}" for body in buckets.values())


def test_someone_is_told() -> None:
    """The alert looks at both workflows, for every end that is no success."""
    (policy,) = (body for (kind, _), body in resources().items() if kind == "google_monitoring_alert_policy")
    text = "\n".join(strings(policy))
    assert "google_workflows_workflow.rebuild.name" in text
    assert "google_workflows_workflow.watch.name" in text
    assert "finished_execution_count" in text


def test_terraform_is_formatted() -> None:
    """`terraform fmt -check`."""
    done = call(program("terraform"), "fmt", "-check", "-diff", str(TERRAFORM))
    assert done.returncode == 0, done.stdout + done.stderr


def test_cloud_build_makes_what_terraform_uses() -> None:
    """One image name throughout, the template from our metadata, and no substitution without a value."""
    text = (DEPLOY / "cloudbuild.yaml").read_text()
    values = yaml.safe_load(text)
    named = set(re.findall(r"\$\{(_\w+)\}", text))
    assert named == set(values["substitutions"])
    images = set(re.findall(r"\$\{_REGION\}-docker\S+", text))
    assert len(images) == 1
    template_step = next(step for step in values["steps"] if step["id"] == "template")
    assert "--metadata-file=deploy/metadata.json" in template_step["args"]
    assert "--sdk-language=PYTHON" in template_step["args"]
