"""What goes into the schedule and what comes out of it: events that happened, actions to take.

A place is where a worker process lives: "cpu:0" (a slot), "prep:0" (preparation). A unit is one
window, (video, position); videos are numbers. Seconds are spans, never instants.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from engine.pools.pressure import Pressure
from engine.records import Problem

Unit = tuple[int, int]  # video, position of the window
CallKey = tuple[int, str, int]  # video, recipe, chunk


# --- events ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Begin:
    """The run starts."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A place has opened; a slot says how long one window took it at least."""

    place: str
    seconds: float = 0.0
    room: int | None = None  # windows that its GPU's memory has room for now; None: not known


@dataclass(frozen=True, slots=True)
class CannotOpen:
    """A place's worker refuses to work, with the reason."""

    place: str
    problem: Problem


@dataclass(frozen=True, slots=True)
class Died:
    """A place's process is gone."""

    place: str
    problem: Problem


@dataclass(frozen=True, slots=True)
class Probed:
    """Expected seconds of the videos looked at; those that cannot be read are left out."""

    place: str
    seconds: Mapping[int, float | None]


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows of a video that wait for a slot now.

    ``gate``: while the video's language is unknown only so many of its first windows may go.
    """

    place: str
    video: int
    positions: tuple[int, ...]
    ended: bool
    gate: int | None


@dataclass(frozen=True, slots=True)
class Broken:
    """A video turned out to be unreadable while it was prepared, or read in sequential mode."""

    place: str
    video: int


@dataclass(frozen=True, slots=True)
class Decoded:
    """A batch is done."""

    place: str
    batch: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Refused:
    """A batch raised an error; the worker lives."""

    place: str
    batch: int
    problem: Problem


@dataclass(frozen=True, slots=True)
class OutOfMemory:
    """A slot's memory was too small for what it did; the worker lives."""

    place: str
    batch: int | None  # None: opening, or a file in sequential mode
    problem: Problem
    smaller: bool  # there is a smaller compute type that may be tried


@dataclass(frozen=True, slots=True)
class MemoryPressure:
    """The host's memory is short, or no longer is."""

    pressure: Pressure


@dataclass(frozen=True, slots=True)
class Advanced:
    """A step of a file in sequential mode is done."""

    place: str
    video: int
    ended: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class ChunkReady:
    """A chunk waits for a call."""

    key: CallKey


@dataclass(frozen=True, slots=True)
class CallEnded:
    """A call is over, in any state; ``unsent``: it turned out not to be needed."""

    key: CallKey
    unsent: bool = False


@dataclass(frozen=True, slots=True)
class Drain:
    """Nothing new; what is under way may end."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event = (
    Begin | Ready | CannotOpen | Died | Probed | Windows | Broken | Decoded | Refused | Advanced
    | OutOfMemory | MemoryPressure | ChunkReady | CallEnded | Drain | Tick
)  # fmt: skip


# --- actions --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """Make a process in this place and open it."""

    place: str


@dataclass(frozen=True, slots=True)
class Kill:
    """End the process in this place."""

    place: str
    problem: Problem


@dataclass(frozen=True, slots=True)
class Lower:
    """End the process in this place; the next one opens with a smaller compute type."""

    place: str
    problem: Problem


@dataclass(frozen=True, slots=True)
class Probe:
    """Look at these containers."""

    place: str
    videos: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Prepare:
    """Make the next windows of a video (opening it if need be)."""

    place: str
    video: int
    count: int


@dataclass(frozen=True, slots=True)
class Decode:
    """Transcribe these windows in one model call."""

    place: str
    batch: int
    units: tuple[Unit, ...]


@dataclass(frozen=True, slots=True)
class Advance:
    """Transcribe a bit more of a file in sequential mode."""

    place: str
    video: int
    restart: bool


@dataclass(frozen=True, slots=True)
class Call:
    """Give this chunk to the LLM pool."""

    key: CallKey


@dataclass(frozen=True, slots=True)
class Fail:
    """Give this video up."""

    video: int
    problem: Problem


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No place of a kind is left: what is not done cannot be done now."""

    problem: Problem


Action = Start | Kill | Lower | Probe | Prepare | Decode | Advance | Call | Fail | GiveUp
