"""How near the schedule comes to what the work allows, and how full its batches are.

In: a seed. Out, on a clock that jumps (no process, no waiting): a folder of videos of lognormal
length whose windows take lognormal times, through the engine's own schedule; beside it the same
videos in a process pool, each as a whole to the next free worker, in the order given and the
longest first. Efficiency is max(sum of all work / slots, longest window) / time, from the first
open slot to the last result, so 1 means that no order can be faster. Fill is rows used / rows
offered over batches sent while a full one could be had; beside it what batches of one video each
would have. Ends with exit code 1 if a gate fails: efficiency at least 0.98 with 2 slots, 0.97 with
8, 0.95 with 64; fill at least 0.99.

    python benchmarks/replay.py
"""

import argparse
import heapq
import random
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from common import Gate, conclude, machine, print_machine, print_table

from engine.messages import Unit
from engine.testing.replay import Replay

EFFICIENCY = {2: 0.98, 8: 0.97, 64: 0.95}
FILL = 0.99
GPUS, BATCH = (1, 2, 8), 16
PER_GPU, PER_CORE = 8, 4  # preparation workers as sizing has them: 8 a GPU, one for 4 cores
WINDOW = 27.0  # seconds of audio; windows end at pauses
MEDIAN, SPREAD, LONGEST = 300.0, 1.2, 10_800.0  # seconds, sigma, seconds: the videos' lengths
ON_CORE, ON_GPU, TIME_SPREAD = 1.0, 0.03, 0.35  # medians, in seconds a window, and sigma
PREPARING = 0.067  # seconds a window: 8 CPU seconds an hour of audio


@dataclass(frozen=True, slots=True)
class Folder:
    """Videos, and how long each of their windows takes."""

    windows: Mapping[int, int]
    seconds: Mapping[Unit, float]

    @property
    def videos(self) -> list[float]:
        """Seconds of work in each video, in the order given."""
        return [
            sum(self.seconds[video, position] for position in range(count))
            for video, count in self.windows.items()
        ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; the exit code."""
    given = _parser().parse_args(arguments)
    facts = machine()
    print_machine(facts)
    folder = draw(given.seed, given.videos, ON_CORE)
    efficiency = {slots: _efficiency(folder, slots) for slots in EFFICIENCY}
    _print_efficiency(folder, efficiency)
    fast = draw(given.seed, given.videos, ON_GPU)
    fill = {gpus: _fill(fast, gpus) for gpus in GPUS}
    alone = per_video_fill(fast.windows.values())
    _print_fill(fill, alone)
    return conclude(
        "replay",
        facts,
        _gates(efficiency, fill),
        seed=given.seed,
        videos=given.videos,
        windows=sum(folder.windows.values()),
        efficiency=efficiency,
        fill=fill,
        fill_per_video=alone,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--videos", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    return parser


def draw(seed: int, videos: int, median: float) -> Folder:
    """A folder, the same for the same seed; windows take ``median`` seconds in the middle."""
    chance = random.Random(seed)
    lengths = [min(LONGEST, MEDIAN * chance.lognormvariate(0.0, SPREAD)) for _ in range(videos)]
    windows = {video: ceil(length / WINDOW) for video, length in enumerate(lengths)}
    seconds = {
        (video, position): median * chance.lognormvariate(0.0, TIME_SPREAD)
        for video, count in windows.items()
        for position in range(count)
    }
    return Folder(windows, seconds)


# --- efficiency --------------------------------------------------------------------------------


def _efficiency(folder: Folder, slots: int) -> dict[str, float]:
    """Ours and two orders of a process pool against the same bound."""
    work = list(folder.seconds.values())
    bound = max(sum(work) / slots, *work)
    replay = Replay(
        folder.windows,
        {f"cpu:{number}": 1 for number in range(slots)},
        preparation=max(1, slots // PER_CORE),
        seconds=folder.seconds.__getitem__,
        prepare_seconds=PREPARING,
    )
    ours = replay.run() - replay.open_seconds
    assert len(replay.done) == len(work)
    videos = folder.videos
    return {
        "ours": round(bound / ours, 4),
        "in_order": round(bound / pool_seconds(videos, slots), 4),
        "longest_first": round(bound / pool_seconds(sorted(videos, reverse=True), slots), 4),
        "whole_videos_at_best": round(bound / max(sum(work) / slots, *videos), 4),
        "bound_seconds": round(bound, 1),
    }


def pool_seconds(pieces: Iterable[float], workers: int) -> float:
    """When a pool is done whose workers take piece after piece, at no cost of its own."""
    free = [0.0] * workers
    for piece in pieces:
        heapq.heapreplace(free, free[0] + piece)
    return max(free)


# --- fill --------------------------------------------------------------------------------------


def _fill(folder: Folder, gpus: int) -> dict[str, float]:
    replay = Replay(
        folder.windows,
        {f"cuda:{number}": BATCH for number in range(gpus)},
        preparation=PER_GPU * gpus,
        seconds=folder.seconds.__getitem__,
        prepare_seconds=PREPARING,
    )
    replay.run()
    rows = [len(units) for _, _, units in replay.batches]
    return {
        "fill": round(replay.schedule.batch_fill or 0.0, 4),
        "all_batches": round(sum(rows) / (BATCH * len(rows)), 4),
        "batches": len(rows),
    }


def per_video_fill(windows: Iterable[int]) -> float:
    """Rows used / rows offered if no batch held windows of two videos."""
    counts = list(windows)
    return round(sum(counts) / sum(BATCH * ceil(count / BATCH) for count in counts), 4)


# --- telling -----------------------------------------------------------------------------------


def _print_efficiency(folder: Folder, found: Mapping[int, Mapping[str, float]]) -> None:
    print(
        f"\n{len(folder.windows)} videos, {len(folder.seconds)} windows, the longest video"
        f" {max(folder.windows.values())}; efficiency"
    )
    head = ["slots", "ours", "whole videos in order", "longest first", "at best", "bound s"]
    columns = ("ours", "in_order", "longest_first", "whole_videos_at_best", "bound_seconds")
    _print_rows(head, found, columns)


def _print_fill(found: Mapping[int, Mapping[str, float]], alone: float) -> None:
    print(f"\nbatches of {BATCH}; a batch a video would be filled to {alone:.3f}")
    head = ["GPUs", "fill", "with what idle slots took", "batches"]
    _print_rows(head, found, ("fill", "all_batches", "batches"))


def _print_rows(
    head: Sequence[str], found: Mapping[int, Mapping[str, float]], columns: Sequence[str]
) -> None:
    rows = [[n, *(f"{row[column]:.4g}" for column in columns)] for n, row in found.items()]
    print_table(head, rows)


def _gates(
    efficiency: Mapping[int, Mapping[str, float]], fill: Mapping[int, Mapping[str, float]]
) -> list[Gate]:
    gates = [
        Gate(
            f"efficiency with {slots} slots at least {target}",
            efficiency[slots]["ours"] >= target,
            f"{efficiency[slots]['ours']:.4f}",
        )
        for slots, target in EFFICIENCY.items()
    ]
    worst = min(found["fill"] for found in fill.values())
    return [*gates, Gate(f"batch fill at least {FILL}", worst >= FILL, f"{worst:.4f}")]


if __name__ == "__main__":
    sys.exit(main())
