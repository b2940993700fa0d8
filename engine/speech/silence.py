"""The states of a window from its speech alone, without reading the silence after it.

Whisper's encoder reads 30 s whatever is in them; most windows hold less speech, and zeros after it.
The states of these zeros follow from their place and hardly from the speech, and those of the
speech hardly from the zeros, if there are some. So only the speech and a margin are read, 15 s at
least, and the states after it are those that a few seconds of known speech have there. The decoder
needs some: without any it has two to three times the errors, with these as many as with whole
windows (benchmarks/README.md, accuracy.py). What a row gives follows from the row alone. Knows
nothing about who encodes.
"""

from collections.abc import Callable
from functools import cached_property

import numpy as np

MARGIN = 200  # frames of 10 ms that are read of the silence
LEAST = 1500  # frames that are read: with fewer, short windows get some more words wrong
STEP = 100  # frames: rows are read in lengths of whole seconds
STRIDE = 2  # frames of a state

Read = Callable[[np.ndarray], np.ndarray]


class SpeechStates:
    """Encoder states of rows, read as far as there is speech."""

    def __init__(self, read: Read, known: np.ndarray) -> None:
        """``read``: float32 [mels, n] -> [1, n / 2, d_model]; ``known``: a row of short speech."""
        self._read_states = read
        self._known = known

    def of(self, row: np.ndarray) -> np.ndarray:
        """States of a row, float32 [mels, frames], zeros after the speech: [1, frames / 2, d].

        A row shorter than a window is read as it is.
        """
        frames = to_be_read(row)
        if row.shape[1] < self._known.shape[1] or frames == row.shape[1]:
            return self._read_states(row)
        speech = self._read_states(np.ascontiguousarray(row[:, :frames]))
        return np.concatenate([speech, self._silence[:, frames // STRIDE :]], axis=1)

    @cached_property
    def _silence(self) -> np.ndarray:
        """States after the known speech, at every place; read when they are first needed."""
        return self._read_states(self._known)


def to_be_read(row: np.ndarray) -> int:
    """Frames of the row up to the end of its speech and the margin, and no fewer than the least."""
    spoken = np.flatnonzero(row.any(axis=0))
    last = int(spoken[-1]) + 1 if len(spoken) else 0
    whole: int = row.shape[1]
    return min(whole, max(LEAST, -(-(last + MARGIN) // STEP) * STEP))
