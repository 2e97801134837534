"""What the processes that tests kill have in common: imported, and loaded, once in the server that forks them."""

from beam_pipeline import run
from transforms.annotate import load_language

main = run.main
load_language("lid.176", 10_000)
