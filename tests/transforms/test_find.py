"""Listing and cutting: every shard once, in its format, pinned; whatever is not a shard is an error, not a loss."""

import hashlib
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given
from hypothesis import strategies as st

from beam_pipeline.options import beam_options
from tests import corpora, shards
from transforms import find
from transforms.decode import DecodeLimits
from transforms.errors import ConfigError
from transforms.find import (
    FindShards,
    Listing,
    checksum_for,
    cut_shard,
    format_of,
    list_all,
    list_shards,
    parse_checksums,
)
from transforms.read import read_texts
from transforms.schema import Format, Slice
from transforms.storage import ObjectInfo

WEB = shards.source()


def listing(*paths: str | Path, **changes: Any) -> Listing:
    """A listing of one source."""
    return Listing(WEB, tuple(map(str, paths)), "auto", "", ())._replace(**changes)


def put(folder: Path, *names: str) -> None:
    """Files with something in them."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x" * (number + 1))


def names_of(found: list[tuple[ObjectInfo, Format, str]]) -> list[str]:
    """The last part of each shard's name."""
    return [info.url.rsplit("/", 1)[1] for info, _, _ in found]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.jsonl", "a.JSONL.GZ", "a.json.zst", "a.ndjson.zstd"], Format.JSONL),
        (["gs://b/a.parquet", "a.snappy.parquet"], Format.PARQUET),
        (["CC-MAIN-0.warc.wet.gz", "a.wet"], Format.WET),
        (["a.warc.gz", "a.warc.zst", "a.warc"], Format.WARC),
        (["a.txt", "a.gz", "jsonl", "a.jsonl.bz2", "a.jsonl.gz.part", "a.csv"], None),
    ],
)
def test_formats_by_name(names: list[str], expected: Format | None) -> None:
    """The name says the format, whatever the compression and the case."""
    assert {format_of(name) for name in names} == {expected}


def test_a_shard_is_listed_once(tmp_path: Path) -> None:
    """Patterns that overlap give each shard once, sorted, with its size and the version that is there now."""
    put(tmp_path, "b.jsonl", "a.parquet", "sub/c.warc.gz")
    found = list_shards(listing(tmp_path / "**", tmp_path / "*.jsonl", tmp_path / "b.jsonl"))
    assert names_of(found) == ["a.parquet", "b.jsonl", "c.warc.gz"]
    assert [format_ for _, format_, _ in found] == [Format.PARQUET, Format.JSONL, Format.WARC]
    assert found[1][0].size == 1
    assert found[1][0].version


def test_hidden_names_are_passed_over(tmp_path: Path) -> None:
    """Names that begin with "_" or "." are not data: _SUCCESS, .crc and their like."""
    put(tmp_path, "a.jsonl", "_SUCCESS", ".part.crc", "_metadata.parquet")
    assert names_of(list_shards(listing(tmp_path / "*"))) == ["a.jsonl"]


def test_a_pattern_without_match_is_an_error(tmp_path: Path) -> None:
    """A mistyped path is said, with the key, though others match."""
    put(tmp_path, "a.jsonl")
    with pytest.raises(ConfigError, match=r"sources.web.paths: nothing matches .*/b\*") as error:
        list_shards(listing(tmp_path / "*", tmp_path / "b*"))
    assert len(error.value.problems) == 1


def test_other_names_are_errors(tmp_path: Path) -> None:
    """A name that is no shard is not left out silently; with a format given it is read as that."""
    put(tmp_path, "a.jsonl", "b.txt")
    with pytest.raises(ConfigError, match=r"b.txt has none of the endings .*narrow the pattern or set format"):
        list_shards(listing(tmp_path / "*"))
    assert [f for _, f, _ in list_shards(listing(tmp_path / "*", format="jsonl"))] == [Format.JSONL] * 2


def test_many_problems_are_counted(tmp_path: Path) -> None:
    """Ten are shown, the others counted."""
    put(tmp_path, *(f"{i}.txt" for i in range(25)))
    with pytest.raises(ConfigError) as error:
        list_shards(listing(tmp_path / "*"))
    assert len(error.value.problems) == 11
    assert error.value.problems[-1] == "… and 15 more"


def test_the_output_is_no_input(tmp_path: Path) -> None:
    """A pattern that reaches into the build's own output is refused; a folder of a similar name is fine."""
    put(tmp_path, "out/arm/part.jsonl", "out2/a.jsonl")
    with pytest.raises(ConfigError, match=r"lies in this build's own"):
        list_shards(listing(tmp_path / "**", excluded=(str(tmp_path / "out"),)))
    assert names_of(list_shards(listing(tmp_path / "out2/*", excluded=(str(tmp_path / "out"),)))) == ["a.jsonl"]


def test_one_object_in_two_sources(tmp_path: Path) -> None:
    """It would count twice, and is refused by both names."""
    put(tmp_path, "a.jsonl")
    other = shards.source(name="other", index=1)
    with pytest.raises(ConfigError, match="is in web and in other; it would count twice"):
        list_all([listing(tmp_path / "*"), listing(tmp_path / "*", source=other)])


def test_all_sources_are_looked_at(tmp_path: Path) -> None:
    """Problems of every source are reported at once."""
    other = shards.source(name="other", index=1, is_pool=True)
    with pytest.raises(ConfigError) as error:
        list_all([listing(tmp_path / "x*"), listing(tmp_path / "y*", source=other)])
    assert [p.split(":")[0] for p in error.value.problems] == ["sources.web.paths", "pool.other.paths"]


def test_largest_first(tmp_path: Path) -> None:
    """Work dealt out in this order ends at about the same time."""
    put(tmp_path, "a.jsonl", "b.jsonl", "c.jsonl")
    assert [info.size for _, info, _, _ in list_all([listing(tmp_path / "*")])] == [3, 2, 1]


# --- checksums ---


def test_checksum_files() -> None:
    """Lines of sha256sum and md5sum, text and binary mode, escaped names, comments and blanks."""
    sha, md5 = "A" * 64, "b" * 32
    text = f"# made today\n{sha}  ./x/a.jsonl\n\n{md5} *b c.jsonl\n\\{md5}  d.jsonl\n"
    assert parse_checksums(text, "S") == {
        "x/a.jsonl": f"sha256:{'a' * 64}",
        "b c.jsonl": f"md5:{md5}",
        "d.jsonl": f"md5:{md5}",
    }


@pytest.mark.parametrize("line", ["abc  a.jsonl", "b" * 32, "SHA256 (a) = " + "a" * 64, "b" * 33 + "  a"])
def test_other_lines_in_checksum_files(line: str) -> None:
    """They are refused by number: what cannot be read cannot protect."""
    with pytest.raises(ConfigError, match="checksums: S line 2 is not 'HEX  name'"):
        parse_checksums("b" * 32 + f"  ok\n{line}\n", "S")


def test_the_longest_name_wins() -> None:
    """Of two lines that end a URL the more exact one counts; a tail begins after a slash."""
    sums = {"a.jsonl": "1", "x/a.jsonl": "2", "l": "3"}
    assert checksum_for("gs://b/x/a.jsonl", sums) == "2"
    assert checksum_for("gs://b/y/a.jsonl", sums) == "1"
    assert checksum_for("gs://b/y/ba.jsonl", sums) == ""


def test_checksums_reach_the_slices(tmp_path: Path) -> None:
    """Every shard gets its sum, and one that the file does not name is refused."""
    put(tmp_path, "a.jsonl", "b.jsonl")
    digest = hashlib.sha256(b"x").hexdigest()
    (tmp_path / "_SUMS").write_text(f"{digest}  a.jsonl\n")
    found = list_shards(listing(tmp_path / "a.jsonl", checksums=str(tmp_path / "_SUMS")))
    assert [expected for _, _, expected in found] == [f"sha256:{digest}"]
    with pytest.raises(ConfigError, match=r"sources.web.checksums: .* does not name .*b\.jsonl"):
        list_shards(listing(tmp_path / "*", checksums=str(tmp_path / "_SUMS")))
    with pytest.raises(ConfigError, match=r"checksums: .*gone does not exist"):
        list_shards(listing(tmp_path / "*", checksums=str(tmp_path / "gone")))


# --- slices ---


def slices_of(path: Path) -> list[Slice]:
    """The slices of one shard."""
    return [part for shard in list_all([listing(path)]) for part in cut_shard(*shard)]


@pytest.mark.parametrize(("size", "expected"), [(1, [(i, i + 1) for i in range(5)]), (1 << 27, [(0, 5)])])
def test_parquet_is_cut_into_runs_of_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, expected: list[tuple[int, int]]
) -> None:
    """As many row groups as make up the slice size, the last run included."""
    monkeypatch.setattr(find, "SLICE_BYTES", size)
    shards.write_parquet(tmp_path / "a.parquet", corpora.documents(23), row_group=5)
    assert [(part.start, part.end) for part in slices_of(tmp_path / "a.parquet")] == expected


@given(st.integers(1, 3000), st.integers(0, 12), st.booleans())
def test_every_line_is_in_one_slice(
    tmp_path_factory: pytest.TempPathFactory, size: int, count: int, newline: bool
) -> None:
    """Plain JSON lines cut at any bytes: each document is read once, in order."""
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    docs = [(name, f"{name} ä {text[:40]}") for name, text in corpora.documents(count)]
    data = shards.jsonl_bytes(docs)
    path.write_bytes(data if newline else data[:-1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(find, "SLICE_BYTES", size)
        parts = slices_of(path)
    found = []
    for part in parts:
        with path.open("rb") as file:
            for batch, bad, _ in read_texts(file, part, WEB, DecodeLimits()):
                assert not bad
                found += batch.column("text").to_pylist()
    assert found == [text for _, text in docs]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "plain-name-compressed.jsonl"])
def test_compressed_shards_are_not_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Compressed data is read from its beginning, also where the name does not say that it is compressed."""
    monkeypatch.setattr(find, "SLICE_BYTES", 10)
    codec = "zstd" if name.endswith("zst") else "gzip"
    shards.write_jsonl(tmp_path / name, corpora.documents(20), codec=codec)
    assert [(part.start, part.end) for part in slices_of(tmp_path / name)] == [(0, -1)]


def test_a_damaged_footer_is_one_slice(tmp_path: Path) -> None:
    """What cannot be cut is read whole, so that the reading says what is wrong and nothing can be lost."""
    data = shards.parquet_bytes(corpora.documents(10))
    (tmp_path / "a.parquet").write_bytes(data[:-20])
    assert [(part.start, part.end) for part in slices_of(tmp_path / "a.parquet")] == [(0, -1)]


def test_an_empty_table_is_one_slice(tmp_path: Path) -> None:
    """A Parquet file without row groups is a shard like any other."""
    shards.write_parquet(tmp_path / "a.parquet", [])
    assert len(slices_of(tmp_path / "a.parquet")) == 1


def test_find_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The transform emits every slice of every source once."""
    monkeypatch.setattr(find, "SLICE_BYTES", 700)
    folder = corpora.write_web(tmp_path)
    listings = (
        listing(folder / "web/*"),
        listing(folder / "pool/*", source=shards.source(name="p", index=1, is_pool=True)),
    )
    expected = [part for shard in list_all(listings) for part in cut_shard(*shard)]
    with beam.Pipeline(options=beam_options(["--direct_num_workers=1"])) as root:
        assert_that(root | FindShards(listings=listings), equal_to(expected))
    assert len(expected) > 4
