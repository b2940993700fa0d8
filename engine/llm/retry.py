"""When a failed attempt is tried again.

In: attempts that raise Failure, and what is left of the call's time. Out: the first result, or the
CallError of the last attempt. Knows nothing about HTTP clients; what is worth a new attempt is said
by whoever raises Failure.

A wait that does not fit in what is left is not begun: the call ends at once, with the reason. Waits
double and are drawn at random (so that threads do not come back together), on top of what the
server asked for in Retry-After.
"""

import math
from collections.abc import Callable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TypeVar

from engine.errors import CallError

FIRST_WAIT = 0.5  # seconds, before the second attempt
LONGEST_WAIT = 8.0

T = TypeVar("T")


class Failure(Exception):
    """An attempt that failed for a reason that may pass."""

    def __init__(
        self, error: CallError, most: int | None = None, asked: float | None = None
    ) -> None:
        super().__init__(str(error))
        self.error = error  # what the call ends with if this was the last attempt
        self.most = most  # attempts that this reason is worth; None: as many as fit
        self.asked = asked  # seconds that the server asked us to wait


def persist(
    attempt: Callable[[], T],
    left: Callable[[], float],
    pause: Callable[[float], None],
    draw: Callable[[], float],
) -> tuple[T, int]:
    """The result of `attempt`, and how many it took.

    `left` gives the seconds left of the call, `pause` sleeps (and may raise to stop), `draw` a
    number in [0, 1).
    """
    attempts = 0
    while True:
        attempts += 1
        try:
            return attempt(), attempts
        except Failure as failure:
            wait = wait_after(attempts, failure.asked, draw())
            spent = failure.most is not None and attempts >= failure.most
            if spent or wait >= left():
                raise failure.error from failure.error.__cause__
        pause(wait)


def wait_after(attempts: int, asked: float | None, drawn: float) -> float:
    """Seconds until the next attempt, at least what the server asked for."""
    backoff = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(attempts - 1, 10))
    return max(asked or 0.0, 0.0) + backoff * (0.5 + 0.5 * drawn)


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that Retry-After-Ms or Retry-After asks for; None if it says nothing we can read.

    `now` is the wall clock, for dates. A time that has passed gives 0 or less.
    """
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        seconds = _number(headers.get(name))
        if seconds is not None:
            return seconds * unit
    try:
        date = parsedate_to_datetime(headers.get("retry-after", ""))
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now
    except (ValueError, OverflowError):
        return None


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
