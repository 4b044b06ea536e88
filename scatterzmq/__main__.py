"""`python -m scatterzmq`: the same as the script `scatterzmq`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
