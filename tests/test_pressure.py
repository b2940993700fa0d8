"""Memory pressure: what a run of samples leads to, and what a schedule does under it."""

import heapq
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from machines import GIB, MIB

from engine import messages
from engine.llm.limits import Limits
from engine.pools.pressure import Gauge, Pressure
from engine.schedule import Schedule
from engine.testing.replay import Replay

NONE, PREPARATION, BATCH = Pressure


def levels(gauge: Gauge, samples: list[float | None]) -> list[Pressure]:
    """The pressure after each second's sample, in units of what is too little."""
    found = []
    for second, left in enumerate(samples):
        gauge.take(None if left is None else int(left * gauge.low), float(second))
        found.append(gauge.pressure)
    return found


@pytest.mark.parametrize(
    ("memory", "low"),
    [
        (64 * GIB, GIB),
        (10 * GIB, 512 * MIB),
        (GIB, 128 * MIB),
        (None, 128 * MIB),
    ],
)
def test_what_is_too_little_depends_on_what_there_was(memory, low):
    assert Gauge(memory).low == low


def test_too_little_is_pressure_on_preparation_at_once():
    assert levels(Gauge(8 * GIB), [5, 1.1, 0.9]) == [NONE, NONE, PREPARATION]


def test_batches_give_way_when_that_did_not_help_for_ten_seconds():
    found = levels(Gauge(8 * GIB), [0.9] * 12)
    assert found == [PREPARATION] * 10 + [BATCH] * 2


def test_batches_give_way_at_once_when_next_to_nothing_is_left():
    assert levels(Gauge(8 * GIB), [0.9, 0.4]) == [PREPARATION, BATCH]


def test_a_dip_that_passes_is_no_reason_for_more():
    found = levels(Gauge(8 * GIB), [0.9] * 6 + [1.5] + [0.9] * 8)
    assert set(found) == {PREPARATION}


def test_plenty_for_ten_seconds_takes_one_step_back_at_a_time():
    found = levels(Gauge(8 * GIB), [0.9, 0.4, *[3.0] * 25])
    assert found == [PREPARATION, *[BATCH] * 11, *[PREPARATION] * 10, *[NONE] * 5]


def test_enough_but_not_plenty_changes_nothing():
    assert set(levels(Gauge(8 * GIB), [0.9, *[1.5] * 100])) == {PREPARATION}


def test_a_sample_that_is_not_known_changes_nothing():
    assert levels(Gauge(8 * GIB), [None, 0.9, None, None]) == [NONE] + [PREPARATION] * 3


def test_a_change_is_told_once():
    gauge = Gauge(8 * GIB)
    told = [gauge.take(gauge.low - 1, float(second)) for second in range(5)]
    assert told == [PREPARATION, None, None, None, None]


# --- the schedule ----------------------------------------------------------------------------


class Pressed(Replay):
    """A replay with pressure between two moments."""

    def __init__(self, *args, begins, ends, pressure=BATCH, **more):
        super().__init__(*args, **more)
        self.most_waiting = self.most_preparing = 0
        self.killed: list[str] = []
        self._later(begins, "", messages.MemoryPressure(pressure))
        if ends is not None:
            self._later(ends, "", messages.MemoryPressure(NONE))
        self.begins, self.ends = begins, ends or float("inf")

    def _perform(self, actions):
        if self.begins + 5 < self.now < self.ends:
            preparing = [p for p in self.schedule.places.values() if not p.is_slot and p.asked]
            self.most_preparing = max(self.most_preparing, len(preparing))
            self.most_waiting = max(self.most_waiting, self.schedule.waiting_windows)
        for action in actions:
            if isinstance(action, messages.Kill):
                self.killed.append(action.place)
                dead = action.place
                self._coming = [entry for entry in self._coming if entry[2] != dead]
                heapq.heapify(self._coming)
        super()._perform(actions)


@given(
    st.dictionaries(st.integers(0, 30), st.integers(1, 40), min_size=1, max_size=12),
    st.integers(1, 3),
    st.integers(1, 16),
    st.integers(1, 4),
    st.floats(0, 60),
    st.none() | st.floats(0, 100),
    st.sampled_from(Pressure),
    st.sampled_from([None, {"en": 0.9}, {"en": 0.4, "de": 0.3}]),
)
def test_under_pressure_every_window_is_still_decoded_once(
    windows, slots, batch, preparation, begins, ends, pressure, odds
):
    replay = Pressed(
        windows,
        {f"cpu:{i}": batch for i in range(slots)},
        preparation,
        heard=None if odds is None else lambda unit: odds,
        begins=begins,
        ends=ends,
        pressure=pressure,
    )
    replay.run()
    expected = Counter((video, n) for video, count in windows.items() for n in range(count))
    assert Counter(replay.done) == expected
    assert replay.schedule.idle


def test_under_pressure_one_preparation_worker_works_and_less_waits():
    def run(pressure):
        replay = Pressed(
            dict.fromkeys(range(20), 20),
            {"cuda:0": 8},
            preparation=6,
            prepare_seconds=0.5,
            begins=10.0,
            ends=None,
            pressure=pressure,
        )
        replay.run()
        return replay

    free, pressed = run(NONE), run(PREPARATION)
    assert free.most_preparing > 1
    assert pressed.most_preparing == 1
    assert pressed.most_waiting <= 8
    assert free.most_waiting > 8
    assert max(len(units) for _, _, units in pressed.batches) == 8  # batches are as before


def test_under_pressure_workers_without_a_video_are_ended_and_come_back_after_it():
    windows = dict.fromkeys(range(60), 3)
    replay = Pressed(windows, {"cpu:0": 2}, preparation=4, begins=20.0, ends=60.0)
    replay.run()
    assert len(set(replay.killed)) == 3
    prepared = {p.name for p in replay.schedule.places.values() if not p.is_slot}
    assert len(prepared) == 4
    assert len(replay.started) == 1 + 4 + 3  # the slot, all workers, those that came back


def test_under_more_pressure_batches_are_halved_until_it_is_gone():
    windows = {0: 400}
    replay = Pressed(windows, {"cuda:0": 8}, preparation=2, begins=30.0, ends=200.0)
    replay.run()
    sizes = {at: len(units) for at, _, units in replay.batches}
    during = [n for at, n in sizes.items() if 60 < at < 200]
    after = [n for at, n in sizes.items() if 240 < at < 380]
    assert during
    assert max(during) == 4
    assert max(after) == 8


def test_a_batch_of_one_cannot_be_halved():
    plan = Schedule({"cpu:0": 1}, 1, Limits(4, 4), [0])
    plan.step(messages.MemoryPressure(BATCH), 0.0)
    plan.step(messages.Begin(), 0.0)
    plan.step(messages.Ready("prep:0"), 0.0)
    plan.step(messages.Ready("cpu:0"), 0.0)
    plan.step(messages.Probed("prep:0", {0: 30.0}), 0.0)
    actions = plan.step(messages.Windows("prep:0", 0, (0,), True, None), 1.0)
    assert messages.Decode("cpu:0", 1, ((0, 0),)) in actions
