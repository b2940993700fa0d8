"""Chunks that wait for a call, and the calls under way.

In: chunks, exchanges that have ended, the time. Out: the chunks whose calls begin now, in the order
of their videos. Pure; part of the schedule, which is its only user.
"""

import heapq
from collections.abc import Callable, Collection

from engine.llm.exchanges import Exchange, Sent
from engine.llm.limits import Limits
from engine.messages import CallKey

Order = tuple[float, int, str]  # rank of the video, chunk, recipe


class CallQueue:
    """What waits goes out as far as ``limits`` allow."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.under_way: set[CallKey] = set()
        self.wake: float | None = None  # when the next call may begin, if none ends before
        self._waiting: list[tuple[Order, CallKey]] = []  # a heap

    def __len__(self) -> int:
        """Chunks that wait."""
        return len(self._waiting)

    def add(self, key: CallKey, rank: float) -> None:
        """A chunk waits; of two, that of the smaller rank goes first."""
        _, recipe, chunk = key
        heapq.heappush(self._waiting, ((rank, chunk, recipe), key))

    def ended(self, key: CallKey, *, unsent: bool) -> None:
        """A call is over; ``unsent``: without a request."""
        self.under_way.discard(key)
        if unsent:
            self.limits.unsent()
        if not self.under_way:
            self.limits.rest()

    def exchanged(self, told: Sent | Exchange) -> None:
        """One exchange of a call begins, or is over."""
        if isinstance(told, Sent):
            self.limits.sent(told)
        else:
            self.limits.ended(told, len(self.under_way))

    def drop(self, video: int) -> None:
        """Forget the chunks of a video."""
        self._keep(lambda key: key[0] != video)

    def remove(self, keys: Collection[CallKey]) -> None:
        """These need no call any more."""
        self._keep(lambda key: key not in keys)

    def _keep(self, wanted: Callable[[CallKey], bool]) -> None:
        self._waiting = [entry for entry in self._waiting if wanted(entry[1])]
        heapq.heapify(self._waiting)

    def clear(self) -> list[CallKey]:
        """Forget all that waits; returns it in order."""
        waiting, self._waiting, self.wake = sorted(self._waiting), [], None
        return [key for _, key in waiting]

    def begin(self, now: float) -> list[CallKey]:
        """Calls that begin now."""
        begun: list[CallKey] = []
        self.wake = None
        while self._waiting:
            wait = self.limits.wait(len(self.under_way), now)
            if wait is None:
                break
            if wait > 0.0:
                self.wake = now + wait
                break
            _, key = heapq.heappop(self._waiting)
            self.limits.begin(now)
            self.under_way.add(key)
            begun.append(key)
        return begun

    def hold(self) -> None:
        """No call will begin any more."""
        self.wake = None
