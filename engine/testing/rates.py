"""Rate limits of the test server: a bucket of requests and one of tokens, as at OpenAI.

In: when a request came and how many tokens it takes. Out: whether it is let in, else how long to
wait, and the headers that tell a client where it stands. Knows nothing about HTTP; reads no clock.

A bucket holds `burst` seconds of its rate and refills evenly. A request that needs more than a full
bucket is let in by a full one and leaves it in debt, so that every request gets in and the rate
still holds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limit:
    """What may be asked a minute, from some time on; None: as much as one likes."""

    after: float  # seconds after the first request
    rpm: float | None  # requests
    tpm: float | None  # tokens, of prompts and answers

    def __post_init__(self) -> None:
        for rate in (self.rpm, self.tpm):
            if rate is not None and not rate > 0:
                raise ValueError(f"a rate is more than 0 a minute: {rate}")


def parse_limit(text: str) -> Limit:
    """`AFTER:RPM:TPM` as the command line has it, `-` for no limit; ValueError for other text."""
    after, rpm, tpm = text.split(":")
    return Limit(
        float(after), None if rpm == "-" else float(rpm), None if tpm == "-" else float(tpm)
    )


class Rates:
    """Limits that follow one another. Times are seconds after the first request, never less than
    the time before."""

    def __init__(self, limits: Sequence[Limit] = (), burst: float = 1.0) -> None:
        self._coming = sorted(limits, key=lambda limit: limit.after)
        self._at = 0.0
        self._requests = Bucket(burst)
        self._tokens = Bucket(burst)

    def admit(self, at: float, tokens: int) -> float:
        """0.0 if a request of so many tokens is let in, which takes its share; else the seconds
        after which it would be, if nobody else came."""
        self._advance(at)
        wait = max(self._requests.wait(1), self._tokens.wait(tokens))
        if wait == 0:
            self._requests.level -= 1
            self._tokens.level -= tokens
        return wait

    def headers(self) -> dict[str, str]:
        """x-ratelimit-* as of the last request; none for what has no limit."""
        return {**self._requests.headers("requests"), **self._tokens.headers("tokens")}

    def _advance(self, at: float) -> None:
        while self._coming and self._coming[0].after <= at:
            limit = self._coming.pop(0)
            self._refill(limit.after)
            self._requests.set_rate(limit.rpm)
            self._tokens.set_rate(limit.tpm)
        self._refill(at)

    def _refill(self, at: float) -> None:
        self._requests.refill(at - self._at)
        self._tokens.refill(at - self._at)
        self._at = at


class Bucket:
    """What may still be taken under one rate."""

    def __init__(self, burst: float) -> None:
        self.level = math.inf
        self._burst = burst
        self._per_minute: float | None = None

    @property
    def _capacity(self) -> float:
        return math.inf if self._per_minute is None else self._burst * self._per_minute / 60

    def set_rate(self, per_minute: float | None) -> None:
        """Another rate from now on; what is in the bucket stays, as far as it fits."""
        self._per_minute = per_minute
        self.level = min(self.level, self._capacity) if per_minute else math.inf

    def refill(self, seconds: float) -> None:
        """Let time pass."""
        if self._per_minute:
            self.level = min(self._capacity, self.level + seconds * self._per_minute / 60)

    def wait(self, amount: float) -> float:
        """Seconds until the bucket lets so much be taken."""
        short = min(amount, self._capacity) - self.level
        return short * 60 / self._per_minute if self._per_minute and short > 1e-9 else 0.0

    def headers(self, what: str) -> dict[str, str]:
        """Its three headers in OpenAI's notation."""
        if self._per_minute is None:
            return {}
        return {
            f"x-ratelimit-limit-{what}": str(round(self._per_minute)),
            f"x-ratelimit-remaining-{what}": str(max(0, math.floor(self.level))),
            f"x-ratelimit-reset-{what}": duration(self.wait(self._capacity)),
        }


def duration(seconds: float) -> str:
    """Rounded up to a millisecond, as OpenAI writes it: "0s", "120ms", "1.5s", "6m0s", "1h0m0s"."""
    milliseconds = math.ceil(round(seconds * 1000, 6))
    if 0 < milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{rest / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text
