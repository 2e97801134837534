"""What the bench reads: a real corpus where there is one, else text made of the sample documents."""

import dataclasses
import functools
import io
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import orjson
import pyarrow as pa
import zstandard

from tests import shards

ROOT: Final = Path(__file__).resolve().parents[2]
CACHE: Final = ROOT / "bench-output"
MAKER: Final = ROOT.parent / "shared" / "bench" / "make_corpus.py"
SAMPLE: Final = ROOT / "beam_pipeline" / "sample"
LONG_BYTES: Final = 200_000
SYNTHETIC_BYTES: Final = 40_000_000
_FORMATS: Final = {"jsonl.zst": "jsonl", "jsonl.gz": "jsonl", "parquet": "parquet", "wet.gz": "wet", "warc.gz": "warc"}


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Shards of the same documents in several formats, a folder each; shard i holds the same ones in all of them.

    Attributes:
      name: Short, for titles.
      origin: Where it comes from, for people.
    """

    name: str
    folder: Path
    origin: str

    def shards(self, kind: str) -> list[Path]:
        """The shards of one kind, "jsonl.zst" for example; empty where there are none."""
        return sorted((self.folder / kind).glob("*"))

    @property
    def kinds(self) -> dict[str, str]:
        """The formats of the folders that are there."""
        return {kind: name for kind, name in _FORMATS.items() if self.shards(kind)}


def lines_of(shard: Path) -> list[bytes]:
    """The lines of a .jsonl.zst shard."""
    with shard.open("rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as stream:
        return stream.read().splitlines()


@functools.cache
def text_bytes(shard: Path) -> int:
    """UTF-8 bytes of all texts of a .jsonl.zst shard."""
    return sum(len(orjson.loads(line)["text"].encode()) for line in lines_of(shard))


def megabytes(paths: Iterable[Path]) -> float:
    """MB of text in .jsonl.zst shards."""
    return sum(map(text_bytes, paths)) / 1e6


def find(given: Path | None) -> Corpus:
    """The corpus to measure on; made once and kept in the cache.

    Raises:
      FileNotFoundError: `given` has no jsonl.zst/.
    """
    if given is not None:
        if not list((given / "jsonl.zst").glob("*")):
            raise FileNotFoundError(f"--corpus {given} has no jsonl.zst/ with shards in it")
        return Corpus(given.name, given.resolve(), str(given))
    made = CACHE / "corpus"
    if not made.is_dir() and MAKER.exists():
        CACHE.mkdir(exist_ok=True)
        subprocess.run([sys.executable, MAKER, CACHE / "corpus.part"], check=True)
        (CACHE / "corpus.part").rename(made)
    if made.is_dir():
        return Corpus("docs", made, "pages of documentation in 20 languages (../shared/bench/make_corpus.py)")
    return _synthetic(CACHE / "synthetic")


def _synthetic(folder: Path) -> Corpus:
    """Paragraphs of the sample documents in new orders; few words and little markup, so faster than a crawl."""
    corpus = Corpus("synthetic", folder, "paragraphs of the sample documents shuffled: no real corpus was found")
    if not folder.is_dir():
        sample = [orjson.loads(line)["text"] for line in (SAMPLE / "documents.jsonl").read_bytes().splitlines()]
        pages = [text.split("\n\n") for text in sample]
        chance, docs, size = random.Random(0), list[shards.Document](), 0
        while size < SYNTHETIC_BYTES:
            page = chance.choice(pages)
            text = "\n\n".join(chance.choices(page, k=chance.randint(2, 8))) + f"\n\n{len(docs)}"
            docs.append((f"s{len(docs)}", text))
            size += len(text.encode())
        write(docs, folder, 8, _FORMATS)
    return corpus


def write(docs: Sequence[shards.Document], folder: Path, number: int, kinds: Iterable[str]) -> None:
    """Documents as `number` shards of each kind."""
    part = folder.with_suffix(".part")
    writers = {"parquet": shards.write_parquet, "wet.gz": shards.write_wet, "warc.gz": shards.write_warc}
    endings = {"wet.gz": "warc.wet.gz"}
    for kind in kinds:
        (part / kind).mkdir(parents=True, exist_ok=True)
        for i in range(number):
            path, mine = part / kind / f"{i:05d}.{endings.get(kind, kind)}", docs[i::number]
            if kind.startswith("jsonl"):
                shards.write_jsonl(path, mine, codec={"zst": "zstd", "gz": "gzip"}[kind[6:]])
            else:
                writers[kind](path, mine)
    part.rename(folder)


def documents(paths: Iterable[Path]) -> Iterator[tuple[str, str, str]]:
    """(id, text, language or "") of each line."""
    for path in paths:
        for line in lines_of(path):
            found = orjson.loads(line)
            yield str(found.get("id", "")), found["text"], str(found.get("gold_language", ""))


def long_documents(corpus: Corpus) -> Corpus:
    """The same text as documents of 200 KB, each of one language."""
    folder = CACHE / f"{corpus.name}-long"
    if not folder.is_dir():
        open_: dict[str, io.StringIO] = {}
        docs: list[shards.Document] = []
        for _, text, language in documents(corpus.shards("jsonl.zst")):
            buffer = open_.setdefault(language, io.StringIO())
            buffer.write(text + "\n")
            if buffer.tell() >= LONG_BYTES / (1 if text.isascii() else 1.3):
                docs.append((f"long{len(docs)}", open_.pop(language).getvalue()))
        write(docs, folder, 4, ["jsonl.zst", "parquet"])
    return Corpus(f"{corpus.name}-long", folder, "the same text in documents of 200 KB")


def small_shards(corpus: Corpus, number: int) -> list[Path]:
    """The corpus cut into `number` shards of about equal size, .jsonl.zst."""
    folder = CACHE / f"{corpus.name}-{number}"
    if not folder.is_dir():
        docs: list[shards.Document] = [(name, text) for name, text, _ in documents(corpus.shards("jsonl.zst"))]
        write(docs, folder, number, ["jsonl.zst"])
    return sorted((folder / "jsonl.zst").glob("*"))


def linked(paths: Sequence[Path], folder: Path, times: int = 1) -> Path:
    """A folder with each of the shards `times` times, as hard links where the disk has them; returns it.

    Not symbolic ones: `FindShards` follows these, and takes those that lead to one file for one shard.
    """
    folder.mkdir(parents=True)
    for copy in range(times):
        for path in paths:
            place = folder / f"{copy:02d}-{path.name}"
            try:
                os.link(path, place)
            except OSError:
                shutil.copy(path, place)
    return folder


def texts(paths: Iterable[Path]) -> pa.LargeStringArray:
    """All texts of .jsonl.zst shards in one array."""
    return pa.array([text for _, text, _ in documents(paths)], pa.large_string())
