"""How many calls may be under way, and when the next one may begin.

In: the user's limits, exchanges that have ended, and the time. Out: how long the next call has to
wait. Pure and without a clock of its own: the loop's thread owns it, the LLM threads only report.

Two limits hold at once:

* Calls at a time. It begins at ``start`` and doubles in a round of replies without trouble, until
  the endpoint is first short of breath (a 429 or 503, or an attempt that timed out); after that it
  grows by one a round, and shrinks by a tenth, at most once in a round trip (additive increase,
  multiplicative decrease, as in TCP's congestion avoidance, RFC 5681). It does not grow while calls
  are fewer than it allows, nor while a round takes half as long again as the best one: then the
  server is busy, and more calls would only wait there.
* Requests and tokens a minute: those that the user gives, and those that the server's headers tell.
  Each is a bucket that refills evenly. A user's bucket holds one second's worth, so that no server
  sees a burst; a told one is set right by every reply. What a call sends after its first request is
  counted here when it is sent; that it waits for the user's limits as well is `pace.py`'s.

A server that asks for a pause (Retry-After) closes the gate for all, unless its own headers say
that a shorter wait will do.
"""

from collections import deque
from dataclasses import dataclass
from math import sqrt

from engine.llm.exchanges import Allowance, Exchange, Sent

BACK_OFF = 0.9
BUSY = 1.5  # times as long as the best round
ROUND = 8  # replies that a round has at least, so that its mean says something
FIRST_TOKENS = 1_000.0  # a chunk of 300 words with its instructions and answer, before any is known
LEARNING = 0.1  # weight of the newest exchange in what one usually takes
MARGIN = 2.5  # standard deviations that a call may take more
OVERTAKEN = 0.05  # seconds; what was sent so shortly before may have come to the server after
ROUNDING = 1.0  # seconds; Retry-After comes in whole ones

_OVERLOADED = (429, 503)
_PASSING = (408, 409, 429)  # and all from 500: where the client heeds a Retry-After


class Limits:
    """The state of one endpoint; see the module's docstring."""

    def __init__(
        self, start: int, most: int, rpm: float | None = None, tpm: float | None = None
    ) -> None:
        """``start`` and ``most``: calls at a time; ``rpm``, ``tpm``: the user's own limits."""
        self.refused = 0  # exchanges that got a 429
        self.closed_until = 0.0  # no call begins before; monotonic
        self._at_once = float(min(start, most))
        self._most = float(most)
        self._doubling = True
        self._shrunk = 0.0  # when it last shrank
        self._round = _Round()
        self._usual = Usual(FIRST_TOKENS)
        self._requests = _Buckets(rpm)
        self._tokens = _Buckets(tpm)

    @property
    def at_once(self) -> int:
        """Calls that may be under way now."""
        return int(self._at_once)

    def wait(self, under_way: int, now: float) -> float | None:
        """Seconds until the next call may begin, 0 for now; None: not before another ends."""
        if under_way >= self.at_once:
            return None
        return max(
            self.closed_until - now,
            self._requests.wait(1.0, now),
            self._tokens.wait(self._usual.most(under_way + 1), now),
            0.0,
        )

    def begin(self, now: float) -> None:
        """A call begins: its first exchange is counted before it is sent."""
        self._requests.plan(1.0, now)
        self._tokens.plan(self._usual.mean, now)

    def sent(self, sent: Sent) -> None:
        """An exchange is on its way."""
        if sent.first:
            self._requests.planned_went(sent.at)
            self._tokens.planned_went(sent.at)
        else:
            self._requests.take(1.0, sent.at)
            self._tokens.take(self._usual.mean, sent.at)

    def unsent(self) -> None:
        """A call that has begun turned out not to be needed: its first exchange never comes."""
        self._requests.forget_one()
        self._tokens.forget_one()

    def rest(self) -> None:
        """No call is under way: what was planned and never sent, never will be."""
        self._requests.forget_planned()
        self._tokens.forget_planned()

    def ended(self, exchange: Exchange, under_way: int) -> None:
        """An exchange has ended; ``under_way``: calls, its own among them."""
        self._count(exchange)
        answered = exchange.status is not None and exchange.status < 400
        if exchange.status in _OVERLOADED or exchange.timed_out:
            self.refused += exchange.status == 429
            self._shrink(exchange)
        elif answered:
            self._grow(exchange, under_way)
        if exchange.status is not None and (exchange.status in _PASSING or exchange.status >= 500):
            self._close(exchange)

    def _count(self, exchange: Exchange) -> None:
        """Set right what was counted when it was sent."""
        usual = self._usual.mean
        if exchange.tokens is not None:
            self._tokens.take(exchange.tokens - usual, exchange.began)
            self._usual.learn(exchange.tokens)
        elif exchange.status is not None and exchange.status >= 400:
            self._tokens.take(-usual, exchange.began)
        self._requests.told(exchange.requests_granted, exchange)
        self._tokens.told(exchange.tokens_granted, exchange)

    def _shrink(self, exchange: Exchange) -> None:
        self._doubling = False
        if exchange.began >= self._shrunk:  # else it was sent before the last time told
            self._at_once = max(1.0, BACK_OFF * self._at_once)
            self._shrunk = exchange.ended

    def _close(self, exchange: Exchange) -> None:
        if exchange.asked is None:
            return
        known = max(
            self._requests.wait_told(1.0, exchange.ended),
            self._tokens.wait_told(self._usual.most(1), exchange.ended),
        )
        if not known or exchange.asked > known + ROUNDING:
            self.closed_until = max(self.closed_until, exchange.ended + exchange.asked)

    def _grow(self, exchange: Exchange, under_way: int) -> None:
        self._round.add(exchange.ended - exchange.began, self.at_once)
        if under_way >= self.at_once and not self._round.busy:
            step = 1.0 if self._doubling else 1.0 / self._at_once
            self._at_once = min(self._most, self._at_once + step)


class _Round:
    """How long replies take, a round of them at a time."""

    def __init__(self) -> None:
        self.busy = False  # the last round was much slower than the best
        self._best = float("inf")  # mean seconds of a reply in the best round
        self._begin(0)

    def _begin(self, at_once: int) -> None:
        self._seconds, self._replies, self._size = 0.0, 0, max(at_once, ROUND)

    def add(self, seconds: float, at_once: int) -> None:
        """A reply took so long; a round that ends with it has ``at_once`` successors."""
        self._seconds += seconds
        self._replies += 1
        if self._replies >= self._size:
            mean = self._seconds / self._replies
            self._best = min(self._best, mean)
            self.busy = mean > BUSY * self._best
            self._begin(at_once)


@dataclass(slots=True)
class Usual:
    """What an exchange takes in tokens: mean and variance, the newest counting most."""

    mean: float
    variance: float = 0.0
    known: bool = False

    def learn(self, tokens: float) -> None:
        """An exchange took so many."""
        if not self.known:
            self.mean, self.known = tokens, True
            return
        off = tokens - self.mean
        self.mean += LEARNING * off
        self.variance = (1.0 - LEARNING) * (self.variance + LEARNING * off * off)

    def most(self, calls: int) -> float:
        """What the next call may take, and the others under way beyond their mean."""
        return self.mean + MARGIN * sqrt(self.variance * calls)


class _Buckets:
    """Requests or tokens: as the user limits them, and as the server tells."""

    def __init__(self, per_minute: float | None) -> None:
        self._own = None if per_minute is None else Bucket.per_minute(per_minute)
        self._told: Bucket | None = None
        self._told_at = float("-inf")  # when the exchange began that told last
        # (instant, amount) since then; more than can be under way, where nobody ever tells
        self._taken: deque[tuple[float, float]] = deque(maxlen=1_024)
        self._planned: deque[float] = deque()  # amounts that are not sent yet

    def wait(self, amount: float, now: float) -> float:
        """Seconds until there is so much."""
        own = self._own.wait(amount, now) if self._own else 0.0
        return max(own, self.wait_told(amount, now))

    def wait_told(self, amount: float, now: float) -> float:
        """The same by what the server tells alone."""
        return self._told.wait(amount, now) if self._told else 0.0

    def plan(self, amount: float, now: float) -> None:
        """Count what is about to be sent."""
        self._lower(amount, now)
        self._planned.append(amount)

    def planned_went(self, at: float) -> None:
        """The oldest of it is sent."""
        if self._planned:
            self._taken.append((at, self._planned.popleft()))

    def forget_one(self) -> None:
        """What was planned last will not be sent."""
        if self._planned:
            amount = self._planned.pop()
            for bucket in (self._own, self._told):
                if bucket:
                    bucket.level += amount

    def forget_planned(self) -> None:
        """None of it will be sent any more."""
        self._planned.clear()

    def take(self, amount: float, at: float) -> None:
        """Count what was sent then, or a correction of it."""
        self._lower(amount, at)
        self._taken.append((at, amount))

    def _lower(self, amount: float, at: float) -> None:
        for bucket in (self._own, self._told):
            if bucket:
                bucket.take(amount, at)

    def told(self, allowance: Allowance | None, exchange: Exchange) -> None:
        """What was left when the exchange came to the server, less what was taken since."""
        if allowance is None or exchange.began < self._told_at:
            return
        self._told_at = exchange.began
        since = exchange.began - OVERTAKEN
        kept = [entry for entry in self._taken if entry[0] > since]
        self._taken = deque(kept, self._taken.maxlen)
        rate = allowance.per_minute / 60.0
        held = self._told.holds / self._told.rate * rate if self._told else 0.0
        bucket = Bucket(rate, max(held, allowance.left + 1.0), exchange.began)
        bucket.level = allowance.left
        bucket.refill(exchange.ended)
        others = (amount for at, amount in self._taken if at != exchange.began)
        bucket.level -= sum(others) + sum(self._planned)
        self._told = bucket


class Bucket:
    """An amount that refills evenly, up to what it holds."""

    def __init__(self, rate: float, holds: float, at: float = float("-inf")) -> None:
        """``rate``: a second; ``holds``: at most, and at first."""
        self.rate = rate
        self.holds = max(holds, 1.0)
        self.level = self.holds
        self._at = at

    @classmethod
    def per_minute(cls, rate: float) -> "Bucket":
        """One that holds one second's worth of it."""
        return cls(rate / 60.0, rate / 60.0)

    def refill(self, now: float) -> None:
        """Let time pass."""
        if now > self._at:
            self.level = min(self.holds, self.level + self.rate * (now - self._at))
            self._at = now

    def take(self, amount: float, now: float) -> None:
        """So much is gone; it may go below empty."""
        self.refill(now)
        self.level -= amount

    def wait(self, amount: float, now: float) -> float:
        """Seconds until there is so much, or it is full."""
        self.refill(now)
        short = min(amount, self.holds) - self.level
        return max(0.0, short / self.rate)
