"""What a run's slots did with their time: moments and batches in, shares out.

Whoever acts tells how things stand whenever they change, and every batch that has ended. The clock
runs only while there is something to transcribe, so calls that go on afterwards dilute nothing.
Pure: instants are given, in seconds on the monotonic clock. What is not known yet is None.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

WINDOW = 30.0  # seconds of speech that fit into a window


@dataclass(frozen=True, slots=True)
class Standing:
    """How things stand at one moment."""

    slots: int  # those that have a model
    busy: int  # of these, those with work under way
    waiting: int  # windows that could go to a slot
    coming: bool  # further windows may come


class Usage:
    """Adds it up; ``note`` and ``add_batch`` alone change it."""

    def __init__(self, began: float) -> None:
        self.windows = 0  # decoded, some twice
        self.tokens = 0
        self._speech = 0.0  # seconds, in these windows
        self._began = began
        self._opened: float | None = None  # when the first slot was
        self._ended: float | None = None  # when there was last something to transcribe
        self._last: tuple[float, Standing] | None = None
        self._turned: set[str] = set()  # slots that have ended a batch
        self._seconds = 0.0  # with an open slot
        self._open = self._busy = 0.0  # slot seconds
        self._waited = self._starved = 0.0  # seconds
        self.predicted: float | None = None  # seconds from the run's begin to the last window

    def note(self, standing: Standing, now: float) -> None:
        """So it stands from now on."""
        if self._last is not None:
            self._add(self._last[1], now - self._last[0], now)
        if standing.slots and self._opened is None:
            self._opened = now
        self._last = now, standing

    def _add(self, was: Standing, span: float, now: float) -> None:
        if not (was.busy or was.waiting or was.coming):
            return
        self._ended = now
        if not was.slots:
            return
        self._seconds += span
        self._open += was.slots * span
        self._busy += was.busy * span
        self._waited += span * (was.waiting > 0)
        self._starved += span * (was.coming and not was.waiting and was.busy < was.slots)

    def add_batch(self, slot: str, speech: Sequence[float], tokens: int) -> None:
        """A batch has ended: the seconds of speech in each of its windows, tokens of its text."""
        self._turned.add(slot)
        self.windows += len(speech)
        self.tokens += tokens
        self._speech += sum(speech)

    def predict(
        self, slots: Collection[str], done: float, total: float | None, now: float
    ) -> float | None:
        """Foretell, once, when every open slot has ended a batch; ``predicted`` keeps it.

        From the seconds of audio done since a slot was open, and all there are.
        """
        turned = bool(slots) and self._turned.issuperset(slots)
        if self.predicted is None and turned and self._opened is not None and done and total:
            left = max(0.0, total - done) * (now - self._opened) / done
            self.predicted = now - self._began + left
        return self.predicted

    @property
    def taken(self) -> float | None:
        """Seconds from the run's begin to the last window, so far."""
        return None if self._ended is None else self._ended - self._began

    @property
    def open_seconds(self) -> float:
        """How long there was a slot, and something to transcribe."""
        return self._seconds

    @property
    def slots_busy(self) -> float | None:
        """Of the time that slots were open, the share in which they had work under way."""
        return self._busy / self._open if self._open else None

    @property
    def window_fill(self) -> float | None:
        """Speech in the windows over what fits into them."""
        return self._speech / (WINDOW * self.windows) if self.windows else None

    @property
    def windows_waited(self) -> float | None:
        """The share of time in which preparation was ahead: windows waited for a slot."""
        return self._waited / self._seconds if self.windows and self._seconds else None

    @property
    def slots_starved(self) -> float | None:
        """The share of time in which preparation was behind: a slot was idle for want of windows.

        Not counted is the end of a run, when no further windows come.
        """
        return self._starved / self._seconds if self.windows and self._seconds else None
