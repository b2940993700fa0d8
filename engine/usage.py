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
    """Adds it up."""

    def __init__(self, began: float) -> None:
        self.windows = 0  # decoded, some twice
        self.tokens = 0
        self._speech = 0.0  # seconds, in these windows
        self._began = began
        self._ended: float | None = None  # when there was last something to transcribe
        self._last: tuple[float, Standing] | None = None
        self._spent: dict[str, float] = {}  # slot -> seconds of its batches
        self._heard: dict[str, float] = {}  # slot -> seconds of speech in them
        self._seconds = 0.0  # with an open slot
        self._open = self._busy = self._starved = 0.0  # slot seconds
        self._waited = 0.0  # seconds in which windows waited
        self.predicted: float | None = None  # seconds from the run's begin to the last window

    def note(self, standing: Standing, now: float) -> None:
        """So it stands from now on."""
        if self._last is not None:
            self._add(self._last[1], now - self._last[0], now)
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
        if was.coming and not was.waiting:
            self._starved += (was.slots - was.busy) * span

    def add_batch(self, slot: str, speech: Sequence[float], tokens: int, seconds: float) -> None:
        """A batch has ended: speech in each of its windows, tokens of its text, what it took."""
        self.windows += len(speech)
        self.tokens += tokens
        self._speech += sum(speech)
        self._heard[slot] = self._heard.get(slot, 0.0) + sum(speech)
        self._spent[slot] = self._spent.get(slot, 0.0) + seconds

    def predict(self, slots: Collection[str], total: float | None, now: float) -> None:
        """Foretell, once, when every open slot has ended a batch; ``predicted`` keeps it.

        ``total``: seconds of speech in all videos, as far as can be told. The pace is that of the
        batches that have ended, of all open slots together.
        """
        known = bool(slots) and all(self._heard.get(s) and self._spent.get(s) for s in slots)
        if self.predicted is None and known and total is not None:
            pace = sum(self._heard[slot] / self._spent[slot] for slot in slots)
            self.predicted = now - self._began + max(0.0, total - self._speech) / pace

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
        """Of the time that slots were open, the share in which they were idle for want of windows.

        Preparation was behind; not counted is the end of a run, when no further windows come.
        """
        return self._starved / self._open if self.windows and self._open else None
