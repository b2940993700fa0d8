"""The loop: one thread that decides everything, and sleeps in one place.

Every future's callback, the signal handlers and the monitor only put into one queue. The loop takes
all that is there, tells the schedule and the jobs, commits the ledger once, and then acts: submits,
kills, calls, files.

| thing                                 | owner            | ends when                              |
| ------------------------------------- | ---------------- | -------------------------------------- |
| this loop, ledger, deadlines          | the calling thread | nothing left, or stop                |
| a worker process per slot             | pools/local.py   | closed, or killed by pid and rebuilt   |
| preparation workers                   | pools/local.py   | same                                   |
| LLM threads                           | pools/threads.py | closed; no call outlives its deadline  |
| sampling thread                       | pools/monitor.py | closed and joined                      |
| model in memory                       | its slot         | the process ends                       |
"""

import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from engine import events, schedule
from engine.analysis import analysts
from engine.config import Config
from engine.errors import (
    CallStopped,
    CallTimeout,
    DiskError,
    EndpointError,
    ReelmineError,
    UnguardedError,
)
from engine.job import Job
from engine.pools import worker
from engine.pools.local import Outcome, Worker
from engine.pools.monitor import Sample
from engine.pools.sizing import Sizing
from engine.pools.threads import CallOutcome, CallPool
from engine.records import (
    Chunk,
    ChunkResult,
    Probe,
    Problem,
    Reply,
    SpeechOptions,
    State,
    VideoResult,
    WindowResult,
)
from engine.schedule import CallKey
from engine.speech.models import ResolvedModel
from engine.store.ledger import Ledger
from engine.store.shelf import Shelf

log = logging.getLogger(__name__)

PIECE = 60.0  # seconds of audio that preparation decodes at a time
STEP = 30.0  # seconds of a file that sequential mode decodes at a time
NICE = 5  # preparation gives way to the slots
MARKER = "unguarded"  # left in scratch by a worker that finds itself running the user's script
WORKER = "_REELMINE_RUN"  # in a worker's environment: its run's scratch folder
REFUSALS = 3  # calls in a row that cannot connect before the endpoint counts as gone


@dataclass(frozen=True, slots=True)
class Setup:
    """Everything that is decided before the first process starts."""

    config: Config
    options: SpeechOptions
    model: ResolvedModel
    sizing: Sizing
    analyst: analysts.Analyst | None  # None: no analysis is wanted
    english_only: bool  # of the analyst
    stop_calls: Callable[[], None]  # ends the calls under way, soon
    scratch: Path
    canary_words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Signalled:
    """A signal has arrived; ``None``: the run's owner wants it to stop now."""

    number: int | None


class Loop:
    """One run over jobs; ``run`` returns when all have ended or it was stopped."""

    def __init__(
        self,
        setup: Setup,
        jobs: Mapping[int, Job],
        shelf: Shelf,
        ledger: Ledger,
        tell: Callable[[events.Event], None],
    ) -> None:
        self.queue: SimpleQueue[Any] = SimpleQueue()
        self.stopped_by: int | None = None
        self.out_of_time = False
        self.gave_up: Problem | None = None
        self.disk: ReelmineError | None = None
        self.endpoint: Problem | None = None
        self.audio_done = 0.0
        self._setup = setup
        self._jobs = dict(jobs)
        self._shelf = shelf
        self._ledger = ledger
        self._tell = tell
        todo = [number for number, job in jobs.items() if job.transcript is None]
        self._schedule = schedule.Schedule(
            {slot.device: slot.batch_size for slot in setup.sizing.slots} if todo else {},
            setup.sizing.preparation if todo else 0,
            setup.sizing.llm_threads,
            todo,
            sequential=setup.options.mode == "sequential",
        )
        self._workers = {
            name: Worker(name, self._environment(name), self.queue, 0 if place.is_slot else NICE)
            for name, place in self._schedule.places.items()
        }
        self._pending: dict[tuple[str, int, int], tuple[str, Any, float]] = {}
        self._calls = CallPool(
            max(1, setup.sizing.llm_threads), setup.config.call_timeout, self.queue
        )
        self._chunks: dict[CallKey, Chunk] = {}
        self._cached: dict[int, dict[int, WindowResult]] = {}
        self._refused = 0
        self._drain_until: float | None = None
        self._actions: list[schedule.Action] = []
        self._began = time.monotonic()

    # the loop

    def run(self) -> None:
        """Until every job has ended, or a stop."""
        try:
            for number, job in list(self._jobs.items()):
                if job.transcript is not None:
                    self._grown(number, job)
            self._step(schedule.Begin())
            self._turn_over()
            while not self._over():
                self._turn(self._wait())
        finally:
            self._close()

    def _over(self) -> bool:
        if not self._jobs:
            return True
        if self._drain_until is not None:
            return self._schedule.idle or time.monotonic() >= self._drain_until
        if self.gave_up is not None and self._schedule.idle:
            return True
        if self._schedule.idle and self.queue.empty() and not self._opening():
            left = ", ".join(job.video.name for job in self._jobs.values())
            raise RuntimeError(f"nothing is under way, but these have not ended: {left}")
        return False

    def _opening(self) -> bool:
        return any(
            place.phase is schedule.Phase.OPENING for place in self._schedule.places.values()
        )

    def _wait(self) -> list[Any]:
        """All that has happened, or nothing if a deadline came first."""
        deadlines = [
            self._schedule.next_deadline,
            self._calls.next_deadline,
            self._drain_until,
            self._time_limit,
        ]
        until = min((d for d in deadlines if d is not None), default=None)
        timeout = None if until is None else max(0.0, until - time.monotonic())
        happened = []
        with suppress(Empty):
            happened.append(self.queue.get(timeout=timeout))
            while True:
                happened.append(self.queue.get_nowait())
        return happened

    @property
    def _time_limit(self) -> float | None:
        limit = self._setup.config.time_limit
        if limit is None or self._drain_until is not None:
            return None
        return self._began + max(0.0, limit - self._setup.config.grace)

    def _turn(self, happened: Sequence[Any]) -> None:
        for thing in happened:
            match thing:
                case Outcome():
                    self._came_back(thing)
                case CallOutcome():
                    if self._calls.ended(thing):
                        self._call_ended(thing.key, thing.reply, thing.error, thing.began)
                case Signalled(number):
                    self._signalled(number)
                case Sample():
                    self._sampled(thing)
        self._deadlines()
        self._turn_over()

    def _turn_over(self) -> None:
        """One commit, then what follows from it."""
        while True:
            self._ledger.commit()
            actions, self._actions = self._actions, []
            for action in actions:
                self._act(action)
            ended = [number for number, job in self._jobs.items() if job.complete]
            for number in ended:
                self._finish(number)
            if not self._actions and not ended:
                return

    def _step(self, event: schedule.Event) -> None:
        self._actions += self._schedule.step(event, time.monotonic())

    def _deadlines(self) -> None:
        now = time.monotonic()
        due = self._schedule.next_deadline
        if due is not None and now >= due:
            self._step(schedule.Tick())
        for key in self._calls.overdue(now):
            self._call_ended(key, None, CallTimeout(), now)
        limit = self._time_limit
        if limit is not None and now >= limit:
            self.out_of_time = True
            self._drain()

    # what came back from a worker

    def _came_back(self, outcome: Outcome) -> None:
        if outcome.generation != self._workers[outcome.place].generation:
            return  # of a process that is gone; the schedule has dealt with it
        what, about, began = self._pending.pop(
            (outcome.place, outcome.generation, outcome.call), ("", None, 0.0)
        )
        if outcome.died:
            self._worker_died(outcome.place, what)
        elif outcome.error is not None:
            self._worker_raised(outcome.place, what, about, outcome.error)
        else:
            self._worker_answered(outcome.place, what, about, began, outcome.value)

    def _worker_died(self, place: str, doing: str) -> None:
        if (self._setup.scratch / MARKER).exists():
            raise UnguardedError()
        self._workers[place].forget()
        problem = Problem(
            "E_WORKER_DIED",
            f"The worker process {place} died during {doing or 'its work'} (killed, or out of "
            "memory).",
        )
        self._ledger.note("died", problem.message, place=place)
        self._tell(events.SlotChanged(place, "died"))
        self._step(schedule.Died(place, problem))

    def _worker_raised(self, place: str, what: str, about: Any, error: BaseException) -> None:
        problem = (
            error.problem
            if isinstance(error, ReelmineError)
            else Problem("E_WORKER", f"{what} failed in {place}: {_sentence(error)}")
        )
        log.warning("%s failed in %s", what, place, exc_info=error)
        self._ledger.note(what, problem.message, place=place)
        match what:
            case "hello" | "open":
                self._step(schedule.CannotOpen(place, problem))
            case "batch":
                self._step(schedule.Refused(place, about[0], problem))
            case "probe":
                for video in about:
                    self._fail(video, problem)
                self._step(schedule.Probed(place, {}))
            case _:
                self._fail(about, problem)
                self._step(schedule.Broken(place, about))

    def _worker_answered(
        self, place: str, what: str, about: Any, began: float, value: Any
    ) -> None:
        match what:
            case "hello":
                self._workers[place].pid = value
                self._open(place)
            case "open":
                self._opened(place, value, began)
            case "probe":
                self._probed(place, about, value)
            case "prepare":
                self._prepared(place, about, value)
            case "batch":
                self._decoded(place, *about, value, began)
            case "advance":
                self._advanced(place, about, value, began)

    def _open(self, place: str) -> None:
        if not self._schedule.places[place].is_slot:
            self._step(schedule.Ready(place))
            return
        plan = next(slot for slot in self._setup.sizing.slots if slot.device == place)
        spec = worker.SlotSpec(
            self._setup.model.path,
            "cuda" if place.startswith("cuda") else "cpu",
            plan.compute_type,
            plan.threads,
            self._setup.canary_words,
        )
        self._submit(place, "open", None, worker.open_slot, spec)

    def _opened(self, place: str, info: worker.SlotInfo, began: float) -> None:
        self._ledger.note("open", info.compute_type, place=place, began=began)
        self._tell(events.SlotChanged(place, "idle"))
        self._step(schedule.Ready(place, info.canary_seconds))

    def _probed(
        self, place: str, videos: Sequence[int], found: Sequence[Probe | Problem]
    ) -> None:
        seconds: dict[int, float | None] = {}
        for number, probe in zip(videos, found, strict=True):
            problem = probe if isinstance(probe, Problem) else self._unfit(probe)
            if problem is not None:
                self._fail(number, problem)
            elif isinstance(probe, Probe) and number in self._jobs:
                seconds[number] = probe.duration
                self._jobs[number].declared = probe.duration
        self._step(schedule.Probed(place, seconds))

    def _unfit(self, probe: Probe) -> Problem | None:
        """Batched mode without voice activity takes only what fits one window."""
        options = self._setup.options
        if options.mode == "sequential" or options.vad_filter:
            return None
        if probe.duration is None or probe.duration < STEP:
            return None
        return Problem(
            "E_USAGE",
            f"It lasts {probe.duration:.0f} s, and without --vad-filter batched mode takes at most "
            "30 s: leave the filter on or use --mode sequential.",
        )

    def _prepared(self, place: str, video: int, prepared: worker.Prepared | Problem) -> None:
        job = self._jobs.get(video)
        if isinstance(prepared, Problem):
            self._fail(video, prepared)
            self._step(schedule.Broken(place, video))
            return
        if job is None:
            self._step(schedule.Windows(place, video, (), prepared.ended, True))
            return
        job.decoded, job.speech = prepared.decoded, prepared.speech
        job.declared = prepared.declared if prepared.declared is not None else job.declared
        new = job.add_windows(prepared.windows, ended=prepared.ended)
        cached = self._cached.get(video, {})
        for window in new:
            if window.position in cached:
                job.add_result(cached[window.position])
        waiting = tuple(w.position for w in new if w.position not in cached)
        self._grown(video, job)
        self._step(
            schedule.Windows(place, video, waiting, prepared.ended, self._knows_language(job))
        )

    def _knows_language(self, job: Job) -> bool:
        return (
            self._setup.options.language is not None
            or job.language is not None
            or not self._setup.model.multilingual
        )

    def _decoded(
        self,
        place: str,
        batch: int,
        units: Sequence[schedule.Unit],
        result: worker.BatchResult,
        began: float,
    ) -> None:
        grown: dict[int, Job] = {}
        for (video, position), window in zip(units, result.results, strict=True):
            job = self._jobs.get(video)
            if job is None:
                continue
            self._ledger.add_window(job.speech_key, window)
            job.add_result(window)
            with suppress(OSError):  # scratch goes at the end anyway
                os.unlink(job.windows[position].row)
            grown[video] = job
        self._ledger.note("batch", f"{len(units)} windows", place=place, began=began)
        for video, job in grown.items():
            if job.language is not None:
                self._schedule.language_known(video)
            self._grown(video, job)
        if not self._schedule.places[place].batches[1:]:
            self._tell(events.SlotChanged(place, "idle"))
        self._step(schedule.Decoded(place, batch, result.seconds))

    def _advanced(
        self, place: str, video: int, step: worker.Advance | Problem, began: float
    ) -> None:
        job = self._jobs.get(video)
        if isinstance(step, Problem):
            self._fail(video, step)
            self._step(schedule.Broken(place, video))
            return
        if job is not None:
            job.add_segments(step.segments)
            job.decoded, job.declared = step.decoded, step.declared
            if step.ended:
                job.seal_stream(step.language, step.language_probability, step.speech)
            self._grown(video, job)
        self._ledger.note("advance", f"{len(step.segments)} segments", place=place, began=began)
        self._step(schedule.Advanced(place, video, step.ended, step.seconds))

    # what a video has become

    def _grown(self, number: int, job: Job) -> None:
        """New sealed text: files if it is all there, and the chunks it decides."""
        if job.transcript is not None and number in self._cached:
            del self._cached[number]
        self._skip_foreign(job)
        if job.transcript is not None:
            self._save(job, final=False)
        done = job.decoded if job.transcript is not None else job.sealed_seconds
        self._tell(events.VideoProgress(job.video, done, job.declared))
        for recipe, chunk in job.new_chunks():
            self._ask(number, job, recipe, chunk)

    def _skip_foreign(self, job: Job) -> None:
        """The phrasebook reads English only."""
        spoken = job.transcript.language if job.transcript else job.language
        english = spoken in (None, "", "en") or self._setup.options.task == "translate"
        if english or not self._setup.english_only:
            return
        problem = Problem(
            "E_LANGUAGE",
            f"The transcript is not in English ({spoken}), and the offline phrasebook knows only "
            "English: use --llm-model with an endpoint.",
        )
        for recipe in job.questions:
            job.skip(recipe, problem)

    def _ask(self, number: int, job: Job, recipe: str, chunk: Chunk) -> None:
        """A reply paid for before, or a call."""
        question, analyst = job.questions[recipe], self._setup.analyst
        assert analyst is not None
        if self.endpoint is not None:
            job.add_chunk(recipe, ChunkResult(chunk.index, State.FAILED, problem=self.endpoint))
            return
        known = self._ledger.reply(analyst.key(question.recipe, chunk))
        if known is not None:
            job.add_chunk(recipe, analysts.result(question.recipe, chunk, known))
            return
        key = number, recipe, chunk.index
        self._chunks[key] = chunk
        self._step(schedule.ChunkReady(key))
        self._llm_changed()

    def _call_ended(
        self, key: CallKey, reply: Any, error: BaseException | None, began: float
    ) -> None:
        number, recipe, index = key
        self._step(schedule.CallEnded(key))
        job, chunk = self._jobs[number], self._chunks.pop(key)
        if isinstance(error, CallStopped):
            return  # the run ends; the chunk stays open
        if error is None:
            self._refused = 0
            result = self._keep_reply(job, recipe, chunk, reply)
        else:
            result = ChunkResult(index, _state_of(error), problem=_problem_of(error))
            log.info("chunk %d of %s failed", index, job.video.name, exc_info=error)
            self._endpoint_trouble(error)
        outcome = result.problem.code if result.problem else "done"
        self._ledger.note("call", outcome, place=recipe, video=job.video.name, began=began)
        job.add_chunk(recipe, result)
        self._tell(events.CallFinished(job.video, recipe, index, result.state))
        self._llm_changed()

    def _keep_reply(self, job: Job, recipe: str, chunk: Chunk, reply: Reply) -> ChunkResult:
        assert self._setup.analyst is not None
        asked = job.questions[recipe].recipe
        self._ledger.add_reply(self._setup.analyst.key(asked, chunk), reply)
        return analysts.result(asked, chunk, reply)

    def _endpoint_trouble(self, error: BaseException) -> None:
        """A wrong key, or nobody there: stop asking, go on transcribing."""
        self._refused += _problem_of(error).code == "E_LLM_CONNECT"
        if self.endpoint is None and (
            isinstance(error, EndpointError) or self._refused >= REFUSALS
        ):
            self.endpoint = _problem_of(error)
            self._tell(
                events.Notice(
                    f"{self.endpoint.message} No further calls are made; transcription goes on, "
                    "and the same command later does the missing analysis."
                )
            )
            for key in self._schedule.stop_calls():
                number, recipe, index = key
                del self._chunks[key]
                self._jobs[number].add_chunk(
                    recipe, ChunkResult(index, State.FAILED, problem=self.endpoint)
                )

    def _llm_changed(self) -> None:
        self._tell(
            events.LlmChanged(len(self._schedule.calls_under_way), self._schedule.waiting_calls)
        )

    def _save(self, job: Job, *, final: bool) -> tuple[str, ...]:
        try:
            return self._shelf.write(job, final=final)
        except DiskError as error:
            self.disk = error
            job.fail(error.problem)
            self._drain()
            return ()

    def _fail(self, number: int, problem: Problem) -> None:
        if number in self._jobs:
            self._jobs[number].fail(problem)
            self._schedule.drop(number)

    def _finish(self, number: int) -> None:
        """A job has ended: its last files, its row, its event; then it is forgotten."""
        job = self._jobs[number]
        files = self._save(job, final=True) if job.state is not State.FAILED else ()
        result = job.result(files)
        self._shelf.record(job, result)
        self._ledger.commit()
        self.audio_done += job.decoded
        del self._jobs[number]
        shutil.rmtree(self._setup.scratch / str(number), ignore_errors=True)
        self._tell(events.VideoFinished(result))

    # acting

    def _act(self, action: schedule.Action) -> None:
        match action:
            case schedule.Start(place):
                self._tell(events.SlotChanged(place, "opening"))
                self._submitted(place, "hello", None, self._workers[place].start())
            case schedule.Kill(place, problem):
                self._ledger.note("kill", problem.message, place=place)
                self._workers[place].kill()
            case schedule.Probe(place, videos):
                paths = tuple(self._jobs[number].video.path for number in videos)
                self._submit(place, "probe", videos, worker.probe, paths)
            case schedule.Prepare(place, video, count):
                self._prepare(place, video, count)
            case schedule.Decode(place, batch, units):
                self._decode(place, batch, units)
            case schedule.Advance(place, video, restart):
                self._advance(place, video, restart=restart)
            case schedule.Call(key):
                self._call(key)
            case schedule.Fail(video, problem):
                self._fail(video, problem)
            case schedule.GiveUp(problem):
                self.gave_up = problem
                self._tell(events.Notice(problem.message))

    def _submit(self, place: str, what: str, about: Any, function: Any, *args: Any) -> None:
        self._submitted(place, what, about, self._workers[place].submit(function, *args))

    def _submitted(self, place: str, what: str, about: Any, call: int) -> None:
        key = place, self._workers[place].generation, call
        self._pending[key] = what, about, time.monotonic()

    def _prepare(self, place: str, video: int, count: int) -> None:
        job, options = self._jobs[video], self._setup.options
        if video not in self._cached:
            self._cached[video] = self._ledger.windows(job.speech_key)
        if not job.windows:
            self._tell(events.VideoStarted(job.video))
        spec = worker.PrepareSpec(
            job.video.path,
            options.audio_track,
            options.vad_filter,
            self._setup.model.mels,
            self._setup.scratch / str(video),
            frozenset(job.windows) | frozenset(self._cached[video]),
            PIECE,
        )
        self._tell(events.SlotChanged(place, f"preparing {job.video.name}"))
        self._submit(place, "prepare", video, worker.prepare, spec, count)

    def _decode(self, place: str, batch: int, units: Sequence[schedule.Unit]) -> None:
        rows = tuple(
            worker.Row(
                video,
                self._jobs[video].windows[position],
                self._setup.options.language or self._jobs[video].language,
            )
            for video, position in units
        )
        first = self._jobs[units[0][0]].video.name
        self._tell(events.SlotChanged(place, f"{len(units)} windows of {first}"))
        self._submit(
            place, "batch", (batch, units), worker.transcribe, rows, self._setup.options
        )

    def _advance(self, place: str, video: int, *, restart: bool) -> None:
        job = self._jobs[video]
        if restart:
            job.restart()
            self._tell(events.VideoStarted(job.video))
        self._tell(events.SlotChanged(place, f"{job.video.name}"))
        self._submit(
            place,
            "advance",
            video,
            worker.advance,
            job.video.path,
            self._setup.options,
            STEP,
            restart,
        )

    def _call(self, key: CallKey) -> None:
        number, recipe, index = key
        chunk, asked = self._chunks[key], self._jobs[number].questions[recipe].recipe
        analyst = self._setup.analyst
        assert analyst is not None
        self._tell(events.CallStarted(self._jobs[number].video, recipe, index))
        self._calls.submit(key, lambda: analyst.call(asked, chunk))

    # the end

    def _signalled(self, number: int | None) -> None:
        if number is not None and self.stopped_by is None:
            self.stopped_by = number
            self._tell(
                events.Notice(
                    f"Stopping: what is under way may end within {self._setup.config.grace:g} s; "
                    "a second signal stops at once. The same command goes on later."
                )
            )
            self._drain()
        else:  # a second signal, or the owner of the run is gone
            self._drain()
            self._drain_until = time.monotonic()

    def _drain(self) -> None:
        if self._drain_until is None:
            self._drain_until = time.monotonic() + self._setup.config.grace
            self._step(schedule.Drain())

    def _close(self) -> None:
        """Everything of the run ends here, whatever happened."""
        if self._schedule.calls_under_way:
            self._setup.stop_calls()
        for member in self._workers.values():
            if self._pending_in(member):
                member.kill()
        for member in self._workers.values():
            member.close()
        self._calls.close()
        self._keep_late_replies()
        self._ledger.commit()

    def _keep_late_replies(self) -> None:
        """Replies that came in while the run was ending: paid for, so never asked for again."""
        with suppress(Empty):
            while True:
                late = self.queue.get_nowait()
                if isinstance(late, CallOutcome) and late.reply is not None:
                    number, recipe, _ = late.key
                    self._keep_reply(
                        self._jobs[number], recipe, self._chunks[late.key], late.reply
                    )

    def _pending_in(self, member: Worker) -> bool:
        return any(
            place == member.place and generation == member.generation
            for place, generation, _ in self._pending
        )

    def unfinished(self) -> list[VideoResult]:
        """The jobs that had not ended when the loop did, recorded as interrupted (or given up)."""
        results = []
        for job in self._jobs.values():
            if self.gave_up is not None and job.transcript is None and not job.complete:
                job.fail(self.gave_up)
            result = job.result()
            self._shelf.record(job, result)
            results.append(result)
            self._tell(events.VideoFinished(result))
        self._ledger.commit()
        return results

    @property
    def overruns(self) -> int:
        """Calls that outlived their deadline; the target is 0."""
        return self._calls.overruns

    @property
    def batch_fill(self) -> float | None:
        """Rows used over rows offered, over batches that could have been full."""
        offered = self._schedule.fill_offered
        return self._schedule.fill_used / offered if offered else None

    def _sampled(self, sample: Sample) -> None:
        places = self._schedule.places.values()
        slots = [place for place in places if place.is_slot]
        self._ledger.add_sample(
            {
                "cpu": sample.cpu,
                "memory": sample.memory,
                "gpus": sample.gpus,
                "slots_busy": sum(bool(p.batches or p.busy) for p in slots),
                "preparing": sum(p.busy for p in places if not p.is_slot),
                "windows_waiting": self._schedule.waiting_windows,
                "calls": len(self._schedule.calls_under_way),
                "calls_waiting": self._schedule.waiting_calls,
            }
        )
        self._tell(events.Sampled(sample))

    def _environment(self, place: str) -> dict[str, str]:
        """A worker's variables; they decide thread counts and devices before any import."""
        plan = next((s for s in self._setup.sizing.slots if s.device == place), None)
        return worker_environment(
            self._setup.scratch, plan.threads if plan else 1, plan.pin if plan else None
        )


def worker_environment(scratch: Path, threads: int, pin: str | None) -> dict[str, str]:
    """Variables for a worker: threads of every library, its one GPU, no network."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    env = dict.fromkeys(names, str(threads))
    env |= {"HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE", WORKER: str(scratch)}
    env["CUDA_VISIBLE_DEVICES"] = pin or ""
    if pin:
        env["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    return env


def _sentence(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _state_of(error: BaseException) -> State:
    return State.TIMED_OUT if isinstance(error, CallTimeout) else State.FAILED


def _problem_of(error: BaseException) -> Problem:
    if isinstance(error, ReelmineError):
        return error.problem
    return Problem("E_LLM", f"The call failed: {_sentence(error)}")
