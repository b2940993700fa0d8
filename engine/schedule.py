"""Who does what next: events in, actions out, nothing else.

``Schedule.step(event, now)`` is the only way in. It owns no process, thread, file or clock, so a
night on eight GPUs can be replayed in a test. What it decides: which windows form a batch and which
slot gets it, which video a preparation worker opens, when a call may start, who is killed for
hanging, and whose fault a death was.

What waits is in video_queue.py, window_queue.py and call_queue.py, what works in places.py; who has
died of what is in deaths.py, and its words are in messages.py. Videos are numbers here.
"""

from collections.abc import Iterable, Mapping
from math import ceil

from engine import messages
from engine.call_queue import CallQueue
from engine.deaths import Deaths
from engine.llm.limits import Limits
from engine.messages import Action, Event
from engine.places import Batch, Phase, Place
from engine.pools.pressure import Pressure
from engine.records import Problem
from engine.usage import Standing
from engine.video_queue import VideoQueue
from engine.window_queue import WindowQueue

IN_FLIGHT = 2  # batches a slot holds, so that it never waits for the loop
AHEAD = 4  # batches a slot that preparation may be ahead
WINDOWS_A_CALL = 4  # asked of a preparation worker at once
STARTS = 3  # processes in a row that may die in a place before it is given up


class Schedule:
    """The state of a run's work; see the module's docstring."""

    def __init__(
        self,
        slots: Mapping[str, int],
        preparation: int,
        limits: Limits,
        videos: Iterable[int],
        *,
        sequential: bool = False,
        may_wait: int | None = None,
    ) -> None:
        """``slots``: name -> batch size; ``videos``: those that need a transcript.

        ``may_wait``: windows for which there is room while they wait; None: it is not known.
        """
        self._slots = [Place(name, size, size) for name, size in slots.items()]
        self._preparers = [Place(f"prep:{i}") for i in range(preparation)]
        self.places = {place.name: place for place in (*self._slots, *self._preparers)}
        self._sequential = sequential
        ahead = AHEAD * sum(slots.values())
        self._ahead = max(2, ahead if may_wait is None else min(ahead, may_wait))
        self._pressure = Pressure.NONE
        self._videos = VideoQueue(videos)
        self._windows = WindowQueue()
        self.calls = CallQueue(limits)
        self._gone: set[int] = set()  # videos given up
        self._deaths = Deaths()
        self._batches = 0
        self._draining = False
        self._gave_up = False
        self.fill_used = self.fill_offered = 0  # rows, over batches that could have been full

    # what the loop may ask

    @property
    def idle(self) -> bool:
        """Nothing is under way, and nothing waits for an instant."""
        calls = self.calls.under_way or self.calls.wake is not None
        return not calls and not any(place.working for place in self.places.values())

    @property
    def opening(self) -> bool:
        """Some place is being opened."""
        return any(place.phase is Phase.OPENING for place in self.places.values())

    @property
    def next_deadline(self) -> float | None:
        """The next instant at which a place will be judged to hang, or a call may begin."""
        instants = [p.deadline for p in self.places.values() if p.deadline]
        if self.calls.wake is not None:
            instants.append(self.calls.wake)
        return min(instants, default=None)

    @property
    def waiting_windows(self) -> int:
        """Windows that wait for a slot."""
        return len(self._windows)

    @property
    def standing(self) -> Standing:
        """How the slots stand, for the account of the run."""
        slots = self._open(self._slots)
        busy = sum(slot.working for slot in slots)
        return Standing(len(slots), busy, self._windows.available, self._reading)

    @property
    def open_slots(self) -> tuple[str, ...]:
        """Names of the slots that have a model."""
        return tuple(slot.name for slot in self._open(self._slots))

    def holds(self, name: str, batch: int) -> bool:
        """Whether a batch is still that slot's; else its windows wait again, and it is void."""
        return any(held.number == batch for held in self.places[name].batches)

    # what the loop may tell

    def step(self, event: Event, now: float) -> list[Action]:
        """What follows from an event; ``now`` in seconds on the monotonic clock."""
        actions = self._take(event, now)
        if not self._draining:
            actions += self._assign(now)
        return actions

    def set_gate(self, video: int, gate: int | None) -> None:
        """How many first windows of this video may go; None: all, its language is known."""
        self._windows.set_gate(video, gate)

    def decode_again(self, video: int, positions: Iterable[int]) -> None:
        """These windows were done in another language than the video's: they wait once more."""
        if positions := tuple(positions):
            self._windows.put(video, positions)

    def drop(self, video: int) -> None:
        """Forget everything that waits for a video."""
        self._gone.add(video)
        self._windows.drop(video)
        self._videos.drop(video)
        self.calls.drop(video)
        for place in self.places.values():
            if place.video == video and not place.busy:
                place.video = None

    # events

    def _take(self, event: Event, now: float) -> list[Action]:  # noqa: PLR0912 -- a table
        match event:
            case messages.Ready(name, seconds, room):
                self.places[name].opened(seconds, room)
            case messages.CannotOpen(name, problem):
                return self._retire(self.places[name], problem)
            case messages.Died(name, problem):
                return self._died(self.places[name], problem)
            case messages.Probed(name, seconds):
                self.places[name].delivered()
                self._videos.measured(seconds)
            case messages.Windows():
                self._prepared(event)
            case messages.Broken(name, video):
                self.places[name].delivered(ended=True)
                self.drop(video)
            case messages.Decoded(name, batch, seconds):
                self.places[name].decoded(batch, seconds, now)
            case messages.Refused(name, batch, problem):
                return self._blame(self.places[name].take(batch, now), problem)
            case messages.OutOfMemory():
                return self._out_of_memory(event, now)
            case messages.MemoryPressure(pressure):
                self._pressure = pressure
            case messages.Advanced(name, video, ended, seconds):
                ended = ended or video in self._gone
                self.places[name].delivered(ended=ended, seconds=seconds)
            case messages.ChunkReady(key):
                self.calls.add(key, self._videos.rank(key[0]))
            case messages.CallEnded(key):
                self.calls.ended(key)
            case messages.Drain():
                self._draining = True
                self.calls.hold()
            case messages.Tick():
                return self._overdue(now)
            case messages.Begin():
                pass
        return []

    def _prepared(self, event: messages.Windows) -> None:
        gone = event.video in self._gone
        self.places[event.place].delivered(ended=event.ended or gone)
        if not gone:
            self.set_gate(event.video, event.gate)
            self.decode_again(event.video, event.positions)

    def _give_back(self, batches: Iterable[Batch], video: int | None = None) -> None:
        """What a place had under way waits again."""
        for batch in batches:
            for number, position in batch.units:
                if number not in self._gone:
                    self._windows.put(number, [position])
        if video is not None and video not in self._gone:
            self._videos.put_back(video)

    # memory

    def _out_of_memory(self, event: messages.OutOfMemory, now: float) -> list[Action]:
        """No video's fault. Half the windows at once; if it is one, smaller weights; or the end."""
        place, problem = self.places[event.place], event.problem
        failed = [] if event.batch is None else [place.take(event.batch, now)]
        self._give_back(failed)
        windows = sum(len(batch.units) for batch in failed)
        if windows > 1:
            place.batch_size = min(place.batch_size, windows // 2)
            return []
        self._empty(place)
        if not event.smaller:
            return [messages.Kill(place.name, problem), *self._retire(place, problem)]
        place.batch_size = place.planned
        return [messages.Lower(place.name, problem)]

    def _empty(self, place: Place) -> None:
        """Its process goes, and nobody is to blame."""
        held = place.end()
        self._give_back(held.batches, held.video)

    def _send_home(self) -> list[Action]:
        """Under pressure one preparation worker is enough: those that hold no video are ended."""
        here = self._open(self._preparers)
        idle = [place for place in here if not place.busy and place.video is None]
        actions: list[Action] = []
        for place in idle[: len(here) - 1]:
            self._empty(place)
            problem = Problem("E_MEMORY", "ended because memory is short")
            actions.append(messages.Kill(place.name, problem))
        return actions

    # deaths

    def _died(self, place: Place, problem: Problem) -> list[Action]:
        """Charge the oldest thing under way; give everything else back."""
        was_open = place.phase is Phase.OPEN
        held = place.end()
        self._give_back(held.batches[1:], None if held.busy else held.video)
        actions: list[Action] = []
        if held.batches:
            actions += self._blame(held.batches[0], problem)
        for video in held.probing:  # of several it is not known which: each is tried by itself
            if len(held.probing) > 1 or self._deaths.may_try(video):
                self._videos.probe_alone(video)
            else:
                actions += self._fail(video, problem)
        if held.busy and held.video is not None and held.video not in self._gone:
            if self._deaths.may_try(held.video):
                self._videos.put_back(held.video)
            else:
                actions += self._fail(held.video, problem)
        if not was_open:
            place.starts += 1
            if place.starts >= STARTS:
                actions += self._retire(place, problem)
        return actions

    def _blame(self, batch: Batch, problem: Problem) -> list[Action]:
        """A batch failed: try again video by video; twice in a batch of its own ends a video."""
        parts = self._deaths.parts(batch)
        for units in parts:
            if units[0][0] not in self._gone:
                self._windows.put_batch(units)
        video = batch.videos[0]
        return [] if parts or video in self._gone else self._fail(video, problem)

    def _fail(self, video: int, problem: Problem) -> list[Action]:
        self.drop(video)
        return [messages.Fail(video, problem)]

    def _retire(self, place: Place, problem: Problem) -> list[Action]:
        """No further process for this place; without any of its kind the run cannot go on."""
        place.retire()
        kind = self._slots if place.is_slot else self._preparers
        if self._gave_up or any(other.phase is not Phase.RETIRED for other in kind):
            return []
        self._gave_up = True
        self._videos.clear()
        self._windows.clear()
        return [messages.GiveUp(problem)]

    def _overdue(self, now: float) -> list[Action]:
        actions: list[Action] = []
        for place in self.places.values():
            if place.deadline is not None and now >= place.deadline:
                problem = Problem(
                    "E_WORKER_HUNG", f"The worker {place.name} made no progress and was ended."
                )
                actions += [messages.Kill(place.name, problem), *self._died(place, problem)]
        return actions

    # assignment

    def _assign(self, now: float) -> list[Action]:
        actions = [] if self._pressure is Pressure.NONE else self._send_home()
        for place in self.places.values():
            if place.phase is Phase.ABSENT and self._wanted(place):
                actions.append(place.start(now))
        for place in self._open(self._preparers):
            if not place.busy:
                actions += self._give_preparation(place, now)
        actions += self._give_slots(now)
        return actions + [messages.Call(key) for key in self.calls.begin(now)]

    def _open(self, places: Iterable[Place]) -> list[Place]:
        return [place for place in places if place.phase is Phase.OPEN]

    def _wanted(self, place: Place) -> bool:
        """Whether there is anything left that a process in this place could do."""
        if place.is_slot:
            return self._reading or len(self._windows) > 0
        if self._pressure is not Pressure.NONE and self._has_company(place):
            return False
        return len(self._videos) > 0

    def _has_company(self, place: Place) -> bool:
        """Whether another preparation worker has a process."""
        alive = (Phase.OPENING, Phase.OPEN)
        return any(other.phase in alive for other in self._preparers if other is not place)

    @property
    def _reading(self) -> bool:
        """Whether further windows may come."""
        return len(self._videos) > 0 or any(
            place.video is not None or place.probing for place in self.places.values()
        )

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
        if self._pressure is not Pressure.NONE:
            others = (other for other in self._preparers if other is not place)
            if asked or (place.video is None and any(p.video is not None for p in others)):
                return 0  # one at a time, and no new video before the open ones have ended
            ahead = max(2, ahead // AHEAD)
        return ahead - asked - self._windows.single

    def _give_slots(self, now: float) -> list[Action]:
        actions: list[Action] = []
        slots = self._open(self._slots)
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
        slots = self._open(self._slots)
        full = self._full(slot)
        count = min(full, available)
        if slot.batches:
            count = full if available >= full * len(slots) else 0
        elif not self._reading:
            left = available + sum(other.left(now) for other in slots)
            count = min(count, max(1, ceil(left / len(slots))))
        return count

    def _full(self, slot: Place) -> int:
        """Windows of a full batch."""
        halved = self._pressure is Pressure.BATCH
        return max(1, slot.batch_size // 2) if halved else slot.batch_size

    def _note_fill(self, slot: Place, count: int, available: int) -> None:
        """A batch counts if it could have been full, unless less is the slot's share of the end."""
        full = self._full(slot)
        shared = count < full and not slot.batches and not self._reading
        if available >= full and not shared:
            self.fill_used += min(count, full)
            self.fill_offered += full
