"""How much text there is in a document, in every unit."""

import functools
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from tokenizers import Tokenizer

from classifiers import kernel
from classifiers.fasttext_model import offsets_of
from transforms.errors import ConfigError
from transforms.schema import UNITS
from transforms.storage import store_for

TOKENS: Final = UNITS.index("tokens")


@functools.cache
def load_tokenizer(url: str) -> Tokenizer:
    """The Hugging Face tokenizer in a `tokenizer.json`; one per process.

    Raises:
      ConfigError: There is no such object, or it is no tokenizer.
    """
    store = store_for(url)
    if store.stat(url) is None:
        raise ConfigError([f"tokenizer: {url} does not exist; give the path of a tokenizer.json"])
    with store.open(url) as file:
        data = file.read()
    try:
        return Tokenizer.from_buffer(data)
    except ValueError as error:
        raise ConfigError([f"tokenizer: {url} is not a tokenizer.json of the tokenizers library ({error})"]) from error


def amounts(text: pa.LargeStringArray, tokenizer: str, token_count: pa.Int64Array) -> npt.NDArray[np.int64]:
    """Amounts of each document, int64[n, 5] in the order of `UNITS`.

    Tokens come from the tokenizer (without special tokens) where one is named, else from `token_count`, else are 0.
    """
    data, starts, ends = offsets_of(text)
    out = np.empty((len(text), len(UNITS)), dtype=np.int64)
    out[:, UNITS.index("documents")] = 1
    out[:, UNITS.index("bytes")] = ends - starts
    out[:, UNITS.index("characters")] = pc.utf8_length(text).to_numpy(zero_copy_only=False)
    out[:, UNITS.index("words")] = kernel.count_words(data, starts, ends)
    if tokenizer:
        encoded = load_tokenizer(tokenizer).encode_batch_fast(text.to_pylist(), add_special_tokens=False)
        out[:, TOKENS] = [len(e) for e in encoded]
    else:
        out[:, TOKENS] = pc.fill_null(token_count, 0).to_numpy(zero_copy_only=False)
    return out
