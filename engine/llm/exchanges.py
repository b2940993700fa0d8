"""What is known of one HTTP exchange with an endpoint, beside its answer.

In: an exchange that begins or has ended, the headers of its reply. Out: records for `limits.py`,
made in the LLM threads and read by the loop's. Pure; whatever a server sends, nothing is raised.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a server grants of one thing, requests or tokens, and what is left of it now."""

    per_minute: float
    left: float


@dataclass(frozen=True, slots=True)
class Sent:
    """An HTTP exchange begins."""

    at: float  # monotonic
    first: bool  # of its call; the others are retries, repairs and second halves


@dataclass(frozen=True, slots=True)
class Exchange:
    """One HTTP exchange that has ended; instants are monotonic, `None` is what nobody told."""

    began: float
    ended: float
    first: bool = True  # of its call
    status: int | None = None  # None: there was no reply
    timed_out: bool = False  # the server was reached, and was slow
    asked: float | None = None  # seconds to wait, by Retry-After
    tokens: int | None = None  # prompt and completion, as the server counted
    requests_granted: Allowance | None = None
    tokens_granted: Allowance | None = None


def granted(headers: Mapping[str, str], thing: str) -> Allowance | None:
    """What `x-ratelimit-limit-*` and `x-ratelimit-remaining-*` say of "requests" or "tokens".

    The names are OpenAI's; most compatible services send the same. A limit for a day (some count
    requests so) reads as a generous one for a minute, and what is left of it still counts.
    """
    limit = _number(headers.get(f"x-ratelimit-limit-{thing}"))
    left = _number(headers.get(f"x-ratelimit-remaining-{thing}"))
    return Allowance(limit, left) if limit and left is not None else None


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
