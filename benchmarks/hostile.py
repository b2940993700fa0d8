"""What deadline.py runs in processes of their own: calls to hostile servers, ours and the peers'.

In: the name of a part, base URLs by kind of hostility, a number of calls. Out: a line of JSON about
how the calls ended. Ours goes through the engine's client and pool, with a loop like the engine's;
its peers are the plain openai client and a nested executor. Knows no targets.
"""

import argparse
import ctypes
import gc
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import psutil
from hosttime import spread

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout it lies in

from engine.errors import CallError
from engine.llm.client import Client
from engine.messages import CallKey
from engine.pools.threads import CallOutcome, CallPool
from engine.records import Reply

DEADLINE = 0.2  # seconds
THREADS = 8
TICK = 0.01  # seconds; so often the loop wakes up of itself, to see how late it is
STUCK_AFTER = 4  # deadlines; a call that is still there then is stuck
NESTED_JOB, NESTED_TIMEOUT = 4.0, 0.5  # seconds
MODEL = "phrasebook"  # what the server calls itself
ASKED = [{"role": "user", "content": "Anything."}]


def main(arguments: Sequence[str] | None = None) -> None:
    """Do a part and tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--calls", type=int, default=0)
    parser.add_argument("--url", action="append", default=[], help="KIND=URL")
    given = parser.parse_args(arguments)
    urls = dict(pair.split("=", 1) for pair in given.url)
    print(json.dumps(PARTS[given.part](urls, given.calls)), flush=True)


# --- ours ----------------------------------------------------------------------------------------


@dataclass(slots=True)
class Call:
    """One call as its thread saw it; monotonic seconds."""

    kind: str
    thread: int = 0
    began: float = 0.0
    completed: float = 0.0  # its future
    ending: str = "done"


@dataclass(slots=True)
class Outcomes:
    """The loop's queue; each outcome with the moment at which its future completed."""

    queue: "SimpleQueue[tuple[float, CallOutcome]]" = field(default_factory=SimpleQueue)

    def put(self, outcome: CallOutcome) -> None:
        """Called by the future, in the thread of the call."""
        self.queue.put((time.monotonic(), outcome))


class Drive:
    """A loop like the engine's that keeps all threads of a pool busy with calls."""

    def __init__(
        self,
        calls: Sequence[Call],
        ask: Callable[[Call], Reply],
        on_end: Callable[[int], None],
    ) -> None:
        """``on_end`` hears how many have ended."""
        self.lags: list[float] = []  # seconds from when the loop could have known
        self.overruns = 0  # calls given up from outside
        self._calls = calls
        self._ask = ask
        self._on_end = on_end
        self._outcomes = Outcomes()
        self._pool = CallPool(THREADS, DEADLINE, self._outcomes)  # type: ignore[arg-type]

    def run(self) -> None:
        """All calls; returns when their threads have ended."""
        asked = ended = 0
        tick = time.monotonic() + TICK
        while ended < len(self._calls):
            while asked < len(self._calls) and asked - ended < THREADS:
                self._start((asked, "", 0), self._calls[asked])
                asked += 1
            happened = list(self._wait(tick))
            now = time.monotonic()
            if now >= tick:
                self.lags.append(now - tick)
                tick = now + TICK
            for completed, outcome in happened:
                self.lags.append(now - completed)
                if not self._pool.ended(outcome):
                    continue  # it was given up, and counted, before
                self._note(self._calls[outcome.key[0]], completed, outcome)
                ended += 1
                self._on_end(ended)
            for key in self._pool.overdue(now):
                self._calls[key[0]].ending = "given up"
                ended += 1
        self.overruns = self._pool.overruns
        self._pool.close()

    def _wait(self, until: float) -> Iterator[tuple[float, CallOutcome]]:
        with suppress(Empty):
            yield self._outcomes.queue.get(timeout=max(0.0, until - time.monotonic()))
            while True:
                yield self._outcomes.queue.get_nowait()

    def _start(self, key: CallKey, call: Call) -> None:
        def work() -> Reply:
            call.thread, call.began = threading.get_ident(), time.monotonic()
            return self._ask(call)

        self._pool.submit(key, work)

    @staticmethod
    def _note(call: Call, completed: float, outcome: CallOutcome) -> None:
        call.completed = completed
        if outcome.error is not None:
            if not isinstance(outcome.error, CallError):
                raise outcome.error
            call.ending = type(outcome.error).__name__


def _ours(urls: Mapping[str, str], count: int) -> dict[str, Any]:
    kinds = list(urls)
    _drive([Call(kind) for kind in kinds] * 2, urls)  # what is loaded once, is loaded
    before = _standing()
    calls = [Call(kinds[number % len(kinds)]) for number in range(count)]
    with _collections() as pauses:
        drive = _drive(calls, urls)
    after = _standing()
    timed_out = [call for call in calls if call.ending == "CallTimeout"]
    return {
        "calls": len(calls),
        "overruns": drive.overruns,
        "endings": dict(Counter(call.ending for call in calls)),
        "overshoot_ms": spread(_late(call) for call in timed_out),
        "back_ms": spread(_ways_back(calls)),
        "lag_ms": spread(drive.lags),
        "kinds": {
            kind: {
                "endings": dict(Counter(call.ending for call in calls if call.kind == kind)),
                "overshoot_ms": spread(_late(c) for c in timed_out if c.kind == kind),
            }
            for kind in kinds
        },
        "before": before,
        "after": after,
        "collections": {"full": len(pauses), "longest_ms": round(1000 * max(pauses, default=0), 2)},
        "span": [calls[0].began, max(call.completed for call in calls)],  # monotonic seconds
        "ends": [[call.began + DEADLINE, call.completed] for call in timed_out],
    }


@contextmanager
def _collections() -> Iterator[list[float]]:
    """The seconds of each full collection of Python's in the block; no thread runs meanwhile."""
    pauses: list[float] = []

    def note(phase: str, info: Mapping[str, int]) -> None:
        if info["generation"] == 2:
            pauses.append(time.monotonic() if phase == "start" else time.monotonic() - pauses.pop())

    gc.callbacks.append(note)
    try:
        yield pauses
    finally:
        gc.callbacks.remove(note)


def _drive(
    calls: Sequence[Call],
    urls: Mapping[str, str],
    on_end: Callable[[int], None] = lambda ended: None,
) -> Drive:
    clients = {kind: Client(url, None, MODEL, call_timeout=DEADLINE) for kind, url in urls.items()}

    def ask(call: Call) -> Reply:
        return Reply(clients[call.kind].chat(ASKED, {"type": "object"}, 16).text)

    drive = Drive(calls, ask, on_end)
    drive.run()
    for client in clients.values():
        client.close()
    return drive


def _late(call: Call) -> float:
    return call.completed - (call.began + DEADLINE)


def _ways_back(calls: Sequence[Call]) -> Iterator[float]:
    """Seconds from a call's deadline (or its end, if that was earlier) to the next one's start in
    the same thread."""
    by_thread: dict[int, list[Call]] = {}
    for call in sorted(calls, key=lambda call: call.began):
        by_thread.setdefault(call.thread, []).append(call)
    for own in by_thread.values():
        for call, following in pairwise(own):
            yield following.began - min(call.completed, call.began + DEADLINE)


def _standing() -> dict[str, int]:
    gc.collect()
    process = psutil.Process()
    return {
        "threads": process.num_threads(),
        "descriptors": process.num_fds(),
        "children": len(process.children(recursive=True)),
    }


def _memory(urls: Mapping[str, str], count: int) -> dict[str, Any]:
    """The size of the process after a tenth of the calls and after all, by the same client."""
    sizes = []

    def look(ended: int) -> None:
        if ended in (count // 10, count):
            sizes.append(_resident())

    calls = [Call(kind) for kind in urls for _ in range(count)]
    _drive(calls, urls, look)
    return {
        "calls": count,
        "timed_out": sum(call.ending == "CallTimeout" for call in calls),
        "mib": [round(size / 2**20, 2) for size in sizes],
        "growth_mib": round((sizes[-1] - sizes[0]) / 2**20, 2),
    }


def _resident() -> int:
    """Bytes, without what the allocator only keeps."""
    gc.collect()
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return int(psutil.Process().memory_info().rss)


# --- the peers -----------------------------------------------------------------------------------


def _bare(urls: Mapping[str, str], count: int) -> dict[str, Any]:
    """How many of 8 calls of the plain client are still there after four timeouts."""
    import openai

    def ask(client: openai.OpenAI) -> None:
        with suppress(openai.OpenAIError):
            client.chat.completions.create(model=MODEL, messages=ASKED)  # type: ignore[arg-type]

    stuck = {}
    for kind, url in urls.items():
        client = openai.OpenAI(base_url=url, timeout=DEADLINE, max_retries=0)
        threads = [
            threading.Thread(target=ask, args=(client,), daemon=True) for _ in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        time.sleep(STUCK_AFTER * DEADLINE)
        stuck[kind] = sum(thread.is_alive() for thread in threads)
    return {"stuck": stuck, "of": THREADS}


def _nested(urls: Mapping[str, str], count: int) -> dict[str, Any]:
    """When the usual pattern returns: leaving the `with` waits for the thread."""
    began = time.monotonic()
    with suppress(TimeoutError), ThreadPoolExecutor(1) as executor:
        executor.submit(time.sleep, NESTED_JOB).result(timeout=NESTED_TIMEOUT)
    return {
        "timeout": NESTED_TIMEOUT,
        "job": NESTED_JOB,
        "returned": round(time.monotonic() - began, 3),
    }


PARTS: Mapping[str, Callable[[Mapping[str, str], int], dict[str, Any]]] = {
    "ours": _ours,
    "memory": _memory,
    "bare": _bare,
    "nested": _nested,
}


if __name__ == "__main__":
    main()
