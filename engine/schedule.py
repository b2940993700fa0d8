"""Who does what next: events in, actions out, nothing else.

``Schedule.step(event, now)`` is the only way in. It owns no process, thread, file or clock, so a
night on eight GPUs can be replayed in a test. What it decides: which windows form a batch and which
slot gets it, which video a preparation worker opens, when a call may start, who is killed for
hanging, and whose fault a death was.

Its words are in messages.py. Videos are numbers here; smaller rank goes first.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from itertools import groupby
from math import ceil

from engine.call_queue import CallQueue
from engine.llm.limits import Limits
from engine.messages import (
    Action,
    Advance,
    Advanced,
    Begin,
    Broken,
    Call,
    CallEnded,
    CannotOpen,
    ChunkReady,
    Decode,
    Decoded,
    Died,
    Drain,
    Event,
    Fail,
    GiveUp,
    Kill,
    Lower,
    MemoryPressure,
    OutOfMemory,
    Prepare,
    Probe,
    Probed,
    Ready,
    Refused,
    Start,
    Tick,
    Unit,
    Windows,
)
from engine.pools.pressure import Pressure
from engine.records import Problem
from engine.usage import Standing

IN_FLIGHT = 2  # batches a slot holds, so that it never waits for the loop
AHEAD = 4  # batches a slot that preparation may be ahead
PROBES = 16  # containers looked at in one call
WINDOWS_A_CALL = 4  # asked of a preparation worker at once
TRIES = 2  # workers that one video may cost
STARTS = 3  # processes in a row that may die in a place before it is given up

START_LIMIT = 120.0  # seconds for a process to say hello
OPEN_LIMIT = 900.0  # for a model to load, from a slow disk perhaps
PROBE_LIMIT = 60.0
PREPARE_LIMIT = 180.0
DECODE_LIMIT = 60.0  # at least; else so many times what a window is known to take:
DECODE_FACTOR = 20.0


# --- state ----------------------------------------------------------------------------------------


class Phase(Enum):
    """Where a place stands."""

    ABSENT = "absent"
    OPENING = "opening"
    OPEN = "open"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True)
class Batch:
    """Units under way in one model call."""

    number: int
    units: tuple[Unit, ...]

    @property
    def videos(self) -> tuple[int, ...]:
        """The videos in it, each once."""
        return tuple(dict.fromkeys(video for video, _ in self.units))


@dataclass(slots=True)
class Place:
    """A slot or a preparation worker."""

    name: str
    batch_size: int = 0  # windows it takes at once; 0: preparation
    planned: int = 0  # the same as sizing had it
    phase: Phase = Phase.ABSENT
    starts: int = 0  # processes in a row that died before they were open
    batches: list[Batch] = field(default_factory=list)  # oldest first
    probing: tuple[int, ...] = ()
    video: int | None = None  # the open one
    busy: bool = False
    asked: int = 0  # windows requested and not yet delivered
    deadline: float | None = None
    window_seconds: float = 0.0  # the slowest window seen
    pace: float = 0.0  # seconds a window of its last batch
    since: float = 0.0  # when its oldest batch began

    @property
    def is_slot(self) -> bool:
        """Whether it holds a model."""
        return self.batch_size > 0

    def left(self, now: float) -> float:
        """Windows it has still to do, as far as its pace tells."""
        if not self.batches:
            return 0.0
        done = (now - self.since) / self.pace if self.pace else 0.0
        first, *others = (len(batch.units) for batch in self.batches)
        return max(0.0, first - done) + sum(others)


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
        self.places = {name: Place(name, size, size) for name, size in slots.items()}
        self.places |= {f"prep:{i}": Place(f"prep:{i}") for i in range(preparation)}
        self._sequential = sequential
        ahead = AHEAD * sum(slots.values())
        self._ahead = max(2, ahead if may_wait is None else min(ahead, may_wait))
        self._pressure = Pressure.NONE
        self._to_probe = deque(videos)
        self._todo: list[int] = []  # not opened yet, best last
        self._rank: dict[int, float] = {}
        self._ready: dict[int, deque[int]] = {}  # windows that wait, by video
        self._gates: dict[int, int] = {}  # language unknown: only so many first windows may go
        self._again: deque[tuple[Unit, ...]] = deque()  # batches of one video, sent as they are
        self._deaths: dict[Unit, int] = {}
        self._video_deaths: dict[int, int] = {}
        self._alone = False  # containers are looked at one by one: one of them kills
        self._gone: set[int] = set()  # videos given up
        self._batches = 0
        self.calls = CallQueue(limits)
        self._draining = False
        self._gave_up = False
        self.fill_used = self.fill_offered = 0  # rows, over batches that could have been full

    # what the loop may ask

    @property
    def idle(self) -> bool:
        """Nothing is under way, and nothing waits for an instant."""
        calls = self.calls.under_way or self.calls.wake is not None
        return not calls and not any(place.busy or place.batches for place in self.places.values())

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
        return sum(map(len, self._ready.values())) + sum(map(len, self._again))

    @property
    def standing(self) -> Standing:
        """How the slots stand, for the account of the run."""
        slots = [p for p in self.places.values() if p.is_slot and p.phase is Phase.OPEN]
        busy = sum(place.busy or bool(place.batches) for place in slots)
        waiting = self._available() + sum(map(len, self._again))
        return Standing(len(slots), busy, waiting, self._reading)

    @property
    def open_slots(self) -> tuple[str, ...]:
        """Names of the slots that have a model."""
        places = self.places.values()
        return tuple(p.name for p in places if p.is_slot and p.phase is Phase.OPEN)

    def holds(self, name: str, batch: int) -> bool:
        """Whether a batch is still that slot's; else its windows wait again, and it is void."""
        return any(held.number == batch for held in self.places[name].batches)

    def drop(self, video: int) -> None:
        """Forget everything that waits for a video."""
        self._gone.add(video)
        self._ready.pop(video, None)
        self._todo = [v for v in self._todo if v != video]
        self._again = deque(units for units in self._again if units[0][0] != video)
        self.calls.drop(video)
        for place in self.places.values():
            if place.video == video and not place.busy:
                place.video = None

    def step(self, event: Event, now: float) -> list[Action]:
        """What follows from an event; ``now`` in seconds on the monotonic clock."""
        actions = self._take(event, now)
        if not self._draining:
            actions += self._assign(now)
        return actions

    # events

    def _take(self, event: Event, now: float) -> list[Action]:  # noqa: PLR0912 -- a table
        match event:
            case Ready(name, seconds, room):
                self._opened(self.places[name], seconds, room)
            case CannotOpen(name, problem):
                return self._retire(self.places[name], problem)
            case Died(name, problem):
                return self._died(self.places[name], problem, now)
            case Probed(name, seconds):
                self._probed(self.places[name], seconds)
            case Windows():
                self._windows(event)
            case Broken(name, video):
                self._free(self.places[name])
                self.places[name].video = None
                self.drop(video)
            case Decoded(name, batch, seconds):
                place = self.places[name]
                done = self._take_batch(place, batch, now)
                place.pace = seconds / len(done.units)
                place.window_seconds = max(place.window_seconds, place.pace)
            case Refused(name, batch, problem):
                return self._blame(self._take_batch(self.places[name], batch, now), problem)
            case OutOfMemory(name, batch, problem, smaller):
                return self._out_of_memory(self.places[name], batch, problem, now, smaller=smaller)
            case MemoryPressure(pressure):
                self._pressure = pressure
            case Advanced(name, video, ended, seconds):
                place = self.places[name]
                self._free(place)
                place.window_seconds = max(place.window_seconds, seconds)
                if ended or video in self._gone:
                    place.video = None
            case ChunkReady(key):
                self.calls.add(key, self._rank.get(key[0], 0.0))
            case CallEnded(key):
                self.calls.ended(key)
            case Drain():
                self._draining = True
                self.calls.hold()
            case Tick():
                return self._overdue(now)
            case Begin():
                pass
        return []

    def _opened(self, place: Place, seconds: float, room: int | None) -> None:
        place.phase, place.starts, place.deadline = Phase.OPEN, 0, None
        place.window_seconds = max(place.window_seconds, seconds)
        place.batch_size = min(place.batch_size, room or place.batch_size)

    def _probed(self, place: Place, seconds: Mapping[int, float | None]) -> None:
        """Longest first; unknown lengths before all, for they may be the longest."""
        place.probing = ()
        self._free(place)
        for video, length in seconds.items():
            self._rank[video] = -float("inf") if length is None else -length
            self._todo.append(video)
        self._todo.sort(key=lambda video: (self._rank[video], video), reverse=True)

    def _windows(self, event: Windows) -> None:
        place = self.places[event.place]
        self._free(place)
        if event.ended or event.video in self._gone:
            place.video = None
        if event.video in self._gone:
            return
        self.set_gate(event.video, event.gate)
        if event.positions:
            self._put(event.video, event.positions)

    def set_gate(self, video: int, gate: int | None) -> None:
        """How many first windows of this video may go; None: all, its language is known."""
        if gate is None:
            self._gates.pop(video, None)
        else:
            self._gates[video] = gate

    def decode_again(self, video: int, positions: Iterable[int]) -> None:
        """These windows were done in another language than the video's: they wait once more."""
        if positions := tuple(positions):
            self._put(video, positions)

    def _put(self, video: int, positions: Iterable[int]) -> None:
        self._ready[video] = deque(sorted([*self._ready.get(video, ()), *positions]))

    def _put_back(self, units: Iterable[Unit]) -> None:
        for video, position in units:
            if video not in self._gone:
                self._put(video, [position])

    def _free(self, place: Place) -> None:
        place.busy, place.asked, place.deadline = False, 0, None

    def _take_batch(self, place: Place, number: int, now: float) -> Batch:
        """The batch that has ended; the next one's clock starts now."""
        batch = next(b for b in place.batches if b.number == number)
        place.batches.remove(batch)
        self._wind(place, now)
        return batch

    def _wind(self, place: Place, now: float) -> None:
        """A slot's clock runs for its oldest batch."""
        place.since = now
        place.deadline = (
            now
            + max(
                DECODE_LIMIT,
                DECODE_FACTOR * place.window_seconds * len(place.batches[0].units),
            )
            if place.batches
            else None
        )

    # memory

    def _out_of_memory(
        self, place: Place, number: int | None, problem: Problem, now: float, *, smaller: bool
    ) -> list[Action]:
        """No video's fault. Half the windows at once; if it is one, smaller weights; or the end."""
        units = () if number is None else self._take_batch(place, number, now).units
        self._put_back(units)
        if len(units) > 1:
            place.batch_size = min(place.batch_size, len(units) // 2)
            return []
        self._give_back(place)
        if not smaller:
            return [Kill(place.name, problem), *self._retire(place, problem)]
        place.batch_size = place.planned
        return [Lower(place.name, problem)]

    def _give_back(self, place: Place) -> None:
        """Everything under way in a slot waits again, and the slot has no process."""
        place.phase = Phase.ABSENT
        for batch in place.batches:
            self._put_back(batch.units)
        place.batches = []
        if place.video is not None and place.video not in self._gone:
            self._todo.append(place.video)
        place.video = None
        self._free(place)

    def _send_home(self) -> list[Action]:
        """Under pressure one preparation worker is enough: those that hold no video are ended."""
        here = [p for p in self.places.values() if not p.is_slot and p.phase is Phase.OPEN]
        idle = [p for p in here if not p.busy and p.video is None]
        actions: list[Action] = []
        for place in idle[: len(here) - 1]:
            self._give_back(place)
            problem = Problem("E_MEMORY", "ended because memory is short")
            actions.append(Kill(place.name, problem))
        return actions

    # deaths

    def _died(self, place: Place, problem: Problem, now: float) -> list[Action]:
        """Charge the oldest thing under way; give everything else back."""
        was_open = place.phase is Phase.OPEN
        place.phase, place.deadline = Phase.ABSENT, None
        actions: list[Action] = []
        batches, place.batches = place.batches, []
        for batch in batches[1:]:
            self._put_back(batch.units)
        if batches:
            actions += self._blame(batches[0], problem)
        probing, place.probing = place.probing, ()
        if len(probing) == 1:
            actions += self._fail(probing[0], problem)
        for video in probing if len(probing) > 1 else ():
            actions += self._probe_alone(video, problem)
        if place.video is not None:
            video, place.video = place.video, None
            if place.busy:
                actions += self._blame_video(video, problem)
            elif video not in self._gone:
                self._todo.append(video)
        self._free(place)
        if not was_open:
            place.starts += 1
            if place.starts >= STARTS:
                actions += self._retire(place, problem)
        return actions

    def _probe_alone(self, video: int, problem: Problem) -> list[Action]:
        """One of several containers killed the worker: look at each by itself."""
        deaths = self._video_deaths.get(video, 0) + 1
        self._video_deaths[video] = deaths
        if deaths > TRIES:
            return self._fail(video, problem)
        self._to_probe.append(video)
        self._alone = True
        return []

    def _blame(self, batch: Batch, problem: Problem) -> list[Action]:
        """A batch failed: try again video by video; twice in a batch of its own ends a video."""
        actions: list[Action] = []
        own = len(batch.videos) == 1
        for video, units in groupby(sorted(batch.units), key=lambda unit: unit[0]):
            mine = tuple(units)
            if video in self._gone:
                continue
            for unit in mine:
                self._deaths[unit] = self._deaths.get(unit, 0) + 1
            if own and max(self._deaths[unit] for unit in mine) >= TRIES:
                actions += self._fail(video, problem)
            else:
                self._again.append(mine)
        return actions

    def _blame_video(self, video: int, problem: Problem) -> list[Action]:
        if video in self._gone:
            return []
        self._video_deaths[video] = self._video_deaths.get(video, 0) + 1
        if self._video_deaths[video] >= TRIES:
            return self._fail(video, problem)
        self._todo.append(video)
        return []

    def _fail(self, video: int, problem: Problem) -> list[Action]:
        self.drop(video)
        return [Fail(video, problem)]

    def _retire(self, place: Place, problem: Problem) -> list[Action]:
        """No further process for this place; without any of its kind the run cannot go on."""
        place.phase, place.deadline = Phase.RETIRED, None
        kind = [p for p in self.places.values() if p.is_slot == place.is_slot]
        if self._gave_up or any(p.phase is not Phase.RETIRED for p in kind):
            return []
        self._gave_up = True
        self._to_probe.clear()
        self._todo.clear()
        self._ready.clear()
        self._again.clear()
        return [GiveUp(problem)]

    def _overdue(self, now: float) -> list[Action]:
        actions: list[Action] = []
        for place in self.places.values():
            if place.deadline is not None and now >= place.deadline:
                problem = Problem(
                    "E_WORKER_HUNG", f"The worker {place.name} made no progress and was ended."
                )
                actions.append(Kill(place.name, problem))
                actions += self._died(place, problem, now)
        return actions

    # assignment

    def _assign(self, now: float) -> list[Action]:
        actions: list[Action] = []
        if self._pressure is not Pressure.NONE:
            actions += self._send_home()
        for place in self.places.values():
            if place.phase is Phase.ABSENT and self._wanted(place):
                place.phase, place.deadline = Phase.OPENING, now + START_LIMIT + OPEN_LIMIT
                actions.append(Start(place.name))
        for place in self.places.values():
            if place.phase is Phase.OPEN and not place.is_slot and not place.busy:
                actions += self._give_preparation(place, now)
        actions += self._give_slots(now)
        return actions + [Call(key) for key in self.calls.begin(now)]

    def _wanted(self, place: Place) -> bool:
        """Whether there is anything left that a process in this place could do."""
        if place.is_slot:
            return self._reading or bool(self._again) or any(self._ready.values())
        if self._pressure is not Pressure.NONE and self._has_company(place):
            return False
        return bool(self._to_probe or self._todo)

    def _has_company(self, place: Place) -> bool:
        """Whether another preparation worker has a process."""
        alive = (Phase.OPENING, Phase.OPEN)
        others = (p for p in self.places.values() if not p.is_slot and p is not place)
        return any(other.phase in alive for other in others)

    @property
    def _reading(self) -> bool:
        """Whether further windows may come."""
        return bool(self._to_probe or self._todo) or any(
            p.video is not None or p.probing for p in self.places.values()
        )

    def _give_preparation(self, place: Place, now: float) -> list[Action]:
        if self._to_probe:
            count = 1 if self._alone else PROBES
            taken = tuple(self._to_probe.popleft() for _ in range(min(count, len(self._to_probe))))
            place.probing, place.busy, place.deadline = taken, True, now + PROBE_LIMIT
            return [Probe(place.name, taken)]
        if self._sequential or any(p.probing for p in self.places.values()):
            return []  # the order is not known yet
        asked = sum(p.asked for p in self.places.values())
        ahead = self._ahead
        fresh = place.video is None
        if self._pressure is not Pressure.NONE:
            others = [p for p in self.places.values() if not p.is_slot and p is not place]
            if asked or (fresh and any(p.video is not None for p in others)):
                return []  # one at a time, and no new video before the open ones have ended
            ahead = max(2, ahead // AHEAD)
        room = ahead - asked - sum(map(len, self._ready.values()))
        if room <= 0:
            return []
        if fresh:
            if not self._todo:
                return []
            place.video = self._todo.pop()
        assert place.video is not None
        count = 1 if fresh else min(room, WINDOWS_A_CALL)
        place.busy, place.deadline = True, now + PREPARE_LIMIT
        place.asked = count
        return [Prepare(place.name, place.video, count)]

    def _give_slots(self, now: float) -> list[Action]:
        actions: list[Action] = []
        slots = [p for p in self.places.values() if p.is_slot and p.phase is Phase.OPEN]
        if self._sequential:
            for place in slots:
                actions += self._give_file(place, now)
            return actions
        for held in range(IN_FLIGHT):
            for place in slots:
                if len(place.batches) == held:
                    actions += self._give_batch(place, now)
        return actions

    def _give_file(self, place: Place, now: float) -> list[Action]:
        if place.busy or (place.video is None and (not self._todo or self._to_probe)):
            return []
        restart = place.video is None
        if restart:
            place.video = self._todo.pop()
        assert place.video is not None
        place.busy = True
        place.deadline = now + max(2 * DECODE_LIMIT, DECODE_FACTOR * place.window_seconds)
        return [Advance(place.name, place.video, restart)]

    def _give_batch(self, place: Place, now: float) -> list[Action]:
        if self._again:
            units = self._again.popleft()
        else:
            count = self._batch_for(place, now)
            if not count:
                return []
            units = self._pick(count)
        self._batches += 1
        place.batches.append(Batch(self._batches, units))
        if len(place.batches) == 1:
            self._wind(place, now)
        return [Decode(place.name, self._batches, units)]

    def _batch_for(self, place: Place, now: float) -> int:
        """How many windows a slot gets now.

        An idle slot takes what there is; a busy one gets a second batch only if there is a full one
        for every slot. When no more windows will come, a slot takes no more than its share of all
        that is left, so that the slots end together.
        """
        available = self._available()
        slots = [p for p in self.places.values() if p.is_slot and p.phase is Phase.OPEN]
        full = place.batch_size
        if self._pressure is Pressure.BATCH:
            full = max(1, full // 2)
        count = min(full, available)
        if place.batches:
            count = full if available >= full * len(slots) else 0
        elif not self._reading:
            left = available + sum(slot.left(now) for slot in slots)
            count = min(count, max(1, ceil(left / len(slots))))
        if count and available >= full:
            self.fill_used += count
            self.fill_offered += full
        return count

    def _available(self) -> int:
        return sum(self._usable(video) for video in self._ready)

    def _usable(self, video: int) -> int:
        """Windows of this video that may go: of one whose language is unknown, the first ones."""
        waiting, gate = self._ready[video], self._gates.get(video)
        return len(waiting) if gate is None else bisect_left(waiting, gate)

    def _pick(self, count: int) -> tuple[Unit, ...]:
        """The next units: videos by rank, windows in order."""
        units: list[Unit] = []
        for video in sorted(self._ready, key=lambda v: (self._rank.get(v, 0.0), v)):
            waiting = self._ready[video]
            for _ in range(min(count - len(units), self._usable(video))):
                units.append((video, waiting.popleft()))
            if not waiting:
                del self._ready[video]
            if len(units) == count:
                break
        return tuple(units)
