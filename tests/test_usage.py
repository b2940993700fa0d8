"""What slots did with their time, in exact numbers."""

import pytest

from engine.usage import Standing, Usage


def standing(slots=2, busy=2, waiting=1, coming=True):
    return Standing(slots, busy, waiting, coming)


def usage(*moments, began=100.0):
    """A run of these moments: (seconds since its begin, how things stand from then on)."""
    whole = Usage(began)
    for at, state in moments:
        whole.note(state, began + at)
    return whole


OVER = standing(busy=0, waiting=0, coming=False)


def test_run_that_has_done_nothing_knows_nothing():
    idle = Usage(0.0)
    assert idle.slots_busy is idle.window_fill is idle.windows_waited is idle.slots_starved is None
    assert idle.taken is idle.predicted is None


def test_slots_are_busy_over_the_time_they_were_open():
    ended = usage(
        (0, standing(slots=0, busy=0)),  # opening
        (10, standing(slots=1, busy=1)),
        (14, standing(slots=2, busy=2)),
        (16, standing(slots=2, busy=1)),
        (20, OVER),
    )
    assert ended.slots_busy == (4 + 4 + 4) / (4 + 4 + 8)
    assert ended.open_seconds == 10
    assert ended.taken == 20


def test_time_after_the_last_window_counts_for_nothing():
    ended = usage((0, standing()), (10, OVER), (300, OVER))
    assert ended.slots_busy == 1.0
    assert ended.taken == ended.open_seconds == 10


def test_preparation_is_ahead_while_windows_wait_and_behind_while_a_slot_wants_one():
    ended = usage(
        (0, standing(busy=0, waiting=0)),  # no window yet: starved
        (2, standing(busy=2, waiting=5)),
        (7, standing(busy=2, waiting=0)),  # just in time
        (8, standing(busy=1, waiting=0)),  # starved
        (9, standing(busy=1, waiting=0, coming=False)),  # the end: nobody's fault
        (10, OVER),
    )
    assert ended.windows_waited is None  # sequential mode has no windows
    ended.add_batch("cpu:0", [30.0], tokens=60, seconds=1.0)
    assert ended.windows_waited == 5 / 10
    assert ended.slots_starved == (2 * 2 + 1) / 20


def test_window_fill_is_speech_over_what_fits():
    ended = Usage(0.0)
    ended.add_batch("cpu:0", [30.0, 15.0], tokens=120, seconds=1.0)
    ended.add_batch("cpu:1", [15.0], tokens=30, seconds=1.0)
    assert ended.window_fill == 60 / 90
    assert (ended.windows, ended.tokens) == (3, 150)


def test_prediction_comes_when_every_open_slot_has_ended_a_batch_and_stays():
    run = Usage(100.0)
    run.add_batch("cpu:0", [30.0, 30.0], 60, seconds=4.0)
    run.predict(["cpu:0", "cpu:1"], 600.0, 114.0)
    assert run.predicted is None
    run.add_batch("cpu:1", [20.0], 60, seconds=4.0)
    # 15 and 5 s of speech a second; 520 s of speech are left
    run.predict(["cpu:0", "cpu:1"], 600.0, 115.0)
    assert run.predicted == 15 + 520 / 20
    run.add_batch("cpu:1", [30.0], 60, seconds=1.0)
    run.predict(["cpu:0", "cpu:1"], 700.0, 117.0)
    assert run.predicted == 15 + 520 / 20


@pytest.mark.parametrize(("slots", "total"), [([], 9.0), (["a"], None), (["a", "b"], 9.0)])
def test_nothing_is_foretold_from_nothing(slots, total):
    run = Usage(0.0)
    run.add_batch("a", [30.0], 60, seconds=1.0)
    run.predict(slots, total, 10.0)
    assert run.predicted is None
