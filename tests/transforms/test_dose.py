"""The dose: its amount, which documents it is, how often each is repeated, and where each one goes."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.corpora import Row, annotation
from transforms.arms import Arm
from transforms.dose import SCHEDULE, Dose, choose, dose_target, interval_of, load_pool, schedule, strata_of
from transforms.errors import MixShortfall

AMOUNTS = st.lists(st.integers(0, 60), min_size=1, max_size=25)


def pool_of(amounts: Sequence[int], sources: Sequence[str] = (), strata: Sequence[str | None] = ()) -> pa.Table:
    """A pool of documents of these many words, as `load_pool` gives it."""
    rows = [Row(words, "aligned") for words in amounts]
    names = [*sources, *["stories"] * (len(amounts) - len(sources))]
    kinds = [*strata, *[None] * (len(amounts) - len(strata))]
    table = annotation(rows).drop_columns(["stratum"])
    for column in ("source", "shard", "text_url"):
        table = table.append_column(column, pa.array(names, pa.string()).dictionary_encode())
    table = table.append_column("stratum", pa.array(kinds, pa.large_string()))
    return table.append_column("offset", pa.array(np.cumsum([0, *amounts])[:-1], pa.int64()))


def chosen(
    pool: pa.Table, target: int, arm: Arm, quotas: dict[str, dict[str, float]] | None = None
) -> tuple[Dose, Counter[int]]:
    """The dose, and how often each row is in it; copies of a row are numbered from 0."""
    strata = list(strata_of(pool, quotas or {}, "words"))
    rows, copies, dose = choose(pool, target, strata, arm, unit="words", seed=5)
    times: Counter[int] = Counter(rows.tolist())
    assert sorted(zip(rows.tolist(), copies.tolist(), strict=True)) == [
        (r, c) for r in sorted(times) for c in range(times[r])
    ]
    return dose, times


# --- how much ---


@given(st.integers(0, 10**12), st.integers(1, 999), st.integers(0, 10**12))
def test_a_share_of_the_output(base: int, thousandths: int, discourse: int) -> None:
    """The dose is that share of base and dose together, to within rounding to a whole unit."""
    dose = dose_target(Arm("a", dose_share=thousandths / 1000, dose_of="output"), base, discourse)
    exact = Fraction(thousandths, 1000)
    assert abs(dose - exact / (1 - exact) * base) <= Fraction(1, 2)


@pytest.mark.parametrize(
    ("arm", "expected"),
    [
        (Arm("a", dose_share=0.5, dose_of="output"), 1000),
        (Arm("a", dose_share=0.5, dose_of="base"), 500),
        (Arm("a", dose_share=1.5, dose_of="base"), 1500),
        (Arm("a", dose_share=0.5, dose_of="ai_discourse"), 100),
        (Arm("a", dose_amount=7), 7),
    ],
)
def test_what_a_dose_is_a_share_of(arm: Arm, expected: int) -> None:
    """Of the output, of the base, of the part of the base that is about AI; or an amount, whatever there is."""
    assert dose_target(arm, 1000, 200) == expected


# --- which documents ---


@given(AMOUNTS, st.integers(0, 400), st.integers(1, 5))
def test_a_dose_is_exact_or_short(amounts: list[int], target: int, most: int) -> None:
    """Within half a document of the target, none more than max_repeats times and none twice more than another."""
    total, arm = sum(amounts), Arm("a", dose_amount=1, max_repeats=most)
    if target > total * most + max(amounts) / 2:
        with pytest.raises(MixShortfall):
            chosen(pool_of(amounts), target, arm)
        return
    try:
        dose, times = chosen(pool_of(amounts), target, arm)
    except MixShortfall:
        assert target > total * most
        return
    got = sum(amounts[row] * count for row, count in times.items())
    assert (dose.asked, dose.got, dose.documents, dose.distinct) == (target, got, times.total(), len(times))
    assert 2 * abs(got - target) <= dose.largest <= max(amounts)
    assert dose.repeats == max(times.values(), default=0) <= most
    assert max(times.values(), default=0) - min((times[row] for row in range(len(amounts))), default=0) <= 1


@given(AMOUNTS, st.integers(0, 100), st.integers(0, 100))
def test_doses_are_nested(amounts: list[int], one: int, other: int) -> None:
    """A document is in a larger dose at least as often as in a smaller one."""
    arm, pool = Arm("a", max_repeats=1000), pool_of([a + 1 for a in amounts])
    small, large = (chosen(pool, target, arm)[1] for target in sorted((one, other)))
    assert all(large[row] >= count for row, count in small.items())


@given(
    st.lists(st.tuples(st.integers(1, 60), st.sampled_from(["story", "news", "essay"])), min_size=1, max_size=30),
    st.sampled_from(
        [{"story": 0.3, "news": 0.7}, {"story": 1.0, "news": 0.0}, {"news": 0.5, "essay": 0.1, "story": 0.4}]
    ),
    st.integers(0, 500),
)
def test_quotas_hold(documents: list[tuple[int, str]], quota: dict[str, float], target: int) -> None:
    """Each listed value has its share to within a document, an unlisted one nothing, and the whole is exact."""
    amounts, kinds = [a for a, _ in documents], [k for _, k in documents]
    arm = Arm("a", max_repeats=10_000)
    quotas = {"stories": quota}
    if target and any(share and kind not in kinds and round(share * target) > 30 for kind, share in quota.items()):
        with pytest.raises(MixShortfall):
            chosen(pool_of(amounts, strata=kinds), target, arm, quotas)
        return
    try:
        dose, times = chosen(pool_of(amounts, strata=kinds), target, arm, quotas)
    except MixShortfall:
        assert any(share and kind not in kinds for kind, share in quota.items())
        return
    assert 2 * abs(dose.got - target) <= max(amounts)
    for kind in {*kinds, *quota}:
        got = sum(amounts[row] * count for row, count in times.items() if kinds[row] == kind)
        assert abs(got - quota.get(kind, 0) * target) <= (max(amounts) + 1 if quota.get(kind) else 0)
    assert [name for name, _, _ in dose.strata] == [f"stories/{kind}" for kind in quota]


def test_pools_share_by_their_amounts() -> None:
    """Two pools give in proportion to what they hold."""
    pool = pool_of([10] * 40, sources=["a"] * 10, strata=[None] * 40)
    dose, times = chosen(pool, 200, Arm("x"))
    assert dose.strata == (("a", 50, 50), ("stories", 150, 150))
    assert sum(count for row, count in times.items() if row < 10) == 5


# --- shortfalls ---


def test_a_shortfall_has_the_numbers() -> None:
    """Wanted, there, allowed, short by, and each way out works."""
    pool = pool_of([10] * 5)
    with pytest.raises(MixShortfall) as error:
        chosen(pool, 333, Arm("dosed", max_repeats=4))
    message = str(error.value)
    assert message.startswith(
        "arm dosed: the dose needs 333 words of stories, which holds 50 words in 5 documents: with max_repeats 4 that "
        "is 200, short by 133 words; set arms.dosed.max_repeats to 7, or add documents, or lower the dose to 60.1%"
    )
    assert chosen(pool, 333, Arm("dosed", max_repeats=7))[0].repeats == 7
    assert chosen(pool, math.floor(333 * 0.601), Arm("dosed", max_repeats=4))[0].got == 200


@pytest.mark.parametrize("pool", [pool_of([]), pool_of([0, 0])])
def test_a_pool_of_nothing(pool: pa.Table) -> None:
    """A pool without documents, or without an amount in the unit, cannot give a dose; no dose it can."""
    with pytest.raises(MixShortfall, match="the dose is 3 words, and the pool holds none"):
        chosen(pool, 3, Arm("a"))
    assert chosen(pool, 0, Arm("a"))[0].documents == 0


def test_a_quota_that_no_document_has() -> None:
    """The missing stratum is named."""
    with pytest.raises(
        MixShortfall, match=re.escape("needs 50 words of stories/news, which holds 0 words in 0 documents")
    ):
        chosen(pool_of([10] * 10, strata=["story"] * 10), 100, Arm("a"), {"stories": {"story": 0.5, "news": 0.5}})


def test_a_quota_of_nothing_takes_nothing() -> None:
    """A value with the quota 0 may be missing from the pool, and does not make up for the others."""
    pool = pool_of([7] * 10, strata=["story"] * 5 + ["news"] * 5)
    for kind in ("news", "absent"):
        dose, times = chosen(pool, 24, Arm("a"), {"stories": {"story": 1.0, kind: 0.0}})
        assert (dose.got, set(times) <= set(range(5))) == (21, True)


def test_a_dose_below_half_a_document_is_none() -> None:
    """Nothing is nearer to it than the smallest document; `largest` says what the dose may be off by."""
    dose, _ = chosen(pool_of([100, 100]), 3, Arm("a"))
    assert (dose.asked, dose.got, dose.largest) == (3, 0, 100)


# --- where ---


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.floats(0, 1), st.floats(0, 1), st.integers(1, 10**6))
def test_any_stretch_has_its_share(amounts: list[int], one: float, other: float, base: int) -> None:
    """Every stretch of the base line holds its share of the dose to within one document."""
    pool = pool_of(amounts)
    rows, copies, dose = choose(
        pool, sum(amounts) * 2, list(strata_of(pool, {}, "words")), Arm("a"), unit="words", seed=1
    )
    table = schedule(pool, rows, copies, (0.0, float(base)), unit="words", seed=1)
    place, amount = table.column("place").to_numpy(), table.column("words").to_numpy()
    start, stop = sorted((one * base, other * base))
    inside = int(amount[(place >= start) & (place < stop)].sum())
    assert abs(inside - (stop - start) / base * dose.got) <= max(amounts) + 1e-6
    assert (np.diff(place) >= 0).all()
    assert 0 <= place[0] <= place[-1] <= base


def test_a_schedule_has_every_copy_once() -> None:
    """Copies of a document are apart from each other, and all columns travel with their row."""
    pool = pool_of(range(1, 31))
    rows, copies, _ = choose(pool, 465 * 3, list(strata_of(pool, {}, "words")), Arm("a"), unit="words", seed=1)
    table = schedule(pool, rows, copies, (0.0, 1000.0), unit="words", seed=1)
    assert table.schema == SCHEDULE
    found = list(zip(table.column("words").to_pylist(), table.column("copy").to_pylist(), strict=True))
    assert sorted(found) == [(words, copy) for words in range(1, 31) for copy in range(3)]
    assert table.column("offset").to_pylist() == [words * (words - 1) // 2 for words, _ in found]
    assert found != sorted(found)
    neighbours = sum(a[0] == b[0] for a, b in pairwise(found))
    assert neighbours < 8


def test_an_empty_schedule() -> None:
    """A dose of no documents is a schedule without rows."""
    none = np.zeros(0, np.int64)
    assert schedule(pool_of([1]), none, none, (0.0, 5.0), unit="words", seed=1).equals(SCHEDULE.empty_table())


def test_no_pool() -> None:
    """Without pools there is a table without rows, and no stratum."""
    assert list(strata_of(load_pool([], []), {}, "words")) == []


@pytest.mark.parametrize(
    ("arm", "expected"),
    [
        (Arm("a"), (0.0, 200.0)),
        (Arm("a", placement="separate"), (0.0, 200.0)),
        (Arm("a", placement="head", placement_share=0.25), (0.0, 50.0)),
        (Arm("a", placement="tail", placement_share=0.25), (150.0, 200.0)),
    ],
)
def test_placements(arm: Arm, expected: tuple[float, float]) -> None:
    """Over the whole line, its head or its tail."""
    assert interval_of(arm, 200) == expected
