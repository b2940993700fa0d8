"""Signals as calls of one function, for as long as a run goes on.

SIGINT, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 in; ``callback(number)`` out, in the main thread,
between two bytecodes, so the callback must only put into a queue. What a signal means is decided
elsewhere. Nothing is owned here; leaving the block puts the former handlers back.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


@contextmanager
def caught(callback: Callable[[int], None]) -> Iterator[None]:
    """Call ``callback`` with the number of each signal that arrives within the block.

    Does nothing outside the main thread, where Python cannot set handlers. A signal that the
    process ignores stays ignored: so ``nohup`` and shells protect what runs in the background.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, _frame: FrameType | None) -> None:
        callback(number)

    former = {number: signal.getsignal(number) for number in SIGNALS}
    # None is a handler that Python did not set and could not put back
    ours = [number for number in SIGNALS if former[number] not in (signal.SIG_IGN, None)]
    try:
        for number in ours:
            signal.signal(number, handle)
        yield
    finally:
        for number in ours:
            signal.signal(number, former[number])
