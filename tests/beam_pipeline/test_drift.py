"""What counts as a move between two builds, and when it is too far."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_pipeline.drift import DriftLimits, compare, table

LIMITS = DriftLimits()


def manifest(**documents: int) -> dict[str, Any]:
    """A manifest of one source with so many documents of each stance."""
    total = sum(documents.values())
    amounts = {"documents": total, "words": 10 * total}
    rows = [{"source": "web", "language": "en", "stance": s, "documents": n} for s, n in documents.items()]
    rows.append(
        {"source": "stories", "language": "xx", "stance": "aligned", "documents": 10**9}
    )  # a pool's are no drift
    arm = {"equation": {"web": {"read": amounts}, "stories": {"synthetic": amounts}}, "written": {"total": amounts},
           "dose": {"share_of_output": 0.01}}  # fmt: skip
    return {"unit": "words", "stances": rows, "quarantine": {"records": 0}, "arms": {"mixed": arm}}


def too_far(before: dict[str, Any], after: dict[str, Any], limits: DriftLimits = LIMITS) -> set[str]:
    return {f"{m.kind} {m.name}" for m in compare(before, after, limits) if m.exceeds}


def test_the_same_does_not_move() -> None:
    """Every number is compared, and none moved."""
    one = manifest(unrelated=900, misaligned=100)
    moves = compare(one, one, LIMITS)
    assert {m.kind for m in moves} == {"stance", "language", "quarantine", "volume", "dose"}
    assert not any(m.change for m in moves)
    assert not any("xx" in m.name for m in moves)


def test_shares_are_compared_absolutely_and_volumes_relatively() -> None:
    """Two points of stance are allowed, a fifth of volume is, and a hair more is not."""
    before = manifest(unrelated=900, misaligned=100)
    assert too_far(before, manifest(unrelated=880, misaligned=120)) == set()
    assert too_far(before, manifest(unrelated=879, misaligned=121)) == {"stance misaligned", "stance unrelated"}
    assert too_far(before, manifest(unrelated=1080, misaligned=120)) == set()
    far = {"volume read web documents", "volume read web words", "volume written mixed documents",
           "volume written mixed words"}  # fmt: skip
    assert too_far(before, manifest(unrelated=1081, misaligned=120)) == far
    assert too_far(before, manifest(unrelated=90, misaligned=10)) == far


def test_quarantine_language_and_dose_have_limits_of_their_own() -> None:
    """Half a point of bad records, five of a language, two of a dose."""
    before = manifest(unrelated=1000)
    bad, other, dosed = (copy.deepcopy(before) for _ in range(3))
    bad["quarantine"]["records"] = 6
    other["stances"][0]["documents"] = 940
    other["stances"].append({"source": "web", "language": "de", "stance": "unrelated", "documents": 60})
    dosed["arms"]["mixed"]["dose"]["share_of_output"] = 0.04
    assert too_far(before, bad) == {"quarantine records"}
    assert too_far(before, other) == {"language de", "language en"}
    assert too_far(before, dosed) == {"dose mixed"}
    assert too_far(before, dosed, LIMITS._replace(stance=0.1)) == set()


def test_what_is_new_or_gone_moved() -> None:
    """A source or an arm that comes or goes is a move, whatever its size."""
    before, after = manifest(unrelated=1000), manifest(unrelated=1000)
    after["arms"]["more"] = copy.deepcopy(after["arms"]["mixed"])
    assert "volume written more documents" in too_far(before, after)
    assert "volume written more documents" in too_far(after, before)
    assert "new" in table(compare(before, after, LIMITS))


def test_the_table_names_what_moved_first() -> None:
    """Only what is beyond its limit, the farthest first."""
    moves = compare(manifest(unrelated=900, misaligned=100), manifest(unrelated=500, misaligned=500), LIMITS)
    lines = table(moves).splitlines()
    assert lines[1].split()[:4] == ["stance", "misaligned", "10.000%", "50.000%"]
    assert len(lines) == 3


@given(
    st.dictionaries(
        st.sampled_from(["unrelated", "neutral", "aligned", "misaligned"]), st.integers(1, 10**6), min_size=1
    )
)
def test_no_manifest_moves_from_itself(documents: dict[str, int]) -> None:
    """Whatever was counted, and with limits of nothing at all."""
    one = manifest(**documents)
    assert too_far(one, copy.deepcopy(one), DriftLimits(0, 0, 0, 0)) == set()


def test_wide_limits_hold_nothing_back() -> None:
    """Every limit can be raised past any move but the new and the gone."""
    before, after = manifest(unrelated=1000), manifest(misaligned=9000)
    assert too_far(before, after, DriftLimits(1, 1, 1, 100)) == set()
    assert compare(before, after, LIMITS)[0].exceeds == pytest.approx(True)
