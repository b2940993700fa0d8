"""Windows that wait for a slot.

In: windows of videos, batches to be sent once more, how many of a video's windows may go. Out: the
units of the next batch, videos by rank, windows in order. Pure; part of the schedule, which is its
only user. Knows nothing about slots.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable

from engine.messages import Unit


class WindowQueue:
    """Single windows, and batches that go out as they are."""

    def __init__(self) -> None:
        self._ready: dict[int, deque[int]] = {}  # positions in order, by video; none is empty
        self._gates: dict[int, int] = {}  # language unknown: only so many first windows may go
        self._again: deque[tuple[Unit, ...]] = deque()  # batches of one video, sent as they are

    def __len__(self) -> int:
        """Windows that wait, whether they may go or not."""
        return self.single + sum(map(len, self._again))

    @property
    def single(self) -> int:
        """Windows that wait and are not in a batch that is sent again."""
        return sum(map(len, self._ready.values()))

    @property
    def available(self) -> int:
        """Windows that may go now."""
        return sum(map(self._usable, self._ready)) + sum(map(len, self._again))

    def put(self, video: int, positions: Iterable[int]) -> None:
        """At least one window of a video waits, for the first time or once more."""
        self._ready[video] = deque(sorted([*self._ready.get(video, ()), *positions]))

    def put_batch(self, units: tuple[Unit, ...]) -> None:
        """These units of one video wait to be sent as they are, before all others."""
        self._again.append(units)

    def set_gate(self, video: int, gate: int | None) -> None:
        """How many first windows of this video may go; None: all, its language is known."""
        if gate is None:
            self._gates.pop(video, None)
        else:
            self._gates[video] = gate

    def take_batch(self) -> tuple[Unit, ...]:
        """The units that have waited longest to be sent as they are; empty: there are none."""
        return self._again.popleft() if self._again else ()

    def pick(self, count: int, rank: Callable[[int], float]) -> tuple[Unit, ...]:
        """Up to ``count`` single units that may go; those of a video of smaller rank first."""
        units: list[Unit] = []
        for video in sorted(self._ready, key=lambda v: (rank(v), v)):
            waiting = self._ready[video]
            for _ in range(min(count - len(units), self._usable(video))):
                units.append((video, waiting.popleft()))
            if not waiting:
                del self._ready[video]
            if len(units) == count:
                break
        return tuple(units)

    def drop(self, video: int) -> None:
        """Forget the windows of a video."""
        self._ready.pop(video, None)
        self._again = deque(units for units in self._again if units[0][0] != video)

    def clear(self) -> None:
        """Forget all that waits."""
        self._ready.clear()
        self._again.clear()

    def _usable(self, video: int) -> int:
        """Windows of this video that may go: of one whose language is unknown, the first ones."""
        waiting, gate = self._ready[video], self._gates.get(video)
        return len(waiting) if gate is None else bisect_left(waiting, gate)
