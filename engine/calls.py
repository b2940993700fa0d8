"""The LLM side of a run: chunks go out as calls, results go back to their jobs.

A chunk whose reply was paid for before is answered from the ledger at once, several that say the
same are asked about once, and one that was asked in two halves of which one failed is asked for
that half alone. A failed call is a state of its chunk, never an empty list. When the endpoint
is of no use (a wrong key, nobody there) or the budget leaves no room, no further call is made and
every open chunk gets that reason: transcription goes on.

Owner: the loop's thread, except for the analyst's ``call``, which runs in the LLM threads.
"""

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import Any

from engine import events, messages, schedule
from engine.analysis.analysts import Analyst, result
from engine.analysis.chunking import halves
from engine.analysis.recipes import Recipe
from engine.errors import CallError, CallStopped, CallTimeout, EndpointError, ReelmineError
from engine.job import Job
from engine.llm.budget import Budget
from engine.llm.exchanges import Exchange, Sent
from engine.llm.limits import Limits
from engine.llm.pauses import Pauses
from engine.messages import CallKey
from engine.pools.threads import CallOutcome, CallPool
from engine.records import Chunk, ChunkResult, Problem, Reply, Spent, State
from engine.store.ledger import Ledger
from engine.terminal import clock

log = logging.getLogger(__name__)

REFUSALS = 3  # calls in a row that cannot connect before the endpoint counts as gone


@dataclass(frozen=True, slots=True)
class Answerer:
    """Who answers, and what goes with it."""

    analyst: Analyst
    english_only: bool
    stop: Callable[[], None]  # ends all calls under way, soon
    listen: Callable[[Callable[[Sent | Exchange], object]], None]  # who hears of each HTTP exchange
    threads: int  # calls at once, at most
    timeout: float  # seconds a call may take
    budget: Budget | None = None  # None: nothing is spent


@dataclass(frozen=True, slots=True)
class _Asked:
    """A chunk that waits for its call, or whose call is under way."""

    recipe: Recipe
    chunk: Chunk
    reply_key: str  # of its reply in the ledger
    since: float | None  # when it began to wait, monotonic; None: the endpoint postponed it


@dataclass(frozen=True, slots=True)
class HalfAnswered:
    """The reply to the first half of a chunk that is asked in two, while its call goes on."""

    whole_key: str  # of the reply about both
    reply_key: str
    reply: Reply
    recipe: str


class Calls:
    """The calls of one run."""

    def __init__(
        self,
        answerer: Answerer,
        jobs: Mapping[int, Job],
        ledger: Ledger,
        queue: "SimpleQueue[Any]",
        plan: schedule.Schedule,
        step: Callable[[messages.Event], None],
        tell: Callable[[events.Event], None],
    ) -> None:
        self.endpoint: Problem | None = None  # why no further call is made
        self.english_only = answerer.english_only
        self._answerer = answerer
        self._jobs = jobs
        self._ledger = ledger
        self._queue = queue
        self._schedule = plan
        self._step = step
        self._tell = tell
        self._pool = CallPool(answerer.threads, answerer.timeout, queue)
        self._open: dict[CallKey, _Asked] = {}
        self._waiting: dict[str, list[CallKey]] = {}  # of these, by the key of their reply
        self._asking: set[str] = set()  # keys of replies whose calls are under way
        self._held: set[CallKey] = set()  # of those that wait: for such a call, not for their own
        self._halves: dict[str, str] = {}  # in the ledger, until the reply about both is
        self._waits = (0, 0.0)  # calls, seconds that their chunks waited
        self._refused = 0
        self._spent = answerer.budget.own if answerer.budget else Spent()  # as the ledger has it
        self._pauses = Pauses()
        answerer.listen(queue.put)

    def ask(self, number: int, recipe: str, chunk: Chunk) -> None:
        """A new chunk: a reply paid for before, or it waits for a call."""
        job = self._jobs[number]
        asked = job.questions[recipe].recipe
        reply_key = self._answerer.analyst.key(asked, chunk)
        known = self._ledger.reply(reply_key)
        if known is not None:
            job.add_chunk(recipe, result(asked, chunk, known))
            return
        if self.endpoint is not None:
            self._give_up(number, recipe, chunk.index)
            return
        self._wait((number, recipe, chunk.index), _Asked(asked, chunk, reply_key, time.monotonic()))

    def start(self, key: CallKey) -> None:
        """The schedule gives this chunk a thread."""
        number, recipe, index = key
        asked = self._open.get(key)
        if asked is None or asked.reply_key in self._asking:  # it has been answered, or will be
            if asked is not None:
                self._held.add(key)
            self._step(messages.CallEnded(key, unsent=True))
            return
        self._asking.add(asked.reply_key)
        self._waiting[asked.reply_key].remove(key)
        if asked.since is not None:
            count, seconds = self._waits
            self._waits = count + 1, seconds + time.monotonic() - asked.since
        self._tell(events.CallStarted(self._jobs[number].video, recipe, index))
        self._pool.submit(key, self._call_of(asked))

    def ended(self, outcome: CallOutcome) -> None:
        """A call is over."""
        if self._pool.ended(outcome):
            self._end(outcome.key, outcome.reply, outcome.error, outcome.began)

    def half_answered(self, half: HalfAnswered) -> None:
        """It is kept at once: only the other is missing if the call fails or the run is killed."""
        name = self._answerer.analyst.name
        self._ledger.add_reply(half.reply_key, half.reply, name, half.recipe)
        self._halves[half.whole_key] = half.reply_key

    @property
    def next_deadline(self) -> float | None:
        """When the outer guard would fire next."""
        return self._pool.next_deadline

    def check_deadlines(self, now: float) -> None:
        """Give up calls that outlived their own deadline; this must never happen."""
        for key in self._pool.overdue(now):
            log.error("call %s outlived its deadline; its thread is left behind", key)
            self._end(key, None, CallTimeout(), now - self._answerer.timeout)

    @property
    def overruns(self) -> int:
        """Calls given up from outside; the target is 0."""
        return self._pool.overruns

    @property
    def waited(self) -> float | None:
        """Seconds that a chunk waited for its call, in the mean; None: there was no call."""
        count, seconds = self._waits
        return seconds / count if count else None

    @property
    def limits(self) -> Limits:
        """What the endpoint bears, as far as it is known."""
        return self._schedule.calls.limits

    def close(self, *, stop: bool) -> None:
        """End the threads; replies that come in meanwhile are paid for and kept."""
        if stop:
            self._answerer.stop()
        self._pool.close()
        with suppress(Empty):
            while True:
                late = self._queue.get_nowait()
                if isinstance(late, HalfAnswered):
                    self.half_answered(late)
                if isinstance(late, CallOutcome) and late.reply and late.key in self._open:
                    self._keep(self._open.pop(late.key), late.reply)
        self.record_spending()

    def record_spending(self) -> None:
        """What the calls have spent so far goes to the ledger; those under way at their most."""
        budget = self._answerer.budget
        spent = budget.own if budget else self._spent
        if budget is not None and spent != self._spent:
            self._spent = spent
            self._ledger.save_spent(budget.model, spent)

    def _wait(self, key: CallKey, asked: _Asked) -> None:
        """A chunk waits for its call, or for that of another which says the same."""
        self._open[key] = asked
        self._waiting.setdefault(asked.reply_key, []).append(key)
        if asked.reply_key in self._asking:
            self._held.add(key)
        else:
            self._step(messages.ChunkReady(key))

    def _end(
        self, key: CallKey, reply: Reply | None, error: BaseException | None, began: float
    ) -> None:
        number, recipe, index = key
        asked = self._open.pop(key)
        self._asking.remove(asked.reply_key)
        if reply is not None:
            self._keep(asked, reply)
        if isinstance(error, CallStopped):  # the run ends; the chunk stays open
            self._step(messages.CallEnded(key))
            return
        if isinstance(error, CallError) and error.wait is not None:
            worth = self._pauses.worth(error.wait, began, time.monotonic())
            if worth and self.endpoint is None:
                self._postpone(key, asked, error, began)
                self._release(asked.reply_key)
                return
            self._stop_asking(error)
        if reply is not None:
            self._refused = 0
            self._pauses.answered()
            outcome = result(asked.recipe, asked.chunk, reply)
            self._share(asked.reply_key, reply)
        else:
            assert error is not None
            outcome = ChunkResult(index, _state_of(error), problem=_problem_of(error))
            log.info("chunk %d of video %d failed", index, number, exc_info=error)
            self._endpoint_trouble(error)
            self._release(asked.reply_key)
        self._step(messages.CallEnded(key))  # only now: it may start the next call
        job = self._jobs.get(number)
        if job is None:  # its transcription failed meanwhile
            return
        code = outcome.problem.code if outcome.problem else "done"
        self._ledger.note("call", code, place=recipe, video=job.video.name, began=began)
        job.add_chunk(recipe, outcome)
        self._tell(events.CallFinished(job.video, recipe, index, outcome.state))

    def _share(self, reply_key: str, reply: Reply) -> None:
        """Chunks that say the same need no call of their own."""
        same = [key for key in self._waiting.pop(reply_key, []) if key in self._open]
        if same:
            self._schedule.calls.remove(same)
            self._held.difference_update(same)
        for key in same:
            asked, job = self._open.pop(key), self._jobs.get(key[0])
            if job is not None:  # else its transcription failed meanwhile
                job.add_chunk(key[1], result(asked.recipe, asked.chunk, reply))

    def _release(self, reply_key: str) -> None:
        """The call that they were held for brought nothing: each needs its own."""
        for key in [key for key in self._waiting.get(reply_key, []) if key in self._held]:
            self._held.remove(key)
            if self.endpoint is None and key[0] in self._jobs:
                self._step(messages.ChunkReady(key))
                continue
            self._waiting[reply_key].remove(key)
            del self._open[key]
            if key[0] in self._jobs:  # else its transcription failed meanwhile
                self._give_up(*key)

    def _postpone(self, key: CallKey, asked: _Asked, error: CallError, began: float) -> None:
        """The server's pause is longer than a call lasts: the chunk waits for its end."""
        self._ledger.note("call", error.code, place=key[1], began=began)
        self._step(messages.CallEnded(key))
        if key[0] not in self._jobs:  # its transcription failed meanwhile
            return
        self._wait(key, replace(asked, since=None))
        if self._pauses.is_new:
            span = clock(error.wait or 0.0)
            self._tell(events.Notice(f"{error} The chunks wait {span} for it; all else goes on."))

    def _call_of(self, asked: _Asked) -> Callable[[], Reply]:
        """What the thread does; the first half is not asked for if it was paid for before."""
        analyst, recipe, chunk = self._answerer.analyst, asked.recipe, asked.chunk
        parts = halves(chunk)
        if parts is None:
            return lambda: analyst.call(recipe, chunk)
        key, whole, queue = analyst.key(recipe, parts[0]), asked.reply_key, self._queue
        known = self._ledger.reply(key)
        if known is not None:
            self._halves[whole] = key

        def keep(reply: Reply) -> None:
            queue.put(HalfAnswered(whole, key, reply, recipe.name))

        return lambda: analyst.call(recipe, chunk, known, keep)

    def _keep(self, asked: _Asked, reply: Reply) -> None:
        """The reply to a chunk, before it is used; one to half of it is not needed any more."""
        name = self._answerer.analyst.name
        self._ledger.add_reply(asked.reply_key, reply, name, asked.recipe.name)
        half = self._halves.pop(asked.reply_key, None)
        if half is not None:
            self._ledger.drop_reply(half)

    def _endpoint_trouble(self, error: BaseException) -> None:
        problem = _problem_of(error)
        self._refused += problem.code == "E_LLM_CONNECT"
        if isinstance(error, EndpointError) or self._refused >= REFUSALS:
            self._stop_asking(error)

    def _stop_asking(self, error: BaseException) -> None:
        """The endpoint is of no use: no further call is made."""
        if self.endpoint is not None:
            return
        self.endpoint = problem = _problem_of(error)
        self._tell(
            events.Notice(
                f"{problem.message} No further calls are made; transcription goes on, and the same "
                "command later does only the missing analysis."
            )
        )
        for number, recipe, index in self._schedule.calls.clear():
            del self._open[number, recipe, index]
            self._give_up(number, recipe, index)

    def _give_up(self, number: int, recipe: str, index: int) -> None:
        failed = ChunkResult(index, State.FAILED, problem=self.endpoint)
        self._jobs[number].add_chunk(recipe, failed)


def _state_of(error: BaseException) -> State:
    return State.TIMED_OUT if isinstance(error, CallTimeout) else State.FAILED


def _problem_of(error: BaseException) -> Problem:
    if isinstance(error, ReelmineError):
        return error.problem
    lines = str(error).strip().splitlines() or ["no reason given"]
    return Problem("E_LLM", f"The call failed: {type(error).__name__}: {lines[0]}")
