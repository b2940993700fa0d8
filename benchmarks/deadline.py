"""Do calls to hostile servers end on time, and does anything of them stay behind?

In: servers in processes of their own that hang, drip headers, drip a body, flood, or never answer
the TLS handshake. Out, each from a process of its own:

- 1,000 calls of the engine's client in its pool of 8 threads, 0.2 s each, with a loop that reads
  the queue: how late their futures complete, how long until that thread begins its next call, how
  late the loop hears of things, and threads, descriptors and children before and after; then, how
  long the process takes to exit. As long as the calls take, a bare timer runs beside them
  (hosttime.py): how late it is, which is what the host does to anybody, and what is left of the
  calls' overshoot without the times in which the timer, too, stood still: told, but no excuse;
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
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from common import ROOT, Gate, conclude, machine, print_machine, print_table, say
from hostile import DEADLINE, NESTED_JOB, STUCK_AFTER, THREADS
from hosttime import TICK, Timer, beside, spread
from llm_side import server

from engine.plot import bars
from engine.testing.faults import mute

FAULTS = {  # what is said here -> what the server calls it
    "hang": "hang",
    "dripped headers": "drip-headers",
    "dripped body": "drip",
    "flood": "flood",
}
NO_TLS = "no TLS answer"
HANGING = 10  # every tenth of the many calls
LATE, BACK, LAG, EXIT, GROWTH = 5.0, 50.0, 50.0, 1.0, 5.0  # targets: ms, ms, ms, s, MiB


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; the exit code."""
    given = _parser().parse_args(arguments)
    facts = machine()
    print_machine(facts)
    figures: dict[str, Any] = {}
    if not given.memory:
        with hostile_servers() as urls:
            say(f"{given.calls} hostile calls of ours")
            with beside() as timer:
                figures["ours"] = _told("ours", "--calls", given.calls, *_words(urls))
            figures["timer"] = _beside(figures["ours"], timer)
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
    return parser


@contextmanager
def hostile_servers() -> Iterator[dict[str, str]]:
    """Kind -> base URL of a server that does just that."""
    with ExitStack() as stack:
        urls = {
            kind: stack.enter_context(server(0.0, 0.0, "--script", f"{fault}, ...")).url
            for kind, fault in FAULTS.items()
        }
        yield urls | {NO_TLS: stack.enter_context(mute())}


def _words(urls: Mapping[str, str]) -> list[str]:
    return [word for kind, url in urls.items() for word in ("--url", f"{kind}={url}")]


def _told(part: str, *words: object, kill: bool = False) -> dict[str, Any]:
    """What a part of hostile.py says, and the seconds it took to exit after that."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "benchmarks" / "hostile.py"), part, *map(str, words)],
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


def _beside(ours: dict[str, Any], timer: Timer) -> dict[str, Any]:
    """What the timer saw while the calls ran, and how late they would have been without its stops:
    of each call's overshoot, what is no part of a time in which the timer, too, stood still."""
    timer = timer.within(*ours.pop("span"))
    stops, ends = timer.stops(LATE / 1000), ours.pop("ends")
    stood = [
        sum(max(0.0, min(ended, until) - max(due, since)) for since, until in stops)
        for due, ended in ends
    ]
    return {
        "tick_ms": 1000 * TICK,
        "ticks": len(timer.late),
        "late_ms": spread(timer.late),
        "stops_ms": [round(1000 * (until - since), 2) for since, until in stops],
        "calls_in_stops": sum(seconds > 0 for seconds in stood),
        "overshoot_ms_without": spread(
            ended - due - seconds for (due, ended), seconds in zip(ends, stood, strict=True)
        ),
    }


# --- telling -------------------------------------------------------------------------------------


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
        timer = figures["timer"]
        without = f"all, without {len(timer['stops_ms'])} stops of the timer"
        rows.append([without, "", *_cells(timer["overshoot_ms_without"]), ""])
        rows.append(["a bare timer beside it", "", *_cells(timer["late_ms"]), ""])
        rows.append(["thread back", "", *_cells(ours["back_ms"]), ""])
        rows.append(["loop lag", "", *_cells(ours["lag_ms"]), ""])
        print_table(head, rows)
        took = ours["collections"]
        print(
            f"The timer stood still for more than {LATE:g} ms {len(timer['stops_ms'])} times, and"
            f" {timer['calls_in_stops']} calls with it. Full garbage collections of ours:"
            f" {took['full']}, the longest of {took['longest_ms']:.1f} ms."
        )
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
