"""How late the host wakes a process that only waits: a bare timer, to run beside a measurement.

In: standard input, until it is closed. Out: a line of JSON: when the first tick was due, and how
late each was seen, in seconds of the monotonic clock, which all processes of a machine share.
Knows nothing about what is measured; deadline.py runs it by `beside`.

Ticks are due every 5 ms come what may, so one stop of 50 ms makes ten late ones: the share of late
ticks is the share of moments at which anything due is late. It keeps numbers only, so Python's
collector has nothing to do in it, and it takes about a hundredth of a core.
"""

import json
import math
import select
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

TICK = 0.005  # seconds


@dataclass(slots=True)
class Timer:
    """What a timer saw; empty until it has ended."""

    first: float = 0.0  # when its first tick was due
    late: list[float] = field(default_factory=list)  # seconds; each a tick after the one before

    def within(self, began: float, ended: float) -> "Timer":
        """The ticks that were due in that time."""
        from_, to = (math.ceil(max(0.0, at - self.first) / TICK) for at in (began, ended))
        return Timer(self.first + from_ * TICK, self.late[from_:to])

    def stops(self, most: float) -> list[tuple[float, float]]:
        """Each time that it should have been awake and was not for more than `most` seconds:
        from, until."""
        found: list[tuple[float, float]] = []
        for number, late in enumerate(self.late):
            due = self.first + number * TICK
            if late > most and (not found or due >= found[-1][1]):
                found.append((due, due + late))
        return found


def spread(seconds: Iterable[float]) -> dict[str, float]:
    """p50, p99 and the largest, in milliseconds."""
    found = sorted(1000 * value for value in seconds)
    if not found:
        return {}
    at = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    last = len(found) - 1
    return {name: round(found[min(last, int(q * len(found)))], 2) for name, q in at.items()}


@contextmanager
def beside() -> Iterator[Timer]:
    """A timer in a process of its own while the block runs; filled when the block has ended."""
    timer = Timer()
    command = [sys.executable, __file__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield timer
        told, _ = process.communicate()  # closes its input
    timer.first, timer.late = json.loads(told)


def _main() -> None:
    late: list[float] = []
    due = first = time.monotonic() + TICK
    while not select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))[0]:
        now = time.monotonic()
        while due <= now:
            late.append(now - due)
            due = first + len(late) * TICK
    print(json.dumps([first, late]))


if __name__ == "__main__":
    _main()
