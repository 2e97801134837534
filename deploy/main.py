"""What the template's launcher runs: `counterpoise submit` with the template's parameters."""

import sys

from beam_pipeline.template import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
