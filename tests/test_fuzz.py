"""A short round of the fuzzer, so that it does not rot; `./dev fuzz` goes on for as long as asked."""

from tests import fuzz


def test_a_round_of_every_target() -> None:
    """Arbitrary shards are read or refused with a reason, arbitrary configurations accepted or refused with a line."""
    assert fuzz.run(0, examples=40) == 1
    assert {name.split(":")[0] for name in fuzz.seen} == {"jsonl", "parquet", "wet", "warc", "configuration"}
