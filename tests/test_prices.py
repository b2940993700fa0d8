"""Prices: the user's table, and that what is not known is never free."""

from pathlib import Path

import pytest

from engine.errors import EXIT_USAGE, UsageError
from engine.llm.prices import Price, cost, money, read_prices
from engine.records import Spent

TABLE = """\
["gpt-4.1-mini"]
input = 0.4
output = 1.6
[local]
input = 0
output = 0.0
"""


def table(folder: Path, text: str) -> Path:
    path = folder / "prices.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_table_gives_a_price_by_model(tmp_path: Path) -> None:
    prices = read_prices(table(tmp_path, TABLE))
    assert prices == {"gpt-4.1-mini": Price(0.4, 1.6), "local": Price(0.0, 0.0)}
    assert read_prices(None) == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[m]\ninput = 1\n", "[m] needs exactly input and output"),
        ("[m]\ninput = 1\noutput = 2\ncached = 3\n", "[m] needs exactly input and output"),
        ("m = 3\n", "[m] needs exactly"),
        ("[m]\ninput = -1\noutput = 2\n", "[m] input = -1"),
        ("[m]\ninput = 1\noutput = inf\n", "[m] output = inf"),
        ("[m]\ninput = nan\noutput = 1\n", "[m] input = nan"),
        ('[m]\ninput = "1"\noutput = 2\n', "[m] input = '1'"),
        ("[m]\ninput = true\noutput = 2\n", "[m] input = True"),
        ("[gpt-4.1]\ninput = 1\noutput = 2\n", "[gpt-4] is no model: put a name with a point in"),
        ("[m\n", "cannot be read"),
    ],
)
def test_broken_table_is_named_with_its_key(tmp_path: Path, text: str, said: str) -> None:
    path = table(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        read_prices(path)
    assert caught.value.exit_code == EXIT_USAGE
    assert str(path) in str(caught.value) and said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_table_that_is_not_there_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none.toml cannot be read: No such file"):
        read_prices(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff")
    with pytest.raises(UsageError, match="bytes.toml cannot be read"):
        read_prices(tmp_path / "bytes.toml")


def test_cost_is_of_all_models_for_a_million_tokens() -> None:
    spent = {"a": Spent(3, 2_000_000, 500_000), "b": Spent(1, 1_000, 0)}
    prices = {"a": Price(0.5, 2.0), "b": Price(10.0, 0.0), "c": Price(1.0, 1.0)}
    assert cost(spent, prices) == pytest.approx(2.01)


def test_cost_without_a_price_is_unknown_unless_nothing_was_asked() -> None:
    assert cost({"a": Spent(1, 10, 10)}, {"b": Price(1.0, 1.0)}) is None
    assert cost({"a": Spent(1, 10, 10), "b": Spent(1)}, {"b": Price(1.0, 1.0)}) is None
    assert cost({"a": Spent()}, {}) == 0
    assert cost({}, {}) == 0


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        (0.0, "0"),
        (0.0000903, "0.0000903"),
        (1.2345, "1.23"),
        (12.345, "12.35"),
        (4321.0, "4,321.00"),
    ],
)
def test_amounts_are_readable_however_small(amount: float, shown: str) -> None:
    assert money(amount) == shown
