"""What calls may spend, and have spent: a limit on tokens or cost that is never exceeded.

In: what each HTTP exchange can take at most, before it is sent, and what the server counted, after
it. Out: leave to send it, or BudgetError. Knows nothing about HTTP, recipes or the ledger: what the
output folder spent before comes in, what it has spent now is asked by the loop's thread.

What an exchange can take at most is set aside before it is sent, so that those under way cannot
exceed the limit together; what the server counts takes its place. Where it does not count, or the
request was sent and no answer came (it may be charged all the same), the most stays spent: an
unknown is never zero. Because the most is two or three times what is usual, an exchange that would
fit once those under way have ended waits for them; without that, many threads would end a small
limit half used.

One Budget per run, shared by all LLM threads; it starts none. What stays outside of the limit: a
server that counts more than it was allowed (a `max_tokens` that it ignores).
"""

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce

from engine.config import Config
from engine.errors import BudgetError, CallStopped, CallTimeout, UsageError
from engine.llm.prices import Prices, cost, money, read_prices
from engine.records import Spent


@dataclass(slots=True)
class Account:
    """One exchange, while it is under way; its thread alone writes to it."""

    prompt: int  # tokens at most
    completion: int
    free: bool = False  # it cannot have cost anything
    counted: tuple[int | None, int | None] = (None, None)  # prompt, completion, by the server

    @property
    def took(self) -> Spent:
        """What counts as spent for it."""
        if self.free:
            return Spent()
        prompt, completion = self.counted
        return Spent(
            1,
            self.prompt if prompt is None else prompt,
            self.completion if completion is None else completion,
            int(prompt is None or completion is None),
        )


class Budget:
    """What the calls of a run to one model spend, within the limits of an output folder."""

    def __init__(
        self,
        model: str = "",
        before: Mapping[str, Spent] | None = None,
        prices: Prices | None = None,
        max_tokens: int | None = None,
        max_cost: float | None = None,
    ) -> None:
        """`before`: what the folder has spent until now, by model; no limits: it only counts.

        With `max_cost` the prices of all these models have to be known, else nothing may be spent.
        """
        self.model = model
        self.prices = prices or {}
        self._before = dict(before or {})
        self._limits: list[_Limit] = []
        if max_tokens is not None:
            option = f"--max-tokens-total {max_tokens}"
            self._limits.append(_Limit(option, max_tokens, tokens, lambda n: f"{n:,} tokens"))
        if max_cost is not None:
            option = f"--max-cost {max_cost:.12g}"
            self._limits.append(_Limit(option, max_cost, self._cost, money))
        self._changed = threading.Condition()  # protects the three below
        self._ended = Spent()
        self._held = Spent()  # by exchanges under way, at their most
        self._stopped = False

    @contextmanager
    def exchange(self, prompt: int, completion: int, wait: float) -> Iterator[Account]:
        """The account of one exchange that takes so many tokens at most; it is settled at the end.

        Waits up to `wait` seconds if those under way have to end first. BudgetError: there is not
        so much left; CallTimeout, CallStopped: the wait ended without.
        """
        account = Account(prompt, completion)
        most = account.took
        with self._changed:
            self._make_room(most, time.monotonic() + wait)
            self._held = plus(self._held, most)
        try:
            yield account
        finally:
            with self._changed:
                self._held = plus(self._held, most, -1)
                self._ended = plus(self._ended, account.took)
                self._changed.notify_all()

    def stop(self) -> None:
        """End the waits with CallStopped; any thread may call it."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    @property
    def run(self) -> dict[str, Spent]:
        """What this run has spent, by model; exchanges under way at their most."""
        with self._changed:
            spent = plus(self._ended, self._held)
        return {self.model: spent} if spent.exchanges else {}

    @property
    def folder(self) -> dict[str, Spent]:
        """The same with what was spent before."""
        return _sum(self._before, self.run)

    @property
    def own(self) -> Spent:
        """What the folder has spent with this run's model."""
        return self.folder.get(self.model, Spent())

    def cost(self, spent: Mapping[str, Spent]) -> float | None:
        """At the user's prices; None if one of them is not known."""
        return cost(spent, self.prices)

    def over(self, more: Spent) -> str | None:
        """The limit that so much more would exceed, as it was given; None: it fits."""
        limit = self._exceeded(_sum(self.folder, {self.model: more}))
        return limit.option if limit else None

    def _make_room(self, most: Spent, until: float) -> None:
        """Wait until `most` fits."""
        while True:
            if self._stopped:
                raise CallStopped
            if self._exceeded(self._with(plus(self._held, most))) is None:
                return
            if (limit := self._exceeded(self._with(most))) is not None:
                raise BudgetError(limit.told(self._with(Spent()), {self.model: most}))
            if not self._changed.wait(max(0.0, until - time.monotonic())):
                raise CallTimeout("The other calls held what is left of the limit until the end.")

    def _with(self, more: Spent) -> dict[str, Spent]:
        return _sum(self._before, {self.model: plus(self._ended, more)})

    def _exceeded(self, spent: Mapping[str, Spent]) -> "_Limit | None":
        return next((limit for limit in self._limits if limit.of(spent) > limit.most), None)

    def _cost(self, spent: Mapping[str, Spent]) -> float:
        """Without a price there is no knowing: too much."""
        known = self.cost(spent)
        return math.inf if known is None else known


@dataclass(frozen=True, slots=True)
class _Limit:
    option: str  # as it was given
    most: float
    of: Callable[[Mapping[str, Spent]], float]
    shown: Callable[[float], str]

    def told(self, spent: Mapping[str, Spent], call: Mapping[str, Spent]) -> str:
        """Why there is no room for a call that may take so much."""
        may = self.shown(self.of(call))
        if not self.of(spent):
            return f"{self.option} is too small for a single call, which may take {may}: raise it."
        return (
            f"{self.option} leaves no room: this output folder has spent "
            f"{self.shown(self.of(spent))}, and one more call may take {may}; raise it to go on."
        )


def open_budget(config: Config, model: str | None, before: Mapping[str, Spent]) -> Budget:
    """The budget that the options ask for; UsageError if a price is missing that it needs.

    `model` is None where nobody is asked who could be paid: then there is nothing to limit.
    """
    prices = read_prices(config.prices)
    if model is None:
        return Budget(before=before, prices=prices)
    if config.max_cost is not None:
        spent = [name for name, took in before.items() if took.exchanges]
        for name in (model, *spent):
            if name not in prices:
                raise UsageError(_unpriced(config, name, asked=name == model))
    return Budget(model, before, prices, config.max_tokens_total, config.max_cost)


def total(spent: Mapping[str, Spent]) -> Spent:
    """All models together."""
    return reduce(plus, spent.values(), Spent())


def tokens(spent: Mapping[str, Spent]) -> int:
    """Of prompts and answers, all models together."""
    everything = total(spent)
    return everything.prompt_tokens + everything.completion_tokens


def plus(first: Spent, second: Spent, times: int = 1) -> Spent:
    """`first` and so many times `second`."""
    return Spent(
        first.exchanges + times * second.exchanges,
        first.prompt_tokens + times * second.prompt_tokens,
        first.completion_tokens + times * second.completion_tokens,
        first.uncounted + times * second.uncounted,
    )


def _sum(first: Mapping[str, Spent], second: Mapping[str, Spent]) -> dict[str, Spent]:
    nothing = Spent()
    return {
        model: plus(first.get(model, nothing), second.get(model, nothing))
        for model in sorted({*first, *second})
    }


def _unpriced(config: Config, model: str, *, asked: bool) -> str:
    why = "" if asked else ", which this output folder has asked before"
    where = "give --prices FILE with" if config.prices is None else f"add to {config.prices}"
    return (
        f"--max-cost needs the price of {model}{why}: {where} a table "
        f'["{model}"] of input and output, for a million tokens each.'
    )
