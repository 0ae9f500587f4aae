"""Let ``python -m glasspool`` be the command ``glasspool``."""

import sys

from glasspool.cli import main

if __name__ == "__main__":
    sys.exit(main())
