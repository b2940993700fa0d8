"""Ours as a program of its own: the engine's run over films that are transcribed already.

In: a job file (JSON): paths, values of a Config whose output folder holds the transcripts. Out: a
line of JSON: seconds from the first call's start to the last one's end, CPU seconds of this process
meanwhile (all of it: loop, threads, ledger, files), the seconds its loop spent in commits, how the
calls ended, and the exit code. Works on a copy of the output folder, so a job can be run again.
"""

import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from engine import events
from engine.api import run
from engine.config import Config
from engine.store.ledger import Ledger


class Watch:
    """Hears the run's events; its times are of this process."""

    def __init__(self) -> None:
        self.began: float | None = None
        self.ended = 0.0
        self.states: Counter[str] = Counter()
        self.in_commits = 0.0  # seconds since the first call
        self._cpu_before = self._cpu_after = 0.0
        self._commits_after = 0.0

    def note(self, event: events.Event) -> None:
        """Called in the run's thread."""
        if isinstance(event, events.CallStarted) and self.began is None:
            self.began, self._cpu_before = time.monotonic(), time.process_time()
        elif isinstance(event, events.CallFinished):
            self.ended, self._cpu_after = time.monotonic(), time.process_time()
            self._commits_after = self.in_commits
            self.states[event.state.value] += 1

    def timed(self, commit: Any) -> Any:
        """`Ledger.commit`, its time counted."""

        def committed(ledger: Ledger) -> None:
            began = time.monotonic()
            commit(ledger)
            if self.began is not None:
                self.in_commits += time.monotonic() - began

        return committed

    def told(self) -> dict[str, Any]:
        """Everything, as JSON takes it."""
        if self.began is None:
            raise SystemExit("there was nothing to ask")
        return {
            "seconds": self.ended - self.began,
            "cpu": self._cpu_after - self._cpu_before,
            "in_commits": self._commits_after,
            "calls": sum(self.states.values()),
            "states": dict(self.states),
        }


def main(path: str) -> None:
    """Do the job in a file."""
    job = json.loads(Path(path).read_text("utf-8"))
    given = {n: tuple(v) if isinstance(v, list) else v for n, v in job["config"].items()}
    watch = Watch()
    Ledger.commit = watch.timed(Ledger.commit)  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory(prefix="analysed-") as scratch:
        output = Path(scratch, "output")
        shutil.copytree(given.pop("output"), output)
        report = run(job["paths"], Config(output=output, **given), watch.note)
        problems = [problem.message for problem in report.problems]
    told = {**watch.told(), "exit_code": report.exit_code, "problems": problems}
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
