"""What a run tells while it goes on: one frozen record per thing that happened.

The loop makes them, in order, in its own thread; the progress display and a caller's ``on_event``
read them. They carry facts, no text for people except where a field says so. Spans are seconds.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.records import RunReport, State, Video, VideoResult

if TYPE_CHECKING:  # whoever listens needs no psutil
    from engine.pools.monitor import Sample


@dataclass(frozen=True, slots=True)
class Fetching:
    """The model is not here and is being fetched; comes before ``RunStarted``."""

    done: int  # bytes
    total: int  # bytes; 0: not known


@dataclass(frozen=True, slots=True)
class RunStarted:
    """Everything is known that can be known before the first slot opens."""

    videos: int  # asked for
    todo: int  # of these, not done already
    slots: tuple[str, ...]  # names: "cuda:0", "cpu:1"
    model: str
    note: str | None  # why this model, if it is not the one a user would expect


@dataclass(frozen=True, slots=True)
class SlotChanged:
    """A slot does something else now."""

    slot: str
    doing: str  # a few words for people: "opening", "3 windows of talk.mp4", "idle"


@dataclass(frozen=True, slots=True)
class VideoMeasured:
    """A container has said how long it is; comes before its video starts."""

    video: Video
    seconds: float | None  # as declared; None: it does not say


@dataclass(frozen=True, slots=True)
class VideoStarted:
    """A video has been opened."""

    video: Video


@dataclass(frozen=True, slots=True)
class VideoProgress:
    """A video's transcript has grown."""

    video: Video
    seconds_done: float  # of its audio, from the start, without a gap
    seconds_total: float | None


@dataclass(frozen=True, slots=True)
class VideoFinished:
    """A video has ended, in any state, and its files are written."""

    result: VideoResult


@dataclass(frozen=True, slots=True)
class CallStarted:
    """A chunk has been given to the LLM pool."""

    video: Video
    recipe: str
    chunk: int


@dataclass(frozen=True, slots=True)
class CallFinished:
    """A chunk's call has ended, in any state."""

    video: Video
    recipe: str
    chunk: int
    state: State


@dataclass(frozen=True, slots=True)
class LlmChanged:
    """How busy the LLM pool is."""

    active: int  # calls under way
    waiting: int  # chunks that wait for a thread


@dataclass(frozen=True, slots=True)
class Sampled:
    """The monitor has measured the machine."""

    sample: "Sample"


@dataclass(frozen=True, slots=True)
class Notice:
    """Something a person should know; one sentence."""

    text: str


@dataclass(frozen=True, slots=True)
class RunFinished:
    """The last event of a run."""

    report: RunReport


Event = (
    Fetching
    | RunStarted
    | SlotChanged
    | VideoMeasured
    | VideoStarted
    | VideoProgress
    | VideoFinished
    | CallStarted
    | CallFinished
    | LlmChanged
    | Sampled
    | Notice
    | RunFinished
)
