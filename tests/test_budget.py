"""The budget: a limit that holds whatever happens, and that is used as far as it goes."""

import random
import threading
import time
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from engine.analysis import prompts, recipes, replies
from engine.config import Config
from engine.errors import BudgetError, CallStopped, CallTimeout, EndpointError, UsageError
from engine.llm import wire
from engine.llm.budget import Account, Budget, open_budget, tokens
from engine.llm.prices import Price
from engine.records import Chunk, Segment, Spent

SUMMARY = recipes.load("summary")
PRICES = {"m": Price(1.0, 3.0)}  # a million tokens


def take(budget: Budget, prompt: int, completion: int, wait: float = 0.0) -> None:
    """An exchange that the server counts at its most."""
    with budget.exchange(prompt, completion, wait) as account:
        account.counted = (prompt, completion)


def test_what_the_server_counts_is_spent() -> None:
    budget = Budget("m")
    with budget.exchange(100, 50, 0.0) as account:
        account.counted = (40, 7)
    assert budget.run == {"m": Spent(1, 40, 7, 0)}


@pytest.mark.parametrize(
    ("counted", "took"),
    [
        ((None, None), Spent(1, 100, 50, 1)),
        ((40, None), Spent(1, 40, 50, 1)),
        ((None, 7), Spent(1, 100, 7, 1)),
    ],
)
def test_what_nobody_counts_is_spent_at_its_most(
    counted: tuple[int | None, int | None], took: Spent
) -> None:
    budget = Budget("m")
    with budget.exchange(100, 50, 0.0) as account:
        account.counted = counted
    assert budget.run == {"m": took}


def test_failed_exchange_stays_spent_unless_it_was_free() -> None:
    budget = Budget("m")

    def fail(account: Account, *, free: bool) -> None:
        account.free = free
        raise ValueError

    for free in (True, False):
        with pytest.raises(ValueError), budget.exchange(100, 50, 0.0) as account:
            fail(account, free=free)
    assert budget.run == {"m": Spent(1, 100, 50, 1)}


def test_exchange_under_way_counts_at_its_most() -> None:
    budget = Budget("m")
    with budget.exchange(100, 50, 0.0) as account:
        assert budget.run == {"m": Spent(1, 100, 50, 1)}
        account.free = True
    assert budget.run == {}


def test_limit_is_reached_to_the_token_and_never_exceeded() -> None:
    budget = Budget("m", max_tokens=300)
    take(budget, 100, 50)
    take(budget, 100, 50)
    with pytest.raises(BudgetError) as caught:
        take(budget, 1, 0)
    assert isinstance(caught.value, EndpointError)  # no further call is made
    assert caught.value.code == "E_BUDGET"
    assert str(caught.value) == (
        "--max-tokens-total 300 leaves no room: this output folder has spent 300 tokens, and one "
        "more call may take 1 tokens; raise it to go on."
    )
    assert tokens(budget.run) == 300


def test_limit_below_one_call_says_so() -> None:
    with pytest.raises(BudgetError, match="--max-tokens-total 149 is too small for a single call"):
        take(Budget("m", max_tokens=149), 100, 50)
    with pytest.raises(BudgetError, match=r"may take 0.00025: raise it"):
        take(Budget("m", prices=PRICES, max_cost=0.0002), 100, 50)


def test_what_the_folder_spent_before_counts_whatever_the_model() -> None:
    before = {"m": Spent(1, 100, 0), "other": Spent(1, 100, 0)}
    budget = Budget("m", before, max_tokens=250)
    take(budget, 50, 0)
    with pytest.raises(BudgetError, match="has spent 250 tokens"):
        take(budget, 1, 0)
    assert budget.run == {"m": Spent(1, 50, 0)}
    assert budget.folder == {"m": Spent(2, 150, 0), "other": Spent(1, 100, 0)}
    assert budget.own == Spent(2, 150, 0)


def test_cost_limit_counts_each_model_at_its_own_price() -> None:
    prices = {**PRICES, "dear": Price(100.0, 100.0)}
    budget = Budget("m", {"dear": Spent(1, 10_000, 0)}, prices, max_cost=1.5)
    take(budget, 200_000, 100_000)
    assert budget.cost(budget.folder) == pytest.approx(1.5)
    with pytest.raises(BudgetError, match=r"--max-cost 1.5 leaves no room: .* spent 1.5"):
        take(budget, 10, 0)


def test_without_a_price_a_cost_limit_lets_nothing_through() -> None:
    with pytest.raises(BudgetError):
        take(Budget("m", max_cost=9.0), 1, 1)


def test_exchange_waits_for_those_that_may_leave_room() -> None:
    budget = Budget("m", max_tokens=200)
    order: list[str] = []

    def second() -> None:
        with budget.exchange(100, 50, 30.0) as account:
            order.append("second begins")
            account.counted = (10, 10)

    with budget.exchange(100, 50, 0.0) as account:
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.1)
        order.append("first ends")
        account.counted = (10, 10)
    thread.join(10.0)
    assert order == ["first ends", "second begins"]
    assert tokens(budget.run) == 40


def test_exchange_does_not_wait_where_waiting_is_of_no_use() -> None:
    budget = Budget("m", {"m": Spent(1, 100, 0)}, max_tokens=200)
    with budget.exchange(50, 0, 0.0), pytest.raises(BudgetError):
        take(budget, 101, 0, wait=60.0)


def test_wait_ends_by_its_deadline_and_by_a_stop() -> None:
    budget = Budget("m", max_tokens=200)
    ended: list[BaseException] = []

    def wait() -> None:
        try:
            take(budget, 150, 0, wait=60.0)
        except CallStopped as error:
            ended.append(error)

    with budget.exchange(150, 0, 0.0):
        with pytest.raises(CallTimeout, match="limit"):
            take(budget, 150, 0, wait=0.05)
        thread = threading.Thread(target=wait)
        thread.start()
        budget.stop()
        thread.join(10.0)
    assert len(ended) == 1
    assert budget.run == {"m": Spent(1, 150, 0, 1)}


@pytest.mark.parametrize("limit", [2_000, 20_000, 50_000])
def test_many_threads_use_up_a_limit_without_exceeding_it(limit: int) -> None:
    budget, counted = Budget("m", max_tokens=limit), []

    def work(seed: int) -> None:
        draw = random.Random(seed)
        while True:
            took = draw.randint(50, 400), draw.randint(10, 200)
            try:
                with budget.exchange(800, 400, 60.0) as account:
                    time.sleep(draw.random() * 0.001)
                    account.free = draw.random() < 0.1
                    if not account.free and draw.random() < 0.9:
                        account.counted = took
            except BudgetError:
                return
            counted.append(account.took)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = sum(took.prompt_tokens + took.completion_tokens for took in counted)
    assert tokens(budget.run) == total
    assert limit - 1_200 < total <= limit  # else another exchange would have fitted


# what an exchange takes at most


@pytest.mark.parametrize(
    "said",
    [
        "So we hedged our bets, and the landlord let the parrot out.",
        "昨日は友達と一緒に映画を見に行きました。",
        "Вчера мы ходили в кино с друзьями, и было очень весело.",
        "မင်္ဂလာပါ ဒီနေ့ ရာသီဥတု ကောင်းပါတယ်",
        "ሰላም ዛሬ የአየር ሁኔታው ጥሩ ነው",
        "สวัสดีครับ วันนี้อากาศดีมาก",
        "😀🦜🫠 12, 13, 14, 3.14159",
    ],
)
def test_prompt_never_takes_more_tokens_than_were_set_aside(tiny_en: Path, said: str) -> None:
    """By GPT-2's vocabulary, which makes more tokens of anything than later ones."""
    vocabulary = Tokenizer.from_file(str(tiny_en / "tokenizer.json"))
    cues = tuple(Segment(n, 0, n, n + 1.0, f" {said}", (), 0, 0, 0, 0) for n in range(40))
    asked = prompts.messages(SUMMARY, Chunk(0, (), cues), "None of the items fits.")
    request = wire.request_body(wire.Style(), "m", asked, replies.schema(SUMMARY), 1024)
    text = "".join(message["content"] for message in asked) + str(request["response_format"])
    most, completion = wire.most_tokens(request)
    assert len(vocabulary.encode(text, add_special_tokens=False).ids) < most
    assert completion == 1024


def test_limit_of_the_answer_is_found_under_either_name() -> None:
    style = wire.Style(format="text", limit="max_completion_tokens")
    request = wire.request_body(style, "m", [{"role": "user", "content": "?"}], {}, 64)
    assert wire.most_tokens(request)[1] == 64


# what the options ask for


def prices_file(folder: Path) -> Path:
    path = folder / "prices.toml"
    path.write_text("[m]\ninput = 1\noutput = 2\n", encoding="utf-8")
    return path


def test_cost_limit_needs_the_price_of_the_model(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--max-cost needs the price of m: give --prices FILE"):
        open_budget(Config(max_cost=1.0), "m", {})
    config = Config(max_cost=1.0, prices=prices_file(tmp_path))
    with pytest.raises(UsageError, match=rf'price of n: add to {config.prices} a table \["n"\]'):
        open_budget(config, "n", {})
    assert open_budget(config, "m", {"n": Spent()}).cost({"m": Spent(1, 1_000_000, 0)}) == 1.0


def test_cost_limit_needs_the_prices_of_models_asked_before(tmp_path: Path) -> None:
    config = Config(max_cost=1.0, prices=prices_file(tmp_path))
    with pytest.raises(UsageError, match="price of n, which this output folder has asked before"):
        open_budget(config, "m", {"n": Spent(1, 1, 1)})


def test_who_costs_nothing_needs_no_price(tmp_path: Path) -> None:
    assert open_budget(Config(max_cost=1.0, max_tokens_total=1), None, {}).run == {}
    broken = tmp_path / "broken.toml"
    broken.write_text("[", encoding="utf-8")
    with pytest.raises(UsageError, match="broken.toml"):
        open_budget(Config(prices=broken), None, {})
