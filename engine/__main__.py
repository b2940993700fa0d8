"""``python -m engine``: the same command as ``reelmine``."""

from engine.cli import main

if __name__ == "__main__":
    main()
