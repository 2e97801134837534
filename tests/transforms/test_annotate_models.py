"""A worker whose models are not the launcher's stops instead of writing annotations under the wrong name."""

from pathlib import Path

import pytest

from tests import corpora
from transforms.annotate import annotate_slice, check_models
from transforms.errors import ConfigError
from transforms.find import cut_shard, list_all


def test_other_models_than_the_launchers_are_refused(tmp_path: Path) -> None:
    """An image with an older model would else fill the work folder with annotations that pass for the new one's."""
    corpora.write_web(tmp_path, count=6)
    job = corpora.checked(corpora.config(tmp_path)).job
    part = next(iter(cut_shard(*list_all(job.listings)[0])))
    other = job.annotators._replace(fingerprint="0" * 64)
    with pytest.raises(ConfigError, match="bring both to one release"):
        annotate_slice(part, job.sources[part.source_index], other, str(tmp_path / "work"))
    assert not list((tmp_path / "work").rglob("*.parquet"))
    check_models(job.annotators)
    assert annotate_slice(part, job.sources[part.source_index], job.annotators, str(tmp_path / "work"))[0].records
