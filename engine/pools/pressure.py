"""How short of memory a run is, by the monitor's samples: what gives way, and for how long.

In: bytes that can still be had, with the time. Out: a ``Pressure``, when it changes. Pure: the
clock is the caller's. What follows is the schedule's. Knows nothing about GPUs: theirs is told by
their errors.
"""

from enum import IntEnum

_SHARE = 20  # one part in so many of what there was at the start is too little to be left
_LEAST = 128 << 20  # bytes; and in any case less than this
_MOST = 1 << 30  # and never more
_PATIENCE = 10.0  # seconds: for a step to show, and without pressure before one is taken back


class Pressure(IntEnum):
    """What gives way; a higher one includes those below it."""

    NONE = 0
    PREPARATION = 1  # one worker, few windows ahead
    BATCH = 2  # slots take half the windows at once


class Gauge:
    """Belongs to the loop's thread."""

    def __init__(self, memory: int | None) -> None:
        """``memory``: bytes that could be had when the run began; None: not known."""
        share = (memory or 0) // _SHARE
        self.low = max(_LEAST, min(_MOST, share))  # bytes
        self.pressure = Pressure.NONE
        self._short: float | None = None  # since when it is; None: it is not, or was dealt with
        self._roomy: float | None = None  # since when there is plenty

    def take(self, left: int | None, now: float) -> Pressure | None:
        """The new pressure if it has changed; a sample that is not known changes nothing.

        Less than ``low`` is pressure at once, and more of it after ten seconds that did not help,
        or if half of that is gone too. Twice as much for ten seconds takes one step back.
        """
        if left is None:
            return None
        self._short = None if left >= self.low else now if self._short is None else self._short
        self._roomy = None if left < 2 * self.low else now if self._roomy is None else self._roomy
        before = self.pressure
        if self._short is not None:
            at_once = before is Pressure.NONE or left < self.low // 2
            if at_once or now - self._short >= _PATIENCE:
                self.pressure = Pressure(min(before + 1, Pressure.BATCH))
                self._short = now
        elif before and self._roomy is not None and now - self._roomy >= _PATIENCE:
            self.pressure = Pressure(before - 1)
            self._roomy = now
        return None if self.pressure is before else self.pressure
