"""The loop: one thread that decides everything, and sleeps in one place.

Every future's callback, the signal handlers and the monitor only put into one queue. The loop takes
all that is there, tells the schedule and the jobs, commits the ledger once, and then acts: submits,
kills, calls, files.

| thing                              | owner              | ends when                             |
| ---------------------------------- | ------------------ | ------------------------------------- |
| this loop, ledger, deadlines       | the calling thread | nothing left, or stop                 |
| a worker process per slot          | pools/crew.py      | closed, or killed by pid and rebuilt  |
| preparation workers                | pools/crew.py      | same                                  |
| LLM threads                        | pools/threads.py   | closed; no call outlives its deadline |
| sampling thread                    | pools/monitor.py   | closed and joined                     |
| model in memory                    | its slot           | the process ends                      |
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
from engine.calls import Answerer, Calls
from engine.config import Config
from engine.errors import DiskError, ReelmineError, UnguardedError
from engine.job import Job
from engine.pools import worker
from engine.pools.crew import Answer, Crew
from engine.pools.local import Outcome
from engine.pools.monitor import Sample
from engine.pools.sizing import Sizing
from engine.pools.threads import CallOutcome
from engine.records import Probe, Problem, SpeechOptions, State, WindowResult
from engine.speech.models import ResolvedModel
from engine.store.ledger import Ledger
from engine.store.shelf import Shelf

log = logging.getLogger(__name__)

PIECE = 60.0  # seconds of audio that preparation decodes at a time
STEP = 30.0  # seconds of a file that sequential mode decodes at a time
MARKER = "unguarded"  # left in scratch by a worker that finds itself running the user's script


@dataclass(frozen=True, slots=True)
class Setup:
    """What is decided before the first process starts."""

    config: Config
    options: SpeechOptions
    model: ResolvedModel
    canary_words: tuple[str, ...]
    sizing: Sizing
    answerer: Answerer | None  # None: no analysis is wanted
    scratch: Path


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
        self.disk: Problem | None = None
        self.audio_done = 0.0  # seconds
        self._setup = setup
        self._jobs = dict(jobs)
        self._shelf = shelf
        self._ledger = ledger
        self._tell = tell
        self._actions: list[schedule.Action] = []
        self._cached: dict[int, dict[int, WindowResult]] = {}
        self._drain_until: float | None = None
        self._began = time.monotonic()
        self._schedule = self._plan()
        preparation = [p.name for p in self._schedule.places.values() if not p.is_slot]
        self._crew = Crew(setup.sizing.slots, preparation, setup.scratch, self.queue)
        self.calls = (
            Calls(setup.answerer, self._jobs, ledger, self.queue, self._schedule, self._step, tell)
            if setup.answerer
            else None
        )

    def _plan(self) -> schedule.Schedule:
        sizing = self._setup.sizing
        return schedule.Schedule(
            {slot.device: slot.batch_size for slot in sizing.slots},
            sizing.preparation,
            sizing.llm_threads,
            [number for number, job in self._jobs.items() if job.transcript is None],
            sequential=self._setup.options.mode == "sequential",
        )

    def run(self) -> None:
        """Until every job has ended, or a stop."""
        try:
            for number, job in list(self._jobs.items()):
                if job.transcript is not None:
                    self._grown(number, job)
            self._step(schedule.Begin())
            self._act_all()
            while not self._over():
                for thing in self._wait():
                    self._take(thing)
                self._check_deadlines()
                self._act_all()
        finally:
            self._close()

    # one turn

    def _over(self) -> bool:
        if not self._jobs:
            return True
        if self._drain_until is not None:
            return self._schedule.idle or time.monotonic() >= self._drain_until
        if self._schedule.idle and self.queue.empty():
            if self.gave_up is not None:
                return True
            if not self._schedule.opening:
                left = ", ".join(job.video.name for job in self._jobs.values())
                raise RuntimeError(f"nothing is under way, but these have not ended: {left}")
        return False

    def _wait(self) -> list[Any]:
        """All that has happened, or nothing if a deadline came first."""
        deadlines = (
            self._schedule.next_deadline,
            self.calls.next_deadline if self.calls else None,
            self._drain_until,
            self._time_limit,
        )
        until = min((d for d in deadlines if d is not None), default=None)
        timeout = None if until is None else max(0.0, until - time.monotonic())
        happened = []
        with suppress(Empty):
            happened.append(self.queue.get(timeout=timeout))
            while True:
                happened.append(self.queue.get_nowait())
        return happened

    def _take(self, thing: Any) -> None:
        match thing:
            case Outcome():
                answer = self._crew.read(thing)
                if answer is not None:
                    self._answered(answer)
            case CallOutcome():
                assert self.calls is not None
                self.calls.ended(thing)
                self._llm_changed()
            case Signalled(number):
                self._signalled(number)
            case Sample():
                self._sampled(thing)

    def _step(self, event: schedule.Event) -> None:
        self._actions += self._schedule.step(event, time.monotonic())

    def _check_deadlines(self) -> None:
        now = time.monotonic()
        due = self._schedule.next_deadline
        if due is not None and now >= due:
            self._step(schedule.Tick())
        if self.calls is not None:
            self.calls.check_deadlines(now)
        limit = self._time_limit
        if limit is not None and now >= limit:
            self.out_of_time = True
            self._drain()

    @property
    def _time_limit(self) -> float | None:
        """When a run with a time limit stops taking new work: in time to end what it has."""
        config = self._setup.config
        if config.time_limit is None or self._drain_until is not None:
            return None
        return self._began + max(0.0, config.time_limit - config.grace)

    def _act_all(self) -> None:
        """One commit, then what follows from it, until nothing follows."""
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

    # what came back from a worker

    def _answered(self, answer: Answer) -> None:
        if answer.died:
            self._died(answer.place, answer.what)
        elif answer.error is not None:
            self._raised(answer, answer.error)
        else:
            match answer.what:
                case "hello":
                    self._open(answer.place)
                case "open":
                    self._opened(answer)
                case "probe":
                    self._probed(answer)
                case "prepare":
                    self._prepared(answer)
                case "batch":
                    self._decoded(answer)
                case "advance":
                    self._advanced(answer)

    def _died(self, place: str, doing: str) -> None:
        if (self._setup.scratch / MARKER).exists():
            raise UnguardedError
        problem = Problem(
            "E_WORKER_DIED",
            f"The worker process {place} died while it did this ({doing}): killed from outside, "
            "out of memory, or crashed by the file.",
        )
        self._ledger.note("died", doing, place=place)
        self._tell(events.SlotChanged(place, "died"))
        self._step(schedule.Died(place, problem))

    def _raised(self, answer: Answer, error: BaseException) -> None:
        place, what = answer.place, answer.what
        log.warning("%s failed in %s", what, place, exc_info=error)
        problem = (
            error.problem
            if isinstance(error, ReelmineError)
            else Problem("E_WORKER", f"{what} failed in {place}: {_sentence(error)}")
        )
        self._ledger.note(what, problem.message, place=place, began=answer.began)
        match what:
            case "hello" | "open":
                self._step(schedule.CannotOpen(place, problem))
            case "batch":
                self._step(schedule.Refused(place, answer.about[0], problem))
            case "probe":
                for video in answer.about:
                    self._fail(video, problem)
                self._step(schedule.Probed(place, {}))
            case _:
                self._fail(answer.about, problem)
                self._step(schedule.Broken(place, answer.about))

    def _open(self, place: str) -> None:
        """The process is there: a slot loads its model now, preparation is ready."""
        plan = next((s for s in self._setup.sizing.slots if s.device == place), None)
        if plan is None:
            self._step(schedule.Ready(place))
            return
        spec = worker.SlotSpec(
            self._setup.model.path,
            "cuda" if place.startswith("cuda") else "cpu",
            plan.compute_type,
            plan.threads,
            self._setup.canary_words,
        )
        self._crew.submit(place, "open", None, worker.open_slot, spec)

    def _opened(self, answer: Answer) -> None:
        info: worker.SlotInfo = answer.value
        self._ledger.note("open", info.compute_type, place=answer.place, began=answer.began)
        self._tell(events.SlotChanged(answer.place, "idle"))
        self._step(schedule.Ready(answer.place, info.canary_seconds))

    def _probed(self, answer: Answer) -> None:
        seconds: dict[int, float | None] = {}
        for number, probe in zip(answer.about, answer.value, strict=True):
            problem = probe if isinstance(probe, Problem) else self._unfit(probe)
            if problem is not None:
                self._fail(number, problem)
            else:
                job = self._jobs[number]
                seconds[number] = job.declared = probe.duration
                self._tell(events.VideoMeasured(job.video, probe.duration))
        self._step(schedule.Probed(answer.place, seconds))

    def _unfit(self, probe: Probe) -> Problem | None:
        """Batched mode without voice activity takes only what fits one window."""
        options = self._setup.options
        short = probe.duration is None or probe.duration < STEP
        if options.mode == "sequential" or options.vad_filter or short:
            return None
        return Problem(
            "E_USAGE",
            f"It lasts {probe.duration:.0f} s, and without --vad-filter batched mode takes at most "
            "30 s: leave the filter on, or use --mode sequential.",
        )

    def _prepared(self, answer: Answer) -> None:
        place, video, prepared = answer.place, answer.about, answer.value
        job = self._jobs.get(video)
        if isinstance(prepared, Problem):
            self._fail(video, prepared)
            self._step(schedule.Broken(place, video))
            return
        if job is None:  # it was given up meanwhile
            self._step(schedule.Windows(place, video, (), prepared.ended, language_known=True))
            return
        job.decoded, job.speech = prepared.decoded, prepared.speech
        job.declared = prepared.declared if prepared.declared is not None else job.declared
        cached = self._cached.get(video, {})
        new = job.add_windows(prepared.windows, ended=prepared.ended)
        for window in new:
            if window.position in cached:
                job.add_result(cached[window.position])
        waiting = tuple(w.position for w in new if w.position not in cached)
        known = self._language_known(job)
        self._grown(video, job)
        self._step(schedule.Windows(place, video, waiting, prepared.ended, language_known=known))

    def _language_known(self, job: Job) -> bool:
        given = self._setup.options.language is not None
        return given or job.language is not None or not self._setup.model.multilingual

    def _decoded(self, answer: Answer) -> None:
        number, units = answer.about
        batch: worker.BatchResult = answer.value
        grown: dict[int, Job] = {}
        for (video, position), window in zip(units, batch.results, strict=True):
            job = self._jobs.get(video)
            if job is None:
                continue
            self._ledger.add_window(job.speech_key, window)
            job.add_result(window)
            with suppress(OSError):  # scratch goes at the end anyway
                os.unlink(job.windows[position].row)
            grown[video] = job
        self._ledger.note("batch", f"{len(units)} windows", place=answer.place, began=answer.began)
        for video, job in grown.items():
            if job.language is not None:
                self._schedule.language_known(video)
            self._grown(video, job)
        self._step(schedule.Decoded(answer.place, number, batch.seconds))
        if not self._schedule.places[answer.place].batches:
            self._tell(events.SlotChanged(answer.place, "idle"))

    def _advanced(self, answer: Answer) -> None:
        place, video, step = answer.place, answer.about, answer.value
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
        self._ledger.note(
            "advance", f"{len(step.segments)} segments", place=place, began=answer.began
        )
        self._step(schedule.Advanced(place, video, step.ended, step.seconds))

    # what a video has become

    def _grown(self, number: int, job: Job) -> None:
        """New sealed text: files if it is all there, and the chunks it decides."""
        if job.transcript is not None and not job.read_back:
            self._cached.pop(number, None)
            self._save(job, final=False)
        if not job.read_back:
            done = job.decoded if job.transcript is not None else job.sealed_seconds
            self._tell(events.VideoProgress(job.video, done, job.declared))
        if self.calls is None:
            return
        if self.calls.english_only:
            self._skip_foreign(job)
        for recipe, chunk in job.new_chunks():
            self.calls.ask(number, recipe, chunk)
        self._llm_changed()

    def _skip_foreign(self, job: Job) -> None:
        """The phrasebook reads English only."""
        spoken = job.transcript.language if job.transcript else job.language
        if spoken in (None, "", "en") or self._setup.options.task == "translate":
            return
        job.skip_analysis(
            Problem(
                "E_LANGUAGE",
                f"The transcript is not in English ({spoken}), and the offline phrasebook knows "
                "only English: use --llm-model with an endpoint.",
            )
        )

    def _llm_changed(self) -> None:
        active, waiting = len(self._schedule.calls_under_way), self._schedule.waiting_calls
        self._tell(events.LlmChanged(active, waiting))

    def _save(self, job: Job, *, final: bool) -> tuple[str, ...]:
        try:
            return self._shelf.write(job, final=final)
        except DiskError as error:
            self.disk = error.problem
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
        self.audio_done += 0.0 if job.read_back else job.decoded
        del self._jobs[number]
        shutil.rmtree(self._setup.scratch / str(number), ignore_errors=True)
        self._tell(events.VideoFinished(result))

    # acting

    def _act(self, action: schedule.Action) -> None:
        match action:
            case schedule.Start(place):
                self._tell(events.SlotChanged(place, "opening"))
                self._crew.start(place)
            case schedule.Kill(place, problem):
                self._ledger.note("kill", problem.message, place=place)
                self._crew.kill(place)
            case schedule.Probe(place, videos):
                paths = tuple(self._jobs[number].video.path for number in videos)
                self._crew.submit(place, "probe", videos, worker.probe, paths)
            case schedule.Prepare(place, video, count):
                self._prepare(place, video, count)
            case schedule.Decode(place, batch, units):
                self._decode(place, batch, units)
            case schedule.Advance(place, video, restart):
                self._advance(place, video, restart=restart)
            case schedule.Call(key):
                assert self.calls is not None
                self.calls.start(key)
            case schedule.Fail(video, problem):
                self._fail(video, problem)
            case schedule.GiveUp(problem):
                self.gave_up = problem
                self._tell(events.Notice(problem.message))

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
        self._crew.submit(place, "prepare", video, worker.prepare, spec, count)

    def _decode(self, place: str, batch: int, units: Sequence[schedule.Unit]) -> None:
        rows = tuple(
            worker.Row(
                video,
                self._jobs[video].windows[position],
                self._setup.options.language or self._jobs[video].language,
            )
            for video, position in units
        )
        names = dict.fromkeys(self._jobs[video].video.name for video, _ in units)
        count = f"{len(units)} window" + "s" * (len(units) > 1)
        self._tell(events.SlotChanged(place, f"{count} of {', '.join(names)}"))
        self._crew.submit(
            place, "batch", (batch, units), worker.transcribe, rows, self._setup.options
        )

    def _advance(self, place: str, video: int, *, restart: bool) -> None:
        job = self._jobs[video]
        if restart:
            job.restart()
            self._tell(events.VideoStarted(job.video))
        self._tell(events.SlotChanged(place, job.video.name))
        what = worker.advance, job.video.path, self._setup.options, STEP, restart
        self._crew.submit(place, "advance", video, *what)

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
        else:  # a second signal, or the run's owner is gone
            self._drain()
            self._drain_until = time.monotonic()

    def _drain(self) -> None:
        if self._drain_until is None:
            self._drain_until = time.monotonic() + self._setup.config.grace
            self._step(schedule.Drain())

    def _close(self) -> None:
        """Everything of the run ends here, whatever happened."""
        self._crew.close()
        if self.calls is not None:
            self.calls.close(stop=bool(self._schedule.calls_under_way))
        self._ledger.commit()

    def unfinished(self) -> None:
        """Record the jobs that had not ended when the loop did: interrupted, or given up."""
        for job in self._jobs.values():
            if self.gave_up is not None and job.transcript is None and not job.complete:
                job.fail(self.gave_up)
            result = job.result()
            self._shelf.record(job, result)
            self._tell(events.VideoFinished(result))
        self._ledger.commit()

    @property
    def batch_fill(self) -> float | None:
        """Rows used over rows offered, over batches that could have been full."""
        offered = self._schedule.fill_offered
        return self._schedule.fill_used / offered if offered else None

    def _sampled(self, sample: Sample) -> None:
        places = self._schedule.places.values()
        self._ledger.add_sample(
            {
                "cpu": sample.cpu,
                "memory": sample.memory,
                "gpus": sample.gpus,
                "slots_busy": sum(p.is_slot and bool(p.batches or p.busy) for p in places),
                "preparing": sum(p.busy for p in places if not p.is_slot),
                "windows_waiting": self._schedule.waiting_windows,
                "calls": len(self._schedule.calls_under_way),
                "calls_waiting": self._schedule.waiting_calls,
            }
        )
        self._tell(events.Sampled(sample))


def _sentence(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
