"""The ``reelmine`` command, started as a user starts it, and what it leaves behind."""

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

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


def clear_settings(patch: pytest.MonkeyPatch) -> None:
    """No option, no endpoint and no key comes from the environment the tests run in."""
    for name in list(os.environ):
        if name.startswith(("REELMINE_", "OPENAI_")) and name != "REELMINE_CACHE":
            patch.delenv(name)


# What a run leaves behind


def result(output: Path, name: str) -> dict[str, Any]:
    """The result file of a video."""
    shape: dict[str, Any] = json.loads((output / f"{name}.json").read_bytes())
    return shape


def analysis(output: Path, name: str, recipe: str) -> dict[str, Any]:
    """What one recipe found in a video."""
    analyses = result(output, name)["reelmine"]["analyses"]
    return next(found for found in analyses if found["recipe"] == recipe)


def last_run(output: Path) -> dict[str, Any]:
    """The document that scripts parse."""
    document: dict[str, Any] = json.loads((output / ".reelmine" / "last-run.json").read_bytes())
    return document


def attempts(output: Path, what: str) -> list[dict[str, Any]]:
    """What the last run did of one kind: "open", "batch", "call"; [] without a ledger."""
    rows = _ledger(
        output,
        "SELECT place, video, began, ended, outcome FROM attempts"
        " WHERE what = ? AND run = (SELECT max(id) FROM runs) ORDER BY ended",
        what,
    )
    return [{**row, "video": row["video"] and json.loads(row["video"])} for row in rows]


def measured(output: Path) -> list[dict[str, Any]]:
    """The last run's samples of the machine, with ``at`` in seconds since it began."""
    rows = _ledger(
        output,
        "SELECT at, values_json FROM samples WHERE run = (SELECT max(id) FROM runs) ORDER BY at",
    )
    return [{"at": row["at"], **json.loads(row["values_json"])} for row in rows]


def _ledger(output: Path, query: str, *values: str) -> list[dict[str, Any]]:
    path = output / ".reelmine" / "ledger.sqlite"
    if not path.exists():
        return []
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as ledger:
        ledger.row_factory = sqlite3.Row
        return [dict(row) for row in ledger.execute(query, values)]
