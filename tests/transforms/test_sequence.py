"""The order within a file: base as read, synthetic where it belongs, copies after their originals."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from transforms.sequence import BASE, REFILL, SYNTHETIC, Sequence, sequence

FILES = st.tuples(
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 20)), max_size=30),  # copies, amount of a row
    st.lists(st.floats(0, 1), max_size=20),  # places, as shares of the line
    st.integers(0, 1000),  # where the file begins on the line
)


def ordered(file: tuple[list[tuple[int, int]], list[float], int]) -> tuple[Sequence, list[int], list[float]]:
    """The sequence of a file, where its rows begin, and its places."""
    rows, shares, start = file
    amounts = np.array([copies * amount for copies, amount in rows], np.int64)
    line = start + np.cumsum(amounts) - amounts
    places = np.sort(start + np.array(shares, np.float64) * (int(amounts.sum()) + 1))
    return sequence(np.array([copies for copies, _ in rows], np.int32), line, places), line.tolist(), places.tolist()


@given(FILES)
def test_every_record_stands_once(file: tuple[list[tuple[int, int]], list[float], int]) -> None:
    """Base rows and synthetic documents once each, in order; every extra copy once, numbered from one."""
    found, _, places = ordered(file)
    assert found.ref[found.kind == BASE].tolist() == list(range(len(file[0])))
    assert found.ref[found.kind == SYNTHETIC].tolist() == list(range(len(places)))
    copies = sorted(
        zip(found.ref[found.kind == REFILL].tolist(), found.copy[found.kind == REFILL].tolist(), strict=True)
    )
    assert copies == [(row, copy) for row, (times, _) in enumerate(file[0]) for copy in range(1, times)]
    assert not found.copy[found.kind != REFILL].any()


@given(FILES)
def test_synthetic_documents_stand_at_their_places(file: tuple[list[tuple[int, int]], list[float], int]) -> None:
    """One stands after all base documents that begin before its place, and before the first that does not."""
    found, line, places = ordered(file)
    before = 0
    for kind, ref in zip(found.kind.tolist(), found.ref.tolist(), strict=True):
        if kind == SYNTHETIC:
            assert before == sum(start < places[ref] for start in line)
        before += kind == BASE


@given(FILES)
def test_copies_come_late(file: tuple[list[tuple[int, int]], list[float], int]) -> None:
    """A copy stands behind its original, in the second half of the file's documents, and before the last has passed."""
    found, _, _ = ordered(file)
    read = -1
    for kind, ref in zip(found.kind.tolist(), found.ref.tolist(), strict=True):
        read = ref if kind == BASE else read
        if kind == REFILL:
            assert ref <= read
            assert read >= len(file[0]) // 2
    places = np.flatnonzero(found.kind == REFILL)
    late = found.copy[places].tolist()
    if max((times for times, _ in file[0]), default=1) == 2:
        assert late == [1] * len(late)


@given(FILES)
def test_what_must_have_been_read(file: tuple[list[tuple[int, int]], list[float], int]) -> None:
    """`after` ascends, and no record needs a row that it does not wait for."""
    found, _, _ = ordered(file)
    assert (np.diff(found.after) >= 0).all()
    needs = np.where(found.kind == SYNTHETIC, -1, found.ref)
    assert (needs <= found.after).all()


def test_copies_are_spread_evenly() -> None:
    """Ten rows repeated once each: two copies after every row of the second half."""
    found = sequence(np.full(10, 2, np.int32), np.arange(10), np.zeros(0))
    order = [
        ("bsr"[[BASE, SYNTHETIC, REFILL].index(k)], r)
        for k, r in zip(found.kind.tolist(), found.ref.tolist(), strict=True)
    ]
    assert order == [
        *[("b", row) for row in range(6)], ("r", 0), ("r", 1), ("b", 6), ("r", 2), ("r", 3), ("b", 7), ("r", 4),
        ("r", 5), ("b", 8), ("r", 6), ("r", 7), ("b", 9), ("r", 8), ("r", 9),
    ]  # fmt: skip


def test_a_file_of_synthetic_documents() -> None:
    """Without base documents the synthetic ones stand in the order of the schedule."""
    found = sequence(np.zeros(0, np.int32), np.zeros(0, np.int64), np.array([0.0, 1.0, 2.0]))
    assert (found.kind.tolist(), found.ref.tolist(), found.after.tolist()) == ([SYNTHETIC] * 3, [0, 1, 2], [-1] * 3)


def test_an_empty_file() -> None:
    """No records at all."""
    found = sequence(np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0))
    assert [len(column) for column in found] == [0, 0, 0, 0]


def test_places_before_and_after_all_rows() -> None:
    """A place at or before the first row stands first, one past the last row's beginning stands last."""
    found = sequence(np.ones(2, np.int32), np.array([100, 110]), np.array([100.0, 110.0, 110.5]))
    assert found.kind.tolist() == [SYNTHETIC, BASE, SYNTHETIC, BASE, SYNTHETIC]
