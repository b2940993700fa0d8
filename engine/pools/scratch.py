"""How many windows may wait in scratch, whose rows are the only big thing that lies there.

In: the slots, the model's mels, what is free. Out: a number of windows, or UsageError with the
remedy. Pure: the folder itself is files.py's.
"""

from collections.abc import Sequence
from pathlib import Path

from engine.errors import UsageError
from engine.pools.sizing import SlotPlan

ROW = 3000 * 4  # bytes of a window's log-mel row, for each mel: float32, 10 ms frames
MOST = 1 << 30  # bytes that wait at most; more would only be further ahead of the slots
_UNDER_WAY = 2  # batches of each slot whose rows are still there, beside those that wait


def windows_that_may_wait(
    slots: Sequence[SlotPlan], mels: int, free: int | None, where: Path
) -> int:
    """As many as fit into ``MOST`` bytes or a third of what is free; at least a batch a slot.

    A third, because two batches of each slot are under way beside them. ``free``: bytes; None: not
    known, so it limits nothing.
    """
    row, batches = ROW * mels, sum(slot.batch_size for slot in slots)
    most = max(MOST // row, batches)
    if free is None:
        return most
    room = free // (1 + _UNDER_WAY) // row
    if room < batches:
        needed = (1 + _UNDER_WAY) * batches * row
        raise UsageError(
            f"The scratch folder {where} has {free / 1e6:,.0f} MB free, but the batches of "
            f"{len(slots)} slots need {needed / 1e6:,.0f} MB: make room, name another place with "
            "--scratch, or take a smaller --batch-size."
        )
    return min(most, room)
