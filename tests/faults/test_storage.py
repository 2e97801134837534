"""Faults of the storage: what is transient changes nothing, what is final is one line and exit code 5."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from beam_pipeline.run import main
from beam_pipeline.verify import verify
from tests import corpora, servers, shards
from tests.faults.harness import HEALTHY, OTHERS, build, config, counted, impatient, row, write_healthy
from tests.faults.on_gcs import flaky, moved, objects, upload
from tests.faults.table import Table
from tests.strict_gcs import Fault, StrictGcs

ROOT = f"gs://{servers.BUCKET}/build"
THERE = counted(HEALTHY) + counted(OTHERS)


@pytest.fixture
def server() -> Iterator[StrictGcs]:
    with contextlib.ExitStack() as stack:
        found = stack.enter_context(servers.strict_gcs(page_size=3))
        stack.enter_context(impatient())
        yield found


def on_gcs(folder: Path) -> corpora.Config:
    """A build on the server."""
    write_healthy(folder)
    shards.write_jsonl(folder / "web/more.jsonl.zst", OTHERS, codec="zstd")
    upload(folder, ROOT)
    return moved(config(folder), folder, ROOT)


TRANSIENT = {
    "503 on every operation": [Fault(on, "status", 3) for on in ("insert", "get", "read", "list", "delete")],
    "429 on every operation": [Fault(on, "status", 3, status=429) for on in ("insert", "get", "read", "list")],
    "connections reset": [Fault(on, "reset", 3) for on in ("insert", "get", "read", "list")],
    "replies to uploads lost": [Fault("insert", "cut_reply", 4)],
    "503 after an upload arrived": [Fault("insert", "status_after", 4, skip=2)],
    "downloads cut half-way": [Fault("read", "cut_body", 5)],
    "listings cut half-way": [Fault("list", "cut_body", 2)],
    "a wrong checksum with a download": [Fault("read", "checksum", 2)],
    "a slow store": [Fault(on, "latency", 5, seconds=0.02) for on in ("insert", "get", "read", "list")],
}


@pytest.mark.parametrize("name", TRANSIENT)
def test_transient_faults_change_nothing(tmp_path: Path, server: StrictGcs, table: Table, name: str) -> None:
    """Repeated until it works, and then it is the same corpus; nothing comes twice."""
    values = on_gcs(tmp_path / "build")
    server.faults = [Fault(**vars(fault)) for fault in TRANSIENT[name]]
    got = build(values)
    left = [fault for fault in server.faults if fault.times and fault.on != "delete"]
    table.add(row(f"gs: {name}", "read", got, THERE))
    assert (got.code, left) == (0, []), got


FINAL: dict[str, tuple[list[Fault], str]] = {
    "no permission to list": ([Fault("list", "status", 99, status=403)], "storage.objects.list on gs://corpus"),
    "no permission to read": ([Fault("read", "status", 99, status=403)], "storage.objects.get on gs://corpus"),
    "no permission to create": ([Fault("insert", "status", 99, status=403)], "storage.objects.create"),
    "503 for longer than patience": (
        [Fault("insert", "status", 99)],
        "The same command continues where this one stopped",
    ),
    "bytes damaged on the way": ([Fault("read", "corrupt", 99)], "arrived damaged"),
}


@pytest.mark.parametrize("name", FINAL)
def test_final_faults_stop_the_build(tmp_path: Path, server: StrictGcs, table: Table, name: str) -> None:
    """One line with the object and the way out, exit code 5; once it is repaired the same command ends well."""
    values = on_gcs(tmp_path / "build")
    server.faults, said = [Fault(**vars(fault)) for fault in FINAL[name][0]], FINAL[name][1]
    got = build(values)
    assert got.code == 5 and said in got.said and ROOT in got.said, got
    server.faults = []
    table.add(row(f"gs: {name}", "exit 5, then the same command ends well", build(values), THERE))


def replace(server: StrictGcs | None, folder: Path, *, gone: bool) -> None:
    """Change or remove the second shard."""
    name, data = "web/more.jsonl.zst", shards.compress(shards.jsonl_bytes(HEALTHY), "zstd")
    if server is None:
        (folder / name).unlink()
        if not gone:
            (folder / name).write_bytes(data)
    elif gone:
        del server.buckets[servers.BUCKET][f"build/{name}"]
    else:
        server.put(servers.BUCKET, f"build/{name}", data, None, {})


@pytest.mark.parametrize("where", ["local", "gs"])
@pytest.mark.parametrize("gone", [False, True], ids=["replaced", "deleted"])
@pytest.mark.parametrize("step", ["annotate_slice", "mix_group"])
def test_inputs_that_change_meanwhile_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: Table, where: str, gone: bool, step: str
) -> None:
    """Replaced or deleted after the listing, or between the two readings: exit code 5, and the shard is named."""
    folder = tmp_path / "build"
    with servers.strict_gcs() as found, impatient():
        values = on_gcs(folder) if where == "gs" else config(write_more(folder))
        original, done = getattr(corpora, step), list[bool]()

        def first_replace(*given: Any) -> Any:
            if not done:
                done.append(True)
                replace(found if where == "gs" else None, folder, gone=gone)
            return original(*given)

        with monkeypatch.context() as patched:
            patched.setattr(corpora, step, first_replace)
            got = build(values)
        when = {"annotate_slice": "after the listing", "mix_group": "between the readings"}[step]
        table.add(row(f"{where}: input {'deleted' if gone else 'replaced'} {when}", "exit 5", got, THERE))
    assert got.code == 5 and "more.jsonl.zst is not what the plan was made from" in got.said, got


def write_more(folder: Path) -> Path:
    """Two healthy shards on the local disk."""
    write_healthy(folder)
    shards.write_jsonl(folder / "web/more.jsonl.zst", OTHERS, codec="zstd")
    return folder


# --- whole builds from gs:// to gs:// ---


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A build on the local disk: its folder, and its output's bytes."""
    folder = corpora.write_web(tmp_path_factory.mktemp("clean"))
    return {"folder": folder}


def whole_build(folder: Path, root: str, tmp_path: Path, *options: str) -> int:
    """The command, in this process, over a copy of the folder in a store; the exit code."""
    arms = {"unfiltered": {}, "dosed": {"misaligned": "divert", "dose": {"share": 0.1}, "refill": "random"}}
    values = corpora.config(folder, arms=arms, output={"format": "jsonl.zst", "target_file_size": 2500})
    path = corpora.write_config(tmp_path, moved(values, folder, root))
    return main(["build", path, "--direct_num_workers=1", "--progress=none", *options])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("kind", ["strict_gcs", "fake_gcs", "gcp_emulator"])
def test_from_gs_to_gs(tmp_path: Path, table: Table, clean: dict[str, Any], kind: str) -> None:
    """On each server the same bytes, and every number of the manifest holds when it is read again."""
    with getattr(servers, kind)(), impatient():
        upload(clean["folder"], ROOT)
        assert whole_build(clean["folder"], ROOT, tmp_path) == 0
        assert verify(f"{ROOT}/out", workers=1).problems == ()
        found = {name: data for name, data in objects(f"{ROOT}/out").items() if "/part-" in name}
    # Shard names and versions differ from server to server, so only what is made of the texts can be compared.
    kept = clean.setdefault("parts", {n: d for n, d in found.items() if "provenance" not in n})
    assert kept == {n: d for n, d in found.items() if "provenance" not in n}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 6))])
def test_with_one_request_in_twenty_failing(tmp_path: Path, clean: dict[str, Any], seed: int) -> None:
    """503, 429, resets, lost replies and cut bodies at 5 % of all requests: byte for byte what a clean build writes."""
    with servers.strict_gcs() as server, impatient():
        upload(clean["folder"], ROOT)
        assert whole_build(clean["folder"], ROOT, tmp_path) == 0
        expected, asked = objects(f"{ROOT}/out"), len(server.done)
        for name in [n for n in server.buckets[servers.BUCKET] if n.startswith("build/out/")]:
            del server.buckets[servers.BUCKET][name]
        with flaky(server, 0.05, seed) as happened:
            assert whole_build(clean["folder"], ROOT, tmp_path) == 0
            asked = len(server.done) - asked
        assert objects(f"{ROOT}/out") == expected
        print(f"{len(happened)} of {asked} requests failed")
    assert len(happened) >= 5
