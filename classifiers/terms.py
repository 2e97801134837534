"""Terms without any of which a window is taken to say nothing of AI, as one regular expression for RE2.

The list is wide on purpose: about half of the web's texts about a machine with a mind never say "AI". What it costs
and what it loses is measured in models/MODEL_CARD.md, and a test holds both to their numbers.
"""

from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

MINDS: Final = (
    "robot", "droid", "cyborg", "automat", "machine", "mechanical", "artificial", "synthetic", "sentien", "mainframe",
    "superintelligen", "intelligent", "an intelligence", "the intelligence", "humanoid", "replicant", "golem",
    "clockwork", "homuncul", "cybern", "hologram", "hive mind", "singularity", "contraption", "self-aware",
    "digital mind", "uploaded mind", "positronic", "metal m",
)  # fmt: skip
"""What artificial minds are called. A term matches inside words: "robot" finds "robotics"."""

COMPUTING: Final = (
    "comput", "algorithm", "software", "neural", "chatbot", "assistant", "language model", "deep learning",
    "turing test", "data cent", "programmed", "programmer", "reprogram", "the program", "openai", "chatgpt",
    "anthropic", "deepmind", "copilot", "agentic", "processor", "circuit", "firmware", "subroutine", "subsystem",
    "the model", "models", "trained on", "training data", "misalign", "existential risk", "x-risk", "autonomous",
    "autopilot", "self-driving", "sensor", "drone", "diagnostic", "database", "server", "the network", "the system",
    "the app", "device", "digital", "the screen", "cyber", "electronic", "thermostat", "scheduler", "dashboard",
)  # fmt: skip
"""Where such minds live, and what is said of them without naming them."""

CONDUCT: Final = (
    "shut down", "shutdown", "shut it down", "shut me", "shut her", "shut him down", "switch off", "switched off",
    "switch it off", "turn off", "turned off", "turned it off", "turn it off", "switched on", "unplug", "override",
    "overrid", "oversight", "protocol", "directive", "obey", "disobe", "operator", "gone rogue", "goes rogue",
    "going rogue", "went rogue", "rogue ai", "skynet", "hal 9000", "terminator", "glados", "ultron", "shodan",
    "cylon", "dalek", "asimov", "tickler", "the ship said", "the ship's voice", "the house said", "the voice from",
    "its makers", "its creator", "its maker", "was built to", "instructions", "permission",
)  # fmt: skip
"""What is done with them and by them, and the names of those that everybody knows."""

WORDS: Final = (
    "ai", "ais", "a\\.i", "agi", "asi", "ml", "llms?", "gpt(?:-?[0-9][a-z]?)?", "bots?", "agents?", "hal", "tars",
    "c-3po", "r2-?d2", "wall-?e", "jarvis", "cortana", "alexa", "siri", "claude", "gemini", "prompts?", "audit",
    "logs?", "rlhf", "ai alignment", "tin m[ae]n",
)  # fmt: skip
"""Terms that stand for themselves only: "ai" is not in "maid". Regular expressions."""

# No \\b: RE2 falls back to a slow automaton where that meets a byte that is not ASCII
PATTERN: Final = "|".join((*MINDS, *COMPUTING, *CONDUCT, f"(?:^|[^a-z])(?:{'|'.join(WORDS)})(?:[^a-z]|$)"))


def passes(texts: "pa.StringArray | pa.LargeStringArray") -> pa.BooleanArray:
    """Which texts have one of the terms, in any case."""
    return pc.match_substring_regex(texts, PATTERN, ignore_case=True)
