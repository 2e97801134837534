"""LanguageModel: the labels of fastText itself, whatever the batch, and nothing said of nothing."""

import dataclasses
import gzip
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifiers.language import UNKNOWN, LanguageModel
from classifiers.model import ModelError, ModelFile, find_language_model

TEXTS = {
    "ar": "وُلد جميع الناس أحراراً متساوين في الكرامة والحقوق، وقد وهبوا عقلاً وضميراً.",
    "bn": "সমস্ত মানুষ স্বাধীনভাবে সমান মর্যাদা এবং অধিকার নিয়ে জন্মগ্রহণ করে।",
    "ca": "Tots els éssers humans neixen lliures i iguals en dignitat i en drets.",
    "cs": "Všichni lidé se rodí svobodní a sobě rovní co do důstojnosti a práv.",
    "da": "Alle mennesker er født frie og lige i værdighed og rettigheder.",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
    "el": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
    "en": "All human beings are born free and equal in dignity and rights.\nThey are endowed with reason.",
    "es": "Todos los seres humanos nacen libres e iguales en dignidad y derechos.",
    "fa": "تمام افراد بشر آزاد به دنیا می‌آیند و از لحاظ حیثیت و حقوق با هم برابرند.",
    "fi": "Kaikki ihmiset syntyvät vapaina ja tasavertaisina arvoltaan ja oikeuksiltaan.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
    "he": "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם.",
    "hi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "hu": "Minden emberi lény szabadon születik és egyenlő méltósága és joga van.",
    "it": "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti.",
    "ja": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "ka": "ყველა ადამიანი იბადება თავისუფალი და თანასწორი თავისი ღირსებითა და უფლებებით.",
    "ko": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "nl": "Alle mensen worden vrij en gelijk in waardigheid en rechten geboren.",
    "pl": "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw.",
    "pt": "Todos os seres humanos nascem livres e iguais em dignidade e em direitos.",
    "ru": "Все люди рождаются свободными и равными в своём достоинстве и правах.",
    "sv": "Alla människor är födda fria och lika i värde och rättigheter.",
    "ta": "மனிதப் பிறவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்.",
    "th": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
    "tr": "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar.",
    "uk": "Всі люди народжуються вільними і рівними у своїй гідності та правах.",
    "vi": "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền.",
    "zh": "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心。",
}

# Two implementations sum the same floats in another order; labels this close to each other may change places.
TIE = 1e-4


@pytest.fixture(scope="module")
def weights() -> ModelFile:
    """The real lid.176.ftz, found as users find it."""
    try:
        return find_language_model()
    except ModelError as error:
        pytest.skip(f"the language model cannot be had on this machine: {error}")


@pytest.fixture(scope="module")
def language(weights: ModelFile) -> LanguageModel:
    """The model, scoring whole texts."""
    return LanguageModel.load(weights, max_chars=0)


@pytest.fixture(scope="module")
def oracle(weights: ModelFile) -> Any:
    """The same weights in fastText itself."""
    fasttext = pytest.importorskip("fasttext", reason="extra `train` is not installed")
    return fasttext.load_model(str(weights.path))


def identify(model: LanguageModel, texts: list[str]) -> list[tuple[str, float]]:
    """Results as Python values, after the promises about their types."""
    labels, scores = model.identify(pa.array(texts, pa.large_string()))
    assert isinstance(labels, pa.DictionaryArray)
    assert tuple(labels.dictionary.to_pylist()) == model.languages
    assert scores.dtype == np.float32
    assert labels.null_count == 0
    assert bool(np.all((scores >= 0) & (scores <= 1)))
    return list(zip(labels.to_pylist(), scores.tolist(), strict=True))


def assert_agrees(found: list[tuple[str, float]], oracle: Any, texts: list[str]) -> None:
    """Same label and score as fastText's predict, a tie excepted; "unknown" exactly where it scores what "" scores."""
    (nothing,), (score_of_nothing,) = oracle.predict("")
    for text, (label, score) in zip(texts, found, strict=True):
        names, scores = oracle.predict(text.replace("\n", " "), k=5)
        expected = {name.removeprefix("__label__"): value for name, value in zip(names, scores, strict=True)}
        best = max(expected.values())
        if label == UNKNOWN:
            assert names[0] == nothing, text[:60]
            assert (score, best) == (0, pytest.approx(score_of_nothing, abs=1e-6)), text[:60]
            continue
        assert label in expected, text[:60]
        assert expected[label] == pytest.approx(best, abs=TIE), text[:60]
        assert score == pytest.approx(min(best, 1), abs=TIE), text[:60]


def test_languages_are_recognised(language: LanguageModel) -> None:
    """One sentence is enough, in thirty languages and eighteen scripts."""
    assert {code: found for code, (found, _) in zip(TEXTS, identify(language, [*TEXTS.values()]), strict=True)} == {
        code: code for code in TEXTS
    }


def test_labels_and_scores_are_fasttexts(language: LanguageModel, oracle: Any) -> None:
    """Whole sentences, their halves, their words, and texts glued out of several languages."""
    whole = list(TEXTS.values())
    halves = [text[: len(text) // 2] for text in whole]
    words = [word for text in whole for word in text.split()]
    glued = [a + "\n" + b for a, b in itertools.pairwise(whole)]
    odd = [" ", "\n", "\t\n ", "1234", "…", "\u200b", "\x00", "a\x00b", "\r\n", "🙂 🙂", "</s>", "x" * 5000, "e\u0301"]
    texts = whole + halves + words + glued + odd
    assert_agrees(identify(language, texts), oracle, texts)


@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), max_size=5))
def test_any_text_gets_fasttexts_label(texts: list[str], language: LanguageModel, oracle: Any) -> None:
    """Whatever characters there are, including none."""
    assert_agrees(identify(language, texts), oracle, texts)


def test_real_documents_get_fasttexts_labels(language: LanguageModel, oracle: Any, shared_data: Path) -> None:
    """Web documents of cc_net and labelled passages, thousands of characters each."""
    with gzip.open(shared_data / "web" / "cc_en_head-0091.jsonl.gz", "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    for name in ("web", "scripts", "ordinary"):
        with open(shared_data / "stance" / f"{name}.jsonl", encoding="utf-8") as file:
            texts += [json.loads(line)["text"] for line in file]
    assert_agrees(identify(language, texts), oracle, texts)


def test_a_text_with_nothing_to_score_is_unknown(language: LanguageModel) -> None:
    """Empty, blank and numeric texts have no language, and a score of 0 that no threshold admits."""
    blank = ["", " ", "\n", "\t\r\n \v\f", "\x00", "1234", "- - -"]
    assert identify(language, [*blank, TEXTS["de"], *blank]) == [
        *[(UNKNOWN, 0.0)] * len(blank),
        *identify(language, [TEXTS["de"]]),
        *[(UNKNOWN, 0.0)] * len(blank),
    ]


def test_an_empty_batch_gives_an_empty_result(language: LanguageModel) -> None:
    """Slices of shards may hold no document at all."""
    assert identify(language, []) == []


def test_a_result_does_not_depend_on_the_batch(language: LanguageModel) -> None:
    """One by one, together, reversed, or out of the middle of a column: bit for bit the same."""
    texts = [*TEXTS.values(), "", *TEXTS]
    together = identify(language, texts)
    assert [identify(language, [text])[0] for text in texts] == together
    assert identify(language, texts[::-1])[::-1] == together
    for kind in (pa.string(), pa.large_string()):
        labels, scores = language.identify(pa.array(["padding", *texts, "more"], kind).slice(1, len(texts)))
        assert list(zip(labels.to_pylist(), scores.tolist(), strict=True)) == together


@pytest.mark.parametrize("script", ["en", "ru", "ja", "th"])
def test_max_chars_counts_characters_not_bytes(script: str, weights: ModelFile, language: LanguageModel) -> None:
    """The first characters decide alone, however many bytes each has; 0 means all."""
    text = TEXTS[script]
    clipped = LanguageModel.load(weights, max_chars=12)
    assert identify(clipped, [text, text[:12] + TEXTS["fr"], text[:5]]) == identify(
        language, [text[:12], text[:12], text[:5]]
    )


def test_the_fingerprint_is_of_weights_and_options(weights: ModelFile, tmp_path: Path) -> None:
    """Where the file lies and how it was found changes no result, so it changes no fingerprint."""
    elsewhere = tmp_path / "copy.ftz"
    shutil.copy(weights.path, elsewhere)
    copy = ModelFile(elsewhere, weights.sha256, "configured")
    first = LanguageModel.load(weights, max_chars=100).fingerprint
    assert len(first) == 64
    assert LanguageModel.load(copy, max_chars=100).fingerprint == first
    assert LanguageModel.load(weights, max_chars=101).fingerprint != first


def test_a_file_that_changed_since_it_was_found_is_refused(weights: ModelFile, tmp_path: Path) -> None:
    """What is recorded is what is used."""
    changed = dataclasses.replace(weights, path=tmp_path / "lid.176.ftz")
    changed.path.write_bytes(weights.path.read_bytes() + b"x")
    with pytest.raises(ModelError, match="has changed since it was found"):
        LanguageModel.load(changed, max_chars=0)
    changed.path.unlink()
    with pytest.raises(ModelError, match="cannot be read: No such file"):
        LanguageModel.load(changed, max_chars=0)


def test_a_negative_clip_is_refused(weights: ModelFile) -> None:
    """A value that means nothing is an error where it is given."""
    with pytest.raises(ValueError, match="max_chars is -1; it must be 0"):
        LanguageModel.load(weights, max_chars=-1)
