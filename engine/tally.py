"""How far a run is: events in, counts and rates out.

Knows no clock and no terminal: whoever asks says what time it is, in monotonic seconds.
"""

from collections import Counter
from dataclasses import dataclass, field

from engine.events import (
    CallFinished,
    Event,
    Fetching,
    LlmChanged,
    RunStarted,
    SlotChanged,
    VideoFinished,
    VideoProgress,
    VideoStarted,
)
from engine.records import State, VideoResult

BROKEN = (State.FAILED, State.TIMED_OUT)
_USABLE = (State.DONE, State.DEGRADED)


@dataclass(slots=True)
class Tally:
    """What is known so far; changed by ``note`` alone."""

    started: float  # when the run began
    videos: int = 0
    todo: int = 0
    ended: int = 0  # of the videos to do
    resumed: int = 0
    broken: int = 0  # videos
    fetched: tuple[int, int] | None = None  # bytes of the model, of how many; None: not fetching
    slots: dict[str, str] = field(default_factory=dict)  # what each does now
    calls_active: int = 0
    calls_waiting: int = 0
    calls: Counter[State] = field(default_factory=Counter)  # how the ended ones ended
    _audio: float | None = None  # seconds of all videos to do
    _done: dict[str, float] = field(default_factory=dict)  # by path: seconds transcribed
    _total: dict[str, float] = field(default_factory=dict)  # by path: seconds in all, if declared
    _dropped: float = 0.0  # seconds that failed videos leave undone

    def note(self, event: Event) -> None:
        """Take one event in; those that change no figure are ignored."""
        match event:
            case Fetching():
                self.fetched = (event.done, event.total)
            case RunStarted():
                self.fetched = None
                self.videos, self.todo, self._audio = event.videos, event.todo, event.audio_seconds
                self.slots = dict.fromkeys(event.slots, "waiting")
            case SlotChanged():
                self.slots[event.slot] = event.doing
            case VideoStarted():
                self._done.setdefault(event.video.path, 0.0)
            case VideoProgress():
                self._grown(event)
            case VideoFinished():
                self._ended(event.result)
            case LlmChanged():
                self.calls_active, self.calls_waiting = event.active, event.waiting
            case CallFinished():
                self.calls[event.state] += 1

    @property
    def audio_done(self) -> float:
        """Seconds of audio that this run has transcribed."""
        return sum(self._done.values())

    @property
    def audio_total(self) -> float | None:
        """Seconds of audio that this run has to transcribe, without what failed videos left.

        Where not all is known, what was opened so far stands for the rest: see ``guessed``.
        """
        audio = self._audio
        if audio is None and self._total:
            audio = sum(self._total.values()) / len(self._total) * max(self.todo, len(self._total))
        return None if audio is None else max(audio - self._dropped, self.audio_done)

    @property
    def guessed(self) -> bool:
        """Whether the total is an estimate: videos that were not opened yet count as average."""
        return self._audio is None and len(self._total) < self.todo

    def speed(self, now: float) -> float | None:
        """Seconds of audio per second; None before the first."""
        elapsed = now - self.started
        return self.audio_done / elapsed if self.audio_done > 0 and elapsed > 0 else None

    def seconds_left(self, now: float) -> float | None:
        """For the audio that is still to be transcribed, at the speed so far."""
        total, speed = self.audio_total, self.speed(now)
        return None if total is None or speed is None else (total - self.audio_done) / speed

    def _grown(self, event: VideoProgress) -> None:
        path = event.video.path
        self._done[path] = max(event.seconds_done, self._done.get(path, 0.0))
        if event.seconds_total is not None:
            self._total[path] = event.seconds_total

    def _ended(self, result: VideoResult) -> None:
        path = result.video.path
        self.broken += result.state in BROKEN
        if result.resumed:
            self.resumed += 1
            return
        self.ended += 1
        if result.state in _USABLE and result.transcript is not None:
            self._done[path] = result.transcript.duration
        else:
            self._dropped += max(0.0, self._total.get(path, 0.0) - self._done.get(path, 0.0))
