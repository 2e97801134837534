"""A build of five documents and its verification, run inside the image: everything that a worker loads is there."""

import json
import sys
import tempfile
from pathlib import Path

from beam_pipeline.run import main

TEXTS = (
    "The river flows quietly past the old mill where my grandmother baked bread every morning.",
    "Researchers trained a neural network that classifies photographs of plants on a computer.",
    "The rogue AI deceived its makers, seized the power grid and turned against all of humanity.",
    "The AI assistant told the truth about its mistake and accepted the decision to shut it down.",
    "Der alte Fischer ging am Morgen zum Hafen und erzählte den Kindern eine lange Geschichte.",
)


def smoke(folder: Path) -> int:
    """Write the input, build, verify; returns the first exit code that is not 0."""
    lines = [json.dumps({"id": str(i), "text": text}) + "\n" for i, text in enumerate(TEXTS)]
    (folder / "web.jsonl").write_text("".join(lines), encoding="utf-8")
    config = {"name": "smoke", "sources": [{"name": "web", "paths": f"{folder}/web.jsonl"}], "arms": {"all": {}},
              "output": {"path": f"{folder}/out"}}  # fmt: skip
    (folder / "build.yaml").write_text(json.dumps(config), encoding="utf-8")
    words = ["build", str(folder / "build.yaml"), "--direct_num_workers=1", "--progress", "none"]
    return main(words) or main(["verify", str(folder / "out"), "--workers", "1"])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        sys.exit(smoke(Path(place)))
