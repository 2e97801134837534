"""Names, paths, documents and configurations are other people's: none of them gets where it does not belong."""

import json
import logging
import os
import re
from pathlib import Path

import pytest

from beam_pipeline.config import load_config
from beam_pipeline.run import main
from tests import corpora, shards
from tests.test_agreement import files_below
from transforms.errors import ConfigError, CounterpoiseError
from transforms.storage import brief, join

NAMES = [
    "..",
    ".",
    "",
    "a/b",
    "/etc",
    "..\\x",
    "a\0b",
    "a\nb",
    "-x",
    "_x",
    ".hidden",
    "x" * 65,
    "ü",
    "a b",
    "~",
    "$(id)",
]
SECRET = "hunter2-swordfish"


@pytest.mark.parametrize("name", NAMES)
def test_names_cannot_leave_the_output(tmp_path: Path, name: str) -> None:
    """Names of builds, sources, pools and arms are letters, digits, dots, dashes and underscores; else exit code 2."""
    values = corpora.config(corpora.write_web(tmp_path, 3))
    for changed in (
        values | {"name": name},
        values | {"arms": {name: {}}},
        values | {"sources": [{**values["sources"][0], "name": name}]},
        values | {"pool": [{**values["pool"][0], "name": name}]},
    ):
        with pytest.raises(ConfigError):
            load_config(json.dumps(changed))


@pytest.mark.parametrize("part", ["..", "a/../b", "/a", "a//b", "", ".", "a\\b", "a\nb"])
def test_no_path_is_joined_with_a_way_out(part: str) -> None:
    """The one function that makes URLs refuses every part that could mean another folder."""
    with pytest.raises(ValueError, match="use plain relative names"):
        join("gs://bucket/out", part)


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch {path}']",
        "name: !!python/name:os.system",
        "name: !!python/object/new:os.system ['touch {path}']",
        "a: &a [x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nname: [*c,*c,*c]",
        "? [a, b]\n: 1",
        "{{{{",
        "name: x\nname: y",
    ],
)
def test_yaml_makes_no_objects(tmp_path: Path, text: str) -> None:
    """Tags that run code, bombs of aliases, odd keys and doubled keys are errors of the configuration, nothing more."""
    path = tmp_path / "touched"
    with pytest.raises(ConfigError):
        load_config(text.replace("{path}", str(path)))
    with pytest.raises(CounterpoiseError):
        load_config("name: x", [f"seed={text.splitlines()[0]}".replace("{path}", str(path))])
    assert not path.exists()


def test_documents_and_shard_names_stay_data(tmp_path: Path) -> None:
    """Markup, paths and control characters in texts, ids and shard names reach no other file and no page as markup."""
    evil = "<script>alert(1)</script>"
    (tmp_path / "web").mkdir()
    docs = [
        (f"../../{evil}{n}", f"{text} {evil} ../../../etc/passwd")
        for n, text in enumerate(corpora.SENTENCES["neutral"])
    ]
    shards.write_jsonl(tmp_path / "web" / "<img src=x onerror=alert(1)>.jsonl", docs)
    (tmp_path / "web/bad.jsonl").write_bytes(b'{"text": "<script>alert(2)</script>')
    values = corpora.config(tmp_path, limits={"bad_records": 0.9})
    corpora.run_plain(values)
    found = files_below(f"{tmp_path}/out")
    files = {"manifest.json", "README.md", "report.html", "croissant.json", "_SUCCESS", "_BUILD.json"}
    assert {name.split("/")[0] for name in found} <= files | {"unfiltered", "quarantine"}
    for page in ("report.html", "README.md"):
        assert b"<img src=x" not in found[page] and evil.encode() not in found[page]
    assert {path.name for path in tmp_path.iterdir()} == {"web", "out"}


def test_text_never_reaches_a_log_or_a_message(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Good, bad and cut records at the most talkative level: not a word of them outside the corpus."""
    caplog.set_level(logging.DEBUG)
    (tmp_path / "web").mkdir()
    shards.write_jsonl(
        tmp_path / "web/good.jsonl", [(SECRET, f"{SECRET} is here. " + t) for t in corpora.SENTENCES["aligned"]]
    )
    bad = [f'{{"text": "{SECRET}', f'{{"text": ["{SECRET}"]}}', f"{SECRET}: 1", f'{{"text": 1, "{SECRET}": 2}}']
    (tmp_path / "web/bad.jsonl").write_text("\n".join(bad))
    lying = shards.wet_record("x", SECRET, content_length="9999999") + SECRET.encode()
    (tmp_path / "web/cut.warc.wet").write_bytes(lying)
    config = corpora.write_config(tmp_path, corpora.config(tmp_path))
    assert main(["build", config, "--direct_num_workers=1", "--progress=none"]) == 3
    printed = capsys.readouterr()
    options = ["--set", "limits.bad_records=0.9", "--set", "limits.bad_shards=1", f"--set=output.path={tmp_path}/again"]
    assert main(["build", config, "--direct_num_workers=1", "--progress=none", "--debug", *options]) == 0
    printed_again = capsys.readouterr()
    for text in (*printed, *printed_again, caplog.text):
        assert SECRET not in text


@pytest.mark.parametrize(
    "url",
    [
        f"ftp://user:{SECRET}@host/web/*",
        f"https://host/web/a.jsonl?X-Goog-Signature={SECRET}",
        f"abfs://box@account/web/*?sig={SECRET}",
        f"sftp://user:{SECRET}@host:22/x.jsonl",
    ],
)
def test_urls_with_secrets_are_refused(tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """They would stand in manifest, provenance and messages for ever; the message does not repeat them."""
    values = corpora.config(corpora.write_web(tmp_path, 3))
    for changed in (
        values | {"sources": [{**values["sources"][0], "paths": url}]},
        values | {"sources": [{**values["sources"][0], "paths": [url, f"{tmp_path}/web/*"]}]},
        values | {"pool": [{**values["pool"][0], "checksums": url}]},
        values | {"work": url},
        values | {"tokenizer": url},
        values | {"output": {**values["output"], "path": url}},
    ):
        path = corpora.write_config(tmp_path, changed)
        assert main(["plan", path]) == 2
        said = capsys.readouterr().err
        assert SECRET not in said
        assert re.search(r"credentials do not belong into a URL.*environment", said)


def test_errors_of_libraries_lose_their_signatures() -> None:
    """What an error says after a question mark may be a signed URL's secret."""
    error = OSError(f"GET https://storage.example/x?X-Goog-Signature={SECRET}&a=b failed\nAuthorization: {SECRET}")
    assert SECRET not in brief(error)
    assert os.linesep not in brief(error)
