"""The LLM threads: one executor, and an outer guard that must never fire.

A call bounds itself (llm/deadline.py), so its thread comes back in time. Should one not, the guard
tells the loop two seconds after the deadline: the call is over for everybody else, its thread is
left behind and counted, and new calls go to a fresh executor.

Owner: the loop's thread; only the done-callbacks run elsewhere, and they only put into the queue.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from engine.messages import CallKey
from engine.records import Reply

GUARD = 2.0  # seconds after its own deadline at which a call is given up from outside


@dataclass(frozen=True, slots=True)
class CallOutcome:
    """What became of a call."""

    key: CallKey
    reply: Reply | None
    error: BaseException | None
    began: float  # monotonic


class CallPool:
    """Runs calls, each in a thread of its own; outcomes go into the loop's queue."""

    def __init__(self, threads: int, timeout: float, outcomes: "SimpleQueue[Any]") -> None:
        """``timeout``: seconds that a call may take by its own deadline."""
        self.overruns = 0
        self._threads = threads
        self._timeout = timeout
        self._outcomes = outcomes
        self._executor = self._fresh()
        # when each began, the oldest first: that one is the first to be overdue
        self._under_way: dict[CallKey, float] = {}

    def _fresh(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._threads, thread_name_prefix="reelmine-call")

    def submit(self, key: CallKey, call: Callable[[], Reply]) -> None:
        """Start a call now; the schedule never has more under way than there are threads."""
        began = time.monotonic()
        future = self._executor.submit(call)
        self._under_way[key] = began
        future.add_done_callback(lambda done: self._outcomes.put(_outcome(key, done, began)))

    def ended(self, outcome: CallOutcome) -> bool:
        """Take note of an outcome; False if the guard has ended this call before."""
        if self._under_way.get(outcome.key) != outcome.began:
            return False
        del self._under_way[outcome.key]
        return True

    @property
    def next_deadline(self) -> float | None:
        """When the guard would fire next, on the monotonic clock."""
        oldest = next(iter(self._under_way.values()), None)
        return None if oldest is None else oldest + self._timeout + GUARD

    def overdue(self, now: float) -> list[CallKey]:
        """Calls that outlived their own deadline; their threads are left behind."""
        late = []
        for key, began in self._under_way.items():
            if now < began + self._timeout + GUARD:
                break
            late.append(key)
        for key in late:
            del self._under_way[key]
        if late:
            self.overruns += len(late)
            self._executor.shutdown(wait=False)
            self._executor = self._fresh()
        return late

    def close(self) -> None:
        """Wait for the threads, unless one was left behind or calls are still under way."""
        self._executor.shutdown(wait=not self._under_way)


def _outcome(key: CallKey, done: Future[Reply], began: float) -> CallOutcome:
    error = done.exception()
    return CallOutcome(key, None if error else done.result(), error, began)
