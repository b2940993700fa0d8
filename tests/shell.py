"""The ``reelmine`` command, started as a user starts it."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]

Reelmine = Callable[..., subprocess.CompletedProcess[str]]


def command(words: Sequence[str | Path]) -> list[str]:
    """What starts it with the interpreter that runs the tests."""
    return [sys.executable, "-m", "engine", *map(str, words)]


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Where it finds the checkout; what the tests have removed from the environment stays away."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **(more or {})}


def reelmine_in(folder: Path) -> Reelmine:
    """``reelmine("plan", "talk.mp4", env={...})`` with this working folder; output as text."""

    def run(
        *words: str | Path,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        timeout: float = 120,
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command(words),
            cwd=folder,
            env=environment(env),
            input=stdin,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        out, err = done.stdout.decode(), done.stderr.decode()
        return subprocess.CompletedProcess(done.args, done.returncode, out, err)

    return run
