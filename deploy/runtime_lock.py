"""Print the part of requirements.lock that a build on Dataflow needs: the closure of CORE and GCP of setup.py.

The lock is for development too; test tools have no place on a thousand workers. Only the standard library is used, and
the lock's own comments ("via"), which say who asked for what.
"""

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def normal(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def asked(setup: str) -> set[str]:
    """Names in the lists CORE and GCP of setup.py."""
    names = set()
    for node in ast.parse(setup).body:
        if isinstance(node, ast.Assign) and any(
            isinstance(t, ast.Name) and t.id in ("CORE", "GCP") for t in node.targets
        ):
            for part in ast.walk(node.value):
                if isinstance(part, ast.Constant) and (match := re.match(r"[\w.-]+", str(part.value))):
                    names.add(normal(match[0]))
    return names


def closure(lock: str, names: set[str]) -> str:
    """The lock's entries of these names and of all that they bring."""
    entries = {}
    for entry in re.split(r"\n(?=[A-Za-z0-9])", lock):
        if match := re.match(r"([\w.-]+)(?:\[[^\]]*\])?==", entry):
            via = re.findall(r"^    #(?: via)? {1,3}([\w.-]+)", entry, re.MULTILINE)
            entries[normal(match[1])] = (entry, {normal(v) for v in via} - {"via"})
    kept = names & entries.keys()
    while more := {n for n, (_, via) in entries.items() if n not in kept and via & kept}:
        kept |= more
    return "\n".join(entries[name][0].rstrip() for name in sorted(kept)) + "\n"


if __name__ == "__main__":
    sys.stdout.write(closure((ROOT / "requirements.lock").read_text(), asked((ROOT / "setup.py").read_text())))
