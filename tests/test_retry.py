"""Retry: which attempts are made, how long apart, and what a call ends with."""

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import CallError, CallTimeout, RateError, StatusError
from engine.llm.retry import Failure, Gate, persist, retry_after, wait_after


class Call:
    """A call with a clock of its own: what its attempts do, and how long it waits."""

    def __init__(self, *attempts: Failure | str, lasts: float = 300.0) -> None:
        self.attempts = list(attempts)
        self.waits: list[float] = []
        self.lasts = lasts
        self.gate = Gate(lambda: sum(self.waits))

    def run(self) -> tuple[str, int]:
        return persist(
            self.attempt,
            lambda: self.lasts - sum(self.waits),
            self.waits.append,
            lambda: 0.0,
            self.gate,
        )

    def attempt(self) -> str:
        outcome = self.attempts.pop(0)
        if isinstance(outcome, Failure):
            raise outcome
        return outcome


def busy(asked: float | None = None) -> Failure:
    return Failure(RateError("busy"), asked=asked)


def broken(most: int) -> Failure:
    return Failure(StatusError("broken"), most)


def test_first_success_counts_its_attempts() -> None:
    call = Call(busy(), busy(), "answer", "never asked")
    assert call.run() == ("answer", 3)
    assert call.attempts == ["never asked"]


def test_waits_double_up_to_a_limit() -> None:
    call = Call(*[busy()] * 7, "answer")
    call.run()
    assert call.waits == [0.25, 0.5, 1.0, 2.0, 4.0, 4.0, 4.0]


def test_what_the_server_asks_for_is_added() -> None:
    call = Call(busy(asked=2.0), busy(asked=-5.0), "answer")
    call.run()
    assert call.waits == [2.25, 0.5]


def test_reason_is_worth_only_so_many_attempts() -> None:
    call = Call(broken(3), broken(3), broken(3), "never asked")
    with pytest.raises(StatusError, match="broken"):
        call.run()
    assert len(call.waits) == 2


def test_wait_that_does_not_fit_is_not_begun() -> None:
    call = Call(busy(asked=500.0), "never asked")
    with pytest.raises(RateError, match="busy") as caught:
        call.run()
    assert (call.waits, caught.value.wait) == ([], 500.0)


def test_pause_holds_the_first_attempt_of_other_calls_too() -> None:
    call = Call("answer")
    call.gate.close(7.0)
    call.gate.close(5.0)  # a shorter one changes nothing
    assert call.run() == ("answer", 1)
    assert call.waits == [7.0]


def test_call_does_not_begin_in_a_pause_that_is_longer_than_it() -> None:
    call = Call("never asked", lasts=300.0)
    call.gate.close(500.0)
    with pytest.raises(RateError, match="wants no requests for 500 s") as caught:
        call.run()
    assert (call.waits, caught.value.wait) == ([], 500.0)


def test_call_without_time_ends_by_its_attempt_and_not_as_a_pause() -> None:
    call = Call(Failure(CallTimeout("too late")), lasts=0.0)
    with pytest.raises(CallTimeout) as caught:
        call.run()
    assert caught.value.wait is None


@pytest.mark.parametrize("asked", [2.0, 0.0, -5.0])
def test_short_pauses_without_end_are_no_reason_to_come_back(asked: float) -> None:
    call = Call(*[busy(asked)] * 999, lasts=300.0)
    with pytest.raises(RateError) as caught:
        call.run()
    assert caught.value.wait is None


def test_pause_that_does_not_fit_counts_also_at_the_last_attempt() -> None:
    call = Call(Failure(StatusError("broken"), most=1, asked=500.0))
    with pytest.raises(StatusError) as caught:
        call.run()
    assert caught.value.wait == 500.0


def test_error_that_no_waiting_mends_names_no_wait() -> None:
    call = Call(broken(1), lasts=300.0)
    with pytest.raises(StatusError) as caught:
        call.run()
    assert caught.value.wait is None


def test_patience_ends_with_the_call() -> None:
    call = Call(*[busy()] * 99, lasts=10.0)
    with pytest.raises(RateError):
        call.run()
    assert 3.0 < sum(call.waits) < 10.0


def test_error_of_the_last_attempt_keeps_its_cause_and_no_other() -> None:
    error = StatusError("broken")
    error.__cause__ = OSError("reset")
    with pytest.raises(StatusError) as caught:
        Call(Failure(error, 1)).run()
    assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(StatusError) as caught:
        Call(broken(1)).run()
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_other_errors_end_the_call_at_once() -> None:
    def attempt() -> str:
        raise CallError("no use")

    with pytest.raises(CallError, match="no use"):
        persist(attempt, lambda: 300.0, lambda _: pytest.fail("waited"), lambda: 0.0, Gate())


NOW = 1_800_000_000.0
SOON = format_datetime(datetime.fromtimestamp(NOW + 7, UTC), usegmt=True)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "-5"}, -5.0),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": SOON}, 7.0),
        ({"retry-after": SOON.replace("GMT", "-0000")}, 7.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "Fri, 99 Foo 2027 99:99:99 GMT"}, None),
    ],
)
def test_retry_after_is_read_in_all_its_forms(
    headers: dict[str, str], seconds: float | None
) -> None:
    assert retry_after(headers, NOW) == seconds


@given(st.text())
def test_no_retry_after_of_a_server_breaks_us(text: str) -> None:
    retry_after({"retry-after": text, "retry-after-ms": text}, NOW)


@given(
    st.integers(1, 10_000),
    st.none() | st.floats(-1e9, 1e9),
    st.floats(0, 1, exclude_max=True),
)
def test_wait_is_positive_and_at_least_what_was_asked(
    attempts: int, asked: float | None, drawn: float
) -> None:
    wait = wait_after(attempts, asked, drawn)
    assert wait >= max(asked or 0.0, 0.25)
    assert wait <= max(asked or 0.0, 0.0) + 8.0
