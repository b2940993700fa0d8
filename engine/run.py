"""A run, from paths and options to a report.

``run`` works in the calling thread; ``stream`` in a thread it owns, and yields each video's result
as it completes; ``plan`` says what a run would do and why, loading no model.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from engine import events
from engine.analysis.analysts import Analyst, LlmAnalyst, PhrasebookAnalyst
from engine.analysis.recipes import Recipe, load
from engine.config import Config, checked
from engine.errors import (
    EXIT_DONE,
    EXIT_INCOMPLETE,
    EXIT_TRY_AGAIN,
    ReelmineError,
    UnguardedError,
    UsageError,
)
from engine.job import Job, Questions
from engine.llm.endpoint import Endpoint, find_endpoint, open_client
from engine.loop import MARKER, WORKER, Loop, Setup, Signalled
from engine.media.find import Found, find_videos
from engine.pools import worker
from engine.pools.hardware import Hardware, snapshot
from engine.pools.local import hush_resource_tracker
from engine.pools.monitor import Monitor
from engine.pools.sizing import SlotPlan, Sizing, size
from engine.records import (
    Probe,
    Problem,
    RunReport,
    SpeechOptions,
    State,
    Video,
    VideoResult,
)
from engine.signals import caught
from engine.speech.models import ResolvedModel, catalogue, find_models_folder, resolve
from engine.store.files import (
    RunLock,
    ScratchFolder,
    check_writable,
    sweep_temporaries,
    write_atomic,
)
from engine.store.keys import digest, fingerprint
from engine.store.ledger import Ledger
from engine.store.shelf import Shelf

PHRASEBOOK = "phrasebook-en"  # below the models folder

OnEvent = Callable[[events.Event], None]


def run(
    paths: Sequence[str | os.PathLike[str]],
    config: Config | None = None,
    on_event: OnEvent | None = None,
) -> RunReport:
    """Transcribe and analyse; returns when everything has ended, with the exit code it deserves.

    The results in the report are without transcripts: those are in the files, and in the
    ``VideoFinished`` events. Raises UsageError and LockedError before anything is done.
    """
    return _run(paths, config or Config(), on_event or _ignore, None)


def stream(
    paths: Sequence[str | os.PathLike[str]],
    config: Config | None = None,
    on_event: OnEvent | None = None,
) -> Iterator[VideoResult]:
    """The same, in a thread of its own: yields each video's result, with its transcript.

    A slow consumer does not hold up the run. Closing the generator stops the run.
    """
    results: SimpleQueue[VideoResult | BaseException | None] = SimpleQueue()
    stop = _Stop()

    def tell(event: events.Event) -> None:
        if isinstance(event, events.VideoFinished):
            results.put(event.result)
        if on_event is not None:
            on_event(event)

    def work() -> None:
        try:
            _run(paths, config or Config(), tell, stop)
        except BaseException as error:  # noqa: BLE001 -- handed to the consumer, raised there
            results.put(error)
        else:
            results.put(None)

    thread = threading.Thread(target=work, name="reelmine-run")
    thread.start()
    try:
        while (result := results.get()) is not None:
            if isinstance(result, BaseException):
                raise result
            yield result
    finally:
        stop.now()
        thread.join()


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run would do, and why."""

    videos: tuple[Video, ...]
    done: int
    todo: int
    problems: tuple[Problem, ...]
    model: str
    model_note: str | None
    sizing: Sizing
    analysts: tuple[tuple[str, str, tuple[str, ...]], ...]  # recipe, who answers, hosts
    audio_seconds: float | None


def plan(paths: Sequence[str | os.PathLike[str]], config: Config | None = None) -> Plan:
    """What ``run`` would do; reads containers, loads no model, writes nothing but the ledger."""
    config = checked(config or Config())
    _check_options(config)
    with ExitStack() as stack:
        prepared = _prepare(paths, config, stack)
        todo = [job for job in prepared.jobs.values() if job.transcript is None]
        seconds = _audio_seconds([job.video for job in todo])
        return Plan(
            prepared.found.videos,
            len(prepared.done),
            len(prepared.jobs),
            prepared.found.problems,
            prepared.model.name,
            prepared.model.note,
            prepared.sizing,
            tuple((r.name, _answerer(prepared.endpoint), _hosts(prepared.endpoint)) for r in prepared.recipes),
            seconds,
        )


def check_slots(config: Config) -> list[tuple[SlotPlan, bool, str]]:
    """Open every slot of the sizing, one after the other, and hear the canary in each."""
    config = checked(config)
    hush_resource_tracker()
    model = resolve(config.model, _device_kind(config, snapshot()))
    sizing = size(snapshot(), config, _model_bytes(model))
    with ScratchFolder(config.scratch) as scratch:
        return [_check_slot(slot, model, scratch.path) for slot in sizing.slots]


# --- before the loop ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Prepared:
    found: Found
    model: ResolvedModel
    sizing: Sizing
    hardware: Hardware
    options: SpeechOptions
    recipes: Sequence[Recipe]
    endpoint: Endpoint | None
    ledger: Ledger
    shelf: Shelf
    jobs: Mapping[int, Job]
    done: Sequence[VideoResult]


def _prepare(
    paths: Sequence[str | os.PathLike[str]], config: Config, stack: ExitStack
) -> _Prepared:
    """Everything that can go wrong before a process starts goes wrong here."""
    recipes = [load(name) for name in config.recipe] if config.analysis else []
    endpoint = find_endpoint(config) if recipes else None
    _check_answerable(recipes, endpoint)
    check_writable(config.output)
    stack.enter_context(RunLock(config.output))
    sweep_temporaries(config.output)
    found = find_videos(paths, config.output)
    hardware = snapshot()
    ledger = Ledger(config.output)
    stack.callback(ledger.close)
    model = _model(config, hardware, ledger)
    options = _speech_options(config, model)
    sizing = size(hardware, config, _model_bytes(model))
    shelf = Shelf(
        config.output,
        ledger,
        config.output_format,
        {"name": model.name, "identity": model.identity, "encoder": "ctranslate2"},
        asdict(options) | {"analyses": _analyses(recipes, endpoint)},
    )
    jobs, done = _jobs(found.videos, shelf, recipes, _answerer(endpoint))
    return _Prepared(
        found, model, sizing, hardware, options, recipes, endpoint, ledger, shelf, jobs, done
    )


def _check_answerable(recipes: Sequence[Recipe], endpoint: Endpoint | None) -> None:
    unanswered = [recipe.name for recipe in recipes if recipe.needs_endpoint]
    if unanswered and endpoint is None:
        raise UsageError(
            f"The recipe {unanswered[0]} needs a language model: give --llm-model (and "
            "--llm-base-url for a server of your own); offline only expressions works."
        )


def _answerer(endpoint: Endpoint | None) -> str:
    return endpoint.model if endpoint else PhrasebookAnalyst.name


def _hosts(endpoint: Endpoint | None) -> tuple[str, ...]:
    return (endpoint.host,) if endpoint else ()


def _analyses(recipes: Sequence[Recipe], endpoint: Endpoint | None) -> dict[str, str]:
    """Recipe -> key of everything that changes its answers, beside the text."""
    if endpoint is None:
        book = find_models_folder() / PHRASEBOOK / "phrases.tsv"
        who = fingerprint(str(book), book.stat().st_size) if recipes else ""
    else:
        who = endpoint.model
    return {recipe.name: digest([recipe.digest, who]) for recipe in recipes}


def _analyst(
    prepared: "_Prepared", config: Config, stack: ExitStack
) -> tuple[Analyst | None, Callable[[], None]]:
    """Who answers, and how its calls are stopped; the client closes with the stack."""
    if not prepared.recipes:
        return None, lambda: None
    if prepared.endpoint is None:
        return PhrasebookAnalyst.load(find_models_folder() / PHRASEBOOK), lambda: None
    client = open_client(prepared.endpoint, config, prepared.sizing.llm_threads)
    stack.callback(client.close)
    return LlmAnalyst(client), client.stop


def _jobs(
    videos: Sequence[Video],
    shelf: Shelf,
    recipes: Sequence[Recipe],
    answerer: str,
) -> tuple[dict[int, Job], list[VideoResult]]:
    jobs: dict[int, Job] = {}
    done = []
    for number, video in enumerate(videos):
        standing = shelf.look(video)
        if standing.result is not None:
            done.append(standing.result)
            continue
        questions = [Questions(recipe, answerer) for recipe in recipes]
        job = Job(video, shelf.speech_key(video), questions)
        if standing.transcript is not None:
            job.decoded = standing.transcript.duration
            job.seal(standing.transcript)
        jobs[number] = job
    return jobs, done


def _model(config: Config, hardware: Hardware, ledger: Ledger) -> ResolvedModel:
    """The model asked for; without a name, the one this folder was begun with."""
    if config.model is None and (known := ledger.get("default_model")):
        return resolve(known, _device_kind(config, hardware))
    model = resolve(config.model, _device_kind(config, hardware))
    if config.model is None:
        ledger.set("default_model", model.name)
    return model


def _device_kind(config: Config, hardware: Hardware) -> str:
    if config.device == "auto":
        return "cuda" if hardware.gpus else "cpu"
    return config.device.split(":")[0]


def _model_bytes(model: ResolvedModel) -> int | None:
    try:
        return (model.path / "model.bin").stat().st_size
    except OSError:
        return None


def _check_options(config: Config) -> None:
    """Options that do not go together."""
    if config.mode == "sequential" and config.batch_size not in (None, 1):
        raise UsageError("--batch-size has no meaning with --mode sequential: leave it out.")


def _speech_options(config: Config, model: ResolvedModel) -> SpeechOptions:
    if not model.multilingual:
        if config.task == "translate":
            raise UsageError(
                f"The model {model.name} knows English only and cannot translate; use a "
                "multilingual one, for instance --model base."
            )
        if config.language not in (None, "en"):
            raise UsageError(
                f"The model {model.name} knows English only, not --language {config.language}; "
                "use a multilingual one, for instance --model base."
            )
    vad = config.vad_filter
    return SpeechOptions(
        mode=config.mode,
        language=config.language,
        task=config.task,
        initial_prompt=config.initial_prompt,
        hotwords=config.hotwords,
        beam_size=config.beam_size,
        word_timestamps=config.word_timestamps,
        vad_filter=config.mode == "batched" if vad is None else vad,
        audio_track=config.audio_track,
        compute_type=config.compute_type,
    )


# --- the run --------------------------------------------------------------------------------------


class _Stop:
    """Lets the owner of a streamed run end it, before or while its loop runs."""

    def __init__(self) -> None:
        self.asked = False
        self.queue: SimpleQueue[Any] | None = None

    def now(self) -> None:
        self.asked = True
        if self.queue is not None:
            self.queue.put(Signalled(None))


def _run(
    paths: Sequence[str | os.PathLike[str]],
    config: Config,
    tell: OnEvent,
    stop: _Stop | None,
) -> RunReport:
    _refuse_in_worker()
    config = checked(config)
    _check_options(config)
    hush_resource_tracker()
    began = time.monotonic()
    with ExitStack() as stack:
        prepared = _prepare(paths, config, stack)
        ledger = prepared.ledger
        ledger.begin_run()
        tell(_started(prepared))
        for notice in (ledger.notice, *(p.message for p in prepared.found.problems)):
            if notice:
                tell(events.Notice(notice))
        for result in prepared.done:
            tell(events.VideoFinished(result))
        results = list(prepared.done)
        loop = _loop(prepared, config, stack, _keeping(results, tell)) if prepared.jobs else None
        if loop is not None:
            if stop is not None:
                stop.queue = loop.queue
                if stop.asked:
                    stop.now()
            with caught(lambda number: loop.queue.put(Signalled(number))):
                loop.run()
                loop.unfinished()
            prepared.shelf.write_table(prepared.found.videos)
        report = _report(prepared, loop, results, time.monotonic() - began)
        ledger.end_run(report.exit_code)
        write_atomic(config.output / ".reelmine" / "last-run.json", _report_json(report))
    tell(events.RunFinished(report))
    return report


def _loop(
    prepared: _Prepared, config: Config, stack: ExitStack, tell: OnEvent
) -> Loop:
    scratch = stack.enter_context(ScratchFolder(config.scratch))
    words = ("meeting", "tuesday") if prepared.model.name in catalogue() else ()
    analyst, stop_calls = _analyst(prepared, config, stack)
    setup = Setup(
        config,
        prepared.options,
        prepared.model,
        prepared.sizing,
        analyst,
        prepared.endpoint is None,
        stop_calls,
        scratch.path,
        words,
    )
    loop = Loop(setup, prepared.jobs, prepared.shelf, prepared.ledger, tell)
    monitor = Monitor(loop.queue.put, gpus=prepared.hardware.gpus)
    monitor.start()
    stack.callback(monitor.close)
    return loop


def _keeping(results: list[VideoResult], tell: OnEvent) -> OnEvent:
    """Collect results for the report, without their transcripts and items: those are on disk."""

    def keep(event: events.Event) -> None:
        if isinstance(event, events.VideoFinished):
            results.append(_bare(event.result))
        tell(event)

    return keep


def _bare(result: VideoResult) -> VideoResult:
    return VideoResult(
        result.video, result.state, result.problem, None, (), result.files, result.resumed
    )


def _started(prepared: _Prepared) -> events.RunStarted:
    return events.RunStarted(
        len(prepared.found.videos),
        len(prepared.jobs),
        None,
        tuple(slot.device for slot in prepared.sizing.slots),
        prepared.model.name,
        prepared.model.note,
    )


def _refuse_in_worker() -> None:
    """A worker that imports an unguarded script must not start a run of its own."""
    scratch = os.environ.get(WORKER)
    if scratch:
        Path(scratch, MARKER).touch()
        sys.stderr.flush()
        os._exit(UnguardedError.exit_code)


def _ignore(event: events.Event) -> None:
    """Nobody listens."""


# --- after the loop -------------------------------------------------------------------------------


def _report(
    prepared: _Prepared, loop: Loop | None, results: Sequence[VideoResult], seconds: float
) -> RunReport:
    order = {video.name: number for number, video in enumerate(prepared.found.videos)}
    results = sorted(results, key=lambda result: order[result.video.name])
    audio = loop.audio_done if loop else 0.0
    figures: dict[str, Any] = {
        "seconds": round(seconds, 3),
        "audio_seconds": round(audio, 3),
        "times_real_time": round(audio / seconds, 2) if audio else None,
        "states": {
            state.value: count
            for state in State
            if (count := sum(result.state is state for result in results))
        },
        "resumed": len(prepared.done),
        "batch_fill": loop.batch_fill if loop else None,
        "overruns": loop.overruns if loop else 0,
    }
    problems = list(prepared.found.problems)
    if loop is not None:
        problems += [p for p in (loop.endpoint, loop.gave_up) if p is not None]
        if loop.disk is not None:
            problems.append(loop.disk.problem)
    return RunReport(
        _exit_code(prepared, loop, results), tuple(results), tuple(problems), figures
    )


def _exit_code(
    prepared: _Prepared, loop: Loop | None, results: Sequence[VideoResult]
) -> int:
    if loop is not None:
        if loop.stopped_by is not None:
            return 128 + loop.stopped_by
        if loop.out_of_time and any(r.state is State.INTERRUPTED for r in results):
            return EXIT_TRY_AGAIN
        if loop.gave_up is not None and loop.gave_up.code == "E_WORKER_DIED":
            return EXIT_TRY_AGAIN
    bad = (State.FAILED, State.TIMED_OUT, State.INTERRUPTED)
    if prepared.found.problems or any(result.state in bad for result in results):
        return EXIT_INCOMPLETE
    return EXIT_DONE


def _report_json(report: RunReport) -> bytes:
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


# --- single calls to a worker ---------------------------------------------------------------------


def _audio_seconds(videos: Sequence[Video]) -> float | None:
    """Seconds of audio in these videos as their containers declare; None if one does not say."""
    if not videos:
        return 0.0
    found = worker.probe_apart(tuple(video.path for video in videos))
    lengths = [probe.duration for probe in found if isinstance(probe, Probe)]
    return None if None in lengths else sum(length or 0.0 for length in lengths)


def _check_slot(slot: SlotPlan, model: ResolvedModel, scratch: Path) -> tuple[SlotPlan, bool, str]:
    raise ReelmineError("not yet")
