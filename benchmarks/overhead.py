"""What does it cost to run a job with a deadline armed?

In: jobs that do nothing. Out: microseconds of CPU per job, in turn A B C, C B A, ..., each in a
process of its own, medians:

- ours: the engine's CallPool with a call timeout of 300 s, so with its outer guard, a queue and a
  loop that looks for overdue calls in each turn; inside, each job sets its own deadline of 300 s;
- a plain ThreadPoolExecutor, which has no deadline at all;
- `with ThreadPoolExecutor(1) as inner: inner.submit(job).result(timeout=300)` in each of its jobs,
  the usual way to give a job a timeout (which does not hold: deadline.py).

As many jobs are under way as there are threads. The target is 12 us where a plain pool takes 7.5;
processors differ, so it ends with exit code 1 if ours is over 1.6 times the plain pool.

    python benchmarks/overhead.py --plot overhead.svg
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from statistics import median
from typing import Any

from common import ROOT, Gate, conclude, machine, print_machine, print_table, say, turns

from engine.llm.deadline import within
from engine.plot import bars
from engine.pools.threads import CallPool
from engine.records import Reply

TARGET = 12.0 / 7.5  # times the plain pool
DEADLINE = 300.0  # seconds
NAMES = {
    "ours": "ours: pool, guard, queue, deadline",
    "plain": "plain pool, no deadline",
    "nested": "nested executor",
}
DONE = Reply("[]")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; the exit code."""
    given = _parser().parse_args(arguments)
    if given.way:
        print(json.dumps(_costs(given.way, given.jobs, given.threads)), flush=True)
        return 0
    facts = machine()
    print_machine(facts)
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for way in turns(list(WAYS), given.rounds):
        found[way].append(_measured(way, given))
        say(f"{NAMES[way]}: {found[way][-1]['cpu']:.1f} us")
    return _tell(given, facts, found)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--jobs", type=int, default=20_000)
    add("--threads", type=int, default=8)
    add("--rounds", type=int, default=5)
    add("--plot", type=Path, help="SVG file to write")
    add("--way", choices=WAYS, help=argparse.SUPPRESS)  # what this process shall do
    return parser


def _measured(way: str, given: argparse.Namespace) -> dict[str, float]:
    words = ["--way", way, "--jobs", str(given.jobs), "--threads", str(given.threads)]
    done = subprocess.run(
        [sys.executable, __file__, *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    costs: dict[str, float] = json.loads(done.stdout)
    return costs


def _costs(way: str, jobs: int, threads: int) -> dict[str, float]:
    """Microseconds of CPU and of wall time per job; the first ones are not counted."""
    WAYS[way](max(1, jobs // 10), threads)
    wall, cpu = time.monotonic(), time.process_time()
    WAYS[way](jobs, threads)
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    return {"cpu": 1e6 * cpu / jobs, "wall": 1e6 * wall / jobs}


# --- the three ways ------------------------------------------------------------------------------


def _ours(jobs: int, threads: int) -> None:
    outcomes: SimpleQueue[Any] = SimpleQueue()
    pool = CallPool(threads, DEADLINE, outcomes)
    asked = ended = 0
    while ended < jobs:
        while asked < jobs and asked - ended < threads:
            pool.submit((asked, "", 0), _armed)
            asked += 1
        until = pool.next_deadline
        assert until is not None
        for outcome in _taken(outcomes, until - time.monotonic()):
            assert pool.ended(outcome)
            ended += 1
        assert not pool.overdue(time.monotonic())
    pool.close()


def _armed() -> Reply:
    with within(DEADLINE):
        return DONE


def _plain(jobs: int, threads: int) -> None:
    with ThreadPoolExecutor(threads) as pool:
        _keep_busy(pool, _nothing, jobs, threads)


def _nested(jobs: int, threads: int) -> None:
    with ThreadPoolExecutor(threads) as pool:
        _keep_busy(pool, _timed, jobs, threads)


def _timed() -> Reply:
    with ThreadPoolExecutor(1) as inner:
        return inner.submit(_nothing).result(timeout=DEADLINE)


def _nothing() -> Reply:
    return DONE


def _keep_busy(pool: ThreadPoolExecutor, job: Callable[[], Reply], jobs: int, threads: int) -> None:
    ended: SimpleQueue[Future[Reply]] = SimpleQueue()
    asked = done = 0
    while done < jobs:
        while asked < jobs and asked - done < threads:
            pool.submit(job).add_done_callback(ended.put)
            asked += 1
        for future in _taken(ended, None):
            future.result()
            done += 1


def _taken(queue: "SimpleQueue[Any]", timeout: float | None) -> list[Any]:
    """All that is there, at least one."""
    taken = [queue.get(timeout=timeout)]
    with suppress(Empty):
        while True:
            taken.append(queue.get_nowait())
    return taken


WAYS: Mapping[str, Callable[[int, int], None]] = {
    "ours": _ours,
    "plain": _plain,
    "nested": _nested,
}


# --- telling -------------------------------------------------------------------------------------


def _tell(
    given: argparse.Namespace, facts: dict[str, Any], found: Mapping[str, Sequence[Any]]
) -> int:
    medians = {
        way: {name: round(median(run[name] for run in runs), 2) for name in ("cpu", "wall")}
        for way, runs in found.items()
    }
    print(f"\n{given.jobs} jobs on {given.threads} threads, {given.rounds} rounds, medians")
    rows = [
        [NAMES[way], f"{cost['cpu']:.1f}", f"{cost['wall']:.1f}",
         ", ".join(f"{run['cpu']:.1f}" for run in found[way])]
        for way, cost in medians.items()
    ]  # fmt: skip
    print_table(["", "CPU us a job", "wall us", "CPU us of each round"], rows)
    if given.plot:
        picture = bars("CPU of a job that does nothing", "us", [(r[0], float(r[1])) for r in rows])
        given.plot.write_text(picture, encoding="utf-8")
    times = medians["ours"]["cpu"] / medians["plain"]["cpu"]
    told = f"{times:.2f} times, {medians['ours']['cpu']:.1f} us"
    gate = Gate(f"a job with a deadline: at most {TARGET:g} plain ones", times <= TARGET, told)
    return conclude(
        "overhead", facts, [gate], jobs=given.jobs, threads=given.threads, microseconds=medians
    )


if __name__ == "__main__":
    sys.exit(main())
