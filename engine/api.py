"""The ways into the engine: ``run``, ``stream``, ``plan`` and ``check_slots``.

``run`` works in the calling thread and returns a report; ``stream`` works in a thread it owns and
yields each video's result as it completes; ``plan`` says what a run would do and why.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from engine import events
from engine.analysis.analysts import PhrasebookAnalyst
from engine.batches import MARKER
from engine.config import Config, checked
from engine.errors import EXIT_INCOMPLETE, DiskError, ReelmineError, UnguardedError
from engine.loop import Loop, Setup, Signalled
from engine.orders import SpeechSetup
from engine.output.results import read_result_json
from engine.planning import Plan, plan
from engine.pools import slot_worker
from engine.pools.crew import RUN, environment
from engine.pools.fitting import Fit
from engine.pools.gpus import left_unused
from engine.pools.hardware import snapshot
from engine.pools.local import call_once, hush_resource_tracker
from engine.pools.monitor import Monitor
from engine.pools.scratch import windows_that_may_wait
from engine.pools.sizing import SlotPlan
from engine.records import Problem, RunReport, VideoResult
from engine.report import report_json, report_of
from engine.setup import (
    Prepared,
    device_kind,
    model_bytes,
    open_answerer,
    prepare,
    size_with_encoder,
)
from engine.signals import caught
from engine.speech.encoders import Encoder
from engine.speech.models import ResolvedModel, catalogue, here
from engine.store import fitted
from engine.store.files import ScratchFolder, write_atomic
from engine.store.recording import write_recording

__all__ = ["Plan", "check_slots", "plan", "run", "stream"]

OnEvent = Callable[[events.Event], None]
Paths = Sequence[str | os.PathLike[str]]

CANARY_WORDS = ("meeting", "tuesday")  # in the speech that every catalogue model must understand


def run(paths: Paths, config: Config | None = None, on_event: OnEvent | None = None) -> RunReport:
    """Transcribe and analyse; returns when everything has ended, with the exit code it deserves.

    The report's results are without transcripts: those are in the files and in the events. Raises
    UsageError or LockedError before anything is done.
    """
    return _run(paths, config or Config(), on_event or _ignore, _Stop())


def stream(
    paths: Paths, config: Config | None = None, on_event: OnEvent | None = None
) -> Iterator[VideoResult]:
    """The same in a thread of its own: yields each video's result, with transcript and analyses.

    Videos that were done before come first, read from their files. A slow consumer does not hold up
    the run; closing the generator stops it. ``on_event`` is called in the run's thread.
    """
    results: SimpleQueue[VideoResult | BaseException | None] = SimpleQueue()
    stop = _Stop()

    def tell(event: events.Event) -> None:
        if isinstance(event, events.VideoFinished):
            results.put(event.result)  # one that was done before is read when it is asked for
        if on_event is not None:
            on_event(event)

    def work() -> None:
        try:
            _run(paths, config or Config(), tell, stop)
        except BaseException as error:  # noqa: BLE001 -- the consumer's thread raises it
            results.put(error)
        else:
            results.put(None)

    thread = threading.Thread(target=work, name="reelmine-run")
    thread.start()
    try:
        while (result := results.get()) is not None:
            if isinstance(result, BaseException):
                raise result
            yield _read_back(result) if result.resumed else result
    finally:
        stop.now()
        thread.join()


def _read_back(result: VideoResult) -> VideoResult:
    """A result that was there before the run, whole."""
    stored = read_result_json(Path(result.files[0]).read_bytes())
    return replace(result, transcript=stored.transcript, analyses=stored.analyses)


def check_slots(config: Config) -> list[tuple[SlotPlan, bool, str]]:
    """Open every slot there would be, one after the other: whether it works, and a sentence.

    Fetches nothing: ModelError if the model, or without a name every default, is not here.
    """
    config = checked(config)
    hush_resource_tracker()
    hardware = snapshot()
    model = here(config.model, device_kind(config, hardware))
    fits, _ = fitted.recall(model.identity, config.compute_type)
    sizing, encoder = size_with_encoder(config, hardware, model, fits)
    with ScratchFolder(config.scratch) as scratch:
        return [_check_slot(slot, model, encoder, scratch.path) for slot in sizing.slots]


class _Stop:
    """Lets the owner of a streamed run end it, before or while its loop runs."""

    def __init__(self) -> None:
        self._asked = False
        self._queue: SimpleQueue[Any] | None = None

    def attach(self, queue: "SimpleQueue[Any]") -> None:
        self._queue = queue
        if self._asked:
            self.now()

    def now(self) -> None:
        self._asked = True
        if self._queue is not None:
            self._queue.put(Signalled(None))


def _run(paths: Paths, config: Config, tell: OnEvent, stop: _Stop) -> RunReport:
    _refuse_in_worker()
    config = checked(config)
    hush_resource_tracker()
    began = time.monotonic()
    with ExitStack() as stack:
        ready = prepare(
            paths, config, stack, on_fetch=lambda done, total: tell(events.Fetching(done, total))
        )
        ready.ledger.begin_run()
        _announce(ready, tell)
        results = list(ready.done)
        loop = None
        if ready.jobs:
            loop = _loop(ready, config, stack, _keeping(results, tell))
            stop.attach(loop.queue)
            with caught(lambda number: loop.queue.put(Signalled(number))):
                loop.run()
            loop.unfinished()
            _remember(ready, loop, config, tell)
        trouble = (
            *_trouble_of(
                lambda: ready.shelf.write_table(ready.found.videos, changed=bool(ready.jobs))
            ),
            *_trouble_of(lambda: _record(ready, config.record, tell)),
        )
        report = report_of(ready, loop, results, time.monotonic() - began, trouble)
        report = _write_report(config.output, report)
        ready.ledger.end_run(report.exit_code)
    tell(events.RunFinished(report))
    return report


def _trouble_of(write: Callable[[], None]) -> tuple[Problem, ...]:
    try:
        write()
    except DiskError as error:
        return (error.problem,)
    return ()


def _record(ready: Prepared, path: Path | None, tell: OnEvent) -> None:
    """For ``--record``: what the ledger holds of language models, in one file."""
    if path is None:
        return
    replies = ready.ledger.replies()
    write_recording(path, (r for r in replies if r.model != PhrasebookAnalyst.name))
    if unnamed := ready.ledger.unnamed_replies:
        tell(
            events.Notice(
                f"{unnamed} replies are from before it was kept which model gave them: {path} "
                "lacks them."
            )
        )


def _write_report(output: Path, report: RunReport) -> RunReport:
    """``last-run.json``; the report that is returned says so if it could not be written."""
    try:
        write_atomic(output / ".reelmine" / "last-run.json", report_json(report))
    except DiskError as error:
        code = report.exit_code or EXIT_INCOMPLETE
        return replace(report, exit_code=code, problems=(*report.problems, error.problem))
    return report


def _refuse_in_worker() -> None:
    """A worker that imports an unguarded script must not start a run of its own.

    It leaves a mark for the run that started it, which then raises UnguardedError.
    """
    scratch = os.environ.get(RUN)
    if scratch:
        with suppress(OSError):  # the run may have heard of it already, and be gone
            Path(scratch, MARKER).touch()
        os._exit(UnguardedError.exit_code)


def _remember(ready: Prepared, loop: Loop, config: Config, tell: OnEvent) -> None:
    """What fitted where memory was too small for the plan, for the next run; the least of each."""
    fits: dict[str, Fit] = {}
    for device, (batch, compute_type) in sorted(loop.batches.shortage.found.items()):
        if device.startswith("cuda"):
            gpu = ready.hardware.gpus[int(device.partition(":")[2].partition(".")[0])]
            known = fits.get(gpu.name)
            if known is None or batch < known.batch_size:
                fits[gpu.name] = Fit(batch, compute_type, gpu.free)
    if fits:
        note = fitted.remember(ready.model.identity, config.compute_type, fits)
        if note is not None:
            tell(events.Notice(note))


def _announce(ready: Prepared, tell: OnEvent) -> None:
    tell(
        events.RunStarted(
            len(ready.found.videos),
            len(ready.jobs),
            tuple(slot.device for slot in ready.sizing.slots),
            ready.model.name,
            ready.model.note,
        )
    )
    if ready.ledger.notice:
        tell(events.Notice(ready.ledger.notice))
    for sentence in _about_slots(ready) if ready.transcribes else ():
        tell(events.Notice(sentence))
    if ready.jobs:  # else the table, which names them too, comes at once
        for problem in ready.found.problems:
            tell(events.Notice(problem.message))
    for result in ready.done:
        tell(events.VideoFinished(result))


def _about_slots(ready: Prepared) -> Iterator[str]:
    """What of the machine is not used although it could be."""
    yield from left_unused(ready.hardware.notes)
    yield from ready.sizing.left_out
    if ready.encoder.second_best:
        yield f"The encoder is {ready.encoder.name}: {ready.encoder.why}"


def _loop(ready: Prepared, config: Config, stack: ExitStack, tell: OnEvent) -> Loop:
    scratch, slots = stack.enter_context(ScratchFolder(config.scratch)), ready.sizing.slots
    rows = config.mode == "batched"  # in sequential mode there are none
    speech = SpeechSetup(
        ready.options,
        ready.model,
        CANARY_WORDS if ready.model.name in catalogue() else (),
        ready.encoder,
        slots,
        scratch.path,
        windows_that_may_wait(slots, ready.model.mels, scratch.free, scratch.path)
        if rows
        else None,
        None if config.batch_size else model_bytes(ready.model),
    )
    answerer = open_answerer(ready, config, stack)
    setup = Setup(config, speech, ready.sizing, answerer, ready.hardware.memory)
    loop = Loop(setup, ready.jobs, ready.shelf, ready.ledger, tell)
    monitor = Monitor(loop.queue.put, gpus=ready.hardware.gpus)
    monitor.start()
    stack.callback(monitor.close)
    return loop


def _keeping(results: list[VideoResult], tell: OnEvent) -> OnEvent:
    """Collect results for the report, without transcripts and items, which would fill memory."""

    def keep(event: events.Event) -> None:
        if isinstance(event, events.VideoFinished):
            full = event.result
            results.append(VideoResult(full.video, full.state, full.problem, files=full.files))
        tell(event)

    return keep


def _check_slot(
    slot: SlotPlan, model: ResolvedModel, encoder: Encoder, scratch: Path
) -> tuple[SlotPlan, bool, str]:
    spec = slot_worker.SlotSpec(
        model.path,
        slot.device.split(":")[0],
        slot.compute_type,
        slot.threads,
        CANARY_WORDS if model.name in catalogue() else (),
        encoder,
    )
    try:
        info: slot_worker.SlotInfo = call_once(
            environment(scratch, slot.threads, slot.pin), slot_worker.open_slot, spec
        )
    except (ReelmineError, RuntimeError, ValueError, OSError) as error:
        return slot, False, f"{model.name} cannot be used there: {error}"
    sentence = (
        f"{model.name} in {info.compute_type}, encoder {encoder.name}, understands the canary in "
        f"{info.canary_seconds:.2f} s, {info.memory / 2**20:.0f} MiB."
    )
    return slot, True, sentence


def _ignore(event: events.Event) -> None:
    """Nobody listens."""
