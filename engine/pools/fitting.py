"""What a model and its windows take of a GPU's memory, and so what fits into how much. Pure.

In: bytes that are free, bytes of the weights. Out: slots and windows of a batch.

All of it is counted from the models' shapes, nothing is measured on a card, and what is counted is
rounded up; where it is still too little, the slot takes less at the first error (schedule.py). A
window's cross-attention keys and values are 4 x 1500 x width x decoder layers bytes in 16 bits: 246
MB for large-v3, 31 MB for turbo, 9 MB for tiny, one copy for all its beams. The beams' own keys and
values come to a third of it in usual text, and the encoder's attention scores to 27 to 90 MB. The
formula below is above that sum for every Whisper model from tiny to large-v3.
"""

from dataclasses import dataclass

MOST_WINDOWS = 32  # in a batch: more buy almost nothing, the keys are read once for each window
SEVERAL_SLOTS = 40 << 30  # bytes free on a GPU that gets two
CORES_A_SLOT = 4  # which a second slot wants: one decodes on the host while the other one computes

_CONTEXT = 1 << 30  # the driver's and the libraries' own
_LOADED = 3 / 2  # of the weights: a torch encoder beside CTranslate2 holds its half a second time
_WINDOW = 64 << 20  # and an eighth of the weights


@dataclass(frozen=True, slots=True)
class Fit:
    """What has worked on a kind of GPU after its memory had been too small for more."""

    batch_size: int
    compute_type: str
    free: int | None  # bytes that were free before the slot opened


def weights(model_bytes: int, compute_type: str) -> int:
    """Bytes that count as the model: its file holds 16 bits for each weight."""
    return model_bytes * (2 if compute_type.endswith("float32") else 1)


def least(model: int) -> int:
    """Bytes with which a slot is worth a try."""
    return _CONTEXT + model + _window(model)


def windows_before(free: int, model: int) -> int:
    """Windows of a batch, for a slot that is not open yet."""
    return _windows(free - _CONTEXT - int(_LOADED * model), model)


def windows_after(free: int, model: int) -> int:
    """The same once the model is loaded: a tenth is left for what others may take."""
    return _windows(free * 9 // 10, model)


def several(free: int, model: int) -> bool:
    """Whether two slots have room for the largest batch each."""
    slot = _CONTEXT + int(_LOADED * model) + MOST_WINDOWS * _window(model)
    return free >= max(SEVERAL_SLOTS, 2 * slot)


def still_holds(fit: Fit, free: int | None) -> bool:
    """Whether a memory of less is to be heeded: not if clearly more is free than at that time."""
    return fit.free is None or free is None or free <= fit.free * 9 // 8


def _window(model: int) -> int:
    return _WINDOW + model // 8


def _windows(room: int, model: int) -> int:
    """A power of two, so that a little more or less memory makes no other plan."""
    count = max(1, room // _window(model))
    return int(min(MOST_WINDOWS, 1 << (count.bit_length() - 1)))
