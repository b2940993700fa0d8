"""Samples how busy the machine is, once a second, in a thread of its own.

In: the GPUs of the snapshot and a callback. Out: one ``Sample`` a tick, given to the callback in
the sampling thread, so the callback only hands it over (the run's puts it into its queue). Decides
nothing. The thread belongs to the ``Monitor``; ``close`` ends and joins it.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from engine.pools.gpus import Gpu
from engine.pools.hardware import Gauges


@dataclass(frozen=True, slots=True)
class Sample:
    """How busy the machine was at one moment; shares are 0..1."""

    time: float  # seconds on the monotonic clock
    wall: float  # seconds since the epoch
    cpu: float | None  # share of all cores of the machine since the sample before
    memory: int | None  # bytes in use on the machine
    memory_left: int | None  # bytes that the run could still get, our groups' limits counted in
    gpus: tuple[float | None, ...]  # share of each GPU of the snapshot, in its order


class Monitor:
    """``with Monitor(on_sample): ...``, or ``start`` and ``close``; starts once."""

    def __init__(
        self,
        on_sample: Callable[[Sample], None],
        gpus: tuple[Gpu, ...] = (),
        *,
        interval: float = 1.0,
    ) -> None:
        self._on_sample = on_sample
        self._gpus = gpus
        self._interval = interval
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="reelmine-monitor", daemon=True)

    def start(self) -> None:
        """Begin; the first sample comes after one interval."""
        self._thread.start()

    def close(self) -> None:
        """End at once; no sample comes after this has returned. Twice, or unstarted, is fine."""
        self._end.set()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _sample(self) -> None:
        gauges = Gauges(self._gpus)
        try:
            due = time.monotonic() + self._interval
            while not self._end.wait(max(0.0, due - time.monotonic())):
                reading = gauges.read()
                now = time.monotonic()
                self._on_sample(
                    Sample(
                        now,
                        time.time(),
                        reading.cpu,
                        reading.memory,
                        reading.memory_left,
                        reading.gpus,
                    )
                )
                due = max(due + self._interval, now)  # late ticks are left out, not made up
        finally:
            gauges.close()
