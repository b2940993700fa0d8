"""What tokens cost, by the user's own table.

In: a TOML file, and what exchanges took. Out: prices by model, or UsageError that names file and
key; a cost, or None where a price is not known. An unknown price is never zero. Opens no
connection; the currency is whatever the user means.

    ["gpt-4o-mini"]     # the name as --llm-model has it
    input = 0.15        # for a million tokens of prompts
    output = 0.60       # for a million tokens of answers
"""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from engine.errors import UsageError
from engine.records import Spent

FIELDS = ("input", "output")
_UNIT = 1e6  # tokens that a price is for


@dataclass(frozen=True, slots=True)
class Price:
    """Of one model, for a million tokens."""

    input: float
    output: float

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """What so many tokens cost."""
        return (prompt_tokens * self.input + completion_tokens * self.output) / _UNIT


Prices = Mapping[str, Price]


def read_prices(path: Path | None) -> Prices:
    """The table in a file; empty without one."""
    if path is None:
        return {}
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"--prices {path} cannot be read: {reason}.") from error
    return {model: _price(f"{path}: [{model}]", entry) for model, entry in table.items()}


def cost(spent: Mapping[str, Spent], prices: Prices) -> float | None:
    """What models took, at today's prices; None if the price of one that was asked is not known."""
    asked = {model: took for model, took in spent.items() if took.exchanges}
    if not asked.keys() <= prices.keys():
        return None
    costs = (
        prices[model].of(took.prompt_tokens, took.completion_tokens)
        for model, took in asked.items()
    )
    return sum(costs, 0.0)


def money(amount: float) -> str:
    """An amount as people read it, whatever the currency: 12.35, 0.00124."""
    return f"{amount:,.2f}" if amount >= 10 else f"{Decimal(f'{amount:.3g}'):f}"


def _price(where: str, entry: Any) -> Price:
    if isinstance(entry, dict) and any(isinstance(value, dict) for value in entry.values()):
        raise UsageError(f'{where} is no model: put a name with a point in quotes, ["like.this"].')
    if not isinstance(entry, dict) or set(entry) != set(FIELDS):
        raise UsageError(f"{where} needs exactly input and output, for a million tokens each.")
    for name in FIELDS:
        value = entry[name]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 <= value < math.inf:
            raise UsageError(f"{where} {name} = {value!r} is no price: a number from 0 is needed.")
    return Price(*(float(entry[name]) for name in FIELDS))
