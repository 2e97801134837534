"""`python -m beam_pipeline` is `counterpoise`."""

import sys

from beam_pipeline.run import main

sys.exit(main())
