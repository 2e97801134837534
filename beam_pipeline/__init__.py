"""Counterpoise: rebalance how AI is portrayed in a pretraining corpus, and prove it.

config     one YAML file, validated as a whole
options    Beam's own options, and the local runner
preflight  what can be checked before anything is paid for
pipeline   the main path
progress   signs of life of a local build
run        the command line and the exit codes
demo       the sample input in every shard format
"""

__version__ = "0.1.0"
