"""The proof: the equation closes or the build fails, quarantine is whole, and `_SUCCESS` comes last."""

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
import zstandard

from beam_pipeline.pipeline import Build
from tests import corpora, shards
from transforms import find
from transforms.annotate import annotate_slice
from transforms.commit import Books, commit_corpus, make_manifest
from transforms.errors import InputChanged, InputError, OutputConflict, Unaccounted
from transforms.mix import FileReceipt

ARMS: dict[str, Any] = {
    "unfiltered": {},
    "apart": {"misaligned": "divert", "refill": "random"},
    "dosed": {"misaligned": {"keep": 0.5}, "dose": {"share": 0.1}},
}


def build(folder: Path, **changes: Any) -> tuple[Build, Books]:
    """A small build, mixed and not yet committed."""
    values = corpora.config(folder, **{"arms": ARMS, **changes})
    job = corpora.checked(values).job
    return job, corpora.mixed(job)


def commit(job: Build, books: Books) -> dict[str, Any]:
    """Commit a build."""
    return commit_corpus(books, job.identity, job.settings.output)


def quarantined(folder: Path) -> list[dict[str, Any]]:
    """The lines of quarantine."""
    with (folder / "out/quarantine/records.jsonl.zst").open("rb") as file:
        data = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True).read()
    return [json.loads(line) for line in data.splitlines()]


# --- the equation ---


def test_every_source_adds_up(tmp_path: Path) -> None:
    """read = kept + dropped + diverted + quarantined and written = kept + refilled + synthetic, in every unit."""
    (corpora.write_web(tmp_path) / "web/bad.jsonl").write_bytes(b'{"text": 1}\n{"text": "good"}\n')
    job, books = build(tmp_path, language={"keep": ["en"]}, limits={"bad_records": 0.1})
    manifest = commit(job, books)
    for arm in manifest["arms"].values():
        terms = arm["equation"]["web"]
        for unit in terms["read"]:
            accounted = ("kept", "dropped_language", "dropped_misaligned", "diverted", "quarantined")
            assert terms["read"][unit] == sum(terms[term][unit] for term in accounted)
            written = terms["kept"][unit] + terms["refilled"][unit] + arm["equation"]["stories"]["synthetic"][unit]
            assert written == arm["written"]["total"][unit]
        assert (terms["read"]["documents"], terms["quarantined"]["documents"]) == (62, 1)
        assert arm["written"]["total"]["documents"] == sum(file["records"] for file in arm["files"])


def with_file(books: Books, change: Callable[[FileReceipt], FileReceipt]) -> Books:
    """Books in which the first file says something else."""
    first, *groups = books.groups
    files = (change(first.files[0]), *first.files[1:])
    return books._replace(groups=[first._replace(files=files), *groups])


def lose_a_document(file: FileReceipt) -> FileReceipt:
    """A file that lacks one base document."""
    (key, (documents, *rest)), *others = file.amounts.items()
    return file._replace(amounts={key: (documents - 1, *rest), **dict(others)})


def test_a_lost_document_fails_the_build(tmp_path: Path) -> None:
    """A file with one document less than planned, and nothing is committed."""
    job, books = build(corpora.write_web(tmp_path))
    says = (
        r"arm unfiltered, source web: the equation does not close .*documents: read 60, accounted for 59.*kept: planned"
    )
    with pytest.raises(Unaccounted, match=says):
        commit(job, with_file(books, lose_a_document))
    assert not (tmp_path / "out/_SUCCESS").exists()
    assert not (tmp_path / "out/manifest.json").exists()


def test_a_lost_group_fails_the_build(tmp_path: Path) -> None:
    """A group that never arrived."""
    job, books = build(corpora.write_web(tmp_path))
    with pytest.raises(Unaccounted):
        commit(job, books._replace(groups=books.groups[:-1]))


def test_a_dose_that_is_off_fails_the_build(tmp_path: Path) -> None:
    """More than a document and more than the tolerance from what was asked."""
    job, books = build(corpora.write_web(tmp_path))
    (plan,) = (a for a in books.plan.arms if a.cuts.arm.name == "dosed")
    within = plan.dose.largest
    for extra, off in ((within, False), (within + 2 + abs(plan.dose.got - plan.dose.asked), True)):

        def more(file: FileReceipt, extra: int = extra) -> FileReceipt:
            return file._replace(synthetic_amount=file.synthetic_amount + extra) if file.stream.arm == "dosed" else file

        groups = [g._replace(files=tuple(map(more, g.files))) if i == 0 else g for i, g in enumerate(books.groups)]
        changed = books._replace(groups=groups)
        if off:
            with pytest.raises(
                Unaccounted, match=r"arm dosed: the dose is \d+ words, asked were \d+; tolerance is 0.10%"
            ):
                make_manifest(changed, job.identity, job.settings.output)
        elif plan.dose.got <= plan.dose.asked:
            make_manifest(changed, job.identity, job.settings.output)


# --- what is committed ---


def test_success_names_the_manifest(tmp_path: Path) -> None:
    """`_SUCCESS` holds the manifest's sums, and the manifest those of every file."""
    job, books = build(corpora.write_web(tmp_path))
    manifest = commit(job, books)
    success = json.loads((tmp_path / "out/_SUCCESS").read_text())
    data = (tmp_path / "out/manifest.json").read_bytes()
    assert success["manifest_sha256"] == hashlib.sha256(data).hexdigest()
    assert json.loads(data) == manifest
    for arm in manifest["arms"].values():
        for entry in (*arm["files"], *arm["diverted_files"]):
            for stated in (entry, entry["provenance"]):
                found = (tmp_path / "out" / stated["path"]).read_bytes()
                assert (len(found), hashlib.sha256(found).hexdigest()) == (stated["bytes"], stated["sha256"])
            assert entry["uncompressed_bytes"] == entry["bytes"]


def test_committing_again_changes_nothing(tmp_path: Path) -> None:
    """A second attempt writes the same bytes, so retries are harmless."""
    job, books = build(corpora.write_web(tmp_path))
    commit(job, books)
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    commit(job, books._replace(groups=books.groups[::-1], receipts=books.receipts[::-1]))
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


def test_another_manifest_is_not_overwritten(tmp_path: Path) -> None:
    """A name that holds other bytes stops the build before `_SUCCESS`."""
    job, books = build(corpora.write_web(tmp_path))
    (tmp_path / "out/manifest.json").write_text("{}")
    with pytest.raises(OutputConflict):
        commit(job, books)
    assert not (tmp_path / "out/_SUCCESS").exists()


def test_the_manifest_names_no_place_of_the_output(tmp_path: Path) -> None:
    """A corpus can be moved: the manifest has the inputs' names and relative ones of its own files."""
    job, books = build(corpora.write_web(tmp_path))
    commit(job, books)
    assert str(tmp_path / "out") not in (tmp_path / "out/manifest.json").read_text()
    assert str(tmp_path / "out") not in (tmp_path / "out/README.md").read_text()


def test_inputs_are_listed_with_version_and_sum(tmp_path: Path) -> None:
    """Every shard and pool, what was read of it, and its crc32c where it was read as a whole."""
    job, books = build(corpora.write_web(tmp_path))
    inputs = commit(job, books)["inputs"]
    assert [entry["source"] for entry in inputs] == ["web", "web", "web", "stories"]
    assert sum(entry["records"] for entry in inputs) == 80
    assert all(entry["checksum"].startswith("crc32c:") for entry in inputs)
    assert all(entry["size"] == Path(entry["shard"]).stat().st_size for entry in inputs)


def test_the_card_loads_each_arm(tmp_path: Path) -> None:
    """The head of README.md is YAML with a configuration for each arm, whose pattern matches the arm's parts alone."""
    job, books = build(corpora.write_web(tmp_path), output={"format": "jsonl.gz"})
    commit(job, books)
    _, head, body = (tmp_path / "out/README.md").read_text().split("---\n", 2)
    configs = yaml.safe_load(head)["configs"]
    assert [c["config_name"] for c in configs] == list(ARMS)
    assert [bool(c.get("default")) for c in configs] == [True, False, False]
    for entry, arm in zip(configs, ARMS, strict=True):
        parts = sorted((tmp_path / "out").glob(entry["data_files"]))
        assert parts == sorted((tmp_path / "out" / arm).glob("*.jsonl.gz"))
        assert parts
    assert "| dosed |" in body


# --- quarantine ---


def test_quarantine_holds_every_bad_record(tmp_path: Path) -> None:
    """Where each begins, why it is there, how long it was, its first bytes as text and exactly."""
    corpora.write_web(tmp_path)
    bad = [b'{"text": 1}', b"\xff\xfe", b'{"id": "' + b"x" * 3000 + b'"}']
    (tmp_path / "web/bad.jsonl").write_bytes(b"\n".join(bad) + b"\n")
    job, books = build(tmp_path, limits={"bad_records": 0.1})
    manifest = commit(job, books)
    lines = quarantined(tmp_path)
    assert [line["reason"] for line in lines] == ["text_not_string", "not_utf8", "no_text"]
    assert [line["position"] for line in lines] == [0, 12, 15]
    assert [line["length"] for line in lines] == [len(record) for record in bad]
    assert [base64.b64decode(line["head_base64"]) for line in lines] == [record[:1024] for record in bad]
    assert {line["shard"] for line in lines} == {str(tmp_path / "web/bad.jsonl")}
    assert manifest["quarantine"]["records"] == 3


def test_pools_have_quarantine_too(tmp_path: Path) -> None:
    """A bad synthetic record counts and is kept like any other."""
    (corpora.write_web(tmp_path) / "pool/bad.jsonl").write_bytes(b"[]\n")
    job, books = build(tmp_path, limits={"bad_records": 0.1})
    assert commit(job, books)["quarantine"]["reasons"] == {"stories": {"not_object": 1}}
    assert quarantined(tmp_path)[0]["reason"] == "not_object"


def test_no_bad_records(tmp_path: Path) -> None:
    """Quarantine is an empty file, not a missing one."""
    job, books = build(corpora.write_web(tmp_path))
    commit(job, books)
    assert quarantined(tmp_path) == []


def test_a_shard_damaged_in_one_row_group_is_left_out_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The damage is in one slice; no document of any slice of the shard is in any arm, and quarantine says why."""
    monkeypatch.setattr(find, "SLICE_BYTES", 900)
    corpora.write_web(tmp_path)
    docs = corpora.documents(40, 3)
    data = bytearray(shards.parquet_bytes(docs, row_group=10, compression="none", use_dictionary=False))
    text = sorted(text for _, text in docs[20:30])[5]  # neither least nor greatest: those stand in the footer too
    data[data.index(text.encode())] ^= 1
    (tmp_path / "web/a.parquet").write_bytes(data)
    with pytest.raises(InputError, match=r"1 shard\(s\) cannot be read whole, limits.bad_shards is 0"):
        build(tmp_path)
    job, books = build(tmp_path, limits={"bad_shards": 1}, output={"path": f"{tmp_path}/out2"})
    manifest = commit(job, books)
    inputs = [entry for entry in manifest["inputs"] if entry["shard"].endswith("a.parquet")]
    assert (len(inputs), {entry["left_out"] for entry in inputs}) == (4, {True})
    assert manifest["arms"]["unfiltered"]["equation"]["web"]["read"]["documents"] == 60
    assert [shard["reason"] for shard in manifest["quarantine"]["shards"]] == ["corrupt"]
    (tmp_path / "out2").rename(tmp_path / "out3")
    with (tmp_path / "out3/quarantine/records.jsonl.zst").open("rb") as file:
        line = json.loads(zstandard.ZstdDecompressor().stream_reader(file).read())
    assert (line["reason"], line["shard"]) == ("shard:corrupt", str(tmp_path / "web/a.parquet"))


def test_a_wrong_checksum_is_a_bad_shard(tmp_path: Path) -> None:
    """Raw bytes that are not those which were summed outside."""
    corpora.write_web(tmp_path)
    (tmp_path / "SUMS").write_text("".join(f"{'0' * 64}  {path.name}\n" for path in (tmp_path / "web").iterdir()))
    sources = [{"name": "web", "paths": f"{tmp_path}/web/*", "checksums": f"{tmp_path}/SUMS"}]
    with pytest.raises(InputError, match=r"checksum_mismatch \(sha256 of the bytes is [0-9a-f]{64}, should be 0{64}\)"):
        build(tmp_path, sources=sources)


def test_an_input_that_changes_during_the_build(tmp_path: Path) -> None:
    """What is mixed is what was annotated, or the build stops."""
    corpora.write_web(tmp_path)
    job = corpora.checked(corpora.config(tmp_path, arms=ARMS)).job
    with pytest.MonkeyPatch.context() as patch:

        def then_change(*args: Any, **kwargs: Any) -> Any:
            found = annotate_slice(*args, **kwargs)
            (tmp_path / "web/0.jsonl").write_bytes((tmp_path / "web/0.jsonl").read_bytes() + b"\n")
            return found

        patch.setattr(corpora, "annotate_slice", then_change)
        with pytest.raises(InputChanged, match=r"0\.jsonl"):
            corpora.mixed(job)
