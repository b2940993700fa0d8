"""Do calls to hostile servers end on time, and does anything of them stay behind?

In: servers in processes of their own that hang, drip headers, drip a body, flood, or never answer
the TLS handshake. Out, each from a process of its own:

- 1,000 calls of the engine's client in its pool of 8 threads, 0.2 s each, with a loop that reads
  the queue: how late their futures complete, how long until that thread begins its next call, how
  late the loop hears of things, and threads, descriptors and children before and after; then, how
  long the process takes to exit;
- the openai client with timeout=0.2 and no retries: how many of 8 calls are stuck after 0.8 s;
- `with ThreadPoolExecutor(1) as e: e.submit(job).result(timeout=0.5)` with a job of 4 s: when it
  returns;
- 10,000 short calls of which a tenth hang (--memory for this part alone): what memory grows by from
  the thousandth call on.

Ends with exit code 1 if overshoot p99 is over 5 ms, a thread's way back or the loop's lag (p99)
over 50 ms, the exit over 1 s, anything is left behind, memory grows by 5 MiB, or the peers are
better than is told here.

    python benchmarks/deadline.py --plot deadline.svg
"""

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import psutil
from common import ROOT, Gate, conclude, machine, print_machine, print_table, say
from llm_side import MODEL, server

from engine.errors import CallError
from engine.llm.client import Client
from engine.messages import CallKey
from engine.plot import bars
from engine.pools.threads import CallOutcome, CallPool
from engine.records import Reply
from engine.testing.faults import mute

FAULTS = {
    "hang": "hang",
    "dripped headers": "drip-headers",
    "dripped body": "drip",
    "flood": "flood",
}
NO_TLS = "no TLS answer"
KINDS = (*FAULTS, NO_TLS)
DEADLINE = 0.2  # seconds
THREADS = 8
TICK = 0.01  # seconds; so often the loop wakes up of itself, to see how late it is
STUCK_AFTER = 4  # deadlines; a call that is still there then is stuck
NESTED_JOB, NESTED_TIMEOUT = 4.0, 0.5  # seconds
HANGING = 10  # every tenth of the many calls
LATE, BACK, LAG, EXIT, GROWTH = 5.0, 50.0, 50.0, 1.0, 5.0  # targets: ms, ms, ms, s, MiB
ASKED = [{"role": "user", "content": "Anything."}]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; the exit code."""
    given = _parser().parse_args(arguments)
    if given.part:
        print(json.dumps(PARTS[given.part](given)), flush=True)
        return 0
    facts = machine()
    print_machine(facts)
    figures: dict[str, Any] = {}
    if not given.memory:
        with hostile() as urls:
            say(f"{given.calls} hostile calls of ours")
            figures["ours"] = _told("ours", "--calls", given.calls, *_words(urls))
            say("the openai client, 8 calls of each kind")
            figures["bare"] = _told("bare", *_words(urls), kill=True)
        say("the nested executor")
        figures["nested"] = _told("nested")
    if given.many:
        say(f"{given.many} calls, a tenth of which hang")
        script = ", ".join(["hang", *["ok"] * (HANGING - 1), "..."])
        with server(0.001, 0.0, "--script", script) as running:
            figures["memory"] = _told("memory", "--calls", given.many, "--url", f"x={running.url}")
    _print(figures)
    if given.plot and "ours" in figures:
        given.plot.write_text(_picture(figures), encoding="utf-8")
    return conclude("deadline", facts, _gates(figures), **figures)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--calls", type=int, default=1000, help="hostile ones (default 1000)")
    add("--many", type=int, default=10_000, help="short ones (default 10000; 0: not that part)")
    add("--memory", action="store_true", help="the short calls alone")
    add("--plot", type=Path, help="SVG file to write: overshoot of each kind")
    add("--part", choices=PARTS, help=argparse.SUPPRESS)  # what this process shall do
    add("--url", action="append", default=[], help=argparse.SUPPRESS)  # KIND=URL
    return parser


@contextmanager
def hostile() -> Iterator[dict[str, str]]:
    """Kind -> base URL of a server that does just that."""
    with ExitStack() as stack:
        urls = {
            kind: stack.enter_context(server(0.0, 0.0, "--script", f"{fault}, ...")).url
            for kind, fault in FAULTS.items()
        }
        yield urls | {NO_TLS: stack.enter_context(mute())}


def _words(urls: Mapping[str, str]) -> list[str]:
    return [word for kind, url in urls.items() for word in ("--url", f"{kind}={url}")]


def _urls(given: argparse.Namespace) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in given.url)


def _told(part: str, *words: object, kill: bool = False) -> dict[str, Any]:
    """What a part says, in a process of its own, and the seconds it took to exit after that."""
    process = subprocess.Popen(
        [sys.executable, __file__, "--part", part, *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OPENAI_API_KEY": "none"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    told_at = time.monotonic()
    if kill:
        process.kill()
    process.wait()
    if not line:
        raise SystemExit(f"{part} ended with {process.returncode} and said nothing")
    return {**json.loads(line), "exit_seconds": round(time.monotonic() - told_at, 3)}


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
                self._pool.ended(outcome)
                self._note(self._calls[outcome.key[0]], completed, outcome)
                ended += 1
                self._on_end(ended)
            ended += len(self._pool.overdue(now))
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


def _ours(given: argparse.Namespace) -> dict[str, Any]:
    _drive([Call(kind) for kind in KINDS] * 2, _urls(given))  # what is loaded once, is loaded
    before = _standing()
    calls = [Call(KINDS[number % len(KINDS)]) for number in range(given.calls)]
    drive = _drive(calls, _urls(given))
    after = _standing()
    timed_out = [call for call in calls if call.ending == "CallTimeout"]
    return {
        "calls": len(calls),
        "overruns": drive.overruns,
        "endings": dict(Counter(call.ending for call in calls)),
        "overshoot_ms": _spread(_late(call) for call in timed_out),
        "back_ms": _spread(_ways_back(calls)),
        "lag_ms": _spread(drive.lags),
        "kinds": {
            kind: {
                "endings": dict(Counter(call.ending for call in calls if call.kind == kind)),
                "overshoot_ms": _spread(_late(c) for c in timed_out if c.kind == kind),
            }
            for kind in KINDS
        },
        "before": before,
        "after": after,
    }


def _drive(
    calls: Sequence[Call],
    urls: Mapping[str, str],
    on_end: Callable[[int], None] = lambda ended: None,
) -> Drive:
    clients = {
        kind: Client(url, None, MODEL, call_timeout=DEADLINE, connections=THREADS)
        for kind, url in urls.items()
    }

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


def _memory(given: argparse.Namespace) -> dict[str, Any]:
    """The size of the process after a tenth of the calls and after all, by the same client."""
    [url] = _urls(given).values()
    sizes = []

    def look(ended: int) -> None:
        if ended in (given.calls // 10, given.calls):
            sizes.append(_resident())

    calls = [Call("x") for _ in range(given.calls)]
    _drive(calls, {"x": url}, look)
    return {
        "calls": given.calls,
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


def _bare(given: argparse.Namespace) -> dict[str, Any]:
    """How many of 8 calls of the plain client are still there after four timeouts."""
    import openai

    def ask(client: openai.OpenAI) -> None:
        with suppress(openai.OpenAIError):
            client.chat.completions.create(model=MODEL, messages=ASKED)  # type: ignore[arg-type]

    stuck = {}
    for kind, url in _urls(given).items():
        client = openai.OpenAI(base_url=url, timeout=DEADLINE, max_retries=0)
        threads = [
            threading.Thread(target=ask, args=(client,), daemon=True) for _ in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        time.sleep(STUCK_AFTER * DEADLINE)
        stuck[kind] = sum(thread.is_alive() for thread in threads)
    return {"stuck": stuck, "of": THREADS}


def _nested(given: argparse.Namespace) -> dict[str, Any]:
    """When the usual pattern returns: leaving the `with` waits for the thread."""
    began = time.monotonic()
    with suppress(TimeoutError), ThreadPoolExecutor(1) as executor:
        executor.submit(time.sleep, NESTED_JOB).result(timeout=NESTED_TIMEOUT)
    return {
        "timeout": NESTED_TIMEOUT,
        "job": NESTED_JOB,
        "returned": round(time.monotonic() - began, 3),
    }


PARTS: Mapping[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "ours": _ours,
    "memory": _memory,
    "bare": _bare,
    "nested": _nested,
}


# --- telling -------------------------------------------------------------------------------------


def _spread(seconds: Any) -> dict[str, float]:
    """p50, p99 and the largest, in milliseconds."""
    found = sorted(1000 * value for value in seconds)
    if not found:
        return {}
    return {
        "p50": round(found[len(found) // 2], 2),
        "p99": round(found[min(len(found) - 1, int(0.99 * len(found)))], 2),
        "max": round(found[-1], 2),
    }


def _print(figures: Mapping[str, Any]) -> None:
    if "ours" in figures:
        ours, bare = figures["ours"], figures["bare"]
        told = f"{ours['calls']} calls of {DEADLINE * 1000:g} ms on {THREADS} threads; the openai"
        print(f"\n{told} client: stuck after {STUCK_AFTER} timeouts")
        head = ["", "ours ended as", "overshoot ms p50", "p99", "max", "openai client"]
        rows = [
            [kind, _counts(found["endings"]), *_cells(found["overshoot_ms"]),
             f"{bare['stuck'][kind]} of {bare['of']} stuck"]
            for kind, found in ours["kinds"].items()
        ]  # fmt: skip
        rows.append(["all", _counts(ours["endings"]), *_cells(ours["overshoot_ms"]), ""])
        rows.append(["thread back", "", *_cells(ours["back_ms"]), ""])
        rows.append(["loop lag", "", *_cells(ours["lag_ms"]), ""])
        print_table(head, rows)
        nested = figures["nested"]
        print(
            f"Nested executor: asked for {nested['timeout']:g} s, a job of {nested['job']:g} s:"
            f" back after {nested['returned']:.2f} s."
        )
    if "memory" in figures:
        found = figures["memory"]
        first, last = found["mib"]
        print(
            f"{found['calls']} calls, {found['timed_out']} timed out: {first:.1f} MiB resident "
            f"after a tenth, {last:.1f} at the end."
        )


def _counts(endings: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(endings.items()))


def _cells(spread: Mapping[str, float]) -> list[str]:
    return [f"{spread[name]:.2f}" if spread else "-" for name in ("p50", "p99", "max")]


def _gates(figures: Mapping[str, Any]) -> list[Gate]:
    gates = []
    if "ours" in figures:
        gates += _gates_of_ours(figures["ours"])
        stuck = figures["bare"]["stuck"]
        dripped = [stuck["dripped headers"], stuck["dripped body"]]
        gates.append(
            Gate("openai client: dripped calls are stuck", min(dripped) == THREADS, f"{stuck}")
        )
        back = figures["nested"]["returned"]
        gates.append(
            Gate("nested executor: back when the job ends", back >= NESTED_JOB, f"{back:.2f} s")
        )
    if "memory" in figures:
        found = figures["memory"]
        grown, hung = found["growth_mib"], found["timed_out"]
        gates.append(Gate(f"memory grows by less than {GROWTH:g} MiB", grown < GROWTH, f"{grown}"))
        expected = found["calls"] // HANGING
        close = abs(hung - expected) <= max(2, expected // 20)
        gates.append(Gate("a tenth of the calls timed out", close, f"{hung} of {found['calls']}"))
    return gates


def _gates_of_ours(ours: Mapping[str, Any]) -> Iterator[Gate]:
    """The targets of the hostile calls."""
    for name, figure, most in (
        ("overshoot", "overshoot_ms", LATE),
        ("thread back", "back_ms", BACK),
        ("loop lag", "lag_ms", LAG),
    ):
        reached = ours[figure].get("p99", float("inf"))
        yield Gate(f"{name}: p99 at most {most:g} ms", reached <= most, f"{reached:.2f} ms")
    other = {n: c for n, c in ours["endings"].items() if n not in ("CallTimeout", "OversizeError")}
    yield Gate("every call timed out or was too large", not other, _counts(other) or "all")
    yield Gate("the outer guard never fired", ours["overruns"] == 0, f"{ours['overruns']}")
    for what, count in ours["before"].items():
        left = ours["after"][what] - count
        yield Gate(f"{what} left behind: 0", left == 0, f"{left:+d}")
    took = ours["exit_seconds"]
    yield Gate(f"the process exits in less than {EXIT:g} s", took < EXIT, f"{took:.2f} s")


def _picture(figures: Mapping[str, Any]) -> str:
    rows = []
    for kind, found in figures["ours"]["kinds"].items():
        if found["overshoot_ms"]:
            rows += [(f"{kind}, {name}", found["overshoot_ms"][name]) for name in ("p50", "p99")]
    title = f"Calls of {DEADLINE * 1000:g} ms to hostile servers: later than asked"
    return bars(title, "ms", rows)


if __name__ == "__main__":
    sys.exit(main())
