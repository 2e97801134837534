"""Every stage alone on one core, and what limits it, in MB of text a CPU second."""

import dataclasses
import functools
import io
import itertools
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json
import zstandard
from isal import igzip
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from classifiers import kernel
from classifiers.fasttext_model import offsets_of
from tests import shards
from tests.bench import steps
from tests.bench.clock import Seconds, in_turns, median_ratio
from tests.bench.corpus import CACHE, Corpus, megabytes, text_bytes, texts
from tests.bench.table import Row
from transforms.annotate import Annotators, annotate_batch, annotate_slice, load_language, load_stance
from transforms.decode import DecodeLimits, decompressed
from transforms.lines import lines
from transforms.measure import amounts
from transforms.mix import Settings, mix_group
from transforms.read import read_texts
from transforms.schema import Format, Slice
from transforms.storage import store_for
from transforms.write import LinesOutput

LIMITS: Final = DecodeLimits()
SOURCE: Final = shards.source()
_TOKENS: Final = 32_000  # size of the vocabulary
_TRAIN_CHARS: Final = 4_000_000  # of text that the tokenizer is trained on

Action = Callable[[], object]


def _drain(items: Iterator[Any]) -> None:
    for _ in items:
        pass


def slice_of(path: Path, shard_format: str) -> Slice:
    """A shard as one slice, pinned as a build pins it."""
    info = store_for(str(path)).stat(str(path))
    assert info is not None
    return shards.whole(path, Format(shard_format), info.size)._replace(version=info.version)


def _read(paths: Sequence[Path], shard_format: str, limits: DecodeLimits = LIMITS) -> Iterator[pa.RecordBatch]:
    for path in paths:
        with path.open("rb") as file:
            yield from (found.batch for found in read_texts(file, slice_of(path, shard_format), SOURCE, limits))


def _read_all(paths: Sequence[Path], shard_format: str) -> None:
    _drain(_read(paths, shard_format))


def _decompress(paths: Sequence[Path]) -> None:
    for path in paths:
        with path.open("rb") as file:
            _drain(decompressed(file, LIMITS, compressed_name=True))


def _annotate(paths: Sequence[Path], shard_format: str, annotators: Annotators) -> None:
    with tempfile.TemporaryDirectory() as work:
        for path in paths:
            annotate_slice(slice_of(path, shard_format), SOURCE, annotators, work)


def limit_orjson(paths: Sequence[Path]) -> None:
    """Decompress, parse every line, compress: a loop around C libraries and nothing else."""
    for path in paths:
        data = zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes())
        for line in data.splitlines():
            orjson.loads(line)
        zstandard.ZstdCompressor(level=3).compress(data)


def limit_pyarrow(paths: Sequence[Path]) -> None:
    """The same with Arrow's parser."""
    for path in paths:
        data = zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes())
        pyarrow.json.read_json(
            io.BytesIO(data), read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=16 << 20)
        )
        zstandard.ZstdCompressor(level=3).compress(data)


def _compress(blocks: Sequence[bytes]) -> None:
    """One frame, as one file is; frames of 4 MB each would take a sixth less, and some readers stop after the first."""
    compressor = zstandard.ZstdCompressor(level=3, write_checksum=True).compressobj()
    for block in blocks:
        compressor.compress(block)
    compressor.flush()


def tokenizer(corpus: Corpus) -> str:
    """A byte-pair tokenizer trained on 4 MB of the corpus; kept in the cache."""
    path = CACHE / f"{corpus.name}-tokenizer.json"
    if not path.exists():
        trained = Tokenizer(models.BPE())
        trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=_TOKENS, initial_alphabet=alphabet, show_progress=False)
        trained.train_from_iterator(_some(texts(corpus.shards("jsonl.zst")[-1:]), _TRAIN_CHARS), trainer)
        trained.save(str(path))
    return str(path)


def _some(array: pa.LargeStringArray, size: int) -> list[str]:
    """The first texts, `size` characters of them."""
    total = itertools.accumulate(map(len, array.to_pylist()))
    count = sum(1 for _ in itertools.takewhile(lambda done: done < size, total))
    return list(array[: max(1, count)].to_pylist())


class Bench:
    """The stages of one corpus over its first `number` shards."""

    def __init__(self, corpus: Corpus, number: int) -> None:
        self.corpus, self.number = corpus, number
        self.zst = corpus.shards("jsonl.zst")[:number]
        self.mb = megabytes(self.zst)
        self.batches = list(_read(self.zst, "jsonl"))
        self.blocks = [bytes(b) for p in self.zst for b in decompressed(p.open("rb"), LIMITS, compressed_name=True)]
        self.folder = Path(tempfile.mkdtemp(prefix="counterpoise-bench-"))
        # The shards stand in a folder of their own, so that the build sees these and no others.
        for path in self.zst:
            (self.folder / path.name).symlink_to(path)
        self.web = f"{self.folder}/*.jsonl.zst"
        self.prepared = steps.prepare(steps.config(self.web, self.folder / "out3", steps.THREE_ARMS))
        self.one = steps.prepare(steps.config(self.web, self.folder / "out1", steps.ONE_ARM))
        self.annotators = self.prepared.job.annotators
        self.language = load_language(self.annotators.language_model, self.annotators.language_chars)
        self.stance = load_stance(self.annotators.stance_model)
        self.known = [text.filter(self._is_known(text)) for text in self.texts()]
        self.known_mb = sum(int(pc.sum(pc.binary_length(text)).as_py() or 0) for text in self.known) / 1e6

    def _is_known(self, text: pa.LargeStringArray) -> pa.BooleanArray:
        """Which documents are in a language of the stance model; those that a build scores."""
        labels, _ = self.language.identify(text)
        return pc.is_in(labels.cast(pa.string()), value_set=pa.array(self.stance.languages or self.language.languages))

    def close(self) -> None:
        """Delete what was written."""
        shutil.rmtree(self.folder)

    def texts(self) -> Iterator[pa.LargeStringArray]:
        """The text column of each batch."""
        return (batch.column("text") for batch in self.batches)

    def parts(self) -> dict[str, Action]:
        """What annotating is made of."""
        return {
            "decompress zst": lambda: _decompress(self.zst),
            "split lines": lambda: _drain(lines(iter(self.blocks), LIMITS, start=0, end=-1)),
            "parse jsonl.zst to Arrow": lambda: _drain(_read(self.zst, "jsonl")),
            "language": lambda: [self.language.identify(text) for text in self.texts()],
            "stance": lambda: [self.stance.score(text) for text in self.known],
            "stance, of every text": lambda: [self.stance.score(text) for text in self.texts()],
            "measure": lambda: [amounts(b.column("text"), "", b.column("token_count")) for b in self.batches],
            "count words": lambda: [kernel.count_words(*offsets_of(text)) for text in self.texts()],
            "digest": lambda: [kernel.digest(*offsets_of(text)) for text in self.texts()],
            "annotate_batch": lambda: [annotate_batch(b, self.annotators, is_pool=False) for b in self.batches],
            "annotate jsonl.zst": lambda: _annotate(self.zst, "jsonl", self.annotators),
            "limit loop, orjson": lambda: limit_orjson(self.zst),
            "limit loop, pyarrow": lambda: limit_pyarrow(self.zst),
        }  # fmt: skip

    def formats(self) -> dict[str, Action]:
        """Reading and annotating the other formats."""
        out: dict[str, Action] = {}
        for kind, name in self.corpus.kinds.items():
            paths = self.corpus.shards(kind)[: self.number]
            if kind in ("jsonl.gz", "wet.gz"):
                members = "one member" if kind == "jsonl.gz" else "a member a record"
                out[f"decompress gz, {members} ({kind})"] = functools.partial(_decompress, paths)
            if kind not in ("jsonl.zst", "warc.gz"):
                out[f"parse {kind} to Arrow"] = functools.partial(_read_all, paths, name)
                out[f"annotate {kind}"] = functools.partial(_annotate, paths, name, self.annotators)
        return out

    def later(self) -> dict[str, Action]:
        """Everything behind the annotations."""
        ready, one = self.prepared, self.one
        return {
            "census": lambda: steps.count(ready.job, ready.receipts),
            "plan, three arms": lambda: steps.plan(ready.job, ready.receipts, ready.rules, ready.census),
            "mix, one arm": lambda: self._mix(one),
            "mix, three arms": lambda: self._mix(ready),
            "write jsonl.zst": self._write,
        }

    def bare(self) -> dict[str, Action]:
        """The libraries alone, as limits of single stages."""
        raw = [path.read_bytes() for path in self.zst]
        gz = [path.read_bytes() for path in self.corpus.shards("wet.gz")[: self.number]]
        every = b"".join(self.blocks).splitlines()
        found: dict[str, Action] = {
            "zstandard alone": lambda: [zstandard.ZstdDecompressor().decompressobj().decompress(data) for data in raw],
            "orjson.loads alone": lambda: [orjson.loads(line) for line in every],
            "zstd -3 alone": lambda: _compress(self.blocks),
        }
        if gz:
            found["isal igzip alone (wet.gz)"] = lambda: [igzip.decompress(data) for data in gz]  # type: ignore[no-untyped-call]
        return found

    def _mix(self, ready: steps.Prepared) -> None:
        with tempfile.TemporaryDirectory() as folder:
            settings: Settings = ready.job.settings._replace(output=f"{folder}/out", folder=f"{folder}/receipts")
            for group in ready.groups:
                mix_group(group, ready.plan, settings)

    def _write(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            output = LinesOutput(f"{folder}/spool", f"{folder}/out.jsonl.zst", "jsonl.zst")
            for block in self.blocks:
                output.write([block])
            output.commit()


def measure(corpus: Corpus, number: int, rounds: int, *, everything: bool) -> list[Row]:
    """Rows of one corpus; without `everything` only the larger stages."""
    bench = Bench(corpus, number)
    try:
        actions = bench.parts() | bench.later()
        if everything:
            actions |= bench.formats() | bench.bare()
        taken = in_turns(actions, rounds)
        section = f"one core, stage by stage: {corpus.name}"
        rows = [_row(bench, section, name, taken) for name in actions]
        if everything:
            rows += [*_tokens(bench, section), *_warc(bench, section)]
        return rows
    finally:
        bench.close()


_OF_ANNOTATE: Final = {"decompress zst", "split lines", "parse jsonl.zst to Arrow", "language", "stance", "measure",
                       "count words", "digest", "annotate_batch"}  # fmt: skip
_LIMITS: Final = {
    "decompress zst": "zstandard alone",
    "annotate jsonl.zst": "limit loop, orjson",
    "mix, one arm": "limit loop, orjson",
    "write jsonl.zst": "zstd -3 alone",
    "decompress gz, a member a record (wet.gz)": "isal igzip alone (wet.gz)",
}


def _row(bench: Bench, section: str, name: str, taken: Seconds) -> Row:
    rounds = taken[name]
    mb = bench.known_mb if name == "stance" else bench.mb
    against, note = [], ""
    if name in _OF_ANNOTATE:
        against.append(f"{median_ratio(taken['annotate jsonl.zst'], rounds):.0%} of annotate's time")
    limit = _LIMITS.get(name, "")
    if limit in taken:
        against.append(f"{median_ratio(rounds, taken[limit]):.2f} of {limit}")
    if name == "stance":
        against.append(f"{median_ratio(taken['language'], rounds):.2f} of language's time")
        note = f"{bench.known_mb / bench.mb:.0%} of the text is in a language of the model"
    return Row(section, name, mb / statistics.median(rounds), "", ", ".join(against), note, rounds)


def _tokens(bench: Bench, section: str) -> list[Row]:
    """Counting tokens, on one batch: it is slow."""
    url, batch = tokenizer(bench.corpus), bench.batches[0]
    taken = in_turns({"tokens": lambda: amounts(batch.column("text"), url, batch.column("token_count"))}, 1)["tokens"]
    mb = int(pc.sum(pc.binary_length(batch.column("text"))).as_py()) / 1e6
    return [Row(section, "tokens", mb / taken[0], "", "", f"byte pairs, a vocabulary of {_TOKENS:,}", taken)]


def _warc(bench: Bench, section: str) -> list[Row]:
    """Extracting text from crawled pages, on the first of them: it is slower still."""
    paths = bench.corpus.shards("warc.gz")[:1]
    limits = dataclasses.replace(LIMITS, block_bytes=1 << 18)
    pages = _read(paths, "warc", limits)
    next(pages, None)
    before, size, documents = time.process_time(), 0, 0
    for batch in itertools.islice(pages, 3):
        size, documents = size + int(pc.sum(pc.binary_length(batch.column("text"))).as_py()), documents + len(batch)
    taken = time.process_time() - before
    note = f"HTML to text by trafilatura, {documents:,} pages"
    return [Row(section, "parse warc.gz to Arrow", size / 1e6 / taken, "", "", note, [taken])] if size else []


def corpus_facts(corpus: Corpus) -> str:
    """How large a corpus is."""
    paths = corpus.shards("jsonl.zst")
    return f"{sum(map(text_bytes, paths)) / 1e6:,.1f} MB of text in {len(paths)} shards: {corpus.origin}"
