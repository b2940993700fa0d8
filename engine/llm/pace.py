"""When a request may be sent by the user's own limits: requests and tokens a minute.

In: an exchange that wants to be sent, and later what became of it. Out: how long it has to wait, or
RateError that names the limit where that does not fit in its call. Knows nothing about HTTP, and
has no clock of its own.

`limits.py` decides in the loop when calls begin, by the same two limits, and hears of what a call
sends after its first request (retries, repairs, second halves) only when that is on its way. Here
every request of a call waits for its turn, so that a storm of retries is as slow as the user wants
it. Turns are given in the order in which they are asked for.

One Pace per client, shared by its threads; it starts none.
"""

import threading

from engine.errors import RateError
from engine.llm.exchanges import Exchange
from engine.llm.limits import FIRST_TOKENS, Bucket, Usual


class Pace:
    """The turns of one endpoint; without limits it is everybody's turn."""

    def __init__(self, rpm: float | None = None, tpm: float | None = None) -> None:
        self._requests = Bucket.per_minute(rpm) if rpm else None
        self._tokens = Bucket.per_minute(tpm) if tpm else None
        self._options = (f"--llm-rpm {rpm}", f"--llm-tpm {tpm}")
        self._lock = threading.Lock()  # protects the buckets and the two below
        self._usual = Usual(FIRST_TOKENS)
        self._last = float("-inf")  # the last turn that was given

    def turn(self, now: float, left: float) -> float:
        """Seconds until an exchange may be sent, which counts from now on; RateError if the call
        has no more than that left, and then nothing is counted."""
        if not self._requests and not self._tokens:
            return 0.0
        with self._lock:
            at = max(now, self._last)
            requests = self._requests.wait(1.0, at) if self._requests else 0.0
            tokens = self._tokens.wait(self._usual.most(1), at) if self._tokens else 0.0
            at += max(requests, tokens)
            if at - now >= left and at > now:
                raise RateError(_told(self._options[tokens > requests], at - now))
            if self._requests:
                self._requests.take(1.0, at)
            if self._tokens:
                self._tokens.take(self._usual.mean, at)
            self._last = at
        return at - now

    def ended(self, exchange: Exchange) -> None:
        """Set right what was counted for it, where the server says what it took."""
        if not self._tokens:
            return
        with self._lock:
            if exchange.tokens is not None:
                self._tokens.level += self._usual.mean - exchange.tokens
                self._usual.learn(exchange.tokens)
            elif exchange.status is not None and exchange.status >= 400:
                self._tokens.level += self._usual.mean


def _told(option: str, wait: float) -> str:
    return (
        f"{option} lets no further request through for {wait:.0f} s, and the call has less time "
        "left: raise it, or --call-timeout."
    )
