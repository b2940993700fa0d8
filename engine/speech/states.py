"""Encoder states of a batch: some of its rows, and all of them for numpy.

In: states where CTranslate2 has them, in the host's memory or a GPU's. Out: the same, with as
little brought from one to the other as can be. Knows nothing about who encodes and decodes. Runs in
a slot's process only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import ctranslate2
import numpy as np


def take(states: ctranslate2.StorageView, rows: Sequence[int]) -> ctranslate2.StorageView:
    """Some rows of a batch of states, as a batch of their own.

    One row of a GPU's stays there. Several go by the host, which only these rows reach.
    """
    if list(rows) == list(range(states.shape[0])):
        return states
    states = _readable(states)
    if states.device == "cpu":
        return ctranslate2.StorageView.from_array(np.asarray(states)[list(rows)])
    each = [ctranslate2.StorageView.from_array(_RowOnGpu(states, row)) for row in rows]
    if len(each) == 1:
        return each[0]
    return ctranslate2.StorageView.from_array(np.concatenate([array_of(one) for one in each]))


def array_of(states: ctranslate2.StorageView) -> np.ndarray:
    """The same in the host's memory, where they are not there already."""
    states = _readable(states)
    here = states if states.device == "cpu" else states.to_device(ctranslate2.Device.cpu)
    return np.asarray(here)


@dataclass(frozen=True, slots=True)
class _RowOnGpu:
    """One row of a batch of states, where it is: what StorageView.from_array wants of an array."""

    states: ctranslate2.StorageView  # must live as long
    row: int

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        whole = self.states.__cuda_array_interface__
        shape = whole["shape"]
        row_bytes = prod(shape[1:]) * int(whole["typestr"][2:])
        place = whole["data"][0] + self.row * row_bytes
        return {**whole, "shape": (1, *shape[1:]), "data": (place, False)}


def _readable(states: ctranslate2.StorageView) -> ctranslate2.StorageView:
    """In a type that numpy has too, which bfloat16 is not; CTranslate2 takes any."""
    if states.dtype == ctranslate2.DataType.bfloat16:
        return states.to(ctranslate2.DataType.float32)
    return states
