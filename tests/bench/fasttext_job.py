"""fastText's own predict over a shard, in whatever environment runs this: prints CPU seconds and labels as JSON.

fasttext_job.py MODEL SHARD.jsonl.zst
"""

import importlib
import json
import sys
import time
from typing import Any


def main() -> None:
    """Predict all texts at once, then one by one for all labels, as datatrove does."""
    fasttext, zstandard = importlib.import_module("fasttext"), importlib.import_module("zstandard")
    model: Any = fasttext.load_model(sys.argv[1])
    with open(sys.argv[2], "rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as stream:
        texts = [json.loads(line)["text"].replace("\n", " ") for line in stream.read().splitlines()]
    start = time.process_time()
    labels = [found[0].removeprefix("__label__") for found in model.predict(texts)[0]]
    middle = time.process_time()
    for text in texts:
        model.predict([text], k=-1)
    print(json.dumps({"list": middle - start, "single": time.process_time() - middle, "labels": labels}))


if __name__ == "__main__":
    main()
