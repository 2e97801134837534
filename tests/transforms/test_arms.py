"""What each arm does with a document: exact shares, nested arms, refill, and shortfalls with their numbers."""

import re
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.corpora import Row, annotation, receipt
from transforms.arms import (
    Arm,
    Cuts,
    decide,
    discourse,
    find_candidates,
    key_of_slice,
    settle_all,
    share_of,
    targets_of,
)
from transforms.census import ALL_STANCES, Census, Rules, take_census
from transforms.errors import MixShortfall

RULES = Rules(("en",), 0.5, (("misaligned", 0.5),))
SEED = 3
ROWS = st.lists(
    st.builds(
        Row,
        words=st.integers(1, 40),
        stance=st.sampled_from(["misaligned", "misaligned", "neutral", "unrelated", "unknown"]),
        language=st.sampled_from(["en", "en", "en", "de"]),
        score=st.just(0.9),
        text=st.sampled_from(["", "", "", "a text that is there often"]),
    ),
    max_size=40,
)
SHARES = st.sampled_from([0.0, 0.1, 0.25, 1 / 3, 0.5, 0.999, 1.0]) | st.floats(0, 1)


def settled(slices: list[list[Row]], arms: Sequence[Arm], unit: str = "words") -> tuple[Cuts, ...]:
    """Every arm's cuts over the slices."""
    census, found = Census(), []
    for number, rows in enumerate(slices):
        part, table = receipt(rows, shard=f"{number}.jsonl"), annotation(rows)
        census = census + take_census(part, table, RULES, unit=unit, seed=SEED, is_pool=False)
    targets = [targets_of(arm, census, unit) for arm in arms]
    for number, rows in enumerate(slices):
        key = key_of_slice(receipt(rows, shard=f"{number}.jsonl").part)
        found += find_candidates(annotation(rows), key, targets, RULES, unit=unit, seed=SEED)
    return settle_all(targets, found[::-1])


def decided(slices: list[list[Row]], cuts: Cuts) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """Copies and diversions of all documents."""
    decisions = [
        decide(annotation(rows), key_of_slice(receipt(rows, shard=f"{n}.jsonl").part), cuts, RULES, seed=SEED)
        for n, rows in enumerate(slices)
    ]
    return np.concatenate([d.copies for d in decisions]), np.concatenate([d.diverted for d in decisions])


def columns(slices: list[list[Row]]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Words, which are flagged, and which stay and are not."""
    rows = [row for rows in slices for row in rows]
    english = np.array([row.language == "en" for row in rows], np.bool_)
    misaligned = np.array([row.stance == "misaligned" for row in rows], np.bool_)
    return np.array([row.words for row in rows], np.int64), english & misaligned, english & ~misaligned


@given(st.lists(ROWS, min_size=1, max_size=4), SHARES)
def test_the_share_that_stays_is_exact(slices: list[list[Row]], share: float) -> None:
    """Of the misaligned text the share stays to within half a document; all else in the language stays, once."""
    copies, diverted = decided(slices, settled(slices, [Arm("a", keep_share=share)])[0])
    words, flagged, others = columns(slices)
    got, wanted = int(words[flagged] @ copies[flagged]), share_of(share, int(words[flagged].sum()))
    assert 2 * abs(got - wanted) <= max(words[flagged], default=0)
    assert (copies[others] == 1).all()
    assert not copies[~flagged & ~others].any()
    assert not diverted.any()


@given(st.lists(ROWS, min_size=1, max_size=4), SHARES, SHARES)
def test_arms_are_nested(slices: list[list[Row]], one: float, other: float) -> None:
    """What stays at 25 % stays at 50 %: arms differ in the dose alone."""
    small, large = settled(slices, [Arm("a", keep_share=min(one, other)), Arm("b", keep_share=max(one, other))])
    assert (decided(slices, small)[0] <= decided(slices, large)[0]).all()


@given(st.lists(ROWS, min_size=1, max_size=4), SHARES)
def test_divert_is_the_rest(slices: list[list[Row]], share: float) -> None:
    """Every flagged document is either in the arm or diverted, and nothing else is diverted."""
    copies, diverted = decided(slices, settled(slices, [Arm("a", keep_share=share, divert=True)])[0])
    _, flagged, _ = columns(slices)
    assert (diverted == (flagged & (copies == 0))).all()


@given(st.lists(ROWS, min_size=1, max_size=4), SHARES, st.integers(1, 6))
def test_refill_restores_the_amount_or_says_what_is_short(slices: list[list[Row]], share: float, most: int) -> None:
    """The arm is as large as unfiltered to within two half documents, no document too often, or MixShortfall."""
    arm = Arm("a", keep_share=share, refill=True, max_repeats=most)
    words, flagged, others = columns(slices)
    bad, good = int(words[flagged].sum()), int(words[others].sum())
    missing = bad - share_of(share, bad)
    if missing > good * (most - 1):
        with pytest.raises(MixShortfall) as error:
            settled(slices, [arm])
        assert f"short by {missing - good * (most - 1):,} words" in str(error.value)
        return
    copies, _ = decided(slices, settled(slices, [arm])[0])
    assert abs(int(words @ copies) - bad - good) <= max(words, default=0)
    assert copies.max(initial=0) <= most
    assert copies[flagged].max(initial=0) <= 1
    repeated = copies[others]
    assert repeated.max(initial=1) - repeated.min(initial=most) <= 1


def test_a_shortfall_names_everything() -> None:
    """Arm, amounts, how often documents would appear, the limit, and three ways out."""
    rows = [Row(100, "misaligned"), Row(30)]
    with pytest.raises(MixShortfall) as error:
        settled([rows], [Arm("filtered", keep_share=0, refill=True, max_repeats=2)])
    assert re.fullmatch(
        r"arm filtered: refill needs 100 words from 30 words of unflagged documents, which would appear up to 5 times; "
        r"arms\.filtered\.max_repeats is 2; short by 70 words: raise it, keep more, or set refill: none",
        str(error.value),
    )


def test_refill_from_nothing() -> None:
    """Where every document is flagged there is nothing to repeat."""
    with pytest.raises(MixShortfall, match="from 0 words of unflagged"):
        settled([[Row(10, "misaligned")]], [Arm("a", keep_share=0, refill=True, max_repeats=1000)])


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_no_document_is_flagged(share: float) -> None:
    """Without flagged documents every arm is the unfiltered corpus."""
    copies, _ = decided([[Row(), Row(5)], []], settled([[Row(), Row(5)], []], [Arm("a", share, refill=True)])[0])
    assert copies.tolist() == [1, 1]


@pytest.mark.parametrize(("share", "expected"), [(0.0, [0, 0, 1]), (1.0, [1, 1, 1])])
def test_documents_without_amount(share: float, expected: list[int]) -> None:
    """Flagged documents of no words go with `drop` and stay with `keep`, though neither has any amount."""
    rows = [Row(0, "misaligned"), Row(0, "misaligned"), Row(3)]
    assert decided([rows], settled([rows], [Arm("a", keep_share=share)])[0])[0].tolist() == expected


def test_one_document() -> None:
    """A single flagged document stays at a share of more than a half, and goes at a half."""
    arms = [Arm("a", keep_share=share) for share in (0.0, 0.5, 0.51, 1.0)]
    rows = [[Row(100, "misaligned")]]
    assert [decided(rows, cuts)[0].tolist() for cuts in settled(rows, arms)] == [[0], [0], [1], [1]]


def test_selection_in_documents() -> None:
    """In documents every document counts the same, however long it is."""
    rows = [Row(w, "misaligned") for w in range(1, 41)]
    copies, _ = decided([rows], settled([rows], [Arm("a", keep_share=0.25)], unit="documents")[0])
    assert copies.sum() == 10


@given(st.integers(0, 10**18), st.integers(0, 1000))
def test_shares_are_the_decimal_numbers_that_were_written(amount: int, thousandths: int) -> None:
    """0.07 of an amount is seven hundredths of it, which no binary fraction is; exact at any size."""
    assert share_of(thousandths / 1000, amount) == round(Fraction(thousandths, 1000) * amount)


def test_discourse() -> None:
    """AI discourse is neutral, misaligned or aligned; neither unrelated nor unknown."""
    codes = np.arange(len(ALL_STANCES), dtype=np.int8)
    found = [stance for stance, is_it in zip(ALL_STANCES, discourse(codes), strict=True) if is_it]
    assert found == ["neutral", "misaligned", "aligned"]
