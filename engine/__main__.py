"""``python -m engine``: the same command as ``reelmine``."""

import sys

from engine.cli import main

if __name__ == "__main__":
    sys.exit(main())
