"""Deaths of workers: who is to blame, and who may be tried again.

In: what was under way when a worker died, or when a batch raised an error. Out: what of it gets
another try. Pure; part of the schedule, which is its only user and fails whoever has had its tries.
"""

from collections import Counter
from itertools import groupby

from engine.messages import Unit
from engine.places import Batch

TRIES = 2  # workers that one video may cost


class Deaths:
    """Counts them, by window and by video."""

    def __init__(self) -> None:
        self._windows: Counter[Unit] = Counter()
        self._videos: Counter[int] = Counter()

    def parts(self, batch: Batch) -> list[tuple[Unit, ...]]:
        """A batch failed: what to send again, a video each, for one of them is to blame.

        Nothing, if it had but one video and that has had its tries.
        """
        self._windows.update(batch.units)
        alone = len(batch.videos) == 1
        if alone and max(self._windows[unit] for unit in batch.units) >= TRIES:
            return []
        by_video = groupby(sorted(batch.units), key=lambda unit: unit[0])
        return [tuple(units) for _, units in by_video]

    def may_try(self, video: int) -> bool:
        """A worker died at work on this video alone: whether another may try it."""
        self._videos[video] += 1
        return self._videos[video] < TRIES
