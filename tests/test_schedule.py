"""The schedule alone, replayed on a clock that jumps: no process, no thread, no real time."""

import heapq
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import assignment, messages, places, schedule
from engine.llm.limits import Limits
from engine.records import Problem
from engine.schedule import Schedule
from engine.testing.replay import DIED, Replay, lengths


def all_units(windows: dict[int, int]) -> Counter[tuple[int, int]]:
    return Counter((video, n) for video, count in windows.items() for n in range(count))


def sure(unit):
    return {"en": 0.9, "de": 0.1}


@given(
    st.dictionaries(st.integers(0, 30), st.integers(1, 40), min_size=1, max_size=12),
    st.integers(1, 4),
    st.integers(1, 16),
    st.integers(1, 3),
    st.sampled_from([None, sure]),
)
def test_every_window_is_decoded_exactly_once(windows, slots, batch, preparation, heard):
    sizes = {f"cpu:{i}": batch for i in range(slots)}
    replay = Replay(windows, sizes, preparation, heard=heard)
    replay.run()
    assert Counter(replay.done) == all_units(windows)
    assert replay.schedule.idle
    assert not replay.failed


@pytest.mark.parametrize(("slots", "efficiency"), [(2, 0.98), (8, 0.97), (64, 0.95)])
def test_slots_are_kept_busy(slots, efficiency):
    windows = lengths(seed=7, videos=400)
    replay = Replay(windows, {f"cuda:{i}": 1 for i in range(slots)}, preparation=slots)
    makespan = replay.run() - 0.1  # opening
    assert sum(windows.values()) / slots / makespan >= efficiency


def test_batches_are_full_while_a_full_one_can_be_had():
    windows = lengths(seed=3, videos=200)
    replay = Replay(windows, {"cuda:0": 16, "cuda:1": 16}, preparation=8)
    replay.run()
    assert replay.schedule.batch_fill >= 0.99
    sizes = [len(units) for _, _, units in replay.batches]
    assert sizes.count(16) > 0.9 * len(sizes)


def test_what_is_shared_out_at_the_end_is_no_batch_that_could_have_been_full():
    replay = Replay({0: 57}, {"cuda:0": 16, "cuda:1": 16}, prepare_seconds=0.0)
    replay.run()
    assert [len(units) for _, _, units in replay.batches[-2:]] == [12, 8]  # of 20 that were left
    assert replay.schedule.batch_fill == 1


def test_batch_of_a_video_that_is_tried_again_is_not_full():
    plain, killed = (
        Replay({0: 15, 1: 65}, {"cuda:0": 16}, kills=lambda action, n=n: action.batch == n)
        for n in (0, 1)
    )
    for replay in (plain, killed):
        replay.run()
    assert plain.schedule.batch_fill == 1
    assert killed.schedule.batch_fill < 1


def test_what_is_left_at_the_end_is_dealt_out_evenly():
    replay = Replay({0: 4}, {"cpu:0": 4, "cpu:1": 4}, prepare_seconds=0.0)
    replay.run()
    last = [len(units) for _, _, units in replay.batches[-2:]]
    assert max(last) <= 2
    assert {place for _, place, _ in replay.batches} == {"cpu:0", "cpu:1"}


def test_longest_video_is_prepared_first():
    replay = Replay({0: 1, 1: 9, 2: 3}, {"cpu:0": 1})
    replay.run()
    assert [units[0][0] for _, _, units in replay.batches][:9] == [1] * 9


class Gated(Replay):
    """Notes with each unit sent whether its video's language was known by then."""

    def _decode(self, action):
        self.sent = [
            *getattr(self, "sent", []),
            *((unit, self.jobs[unit[0]].language) for unit in action.units),
        ]
        super()._decode(action)


def test_only_the_first_window_goes_before_the_language_is_known():
    replay = Gated({0: 6, 1: 6}, {"cpu:0": 4}, preparation=2, heard=sure)
    replay.run()
    unknown = [unit for unit, language in replay.sent if language is None]
    assert sorted(unknown) == [(0, 0), (1, 0)]


def torn(unit):
    """Videos that are even begin in another language than they go on in."""
    video, position = unit
    if video % 2:
        return {"en": 0.8, "de": 0.2}
    return {"en": 0.45, "de": 0.4} if position == 0 else {"en": 0.2, "de": 0.7 - position / 100}


def test_unsure_first_window_is_outvoted_and_decoded_again_in_the_language_of_the_video():
    replay = Gated({0: 8}, {"cpu:0": 2}, heard=torn)
    replay.run()
    assert [unit for unit, language in replay.sent if language is None] == [
        (0, n) for n in range(5)
    ]
    assert Counter(replay.done) == all_units({0: 8}) + Counter([(0, 0)])
    transcript = replay.jobs[0].transcript
    assert (transcript.language, transcript.text) == ("de", " de" * 8)
    odds = [torn((0, n))["de"] for n in range(5)]
    assert transcript.language_probability == pytest.approx(sum(odds) / 5)


def test_other_videos_fill_the_batches_while_a_language_is_decided():
    replay = Replay({0: 40, 1: 40}, {"cpu:0": 4, "cpu:1": 4}, preparation=2, heard=torn)
    replay.run()
    assert replay.schedule.batch_fill >= 0.99
    whole = [units for _, _, units in replay.batches if len(units) == 4]
    assert len(whole) > 0.7 * len(replay.batches)


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=6),
    st.integers(1, 3),
    st.integers(1, 8),
    st.integers(1, 3),
    st.lists(st.integers(1, 12), max_size=2, unique=True),
)
def test_languages_do_not_depend_on_slots_batches_or_kills(counts, slots, batch, preparation, kill):
    windows = dict(enumerate(counts))
    plain = Replay(windows, {"cpu:0": 1}, heard=torn)
    plain.run()
    sizes = {f"cpu:{i}": batch for i in range(slots)}
    other = Replay(windows, sizes, preparation, heard=torn, kills=lambda a: a.batch in kill)
    other.run()
    for video in windows.keys() - other.failed.keys():
        assert other.jobs[video].transcript == plain.jobs[video].transcript
        assert other.jobs[video].transcript.language == (
            "en" if video % 2 or counts[video] == 1 else "de"
        )
    assert other.schedule.idle


@pytest.mark.parametrize("may_wait", [None, 3, 100])
def test_preparation_stays_a_few_batches_ahead_or_what_scratch_has_room_for(may_wait):
    """Scratch is bounded: what waits never exceeds what was allowed."""
    most = 0

    class Watching(Replay):
        def _perform(self, actions):
            nonlocal most
            most = max(most, self.schedule.waiting_windows)
            super()._perform(actions)

    Watching({0: 500}, {"cpu:0": 2}, seconds=lambda unit: 10.0, may_wait=may_wait).run()
    assert most == min(assignment.AHEAD * 2, may_wait or assignment.AHEAD * 2)


def test_a_slot_holds_two_batches_so_that_it_never_waits_for_the_loop():
    replay = Replay({0: 20}, {"cpu:0": 1})
    replay.run()
    starts = [at for at, _, _ in replay.batches]
    assert starts[1] < starts[0] + 1.0


def test_death_costs_the_oldest_batch_a_try_and_the_other_nothing():
    deaths = iter([True])
    replay = Replay(
        {0: 4, 1: 4}, {"cpu:0": 1}, kills=lambda a: a.batch == 2 and next(deaths, False)
    )
    replay.run()
    assert Counter(replay.done) == all_units({0: 4, 1: 4})
    assert not replay.failed


def test_poisonous_video_costs_two_workers_and_nobody_else():
    killed = []

    def kills(action):
        poisonous = any(video == 1 for video, _ in action.units)
        if poisonous:
            killed.append(action.place)
        return poisonous

    windows = {0: 5, 1: 3, 2: 7}
    replay = Replay(windows, {"cuda:0": 4, "cuda:1": 4}, preparation=2, kills=kills)
    replay.run()
    assert set(replay.failed) == {1}
    assert replay.failed[1] == DIED
    done = Counter(replay.done)
    assert all(done[unit] == 1 for unit in all_units({0: 5, 2: 7}))
    assert len(killed) <= 4  # two batches of it may be on two slots at once


@given(st.lists(st.integers(1, 60), max_size=6, unique=True), st.integers(1, 3))
def test_killed_workers_lose_no_window(kill_at, slots):
    windows = lengths(seed=11, videos=20, longest=12)
    replay = Replay(
        windows, {f"cpu:{i}": 2 for i in range(slots)}, kills=lambda a: a.batch in kill_at
    )
    replay.run()
    left = {v: n for v, n in windows.items() if v not in replay.failed}
    assert all(Counter(replay.done)[unit] == 1 for unit in all_units(left))
    assert replay.schedule.idle


def test_place_that_cannot_open_is_retired_and_the_others_do_its_work():
    plan = Schedule({"cuda:0": 1, "cuda:1": 1}, 1, Limits(4, 4), [0])
    plan.step(messages.Begin(), 0.0)
    broken = Problem("E_WORKER", "no cuBLAS")
    assert not any(
        isinstance(a, messages.GiveUp)
        for a in plan.step(messages.CannotOpen("cuda:0", broken), 1.0)
    )
    assert messages.GiveUp(broken) in plan.step(messages.CannotOpen("cuda:1", broken), 2.0)


def test_process_that_dies_while_opening_is_tried_three_times():
    plan = Schedule({"cpu:0": 1}, 1, Limits(4, 4), [0])
    plan.step(messages.Begin(), 0.0)
    starts = 1
    while messages.Start("cpu:0") in plan.step(messages.Died("cpu:0", DIED), float(starts)):
        starts += 1
    assert starts == schedule.STARTS
    assert plan.places["cpu:0"].phase is places.Phase.RETIRED


def test_a_process_that_opened_in_between_makes_up_for_those_that_did_not():
    plan = Schedule({"cpu:0": 1}, 1, Limits(4, 4), [0])
    plan.step(messages.Begin(), 0.0)
    for _ in range(schedule.STARTS):
        for _ in range(schedule.STARTS - 1):
            assert messages.Start("cpu:0") in plan.step(messages.Died("cpu:0", DIED), 1.0)
        plan.step(messages.Ready("cpu:0"), 2.0)
        plan.step(messages.Died("cpu:0", DIED), 3.0)
    assert plan.places["cpu:0"].phase is places.Phase.OPENING


def test_preparation_that_dies_at_work_costs_its_video_a_try_and_an_idle_one_costs_nothing():
    plan = Schedule({"cpu:0": 1}, 1, Limits(4, 4), [0], may_wait=2)
    plan.step(messages.Begin(), 0.0)
    plan.step(messages.Ready("prep:0"), 0.0)
    first, *_ = plan.step(messages.Probed("prep:0", {0: 900.0}), 0.0)
    assert first == messages.Prepare("prep:0", 0, 1)
    plan.step(messages.Windows("prep:0", 0, (0,), False, None), 1.0)
    assert plan.step(messages.Windows("prep:0", 0, (1,), False, None), 1.0) == []  # room for 2
    plan.step(messages.Died("prep:0", DIED), 2.0)
    plan.step(messages.Ready("cpu:0"), 3.0)
    assert plan.step(messages.Ready("prep:0"), 3.0) == [messages.Prepare("prep:0", 0, 1)]
    plan.step(messages.Died("prep:0", DIED), 4.0)
    assert plan.step(messages.Ready("prep:0"), 5.0) == [messages.Prepare("prep:0", 0, 1)]
    assert messages.Fail(0, DIED) in plan.step(messages.Died("prep:0", DIED), 6.0)


def test_hung_slot_is_killed_and_its_batch_goes_elsewhere():
    plan = Schedule({"cpu:0": 1}, 1, Limits(4, 4), [0])
    plan.step(messages.Begin(), 0.0)
    plan.step(messages.Ready("prep:0"), 0.0)
    plan.step(messages.Ready("cpu:0", 0.5), 0.0)
    plan.step(messages.Probed("prep:0", {0: 30.0}), 0.0)
    [decode] = plan.step(messages.Windows("prep:0", 0, (0,), True, None), 1.0)
    assert decode == messages.Decode("cpu:0", 1, ((0, 0),))
    assert plan.next_deadline == 1.0 + places.DECODE_LIMIT
    actions = plan.step(messages.Tick(), plan.next_deadline)
    assert [type(action) for action in actions] == [messages.Kill, messages.Start]
    again = plan.step(messages.Ready("cpu:0", 0.5), 100.0)
    assert messages.Decode("cpu:0", 2, ((0, 0),)) in again


def test_container_that_kills_its_reader_is_found_by_looking_one_by_one():
    plan = Schedule({"cpu:0": 1}, 1, Limits(4, 4), [0, 1, 2])
    actions = plan.step(messages.Begin(), 0.0)
    failed = []
    for _ in range(20):
        actions = list(actions)
        if not actions:
            break
        action = actions.pop(0)
        match action:
            case messages.Start("prep:0"):
                actions += plan.step(messages.Ready("prep:0"), 0.0)
            case messages.Probe("prep:0", videos) if 1 in videos:
                actions += plan.step(messages.Died("prep:0", DIED), 0.0)
            case messages.Probe("prep:0", videos):
                actions += plan.step(messages.Probed("prep:0", dict.fromkeys(videos, 1.0)), 0.0)
            case messages.Fail(video, _):
                failed.append(video)
    assert failed == [1]


def test_death_among_several_containers_costs_none_of_them_a_try():
    plan = Schedule({"cpu:0": 1}, 1, Limits(4, 4), [0, 1])
    plan.step(messages.Begin(), 0.0)
    assert plan.step(messages.Ready("prep:0"), 0.0) == [messages.Probe("prep:0", (0, 1))]
    plan.step(messages.Died("prep:0", DIED), 1.0)
    assert plan.step(messages.Ready("prep:0"), 1.0) == [messages.Probe("prep:0", (0,))]
    plan.step(messages.Died("prep:0", DIED), 2.0)  # from outside, perhaps
    assert plan.step(messages.Ready("prep:0"), 2.0) == [messages.Probe("prep:0", (1,))]
    plan.step(messages.Probed("prep:0", {1: 60.0}), 3.0)  # and now the first once more
    first, *_ = plan.step(messages.Probed("prep:0", {0: 50.0}), 3.0)
    assert first == messages.Prepare("prep:0", 1, 1)
    plan.step(messages.Died("prep:0", DIED), 4.0)
    assert plan.step(messages.Ready("prep:0"), 5.0) == [messages.Prepare("prep:0", 1, 1)]


def test_drain_starts_nothing_new():
    plan = Schedule({"cpu:0": 1}, 1, Limits(4, 4), [0])
    plan.step(messages.Begin(), 0.0)
    plan.step(messages.Drain(), 0.0)
    assert plan.step(messages.Ready("prep:0"), 0.0) == []
    assert plan.step(messages.ChunkReady((0, "expressions", 0)), 0.0) == []


def test_calls_keep_to_their_limit_and_go_by_video_then_chunk():
    plan = Schedule({}, 0, Limits(2, 2), [])
    keys = [(0, "r", 1), (0, "r", 0), (1, "r", 0)]
    started = [a for key in keys for a in plan.step(messages.ChunkReady(key), 0.0)]
    assert started == [messages.Call((0, "r", 1)), messages.Call((0, "r", 0))]
    assert plan.step(messages.CallEnded((0, "r", 1)), 0.0) == [messages.Call((1, "r", 0))]


def test_calls_that_wait_are_given_back_when_the_endpoint_is_gone():
    plan = Schedule({}, 0, Limits(1, 1), [])
    for index in range(3):
        plan.step(messages.ChunkReady((0, "r", index)), 0.0)
    assert plan.calls.clear() == [(0, "r", 1), (0, "r", 2)]
    assert plan.step(messages.CallEnded((0, "r", 0)), 0.0) == []
    assert plan.idle


@pytest.mark.parametrize("kills", [1, 2])
def test_sequential_file_restarts_after_a_death_and_fails_at_the_second(kills):
    plan = Schedule({"cpu:0": 1}, 1, Limits(4, 4), [0], sequential=True)
    plan.step(messages.Begin(), 0.0)
    plan.step(messages.Ready("cpu:0"), 0.0)
    plan.step(messages.Ready("prep:0"), 0.0)
    assert plan.step(messages.Probed("prep:0", {0: 90.0}), 0.0) == [
        messages.Advance("cpu:0", 0, restart=True)
    ]
    for _ in range(kills):
        actions = plan.step(messages.Died("cpu:0", DIED), 1.0)
        plan.step(messages.Ready("cpu:0"), 1.0)
    failed = [a for a in actions if isinstance(a, messages.Fail)]
    assert bool(failed) == (kills == 2)


# --- out of memory ---------------------------------------------------------------------------

NO_MEMORY = Problem("E_OUT_OF_MEMORY", "too small")


class Cramped(Replay):
    """Slots whose memory holds so many windows at once, and perhaps more in smaller weights."""

    def __init__(self, *args, holds, smaller=None, **more):
        super().__init__(*args, **more)
        self.holds = dict(holds)
        self.smaller = smaller
        self.lowered: list[str] = []
        self.refused: list[int] = []  # sizes of batches that did not fit

    def _decode(self, action):
        place, units = action.place, action.units
        dying = any(e[2] == place and isinstance(e[3], messages.Died) for e in self._coming)
        if dying or len(units) <= self.holds[place]:
            super()._decode(action)
            return
        self.batches.append((self.now, place, units))
        self.refused.append(len(units))
        may = self.smaller is not None and place not in self.lowered
        event = messages.OutOfMemory(place, action.batch, NO_MEMORY, may)
        at = max(self.now, self._free_at[place]) + 0.1
        self._free_at[place] = at
        self._later(at, place, event)

    def _perform(self, actions):
        for action in actions:
            if isinstance(action, messages.Lower | messages.Kill):
                gone = action.place
                self._coming = [entry for entry in self._coming if entry[2] != gone]
                heapq.heapify(self._coming)
            if isinstance(action, messages.Lower):
                self.lowered.append(action.place)
                self.holds[action.place] = self.smaller
        super()._perform(actions)


def test_a_batch_that_does_not_fit_is_halved_until_it_does_and_no_video_is_blamed():
    windows = {0: 30, 1: 5, 2: 5}
    replay = Cramped(windows, {"cuda:0": 16}, holds={"cuda:0": 5})
    replay.run()
    assert Counter(replay.done) == all_units(windows)
    assert not replay.failed
    assert replay.schedule.places["cuda:0"].batch_size == 4
    assert replay.schedule.places["cuda:0"].phase is places.Phase.OPEN
    assert replay.started.count("cuda:0") == 1


def test_a_batch_sent_before_the_slot_came_down_is_no_further_step():
    plan = Schedule({"cuda:0": 4}, 1, Limits(4, 4), [0])
    plan.step(messages.Begin(), 0.0)
    plan.step(messages.Ready("prep:0"), 0.0)
    plan.step(messages.Ready("cuda:0"), 0.0)
    plan.step(messages.Probed("prep:0", {0: 300.0}), 0.0)
    plan.step(messages.Windows("prep:0", 0, tuple(range(8)), True, None), 1.0)
    slot = plan.places["cuda:0"]
    assert [len(batch.units) for batch in slot.batches] == [4, 4]
    plan.step(messages.OutOfMemory("cuda:0", 1, NO_MEMORY, False), 2.0)
    assert (slot.batch_size, slot.phase) == (2, places.Phase.OPEN)
    plan.step(messages.OutOfMemory("cuda:0", 2, NO_MEMORY, False), 3.0)
    assert (slot.batch_size, slot.phase) == (2, places.Phase.OPEN)
    assert [len(batch.units) for batch in slot.batches] == [2, 2]
    # down to one window, then all the way again with smaller weights
    for number in (3, 4, 5):
        actions = plan.step(messages.OutOfMemory("cuda:0", number, NO_MEMORY, True), 4.0)
    assert actions == [messages.Lower("cuda:0", NO_MEMORY), messages.Start("cuda:0")]
    assert (slot.batch_size, slot.batches) == (4, [])
    assert plan.waiting_windows == 8


def test_a_slot_that_cannot_hold_one_window_opens_again_with_smaller_weights():
    windows = {0: 12, 1: 3}
    replay = Cramped(windows, {"cuda:0": 8}, holds={"cuda:0": 0}, smaller=4)
    replay.run()
    assert Counter(replay.done) == all_units(windows)
    assert not replay.failed
    assert replay.lowered == ["cuda:0"]
    assert replay.started.count("cuda:0") == 2
    assert replay.schedule.places["cuda:0"].batch_size == 4  # found anew from what was planned


def test_a_slot_that_holds_nothing_is_given_up_and_another_does_its_windows():
    windows = {0: 12, 1: 3}
    replay = Cramped(
        windows, dict.fromkeys(("cuda:0", "cuda:1"), 4), holds={"cuda:0": 0, "cuda:1": 4}
    )
    replay.run()
    assert Counter(replay.done) == all_units(windows)
    assert not replay.failed
    assert replay.gave_up is None
    assert replay.schedule.places["cuda:0"].phase is places.Phase.RETIRED


def test_without_any_slot_that_holds_a_window_the_run_is_given_up_with_the_reason():
    replay = Cramped({0: 3}, {"cuda:0": 2}, holds={"cuda:0": 0}, smaller=0)
    replay.run()
    assert replay.gave_up == NO_MEMORY
    assert replay.lowered == ["cuda:0"]
    assert replay.schedule.idle
    assert not replay.done


def test_a_model_that_does_not_fit_while_opening_is_opened_with_smaller_weights():
    plan = Schedule({"cuda:0": 4}, 1, Limits(4, 4), [0])
    plan.step(messages.Begin(), 0.0)
    actions = plan.step(messages.OutOfMemory("cuda:0", None, NO_MEMORY, True), 1.0)
    assert actions == [messages.Lower("cuda:0", NO_MEMORY), messages.Start("cuda:0")]
    actions = plan.step(messages.OutOfMemory("cuda:0", None, NO_MEMORY, False), 2.0)
    assert actions == [messages.Kill("cuda:0", NO_MEMORY), messages.GiveUp(NO_MEMORY)]


def test_windows_of_a_dead_batch_that_is_sent_again_fit_a_slot_that_came_down():
    kills = iter([True])
    replay = Cramped(
        {0: 16}, {"cuda:0": 8}, holds={"cuda:0": 2}, kills=lambda action: next(kills, False)
    )
    replay.run()
    assert Counter(replay.done) == all_units({0: 16})
    assert not replay.failed


@given(
    st.dictionaries(st.integers(0, 30), st.integers(1, 20), min_size=1, max_size=8),
    st.lists(st.integers(0, 20), min_size=1, max_size=4),
    st.integers(1, 16),
    st.none() | st.integers(1, 16),
)
def test_whatever_slots_hold_no_window_is_lost_or_done_twice(windows, holds, batch, smaller):
    slots = {f"cuda:{n}": batch for n in range(len(holds))}
    replay = Cramped(windows, slots, holds=dict(zip(slots, holds, strict=True)), smaller=smaller)
    replay.run()
    assert replay.schedule.idle
    assert not replay.failed
    if any(holds) or smaller is not None:
        assert Counter(replay.done) == all_units(windows)
        assert replay.gave_up is None
    else:
        assert replay.gave_up == NO_MEMORY


def test_a_slot_takes_no_more_than_its_gpu_had_room_for_when_it_opened():
    plan = Schedule({"cuda:0": 32}, 1, Limits(4, 4), [0])
    plan.step(messages.Begin(), 0.0)
    plan.step(messages.Ready("cuda:0", 0.1, 8), 0.0)
    assert plan.places["cuda:0"].batch_size == 8
    plan.step(messages.Ready("cuda:0", 0.1, 16), 0.0)
    assert plan.places["cuda:0"].batch_size == 8


@pytest.mark.parametrize("others", [0, 1])
def test_a_file_read_in_sequential_mode_goes_to_another_slot_or_ends_with_the_reason(others):
    slots = {f"cuda:{n}": 1 for n in range(1 + others)}
    plan = Schedule(slots, 1, Limits(4, 4), [0], sequential=True)
    plan.step(messages.Begin(), 0.0)
    plan.step(messages.Ready("prep:0"), 0.0)
    for slot in slots:
        plan.step(messages.Ready(slot), 0.0)
    actions = plan.step(messages.Probed("prep:0", {0: 90.0}), 0.0)
    assert actions == [messages.Advance("cuda:0", 0, restart=True)]
    actions = plan.step(messages.OutOfMemory("cuda:0", None, NO_MEMORY, False), 1.0)
    assert actions[0] == messages.Kill("cuda:0", NO_MEMORY)
    left = messages.Advance("cuda:1", 0, restart=True) if others else messages.GiveUp(NO_MEMORY)
    assert actions[1:] == [left]
