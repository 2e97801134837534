"""The Dataflow template: its entry point, and the description of its parameters, made from the program's own options.

`python -m beam_pipeline.template` prints the description, which deploy/metadata.json holds.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any, Final

from beam_pipeline import run
from beam_pipeline.commands import COMMANDS

PARAMETERS: Final[dict[str, dict[str, Any]]] = {
    "config": {"label": "Configuration", "paramType": "GCS_READ_FILE", "regexes": [r"^gs://[^/]+/.+\.ya?ml$"]},
    "date": {"label": "Date of the build", "regexes": [r"^\d{4}-\d{2}-\d{2}$"]},
    "set": {"label": "Overrides", "regexes": [r"^[\w.-]+=.*$"]},
}
"""Options of `counterpoise submit` that a template takes; everything else is in the launch's environment."""

_SEPARATOR: Final = ";"


def main(argv: Sequence[str]) -> int:
    """Run `counterpoise submit` with the launcher's arguments; returns the exit code.

    The launcher gives each parameter once, as --name=value: several overrides stand in one, with ";" between them.
    """
    top = argparse.ArgumentParser(prog="template", allow_abbrev=False)
    top.add_argument("--config", required=True)
    top.add_argument("--date", default="")
    top.add_argument("--set", default="")
    args, rest = top.parse_known_args(list(argv))
    words = ["submit", args.config]
    words += [f"--date={args.date}"] if args.date else []
    for override in filter(None, (part.strip() for part in args.set.split(_SEPARATOR))):
        words += ["--set", override]
    return run.main([*words, *rest])


def metadata() -> dict[str, Any]:
    """The description as the service wants it."""
    parser = argparse.ArgumentParser(add_help=False)
    COMMANDS["submit"].arguments(parser)
    actions = {action.dest: action for action in parser._actions}  # noqa: SLF001 - argparse has no other list
    parameters = []
    for name, facts in PARAMETERS.items():
        described = str(actions[name].help)
        if name == "set":
            described += f'; several with "{_SEPARATOR}" between them'
        optional = bool(actions[name].option_strings)
        parameters.append({"name": name, "helpText": described[0].upper() + described[1:] + ".", "isOptional": optional}
                          | {"paramType": "TEXT"} | facts)  # fmt: skip
    return {
        "name": "Counterpoise",
        "description": "Rebalances how AI is portrayed in a pretraining corpus, exactly and with proof of what it did.",
        "parameters": parameters,
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(metadata(), indent=2) + "\n")
