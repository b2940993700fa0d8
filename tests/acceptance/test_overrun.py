"""A call that outlives its own deadline, which must never happen: the command ends all the same."""

import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

from shell import analysis, environment, last_run

HUNG = """\
import sys
import time

from engine.analysis.analysts import LlmAnalyst


def hang(*_):
    while True:  # no deadline, no stop: what a library's bug would look like
        time.sleep(1.0)


if __name__ == "__main__":
    LlmAnalyst.call = hang
    from engine.cli import main

    sys.exit(main(sys.argv[1:]))
"""


def test_call_that_never_ends_is_given_up_and_the_command_leaves_with_the_right_code(
    tmp_path: Path, samples: Path, fake: Path
) -> None:
    script = tmp_path / "hung.py"
    script.write_text(HUNG)
    output = tmp_path / "out"
    words = ["run", str(samples / "moving_house.wav"), "-o", str(output), "--model", str(fake)]
    words += ["--llm-base-url", "http://127.0.0.1:9/v1", "--llm-model", "m"]
    words += ["--call-timeout", "1"]
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, script, *words],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    took = time.monotonic() - began
    assert done.returncode == 1, done.stderr
    assert took < 60
    assert "timed out" in done.stdout.splitlines()[-1]  # all that was told has been written
    assert last_run(output)["call_overruns"] == 1
    found = analysis(output, "moving_house", "expressions")
    assert [chunk["problem"]["code"] for chunk in found["failed"]] == ["E_LLM_TIMEOUT"]
    with closing(sqlite3.connect(output / ".reelmine" / "ledger.sqlite")) as ledger:
        assert ledger.execute("SELECT exit_code FROM runs").fetchall() == [(1,)]
    assert not (output / ".reelmine" / "ledger.sqlite-wal").exists()  # it was closed
