"""Verification finds every change that was made to a finished corpus, also where checksums were made to agree."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from beam_pipeline.verify import check, verify
from tests import corpora, reference
from transforms.errors import StorageError, Unaccounted

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")

ARMS: dict[str, Any] = {
    "unfiltered": {},
    "all": {"misaligned": "divert", "refill": "random", "dose": {"share": 0.2}, "max_repeats": 20},
}


def finished(folder: Path, **changes: Any) -> Path:
    """A finished corpus with everything in it: copies, diverted documents, a dose, bad records."""
    corpora.write_web(folder)
    (folder / "web/bad.jsonl").write_bytes(b"[]\n{}\n" + b'{"text": "a last good one"}\n')
    values = corpora.config(folder, arms=ARMS, limits={"bad_records": 0.1}, language={"keep": ["en"]}, **changes)
    corpora.run_plain(values)
    return folder / "out"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One finished corpus, as zstd."""
    return finished(tmp_path_factory.mktemp("verify"), output={"format": "jsonl.zst"})


@pytest.fixture
def corpus(made: Path, tmp_path: Path) -> Path:
    """A copy of it to be tampered with; where a corpus lies does not matter."""
    return Path(shutil.copytree(made, tmp_path / "moved"))


def manifest_of(corpus: Path) -> dict[str, Any]:
    """The manifest."""
    found: dict[str, Any] = json.loads((corpus / "manifest.json").read_text())
    return found


def resealed(corpus: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest and make `_SUCCESS` agree."""
    manifest = manifest_of(corpus)
    change(manifest)
    data = json.dumps(manifest).encode()
    (corpus / "manifest.json").write_bytes(data)
    (corpus / "_SUCCESS").write_text(json.dumps({"manifest_sha256": hashlib.sha256(data).hexdigest()}))


def rewritten(corpus: Path, path: str, data: bytes) -> None:
    """Change a file and make the manifest agree about its sums."""
    (corpus / path).write_bytes(data)

    def sums(manifest: dict[str, Any]) -> None:
        for entry in (e for arm in manifest["arms"].values() for e in (*arm["files"], *arm["diverted_files"])):
            for stated in (entry, entry["provenance"]):
                if stated["path"] == path:
                    stated.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())

    resealed(corpus, sums)


def first(corpus: Path, arm: str = "all", key: str = "files") -> dict[str, Any]:
    """The first file of an arm."""
    entry: dict[str, Any] = manifest_of(corpus)["arms"][arm][key][0]
    return entry


def lines_of(corpus: Path, path: str) -> list[bytes]:
    """The records of a part."""
    return reference.read_part(str(corpus / path))


def zst(lines: list[bytes]) -> bytes:
    """A part of these records."""
    return zstandard.ZstdCompressor().compress(b"".join(lines))


def found(corpus: Path) -> str:
    """All problems."""
    return "\n".join(verify(str(corpus), workers=1).problems)


@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "jsonl.zst", "parquet"])
def test_a_finished_corpus_is_right(tmp_path: Path, form: str) -> None:
    """Every format, tokens counted again; the counts of what was read are the manifest's."""
    corpus = finished(tmp_path, output={"format": form}, unit="tokens", tokenizer=corpora.tokenizer())
    result = check(str(corpus), workers=1)
    entries = [e for arm in manifest_of(corpus)["arms"].values() for e in (*arm["files"], *arm["diverted_files"])]
    assert (result.files, result.records) == (len(entries), sum(e["records"] for e in entries))
    assert result.bytes == sum(e["bytes"] for e in entries)


def test_a_moved_corpus_is_right(corpus: Path) -> None:
    """Nothing in it depends on where it lies; two workers find the same."""
    assert verify(str(corpus), workers=2) == verify(str(corpus), workers=1)
    assert found(corpus) == ""


@pytest.mark.parametrize("key", ["files", "diverted_files"])
@pytest.mark.parametrize("place", [0, -1])
def test_a_changed_byte(corpus: Path, key: str, place: int) -> None:
    """A single bit of a part, diverted ones included."""
    path = corpus / first(corpus, key=key)["path"]
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    assert found(corpus).startswith(f"{path.relative_to(corpus)}: sha256 or size is not the manifest's")


def test_a_missing_part(corpus: Path) -> None:
    """A part that is gone."""
    path = first(corpus)["path"]
    (corpus / path).unlink()
    assert f"{path}: is missing" in found(corpus)


def test_a_missing_provenance(corpus: Path) -> None:
    """A provenance file that is gone."""
    path = first(corpus)["provenance"]["path"]
    (corpus / path).unlink()
    assert f"{path}: is missing" in found(corpus)


def test_changed_provenance(corpus: Path) -> None:
    """A bit of a provenance file."""
    path = corpus / first(corpus)["provenance"]["path"]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert f"{path.relative_to(corpus)}: sha256 or size" in found(corpus)


@pytest.mark.parametrize(
    "name", ["unfiltered/part-00099-of-00100.jsonl.zst", "all/notes.txt", "diverted/all/x", "all/provenance/x.parquet"]
)
def test_an_added_file(corpus: Path, name: str) -> None:
    """A file in an arm's folders that the manifest does not name would be loaded with the arm."""
    (corpus / name).write_bytes(b"x")
    assert found(corpus) == f"{name}: is in the corpus, but not in the manifest"


def test_a_removed_record(corpus: Path) -> None:
    """One record less, sums made to agree: the provenance has a row more."""
    path = first(corpus)["path"]
    rewritten(corpus, path, zst(lines_of(corpus, path)[1:]))
    assert f"{path}: the part and its provenance differ in length" in found(corpus)


def test_a_record_removed_with_its_provenance(corpus: Path) -> None:
    """One record and its row less, sums made to agree: neither the file's count nor the equation closes."""
    entry = first(corpus, "unfiltered")
    rewritten(corpus, entry["path"], zst(lines_of(corpus, entry["path"])[1:]))
    sink = pa.BufferOutputStream()
    pq.write_table(pq.read_table(corpus / entry["provenance"]["path"]).slice(1), sink)
    rewritten(corpus, entry["provenance"]["path"], sink.getvalue().to_pybytes())
    problems = found(corpus)
    assert f"{entry['path']}: holds {entry['records'] - 1} records, the manifest says {entry['records']}" in problems
    assert "unfiltered, web: kept is" in problems


def test_a_changed_text(corpus: Path) -> None:
    """Another text of another length, sums made to agree: the provenance has the old length."""
    path = first(corpus)["path"]
    lines = lines_of(corpus, path)
    rewritten(corpus, path, zst([lines[0].replace(b'"text":"', b'"text":"AI '), *lines[1:]]))
    assert f"{path}: record 0 has" in found(corpus)


def test_changed_origins(corpus: Path) -> None:
    """Synthetic documents declared to be base documents, sums made to agree."""
    entry = next(e for e in manifest_of(corpus)["arms"]["all"]["files"] if e["synthetic"])
    table = pq.read_table(corpus / entry["provenance"]["path"])
    place = table.schema.get_field_index("origin")
    sink = pa.BufferOutputStream()
    pq.write_table(table.set_column(place, "origin", pa.array(["base"] * len(table))), sink)
    rewritten(corpus, entry["provenance"]["path"], sink.getvalue().to_pybytes())
    problems = found(corpus)
    assert f"{entry['path']}: holds 0 words of synthetic text, the manifest says {entry['synthetic']}" in problems
    assert "all, stories: synthetic is" in problems


def test_an_edited_manifest(corpus: Path) -> None:
    """Any edit: `_SUCCESS` has the manifest's hash."""
    path = corpus / "manifest.json"
    path.write_text(path.read_text().replace('"name": "test"', '"name": "best"'))
    assert found(corpus) == "manifest.json is not the one that _SUCCESS names"


EDITS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "kept": (lambda m: m["arms"]["all"]["equation"]["web"]["kept"].update(documents=1), "all, web: kept is"),
    "read": (lambda m: m["arms"]["all"]["equation"]["web"]["read"].update(tokens=5), "read 5 tokens, accounted for 0"),
    "dropped": (lambda m: m["arms"]["all"]["equation"]["web"]["dropped_language"].update(words=0), "all, web: read"),
    "inputs": (lambda m: m["inputs"][0].update(records=1), "all, web: the inputs hold"),
    "left-out": (lambda m: m["inputs"][0].update(left_out=True), "all, web: the inputs hold"),
    "records": (lambda m: m["arms"]["all"]["files"][0].update(records=1), "the manifest says 1"),
    "synthetic": (lambda m: m["arms"]["all"]["files"][0].update(synthetic=1), "the manifest says 1"),
    "dose": (lambda m: m["arms"]["all"]["dose"].update(got=1), "synthetic, the manifest says"),
    "asked": (lambda m: m["config"]["arms"]["all"]["dose"].update(share=0.4), "all: asked for"),
    "placement": (lambda m: m["arms"]["all"]["dose"].update(largest_document=0), "of synthetic text, its share is"),
    "arm": (lambda m: m["arms"]["unfiltered"]["files"].pop(), "is in the corpus, but not in the manifest"),
    "quarantine": (lambda m: m["quarantine"].update(records=1), "holds 2 records and 0 shards, the manifest says 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_and_resealed_manifest(corpus: Path, name: str) -> None:
    """Numbers that do not agree with the files or with each other, though `_SUCCESS` was made to agree."""
    change, says = EDITS[name]
    resealed(corpus, change)
    assert says in found(corpus)


def test_a_removed_quarantine_line(corpus: Path) -> None:
    """A bad record that is no longer there was lost after all."""
    path = corpus / "quarantine/records.jsonl.zst"
    lines = lines_of(corpus, "quarantine/records.jsonl.zst")
    path.write_bytes(zst(lines[1:]))
    assert found(corpus) == "quarantine holds 1 records and 0 shards, the manifest says 2 and 0"
    path.unlink()
    assert found(corpus) == "quarantine/records.jsonl.zst: is missing"


def test_no_success(corpus: Path) -> None:
    """Without `_SUCCESS` there is nothing to verify."""
    (corpus / "_SUCCESS").unlink()
    with pytest.raises(StorageError, match="has no _SUCCESS: it is no finished corpus; run the build again"):
        verify(str(corpus))


def test_check_raises_with_all_problems(corpus: Path) -> None:
    """One message with every disagreement."""
    (corpus / first(corpus)["path"]).unlink()
    (corpus / first(corpus, "unfiltered")["path"]).unlink()
    with pytest.raises(Unaccounted) as error:
        check(str(corpus), workers=1)
    assert str(error.value).count("is missing") == 2
