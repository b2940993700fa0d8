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
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from engine import events, messages, schedule
from engine.batches import Batches, Hooks
from engine.calls import Answerer, Calls, HalfAnswered
from engine.config import Config
from engine.errors import DiskError
from engine.job import Job
from engine.llm.exchanges import Exchange, Sent
from engine.llm.limits import Limits
from engine.orders import SpeechSetup
from engine.pools.local import Outcome
from engine.pools.monitor import Sample
from engine.pools.sizing import Sizing
from engine.pools.threads import CallOutcome
from engine.records import Problem, State
from engine.store.ledger import Ledger
from engine.store.shelf import Shelf
from engine.tally import Tally
from engine.totals import Totals
from engine.usage import Usage
from engine.watch import Watch

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Setup:
    """What is decided before the first process starts."""

    config: Config
    speech: SpeechSetup
    sizing: Sizing
    answerer: Answerer | None  # None: no analysis is wanted
    memory: int | None = None  # bytes that could be had before it began


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
        self.totals = Totals()
        self._setup = setup
        self._jobs = dict(jobs)
        self._shelf = shelf
        self._ledger = ledger
        self._listener = tell
        self._actions: list[messages.Action] = []
        self._drain_until: float | None = None
        self._began = time.monotonic()
        self.usage = Usage(self._began)
        untold = sum(job.transcript is None for job in self._jobs.values())
        self._tally = Tally(started=self._began, todo=untold)
        self._schedule = self._plan()
        plan, tell = self._schedule, self._tell
        self._watch = Watch(setup.memory, plan, ledger, self._step, tell)
        hooks = Hooks(self._step, tell, self._fail, self._grown, self.usage)
        self.batches = Batches(setup.speech, self._jobs, ledger, plan, self.queue, hooks)
        self.calls = (
            Calls(setup.answerer, self._jobs, ledger, self.queue, plan, self._step, tell)
            if setup.answerer
            else None
        )

    def _plan(self) -> schedule.Schedule:
        setup = self._setup
        sizing, speech, config = setup.sizing, setup.speech, setup.config
        asks = setup.answerer is not None and setup.answerer.budget is not None  # an endpoint
        rates = (config.llm_rpm, config.llm_tpm) if asks else ()
        return schedule.Schedule(
            {slot.device: slot.batch_size for slot in sizing.slots},
            sizing.preparation,
            Limits(sizing.llm_threads, sizing.llm_cap, *rates),
            [number for number, job in self._jobs.items() if job.transcript is None],
            sequential=speech.options.mode == "sequential",
            may_wait=speech.may_wait,
        )

    def run(self) -> None:
        """Until every job has ended, or a stop."""
        try:
            for number, job in list(self._jobs.items()):
                if job.transcript is not None:
                    self._grown(number, job)
            self._step(messages.Begin())
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
                self.batches.took(thing)
            case CallOutcome():
                assert self.calls is not None
                self.calls.ended(thing)
                self._llm_changed()
            case HalfAnswered():
                assert self.calls is not None
                self.calls.half_answered(thing)
            case Sent() | Exchange():
                # no step of its own: the end of its call follows, and decides what begins
                self._schedule.calls.exchanged(thing)
            case Signalled(number):
                self._signalled(number)
            case Sample():
                self._watch.took(thing)

    def _step(self, event: messages.Event) -> None:
        if isinstance(event, messages.Died):
            # what was decided for that process in this turn is void: the schedule has it back
            place = event.place
            self._actions = [a for a in self._actions if getattr(a, "place", None) != place]
        now = time.monotonic()
        self._actions += self._schedule.step(event, now)
        self._account(now)

    def _account(self, now: float) -> None:
        """What the slots do from now on, and once, how long it will take."""
        self.usage.note(self._schedule.standing, now)
        if self.usage.predicted is None and (slots := self._schedule.open_slots):
            self.usage.predict(slots, self._speech_in_all(), now)

    def _speech_in_all(self) -> float | None:
        """Seconds, by what the containers declare and the share of speech so far."""
        total, jobs = self._tally.audio_total, self._jobs.values()
        decoded = sum(job.decoded for job in jobs)
        return total * sum(job.speech for job in jobs) / decoded if total and decoded else None

    def _tell(self, event: events.Event) -> None:
        self._tally.note(event)
        self._listener(event)

    def _check_deadlines(self) -> None:
        now = time.monotonic()
        due = self._schedule.next_deadline
        if due is not None and now >= due:
            self._step(messages.Tick())
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
            if self.calls is not None and self._ledger.changed:
                self.calls.record_spending()  # goes with it: no commit of its own
            self._ledger.commit()
            actions, self._actions = self._actions, []
            for action in actions:
                self._act(action)
            ended = [number for number, job in self._jobs.items() if job.complete]
            for number in ended:
                self._finish(number)
            if not self._actions and not ended:
                return

    # what a video has become

    def _grown(self, number: int, job: Job) -> None:
        """New sealed text: files if it is all there, and the chunks it decides."""
        if job.transcript is not None and not job.read_back:
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
        if spoken in (None, "en") or self._setup.speech.options.task == "translate":
            return
        job.skip_analysis(
            Problem(
                "E_LANGUAGE",
                f"The transcript is not in English ({spoken}), and the offline phrasebook knows "
                "only English: use --llm-model with an endpoint.",
            )
        )

    def _llm_changed(self) -> None:
        calls = self._schedule.calls
        self._tell(events.LlmChanged(len(calls.under_way), len(calls)))

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
        self.totals.add(job, result)
        del self._jobs[number]
        shutil.rmtree(self._setup.speech.scratch / str(number), ignore_errors=True)
        self._tell(events.VideoFinished(result))

    # acting

    def _act(self, action: messages.Action) -> None:
        match action:
            case messages.Call(key):
                assert self.calls is not None
                self.calls.start(key)
            case messages.Fail(video, problem):
                self._fail(video, problem)
            case messages.GiveUp(problem):
                self.gave_up = problem
                self._tell(events.Notice(problem.message))
            case _:
                self.batches.act(action)

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
            self._step(messages.Drain())

    def _close(self) -> None:
        """Everything of the run ends here, whatever happened."""
        self.batches.close()
        if self.calls is not None:
            self.calls.close(stop=bool(self._schedule.calls.under_way))
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
        return self._schedule.batch_fill
