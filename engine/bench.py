"""Parallel speed-up on a user's own videos: whole runs with 1, 2, ... slots, and what follows.

In: paths, a config, numbers of slots. Out: a ``Scaling``: seconds of each run, speed-up,
efficiency, the serial share, the setting to use. Each run is the engine's own, without analysis,
into an empty folder that is removed. Knows nothing about terminals; plot.py draws the picture.

On a CPU a run with fewer slots also gets fewer cores, so that a slot has as many threads as in the
full plan: else one slot would have all cores, and nothing would be compared. A user's run with as
many slots has all cores, so the advice says on how many it was measured.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from types import MappingProxyType

from engine import values
from engine.api import Paths, Plan, plan, run
from engine.config import Config
from engine.errors import ReelmineError, UsageError
from engine.pools.hardware import snapshot
from engine.records import RunReport
from engine.setup import device_kind
from engine.speech.models import resolve
from engine.terminal import count, printable

ENOUGH = 1.03  # a setting within 3 % of the fastest is as good
_QUIET = 0.25  # load a core; above it the figures are also those of other programs
_READ = 1 << 24  # bytes
_ALL_CORES: Mapping[int, int | None] = MappingProxyType({})


class BenchError(ReelmineError):
    """A run of the benchmark did not end well, so its time says nothing."""

    code = "E_BENCH"

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # the run's own


@dataclass(frozen=True, slots=True)
class Measurement:
    """One number of slots; seconds are the median over rounds."""

    slots: int
    seconds: float  # wall time of a whole run
    times_real_time: float | None  # None: no audio was heard
    speed_up: float  # over one slot
    efficiency: float  # speed-up / slots


@dataclass(frozen=True, slots=True)
class Scaling:
    """What the runs say together."""

    measurements: tuple[Measurement, ...]  # by slots, from 1 up
    serial_share: float | None  # of a run with one slot; None: only that was measured
    recommended: int  # slots
    advice: str  # one sentence
    model: str
    audio: float  # seconds
    load: float | None = None  # of the machine before the first run, a core; None: not known


def measure(
    paths: Paths,
    config: Config,
    slots: Sequence[int] = (),
    rounds: int = 1,
    on_run: Callable[[int, float], None] = lambda slots, seconds: None,
) -> Scaling:
    """Run with each number of ``slots`` (default: doubling up to what sizing gives).

    One slot is always among them. ``on_run`` hears slots and seconds after each run. Rounds go to
    and fro, so that what drifts favours nobody. UsageError if there is nothing to transcribe,
    BenchError if a run leaves something undone.
    """
    with tempfile.TemporaryDirectory(prefix="reelmine-bench-", dir=config.scratch) as scratch:
        config = replace(config, output=Path(scratch, "out"), analysis=False, time_limit=None)
        made = plan(paths, config)
        counts = sorted({1, *(slots or up_to(len(made.sizing.slots)))})
        _check(made)
        _read(resolve(config.model, device_kind(config, snapshot())).path)
        cores = {number: _cores_for(made, number) for number in counts}
        taken: dict[int, list[float]] = {number: [] for number in counts}
        audio, load = 0.0, _load()
        for turn in range(rounds):
            for number in counts if turn % 2 == 0 else reversed(counts):
                output = Path(scratch, f"{number}-{turn}")
                asked = replace(config, slots=number, output=output, output_format=("json",))
                seconds, report = _one(paths, asked, cores[number])
                audio = float(report.figures["audio_seconds"])
                taken[number].append(seconds)
                on_run(number, seconds)
    times = {number: median(seconds) for number, seconds in taken.items()}
    return replace(scaling(times, audio, made.model, len(made.sizing.slots), cores), load=load)


def up_to(most: int) -> tuple[int, ...]:
    """1, 2, 4, ... and the most."""
    return tuple(sorted({*(1 << n for n in range(most.bit_length())), most}))


def numbers(written: str) -> tuple[int, ...]:
    """``1,2,4`` -> (1, 2, 4); UsageError says what is allowed."""
    try:
        return tuple(values.whole(1)(part) for part in written.split(","))
    except ValueError:
        raise UsageError(
            f"--slots: {written!r} cannot be used: numbers from 1 up are needed, such as 1,2,4."
        ) from None


# --- what the times say ------------------------------------------------------------------------


def scaling(
    times: Mapping[int, float],
    audio: float,
    model: str,
    usual: int,
    cores: Mapping[int, int | None] = _ALL_CORES,
) -> Scaling:
    """From seconds by slots, one of them 1; ``usual``: the slots there are without --slots.

    ``cores``: by slots, those that a run was limited to; None, or not there: it had all.
    """
    alone = times[1]
    measurements = tuple(
        Measurement(
            number, seconds, audio / seconds if audio else None, alone / seconds,
            alone / seconds / number,
        )
        for number, seconds in sorted(times.items())
    )  # fmt: skip
    share = serial_share({m.slots: m.speed_up for m in measurements})
    best = recommended(times)
    return Scaling(
        measurements, share, best, _advice(measurements, best, usual, cores), model, audio
    )


def serial_share(speed_ups: Mapping[int, float]) -> float | None:
    """The share s of Amdahl's law, 1 / speed-up = s + (1 - s) / slots, by least squares.

    From 0 to 1; None if nothing but one slot was measured. Amdahl, "Validity of the single
    processor approach", AFIPS 1967.
    """
    points = [(1 - 1 / n, 1 / speed - 1 / n) for n, speed in speed_ups.items() if n > 1]
    if not points:
        return None
    return min(1.0, max(0.0, sum(x * y for x, y in points) / sum(x * x for x, _ in points)))


def recommended(times: Mapping[int, float]) -> int:
    """The fewest slots that are as good as the fastest."""
    fastest = min(times.values())
    return min(number for number, seconds in times.items() if seconds <= ENOUGH * fastest)


def _advice(
    measurements: Sequence[Measurement], best: int, usual: int, cores: Mapping[int, int | None]
) -> str:
    speed = {m.slots: m.speed_up for m in measurements}
    if len(measurements) == 1:
        return "There is nothing to compare: only one slot was measured."
    one = f"one{_on(cores.get(1))}"
    if best == 1:
        return f"Use --slots 1: more slots were not faster than {one} with these videos."
    gain = f"{speed[best]:.2f} times as fast{_on(cores.get(best))} as {one}"
    if best == usual:
        return f"Leave --slots out: the {best} slots it gives are {gain}."
    return f"Use --slots {best}: {gain}, and no more of those measured were faster by 3 %."


def _on(cores: int | None) -> str:
    return f" on {count(cores, 'core')}" if cores else ""


def lines(found: Scaling) -> list[str]:
    """A table and the conclusions, for people."""
    head = f"{'slots':>5}  {'seconds':>8}  {'x real time':>11}  {'speed-up':>8}  {'efficiency':>10}"
    rows = [
        f"{m.slots:>5}  {m.seconds:>8.2f}  {_or_dash(m.times_real_time):>11}"
        f"  {m.speed_up:>8.2f}  {m.efficiency:>10.2f}"
        for m in found.measurements
    ]
    told = [f"{count(round(found.audio), 'second')} of audio with {printable(found.model)}"]
    told += [head, *rows]
    if found.serial_share is not None:
        told.append(_share_line(found.serial_share))
    told.append(found.advice)
    if found.load is not None and found.load > _QUIET:
        told.append(
            f"Other programs were at work (load {found.load:.1f} a core before the first run), so"
            " trust none of this before you have measured again on a quiet machine."
        )
    return told


def _share_line(share: float) -> str:
    limit = (
        f"at most {1 / share:.1f} times as fast as one" if share > 0.001 else "no limit in sight"
    )
    return f"serial share {share:.1%} (Amdahl; start-up included): {limit} with any number of slots"


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


# --- one run -----------------------------------------------------------------------------------


def _one(paths: Paths, config: Config, cores: int | None) -> tuple[float, RunReport]:
    began = time.monotonic()
    with limited(cores):
        report = run(paths, config)
    seconds = time.monotonic() - began
    if report.exit_code:
        reasons = [*report.problems, *(r.problem for r in report.videos if r.problem)]
        why = printable(reasons[0].message) if reasons else "it was interrupted."
        slots = count(config.slots or 0, "slot")
        ended = f"The run with {slots} ended with exit code {report.exit_code}"
        raise BenchError(f"{ended}, so its time says nothing: {why}", report.exit_code)
    return seconds, report


def _load() -> float | None:
    """The load of the last minute, a core."""
    try:
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    except (OSError, AttributeError):
        return None


def _check(made: Plan) -> None:
    if made.problems:
        raise UsageError(printable(made.problems[0].message))
    if not made.videos:
        raise UsageError("There is no video to measure with; give a file or a folder with some.")


def _read(folder: Path) -> None:
    """Bring a model's files into memory once, so that the first run is not the slowest for it."""
    for file in folder.iterdir():
        if file.is_file():
            with file.open("rb") as stream:
                while stream.read(_READ):
                    pass


def _cores_for(made: Plan, slots: int) -> int | None:
    """Cores that leave each of so many slots the threads it has in the plan; None: all."""
    planned = made.sizing.slots
    if not planned[0].device.startswith("cpu") or slots >= len(planned):
        return None
    if not hasattr(os, "sched_setaffinity"):  # as of `limited`: it had all, whatever was wanted
        return None
    return slots * planned[0].threads


@contextmanager
def limited(cores: int | None) -> Iterator[None]:
    """This thread, and the processes it starts meanwhile, on so many cores."""
    if cores is None or not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(sorted(allowed)[:cores]))
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
