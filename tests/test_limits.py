"""Limits: how many calls at a time, and when the next may begin."""

import itertools
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.llm.exchanges import Allowance, Exchange, Sent, granted
from engine.llm.limits import FIRST_TOKENS, Limits
from engine.llm.pauses import LONGEST, Pauses


def fine(began: float, ended: float, **told) -> Exchange:
    return Exchange(began, ended, status=200, **told)


def send(limits: Limits, at: float) -> None:
    limits.begin(at)
    limits.sent(Sent(at, first=True))


def round_of(limits: Limits, began: float, seconds: float = 1.0, status: int = 200) -> None:
    """As many exchanges as may be under way, all together."""
    for _ in range(limits.at_once):
        limits.ended(Exchange(began, began + seconds, status=status), limits.at_once)


def test_limit_doubles_in_a_clean_round_up_to_the_most():
    limits = Limits(8, 64)
    seen = []
    for number in range(5):
        seen.append(limits.at_once)
        round_of(limits, float(number))
    assert seen == [8, 16, 32, 64, 64]


@pytest.mark.parametrize(
    "trouble",
    [
        Exchange(5.0, 6.0, status=429),
        Exchange(5.0, 6.0, status=503),
        Exchange(5.0, 6.0, timed_out=True),
    ],
)
def test_after_trouble_it_grows_by_one_a_round(trouble: Exchange):
    limits = Limits(20, 64)
    limits.ended(trouble, 20)
    assert limits.at_once == 18
    for number in range(3):
        round_of(limits, 10.0 + number)
    assert limits.at_once == 20  # 18, 18.97, 19.9, 20.8


def test_one_round_trip_shrinks_it_once():
    limits = Limits(20, 64)
    for _ in range(20):
        limits.ended(Exchange(5.0, 6.0, status=429), 20)
    assert limits.at_once == 18
    limits.ended(Exchange(6.5, 7.0, status=429), 20)
    assert limits.at_once == 16
    assert limits.refused == 21


def test_one_call_is_always_allowed():
    limits = Limits(8, 64)
    for number in range(100):
        limits.ended(Exchange(number, number + 0.5, status=429), 1)
    assert limits.at_once == 1
    assert limits.wait(0, 1_000.0) == 0.0
    assert limits.wait(1, 1_000.0) is None


def test_errors_that_say_nothing_about_load_change_nothing():
    limits = Limits(8, 64)
    for status in (400, 401, 500, None):
        limits.ended(Exchange(1.0, 2.0, status=status), 8)
    assert limits.at_once == 8


def test_limit_that_is_not_reached_does_not_grow():
    limits = Limits(8, 64)
    for number in range(100):
        limits.ended(fine(number, number + 1.0), 3)
    assert limits.at_once == 8


def test_busy_server_gets_no_more_calls():
    """One that works on four at a time: more calls at once only take longer."""
    limits = Limits(8, 128)
    now = 0.0
    for _ in range(40):
        seconds = limits.at_once / 4
        round_of(limits, now, seconds)
        now += seconds
    assert limits.at_once <= 32


def test_limit_asked_for_is_kept():
    limits = Limits(1, 1)
    for number in range(50):
        round_of(limits, number)
    assert limits.at_once == 1


def test_pause_that_the_server_asks_for_holds_every_call():
    limits = Limits(8, 64)
    limits.ended(Exchange(5.0, 6.0, status=429, asked=20.0), 8)
    assert limits.wait(0, 6.0) == 20.0
    assert limits.wait(0, 25.9) == pytest.approx(0.1)
    assert limits.wait(0, 26.0) == 0.0


@pytest.mark.parametrize(("status", "wait"), [(500, 20.0), (409, 20.0), (400, 0.0), (200, 0.0)])
def test_pause_holds_where_the_client_heeds_it_too(status: int, wait: float):
    limits = Limits(8, 64)
    limits.ended(Exchange(5.0, 6.0, status=status, asked=20.0), 8)
    assert limits.wait(0, 6.0) == wait


def test_requests_a_minute_are_spread_evenly():
    limits = Limits(64, 64, rpm=120)
    times = []
    now = 0.0
    for _ in range(20):
        now += limits.wait(0, now) or 0.0
        limits.begin(now)
        times.append(now)
    assert times[:2] == [0.0, 0.0]  # one second's worth at once
    steps = [later - earlier for earlier, later in itertools.pairwise(times[1:])]
    assert steps == pytest.approx([0.5] * 18)


def test_requests_that_follow_in_a_call_are_counted_too():
    limits = Limits(64, 64, rpm=60)
    send(limits, 0.0)
    limits.sent(Sent(1.0, first=False))
    limits.sent(Sent(1.5, first=False))
    assert limits.wait(0, 2.0) == pytest.approx(1.0)  # two seconds' worth for three exchanges


def test_tokens_a_minute_follow_what_calls_take():
    limits = Limits(64, 64, tpm=60_000)
    send(limits, 0.0)
    assert limits.wait(1, 0.0) == pytest.approx(FIRST_TOKENS / 1_000)  # nothing is known yet
    limits.ended(fine(0.0, 1.0, tokens=200), 1)
    assert limits.wait(0, 1.0) == 0.0
    began = 0
    while limits.wait(0, 1.0) == 0.0:
        limits.begin(1.0)
        began += 1
    assert began == 5  # of 200 each: the second's 1,000


def test_exchange_that_was_refused_took_no_tokens():
    limits = Limits(64, 64, tpm=60_000)
    limits.begin(0.0)
    limits.ended(Exchange(0.0, 0.0, status=429), 1)
    assert limits.wait(0, 0.0) == 0.0


def test_headers_tell_the_rate_and_what_is_left():
    limits = Limits(64, 64)
    send(limits, 0.0)
    limits.ended(fine(0.0, 0.0, requests_granted=Allowance(600, 3)), 1)
    for _ in range(3):
        assert limits.wait(0, 0.0) == 0.0
        limits.begin(0.0)
    assert limits.wait(0, 0.0) == pytest.approx(0.1)


def test_calls_sent_after_the_one_that_tells_are_counted_off():
    limits = Limits(64, 64)
    send(limits, 0.0)
    for _ in range(5):
        send(limits, 0.5)  # the server had not seen these when it counted
    limits.ended(fine(0.0, 1.0, requests_granted=Allowance(60, 6)), 6)
    assert limits.wait(5, 1.0) == 0.0  # 6 left, 1 more since, 5 taken
    limits.begin(1.0)
    limits.begin(1.0)
    assert limits.wait(7, 1.0) == pytest.approx(1.0)


def test_calls_that_are_not_sent_yet_are_counted_off_until_none_is_under_way():
    limits = Limits(64, 64)
    send(limits, 0.0)
    limits.begin(0.0)  # says nothing to the endpoint after all
    limits.ended(fine(0.0, 0.0, requests_granted=Allowance(60, 1)), 2)
    assert limits.wait(0, 0.0) == pytest.approx(1.0)
    limits.rest()
    limits.ended(fine(0.0, 0.0, requests_granted=Allowance(60, 1)), 1)
    assert limits.wait(0, 0.0) == 0.0


def test_call_that_is_not_needed_after_all_takes_nothing():
    limits = Limits(64, 64, rpm=60)
    limits.begin(0.0)
    assert limits.wait(1, 0.0) == pytest.approx(1.0)
    limits.unsent()
    assert limits.wait(0, 0.0) == 0.0
    limits.ended(fine(0.0, 0.0, requests_granted=Allowance(60, 1)), 1)
    assert limits.wait(0, 0.0) == 0.0


def test_older_news_does_not_undo_newer():
    limits = Limits(64, 64)
    limits.ended(fine(5.0, 6.0, requests_granted=Allowance(60, 0)), 2)
    limits.ended(fine(1.0, 7.0, requests_granted=Allowance(600, 500)), 2)
    assert limits.wait(0, 6.0) == pytest.approx(0.0)  # one second has refilled one
    limits.begin(6.0)
    assert limits.wait(0, 6.0) == pytest.approx(1.0)


def test_pause_no_longer_than_the_headers_tell_closes_nothing():
    """Whole seconds are too coarse for an endpoint that grants twenty a second."""
    limits = Limits(64, 64)
    told = Exchange(5.0, 5.0, status=429, asked=1.0, requests_granted=Allowance(1_200, 0))
    limits.ended(told, 8)
    assert limits.wait(0, 5.0) == pytest.approx(0.05)


def test_quota_for_a_day_that_is_used_up_is_waited_for():
    limits = Limits(64, 64)
    told = Exchange(5.0, 5.0, status=429, asked=900.0, requests_granted=Allowance(14_400, 0))
    limits.ended(told, 8)
    assert limits.wait(0, 5.0) == 900.0


def served(limits: Limits, capacity: Callable[[float], float], until: float) -> tuple[int, int]:
    """Answered and refused by a server with a bucket of one second's worth, told in headers."""
    chance = random.Random(4)
    now, level, checked = 0.0, capacity(0.0), 0.0
    under_way: list[tuple[float, Exchange]] = []
    answered = refused = 0
    while now < until:
        wait = limits.wait(len(under_way), now)
        ending = min((end for end, _ in under_way), default=float("inf"))
        if wait is None or now + wait >= ending:
            now = ending
            entry = min(under_way, key=lambda pair: pair[0])
            limits.ended(entry[1], len(under_way))
            under_way.remove(entry)
            continue
        now += wait
        rate = capacity(now)
        level, checked = min(rate, level + rate * (now - checked)), now
        send(limits, now)
        allowed = level >= 1.0
        level -= allowed
        answered, refused = answered + allowed, refused + (not allowed)
        seconds = 0.2 * chance.lognormvariate(0.0, 0.5) if allowed else 0.001
        told = Allowance(60 * rate, int(level))
        status = 200 if allowed else 429
        asked = None if allowed else 1.0
        end = now + seconds
        exchange = Exchange(now, end, status=status, asked=asked, requests_granted=told)
        under_way.append((end, exchange))
    return answered, refused


def test_moving_limit_is_used_up_and_hardly_ever_exceeded():
    def capacity(now: float) -> float:
        return 20.0 if now < 30 else 10.0 if now < 60 else 40.0

    answered, refused = served(Limits(8, 64), capacity, 90.0)
    assert answered >= 0.97 * 30 * (20 + 10 + 40)
    assert refused <= 0.01 * answered


@given(
    st.lists(
        st.builds(
            Exchange,
            began=st.floats(0, 100),
            ended=st.floats(0, 100),
            first=st.booleans(),
            status=st.sampled_from([None, 200, 400, 429, 503]),
            timed_out=st.booleans(),
            asked=st.none() | st.floats(-10, 1e6),
            tokens=st.none() | st.integers(0, 10**9),
            requests_granted=st.none()
            | st.builds(Allowance, st.floats(1e-3, 1e9), st.floats(0, 1e9)),
        ),
        max_size=30,
    )
)
def test_whatever_a_server_tells_the_wait_is_finite(exchanges: list[Exchange]):
    limits = Limits(8, 64, rpm=100, tpm=10_000)
    for exchange in exchanges:
        limits.begin(exchange.began)
        limits.sent(Sent(exchange.began, exchange.first))
        limits.ended(exchange, 4)
        assert 1 <= limits.at_once <= 64
        assert 0.0 <= (limits.wait(0, 100.0) or 0.0) < float("inf")


@pytest.mark.parametrize(
    ("headers", "allowance"),
    [
        ({}, None),
        ({"limit": "60"}, None),
        ({"remaining": "60"}, None),
        ({"limit": "0", "remaining": "0"}, None),
        ({"limit": "nan", "remaining": "1"}, None),
        ({"limit": "-5", "remaining": "1"}, None),
        ({"limit": "many", "remaining": "1"}, None),
        ({"limit": "60", "remaining": "0"}, Allowance(60, 0)),
    ],
)
def test_allowance_is_what_both_headers_say(headers, allowance):
    named = {f"x-ratelimit-{name}-requests": value for name, value in headers.items()}
    assert granted(named, "requests") == allowance
    assert granted(named, "tokens") is None


def test_pause_is_waited_for_three_times_in_a_row():
    pauses = Pauses()
    assert pauses.worth(500.0, 0.0, 1.0)
    assert pauses.is_new
    assert pauses.worth(400.0, 0.5, 2.0)  # another call hears of the same one
    assert not pauses.is_new
    assert pauses.worth(500.0, 502.0, 503.0)
    assert pauses.worth(500.0, 1_100.0, 1_101.0)
    assert not pauses.worth(500.0, 1_700.0, 1_701.0)


def test_answer_between_pauses_renews_the_patience():
    pauses = Pauses()
    for number in range(10):
        assert pauses.worth(500.0, 1_000.0 * number, 1_000.0 * number + 1.0)
        pauses.answered()


def test_pause_of_a_day_is_not_waited_for():
    assert not Pauses().worth(LONGEST + 1.0, 0.0, 1.0)
