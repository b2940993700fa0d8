"""The LLM threads and their outer guard."""

import gc
import threading
import time
from queue import SimpleQueue

import pytest

from engine.pools.threads import GUARD, CallPool, short_collections
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


def test_a_run_looks_through_no_object_from_before_it_for_garbage():
    before = gc.get_freeze_count()
    lived = [[] for _ in range(1000)]
    with short_collections():
        assert gc.get_freeze_count() >= before + len(lived)
        assert not any(thing is lived[0] for thing in gc.get_objects())
    assert gc.get_freeze_count() == before
    assert any(thing is lived[0] for thing in gc.get_objects())


def test_what_somebody_else_has_frozen_stays_frozen():
    gc.freeze()
    try:
        count = gc.get_freeze_count()
        with short_collections():
            pass
        assert gc.get_freeze_count() == count > 0
    finally:
        gc.unfreeze()
