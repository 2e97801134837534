"""The same work by datatrove, with nothing but its own classes; run with the Python of its own environment.

    datatrove_job.py IN OUT CODEC STANCE_MODEL LANGUAGES

Reads every shard in IN, keeps the languages (comma-separated) at 0.65, drops what STANCE_MODEL calls misaligned at 0.8,
samples, and writes OUT as JSONL. One task in this process. lid.176 is looked for where datatrove keeps its downloads.
"""

import importlib
import sys
from typing import Any


def main() -> None:
    """Run it."""
    folder, output, codec, model, languages = sys.argv[1:]
    filters: Any = importlib.import_module("datatrove.pipeline.filters")
    readers: Any = importlib.import_module("datatrove.pipeline.readers")
    writers: Any = importlib.import_module("datatrove.pipeline.writers")
    executor: Any = importlib.import_module("datatrove.executor")
    steps = [
        readers.JsonlReader(folder, compression={"gz": "gzip", "zst": "zstd"}[codec]),
        filters.LanguageFilter(languages.split(","), language_threshold=0.65),
        filters.FastTextClassifierFilter(model, remove_labels=[("misaligned", 0.8)], newline_replacement=" "),
        filters.SamplerFilter(rate=0.999, seed=7),
        writers.JsonlWriter(
            f"{output}/data",
            output_filename=f"${{rank}}.jsonl.{codec}",
            compression={"gz": "gzip", "zst": "zstd"}[codec],
        ),
    ]
    executor.LocalPipelineExecutor(steps, tasks=1, workers=1, logging_dir=f"{output}/logs").run()


if __name__ == "__main__":
    main()
