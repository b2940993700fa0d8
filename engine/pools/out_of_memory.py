"""Errors for want of memory, whichever library raises them, as the one that the parent knows.

Used inside workers, whose libraries the parent does not have. Knows nothing about what is tried
next: that is the schedule's.
"""

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from engine.errors import OutOfMemoryError

# How the libraries word it: CUDA's runtime in CTranslate2 and torch, cuBLAS, CTranslate2's and
# torch's allocators on a CPU, onnxruntime. (std::bad_alloc comes as MemoryError.)
_WORDS = (
    "out of memory",
    "cublas_status_alloc_failed",
    "failed to allocate",  # "memory", and in one place "failed to allocated memory"
    "can't allocate memory",
    "bad_alloc",
    "bad allocation",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a call failed for want of memory, on the GPU or on the host."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _WORDS)


@contextmanager
def out_of_memory_named() -> Iterator[None]:
    """Raise OutOfMemoryError for a library's own, which may need that library to be read."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        torch = sys.modules.get("torch")  # it keeps what it has freed, out of CTranslate2's reach
        if torch is not None and torch.cuda.is_available():
            traceback.clear_frames(error.__traceback__)  # what these hold is not freed yet
            torch.cuda.empty_cache()
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise OutOfMemoryError(lines[0]) from None
