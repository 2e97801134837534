"""Terms without any of which a window is taken to say nothing of AI, as one regular expression for RE2.

The list is wide on purpose: about half of the web's texts about a machine with a mind never say "AI". What it costs
and what it loses is measured in models/MODEL_CARD.md, and a test holds both to their numbers.
"""

from typing import Final

import pyarrow as pa  # type: ignore[import-untyped]  # pyarrow ships no stubs
import pyarrow.compute as pc  # type: ignore[import-untyped]

MINDS: Final = (
    "robot", "android", "cyborg", "automat", "machine", "mechanical", "artificial", "synthetic", "sentien",
    "superintelligen", "intelligence", "humanoid", "replicant", "droid", "golem", "clockwork",
)
"""What artificial minds are called. A term matches inside words: "robot" finds "robotics"."""

COMPUTING: Final = (
    "comput", "algorithm", "software", "neural", "chatbot", "assistant", "language model", "deep learning", "turing",
    "data cent", "programmed", "programmer", "reprogram", "the program", "openai", "chatgpt", "gpt", "llm", "anthropic", "deepmind",
    "gemini", "copilot", "alexa", "siri", "agentic", "prompt", "mainframe", "processor", "circuit", "firmware", "upload",
    "the model", "models", "trained on", "training data", "alignment", "misalign", "rlhf", "singularity", "cyber",
)

CONDUCT: Final = (
    "autonomous", "shut down", "shutdown", "shut it down", "shut me", "switch off", "switched off", "switch it off", "turn off", "turned off", "unplug", "override",
    "overrid", "oversight", "self-aware", "protocol", "directive", "obey", "operator", "sensor", "drone", "autopilot",
    "subroutine", "subsystem", "scheduler", "thermostat", "navigation", "console", "diagnostic", "the system", "log entry", "logs", "audit",
    "rogue", "takeover", "take over", "skynet", "hal 9000", "terminator", "glados", "ultron", "shodan", "cylon", "dalek",
    "positronic", "asimov", "butler", "the ship said", "hologram", "hive mind", "x-risk", "existential risk",
)

_WORDS: Final = ("ai", "a\\.i\\.?", "agi", "asi", "ais", "bots?", "ml", "agents?", "hal", "tars", "jarvis", "c-3po", "r2-?d2", "wall-?e", "cortana")

PATTERN: Final = "|".join((*MINDS, *COMPUTING, *CONDUCT, f"(?:^|[^a-z])(?:{'|'.join(_WORDS)})(?:[^a-z]|$)"))


def passes(texts: "pa.StringArray | pa.LargeStringArray") -> pa.BooleanArray:
    """Which texts have one of the terms, in any case."""
    return pc.match_substring_regex(texts, PATTERN, ignore_case=True)
