"""Counterpoise: rebalance how AI is portrayed in a pretraining corpus, and prove it.

config     one YAML file, validated as a whole
options    Beam's own options, and the local runner
drift      how far a build moved from the one before
dated      builds with a date, and latest.json
pipeline   the main path
preflight  what can be checked before anything is paid for
progress   signs of life of a local build
cloud      what can be checked of a job on Dataflow
cost       what it will cost
package    what it brings to its workers
follow     its state, counters and errors
submit     check a build, bring it to Dataflow, follow it
run        the command line and the exit codes
template   the same as a template of Dataflow
demo       the sample input in every shard format
"""

__version__ = "0.1.0"
