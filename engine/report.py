"""What a run did, from how its videos ended: exit code, figures, ``last-run.json``.

The exit code tells the truth: 0 only if everything asked for is there. Pure.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from engine import floor
from engine.calls import Calls
from engine.errors import EXIT_DONE, EXIT_INCOMPLETE, EXIT_TRY_AGAIN
from engine.llm.budget import Budget, total
from engine.loop import Loop
from engine.pools.hardware import Hardware
from engine.pools.sizing import Sizing
from engine.records import Grounding, Problem, RunReport, Spent, State, VideoResult
from engine.setup import Prepared
from engine.usage import Usage

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


def share_of_floor(model: str, hardware: Hardware, sizing: Sizing, usage: Usage) -> float | None:
    """The least time by the data sheets over the time taken; for cards and models that are known.

    Of a card cut into slices, or a model in whole numbers, no peak is known.
    """
    slots, shape = sizing.slots, floor.shape_named(model)
    cards = {gpu.index: gpu.name for gpu in hardware.gpus if not gpu.mig}
    names = [cards.get(pin or "", "") for pin in dict.fromkeys(slot.pin for slot in slots)]
    peaks = [floor.PEAKS[name] for name in names if name in floor.PEAKS]
    half = all(slot.compute_type in floor.COMPUTE_TYPES for slot in slots)
    if shape is None or not half or len(peaks) < len(names) or not usage.windows:
        return None
    batch = max(slot.batch_size for slot in slots)
    least = floor.floor_seconds(shape, peaks, batch, usage.windows, usage.tokens)
    return least / usage.open_seconds if usage.open_seconds else None


def _problems(loop: Loop) -> tuple[Problem, ...]:
    endpoint = loop.calls.endpoint if loop.calls else None
    return tuple(p for p in (endpoint, loop.gave_up, loop.disk) if p is not None)


def _figures(
    prepared: Prepared, loop: Loop | None, results: Sequence[VideoResult], seconds: float
) -> dict[str, Any]:
    audio = loop.totals.audio if loop else 0.0
    states = [result.state for result in results]
    return {
        "seconds": round(seconds, 3),
        "audio_seconds": round(audio, 3),
        "times_real_time": round(audio / seconds, 2) if audio else None,
        "states": {state.value: states.count(state) for state in State if state in states},
        "resumed": len(prepared.done),
        "windows_decoded_again": loop.totals.decoded_again if loop else 0,
        "suspect_windows": loop.totals.suspects if loop else 0,
        "oversubscription": round(prepared.sizing.oversubscription, 2),
        "memory_steps": loop.batches.shortage.steps if loop else [],
        **_usage(prepared, loop),
        **_calls(loop.calls if loop else None),
        **_items(loop),
        "llm_run": _spending(prepared.budget, prepared.budget.run),
        "llm_folder": _spending(prepared.budget, prepared.budget.folder),
    }


def _calls(calls: Calls | None) -> dict[str, float | None]:
    """How the calls went out; what is not known is None."""
    waited = calls.waited if calls else None
    return {
        "calls_at_once": calls.limits.at_once if calls else None,  # allowed at the end
        "call_wait_seconds": None if waited is None else round(waited, 3),
        "requests_refused": calls.limits.refused if calls else 0,  # with a 429
        "call_overruns": calls.overruns if calls else 0,
    }


def _items(loop: Loop | None) -> dict[str, Any]:
    """What was found in the videos that this run ended, by how it was found again in the text."""
    kinds: Mapping[Grounding, int] = loop.totals.items if loop else {}
    found = {kind.value: kinds.get(kind, 0) for kind in Grounding}
    whole = sum(found.values())
    grounded = whole - found[Grounding.UNGROUNDED]
    return {
        "items": found | {"dropped": loop.totals.dropped if loop else 0},
        "share_grounded": round(grounded / whole, 4) if whole else None,
    }


def _spending(budget: Budget, spent: Mapping[str, Spent]) -> dict[str, float | None]:
    """What exchanges with language models took; a cost of None is not known."""
    return {**asdict(total(spent)), "cost": budget.cost(spent)}


def _usage(prepared: Prepared, loop: Loop | None) -> dict[str, float | None]:
    """What the slots did with their time; None for what is not known. Spans are seconds."""
    usage = loop.usage if loop else Usage(0.0)
    shares = {
        "slots_busy": usage.slots_busy,
        "batch_fill": loop.batch_fill if loop else None,
        "window_fill": usage.window_fill,
        "windows_waited": usage.windows_waited,
        "slots_starved": usage.slots_starved,
        "share_of_floor": None
        if loop is None or loop.batches.shortage.steps  # what was planned no longer held
        else share_of_floor(prepared.model.name, prepared.hardware, prepared.sizing, usage),
        "predicted_seconds": usage.predicted,
        "transcription_seconds": usage.taken,
    }
    return {name: None if n is None else round(n, 4) for name, n in shares.items()}
