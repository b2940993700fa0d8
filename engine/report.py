"""What a run did, from how its videos ended: exit code, figures, ``last-run.json``.

The exit code tells the truth: 0 only if everything asked for is there. Pure.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from engine.errors import EXIT_DONE, EXIT_INCOMPLETE, EXIT_TRY_AGAIN
from engine.loop import Loop
from engine.records import Problem, RunReport, State, VideoResult
from engine.setup import Prepared

BAD = (State.FAILED, State.TIMED_OUT, State.INTERRUPTED)


def report_of(
    prepared: Prepared,
    loop: Loop | None,
    results: Sequence[VideoResult],
    seconds: float,
    trouble: Sequence[Problem] = (),
) -> RunReport:
    """The report; ``loop`` is None if nothing was left to do; ``trouble`` came after it."""
    order = {video.name: number for number, video in enumerate(prepared.found.videos)}
    results = sorted(results, key=lambda result: order[result.video.name])
    problems = (*prepared.found.problems, *(_problems(loop) if loop else ()), *trouble)
    return RunReport(
        exit_code(loop, problems, results),
        tuple(results),
        problems,
        _figures(prepared, loop, results, seconds),
    )


def exit_code(
    loop: Loop | None, problems: Sequence[Problem], results: Sequence[VideoResult]
) -> int:
    """0 all done, 1 something failed or is missing, 75 try again, 128 + n by signal n."""
    if loop is not None:
        if loop.stopped_by is not None:
            return 128 + loop.stopped_by
        left = any(result.state is State.INTERRUPTED for result in results)
        if loop.out_of_time and left:
            return EXIT_TRY_AGAIN
        if loop.gave_up is not None and loop.gave_up.code in ("E_WORKER_DIED", "E_WORKER_HUNG"):
            return EXIT_TRY_AGAIN
    if problems or any(result.state in BAD for result in results):
        return EXIT_INCOMPLETE
    return EXIT_DONE


def report_json(report: RunReport) -> bytes:
    """What scripts parse: counts, rates, reasons, exit code."""
    document = {
        "exit_code": report.exit_code,
        **report.figures,
        "problems": [asdict(problem) for problem in report.problems],
        "videos": [
            {
                "name": result.video.name,
                "path": result.video.path,
                "state": result.state,
                "problem": asdict(result.problem) if result.problem else None,
                "resumed": result.resumed,
            }
            for result in report.videos
        ],
    }
    return json.dumps(document, indent=1).encode() + b"\n"


def _problems(loop: Loop) -> tuple[Problem, ...]:
    endpoint = loop.calls.endpoint if loop.calls else None
    return tuple(p for p in (endpoint, loop.gave_up, loop.disk) if p is not None)


def _figures(
    prepared: Prepared, loop: Loop | None, results: Sequence[VideoResult], seconds: float
) -> dict[str, Any]:
    audio = loop.audio_done if loop else 0.0
    states = [result.state for result in results]
    return {
        "seconds": round(seconds, 3),
        "audio_seconds": round(audio, 3),
        "times_real_time": round(audio / seconds, 2) if audio else None,
        "states": {state.value: states.count(state) for state in State if state in states},
        "resumed": len(prepared.done),
        "batch_fill": loop.batch_fill if loop else None,
        "windows_decoded_again": loop.decoded_again if loop else 0,
        "suspect_windows": loop.suspects if loop else 0,
        "call_overruns": loop.calls.overruns if loop and loop.calls else 0,
    }
