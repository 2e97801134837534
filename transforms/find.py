"""List the shards, pin each to the version that is there now, and cut them into slices of work.

The listing happens in the pipeline, so a million shards do not swell the job's graph. Names that begin with "_" or
"." are passed over; any other name that is no shard is an error, because leaving it out silently would be a loss.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq

from transforms import heartbeat
from transforms.decode import sniff
from transforms.errors import ConfigError
from transforms.schema import Codec, Format, Slice, Source
from transforms.storage import ObjectInfo, store_for

SLICE_BYTES: Final = 128 << 20  # of plain JSONL, or of compressed Parquet row groups

SUFFIXES: Final[Mapping[str, Format]] = {
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".json": Format.JSONL,
    ".parquet": Format.PARQUET,
    ".warc.wet": Format.WET,
    ".wet": Format.WET,
    ".warc": Format.WARC,
}


class Listing(NamedTuple):
    """What to list for one source.

    Attributes:
      format: "auto" or a `Format` value.
      checksums: URL of a file as sha256sum or md5sum write it, or "".
      excluded: URL prefixes (the output, the work folder) whose objects may not be inputs.
    """

    source: Source
    paths: tuple[str, ...]
    format: str
    checksums: str
    excluded: tuple[str, ...]


def format_of(name: str) -> Format | None:
    """The format that a name says, whatever the compression, or None."""
    stem = re.sub(r"\.(gz|zst|zstd)$", "", name.lower())
    return next((f for suffix, f in SUFFIXES.items() if stem.endswith(suffix)), None)


def parse_checksums(text: str, url: str) -> dict[str, str]:
    """File name → "sha256:HEX" or "md5:HEX", from lines "HEX  name" or "HEX *name".

    Raises:
      ConfigError: A line is neither.
    """
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = re.fullmatch(r"\\?([0-9a-fA-F]{64}|[0-9a-fA-F]{32})[ \t]+\*?(.+)", line.strip())
        if not match:
            raise ConfigError([f"checksums: {url} line {number} is not 'HEX  name' as sha256sum or md5sum write it"])
        digest, name = match.groups()
        found[name.removeprefix("./")] = f"{'sha256' if len(digest) == 64 else 'md5'}:{digest.lower()}"
    return found


def checksum_for(url: str, checksums: Mapping[str, str]) -> str:
    """The checksum whose name is the longest tail of the URL, or ""."""
    parts = url.split("/")
    return next((c for i in range(len(parts)) if (c := checksums.get("/".join(parts[i:])))), "")


def list_shards(listing: Listing) -> list[tuple[ObjectInfo, Format, str]]:
    """All shards of one source with format and expected checksum, each object once, sorted by URL.

    Raises:
      ConfigError: A pattern matches nothing, a name is no shard, a shard is missing in the checksums, or an input
        lies in the output.
    """
    objects: dict[str, ObjectInfo] = {}
    problems = []
    where = f"{'pool' if listing.source.is_pool else 'sources'}.{listing.source.name}"
    for pattern in listing.paths:
        matched = list(store_for(pattern).list(pattern))
        if not matched:
            problems.append(f"{where}.paths: nothing matches {pattern}")
        objects |= {info.url: info for info in matched if not _is_hidden(info.url)}
    checksums = _load_checksums(listing.checksums)
    shards = []
    for url, info in sorted(objects.items()):
        found = format_of(url) if listing.format == "auto" else Format(listing.format)
        inside = [e for e in listing.excluded if url == e or url.startswith(e.rstrip("/") + "/")]
        expected = checksum_for(url, checksums)
        if inside:
            problems.append(f"{where}.paths: {url} lies in this build's own {inside[0]}; narrow the pattern")
        elif found is None:
            problems.append(f"{where}.paths: {url} has none of the endings {', '.join(SUFFIXES)} (.gz, .zst); "
                            "narrow the pattern or set format")  # fmt: skip
        elif checksums and not expected:
            problems.append(f"{where}.checksums: {listing.checksums} does not name {url}")
        else:
            shards.append((info, found, expected or ("" if found is Format.PARQUET else info.checksum)))
    if problems:
        raise ConfigError(problems[:10] + ([f"… and {len(problems) - 10} more"] if len(problems) > 10 else []))
    return shards


def _is_hidden(url: str) -> bool:
    return url.rsplit("/", 1)[-1].startswith(("_", "."))


def _load_checksums(url: str) -> dict[str, str]:
    if not url:
        return {}
    if store_for(url).stat(url) is None:
        raise ConfigError([f"checksums: {url} does not exist"])
    with store_for(url).open(url) as file:
        return parse_checksums(file.read().decode("utf-8", errors="replace"), url)


def list_all(listings: Sequence[Listing]) -> list[tuple[Source, ObjectInfo, Format, str]]:
    """All shards of all sources, largest first, so that work dealt out in order ends at about the same time.

    Raises:
      ConfigError: As `list_shards`, or one object belongs to two sources.
    """
    found, owner, problems = [], dict[str, str](), list[str]()
    for listing in listings:
        try:
            shards = list_shards(listing)
        except ConfigError as error:
            problems += error.problems
            continue
        for info, format_, checksum in shards:
            if other := owner.get(info.url):
                problems.append(f"{info.url} is in {other} and in {listing.source.name}; it would count twice")
            owner[info.url] = listing.source.name
            found.append((listing.source, info, format_, checksum))
    if problems:
        raise ConfigError(problems)
    return sorted(found, key=lambda shard: (-shard[1].size, shard[1].url))


def cut_shard(source: Source, info: ObjectInfo, format_: Format, checksum: str) -> Iterator[Slice]:
    """The slices of one shard; Parquet footers are read here.

    A shard that cannot be cut is one slice, so that the reading of it says what is wrong.
    """
    whole = Slice(source.index, info.url, 0, -1, info.size, info.version, format_.value, checksum)
    if format_ is Format.PARQUET:
        yield from _row_group_runs(whole)
    elif format_ is Format.JSONL and info.size > SLICE_BYTES and _is_plain(whole):
        # A shard read in pieces is summed by one more reading, so only against a sum that the user gave.
        whole = whole._replace(checksum="" if checksum == info.checksum else checksum)
        for start in range(0, info.size, SLICE_BYTES):
            yield whole._replace(start=start, end=min(start + SLICE_BYTES, info.size))
    else:
        yield whole


def _is_plain(part: Slice) -> bool:
    with store_for(part.shard).open(part.shard, part.version) as file:
        return sniff(file.read(16)) is Codec.NONE


def _row_group_runs(whole: Slice) -> Iterator[Slice]:
    try:
        with store_for(whole.shard).open(whole.shard, whole.version) as raw, pq.ParquetFile(raw) as file:
            sizes = [
                sum(group.column(i).total_compressed_size for i in range(group.num_columns))
                for group in (file.metadata.row_group(g) for g in range(file.num_row_groups))
            ]
    except (pa.ArrowException, OSError):
        yield whole  # to its end: were it readable after all, nothing of it may be lost
        return
    start, size = 0, 0
    for index, group_size in enumerate(sizes):
        size += group_size
        if size >= SLICE_BYTES or index == len(sizes) - 1:
            yield whole._replace(start=start, end=index + 1)
            start, size = index + 1, 0
    if not sizes:
        yield whole._replace(end=0)


@dataclasses.dataclass(kw_only=True, eq=False)
class FindShards(beam.PTransform):
    """Emit the slices of all shards of all sources, each once, dealt over the workers.

    Raises (when run):
      ConfigError: See `list_all`.
    """

    listings: tuple[Listing, ...]

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, root: beam.Pipeline) -> beam.PCollection[Slice]:
        return (
            root
            | "Listings" >> beam.Create([self.listings])
            | "List" >> beam.FlatMap(list_all)
            | "DealShards" >> beam.Reshuffle()
            | "Cut" >> beam.FlatMap(_cut)
            | "DealSlices" >> beam.Reshuffle()
        )


def _cut(shard: tuple[Source, ObjectInfo, Format, str]) -> list[Slice]:
    slices = list(cut_shard(*shard))
    heartbeat.add(slices_found=len(slices))
    return slices
