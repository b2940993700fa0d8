"""How much faster many LLM calls at a time are than one after the other.

In: media files (default: the bundled samples), transcribed once. Out: seconds from the first call's
start to the last one's end for several --llm-threads, over the same chunks and, by a seed, the same
latencies (lognormal), from a test server in a process of its own. Beside each time: what threads
without any cost of their own need for the calls in their order, and the bound, since no order can
end before max(sum of latencies / threads, longest latency). Each run is the engine's own, on a
fresh copy of an output folder that holds the transcripts. Ends with exit code 1 if 16 threads are
less than 3 times as fast as one.

    python benchmarks/calls.py
"""

import argparse
import heapq
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from common import ROOT, Gate, conclude, machine, print_machine, print_table, say, turns

from engine import events
from engine.api import run
from engine.config import Config

THREADS = (1, 8, 16, 32)
TARGET, TARGET_THREADS = 3.0, 16
SEED = 4
# Small chunks, so that a few minutes of speech are calls enough to keep 32 threads busy.
RECIPE = """
name = "remarks"
prompt = "Say in one sentence what is remarkable in the dialogue."
min_words = 4
max_words = 16

[fields.remark]
type = "string"
description = "One sentence."
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; the exit code."""
    given = _parser().parse_args(arguments)
    facts = machine()
    print_machine(facts)
    threads = [int(number) for number in given.threads.split(",")]
    with tempfile.TemporaryDirectory(prefix="calls-") as scratch:
        place = Path(scratch)
        recipe = place / "remarks.toml"
        recipe.write_text(RECIPE, encoding="utf-8")
        plain = Config(
            output=place / "transcripts",
            model=given.model,
            language="en",
            output_format=("json",),
        )
        say("transcribing once")
        _check(run(given.paths, _with(plain, analysis=False)).exit_code)
        spans: dict[int, list[float]] = {number: [] for number in threads}
        _span(
            given, place, _with(plain, recipe=(str(recipe),), llm_threads=max(threads))
        )  # warm-up
        for number in turns(threads, given.rounds):
            config = _with(plain, recipe=(str(recipe),), llm_threads=number)
            seconds, calls = _span(given, place, config)
            say(f"{number} threads: {calls} calls in {seconds:.2f} s")
            spans[number].append(seconds)
    return _tell(given, facts, spans, calls)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("paths", nargs="*", default=[str(ROOT / "engine" / "samples")], metavar="PATH")
    add("--model", default="tiny.en")
    add("--threads", default=",".join(map(str, THREADS)), help="numbers, separated by commas")
    add("--median", type=float, default=0.2, help="of the latency, in seconds (default 0.2)")
    add("--sigma", type=float, default=0.5, help="of the lognormal latency (default 0.5)")
    add("--rounds", type=int, default=3)
    return parser


def _with(config: Config, **changes: Any) -> Config:
    return replace(config, **changes)


def _check(exit_code: int) -> None:
    if exit_code != 0:
        raise SystemExit(f"the run ended with {exit_code}")


# --- one run -----------------------------------------------------------------------------------


def _span(given: argparse.Namespace, place: Path, config: Config) -> tuple[float, int]:
    """Seconds from the first call's start to the last one's end, and how many calls."""
    output = place / "analysed"
    shutil.rmtree(output, ignore_errors=True)
    shutil.copytree(config.output, output)
    began: list[float] = []
    ended: list[float] = []

    def note(event: events.Event) -> None:
        if isinstance(event, events.CallStarted):
            began.append(time.monotonic())
        elif isinstance(event, events.CallFinished):
            ended.append(time.monotonic())

    with server(given.median, given.sigma) as url:
        config = _with(config, output=output, llm_base_url=url, llm_model="phrasebook")
        _check(run(given.paths, config, note).exit_code)
    if not began:
        raise SystemExit("there was nothing to ask: no speech in these files")
    return max(ended) - min(began), len(ended)


@contextmanager
def server(latency: float, sigma: float) -> Iterator[str]:
    """The test server in a process of its own, fresh: the same latencies in the same order."""
    words = ["--latency", str(latency), "--sigma", str(sigma), "--seed", str(SEED)]
    process = subprocess.Popen(
        [sys.executable, "-m", "engine.testing.server", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.communicate()


# --- telling -----------------------------------------------------------------------------------


def _tell(
    given: argparse.Namespace, facts: dict[str, Any], spans: dict[int, list[float]], calls: int
) -> int:
    latencies = _latencies(given, calls)
    medians = {number: median(times) for number, times in spans.items()}
    alone = medians.get(1)
    rows, figures = [], {}
    for number, seconds in medians.items():
        bound = max(sum(latencies) / number, *latencies)
        in_order = _in_order(latencies, number)
        speed_up = alone / seconds if alone else None
        figures[str(number)] = {
            "seconds": round(seconds, 3),
            "bound_seconds": round(bound, 3),
            "in_order_seconds": round(in_order, 3),
            "share_of_bound": round(bound / seconds, 3),
            "speed_up": speed_up and round(speed_up, 2),
            "times": [round(value, 3) for value in spans[number]],
        }
        best = f"{sum(latencies) / bound:.2f}"
        shown = "-" if speed_up is None else f"{speed_up:.2f}"
        times = [f"{value:.2f}" for value in (seconds, in_order, bound)]
        rows.append([number, *times, shown, best, f"{bound / seconds:.3f}"])
    print(
        f"\n{calls} calls, latency lognormal with median {given.median * 1000:g} ms, sigma"
        f" {given.sigma:g}, {given.rounds} rounds"
    )
    head = ["threads", "seconds", "in order", "bound", "speed-up", "its bound", "share of bound"]
    print_table(head, rows)
    return conclude(
        "calls", facts, _gates(alone, medians), calls=calls, rounds=given.rounds, threads=figures
    )


def _latencies(given: argparse.Namespace, calls: int) -> list[float]:
    """What the server has drawn, in seconds."""
    chance = random.Random(SEED)
    return [given.median * chance.lognormvariate(0.0, given.sigma) for _ in range(calls)]


def _in_order(latencies: Sequence[float], threads: int) -> float:
    """Seconds if each call starts as soon as a thread is free, and nothing else takes time."""
    free = [0.0] * threads
    for latency in latencies:
        heapq.heappush(free, heapq.heappop(free) + latency)
    return max(free)


def _gates(alone: float | None, medians: dict[int, float]) -> list[Gate]:
    if alone is None or TARGET_THREADS not in medians:
        return []
    speed_up = alone / medians[TARGET_THREADS]
    name = f"{TARGET_THREADS} threads at least {TARGET:g} times as fast as one"
    return [Gate(name, speed_up >= TARGET, f"{speed_up:.2f} times")]


if __name__ == "__main__":
    sys.exit(main())
