"""What a run would do, and why, without doing it.

In: paths and options. Out: a Plan, for people (`summary.plan_lines`) and programs. Looks into the
containers and the ledger; loads and fetches no model, calls nobody, writes nothing.
"""

from collections.abc import Sequence
from concurrent.futures import BrokenExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from os import PathLike

from engine.config import Config, checked
from engine.forecast import Forecast, forecast
from engine.pools import preparation_worker
from engine.pools.crew import environment
from engine.pools.local import call_once
from engine.pools.sizing import Sizing
from engine.records import Probe, Problem, Video
from engine.setup import prepare
from engine.speech.encoders import Encoder
from engine.store.files import ScratchFolder


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run would do, and why."""

    videos: tuple[Video, ...]
    done: int
    todo: int
    problems: tuple[Problem, ...]
    model: str
    model_note: str | None
    encoder: Encoder
    sizing: Sizing
    notes: tuple[str, ...]  # what of the ledger or machine cannot be used, or is not known
    analysts: tuple[tuple[str, str, tuple[str, ...]], ...]  # recipe, who answers, hosts
    audio_seconds: float | None  # of the videos without a transcript; None: not all say
    quality: str  # what happens to doubtful text, a sentence
    forecast: Forecast | None  # None: nobody is asked who could be paid


def plan(paths: Sequence[str | PathLike[str]], config: Config | None = None) -> Plan:
    """What ``run`` would do; looks into the containers, fetches no model, writes nothing."""
    config = checked(config or Config())
    with ExitStack() as stack:
        ready = prepare(paths, config, stack, look=True)
        who = ready.answering
        todo = [job.video.path for job in ready.jobs.values() if job.transcript is None]
        lengths = _audio_seconds(todo, config)
        return Plan(
            ready.found.videos,
            len(ready.done),
            len(ready.jobs),
            ready.found.problems,
            ready.model.name,
            ready.model.note,
            ready.encoder,
            ready.sizing,
            (*filter(None, [ready.ledger.notice]), *ready.hardware.notes, *ready.sizing.left_out),
            tuple((recipe.name, who.shown, who.hosts) for recipe in who.recipes),
            None if None in lengths else sum(filter(None, lengths)),
            _quality(config),
            forecast(ready, lengths),
        )


def _quality(config: Config) -> str:
    if config.mode == "sequential":
        return "text stays as it is decoded: the gates do not apply to --mode sequential."
    if not config.quality_gates:
        return "text stays as it is decoded: --no-quality-gates."
    return "text that fails a quality gate is decoded again, and marked if it still fails."


def _audio_seconds(paths: Sequence[str], config: Config) -> list[float | None]:
    """Seconds of audio as the containers declare them, of those that can be read; None: unknown."""
    if not paths:
        return []
    with ScratchFolder(config.scratch) as scratch:
        try:
            found = call_once(
                environment(scratch.path, 1, None), preparation_worker.probe, tuple(paths)
            )
        except BrokenExecutor:  # a container crashed the reader; a run finds out which
            return [None] * len(paths)
    return [probe.duration for probe in found if isinstance(probe, Probe)]
