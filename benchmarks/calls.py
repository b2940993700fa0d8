"""How much faster many LLM calls at a time are than one after the other, and what a call costs.

In: films that are transcribed already, one for each thread, of --calls calls each, so that the end,
where threads run dry, does not decide; a test server in a process of its own with lognormal
latencies, the same by a seed for everybody. Out: seconds from the first call's start to the last
one's end for several --llm-threads, of the engine's own run, of AsyncOpenAI with a semaphore and of
ThreadPoolExecutor + OpenAI, each in a process of its own with the same prompts.

Beside each time stand the bound, max(sum of latencies / threads, longest latency), which no order
can beat, and "in order", what threads without any cost of their own need for these calls. "One
after the other" is measured for the first calls (OpenAI client, 1 thread) and scaled by the sum of
latencies. Also: CPU per call of the client and of the server, and the loop's share of the time that
it spends in ledger commits. Where a client works for most of the time, one core (Python's lock)
binds it, and the benchmark says so.

Ends with exit code 1 if the speed-up of ours over one after the other is under 0.97 of what the
bound allows (sum of latencies / bound) with 8 or 32 threads or 0.90 with 128, or it is slower than
AsyncOpenAI by more than 2 %, or if a call fails.

    python benchmarks/calls.py --plot calls.svg
"""

import argparse
import heapq
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from common import Gate, conclude, machine, print_machine, print_table, say, turns
from llm_side import Films, latencies, make_films, run_ours, run_peer, server, share

from engine.plot import Curve, curves

THREADS = (1, 8, 32, 128)
TARGETS = {8: 0.97, 32: 0.97, 128: 0.90}  # share of the speed-up that the bound allows
NOISE = 1.02  # so much slower than AsyncOpenAI is not slower
BUSY = 0.85  # share of a core above which it counts as what binds
WAYS = {"ours": "ours", "asyncio": "AsyncOpenAI", "threads": "threads + OpenAI"}
ALONE = 0.4  # with one thread there is no end to run dry at: so many of the calls tell enough

Runs = dict[tuple[int, str], list[dict[str, Any]]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; the exit code."""
    given = _parser().parse_args(arguments)
    facts = machine()
    print_machine(facts)
    threads = [int(number) for number in given.threads.split(",")]
    runs: Runs = {}
    with tempfile.TemporaryDirectory(prefix="calls-") as scratch:
        place = Path(scratch)
        for number in threads:
            films = make_films(place / str(number), number, _calls(given, number))
            for way in turns(list(WAYS), given.rounds):
                found = _run(given, films, number, way, place)
                runs.setdefault((number, way), []).append(found)
                say(f"{number} threads, {WAYS[way]}: {found['seconds']:.2f} s")
    return _tell(given, facts, runs)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--threads", default=",".join(map(str, THREADS)), help="numbers, separated by commas")
    add("--calls", type=int, default=100, help="for each thread (default 100; with one thread 40)")
    add("--median", type=float, default=0.2, help="of the latency, in seconds (default 0.2)")
    add("--sigma", type=float, default=0.5, help="of the lognormal latency (default 0.5)")
    add("--rounds", type=int, default=1)
    add("--plot", type=Path, help="SVG file to write: speed-up against threads")
    return parser


def _calls(given: argparse.Namespace, threads: int) -> int:
    """Calls of a film."""
    return max(1, round(given.calls * ALONE)) if threads == 1 else int(given.calls)


def _run(
    given: argparse.Namespace, films: Films, threads: int, way: str, place: Path
) -> dict[str, Any]:
    """What a contestant tells of all calls of the films, and the server's CPU seconds."""
    with server(given.median, given.sigma) as running:
        before = running.cpu
        if way == "ours":
            found = run_ours(films, running.url, threads, place)
        else:
            found = run_peer(films, running.url, way, threads, place)
        found["server_cpu"] = running.cpu - before
    return dict(found)


# --- telling -------------------------------------------------------------------------------------


def _tell(given: argparse.Namespace, facts: dict[str, Any], runs: Runs) -> int:
    drawn = {n: _drawn(given, n) for n, _ in runs}
    slowness = _slowness(runs, drawn)
    figures: dict[str, dict[str, Any]] = {}
    for (number, way), found in runs.items():
        figures.setdefault(str(number), {})[way] = _figures(found, drawn[number], number, slowness)
    print(
        f"\n{given.calls} calls a thread (one thread: {_calls(given, 1)}), latency lognormal with "
        f"median {given.median * 1000:g} ms, sigma {given.sigma:g}; rounds: {given.rounds}"
    )
    head = ["threads", "", "seconds", "in order", "bound", "share of bound", "speed-up"]
    head += ["CPU ms a call", "server's", "core busy", "in commits"]
    print_table(head, [_row(n, w, f) for n, ways in figures.items() for w, f in ways.items()])
    for line in _binding(figures, facts["cores"]):
        print(line)
    if given.plot:
        given.plot.write_text(_picture(figures), encoding="utf-8")
    return conclude(
        "calls",
        facts,
        _gates(figures),
        calls_a_thread=given.calls,
        rounds=given.rounds,
        threads=figures,
    )


def _drawn(given: argparse.Namespace, threads: int) -> list[float]:
    return latencies(given.median, given.sigma, threads * _calls(given, threads))


def _slowness(runs: Runs, drawn: Mapping[int, Sequence[float]]) -> float | None:
    """Seconds, one call after the other, over the sum of their latencies; None: not measured."""
    alone = runs.get((1, "threads"))
    return median(run["seconds"] for run in alone) / sum(drawn[1]) if alone else None


def _figures(
    found: Sequence[Mapping[str, Any]],
    drawn: Sequence[float],
    threads: int,
    slowness: float | None,
) -> dict[str, Any]:
    seconds, cpu, served, commits = (
        median(run.get(name, 0.0) for run in found)
        for name in ("seconds", "cpu", "server_cpu", "in_commits")
    )
    bound = max(sum(drawn) / threads, *drawn)
    speed_up = slowness * sum(drawn) / seconds if slowness else None
    return {
        "seconds": round(seconds, 3),
        "in_order_seconds": round(in_order(drawn, threads), 3),
        "bound_seconds": round(bound, 3),
        "share_of_bound": round(bound / seconds, 3),
        "speed_up": speed_up and round(speed_up, 2),
        "share_of_speed_up": speed_up and round(speed_up * bound / sum(drawn), 3),
        "cpu_ms_a_call": round(1000 * cpu / len(drawn), 3),
        "server_cpu_ms_a_call": round(1000 * served / len(drawn), 3),
        "core_busy": share(cpu, seconds),
        "server_core_busy": share(served, seconds),
        "in_commits": share(commits, seconds) if "in_commits" in found[0] else None,
        "failed": sum(run["calls"] - run["states"].get("done", 0) for run in found),
        "calls": len(drawn),
        "times": [round(run["seconds"], 3) for run in found],
    }


def in_order(drawn: Sequence[float], threads: int) -> float:
    """Seconds if each call starts as soon as a thread is free, and nothing else takes time."""
    free = [0.0] * threads
    for latency in drawn:
        heapq.heappush(free, heapq.heappop(free) + latency)
    return max(free)


def _row(number: str, way: str, found: Mapping[str, Any]) -> list[object]:
    names = ("seconds", "in_order_seconds", "bound_seconds")
    commits, speed_up = found["in_commits"], found["speed_up"]
    return [
        number,
        WAYS[way],
        *(f"{found[name]:.2f}" for name in names),
        f"{found['share_of_bound']:.3f}",
        "-" if speed_up is None else f"{speed_up:.2f}",
        f"{found['cpu_ms_a_call']:.2f}",
        f"{found['server_cpu_ms_a_call']:.2f}",
        f"{found['core_busy']:.2f}",
        "-" if commits is None else f"{100 * commits:.1f} %",
    ]


def _binding(figures: Mapping[str, Mapping[str, Any]], cores: float) -> list[str]:
    """Where it is the machine, not the waiting, that decides."""
    told = []
    for number, ways in figures.items():
        for way, found in ways.items():
            busy = found["core_busy"] + found["server_core_busy"]
            each = f"{found['cpu_ms_a_call']:.2f} ms of CPU a call"
            if found["core_busy"] >= BUSY:
                reason = f"a Python process has one core, and this one fills {found['core_busy']}"
                told.append(f"{number} threads, {WAYS[way]}: {reason} of it with {each}.")
            elif busy >= BUSY * cores:
                reason = f"client and server fill {busy:.2f} of the {cores:g} cores"
                told.append(f"{number} threads, {WAYS[way]}: {reason} with {each}.")
    return told


def _gates(figures: Mapping[str, Mapping[str, Any]]) -> list[Gate]:
    gates = []
    for number, ways in figures.items():
        ours, peer = ways["ours"], ways["asyncio"]
        if int(number) in TARGETS:
            wanted, reached = TARGETS[int(number)], ours["share_of_speed_up"]
            if reached is None:  # one after the other was not measured
                reached = ours["share_of_bound"]
            name = f"{number} threads: at least {wanted:g} of the speed-up that can be"
            gates.append(Gate(name, reached >= wanted, f"{reached:.3f}"))
        if number != "1":
            faster = peer["seconds"] / ours["seconds"]
            name = f"{number} threads: not slower than AsyncOpenAI (by more than {NOISE - 1:.0%})"
            gates.append(Gate(name, faster * NOISE >= 1, f"{faster:.3f} times as fast"))
        failed = sum(found["failed"] for found in ways.values())
        gates.append(Gate(f"{number} threads: no call failed", failed == 0, f"{failed}"))
    return gates


def _picture(figures: Mapping[str, Mapping[str, Any]]) -> str:
    threads = [int(number) for number in figures]
    drawn = [Curve("bound", [(n, n) for n in threads], dashed=True)]
    for way, name in WAYS.items():
        points = [
            (int(number), ways[way]["speed_up"] or ways[way]["share_of_bound"] * int(number))
            for number, ways in figures.items()
        ]
        drawn.append(Curve(name, points, marked=way == "ours"))
    title = "LLM calls: speed-up over one after the other"
    return curves(title, "calls at a time", "speed-up", drawn, threads)


if __name__ == "__main__":
    sys.exit(main())
