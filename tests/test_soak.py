"""A few builds of the soak, so that it does not rot; `./dev soak` goes on for as long as asked."""

from tests import soak


def test_a_few_builds_agree_with_the_oracle() -> None:
    """Random configuration, random damage: the build and the oracle agree, or both refuse."""
    kinds = {soak.once(seed)[0] for seed in range(100, 106)}
    assert len(kinds) > 2
