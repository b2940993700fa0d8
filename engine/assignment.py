"""What each place gets next: a process, a video to open, windows to make, a batch.

In: the places, what waits, how short of memory the run is, the time. Out: actions, and how full the
batches were that could have been full. Pure; part of the schedule, which is its only user and tells
it nothing of failures: what comes of them waits again or is gone.
"""

from collections.abc import Sequence
from math import ceil

from engine.messages import Action
from engine.places import Batch, Phase, Place, those_open
from engine.pools.pressure import Pressure
from engine.video_queue import VideoQueue
from engine.window_queue import WindowQueue

IN_FLIGHT = 2  # batches a slot holds, so that it never waits for the loop
AHEAD = 4  # batches a slot that preparation may be ahead
WINDOWS_A_CALL = 4  # asked of a preparation worker at once


class Assignment:
    """Gives out what waits in the queues; see the module's docstring."""

    def __init__(
        self,
        slots: Sequence[Place],
        preparers: Sequence[Place],
        videos: VideoQueue,
        windows: WindowQueue,
        *,
        sequential: bool,
        may_wait: int | None,
    ) -> None:
        """``may_wait``: windows for which there is room while they wait; None: it is not known."""
        self.pressure = Pressure.NONE
        self._slots = slots
        self._preparers = preparers
        self._videos = videos
        self._windows = windows
        self._sequential = sequential
        ahead = AHEAD * sum(slot.batch_size for slot in slots)
        self._ahead = max(2, ahead if may_wait is None else min(ahead, may_wait))
        self._batches = 0
        self._used = self._offered = 0  # rows, over batches that could have been full

    @property
    def reading(self) -> bool:
        """Whether further windows may come."""
        places = (*self._slots, *self._preparers)
        held = any(place.video is not None or place.probing for place in places)
        return held or len(self._videos) > 0

    @property
    def batch_fill(self) -> float | None:
        """Rows used over rows offered; None: no batch could have been full.

        What the slots share out among themselves when no more windows will come does not count.
        """
        return self._used / self._offered if self._offered else None

    def give(self, now: float) -> list[Action]:
        """What those that could do more get to do."""
        actions: list[Action] = []
        for place in (*self._slots, *self._preparers):
            if place.phase is Phase.ABSENT and self._wanted(place):
                actions.append(place.start(now))
        for place in those_open(self._preparers):
            if not place.busy:
                actions += self._give_preparation(place, now)
        return actions + self._give_slots(now)

    def _wanted(self, place: Place) -> bool:
        """Whether there is anything left that a process in this place could do."""
        if place.is_slot:
            return self.reading or len(self._windows) > 0
        if self.pressure is not Pressure.NONE and self._has_company(place):
            return False
        return len(self._videos) > 0

    def _has_company(self, place: Place) -> bool:
        """Whether another preparation worker has a process."""
        alive = (Phase.OPENING, Phase.OPEN)
        return any(other.phase in alive for other in self._preparers if other is not place)

    def _give_preparation(self, place: Place, now: float) -> list[Action]:
        if self._videos.unseen:
            return [place.probe(self._videos.take_unseen(), now)]
        if self._sequential or any(other.probing for other in self._preparers):
            return []  # the order is not known yet
        room = self._room(place)
        if room <= 0:
            return []
        if place.video is not None:
            return [place.prepare(place.video, min(room, WINDOWS_A_CALL), now)]
        video = self._videos.take()
        return [] if video is None else [place.prepare(video, 1, now)]

    def _room(self, place: Place) -> int:
        """Windows that this worker may make now."""
        asked = sum(other.asked for other in self._preparers)
        ahead = self._ahead
        if self.pressure is not Pressure.NONE:
            others = (other for other in self._preparers if other is not place)
            if asked or (place.video is None and any(p.video is not None for p in others)):
                return 0  # one at a time, and no new video before the open ones have ended
            ahead = max(2, ahead // AHEAD)
        return ahead - asked - self._windows.single

    def _give_slots(self, now: float) -> list[Action]:
        actions: list[Action] = []
        slots = those_open(self._slots)
        if self._sequential:
            for slot in slots:
                actions += self._give_file(slot, now)
            return actions
        for held in range(IN_FLIGHT):
            for slot in slots:
                if len(slot.batches) == held:
                    actions += self._give_batch(slot, now)
        return actions

    def _give_file(self, slot: Place, now: float) -> list[Action]:
        if slot.busy:
            return []
        video = slot.video
        if video is None and not self._videos.unseen:
            video = self._videos.take()
        return [] if video is None else [slot.advance(video, now)]

    def _give_batch(self, slot: Place, now: float) -> list[Action]:
        available = self._windows.available
        units = self._windows.take_batch()
        if not units:
            units = self._windows.pick(self._batch_for(slot, now), self._videos.rank)
        if not units:
            return []
        self._note_fill(slot, len(units), available)
        self._batches += 1
        return [slot.decode(Batch(self._batches, units), now)]

    def _batch_for(self, slot: Place, now: float) -> int:
        """How many windows a slot gets now.

        An idle slot takes what there is; a busy one gets a second batch only if there is a full one
        for every slot. When no more windows will come, a slot takes no more than its share of all
        that is left, so that the slots end together.
        """
        available = self._windows.available
        slots = those_open(self._slots)
        full = self._full(slot)
        count = min(full, available)
        if slot.batches:
            count = full if available >= full * len(slots) else 0
        elif not self.reading:
            left = available + sum(other.left(now) for other in slots)
            count = min(count, max(1, ceil(left / len(slots))))
        return count

    def _full(self, slot: Place) -> int:
        """Windows of a full batch."""
        halved = self.pressure is Pressure.BATCH
        return max(1, slot.batch_size // 2) if halved else slot.batch_size

    def _note_fill(self, slot: Place, count: int, available: int) -> None:
        """A batch counts if it could have been full, unless less is the slot's share of the end."""
        full = self._full(slot)
        shared = count < full and not slot.batches and not self.reading
        if available >= full and not shared:
            self._used += min(count, full)
            self._offered += full
