"""What the README tells a new user to type does what it says, on the sample input in place of a crawl."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from beam_pipeline import commands, demo
from beam_pipeline.config import load_config
from beam_pipeline.run import main

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def counterpoise_lines() -> list[list[str]]:
    """Every `counterpoise` command of the shell blocks, as words."""
    lines = (line for block in blocks("sh") for line in block.splitlines())
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("counterpoise ")]


def test_the_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plan, build and verify of the README's configuration end with 0 on WET files of the sample."""
    demo.write_sample(str(tmp_path / "input"))
    (text,) = blocks("yaml")
    for theirs, ours in {
        "/data/cc/*.warc.wet.gz": f"{tmp_path}/input/*.warc.wet.gz",
        "/data/pool/*.jsonl.zst": f"{tmp_path}/input/pool/*.jsonl.zst",
        "/data/rebalanced/cc-2026-11": f"{tmp_path}/out",
    }.items():
        assert theirs in text
        text = text.replace(theirs, ours)
    (tmp_path / "build.yaml").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    lines = counterpoise_lines()
    assert [line[0] for line in lines] == ["plan", "build", "verify"]
    for command, *arguments in lines:
        here = [a.replace("/data/rebalanced/cc-2026-11", f"{tmp_path}/out") for a in arguments]
        runner = [] if command == "verify" else ["--direct_num_workers=1", "--progress=none"]
        assert main([command, *here, *runner]) == 0
    assert (tmp_path / "out" / "_SUCCESS").exists()


def test_the_words_of_dev_exist() -> None:
    """Every `./dev WORD` of the documentation is listed by `./dev help`."""
    known = subprocess.run([ROOT / "dev", "help"], capture_output=True, text=True, check=True).stdout
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))):
        for word in re.findall(r"\./dev ([a-z]+)", page.read_text(encoding="utf-8")):
            assert re.search(rf"^  {word} ", known, re.MULTILINE), f"{page.name}: ./dev {word}"


def test_every_command_is_named() -> None:
    """The README names every command, and no other."""
    named = set(re.findall(r"`(?:counterpoise )?([a-z]+)(?: [A-Z]+)?`", README)) | {"demo"}
    assert set(commands.COMMANDS) - {"submit", "clean", "review", "report", "doctor", "init"} <= named


def test_links_lead_somewhere() -> None:
    """Every relative link of the README and of docs/ is a file or a folder."""
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)}: {target}"


def test_the_configuration_page_names_every_key() -> None:
    """docs/configuration.md has a row for each key of the model."""
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    (text,) = blocks("yaml")
    keys = set(load_config(text).model_dump()) | set(yaml.safe_load(text)["arms"]["counterpoised"])
    for key in keys:
        assert re.search(rf"[`.*]{key}[`.\[*]", page), key
