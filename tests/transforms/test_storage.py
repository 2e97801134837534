"""Every store keeps the same contract: one suite, over all stores that can be had without a cloud."""

import contextlib
import gzip
import io
import logging
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import botocore.awsrequest  # type: ignore[import-untyped]
import botocore.exceptions  # type: ignore[import-untyped]
import botocore.httpsession  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests
import tenacity
from google.api_core.exceptions import GoogleAPICallError
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse
from google.cloud.storage.retry import DEFAULT_RETRY

from tests import servers
from tests.strict_gcs import Blob, Fault, StrictGcs
from transforms import storage, storage_fsspec, storage_gcs
from transforms.errors import InputChanged, OutputConflict, StorageError
from transforms.storage import ObjectInfo, Patience, Store, join, store_for, with_retries
from transforms.storage_local import LocalStore

LARGE = b"".join(i.to_bytes(4, "big") for i in range(9 << 18))  # 9 MiB: more than one request sends

FAST = Patience(tenacity.wait_none(), tenacity.stop_after_attempt(5))

PLACES = ("local", "memory", "strict", "fake", "emulator", "s3")

DEVIATIONS = {
    # (server, test): what the server does otherwise. These tests run all the same, and must fail there, races apart.
    ("fake", "test_one_of_two_large_contents_wins"): "two resumable uploads with ifGenerationMatch=0 both finish",
    ("emulator", "test_one_of_two_large_contents_wins"): "ignores ifGenerationMatch=0: late writers overwrite",
    ("memory", "test_one_of_two_large_contents_wins"): "memory:// is one process's own",
    ("emulator", "test_replace_is_compare_and_swap"): "ignores ifGenerationMatch: every write wins",
    ("emulator", "test_one_of_four_replacing_processes_wins"): "ignores ifGenerationMatch: every write wins",
    ("emulator", "test_four_processes_create_one_object"): "ignores ifGenerationMatch=0: late writers overwrite",
    ("emulator", "test_one_of_four_contents_wins"): "ignores ifGenerationMatch=0: late writers overwrite",
    ("emulator", "test_a_pinned_range_refuses_another_version"): "ignores generation= on reads: serves the new bytes",
    ("emulator", "test_an_open_file_never_mixes_versions"): "ignores generation= on reads: serves the new bytes",
    ("memory", "test_four_processes_create_one_object"): "memory:// is one process's own",
    ("memory", "test_one_of_four_contents_wins"): "memory:// is one process's own",
    ("memory", "test_one_of_four_replacing_processes_wins"): "memory:// is one process's own",
}


class Place(NamedTuple):
    """A store under test, with an empty folder in it."""

    name: str
    root: str
    store: Store
    environ: dict[str, str]


@pytest.fixture(scope="module")
def running() -> Iterator[dict[str, dict[str, str]]]:
    """All servers, and the variables that lead to each."""
    with contextlib.ExitStack() as stack:
        hosts = {
            "strict": stack.enter_context(servers.strict_gcs(page_size=2)).url,
            "fake": stack.enter_context(servers.fake_gcs()),
            "emulator": stack.enter_context(servers.gcp_emulator()),
        }
        stack.enter_context(servers.moto_s3())
        names = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")
        yield {
            **{name: {"STORAGE_EMULATOR_HOST": url} for name, url in hosts.items()},
            "s3": {name: os.environ[name] for name in names},
        }


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    """Four processes to race with."""
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    name, test = request.param, request.function.__name__
    if reason := DEVIATIONS.get((name, test)):
        race_by_luck = {"four", "two"} & set(test.split("_"))  # may come out right
        request.applymarker(pytest.mark.xfail(reason=reason, strict=not race_by_luck))
    environ = request.getfixturevalue("running")[name] if name not in ("local", "memory") else {}
    folder = f"{servers.BUCKET}/{test}"
    root = {"local": str(tmp_path), "memory": f"memory://{folder}", "s3": f"s3://{folder}"}.get(name, f"gs://{folder}")
    with servers.environment(**environ):
        yield Place(name, root, store_for(root), environ)


def race(
    place: Place, processes: ProcessPoolExecutor, method: str, arguments: list[tuple[object, ...]]
) -> list[object]:
    moment = time.time() + 0.3
    futures = [processes.submit(servers.attempt, place.environ, method, given, moment) for given in arguments]
    return [future.result(30) for future in futures]


def names(place: Place, pattern: str) -> list[str]:
    return [info.url.removeprefix(place.root + "/") for info in place.store.list(join(place.root, pattern))]


def file_of(tmp_path: Path, data: bytes) -> str:
    path = tmp_path / "spool"
    path.write_bytes(data)
    return str(path)


# The contract


@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 999], ids=["empty", "one", "some"])
def test_what_was_created_is_read(place: Place, data: bytes) -> None:
    """Committed bytes come back whole, with size, version and checksum the same from create and stat."""
    url = join(place.root, f"a/{len(data)}.bin")
    info = place.store.create_bytes(url, data)
    assert info == place.store.stat(url)
    assert (info.url, info.size) == (url, len(data)) and info.version
    with place.store.open(url, info.version) as file:
        assert file.read() == data


def test_a_large_file_is_created_and_read(place: Place, tmp_path: Path) -> None:
    """A file of several chunks and windows arrives whole, and a second create of it is success."""
    url, path = join(place.root, "large.bin"), file_of(tmp_path, LARGE)
    info = place.store.create(url, path)
    with place.store.open(url, info.version) as file:
        assert b"".join(iter(lambda: file.read(3_000_001), b"")) == LARGE
    assert place.store.create(url, path) == info


def test_the_same_bytes_again_are_success(place: Place) -> None:
    """Creating an object twice with the same bytes leaves the first and returns it."""
    url = join(place.root, "twice.txt")
    assert place.store.create_bytes(url, b"same") == place.store.create_bytes(url, b"same")


@pytest.mark.parametrize("other", [b"b", b"aa", b""])
def test_other_bytes_are_a_conflict(place: Place, other: bytes) -> None:
    """A name that holds other bytes, of the same size or not, is refused and left as it was."""
    url = join(place.root, f"taken-{len(other)}.txt")
    place.store.create_bytes(url, b"a")
    with pytest.raises(OutputConflict, match=r"holds other bytes.*Choose"):
        place.store.create_bytes(url, other)
    assert place.store.read_range(url, 0, 9) == b"a"


def test_four_processes_create_one_object(place: Place, processes: ProcessPoolExecutor) -> None:
    """Four attempts at the same bytes at once all succeed with one and the same version."""
    url = join(place.root, "race.txt")
    results = race(place, processes, "create_bytes", [(url, b"same" * 1000)] * 4)
    assert set(results) == {place.store.stat(url)}


def test_one_of_four_contents_wins(place: Place, processes: ProcessPoolExecutor) -> None:
    """Of four attempts with different bytes at once exactly one succeeds; the object holds its bytes."""
    url = join(place.root, "race.txt")
    contents = [str(i).encode() * 1000 for i in range(4)]
    results = race(place, processes, "create_bytes", [(url, data) for data in contents])
    won = [i for i, result in enumerate(results) if isinstance(result, ObjectInfo)]
    assert len(won) == 1 and sum(isinstance(result, OutputConflict) for result in results) == 3
    assert place.store.read_range(url, 0, 1000) == contents[won[0]]


def test_one_of_two_large_contents_wins(place: Place, processes: ProcessPoolExecutor) -> None:
    """Of two large uploads that are under way at once, one becomes the object and the other is a conflict."""
    url, contents = join(place.root, "race.bin"), (LARGE, LARGE[::-1])
    results = race(place, processes, "create_bytes", [(url, data) for data in contents])
    assert sorted(type(result).__name__ for result in results) == ["ObjectInfo", "OutputConflict"]
    (won,) = (i for i, result in enumerate(results) if isinstance(result, ObjectInfo))
    assert place.store.read_range(url, 0, 99) == contents[won][:99]


def test_replace_is_compare_and_swap(place: Place) -> None:
    """A pointer is replaced only by who knows its current version; writing what it holds already is success."""
    url = join(place.root, "latest.json")
    first = place.store.replace(url, b"one", None)
    assert place.store.replace(url, b"one", None) == first
    with pytest.raises(OutputConflict, match="someone else"):
        place.store.replace(url, b"two", None)
    second = place.store.replace(url, b"two", first)
    with pytest.raises(OutputConflict, match="someone else"):
        place.store.replace(url, b"six", first)
    assert second == place.store.stat(url) and second.version != first.version
    assert place.store.read_range(url, 0, 9) == b"two"


def test_one_of_four_replacing_processes_wins(place: Place, processes: ProcessPoolExecutor) -> None:
    """Of four processes that replace the same version of a pointer at once, exactly one does."""
    url = join(place.root, "latest.json")
    first = place.store.replace(url, b"old", None)
    results = race(place, processes, "replace", [(url, str(i).encode(), first) for i in range(4)])
    assert [type(result) for result in results].count(ObjectInfo) == 1
    assert place.store.stat(url) in results


def test_deleting_is_idempotent(place: Place) -> None:
    """A deleted object is gone, and deleting it again is fine."""
    url = join(place.root, "gone.txt")
    place.store.create_bytes(url, b"x")
    place.store.delete(url)
    assert place.store.stat(url) is None and names(place, "gone*") == []
    place.store.delete(url)


@pytest.mark.parametrize(
    "name", ["a b", "a#b", "a?b", "ä日本", "50%", "50%25", "a+b&c=d", "a'b\"c", "~x:y;z,@!$()", "a[1]"]
)
def test_odd_names_are_kept(place: Place, name: str) -> None:
    """Names with characters that mean something in URLs are stored, listed and deleted as they are."""
    url = join(place.root, "odd", name)
    info = place.store.create_bytes(url, name.encode())
    assert [found.url for found in place.store.list(join(place.root, "odd/*"))] == [url]
    assert place.store.stat(url) == info and place.store.read_range(url, 0, 99) == name.encode()
    place.store.delete(url)
    assert place.store.stat(url) is None


def test_globs(place: Place) -> None:
    """Patterns match whole names, stop at slashes except for **, and come out sorted; folders are no objects."""
    for name in ("x/b.gz", "x/a.gz", "x/a.txt", "x/y/c.gz", "x/y/z/d.gz", "x/yy/c.gz", "x.gz", "x/_SUCCESS"):
        place.store.create_bytes(join(place.root, name), b"")
    assert names(place, "x/*.gz") == ["x/a.gz", "x/b.gz"]
    assert names(place, "x/**/*.gz") == ["x/a.gz", "x/b.gz", "x/y/c.gz", "x/y/z/d.gz", "x/yy/c.gz"]
    assert names(place, "x/?/*") == ["x/y/c.gz"]
    assert names(place, "x/y*/c.gz") == ["x/y/c.gz", "x/yy/c.gz"]
    assert names(place, "x/[!a].gz") == ["x/b.gz"]
    assert names(place, "x/y/**") == ["x/y/c.gz", "x/y/z/d.gz"]
    assert names(place, "**/z/*") == ["x/y/z/d.gz"]
    assert names(place, "x/*") == ["x/_SUCCESS", "x/a.gz", "x/a.txt", "x/b.gz"]
    assert names(place, "x/a.gz") == ["x/a.gz"]
    assert names(place, "x/none*") == names(place, "x/y") == names(place, "none/*.gz") == names(place, "y/a.gz") == []


def test_listing_says_what_stat_says(place: Place) -> None:
    """A listed object has the size and version that a look-up gives, so that plans can be made from listings."""
    created = place.store.create_bytes(join(place.root, "one.bin"), b"12345")
    (listed,) = place.store.list(join(place.root, "one.*"))
    assert listed._replace(checksum="") == created._replace(checksum="")


def test_seeking(place: Place) -> None:
    """Files seek from all three ends, read past the end gives nothing, and readinto fills a buffer."""
    url = join(place.root, "digits")
    place.store.create_bytes(url, b"0123456789")
    with place.store.open(url) as file:
        assert file.seek(-3, io.SEEK_END) == 7 and file.read(2) == b"78" and file.tell() == 9
        assert file.seek(2) == 2 and file.read(1) == b"2"
        assert file.seek(1, io.SEEK_CUR) == 4 and file.read() == b"456789" and file.read(1) == b""
        assert file.seek(99) == 99 and file.read(1) == b""
        buffer = bytearray(4)
        file.seek(0)
        assert file.readinto(buffer) == 4 and buffer == b"0123"  # type: ignore[attr-defined]
        assert file.seekable() and file.readable() and not file.writable()
    assert file.closed


def test_ranges(place: Place) -> None:
    """A range is cut off at the end of the object and is empty past it."""
    url = join(place.root, "digits")
    place.store.create_bytes(url, b"0123456789")
    read = place.store.read_range
    assert (read(url, 0, 3), read(url, 8, 5), read(url, 10, 5), read(url, 99, 1)) == (b"012", b"89", b"", b"")
    assert read(url, 3, 0) == b""


def test_parquet_is_read_by_ranges(place: Place, tmp_path: Path) -> None:
    """Arrow reads a Parquet object through a store's file."""
    table = pa.table({"id": range(50_000), "text": [f"document {i}" for i in range(50_000)]})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=10_000)
    url = join(place.root, "t.parquet")
    place.store.create(url, str(tmp_path / "t.parquet"))
    with place.store.open(url) as file, pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 16) as parquet:
        assert parquet.read_row_group(3, columns=["text"]).equals(table.slice(30_000, 10_000).select(["text"]))
        assert sum(batch.num_rows for batch in parquet.iter_batches(1024)) == 50_000


def replaced(place: Place, name: str, *, old: bytes = b"old!", new: bytes = b"new!") -> tuple[str, ObjectInfo]:
    url = join(place.root, name)
    before = place.store.create_bytes(url, old)
    place.store.replace(url, new, before)
    return url, before


def test_a_pinned_open_refuses_another_version(place: Place) -> None:
    """Opening the planned version of a replaced object is InputChanged, with the way out."""
    url, before = replaced(place, "input")
    with pytest.raises(InputChanged, match=r"not what the plan was made from.*plan again"):
        place.store.open(url, before.version)


def test_a_pinned_range_refuses_another_version(place: Place) -> None:
    """Reading a range of the planned version of a replaced object is InputChanged."""
    url, before = replaced(place, "input")
    with pytest.raises(InputChanged):
        place.store.read_range(url, 0, 4, before.version)


def test_an_open_file_never_mixes_versions(place: Place) -> None:
    """A file that was opened before its object was replaced gives the old bytes on, or InputChanged."""
    url = join(place.root, "input")
    before = place.store.create_bytes(url, b"a" * (4 << 20))
    with place.store.open(url) as file:
        assert file.read(10) == b"a" * 10
        place.store.replace(url, b"b" * (4 << 20), before)
        try:
            rest = file.read()
        except InputChanged:
            rest = b""
        assert not rest.strip(b"a")


def test_a_version_of_another_store_is_a_changed_input(place: Place) -> None:
    """A version that this store never gives is not what is there."""
    url = join(place.root, "input")
    place.store.create_bytes(url, b"x")
    for read in (place.store.open, lambda url, version: place.store.read_range(url, 0, 1, version)):
        with pytest.raises(InputChanged):
            read(url, "no-version")


def test_a_vanished_object_is_a_changed_input(place: Place) -> None:
    """When the planned object is gone, pinned reads say InputChanged; others that it does not exist."""
    url = join(place.root, "input")
    before = place.store.create_bytes(url, b"old")
    place.store.delete(url)
    with pytest.raises(InputChanged):
        place.store.open(url, before.version)
    with pytest.raises(InputChanged):
        place.store.read_range(url, 0, 1, before.version)
    for read in (place.store.open, lambda url: place.store.read_range(url, 0, 1)):
        with pytest.raises(StorageError, match="does not exist") as caught:
            read(url)
        assert not isinstance(caught.value, InputChanged)


@pytest.mark.parametrize("place", ["strict", "fake", "emulator", "s3"], indirect=True)
def test_a_missing_bucket_is_named(place: Place) -> None:
    """Writing to and listing a bucket that does not exist is a StorageError that says so."""
    root = place.root.replace(servers.BUCKET, "no-such-bucket")
    with pytest.raises(StorageError, match="no such bucket") as caught:
        place.store.create_bytes(root + "/x", b"x")
    assert not isinstance(caught.value, OutputConflict)
    with pytest.raises(StorageError, match="no such bucket"):
        list(place.store.list(root + "/*"))


def test_a_broken_write_leaves_no_name() -> None:
    """Where fsspec commits whatever was written when a file is closed, a commit that breaks takes it away again."""

    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell():
                raise OSError("the spool is gone")
            return super().read(size)

    store = storage_fsspec.FsspecStore("memory", FAST)
    with pytest.raises(StorageError, match="the spool is gone"):
        store._commit("memory://corpus/broken", Broken(LARGE))
    assert store.stat("memory://corpus/broken") is None


def test_errors_travel_between_processes() -> None:
    """What a worker raises arrives with its type and message."""
    error = pickle.loads(pickle.dumps(storage_gcs._Refused("no", 403)))
    assert isinstance(error, StorageError) and str(error) == "no"


# Faults, Google Cloud Storage


@pytest.fixture
def strict() -> Iterator[StrictGcs]:
    with servers.strict_gcs() as server:
        yield server


@pytest.fixture
def gcs(monkeypatch: pytest.MonkeyPatch) -> storage_gcs.GcsStore:
    """A store that waits for nothing, and sends LARGE in three chunks."""
    monkeypatch.setattr(storage_gcs, "CHUNK", 4 << 20)
    return storage_gcs.GcsStore(FAST, DEFAULT_RETRY.with_delay(0.001, 0.001).with_timeout(2))


URL = f"gs://{servers.BUCKET}/x.bin"


def live(server: StrictGcs) -> list[tuple[str, int]]:
    return [(name, len(blob.data)) for name, blob in server.buckets[servers.BUCKET].items()]


@pytest.mark.parametrize(
    ("data", "faults"),
    [
        (b"small", [Fault("insert", "cut_reply")]),
        (b"small", [Fault("insert", "cut_reply", times=3)]),
        (b"small", [Fault("insert", "status_after")]),
        (b"small", [Fault("insert", "status", status=429, times=4)]),
        (b"small", [Fault("insert", "reset", times=2), Fault("get", "status", times=2)]),
        (LARGE, [Fault("chunk", "cut_reply", skip=2)]),
        (LARGE, [Fault("chunk", "status_after", skip=2)]),
        (LARGE, [Fault("chunk", "cut_reply", skip=1)]),
        (LARGE, [Fault("chunk", "status")]),
        (LARGE, [Fault("chunk", "reset")]),
        (LARGE, [Fault("chunk", "status", status=410)]),
        (LARGE, [Fault("chunk", "status", status=410, skip=1)]),
        (LARGE, [Fault("start", "cut_reply"), Fault("chunk", "status", status=429, times=3)]),
    ],
    ids=lambda value: "-".join(f"{f.on}:{f.do}:{f.status}" for f in value) if isinstance(value, list) else len(value),
)
def test_a_commit_survives(
    strict: StrictGcs, gcs: storage_gcs.GcsStore, tmp_path: Path, data: bytes, faults: list[Fault]
) -> None:
    """Lost replies, bursts, resets and lost sessions end in one generation with the right bytes."""
    strict.faults = faults
    info = gcs.create(URL, file_of(tmp_path, data))
    assert info == gcs.stat(URL) and not any(fault.times for fault in faults)
    blob = strict.buckets[servers.BUCKET]["x.bin"]
    assert blob.data == data and blob.generation == 1_700_000_000_000_001


def test_a_lost_chunk_does_not_start_the_file_anew(
    strict: StrictGcs, gcs: storage_gcs.GcsStore, tmp_path: Path
) -> None:
    """After a lost chunk the upload goes on where it was: one session, and no chunk sent more often than needed."""
    strict.faults = [Fault("chunk", "status", times=2)]
    gcs.create(URL, file_of(tmp_path, LARGE))
    assert strict.count("start") == 1


def test_a_replace_survives_a_lost_reply(strict: StrictGcs, gcs: storage_gcs.GcsStore) -> None:
    """The precondition that our own lost success made false is no conflict."""
    first = gcs.replace(URL, b"one", None)
    strict.faults = [Fault("insert", "cut_reply")]
    assert gcs.replace(URL, b"two", first) == gcs.stat(URL)
    strict.faults = [Fault("insert", "cut_reply")]
    gcs.delete(URL)
    assert gcs.replace(URL, b"two", None) == gcs.stat(URL)


def test_a_conflict_found_at_the_last_chunk(strict: StrictGcs, gcs: storage_gcs.GcsStore, tmp_path: Path) -> None:
    """When another writer takes the name during a resumable upload, the 412 of the last chunk is a conflict."""
    strict.faults = [Fault("chunk", "latency", seconds=0.3)]
    path = file_of(tmp_path, LARGE)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        future = pool.submit(servers.attempt, {"STORAGE_EMULATOR_HOST": strict.url}, "create", (URL, path), 0)
        while not strict.count("start"):
            time.sleep(0.005)
        strict.put(servers.BUCKET, "x.bin", b"other", "0", {})
        assert isinstance(future.result(30), OutputConflict)


@pytest.mark.parametrize("kind", ["cut_body", "reset", "status", "cut_reply"])
def test_a_cut_download_goes_on(strict: StrictGcs, gcs: storage_gcs.GcsStore, tmp_path: Path, kind: str) -> None:
    """A reading that is cut in the middle, several times, gives the same bytes."""
    gcs.create(URL, file_of(tmp_path, LARGE))
    strict.faults = [Fault("read", kind, skip=1, times=2)]
    with gcs.open(URL) as file:
        assert file.read() == LARGE
    strict.faults = [Fault("read", kind, times=2)]
    assert gcs.read_range(URL, 5, 100_000) == LARGE[5:100_005]


def test_an_object_replaced_between_two_tries_is_noticed(
    strict: StrictGcs, gcs: storage_gcs.GcsStore, tmp_path: Path
) -> None:
    """A cut reading never goes on in another generation."""
    gcs.create(URL, file_of(tmp_path, LARGE))
    with gcs.open(URL) as file:
        assert file.read(5) == LARGE[:5]
        strict.put(servers.BUCKET, "x.bin", LARGE[::-1], None, {})
        with pytest.raises(InputChanged):
            file.read()


@pytest.mark.parametrize(
    ("operation", "call", "permission"),
    [
        ("insert", lambda gcs: gcs.create_bytes(URL, b"x"), "storage.objects.create"),
        ("get", lambda gcs: gcs.stat(URL), "storage.objects.get"),
        ("read", lambda gcs: gcs.read_range(URL, 0, 1), "storage.objects.get"),
        ("list", lambda gcs: list(gcs.list(URL + "*")), "storage.objects.list"),
        ("delete", lambda gcs: gcs.delete(URL), "storage.objects.delete"),
    ],
)
def test_permission_denied_stops_at_once(
    strict: StrictGcs, gcs: storage_gcs.GcsStore, operation: str, call: Callable[[Store], object], permission: str
) -> None:
    """A 403 is not retried, and names the object, the permission and the bucket to grant it on."""
    strict.faults = [Fault(operation, "status", status=403, times=9)]
    with pytest.raises(StorageError, match=rf"gs://corpus/x.bin.*: permission denied. Grant.*{permission}") as caught:
        call(gcs)
    assert strict.count(operation) == 1 and "upload_id" not in str(caught.value)


def test_bursts_of_429_while_listing(strict: StrictGcs, gcs: storage_gcs.GcsStore) -> None:
    """Each page of a listing is retried by itself, and no object is lost or doubled."""
    strict.page_size = 3
    for i in range(10):
        strict.put(servers.BUCKET, f"part-{i}", b"", None, {})
    strict.faults = [Fault("list", "status", status=429, times=3), Fault("list", "cut_body", skip=4, times=2)]
    assert [info.url[-6:] for info in gcs.list(f"gs://{servers.BUCKET}/part-*")] == [f"part-{i}" for i in range(10)]
    assert strict.count("list") == 4 + 3 + 2


def test_patience_ends(strict: StrictGcs, gcs: storage_gcs.GcsStore, caplog: pytest.LogCaptureFixture) -> None:
    """After the last try the error says what, where and how often; every second failure is logged, without queries."""
    strict.faults = [Fault("insert", "status", times=99)]
    with (
        caplog.at_level(logging.WARNING, "transforms.storage"),
        pytest.raises(StorageError, match=r"cannot create gs://corpus/x.bin: still failing after 5 tries .*503"),
    ):
        gcs.create_bytes(URL, b"x")
    assert strict.count("insert") == 5
    assert [record.args[2] for record in caplog.records] == [2, 4]  # type: ignore[index]
    assert URL in caplog.text and "uploadType" not in caplog.text


def test_the_librarys_retries_do_not_multiply_with_ours(
    strict: StrictGcs, gcs: storage_gcs.GcsStore, tmp_path: Path
) -> None:
    """A chunk that never succeeds ends after our tries, each with no more than the chunk's own time."""
    strict.faults = [Fault("chunk", "status", times=10**6)]
    store = storage_gcs.GcsStore(FAST, DEFAULT_RETRY.with_delay(0.01, 0.01).with_timeout(0.05))
    began = time.monotonic()
    with pytest.raises(StorageError, match="after 5 tries"):
        store.create(URL, file_of(tmp_path, LARGE))
    assert strict.count("start") == 5 and time.monotonic() - began < 10 and live(strict) == []
    strict.done.clear()
    strict.faults = [Fault(on, "status", times=99) for on in ("get", "list", "read", "delete")]
    for call in (lambda: gcs.stat(URL), lambda: list(gcs.list(URL + "*")), lambda: gcs.delete(URL)):
        with pytest.raises(StorageError, match="after 5 tries"):
            call()
    assert (strict.count("get"), strict.count("list"), strict.count("delete")) == (5, 5, 5)


def test_a_stalled_server_is_not_waited_for(
    strict: StrictGcs, gcs: storage_gcs.GcsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call has a time-out, and a time-out is tried again."""
    monkeypatch.setattr(storage_gcs, "TIMEOUT", (0.1, 0.1))
    gcs.create_bytes(URL, b"data")
    strict.faults = [Fault(on, "latency", seconds=0.3) for on in ("read", "list", "get", "delete", "insert")]
    assert gcs.read_range(URL, 0, 4) == b"data"
    assert len(list(gcs.list(URL + "*"))) == 1 and gcs.stat(URL)
    gcs.delete(URL)
    assert gcs.create_bytes(URL, b"data").size == 4


def test_damage_on_the_way_is_noticed(strict: StrictGcs, gcs: storage_gcs.GcsStore, tmp_path: Path) -> None:
    """A file read from first to last is summed: with a flipped bit its end is withheld."""
    gcs.create(URL, file_of(tmp_path, LARGE))
    strict.faults = [Fault("read", "corrupt", skip=2)]
    with gcs.open(URL) as file, pytest.raises(StorageError, match=r"arrived damaged.*crc32c:"):
        list(iter(lambda: file.read(1 << 20), b""))


def test_damage_on_the_way_up_is_noticed(strict: StrictGcs, gcs: storage_gcs.GcsStore) -> None:
    """The server is told the crc32c of what it should have received, so it refuses anything else."""
    put, flipped = strict.put, []

    def flip(bucket: str, name: str, data: bytes, expected: str | None, metadata: dict[str, object]) -> object:
        flipped.append(data)
        return put(bucket, name, data[::-1] if len(flipped) == 1 else data, expected, metadata)

    strict.put = flip  # type: ignore[method-assign, assignment]
    with pytest.raises(StorageError, match="400"):
        gcs.create_bytes(URL, b"abc")
    assert live(strict) == []


def test_gzip_objects_are_read_as_stored(strict: StrictGcs, gcs: storage_gcs.GcsStore) -> None:
    """`Content-Encoding: gzip` does not make the store decompress, so offsets and sums stay those of the object."""
    data = gzip.compress(b"text " * 1000)
    strict.buckets[servers.BUCKET]["x.bin"] = Blob(data, 7, "gzip")
    with gcs.open(URL, "7") as file:
        assert file.read() == data
    assert gcs.read_range(URL, 3, 5) == data[3:8]


def test_folder_marks_are_no_objects(strict: StrictGcs, gcs: storage_gcs.GcsStore) -> None:
    """The empty objects that end in a slash, which consoles make for folders, are not listed."""
    for name in ("a/", "a/b/", "a/b/c"):
        strict.put(servers.BUCKET, name, b"", None, {})
    assert [info.url for info in gcs.list("gs://corpus/**")] == ["gs://corpus/a/b/c"]


def test_a_sequential_reader_makes_few_requests(strict: StrictGcs, gcs: storage_gcs.GcsStore, tmp_path: Path) -> None:
    """Windows grow while reading on, and a jump to a footer fetches no more than is there."""
    gcs.create(URL, file_of(tmp_path, LARGE))
    with gcs.open(URL) as file:
        while file.read(1 << 16):
            pass
    assert strict.count("read") == 4  # 1 + 2 + 4 + 2 MiB
    strict.done.clear()
    with gcs.open(URL) as file:
        file.seek(-8, io.SEEK_END)
        file.read(8)
        file.seek(4 << 20)
        file.read(100)
    assert strict.count("read") == 2


def test_the_strict_server_is_strict(strict: StrictGcs) -> None:
    """What the servers one can install let through, ours refuses: else the tests above would prove nothing."""
    bucket = storage_gcs._client().bucket(servers.BUCKET)
    packed, fields = gzip.compress(b"text"), {"contentEncoding": "gzip"}
    generation = strict.put(servers.BUCKET, "x", packed, None, fields)["generation"]
    strict.put(servers.BUCKET, "x", packed, generation, fields)
    old, blob = int(generation), bucket.blob("x")
    assert blob.download_as_bytes() == b"text" == gzip.decompress(blob.download_as_bytes(raw_download=True))
    calls: list[tuple[int, Callable[[], object]]] = [
        (412, lambda: blob.download_as_bytes(if_generation_match=old, retry=None)),
        (404, lambda: bucket.blob("x", generation=old).download_as_bytes(retry=None)),
        (412, lambda: blob.reload(if_generation_match=old, retry=None)),
        (412, lambda: blob.delete(if_generation_match=old, retry=None)),
        (412, lambda: blob.upload_from_string(b"", if_generation_match=0, retry=None)),
        (412, lambda: blob.upload_from_string(LARGE, if_generation_match=0, retry=None)),
    ]
    for status, call in calls:
        with pytest.raises((GoogleAPICallError, InvalidResponse)) as caught:
            call()
        assert storage.status_of(caught.value) == status
    strict.faults = [Fault("read", "checksum")]
    with pytest.raises(DataCorruption):
        blob.download_as_bytes(raw_download=True, retry=None)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the error says which to install."""
    monkeypatch.setitem(sys.modules, "transforms.storage_gcs", None)
    storage._store.cache_clear()
    with pytest.raises(StorageError, match=r"pip install 'counterpoise\[gcp\]'"):
        store_for("gs://b/x")


# Faults, S3


@pytest.fixture
def s3(running: dict[str, dict[str, str]]) -> Iterator[tuple[storage_fsspec.S3Store, Callable[..., None]]]:
    """A store that waits for nothing, and a way to make its next requests of one kind fail after they were done."""
    with servers.environment(**running["s3"]), contextlib.ExitStack() as stack:
        events = storage_fsspec._client().meta.events

        def fail(operation: str, *outcomes: int) -> None:
            left = list(outcomes)

            def handler(request: botocore.awsrequest.AWSPreparedRequest, **_: object) -> object:
                if not left:
                    return None
                outcome = left.pop(0)
                if outcome in (0, 503):
                    session = botocore.httpsession.URLLib3Session()
                    assert session.send(request).status_code == 200
                    session.close()
                if outcome == 0:
                    raise botocore.exceptions.ConnectionClosedError(endpoint_url=request.url)
                return botocore.awsrequest.AWSResponse(request.url, outcome, {}, _Body(b""))

            events.register(f"before-send.s3.{operation}", handler)
            stack.callback(events.unregister, f"before-send.s3.{operation}", handler)

        yield storage_fsspec.S3Store(FAST), fail


class _Body(io.BytesIO):
    def stream(self, **_: object) -> Iterator[bytes]:
        yield self.read()


S3 = f"s3://{servers.BUCKET}/faults"


@pytest.mark.parametrize("outcomes", [(0,), (503,), (429, 500, 0), (409,)], ids=str)
def test_an_s3_commit_survives(s3: tuple[Store, Callable[..., None]], outcomes: tuple[int, ...]) -> None:
    """A lost reply (0), an error after the commit, throttling and racing writes end in one object."""
    store, fail = s3
    url = f"{S3}/{outcomes}"
    fail("PutObject", *outcomes)
    assert store.create_bytes(url, b"data") == store.stat(url)
    with pytest.raises(OutputConflict):
        store.create_bytes(url, b"other")


def test_an_s3_replace_survives_a_lost_reply(s3: tuple[Store, Callable[..., None]]) -> None:
    """The precondition that our own lost success made false is no conflict."""
    store, fail = s3
    first = store.replace(f"{S3}/latest", b"1", None)
    fail("PutObject", 0)
    assert store.replace(f"{S3}/latest", b"2", first) == store.stat(f"{S3}/latest")


def test_an_s3_multipart_upload_is_conditional(
    s3: tuple[Store, Callable[..., None]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In parts too a name is created once, a lost reply is settled by reading, and other bytes are a conflict."""
    monkeypatch.setattr(storage_fsspec, "SINGLE", 1 << 20)
    monkeypatch.setattr(storage_fsspec, "PART", 5 << 20)
    store, fail = s3
    url, path = f"{S3}/parts", file_of(tmp_path, LARGE)
    fail("CompleteMultipartUpload", 0)
    info = store.create(url, path)
    assert info.version.endswith("-2") and info.checksum == ""
    assert store.create(url, path) == info
    with pytest.raises(OutputConflict):
        store.create(url, file_of(tmp_path, LARGE[::-1]))


def test_s3_permission_denied_stops_at_once(s3: tuple[Store, Callable[..., None]]) -> None:
    """A 403 is not retried and names the permission; a store without conditional writes is refused."""
    store, fail = s3
    fail("PutObject", 403, 501)
    with pytest.raises(StorageError, match=r"permission denied. Grant this account s3:PutObject on s3://corpus"):
        store.create_bytes(f"{S3}/denied", b"")
    with pytest.raises(StorageError, match="no conditional writes"):
        store.create_bytes(f"{S3}/denied", b"")


# Local disks


def test_file_urls_and_plain_paths_are_one(tmp_path: Path) -> None:
    """file:// names the same files as a plain path, and listings give the resolved path."""
    LocalStore().create_bytes(f"file://{tmp_path}/a.txt", b"x")
    assert LocalStore().read_range(f"{tmp_path}/a.txt", 0, 9) == b"x"
    assert [info.url for info in store_for("file://x").list(f"file://{tmp_path}/*.txt")] == [f"{tmp_path}/a.txt"]


def test_links_are_resolved_and_counted_once(tmp_path: Path) -> None:
    """A file reached by several names is one object; a folder that links to itself ends; links to nothing are told."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.txt").write_text("x")
    (tmp_path / "a" / "y.txt").symlink_to("x.txt")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "a" / "self").symlink_to(tmp_path)
    assert [info.url for info in LocalStore().list(f"{tmp_path}/**/*.txt")] == [f"{tmp_path}/a/x.txt"]
    assert [info.url for info in LocalStore().list(f"{tmp_path}/b/y.txt")] == [f"{tmp_path}/a/x.txt"]
    (tmp_path / "a" / "z.txt").symlink_to("nowhere")
    with pytest.raises(StorageError, match="link to nothing"):
        list(LocalStore().list(f"{tmp_path}/a/*.txt"))


def test_unfinished_files_are_not_listed(tmp_path: Path) -> None:
    """What a killed process leaves behind is no object."""
    (tmp_path / ".counterpoise-dead.tmp").write_bytes(b"half")
    assert list(LocalStore().list(f"{tmp_path}/**")) == list(LocalStore().list(f"{tmp_path}/.*")) == []


def test_a_file_changed_in_place_is_noticed_while_reading(tmp_path: Path) -> None:
    """Even an open local file never mixes two versions."""
    path = tmp_path / "x"
    path.write_bytes(LARGE)
    with LocalStore().open(str(path)) as file:
        file.read(1)
        with open(path, "r+b") as writer:
            writer.write(b"changed")
        os.utime(path, ns=(1, 1))  # the clock may not have ticked since
        with pytest.raises(InputChanged):
            file.read(4 << 20)


def test_a_spool_is_linked_not_copied(tmp_path: Path) -> None:
    """A temporary file of ours on the same disk becomes the object, with ordinary permissions; others are copied."""
    for name, same in ((".counterpoise-spool", True), ("mine", False)):
        spool = tmp_path / name
        spool.write_bytes(b"data")
        spool.chmod(0o600)
        target = tmp_path / "out" / name.strip(".")
        LocalStore().create(str(target), str(spool))
        assert target.samefile(spool) == same and target.stat().st_mode & 0o044
        assert os.listdir(tmp_path / "out") == [target.name]
        target.unlink()


NO_LINKS = """
    import errno, os
    def link(source, target, **_):
        raise OSError(errno.EPERM, "no hard links here")
    os.link = link
"""

CREATE = """
    import sys, time
    from transforms.errors import OutputConflict
    from transforms.storage import store_for
    store = store_for(sys.argv[1])
    time.sleep(max(0, float(sys.argv[3]) - time.time()))
    try:
        store.create_bytes(sys.argv[1], sys.argv[2].encode() * 1000)
    except OutputConflict:
        sys.exit(5)
"""


def start(code: str, *arguments: object, **options: object) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, cwd=Path(storage.__file__).parents[1], stderr=subprocess.PIPE, **options)  # type: ignore[call-overload, no-any-return]


def test_without_hard_links_a_name_is_still_created_once(tmp_path: Path) -> None:
    """On file systems without hard links one of four racing processes wins, and nothing else is left."""
    url, moment = tmp_path / "out" / "x", time.time() + 1
    running = [start(NO_LINKS + CREATE, url, i, moment) for i in range(4)]
    assert sorted(process.wait(20) for process in running) == [0, 5, 5, 5]
    assert os.listdir(url.parent) == ["x"] and len(url.read_bytes()) == 1000
    for process in running:
        process.communicate()


def test_a_killed_create_leaves_no_name(tmp_path: Path) -> None:
    """A kill -9 in the middle of a commit leaves a hidden temporary file at most; the same commit then succeeds."""
    source, url = tmp_path / "source", tmp_path / "out" / "x"
    source.write_bytes(LARGE)
    code = """
        import shutil, sys, time
        from transforms.storage import store_for
        def slowly(source, target, length):
            target.write(source.read(1 << 20))
            target.flush()
            time.sleep(60)
        shutil.copyfileobj = slowly
        store_for(sys.argv[1]).create(sys.argv[1], sys.argv[2])
    """
    process = start(code, url, source)
    while not list(url.parent.glob(".counterpoise-*")) and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert not url.exists() and list(LocalStore().list(f"{tmp_path}/out/**")) == []
    assert LocalStore().create(str(url), str(source)).size == len(LARGE)


FAIL = """
    import resource, sys
    from transforms.errors import StorageError
    from transforms.storage import store_for
    if sys.argv[2] == "limit":
        import signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
    try:
        store_for(sys.argv[1]).create_bytes(sys.argv[1], b"x" * (1 << 20))
    except StorageError as error:
        sys.exit(str(error))
"""


def test_a_file_beyond_the_limit_is_told(tmp_path: Path) -> None:
    """Past `ulimit -f` the error is one line, and no name and no temporary file are left."""
    process = start(FAIL, tmp_path / "out" / "x", "limit")
    said = process.communicate(timeout=20)[1].decode()
    assert process.returncode == 1 and "ulimit -f" in said and len(said.splitlines()) == 1
    assert os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize(("options", "words"), [("size=64k", "the disk is full"), ("ro,size=4m", "is read-only")])
def test_a_full_or_read_only_disk_is_told(tmp_path: Path, options: str, words: str) -> None:
    """A full or read-only disk is one line that says so, and nothing is left on it."""
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("mounting a small disk takes root")
    try:
        with pytest.raises(StorageError, match=rf"cannot create {tmp_path}/x: .*{words}.*\."):
            LocalStore().create_bytes(f"{tmp_path}/x", b"x" * (1 << 20))
        assert os.listdir(tmp_path) == []
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_permission_denied_is_told(tmp_path: Path) -> None:
    """A folder that this user may not write, read or list is one line that says so."""
    folder = tmp_path / "closed"
    folder.mkdir()
    (folder / "x").write_bytes(b"x")
    folder.chmod(0o000)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root is never denied
    try:
        store = LocalStore()
        for call in (
            lambda: store.create_bytes(f"{folder}/y", b""),
            lambda: store.open(f"{folder}/x"),
            lambda: store.delete(f"{folder}/x"),
            lambda: list(store.list(f"{folder}/*")),
        ):
            with pytest.raises(StorageError, match=r"closed.*this user may not. Grant"):
                call()
    finally:
        os.seteuid(user)
        folder.chmod(0o700)


def test_a_replaced_pointer_never_keeps_its_version(tmp_path: Path) -> None:
    """Twenty replacements of one size within a clock tick have twenty versions."""
    url, info, seen = f"{tmp_path}/latest", None, set()
    for i in range(20):
        info = LocalStore().replace(url, f"{i:02}".encode(), info)
        seen.add(info.version)
    assert len(seen) == 20


# Names, globs, retries


@pytest.mark.parametrize("part", ["", "/x", "../x", "a/../b", "..", ".", "a//b", "a/", "a\\b", "a\nb", "a\x00b"])
def test_join_refuses(part: str) -> None:
    """Parts that could leave the folder, or mean something else to another store, are refused."""
    with pytest.raises(ValueError, match="cannot be appended"):
        join("gs://b/out", "ok", part)


@pytest.mark.parametrize(
    ("base", "parts", "whole"),
    [
        ("gs://b", ["x"], "gs://b/x"),
        ("gs://b/a/", ["x", "y/z"], "gs://b/a/x/y/z"),
        ("/", ["x"], "/x"),
        ("memory://", ["x"], "memory://x"),
        ("out", [".._x..", "ä #?"], "out/.._x../ä #?"),
        ("gs://b/a", [], "gs://b/a"),
    ],
)
def test_join(base: str, parts: list[str], whole: str) -> None:
    """Parts are appended with one slash between them."""
    assert join(base, *parts) == whole


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("a/[]x]", "a/]", True),
        ("a/[x", "a/[x", True),
        ("a/[[]1]", "a/[1]", True),
        ("a/[a-c]", "a/b", True),
        ("a/[!a-c]", "a/b", False),
        ("a/[^a]", "a/^", True),
        ("a/*", "a/.hidden", True),
        ("a**b", "a/b", False),
        ("a/**", "a/", False),
        ("a/**/b", "a/b", True),
        ("a/**/b", "a/xb", False),
        ("a.b", "axb", False),
    ],
)
def test_glob_details(pattern: str, name: str, matches: bool) -> None:
    """Classes, unclosed brackets and ** follow the shell's rules."""
    assert bool(storage.glob_regex(pattern).fullmatch(name)) is matches


def test_a_bad_pattern_is_told() -> None:
    """A class that cannot be is an error that names the pattern."""
    with pytest.raises(StorageError, match=r"\[z-a\].*is not a pattern"):
        storage.glob_regex("a/[z-a]")


def with_status(status: int) -> Exception:
    error = requests.HTTPError("no")
    error.response = requests.Response()
    error.response.status_code = status
    return error


@pytest.mark.parametrize(
    ("error", "again"),
    [
        *((with_status(status), True) for status in (408, 429, 500, 502, 503, 504)),
        *((with_status(status), False) for status in (400, 401, 403, 404, 412, 501)),
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (PermissionError(), False),
        (ValueError(), False),
    ],
    ids=lambda value: str(getattr(getattr(value, "response", None), "status_code", type(value).__name__)),
)
def test_only_what_may_pass_is_tried_again(error: Exception, again: bool) -> None:
    """408, 429, 5xx, resets and time-outs are tried again; 403, 404 and all others are raised at once."""
    calls = []

    def call() -> str:
        calls.append(1)
        if len(calls) == 1:
            raise error
        return "done"

    if again:
        assert with_retries(call, "gs://b/x", patience=FAST) == "done"
    else:
        with pytest.raises(type(error)):
            with_retries(call, "gs://b/x", patience=FAST)
    assert len(calls) == 1 + again


def test_the_default_patience() -> None:
    """Tries are at most a minute apart and end after a quarter of an hour."""
    state = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
    state.attempt_number = 50
    assert all(0 <= storage.PATIENCE.wait(state) <= 60 for _ in range(100))
    state.outcome_timestamp = state.start_time + 899
    assert not storage.PATIENCE.stop(state)
    state.outcome_timestamp = state.start_time + 901
    assert storage.PATIENCE.stop(state)


def test_stores_are_cheap_and_shared() -> None:
    """One store serves a process, nothing is connected to before it is used, and the function survives pickling."""
    again = pickle.loads(pickle.dumps(store_for))
    assert again("gs://b/x") is store_for("gs://other/y") and again("s3://b/x") is store_for("s3://b/y")
    with pytest.raises(StorageError, match="no-such-scheme"):
        store_for("no-such-scheme://x").stat("no-such-scheme://x/y")
