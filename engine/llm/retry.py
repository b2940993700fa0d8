"""When a failed attempt is tried again.

In: attempts that raise Failure, and what is left of the call's time. Out: the first result, or the
CallError of the last attempt. Knows nothing about HTTP clients; what is worth a new attempt is said
by whoever raises Failure.

A wait that does not fit in what is left is not begun: the call ends at once, with the reason. Waits
double and are drawn at random (so that threads do not come back together), on top of what the
server asked for in Retry-After. Such a pause holds all threads of the endpoint: their gate.
"""

import math
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TypeVar

from engine.errors import CallError, RateError

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


class Gate:
    """Closed while a server wants no requests; threads share it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # protects the one below
        self._opens = float("-inf")  # by the clock

    def close(self, seconds: float) -> None:
        """For so long from now, or for what is left of an earlier pause."""
        with self._lock:
            self._opens = max(self._opens, self._clock() + seconds)

    @property
    def left(self) -> float:
        """Seconds until it opens; 0 if it is open."""
        return max(0.0, self._opens - self._clock())


def persist(
    attempt: Callable[[], T],
    left: Callable[[], float],
    pause: Callable[[float], None],
    draw: Callable[[], float],
    gate: Gate,
) -> tuple[T, int]:
    """The result of `attempt`, and how many it took.

    `left` gives the seconds left of the call, `pause` sleeps (and may raise to stop), `draw` a
    number in [0, 1). The error of a call that ends because a pause of the server's does not fit
    says so in its `wait`; not where a longer time was spent in vain before, for that call has had
    its chance.
    """
    attempts, whole = 0, left()

    def held(error: CallError, asked: float | None) -> CallError:
        if asked is not None and asked >= whole - left():
            error.wait = asked
        return error

    while True:
        if closed := gate.left:
            if closed >= left():
                error = RateError(f"The endpoint wants no requests for {closed:.0f} s.")
                raise held(error, closed)
            pause(closed)
            continue  # it may have been closed again
        attempts += 1
        try:
            return attempt(), attempts
        except Failure as failure:
            if failure.asked is not None:
                gate.close(failure.asked)
            wait = wait_after(attempts, failure.asked, draw())
            over = wait >= left()
            if over:
                held(failure.error, failure.asked)
            if over or (failure.most is not None and attempts >= failure.most):
                final = failure.error
                # An error must not hold what holds it: a full garbage collection stops all threads.
                del failure.error  # the failure becomes the context of the error
                try:
                    raise final from final.__cause__
                finally:
                    del final  # its traceback holds this frame
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
