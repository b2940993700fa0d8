"""When the work of a thread must have ended, and what it did until then.

In: a span of time. Out: the scope that it opens, with a deadline that no inner scope outlasts.
Knows nothing about HTTP or sockets: those who may block ask `current()` what is left and keep to
it, and note there what they did.

A scope belongs to the thread that opened it and travels in a thread-local, so it needs no lock and
reaches code that a library calls for us.
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Scope:
    """What one `within` allows, and what happened in it."""

    deadline: float  # monotonic
    outer: "Scope | None"
    received: int = 0  # bytes
    steps: int = 0  # times that the backend was asked
    oversize: bool = False
    sent: bool = False  # something of a request may have left
    exchanges: int = 0  # counted by the client, in the outermost scope

    @property
    def left(self) -> float:
        """Seconds until the deadline; negative after it."""
        return self.deadline - time.monotonic()

    @property
    def outermost(self) -> "Scope":
        """The scope of the whole call."""
        return self if self.outer is None else self.outer.outermost


class _Current(threading.local):
    scope: Scope | None = None


_current = _Current()


@contextlib.contextmanager
def within(seconds: float) -> Iterator[Scope]:
    """All requests of this thread end in `seconds`, or at an earlier deadline around this one."""
    outer = _current.scope
    deadline = time.monotonic() + seconds
    scope = Scope(deadline if outer is None else min(deadline, outer.deadline), outer)
    _current.scope = scope
    try:
        yield scope
    finally:
        _current.scope = outer


def current() -> Scope:
    """The innermost `within` of this thread; RuntimeError outside of any."""
    if _current.scope is None:
        raise RuntimeError("a request was made outside of `within`")
    return _current.scope
