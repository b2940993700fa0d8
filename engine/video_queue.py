"""Videos that wait for a preparation worker: first to be looked at, then to be opened.

In: videos, their lengths, those that come back after a death. Out: containers to look at, the next
video to open: the longest first, and unknown lengths before all, for they may be the longest. Pure;
part of the schedule, which is its only user. Knows nothing about places and windows.
"""

from collections import deque
from collections.abc import Iterable, Mapping

PROBES = 16  # containers looked at in one call


class VideoQueue:
    """All videos that need a transcript begin here; smaller rank goes first."""

    def __init__(self, videos: Iterable[int]) -> None:
        self._unseen = deque(videos)
        self._todo: list[int] = []  # not opened yet, best last
        self._rank: dict[int, float] = {}
        self._alone = False  # containers are looked at one by one: one of them kills

    def __len__(self) -> int:
        """Videos that wait."""
        return len(self._unseen) + len(self._todo)

    @property
    def unseen(self) -> int:
        """Those that have not been looked at."""
        return len(self._unseen)

    def rank(self, video: int) -> float:
        """Of two videos, that of the smaller rank goes first."""
        return self._rank.get(video, 0.0)

    def take_unseen(self) -> tuple[int, ...]:
        """The containers to look at in the next call."""
        count = 1 if self._alone else PROBES
        return tuple(self._unseen.popleft() for _ in range(min(count, len(self._unseen))))

    def probe_alone(self, video: int) -> None:
        """A container that may have killed its reader waits to be looked at by itself."""
        self._unseen.append(video)
        self._alone = True

    def measured(self, seconds: Mapping[int, float | None]) -> None:
        """These have been looked at; lengths in seconds, None: unknown."""
        for video, length in seconds.items():
            self._rank[video] = -float("inf") if length is None else -length
            self._todo.append(video)
        self._todo.sort(key=lambda video: (self._rank[video], video), reverse=True)

    def take(self) -> int | None:
        """The next video to open; None: there is none."""
        return self._todo.pop() if self._todo else None

    def put_back(self, video: int) -> None:
        """It waits again, before all others."""
        self._todo.append(video)

    def drop(self, video: int) -> None:
        """Forget a video that has been looked at."""
        self._todo = [v for v in self._todo if v != video]

    def clear(self) -> None:
        """Forget all that wait."""
        self._unseen.clear()
        self._todo.clear()
