"""Worker processes on this machine: one executor of size one each, so one death costs one worker.

A ``Worker`` is a place (a slot, or a preparation worker) that holds at most one process at a time.
``start`` makes the process, ``submit`` hands it a call and returns at once; what comes back, a
result, an error or the death of the process, goes into the queue of the loop's thread as an
``Outcome``. ``kill`` ends the process by pid and forgets its futures; ``start`` may follow.

Owner: the loop's thread; only the done-callbacks run elsewhere, and they only put into the queue.
Never fork (CUDA), never ``Future.cancel`` (with a kill it leaves futures unresolved on 3.11), never
``max_tasks_per_child`` (deadlocks on 3.11).
"""

import contextlib
import multiprocessing
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from queue import SimpleQueue
from typing import Any

from engine.pools import worker as child


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one submitted call."""

    place: str
    generation: int  # which process of that place; an old one's outcomes are stale
    call: int
    value: Any = None
    error: BaseException | None = None

    @property
    def died(self) -> bool:
        """The process is gone, and with it every call it had."""
        return isinstance(self.error, BrokenExecutor)


class Worker:
    """One place for a worker process."""

    def __init__(
        self, place: str, env: Mapping[str, str], outcomes: "SimpleQueue[Any]", nice: int = 0
    ) -> None:
        self.place = place
        self.generation = 0
        self.pid: int | None = None
        self._env = dict(env)
        self._nice = nice
        self._outcomes = outcomes
        self._executor: ProcessPoolExecutor | None = None
        self._calls = 0
        self._dead: list[ProcessPoolExecutor] = []
        self._born: list[BaseProcess] = []

    def start(self) -> int:
        """Make the process; its ``hello`` (the pid) comes as the outcome of the returned call."""
        assert self._executor is None
        self.generation += 1
        self.pid = None
        self._executor = ProcessPoolExecutor(
            max_workers=1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=child.begin,
            initargs=(self._env, self._nice),
        )
        before = set(multiprocessing.active_children())
        with _birth(self._env):
            call = self.submit(child.hello)
        born = set(multiprocessing.active_children()) - before
        if len(born) == 1:  # else another thread has started one too, and ``hello`` will tell
            self.pid = next(iter(born)).pid
            self._born += born
        return call

    def submit(self, function: Callable[..., Any], *args: Any) -> int:
        """Hand over a call; returns its number within this place."""
        assert self._executor is not None
        self._calls += 1
        call, generation = self._calls, self.generation
        try:
            future = self._executor.submit(function, *args)
        except BrokenExecutor as error:  # it died since the last outcome was read
            self._outcomes.put(Outcome(self.place, generation, call, error=error))
            return call
        future.add_done_callback(
            lambda done: self._outcomes.put(_outcome(self.place, generation, call, done))
        )
        return call

    def kill(self) -> None:
        """End the process now; its calls are lost and their outcomes stale."""
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        self.forget()

    def forget(self) -> None:
        """Let go of a process that has died or was killed."""
        if self._executor is not None:
            self._executor.shutdown(wait=False)
            self._dead.append(self._executor)
            self._executor = None
        self.generation += 1

    def close(self) -> None:
        """End an idle process and wait for it; after this nothing of the place is left."""
        if self._executor is not None:
            self._dead.append(self._executor)
            self._executor = None
        for executor in self._dead:
            executor.shutdown(wait=True)  # does not wait for one that was forgotten
        for process in self._born:
            process.join()
        self._dead.clear()
        self._born.clear()


def call_once(env: Mapping[str, str], function: Callable[..., Any], *args: Any) -> Any:
    """The value of one call in a process of its own, which ends after it; raises what it raised."""
    outcomes: SimpleQueue[Outcome] = SimpleQueue()
    member = Worker("once", env, outcomes)
    try:
        member.start()
        member.submit(function, *args)
        for outcome in (outcomes.get(), outcomes.get()):
            if outcome.error is not None:
                raise outcome.error
        return outcome.value
    finally:
        member.close()


def _outcome(place: str, generation: int, call: int, done: "Future[Any]") -> Outcome:
    error = done.exception()
    if error is not None:
        return Outcome(place, generation, call, error=error)
    return Outcome(place, generation, call, value=done.result())


@contextlib.contextmanager
def _birth(env: Mapping[str, str]) -> Iterator[None]:
    """While a child is spawned: its environment from its first import on, its signals held back.

    A spawned process imports the user's script before our initialiser runs, so the variables must
    be there when it starts; and a signal to the process group must not kill it half-born.
    """
    before = {name: os.environ.get(name) for name in env}
    masked = hasattr(signal, "pthread_sigmask")
    if masked:
        numbers = {getattr(signal, name) for name in child.DEAF_TO}
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    os.environ.update(env)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if masked:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def hush_resource_tracker() -> None:
    """A killed executor's semaphores are freed at exit with a warning: expected, so not shown."""
    warnings.filterwarnings("ignore", message="resource_tracker: There appear to be")
    rule = "ignore:resource_tracker:UserWarning"
    known = os.environ.get("PYTHONWARNINGS", "")
    if rule not in known:
        os.environ["PYTHONWARNINGS"] = f"{known},{rule}" if known else rule
