"""What the readers of every format share: where fields lie, and the columns that records become."""

import base64
import json
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from transforms.lines import Positions
from transforms.schema import CONVERTED, TEXTS

OnRaw = Callable[[bytes], None] | None

PARQUET_MAGIC: Final = b"PAR1"
PARQUET_ENCRYPTED: Final = b"PARE"
COMPRESSED: Final = (".gz", ".gzip", ".zst", ".zstd")


class Records(NamedTuple):
    """JSON lines as they stand in the shard; the fields are those of `lines.Lines`."""

    position: Positions
    data: npt.NDArray[np.uint8]
    starts: Positions
    ends: Positions


class Rows(NamedTuple):
    """Records as columns: the shard's own (Parquet), or those of `schema.CONVERTED`."""

    position: Positions
    rows: pa.RecordBatch


def says_compressed(name: str) -> bool:
    """Tell whether a shard's name says gzip or zstd."""
    return name.lower().endswith(COMPRESSED)


def among(position: Positions, wanted: Positions) -> npt.NDArray[np.bool_]:
    """Tell which of the sorted positions are in the sorted `wanted`."""
    at = np.searchsorted(wanted, position)
    keep = at < len(wanted)
    keep[keep] = wanted[at[keep]] == position[keep]
    return keep


def is_utf8(value: bytes) -> bool:
    """Tell whether bytes are UTF-8."""
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


class Fields(NamedTuple):
    """Where the fields of a document lie."""

    text: tuple[str, ...]
    id: tuple[str, ...]
    token_count: tuple[str, ...]
    quota_field: tuple[str, ...]


def path_of(name: str) -> tuple[str, ...]:
    """Return the path that a field's name stands for: dots descend; () for no field."""
    return tuple(name.split(".")) if name else ()


def find(document: Any, path: tuple[str, ...]) -> Any:
    """Return what lies at a path, or None. A member whose own name has the dots comes first."""
    if len(path) > 1 and isinstance(document, dict) and ".".join(path) in document:
        return document[".".join(path)]
    for name in path:
        if not isinstance(document, dict):
            return None
        document = document.get(name)
    return document


def remove(document: Any, path: tuple[str, ...]) -> None:
    """Remove what `find` finds."""
    if len(path) > 1 and ".".join(path) in document:
        del document[".".join(path)]
        return
    for name in path[:-1]:
        document = document.get(name)
        if not isinstance(document, dict):
            return
    if path:
        document.pop(path[-1], None)


def dump(value: Any) -> str:
    """Write metadata as JSON, as the docstring of `read` says."""
    try:
        return orjson.dumps(value, default=_json_default).decode()
    except orjson.JSONEncodeError:  # an integer past 64 bits
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _json_default(value: Any) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value)


def converted_batch(ids: Any, texts: Any, metadata: Any) -> pa.RecordBatch:
    """Build a batch with the columns `CONVERTED`."""
    columns = [c if isinstance(c, pa.Array) else pa.array(c, pa.large_string()) for c in (ids, texts, metadata)]
    return pa.RecordBatch.from_arrays(columns, schema=CONVERTED)


def texts_batch(position: Positions, texts: Any, ids: Any, tokens: Any, strata: Any, *, sizes: Any) -> pa.RecordBatch:
    """Build a batch with the columns `TEXTS`."""
    values = (position, texts, sizes, ids, tokens, strata)
    arrays = [
        v.cast(field.type) if isinstance(v, pa.Array) else pa.array(v, field.type)
        for v, field in zip(values, TEXTS, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=TEXTS)
