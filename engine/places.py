"""Where worker processes live: slots and preparation workers, what each has to do, its clock.

In: what a place is given and what came of it, the time. Out: the message that gives it, what it has
still to do, the instant at which it will be judged to hang. Pure; part of the schedule. A place
knows nothing about other places, and nothing about what waits.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from engine.messages import Advance, Decode, Prepare, Probe, Start, Unit

START_LIMIT = 120.0  # seconds for a process to say hello
OPEN_LIMIT = 900.0  # for a model to load, from a slow disk perhaps
PROBE_LIMIT = 60.0
PREPARE_LIMIT = 180.0
DECODE_LIMIT = 60.0  # at least; else so many times what a window is known to take:
DECODE_FACTOR = 20.0


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


@dataclass(frozen=True, slots=True)
class Held:
    """What a place had when its process ended."""

    batches: tuple[Batch, ...]  # oldest first
    probing: tuple[int, ...]
    video: int | None
    busy: bool


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

    @property
    def working(self) -> bool:
        """Whether anything is under way in it."""
        return self.busy or bool(self.batches)

    def left(self, now: float) -> float:
        """Windows it has still to do, as far as its pace tells."""
        if not self.batches:
            return 0.0
        done = (now - self.since) / self.pace if self.pace else 0.0
        first, *others = (len(batch.units) for batch in self.batches)
        return max(0.0, first - done) + sum(others)

    # its process

    def start(self, now: float) -> Start:
        """It gets a process."""
        self.phase, self.deadline = Phase.OPENING, now + START_LIMIT + OPEN_LIMIT
        return Start(self.name)

    def opened(self, seconds: float, room: int | None) -> None:
        """The process can work: ``seconds`` a window at least, and memory for ``room`` of them."""
        self.phase, self.starts, self.deadline = Phase.OPEN, 0, None
        self.window_seconds = max(self.window_seconds, seconds)
        self.batch_size = min(self.batch_size, room or self.batch_size)

    def end(self) -> Held:
        """It has no process any more; returns what that had."""
        held = Held(tuple(self.batches), self.probing, self.video, self.busy)
        self.phase = Phase.ABSENT
        self.batches, self.probing, self.video = [], (), None
        self._free()
        return held

    def retire(self) -> None:
        """It will get no further process."""
        self.phase, self.deadline = Phase.RETIRED, None

    # one thing at a time: containers, windows of a video, a step of a file

    def probe(self, videos: tuple[int, ...], now: float) -> Probe:
        """It looks at these containers."""
        self.probing, self.busy, self.deadline = videos, True, now + PROBE_LIMIT
        return Probe(self.name, videos)

    def prepare(self, video: int, count: int, now: float) -> Prepare:
        """It makes the next windows of a video, which it keeps open."""
        self.video, self.asked = video, count
        self.busy, self.deadline = True, now + PREPARE_LIMIT
        return Prepare(self.name, video, count)

    def advance(self, video: int, now: float) -> Advance:
        """It transcribes a bit more of a file; from its beginning if it does not hold it yet."""
        restart, self.video = self.video is None, video
        self.busy = True
        self.deadline = now + max(2 * DECODE_LIMIT, DECODE_FACTOR * self.window_seconds)
        return Advance(self.name, video, restart)

    def delivered(self, *, ended: bool = False, seconds: float = 0.0) -> None:
        """That is done; ``ended``: its video is not needed any more."""
        self.probing = ()
        self.window_seconds = max(self.window_seconds, seconds)
        if ended:
            self.video = None
        self._free()

    def _free(self) -> None:
        self.busy, self.asked, self.deadline = False, 0, None

    # batches, several at once

    def decode(self, batch: Batch, now: float) -> Decode:
        """It gets another batch."""
        self.batches.append(batch)
        if len(self.batches) == 1:
            self._wind(now)
        return Decode(self.name, batch.number, batch.units)

    def take(self, number: int, now: float) -> Batch:
        """The batch that has ended; the next one's clock starts now."""
        batch = next(b for b in self.batches if b.number == number)
        self.batches.remove(batch)
        self._wind(now)
        return batch

    def decoded(self, number: int, seconds: float, now: float) -> None:
        """A batch is done, after so many seconds."""
        self.pace = seconds / len(self.take(number, now).units)
        self.window_seconds = max(self.window_seconds, self.pace)

    def _wind(self, now: float) -> None:
        """A slot's clock runs for its oldest batch."""
        self.since, self.deadline = now, None
        if self.batches:
            known = DECODE_FACTOR * self.window_seconds * len(self.batches[0].units)
            self.deadline = now + max(DECODE_LIMIT, known)


def those_open(places: Iterable[Place]) -> list[Place]:
    """Those that have a process which can work."""
    return [place for place in places if place.phase is Phase.OPEN]
