"""How far preparation may be ahead by bytes: what waits fits into scratch, or the run says why."""

from pathlib import Path

import pytest

from engine.config import Config
from engine.errors import UsageError
from engine.pools.scratch import MOST, windows_that_may_wait
from engine.pools.sizing import size
from engine.testing.hardware import container, workstation

GIB = 1 << 30
ROW_80, ROW_128 = 960_000, 1_536_000  # bytes
WHERE = Path("/scratch")


def waiting(free, mels=80, slots=4, batch=8):
    plan = size(container(slots), Config(batch_size=batch, slots=slots), None)
    return windows_that_may_wait(plan.slots, mels, free, WHERE)


@pytest.mark.parametrize(("mels", "row"), [(80, ROW_80), (128, ROW_128)])
def test_a_gibibyte_waits_at_most(mels, row):
    assert waiting(1000 * GIB, mels) == waiting(None, mels) == MOST // row == GIB // row


def test_a_third_of_a_small_disk_waits_and_two_batches_a_slot_fit_beside_it():
    free = 300 * ROW_80
    may_wait = waiting(free)
    assert may_wait == 100
    assert (may_wait + 2 * 4 * 8) * ROW_80 <= free


def test_disk_that_just_holds_the_batches_of_all_slots_is_enough():
    least = 3 * 32 * ROW_80
    assert waiting(least) == 32
    with pytest.raises(UsageError, match=r"/scratch has 92 MB free.*need 92 MB.*--scratch"):
        waiting(least - 1)


def test_big_batches_of_many_gpus_wait_whole():
    plan = size(workstation(8), Config(batch_size=64, slots=16), None)
    assert windows_that_may_wait(plan.slots, 128, 1000 * GIB, WHERE) == 16 * 64
