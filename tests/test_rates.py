"""Rate limits of the test server: what gets in, how long the rest waits, what headers say."""

import random

import pytest

from engine.testing.rates import Limit, Rates, duration, parse_limit


def test_full_bucket_lets_a_burst_in_and_then_the_rate() -> None:
    rates = Rates([Limit(0, rpm=120, tpm=None)], burst=2.0)
    assert [rates.admit(0.0, 100) for _ in range(5)] == [0, 0, 0, 0, 0.5]
    assert rates.admit(0.25, 100) == 0.25
    assert rates.admit(0.5, 100) == 0
    assert rates.admit(0.5, 100) == 0.5


def test_tokens_count_as_well_as_requests() -> None:
    rates = Rates([Limit(0, rpm=6_000, tpm=6_000)])
    assert rates.admit(0.0, 90) == 0
    assert rates.admit(0.0, 30) == pytest.approx(0.2)
    assert rates.admit(0.0, 10) == 0  # a refused request has taken nothing
    assert rates.headers()["x-ratelimit-remaining-tokens"] == "0"
    assert rates.headers()["x-ratelimit-remaining-requests"] == "98"


def test_request_that_is_more_than_a_bucket_gets_in_and_is_paid_for_afterwards() -> None:
    rates = Rates([Limit(0, rpm=None, tpm=600)])  # 10 tokens/s
    assert rates.admit(0.0, 50) == 0
    assert rates.admit(0.0, 50) == pytest.approx(5.0)
    assert rates.admit(4.9, 50) > 0
    assert rates.admit(5.0, 50) == 0


def test_rates_hold_over_time_whatever_is_asked() -> None:
    draw = random.Random(3)
    rates, at, tokens, requests = Rates([Limit(0, rpm=600, tpm=60_000)]), 0.0, 0, 0
    while at < 120:
        wanted = draw.choice((10, 100, 300, 3_000))
        if rates.admit(at, wanted) == 0:
            tokens, requests = tokens + wanted, requests + 1
        at += draw.expovariate(20)
    assert tokens <= 60_000 * 2 + 1_000 + 3_000  # two minutes, the burst, and one debt
    assert tokens > 0.95 * 60_000 * 2
    assert requests <= 600 * 2 + 10


def test_limits_follow_one_another() -> None:
    rates = Rates([Limit(20, 60, None), Limit(10, 600, None)])
    assert rates.headers() == {}
    assert [rates.admit(9.9, 1) for _ in range(50)] == [0] * 50
    assert [rates.admit(10.0, 1) == 0 for _ in range(11)] == [True] * 10 + [False]
    assert rates.headers()["x-ratelimit-limit-requests"] == "600"
    assert [rates.admit(20.0, 1) for _ in range(2)] == [0, 1.0]  # what was left is cut to the new
    assert rates.headers()["x-ratelimit-limit-requests"] == "60"


def test_room_under_the_old_limit_is_kept_when_a_limit_is_raised() -> None:
    rates = Rates([Limit(0, 60, None), Limit(1.0, 600, None)])
    assert rates.admit(0.0, 1) == 0
    assert [rates.admit(1.0, 1) for _ in range(2)] == [0, 0.1]


def test_headers_say_when_the_bucket_is_full_again() -> None:
    rates = Rates([Limit(0, rpm=60, tpm=60_000)], burst=60.0)
    rates.admit(0.0, 12)
    assert rates.headers() == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "60000",
        "x-ratelimit-remaining-tokens": "59988",
        "x-ratelimit-reset-tokens": "12ms",
    }


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.0001, "1ms"), (0.12, "120ms"), (1.5, "1.5s"), (59.9999, "1m0s"), (8.64, "8.64s"),
     (360, "6m0s"), (61.25, "1m1.25s"), (3_600, "1h0m0s")],
)  # fmt: skip
def test_durations_are_written_as_openai_writes_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_limits_of_the_command_line() -> None:
    assert parse_limit("10:600:-") == Limit(10, 600, None)
    assert parse_limit("0:-:1e5") == Limit(0, None, 100_000)
    for text in ("0:0:-", "0:600", "a:1:1", "0:-5:-"):
        with pytest.raises(ValueError):
            parse_limit(text)
