"""``python -m engine``, and the ``reelmine`` script: the same command.

Spawned workers import the script that started the run again, so the command line is imported only
when it is called.
"""

import sys


def main() -> int:
    """Run one command; returns the exit code."""
    from engine.cli import main as command

    return command()


if __name__ == "__main__":
    sys.exit(main())
