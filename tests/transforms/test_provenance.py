"""Who is who in an output file, as the same bytes every time."""

import numpy as np
import pytest

from tests.corpora import Row, annotation, receipt
from tests.shards import source
from transforms import provenance
from transforms.census import Rules
from transforms.provenance import load_base


def test_dictionaries_hold_each_name_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices of one shard and source share its name: twice in a dictionary, it would stray memory in the file."""
    rows = [Row(), Row(text="b")]
    receipts = [receipt(rows, shard=shard, start=start) for shard, start in (("a", 0), ("a", 5), ("b", 0), ("a", 9))]
    monkeypatch.setattr(provenance, "read_annotation", lambda _url, columns: annotation(rows).select(columns))
    base = load_base(receipts, Rules((), 0.0, (("misaligned", 0.5),), 0.0), [source()])
    for column, names in (("source", ["web"]), ("shard", ["a", "b"])):
        (chunk,) = base.table.column(column).chunks
        assert chunk.dictionary.to_pylist() == names
    assert base.table.column("shard").to_pylist() == list("aaaabbaa")
    assert np.array_equal(base.offsets, [0, 2, 4, 6, 8])
