"""All worker processes of a run, by place, and the calls they have under way.

The loop submits calls with a word for what they are and what they are about; ``read`` turns an
outcome of the queue back into an ``Answer`` with both. Outcomes of a process that is gone are
dropped there: the schedule has dealt with its death already.

Owner: the loop's thread.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from engine.pools.local import Outcome, Worker
from engine.pools.sizing import SlotPlan

NICE = 5  # preparation gives way to the slots
# glibc returns a freed big buffer to the system and gets the next one page by page, zeroed: a
# quarter of a window's encoding (benchmarks/encoders.py). A worker needs the same buffers for every
# window, so it keeps them. Other C libraries do not read these.
KEEP_MEMORY = {
    "MALLOC_ARENA_MAX": "1",  # what one thread freed another one takes
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
}
RUN = "_REELMINE_RUN"  # in a worker's environment: its run's scratch folder


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call brought: a value, an error, or the death of the process."""

    place: str
    what: str  # "hello", "open", "probe", "prepare", "batch", "advance"
    about: Any
    began: float  # monotonic
    value: Any = None
    error: BaseException | None = None
    died: bool = False


class Crew:
    """The workers of a run."""

    def __init__(
        self,
        slots: Iterable[SlotPlan],
        preparation: Iterable[str],
        scratch: Path,
        outcomes: "SimpleQueue[Any]",
    ) -> None:
        self._workers = {
            slot.device: Worker(slot.device, environment(scratch, slot.threads, slot.pin), outcomes)
            for slot in slots
        }
        for place in preparation:
            self._workers[place] = Worker(place, environment(scratch, 1, None), outcomes, NICE)
        self._pending: dict[tuple[str, int, int], tuple[str, Any, float]] = {}

    def start(self, place: str) -> None:
        """Make the process of a place; it answers "hello" with its pid."""
        call = self._workers[place].start()
        self._note(place, call, "hello", None)

    def submit(self, place: str, what: str, about: Any, function: Any, *args: Any) -> None:
        """Hand a call to the process of a place."""
        call = self._workers[place].submit(function, *args)
        self._note(place, call, what, about)

    def _note(self, place: str, call: int, what: str, about: Any) -> None:
        key = place, self._workers[place].generation, call
        self._pending[key] = what, about, time.monotonic()

    def read(self, outcome: Outcome) -> Answer | None:
        """The outcome with what it answers; None if its process was given up before."""
        member = self._workers[outcome.place]
        if outcome.generation != member.generation:
            return None
        key = outcome.place, outcome.generation, outcome.call
        what, about, began = self._pending.pop(key)
        if outcome.died:
            self._forget(member)
            return Answer(outcome.place, what, about, began, died=True)
        if outcome.error is None and what == "hello":
            member.pid = outcome.value
        return Answer(outcome.place, what, about, began, outcome.value, outcome.error)

    def kill(self, place: str) -> None:
        """End a process now, whatever it does."""
        self._workers[place].kill()
        self._forget(self._workers[place])

    def _forget(self, member: Worker) -> None:
        member.forget()
        self._pending = {key: v for key, v in self._pending.items() if key[0] != member.place}

    def close(self) -> None:
        """End all: the busy ones by a kill, the idle ones in peace; none is left after this."""
        busy = {place for place, _, _ in self._pending}
        for place, member in self._workers.items():
            if place in busy:
                member.kill()
        for member in self._workers.values():
            member.close()


def environment(scratch: Path, threads: int, pin: str | None) -> Mapping[str, str]:
    """A worker's variables: threads of every library, its one GPU or none, no network."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    env = dict.fromkeys(names, str(threads))
    env |= {"HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE", RUN: str(scratch)}
    env |= KEEP_MEMORY
    # A number in it is the user's own and means what it means here: the order of devices stays too.
    env["CUDA_VISIBLE_DEVICES"] = pin or ""
    return env
