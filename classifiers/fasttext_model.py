"""Supervised fastText models (`.bin`, `.ftz`) read into arrays and scored without the fasttext module.

Labels and probabilities are those of fastText's Python `predict` on the text with a space for each newline, in about
an eighth of its time: `classifiers.network` walks the bytes of an Arrow column and remembers the words it has seen.
The format is that of FastText::saveModel, versions 11 and 12:
https://github.com/facebookresearch/fastText/blob/main/src/fasttext.cc
"""

import dataclasses
import itertools
import mmap
import os
import re
import struct
import threading
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from classifiers import kernel, outputs
from classifiers.compiled import Bytes, Digests, Floats, Offsets
from classifiers.lanes import LANES, aligned
from classifiers.model import ModelError
from classifiers.network import FOUND_ROOM, HIERARCHICAL, ONE_VS_ALL, Memory, Network, new_memory, slots_of

_MAGIC = 793712314
_SUPERVISED = 3  # args.h, enum model_name
_LABEL = "__label__"
_EOS = b"</s>"
_CENTROIDS = 256  # ProductQuantizer::ksub_
_ENDLESS = 10**15  # HierarchicalSoftmaxLoss::buildTree takes it for the count of a node not yet made


class FastTextModel:
    """An immutable supervised fastText model, scored without the fasttext module.

    Safe to share between threads: each keeps its own memory of words (32 MiB), and scoring holds no lock. A text's
    result depends on its bytes alone, not on the batch, the order or what was scored before.

    Attributes:
      labels: Without the `__label__` prefix, in the model's order (most frequent in training first).
      dim: Columns of the model's matrices.
    """

    def __init__(self, labels: tuple[str, ...], dim: int, tables: "_Tables") -> None:
        """Use `load`."""
        self.labels, self.dim, self._tables = labels, dim, tables
        self._network = tables.network()
        self._local = threading.local()

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "FastTextModel":
        """Read a model file.

        A quantised matrix is unpacked: the model takes 4 bytes a row and column.

        Raises:
          ModelError: No such file, not a supervised fastText model, cut, damaged, or of an unknown version.
        """
        try:
            with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
                return cls(*_read_model(_File(raw, os.fspath(path))))
        except (OSError, ValueError) as error:  # ValueError: mmap of an empty file
            raise ModelError(
                f"fastText model {os.fspath(path)} cannot be read: {error}. Give the path of a .bin or .ftz file."
            ) from error

    def predict_proba(self, data: npt.NDArray[Any], starts: npt.NDArray[Any], ends: npt.NDArray[Any]) -> Floats:
        """Probability of each label for each text.

        Args:
          data: UTF-8 bytes of all texts, uint8.
          starts: Byte offset of each text's begin, int64 (n,), in any order.
          ends: Byte offset of each text's end; texts may overlap.

        Returns:
          float32 (n, labels), each in [0, 1], zeros where the model has nothing to score. Softmax rows sum to 1.
          fastText's numbers differ by 1e-5 at most, by 2e-4 in a text of 10 MB, where its float32 sums get coarse.

        Raises:
          ValueError: An offset lies outside `data`.
        """
        return outputs.predict_all(self._network, self._memory(), *kernel.batch(data, starts, ends))

    def predict_top(
        self, data: npt.NDArray[Any], starts: npt.NDArray[Any], ends: npt.NDArray[Any]
    ) -> tuple[npt.NDArray[np.int32], Floats]:
        """Best label of each text and its probability; arguments and errors as in `predict_proba`.

        Returns:
          Index into `labels`, int32 (n,), -1 where the model has nothing to score; probability, float32 (n,), there 0.
        """
        return outputs.predict_best(self._network, self._memory(), *kernel.batch(data, starts, ends))

    @property
    def loss(self) -> str:
        """How the model was trained: "hs" (hierarchical softmax), "ns", "softmax" or "ova"."""
        return ("hs", "ns", "softmax", "ova")[self._tables.settings.loss - 1]

    def explain(self, text: str) -> list[tuple[str, Floats]]:
        """What each feature of a text adds to each label's logit, in plain Python: for a look at single texts.

        Returns:
          Pairs in fastText's order, one for each occurrence: the token, character n-gram (`<` and `>` are a word's
          edges) or word n-gram, `</s>` for the end of line; and its contributions, float32 (labels,). The sum over
          the pairs is the logit. Empty where the model has nothing to score.

        Raises:
          ValueError: The model is a hierarchical softmax, which has no logit per label.
        """
        if self.loss == "hs":
            raise ValueError("a hierarchical softmax has no logit per label to explain; use a softmax or ova model.")
        features = list(_features(self._tables, text.encode()))
        output = self._tables.output[: len(self.labels)] / np.float32(max(1, len(features)))
        return [(name.decode(errors="replace"), output @ self._tables.rows[row]) for name, row in features]

    def _memory(self) -> Memory:
        if getattr(self._local, "memory", None) is None:
            self._local.memory, self._local.kept = new_memory(self._network)
        return cast(Memory, self._local.memory)


def offsets_of(array: "pa.StringArray | pa.LargeStringArray") -> tuple[Bytes, Offsets, Offsets]:
    """The bytes of an Arrow string array and where each of its texts lies in them.

    Returns:
      data, a view of the array's buffer (uint8), valid while the array lives or the view does; starts and ends,
      int64 (n,), views too for a LargeStringArray. A slice gives its own texts only; a null gives an empty text.

    Raises:
      TypeError: The array is neither a StringArray nor a LargeStringArray.
    """
    if not isinstance(array, pa.StringArray | pa.LargeStringArray):
        raise TypeError(f"texts are {getattr(array, 'type', type(array))}; they must be string or large_string.")
    _, offsets, data = array.buffers()
    if len(array) == 0 or offsets is None:
        return np.empty(0, np.uint8), np.empty(0, np.int64), np.empty(0, np.int64)
    width = np.int32 if isinstance(array, pa.StringArray) else np.int64
    edges = np.frombuffer(offsets, width)[array.offset : array.offset + len(array) + 1].astype(np.int64, copy=False)
    starts, ends = edges[:-1], edges[1:]
    if array.null_count:
        ends = np.where(np.asarray(array.is_valid()), ends, starts)
    return np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8), starts, ends


# --- the features of a text, plainly ----------------------------------------------------------------------------


def _features(tables: "_Tables", text: bytes) -> Iterator[tuple[bytes, int]]:
    """Name and row of each feature (Dictionary::getLine)."""
    words, settings = tables.dictionary.words, tables.settings
    seen: list[tuple[bytes, int]] = []
    tokens = [*filter(None, re.split(rb"[ \n\r\t\v\f\0]+", text)), _EOS]
    for token in tokens[: tokens.index(_EOS) + 1]:
        entry = tables.entry_of.get(token, -1)
        if entry >= words or (entry < 0 and token.startswith(_LABEL.encode())):
            continue
        seen.append((token, _signed(_fnv(token))))
        if entry >= 0:
            yield token, entry
        if token != _EOS:
            for name in _subwords(settings, b"<" + token + b">"):
                yield from tables.named_row(name, _fnv(name))
    for i in range(len(seen)):
        gram = seen[i][1]
        for j in range(i + 1, min(len(seen), i + settings.ngrams)):
            gram = (gram * 116049371 + seen[j][1]) % (1 << 64)
            yield from tables.named_row(b" ".join(token for token, _ in seen[i : j + 1]), gram)


def _subwords(settings: "_Settings", word: bytes) -> Iterator[bytes]:
    """Character n-grams of a word in brackets (Dictionary::computeSubwords)."""
    edges = [i for i, byte in enumerate(word) if byte & 0xC0 != 0x80] + [len(word)]
    for i in range(len(edges) - 1):
        for n in range(max(1, settings.minn), min(settings.maxn, len(edges) - 1 - i) + 1):
            if n > 1 or 0 < i < len(edges) - 2:
                yield word[edges[i] : edges[i + n]]


def _fnv(word: bytes) -> int:
    """Dictionary::hash, which sign-extends each byte."""
    h = 2166136261
    for byte in word:
        h = (h ^ byte ^ (0xFFFFFF00 if byte & 0x80 else 0)) * 16777619 % (1 << 32)
    return h


def _signed(h: int) -> int:
    """An unsigned 32-bit hash as fastText's int32, modulo 2**64."""
    return (h - (h >> 31 << 32)) % (1 << 64)


# --- the file ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class _File:
    """A model file read from front to back; says where it ended when it ends too early."""

    raw: mmap.mmap
    path: str
    at: int = 0

    def array(self, dtype: str, count: int) -> npt.NDArray[Any]:
        """A copy of the next `count` values."""
        size = np.dtype(dtype).itemsize * count
        if count < 0 or self.at + size > len(self.raw):
            raise self.wrong(f"is cut: of its {len(self.raw)} bytes, {size} must follow the first {self.at}")
        out = np.frombuffer(self.raw[self.at : self.at + size], dtype)
        self.at += size
        return out

    def number(self, dtype: str) -> int:
        return int(self.array(dtype, 1)[0])

    def entry(self) -> tuple[bytes, int, bool]:
        """The next entry of the dictionary: bytes, count, whether it is a label."""
        end = self.raw.find(b"\0", self.at)
        if end < 0 or end + 10 > len(self.raw):
            raise self.wrong(f"is cut: a dictionary entry at byte {self.at} does not end")
        word, (count, kind) = self.raw[self.at : end], struct.unpack_from("<qb", self.raw, end + 1)
        self.at = end + 10
        return word, count, kind == 1

    def wrong(self, fact: str) -> ModelError:
        return ModelError(
            f"fastText model {self.path} {fact}. It must be a supervised model as fastText saves it (.bin or .ftz): "
            "fetch it again, or train and save it anew."
        )


@dataclasses.dataclass(frozen=True)
class _Settings:
    """The part of fastText's Args that prediction needs."""

    dim: int
    ngrams: int
    loss: int
    bucket: int
    minn: int
    maxn: int


@dataclasses.dataclass(frozen=True)
class _Dictionary:
    entries: list[bytes]  # words, then labels
    words: int
    label_counts: list[int]
    pruned: dict[int, int] | None  # bucket to row after the words; None where every bucket has its row


def _read_model(file: _File) -> tuple[tuple[str, ...], int, "_Tables"]:
    settings = _read_settings(file)
    dictionary = _read_dictionary(file)
    quantised = bool(file.number("u1"))
    rows = _read_quantised(file) if quantised else _read_dense(file)
    if dictionary.pruned is not None and not quantised:
        raise file.wrong("has a pruned dictionary beside a dense matrix (fastText issue 332)")
    output = _read_quantised(file) if file.number("u1") and quantised else _read_dense(file)
    _check_shapes(file, settings, dictionary, rows, output)
    labels = tuple(x.decode(errors="replace").removeprefix(_LABEL) for x in dictionary.entries[dictionary.words :])
    return labels, settings.dim, _Tables(settings, dictionary, rows, output)


def _read_settings(file: _File) -> _Settings:
    """Args::load, after FastText::checkModel."""
    if len(file.raw) < 8 or file.number("<i4") != _MAGIC:
        raise file.wrong(f"does not begin with fastText's magic number {_MAGIC}")
    version = file.number("<i4")
    if version not in (11, 12):
        raise file.wrong(f"has format version {version}; known are 11 and 12")
    dim, _, _, _, _, ngrams, loss, model, bucket, minn, maxn, _ = (int(x) for x in file.array("<i4", 12))
    file.number("<f8")
    if model != _SUPERVISED:
        raise file.wrong(f"has model type {model}; supervised is {_SUPERVISED}")
    if not HIERARCHICAL <= loss <= ONE_VS_ALL:
        raise file.wrong(f"has loss {loss}; known are 1 to 4")
    if version == 11:  # FastText::loadModel: supervised models of that version have no character n-grams
        maxn = 0
    if bucket < 1 and (maxn > 0 or ngrams > 1):
        raise file.wrong(f"has {bucket} buckets, and n-grams that need one")
    if ngrams > FOUND_ROOM:
        raise file.wrong(f"has n-grams of {ngrams} words; at most {FOUND_ROOM} are handled")
    return _Settings(dim, max(1, ngrams), loss, bucket, minn, maxn)


def _read_dictionary(file: _File) -> _Dictionary:
    """Dictionary::load."""
    size, words, labels = (int(x) for x in file.array("<i4", 3))
    file.number("<i8")  # tokens in training
    pruned_size = file.number("<i8")
    if min(words, labels) < 0 or words + labels != size or labels == 0:
        raise file.wrong(f"has {words} words and {labels} labels among {size} entries")
    entries, counts = [], []
    for i in range(size):
        entry, count, is_label = file.entry()
        entries.append(entry)
        counts.append(count)
        if is_label != (i >= words):
            raise file.wrong(f"has a dictionary in which entry {i} is no {'label' if i >= words else 'word'}")
    if min(counts[words:]) < 0 or sum(counts[words:]) >= _ENDLESS:
        raise file.wrong("has counts of labels that cannot be")
    pairs = file.array("<i4", 2 * max(0, pruned_size)).reshape(-1, 2).T.tolist()
    pruned = None if pruned_size < 0 else dict(zip(*pairs, strict=True))
    return _Dictionary(entries, words, counts[words:], pruned)


def _read_dense(file: _File) -> Floats:
    rows, columns = (int(x) for x in file.array("<i8", 2))
    return file.array("<f4", rows * columns).reshape(rows, columns)


def _read_quantised(file: _File) -> Floats:
    """QuantMatrix::load, unpacked: a row is its norm times the centroids its codes name."""
    has_norms = bool(file.number("u1"))
    rows, columns = (int(x) for x in file.array("<i8", 2))
    codes = file.array("u1", file.number("<i4"))
    centroids = _read_centroids(file, columns)
    if len(codes) != rows * len(centroids):
        raise file.wrong(f"has {len(codes)} codes for {rows} rows of {len(centroids)}")
    out = np.concatenate(
        [part[codes] for part, codes in zip(centroids, codes.reshape(rows, len(centroids)).T, strict=True)], axis=1
    )
    if has_norms:
        norm_codes, (norms,) = file.array("u1", rows), _read_centroids(file, 1)
        with np.errstate(all="ignore"):  # `_check_shapes` refuses what is no number
            out *= norms[norm_codes]
    return out


def _read_centroids(file: _File, columns: int) -> list[Floats]:
    """ProductQuantizer::load: for each group of columns its 256 centroids, (256, columns of the group)."""
    dim, groups, width, last = (int(x) for x in file.array("<i4", 4))
    if dim != columns or groups < 1 or width < 1 or (groups - 1) * width + last != dim:
        raise file.wrong(f"has a quantiser of {groups} groups of {width} and {last} for {columns} columns")
    values = file.array("<f4", dim * _CENTROIDS)
    edges = [g * width * _CENTROIDS for g in range(groups)] + [dim * _CENTROIDS]
    return [values[a:b].reshape(_CENTROIDS, -1) for a, b in itertools.pairwise(edges)]


def _check_shapes(file: _File, settings: _Settings, dictionary: _Dictionary, rows: Floats, output: Floats) -> None:
    pruned, dim = dictionary.pruned, settings.dim
    grams = settings.bucket if settings.maxn > 0 or settings.ngrams > 1 else 0
    wanted = dictionary.words + (grams if pruned is None else len(pruned)), dim
    labels = len(dictionary.label_counts), dim
    if rows.shape[0] < wanted[0] or output.shape[0] < labels[0] or not rows.shape[1] == output.shape[1] == dim > 0:
        raise file.wrong(f"has matrices of {rows.shape} and {output.shape}; its dictionary needs {wanted} and {labels}")
    if pruned and not (
        0 <= min(pruned) <= max(pruned) < settings.bucket
        and 0 <= min(pruned.values()) <= max(pruned.values()) < len(pruned)
    ):
        raise file.wrong("has a table of pruned n-grams that points outside its matrix")
    if not (np.isfinite(rows).all() and np.isfinite(output).all()):
        raise file.wrong("has weights that are no numbers (its training diverged)")


# --- the same as the kernels want it ----------------------------------------------------------------------------


class _Tables:
    """The arrays of a model, which must live as long as the addresses in its `network`."""

    def __init__(self, settings: _Settings, dictionary: _Dictionary, rows: Floats, output: Floats) -> None:
        self.settings, self.dictionary = settings, dictionary
        self.present, self.ranks = np.empty(0, np.uint64), np.empty(0, np.int32)
        if dictionary.pruned is not None:
            self.present, self.ranks = _bucket_set(dictionary.words, list(dictionary.pruned), max(1, settings.bucket))
            order = [dictionary.words + dictionary.pruned[bucket] for bucket in sorted(dictionary.pruned)]
            rows = np.concatenate([rows[: dictionary.words], rows[np.array(order, np.int64)]])
        self.rows, self.output = _padded(rows), _padded(output)
        self.blob = np.frombuffer(b"".join(dictionary.entries), np.uint8)
        self.offsets = np.cumsum([0] + [len(entry) for entry in dictionary.entries], dtype=np.int64)
        self.slots = slots_of(self.blob, self.offsets)
        self.entry_of = {entry: i for i, entry in enumerate(dictionary.entries)}
        self.tree = np.array(_huffman_tree(dictionary.label_counts), np.int32)
        steps = np.arange(513, dtype=np.float32) * np.float32(16) / np.float32(512) - np.float32(8)
        self.sigmoid = (1 / (1 + np.exp(-steps.astype(np.float64)))).astype(np.float32)  # Loss::Loss

    def network(self) -> Network:
        settings, bucket = self.settings, max(1, self.settings.bucket)
        arrays = ("rows", "present", "ranks", "blob", "offsets", "slots", "output", "tree", "sigmoid")
        addresses: dict[str, int] = {name: getattr(self, name).ctypes.data for name in arrays}
        if not len(self.present):
            addresses["present"] = 0
        return Network(
            **addresses,
            slot_mask=len(self.slots) - 1,
            width=self.rows.shape[1],
            words=self.dictionary.words,
            labels=len(self.dictionary.label_counts),
            bucket=bucket,
            reciprocal=(1 << 32) // bucket,
            minn=settings.minn,
            maxn=settings.maxn,
            ngrams=settings.ngrams,
            loss=settings.loss,
            end_entry=self.entry_of.get(_EOS, -1),
        )

    def named_row(self, name: bytes, h: int) -> Iterator[tuple[bytes, int]]:
        """The n-gram with hash `h` and its row, nothing where that was pruned (Dictionary::pushHash)."""
        words, bucket = self.dictionary.words, h % max(1, self.settings.bucket)
        if self.dictionary.pruned is None:
            yield name, words + bucket
        elif bucket in self.dictionary.pruned:
            before = int(self.present[bucket // 64]) & ((1 << bucket % 64) - 1)
            yield name, int(self.ranks[bucket // 64]) + before.bit_count()


def _padded(matrix: Floats) -> Floats:
    """The matrix with columns of zeros up to a multiple of LANES."""
    spare = -matrix.shape[1] % LANES
    return aligned(np.pad(matrix, ((0, 0), (0, spare))) if spare else matrix)


def _bucket_set(words: int, buckets: list[int], bucket: int) -> tuple[Digests, npt.NDArray[np.int32]]:
    """Which buckets have a row, as bits, and the row of the first one in each 64 bits; rows lie in bucket order.

    For lid.176 that is 375 kB to search, in place of a table of 8 MB that the second-level cache cannot hold.
    """
    used = np.zeros((bucket + 63) // 64 * 64, np.uint8)
    used[buckets] = 1
    counts = used.reshape(-1, 64).sum(axis=1, dtype=np.int32)
    ranks = (words + np.cumsum(counts) - counts).astype(np.int32)
    return np.packbits(used, bitorder="little").view(np.uint64), ranks


def _huffman_tree(counts: list[int]) -> list[tuple[int, int]]:
    """Children of each node, leaves first (HierarchicalSoftmaxLoss::buildTree)."""
    leaves = len(counts)
    weights = counts + [_ENDLESS] * leaves
    children = [(-1, -1)] * leaves
    leaf, node = leaves - 1, leaves
    for parent in range(leaves, 2 * leaves - 1):
        pair = []
        for _ in range(2):
            if leaf >= 0 and weights[leaf] < weights[node]:
                pair.append(leaf)
                leaf -= 1
            else:
                pair.append(node)
                node += 1
        children.append((pair[0], pair[1]))
        weights[parent] = weights[pair[0]] + weights[pair[1]]
    return children
