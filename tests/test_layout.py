"""The rules of the layout that no linter knows: imports go one way, the package docstring is the map, sizes, names."""

import ast
import functools
import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("classifiers", "transforms", "beam_pipeline")  # each may import itself and those before it
MAX_FUNCTION, MAX_FILE = 60, 450

# Foundations and logic that have their own file; a step's file may hold its PTransform at the bottom.
PURE = {
    "errors", "schema", "measure", "annotation", "quarantine", "provenance", "compose", "storage",
    "storage_fsspec", "storage_gcs", "decode", "lines", "warc", "extract", "record", "read_jsonl",
    "read_parquet", "read_archive", "read", "select", "arms", "dose", "layout", "sequence", "write",
    "storage_local", "card", "croissant", "figures", "findings",
}  # fmt: skip


@functools.cache
def parsed(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def sources(*folders: str) -> list[Path]:
    """The project's Python files in some of its folders, sorted."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def named(path: Path) -> str:
    """A path as messages show it."""
    return str(path.relative_to(ROOT))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything that a file imports, at any depth; names of `from` imports included."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{named(path)}:{node.lineno}: relative import"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


@functools.cache
def flow() -> tuple[str, ...]:
    """The files of `transforms` in the order of its docstring: indented lines of `name   what it does`."""
    text = ast.get_docstring(parsed(ROOT / "transforms" / "__init__.py"), clean=False) or ""
    lines = (re.match(r"\s+([a-z_]+)(?:\.py)?\s\s+\S", line) for line in text.splitlines())
    return tuple(line[1] for line in lines if line)


def tracked() -> list[Path]:
    """Files that git has or would take: all but the ignored ones."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listing.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


# --- imports ---


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_go_one_way(layer: str) -> None:
    """beam_pipeline knows transforms, transforms knows classifiers, and nobody knows what is above."""
    above = LAYERS[LAYERS.index(layer) + 1 :]
    back = [
        f"{named(path)}:{line} imports {name}"
        for path in sources(layer)
        for line, name in imports(path)
        if name.split(".")[0] in {*above, "tests", "deploy", "examples"}
    ]
    assert not back, "imports against the direction beam_pipeline -> transforms -> classifiers:\n" + "\n".join(back)


def test_the_map_names_every_step() -> None:
    """The docstring of transforms has one indented line per file, `name   what it does`, in the order of the data."""
    files = {path.stem for path in sources("transforms")} - {"__init__"}
    missing, gone = files - set(flow()), set(flow()) - files
    twice = sorted({name for name in flow() if flow().count(name) > 1})
    assert not missing, f"no line in the docstring of transforms/__init__.py for {sorted(missing)}"
    assert not gone, f"the docstring of transforms/__init__.py has lines for files that are not there: {sorted(gone)}"
    assert not twice, f"the docstring of transforms/__init__.py has more than one line for {twice}"


def test_steps_only_look_back() -> None:
    """A step knows the steps before it and none of the steps after it."""
    order = {name: place for place, name in enumerate(flow())}
    forward = []
    for path in sources("transforms"):
        here = order.get(path.stem, -1)
        for line, name in imports(path):
            package, *rest = name.split(".")
            if package == "transforms" and here >= 0 and rest and order.get(rest[0], -1) >= here:
                forward.append(f"{named(path)}:{line} imports {rest[0]}")
    assert not forward, "steps that look ahead, by the order of transforms/__init__.py:\n" + "\n".join(forward)


def modules_loaded_by(statement: str) -> set[str]:
    """Top-level modules after a statement in a fresh interpreter."""
    code = f"import sys; {statement}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"`{statement}` failed:\n{done.stderr}"
    return set(done.stdout.split())


def test_classifiers_have_never_heard_of_beam() -> None:
    """Models can be used and tested where Beam is not installed."""
    names = [named(path)[:-3].replace("/", ".").removesuffix(".__init__") for path in sources("classifiers")]
    loaded = modules_loaded_by("import " + ", ".join(name for name in names if not name.endswith("__main__")))
    assert "apache_beam" not in loaded
    assert "fasttext" not in loaded, "fasttext is for training: import it inside the function that trains"


def test_pure_files_do_not_import_beam() -> None:
    """The logic of these can be tested without a pipeline, and read without knowing Beam."""
    impure = [
        f"{named(path)}:{line} imports {name}"
        for path in sources("classifiers", "transforms")
        if path.stem in PURE or path.parent.name == "classifiers"
        for line, name in imports(path)
        if name.split(".")[0] == "apache_beam"
    ]
    assert not impure, "\n".join(impure)


def test_annotations_are_evaluated() -> None:
    """Beam reads type hints at run time; as strings they would switch its checks off."""
    lazy = [
        f"{named(path)}:{line}"
        for path in sources("transforms", "beam_pipeline")
        for line, name in imports(path)
        if name == "__future__.annotations"
    ]
    assert not lazy, "`from __future__ import annotations` hides types from Beam: " + ", ".join(lazy)


# --- Beam ---

_UNLABELLED = {"Map", "FlatMap", "Filter", "MapTuple", "FlatMapTuple", "ParDo", "CombineGlobally", "CombinePerKey"}


def test_every_step_of_a_pipeline_has_a_label() -> None:
    """`"Name" >> beam.Map(...)`: labels name steps in the monitoring page, and updates of a job match by them."""
    bare = []
    for path in sources("transforms", "beam_pipeline"):
        labelled = {
            id(node.right)
            for node in ast.walk(parsed(path))
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.RShift)
        }
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr) and id(node.right) not in labelled:
                step = node.right
                while isinstance(step, ast.Call) and isinstance(step.func, ast.Attribute):
                    if isinstance(step.func.value, ast.Name) and step.func.value.id == "beam":
                        bare += [f"{named(path)}:{step.lineno} beam.{step.func.attr}"] * (step.func.attr in _UNLABELLED)
                    step = step.func.value
    assert not bare, "steps without a label:\n" + "\n".join(bare)


# --- words and sizes ---


def functions_of(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function and method of a file."""
    return (node for node in ast.walk(parsed(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_public_names_have_docstrings() -> None:
    """A module, function or class that others use says what it guarantees."""
    silent = []
    for path in sources(*LAYERS):
        if path.read_text(encoding="utf-8").strip() and not ast.get_docstring(parsed(path)):
            silent.append(f"{named(path)}:1 the module")
        for node in parsed(path).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                silent += [f"{named(path)}:{node.lineno} {node.name}"] * (not ast.get_docstring(node))
    assert not silent, "without a docstring:\n" + "\n".join(silent)


def test_tests_have_docstrings() -> None:
    """A failing name and its docstring are enough to file the bug."""
    silent = [
        f"{named(path)}:{node.lineno} {node.name}"
        for path in sources("tests")
        for node in functions_of(path)
        if node.name.startswith("test_") and not ast.get_docstring(node)
    ]
    assert not silent, "tests without a docstring:\n" + "\n".join(silent)


def test_functions_fit_a_screen() -> None:
    """Longer ones have a part that deserves a name."""
    long = [
        f"{named(path)}:{node.lineno} {node.name}: {length} lines"
        for path in sources(*LAYERS)
        for node in functions_of(path)
        if (length := (node.end_lineno or node.lineno) - node.lineno + 1) > MAX_FUNCTION
    ]
    assert not long, f"functions of more than {MAX_FUNCTION} lines:\n" + "\n".join(long)


def test_files_are_one_step_long() -> None:
    """Longer ones hold two things; give the pure part its own file."""
    lengths = {named(path): len(path.read_text(encoding="utf-8").splitlines()) for path in sources(*LAYERS)}
    long = [f"{name}: {length} lines" for name, length in lengths.items() if length > MAX_FILE]
    assert not long, f"files of more than {MAX_FILE} lines:\n" + "\n".join(long)


# --- agreement between files ---


def constant_of_setup(name: str) -> str:
    """A keyword of setup(), or a constant at the top of setup.py, that is one literal string."""
    for node in ast.walk(parsed(ROOT / "setup.py")):
        if isinstance(node, ast.keyword):
            names = [node.arg]
        elif isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        else:
            continue
        if name in names and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return node.value.value
    raise AssertionError(f"setup.py has no literal {name}")


def test_beam_is_the_same_everywhere() -> None:
    """The image of the workers, the lock and setup.py name one release, or a job dies after it was paid for."""
    wanted = constant_of_setup("BEAM").removesuffix(".*")
    locked = re.findall(r"^apache-beam==(\S+)", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE)
    assert [version.rpartition(".")[0] for version in locked] == [wanted], f"requirements.lock: {locked}; ./dev lock"
    dockerfile = ROOT / "deploy" / "Dockerfile"
    if dockerfile.exists():
        text = dockerfile.read_text(encoding="utf-8")
        named_there = re.findall(r"(?:BEAM\w*[= ]|beam_python[\d.]+_sdk:|apache-beam\S*?==)(\d[\d.]*\d)", text)
        assert named_there, "deploy/Dockerfile names no release of Beam (beam_python3.x_sdk:VERSION or BEAM_VERSION=)"
        assert set(named_there) == set(locked), f"deploy/Dockerfile has Beam {named_there}, requirements.lock {locked}"


def normal(name: str) -> str:
    """A distribution's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


@functools.cache
def declared() -> frozenset[str]:
    """Distributions that the lists at the top of setup.py ask for."""
    asked = frozenset(
        normal(match[1])
        for node in parsed(ROOT / "setup.py").body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.List)
        for part in ast.walk(node.value)
        if isinstance(part, ast.Constant) and (match := re.match(r"([\w.-]+)(?:\[[\w,]+\])?[<>=]", str(part.value)))
    )
    assert len(asked) > 20, "the lists of setup.py were not understood"
    return asked


def test_what_is_imported_is_declared() -> None:
    """A dependency of a dependency may go away; what we import ourselves stands in setup.py."""
    homes = importlib.metadata.packages_distributions()
    undeclared = {}
    for path in sources(*LAYERS):
        for line, name in imports(path):
            module = name.split(".")[0]
            ours = module in {*sys.stdlib_module_names, *LAYERS}
            if not ours and module != "google" and not declared() & {normal(home) for home in homes.get(module, ())}:
                undeclared[module] = f"{module} of {homes.get(module, 'an unknown distribution')}, {named(path)}:{line}"
    assert not undeclared, "imported, but not in setup.py:\n" + "\n".join(undeclared.values())


def test_the_lock_is_of_this_setup() -> None:
    """Every direct dependency is locked; `./dev lock` after setup.py changes."""
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    locked = {normal(name) for name in re.findall(r"^([\w.-]+)==", lock, re.MULTILINE)}
    assert not declared() - locked, f"not in requirements.lock: {sorted(declared() - locked)}; run ./dev lock"


def test_the_changelog_has_this_version() -> None:
    """A release says what it changes, output bytes apart from the rest."""
    version = constant_of_setup("version")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[?{re.escape(version)}\b", changelog, re.MULTILINE), f"no `## {version}` in CHANGELOG.md"
    assert "### Corpus changes" in changelog, "no section `### Corpus changes` in CHANGELOG.md"


# --- nothing of one machine ---

# Spelt in pieces, so that this file passes its own test.
_MACHINE = re.compile("|".join((r"(?<![\w./-])/" + "work/", "/" + r"root/\.?\w", "/" + r"home/(?!user\b|me\b)\w+/")))
_REGISTRY = re.compile(
    "|".join(
        ("pypi" + r"\.org", "pythonhosted" + r"\.org", "npmjs" + r"\.(?:org|com)", "index" + "-url", "find" + "-links")
    )
)


def test_files_name_no_machine_and_no_registry() -> None:
    """What is committed works on another machine and with another mirror."""
    found = []
    for path in tracked():
        content = path.read_bytes()
        if b"\0" in content[:8192]:
            continue
        for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
            if (_MACHINE.search(line) or _REGISTRY.search(line)) and "--no-emit-" not in line:
                found.append(f"{named(path)}:{number}: {line.strip()[:100]}")
    assert not found, "paths of a machine or names of a registry:\n" + "\n".join(found[:20])
