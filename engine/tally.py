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
    VideoMeasured,
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
    _done: dict[str, float] = field(default_factory=dict)  # by path: seconds transcribed
    _total: dict[str, float] = field(default_factory=dict)  # by path: seconds in all, if declared
    _ended: set[str] = field(default_factory=set)  # by path: videos that this run has ended

    def note(self, event: Event) -> None:
        """Take one event in; those that change no figure are ignored."""
        match event:
            case Fetching():
                self.fetched = (event.done, event.total)
            case RunStarted():
                self.fetched = None
                self.videos, self.todo = event.videos, event.todo
                self.slots = dict.fromkeys(event.slots, "waiting")
            case SlotChanged():
                self.slots[event.slot] = event.doing
            case VideoMeasured():
                if event.seconds is not None:
                    self._total[event.video.path] = event.seconds
            case VideoStarted():
                self._done.setdefault(event.video.path, 0.0)
            case VideoProgress():
                self._grown(event)
            case VideoFinished():
                self._finished(event.result)
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
        """Seconds of audio that this run has to transcribe; a failed video counts what it gave.

        Videos of unknown length count as average: see ``guessed``.
        """
        if not self._total:
            return None
        average = sum(self._total.values()) / len(self._total)
        left = sum(
            seconds - self._done.get(path, 0.0)
            for path, seconds in self._total.items()
            if path not in self._ended
        )
        return self.audio_done + max(0.0, left) + average * self._unmeasured

    @property
    def guessed(self) -> bool:
        """Whether the total is an estimate."""
        return self._unmeasured > 0

    @property
    def _unmeasured(self) -> int:
        """Videos to do whose length is not known, and which have not ended."""
        return max(0, self.todo - len(self._ended | set(self._total)))

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

    def _finished(self, result: VideoResult) -> None:
        path = result.video.path
        self.broken += result.state in BROKEN
        if result.resumed:
            self.resumed += 1
            return
        self.ended += 1
        self._ended.add(path)
        if result.state in _USABLE and result.transcript is not None and path in self._done:
            self._done[path] = result.transcript.duration
