"""Measure what each step costs, against its limits and its peers: `./dev bench`.

- corpus: inputs: the corpus beside the checkout, another folder's, or one made of the sample documents
- clock: CPU time of functions, in turns; CPU time and memory of child processes
- steps: a build's receipts, plan and groups, made with the steps' own functions
- stages: every stage alone, in MB of text a CPU second, and its limit
- builds: whole builds: against datatrove, on one and two workers, over more and more shards
- datatrove_job: the same work by datatrove, run with the Python of an environment of its own
- fasttext_job: fastText's own predict, run with the Python of any environment
- plan_scale: the plan of 1,000,000 slices and 3 billion documents, simulated
- table: rows, and how they are shown
"""
