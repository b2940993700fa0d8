"""The LLM threads and their outer guard."""

import threading
import time
from queue import SimpleQueue

import pytest

from engine.pools.threads import GUARD, CallPool
from engine.records import Reply

KEY = (0, "expressions", 0)


@pytest.fixture
def outcomes():
    return SimpleQueue()


def test_reply_comes_through_the_queue(outcomes):
    pool = CallPool(2, 10.0, outcomes)
    pool.submit(KEY, lambda: Reply("[1]"))
    outcome = outcomes.get(timeout=10)
    assert outcome.reply == Reply("[1]")
    assert outcome.error is None
    assert pool.ended(outcome)
    pool.close()


def test_error_comes_through_the_queue(outcomes):
    def fails() -> Reply:
        raise ValueError("no")

    pool = CallPool(2, 10.0, outcomes)
    pool.submit(KEY, fails)
    outcome = outcomes.get(timeout=10)
    assert outcome.reply is None
    assert isinstance(outcome.error, ValueError)
    pool.close()


def test_guard_gives_up_a_call_that_outlives_its_deadline_and_new_calls_get_threads(outcomes):
    stuck = threading.Event()

    def hangs() -> Reply:
        stuck.wait(60)
        return Reply("late")

    pool = CallPool(1, 1.0, outcomes)
    pool.submit(KEY, hangs)
    deadline = pool.next_deadline
    assert deadline is not None
    assert pool.overdue(deadline - 0.01) == []
    assert pool.overdue(deadline) == [KEY]
    assert pool.overruns == 1
    other = (1, "expressions", 0)
    pool.submit(other, lambda: Reply("[]"))
    outcome = outcomes.get(timeout=10)
    assert outcome.key == other
    assert pool.ended(outcome)
    stuck.set()
    late = outcomes.get(timeout=10)
    assert not pool.ended(late)  # nobody waits for it any more
    pool.close()


def test_guard_never_fires_for_calls_that_end(outcomes):
    pool = CallPool(4, 5.0, outcomes)
    for n in range(20):
        pool.submit((n, "r", 0), lambda: Reply("[]"))
        pool.ended(outcomes.get(timeout=10))
    assert pool.next_deadline is None
    assert pool.overdue(time.monotonic() + 5.0 + GUARD) == []
    assert pool.overruns == 0
    pool.close()


def test_close_leaves_no_thread(outcomes):
    before = threading.active_count()
    pool = CallPool(8, 5.0, outcomes)
    for n in range(8):
        pool.submit((n, "r", 0), lambda: Reply("[]"))
    for _ in range(8):
        pool.ended(outcomes.get(timeout=10))
    pool.close()
    assert threading.active_count() == before
