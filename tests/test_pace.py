"""The user's own limits, as every request of a call keeps to them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import RateError
from engine.llm.exchanges import Exchange
from engine.llm.pace import Pace


def test_without_limits_nobody_waits() -> None:
    assert [Pace().turn(0.0, 1.0) for _ in range(99)] == [0.0] * 99


def test_turns_come_evenly_and_in_order() -> None:
    pace = Pace(rpm=120)  # two may go at once
    assert [pace.turn(7.0, 60.0) for _ in range(5)] == [0.0, 0.0, 0.5, 1.0, 1.5]
    assert pace.turn(8.0, 60.0) == 1.0


def test_few_requests_a_minute_do_not_begin_with_two() -> None:
    pace = Pace(rpm=6)
    assert [pace.turn(0.0, 60.0) for _ in range(3)] == [0.0, 10.0, 20.0]


def test_turn_that_comes_too_late_for_the_call_is_named_and_not_used_up() -> None:
    pace = Pace(rpm=6)
    pace.turn(0.0, 5.0)
    for _ in range(3):
        with pytest.raises(RateError, match="--llm-rpm 6 lets no further request .* for 10 s"):
            pace.turn(0.0, 10.0)
    assert pace.turn(0.0, 10.1) == 10.0


def test_call_without_time_ends_by_its_attempt_where_it_is_its_turn() -> None:
    assert Pace(rpm=6).turn(0.0, -1.0) == 0.0


def test_tokens_follow_what_exchanges_take() -> None:
    pace = Pace(tpm=6_000)  # 100 a second
    assert pace.turn(0.0, 60.0) == 0.0
    pace.ended(Exchange(0.0, 0.0, status=200, tokens=400))
    assert pace.turn(0.0, 60.0) == pytest.approx(4.0)  # until its one second's worth is there again
    pace.ended(Exchange(0.0, 0.0, status=500))  # took nothing
    assert pace.turn(4.0, 60.0) == pytest.approx(0.0)
    with pytest.raises(RateError, match="--llm-tpm 6000 "):
        pace.turn(4.0, 4.0)


@given(
    st.lists(st.floats(0.0, 5.0), min_size=2, max_size=60),
    st.integers(1, 600),
    st.sampled_from([None, 60, 60_000]),
)
def test_requests_never_exceed_the_limit(pauses: list[float], rpm: int, tpm: int | None) -> None:
    pace, now, sent = Pace(rpm, tpm), 0.0, []
    for pause in pauses:
        now += pause
        sent.append(now + pace.turn(now, 1e9))
        pace.ended(Exchange(now, now, status=500))
    assert sent == sorted(sent)
    burst, rate = max(rpm / 60, 1.0), rpm / 60
    for first, at in enumerate(sent):
        for last in range(first, len(sent)):
            assert last - first + 1 <= burst + rate * (sent[last] - at) + 1e-6
