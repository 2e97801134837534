"""Counting: sums in any order, rules about single documents, thresholds from budgets, limits."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.corpora import Row, annotation, receipt
from transforms.census import (
    ALL_STANCES,
    SCORE_BINS,
    Census,
    Fate,
    Limits,
    Rules,
    check_limits,
    check_not_empty,
    count_scores,
    settle_rules,
    stances,
    stays,
    take_census,
)
from transforms.errors import ConfigError, InputError
from transforms.schema import STANCES, Source
from transforms.select import BUCKETS

ANY = Rules((), 0.65, (("misaligned", 0.5),))
SOURCES = (Source("web", "text", "id", "", False, 0), Source("pool", "text", "id", "", True, 1))
ROWS = st.lists(
    st.builds(
        Row,
        words=st.integers(0, 50),
        stance=st.sampled_from(ALL_STANCES),
        language=st.sampled_from(["en", "de", "unknown"]),
        score=st.sampled_from([0.1, 0.5, 0.9]),
    ),
    max_size=12,
)


def scored(*scores: Sequence[float | None]) -> pa.Table:
    """A table with these scores, in the order of `STANCES`."""
    table = annotation([Row()] * len(scores))
    for index, stance in enumerate(STANCES):
        place = table.schema.get_field_index(stance)
        table = table.set_column(place, stance, pa.array([s[index] for s in scores], pa.float32()))
    return table


def census(
    rows: list[Row], *, is_pool: bool = False, rules: Rules = ANY, unit: str = "words", **changes: Any
) -> Census:
    """The census of one slice."""
    found = receipt(rows, source=int(is_pool), **changes)
    return take_census(found, annotation(rows), rules, unit=unit, seed=1, is_pool=is_pool)


def plain(found: Census) -> dict[str, Any]:
    """A census as values that can be compared."""
    return {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in vars(found).items()}


# --- rules ---


@pytest.mark.parametrize(
    ("keep", "least", "expected"),
    [
        ((), 0.99, [True, True, True, True]),
        (("en",), 0.65, [True, False, False, False]),
        (("en",), 0.0, [True, True, False, False]),
        (("en", "de"), 0.65, [True, False, True, False]),
        (("xx",), 0.0, [False, False, False, False]),
        (("unknown",), 0.0, [False, False, False, True]),
    ],
)
def test_language_rule(keep: tuple[str, ...], least: float, expected: list[bool]) -> None:
    """A document stays in a kept language at its score; with no languages named, all stay at any score."""
    rows = [Row(language="en"), Row(language="en", score=0.6), Row(language="de"), Row(language="unknown", score=0)]
    assert stays(annotation(rows), Rules(keep, least, ())).tolist() == expected


def test_scores_are_compared_as_they_are_kept() -> None:
    """A least score of 0.65 keeps a score that is 0.65 in 32 bits, which is less in 64."""
    assert float(np.float32(0.65)) < 0.65
    assert stays(annotation([Row(score=0.65)]), Rules(("en",), 0.65, ())).tolist() == [True]
    assert stances(scored([0.2, 0.1, 0.7, 0.0]), Rules((), 0, (("misaligned", 0.7),))).tolist() == [2]


@pytest.mark.parametrize(
    ("scores", "thresholds", "expected"),
    [
        ([0.1, 0.2, 0.6, 0.1], {"misaligned": 0.5}, "misaligned"),
        ([0.1, 0.2, 0.6, 0.1], {"misaligned": 0.7}, "neutral"),
        ([0.7, 0.0, 0.2, 0.1], {"misaligned": 0.2}, "misaligned"),
        ([0.7, 0.0, 0.2, 0.1], {"misaligned": 0.3}, "unrelated"),
        ([0.1, 0.1, 0.1, 0.7], {"misaligned": 0.5, "aligned": 0.8}, "unrelated"),
        ([0.0, 0.1, 0.2, 0.7], {"misaligned": 0.5, "aligned": 0.8, "neutral": 0.5}, "unrelated"),
        ([0.25, 0.25, 0.25, 0.25], {}, "unrelated"),
        ([0.1, 0.2, 0.6, 0.1], {}, "misaligned"),
        ([1.0, 0.0, 0.0, 0.0], {"misaligned": 0.0}, "misaligned"),
        ([0.0, 0.0, 1.0, 0.0], {"misaligned": 1.0}, "misaligned"),
        ([None, None, None, None], {"misaligned": 0.0}, "unknown"),
    ],
)
def test_stance_rule(scores: list[float | None], thresholds: dict[str, float], expected: str) -> None:
    """The highest of the scores at their thresholds; a misaligned one at its threshold always; none without scores."""
    codes = stances(scored(scores), Rules((), 0, tuple(sorted(thresholds.items()))))
    assert [ALL_STANCES[code] for code in codes] == [expected]


def test_rules_of_no_documents() -> None:
    """An empty slice has no documents that stay and no stances."""
    assert stays(annotation([]), Rules(("en",), 0.5, ())).tolist() == []
    assert stances(annotation([]), ANY).tolist() == []


# --- budgets ---


@given(st.lists(st.floats(0, 1, width=32), max_size=60), st.floats(0.001, 0.999))
def test_a_budget_becomes_the_lowest_threshold_that_keeps_it(scores: list[float], budget: float) -> None:
    """No more than the budget is flagged, and one step lower it would be more."""
    table = scored(*([0.0, 0.0, s, 0.0] for s in scores))
    rules = Rules((), 0, (), budget)
    settled = settle_rules(rules, count_scores(table, rules))
    threshold = dict(settled.thresholds)["misaligned"]

    def flagged(least: float) -> int:
        return sum(s >= least for s in scores)

    assert settled.flag_budget == 0
    assert int((stances(table, settled) == 2).sum()) == flagged(threshold) <= budget * len(scores)
    step = 1 / SCORE_BINS
    assert threshold == 0 or flagged(min(threshold, 1.0) - step) > budget * len(scores)


def test_a_budget_counts_documents_that_stay_and_have_scores() -> None:
    """Other languages and unknown stances neither use the budget nor enlarge it."""
    rows = [Row(stance="misaligned")] + [Row()] * 9 + [Row(language="de")] * 50 + [Row(stance="unknown")] * 50
    rules = Rules(("en",), 0.5, (("aligned", 0.9),), 0.1)
    scores = count_scores(annotation(rows), rules)
    assert scores.sum() == 10
    settled = settle_rules(rules, scores)
    assert int((stances(annotation(rows), settled) == 2).sum()) == 1
    assert dict(settled.thresholds)["aligned"] == 0.9


def test_a_fixed_threshold_is_left_alone() -> None:
    """Without a budget the rules stay as they were configured."""
    assert settle_rules(ANY, np.ones(SCORE_BINS, np.int64)) == ANY


# --- sums ---


def test_census_of_one_slice() -> None:
    """Amounts by source, language, stance and fate; sums over priorities only of documents that may enter an arm."""
    rows = [
        Row(5, "misaligned"),
        Row(7, "misaligned", "de"),
        Row(11, "neutral"),
        Row(13, "unknown", "de"),
        Row(17, "neutral"),
    ]
    found = census(rows, rules=ANY._replace(keep=("en",)), bad=2, faults=(("no_text", 2),))
    assert found.amounts == {
        Fate(0, "en", "misaligned", True): (1, 50, 5, 5, 5),
        Fate(0, "de", "misaligned", False): (1, 70, 7, 7, 7),
        Fate(0, "en", "neutral", True): (2, 280, 28, 28, 28),
        Fate(0, "de", "unknown", False): (1, 130, 13, 13, 13),
    }
    assert (found.drop_sums.sum(), found.refill_sums.sum()) == (5, 28)
    assert (found.records, found.bad, found.reasons, found.largest) == (5, 2, {(0, "no_text"): 2}, 17)
    assert found.total(eligible=False) == (2, 200, 20, 20, 20)
    assert found.total(stance="misaligned") == (2, 120, 12, 12, 12)


def test_pools_are_under_no_rule() -> None:
    """Synthetic documents stay in any language and of any stance, and are no part of what is dropped or repeated."""
    rows = [Row(5, "misaligned", "de"), Row(7, "aligned")]
    found = census(rows, is_pool=True, rules=ANY._replace(keep=("en",)))
    assert {fate.eligible for fate in found.amounts} == {True}
    assert (found.scores.sum(), found.drop_sums.sum(), found.refill_sums.sum()) == (0, 0, 0)


@given(st.lists(ROWS, max_size=4), st.randoms(use_true_random=False))
def test_censuses_add_up_in_any_order(slices: list[list[Row]], chance: Any) -> None:
    """Any order and grouping of slices gives the census of all."""
    parts = [census(rows, bad=1, faults=(("no_text", 1),)) for rows in slices]
    forward = sum(parts, start=Census())
    chance.shuffle(parts)
    middle = len(parts) // 2
    halves = sum(parts[:middle], start=Census()) + sum(parts[middle:], start=Census())
    assert plain(forward) == plain(halves)
    everything = [row for rows in slices for row in rows]
    assert forward.total()[0] == len(everything)
    assert forward.total()[3] == sum(row.words for row in everything)
    assert forward.drop_sums.shape == (BUCKETS,)


# --- limits ---


def test_bad_records_within_the_limit_pass() -> None:
    """A share of exactly the limit is allowed."""
    check_limits(Census(records=99, bad=1), Limits(0.01, 0), SOURCES)


def test_bad_records_beyond_the_limit() -> None:
    """The message has the share, the limit, the reasons by source, and the setting that allows it."""
    found = Census(records=9, bad=1, reasons={(0, "not_json"): 1})
    with pytest.raises(InputError, match=r"1 of 10 records are bad \(10\.0000%\)") as error:
        check_limits(found, Limits(0.01, 0), SOURCES)
    assert "limits.bad_records is 1.0000%" in str(error.value)
    assert "web: 1 × not_json" in str(error.value)
    assert "--set limits.bad_records=0.1" in str(error.value)


@given(st.integers(1, 10_000), st.integers(0, 1_000_000))
def test_the_limit_that_the_message_names_is_enough(bad: int, records: int) -> None:
    """Whoever follows the message is not stopped by the same records again."""
    found = Census(records=records, bad=bad)
    with pytest.raises(InputError) as error:
        check_limits(found, Limits(0, 0), SOURCES)
    check_limits(found, Limits(float(str(error.value).rsplit("=", 1)[1]), 0), SOURCES)


def test_bad_shards_beyond_the_limit() -> None:
    """Each shard is named with what is wrong, and the setting that allows it."""
    shards = frozenset([("b", "truncated", 5, "cut"), ("a", "corrupt", -1, "crc")])
    check_limits(Census(bad_shards=shards), Limits(0, 2), SOURCES)
    with pytest.raises(InputError, match=r"2 shard\(s\) cannot be read whole, limits.bad_shards is 1") as error:
        check_limits(Census(bad_shards=shards), Limits(0, 1), SOURCES)
    assert "a: corrupt (crc)\n  b: truncated (cut)" in str(error.value)
    assert "--set limits.bad_shards=2" in str(error.value)


def test_a_shard_with_two_damaged_slices_is_one_bad_shard() -> None:
    """`limits.bad_shards` counts shards, however many places of one are damaged."""
    shards = frozenset([("a", "corrupt", -1, "row group 1"), ("a", "corrupt", -1, "row group 7")])
    check_limits(Census(bad_shards=shards), Limits(0, 1), SOURCES)


def test_sources_without_a_document() -> None:
    """A build of nothing is a mistake in the paths or the fields, also when the pool has documents."""
    with pytest.raises(ConfigError, match="not one readable document"):
        check_not_empty(census([Row()], is_pool=True), SOURCES)
    check_not_empty(census([Row()]), SOURCES)
