"""The kernels against plain Python: one oracle each, any text, any offsets."""

import itertools
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from classifiers import kernel

SPACES = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000 and chr(c).isspace()]
ODD = [
    "",
    " ",
    "a",
    "\0",
    "é",
    "人",
    "😀",
    "a b",
    "a\u3000b",
    "\u2028",
    "\x85\xa0",
    "x" * 100,
    "😀" * 60,
    "人 " * 50,
    " " * 70,
]

characters = st.one_of(
    st.sampled_from(SPACES),
    st.sampled_from("ab é人😀\u200b\u180e\ufeff\x1b\x80¢…い、"),  # near whitespace in Unicode or in bytes, yet none
    st.characters(exclude_categories=["Cs"]),
)
words = st.text("abé人😀", min_size=1, max_size=30)
any_text = st.one_of(
    st.text(characters, max_size=120),
    st.sampled_from(ODD),
    st.lists(words | st.sampled_from(SPACES), max_size=60).map(" ".join),
)
many = st.lists(any_text, max_size=8)
quick = settings(max_examples=200, deadline=None)


def packed(texts: list[str], order: int = 1) -> tuple[kernel.Bytes, kernel.Offsets, kernel.Offsets]:
    """The texts one after the other in a buffer, and their offsets in reading order (or, with -1, backwards)."""
    raw = [text.encode() for text in texts]
    ends = np.cumsum([0] + [len(text) for text in raw]).astype(np.int64)
    return np.frombuffer(b"".join(raw), np.uint8), ends[:-1][::order], ends[1:][::order]


@quick
@given(many)
def test_words_are_those_of_split(texts: list[str]) -> None:
    """count_words counts as str.split does, whatever the whitespace."""
    assert kernel.count_words(*packed(texts)).tolist() == [len(text.split()) for text in texts]
    assert kernel.count_words(*packed(texts, -1)).tolist() == [len(text.split()) for text in reversed(texts)]


def test_every_whitespace_character_ends_a_word() -> None:
    """Each of Unicode's whitespace characters separates words, at any place in a machine word; no neighbour does."""
    neighbours = {chr(ord(c) + d) for c in SPACES for d in (-1, 1, 64, -64) if ord(c) + d > 0}
    texts = ["x" * shift + c + "y" * 9 for c in [*SPACES, *sorted(neighbours)] for shift in range(9)]
    assert kernel.count_words(*packed(texts)).tolist() == [len(text.split()) for text in texts]


@quick
@given(many)
def test_digest_is_xxh64(texts: list[str]) -> None:
    """Anyone can recompute a digest with xxhash."""
    assert kernel.digest(*packed(texts)).tolist() == [xxhash.xxh64_intdigest(text.encode()) for text in texts]


def test_digest_is_xxh64_at_every_length_and_offset() -> None:
    """Each length up to four stripes and each alignment gives the published digest."""
    raw = bytes(i * 89 % 256 for i in range(300))
    pairs = [(start, start + size) for start in range(9) for size in range(140)]
    got = kernel.digest(np.frombuffer(raw, np.uint8), np.array([a for a, _ in pairs]), np.array([b for _, b in pairs]))
    assert got.tolist() == [xxhash.xxh64_intdigest(raw[a:b]) for a, b in pairs]


@quick
@given(st.lists(st.integers(0, 2**64 - 1), max_size=20), st.integers(0, 2**64 - 1))
def test_mix_is_xxh64_of_eight_bytes(values: list[int], key: int) -> None:
    """Anyone can recompute a priority with xxhash: the key is the seed."""
    wanted = [xxhash.xxh64_intdigest(value.to_bytes(8, "little"), seed=key) for value in values]
    assert kernel.mix64(np.array(values, np.uint64), key).tolist() == wanted


@quick
@given(many, st.integers(0, 70))
def test_clip_ends_after_so_many_characters(texts: list[str], characters: int) -> None:
    """Clipping keeps the first characters, whole ones only."""
    data, starts, ends = packed(texts)
    got = kernel.clip(data, starts, ends, characters)
    kept = [bytes(data[a:b]).decode() for a, b in zip(starts, got, strict=True)]
    assert kept == [text[:characters] for text in texts]


def cut(text: bytes, most_words: int, most_bytes: int) -> Iterator[int]:
    """Ends of the windows of one text, by definition."""
    spans = [(len(text.decode()[: m.start()].encode()), len(text.decode()[: m.end()].encode()))
             for m in re.finditer(r"\S+", text.decode().translate(dict.fromkeys(map(ord, SPACES), " ")))]  # fmt: skip
    edges = [i for i in range(len(text)) if text[i] & 0xC0 != 0x80]
    begin, cuts, last = 0, [], 0
    while True:
        ahead = [max(a, begin) for a, b in spans if b > begin]
        last = len(ahead)
        options = ahead[most_words : most_words + 1]
        if begin + most_bytes < len(text):
            character = max(i for i in edges if i <= begin + most_bytes)
            options += [a if a > begin else character for a, b in spans if a <= character < b] or [character]
        if not options:
            break
        begin = min(options)
        cuts.append(begin)
    if cuts and last * 4 < most_words and (len(text) - begin) * 4 < most_bytes:
        cuts.pop()
    return iter([*cuts, len(text)])


@settings(max_examples=400, deadline=None)
@given(many, st.integers(1, 12), st.integers(4, 90))
def test_windows_are_cut_by_the_rule(texts: list[str], most_words: int, most_bytes: int) -> None:
    """Windows follow each other, are the text, and end where the rule says."""
    data, starts, ends = packed(texts)
    rows, begins, stops = kernel.windows(data, starts, ends, most_words, most_bytes)
    wanted = []
    for i, text in enumerate(texts):
        edges = [0, *cut(text.encode(), most_words, most_bytes)]
        wanted += [(i, int(starts[i]) + a, int(starts[i]) + b) for a, b in itertools.pairwise(edges)]
    assert list(zip(rows.tolist(), begins.tolist(), stops.tolist(), strict=True)) == wanted


def test_short_and_empty_texts_are_one_window() -> None:
    """A text with few words is one window, the empty one too; a short rest joins the window before."""
    texts = ["", " ", "a b c", "a " * 100, "a " * 124, "a " * 125]
    rows, begins, ends = kernel.windows(*packed(texts), 100)
    assert rows.tolist() == [0, 1, 2, 3, 4, 5, 5]
    assert (ends - begins).tolist() == [0, 1, 5, 200, 248, 200, 50]


def test_a_text_without_whitespace_is_cut_between_characters() -> None:
    """Windows of a long text without whitespace are whole characters of at most 16 KiB."""
    rows, begins, ends = kernel.windows(*packed(["😀人" * 6000]), 300)
    pieces = [("😀人" * 6000).encode()[a:b].decode() for a, b in zip(begins, ends, strict=True)]
    assert "".join(pieces) == "😀人" * 6000 and rows.tolist() == [0, 0, 0]
    assert max(ends - begins) <= 16384


@quick
@given(st.lists(st.binary(max_size=60), min_size=1, max_size=5))
def test_bytes_that_are_no_utf8_do_no_harm(raw: list[bytes]) -> None:
    """Any bytes give results within their range, and digests stay exact."""
    data = np.frombuffer(b"".join(raw), np.uint8)
    ends = np.cumsum([len(x) for x in raw]).astype(np.int64)
    starts = ends - np.array([len(x) for x in raw])
    assert kernel.digest(data, starts, ends).tolist() == [xxhash.xxh64_intdigest(x) for x in raw]
    assert (kernel.count_words(data, starts, ends) <= ends - starts).all()
    clipped = kernel.clip(data, starts, ends, 3)
    assert ((starts <= clipped) & (clipped <= ends)).all()
    rows, begins, stops = kernel.windows(data, starts, ends, 2, 8)
    assert b"".join(bytes(data[a:b]) for a, b in zip(begins, stops, strict=True)) == b"".join(raw)
    assert sorted(set(rows.tolist())) == list(range(len(raw)))


@pytest.mark.parametrize(
    ("starts", "ends", "said"),
    [
        ([-1], [2], "text 0 lies at bytes -1 to 2 of 3"),
        ([0, 1], [3, 4], "text 1 lies at bytes 1 to 4 of 3"),
        ([2], [1], "bytes 2 to 1"),
    ],
)
def test_offsets_outside_the_bytes_are_refused(starts: list[int], ends: list[int], said: str) -> None:
    """An offset outside the buffer is a ValueError, not a read outside the buffer."""
    for function in (kernel.digest, kernel.count_words):
        with pytest.raises(ValueError, match=said):
            function(np.zeros(3, np.uint8), np.array(starts), np.array(ends))


def test_arguments_outside_their_range_are_refused() -> None:
    """Each bound that a docstring names is checked."""
    data, starts, ends = packed(["a"])
    for call in (
        lambda: kernel.digest(data.view(np.int8), starts, ends),
        lambda: kernel.digest(data, starts, ends[:0]),
        lambda: kernel.mix64(np.zeros(1, np.uint64), -1),
        lambda: kernel.mix64(np.zeros(1, np.uint64), 1 << 64),
        lambda: kernel.clip(data, starts, ends, -1),
        lambda: kernel.windows(data, starts, ends, 0),
        lambda: kernel.windows(data, starts, ends, 1, 3),
    ):
        with pytest.raises(ValueError, match=r"must|least"):
            call()


def test_threads_run_at_the_same_time() -> None:
    """Kernels give up the interpreter's lock: a thread that counts does not hold up one that runs Python."""
    data, starts, ends = packed(["word " * 2_000_000])
    kernel.count_words(data, starts, ends)
    done, steps = threading.Event(), 0

    def count() -> None:
        for _ in range(10):
            kernel.count_words(data, starts, ends)
        done.set()

    thread = threading.Thread(target=count)
    thread.start()
    while not done.is_set():
        steps += 1
    thread.join()
    assert steps > 1000


def test_warm_up_leaves_nothing_to_compile() -> None:
    """After warm_up no kernel is compiled any more, so the first batch is as fast as the next."""
    code = (
        "import time, numpy as np\nfrom classifiers import kernel\nkernel.warm_up()\n"
        "data = np.frombuffer(b'a b', np.uint8); at = np.zeros(1, np.int64); t = time.perf_counter()\n"
        "kernel.digest(data, at, at + 3); kernel.count_words(data, at, at + 3); kernel.windows(data, at, at + 3, 2)\n"
        "kernel.clip(data, at, at + 3, 1); kernel.mix64(np.zeros(1, np.uint64), 5)\n"
        "assert time.perf_counter() - t < 0.05\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_changed_file_of_kernels_is_compiled_anew(tmp_path: Path) -> None:
    """Machine code holds what it calls in other files, so a change in one of them must not leave the old code."""
    package = tmp_path / "classifiers"
    package.mkdir()
    for path in Path(kernel.__file__).parent.glob("*.py"):
        shutil.copy(path, package)
    code = (
        "import numpy as np; from classifiers import kernel\n"
        "print(kernel.digest(np.frombuffer(b'a b', np.uint8), np.zeros(1, np.int64), np.ones(1, np.int64))[0])\n"
    )

    def run() -> str:
        return subprocess.run(
            [sys.executable, "-c", code], check=True, cwd=tmp_path, capture_output=True, text=True
        ).stdout

    before = run()
    shared = package / "compiled.py"
    shared.write_text(shared.read_text(encoding="utf-8").replace("P1 = np.uint64(0x9E", "P1 = np.uint64(0x9F"))
    assert run() != before
