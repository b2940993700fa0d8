"""What the monitor's samples are for: each is kept in the ledger, and short memory is acted on.

In: samples. Out: pressure for the schedule, one notice for a person, rows in the ledger. Knows
nothing about how samples are taken. Owner: the loop's thread.
"""

from collections.abc import Callable

from engine import events, messages
from engine.pools.monitor import Sample
from engine.pools.pressure import Gauge, Pressure
from engine.schedule import Schedule
from engine.store.ledger import Ledger


class Watch:
    """The samples of one run."""

    def __init__(
        self,
        memory: int | None,
        plan: Schedule,
        ledger: Ledger,
        step: Callable[[messages.Event], None],
        tell: Callable[[events.Event], None],
    ) -> None:
        """``memory``: bytes that could be had before the run began; None: not known."""
        self._gauge = Gauge(memory)
        self._schedule = plan
        self._ledger = ledger
        self._step = step
        self._tell = tell
        self._told = False  # that memory is short

    def took(self, sample: Sample) -> None:
        """One look at the machine."""
        pressure = self._gauge.take(sample.memory_left, sample.time)
        if pressure is not None:
            self._pressed(pressure, sample.memory_left)
        places, calls = self._schedule.places.values(), self._schedule.calls
        self._ledger.add_sample(
            {
                "cpu": sample.cpu,
                "memory": sample.memory,
                "memory_left": sample.memory_left,
                "gpus": sample.gpus,
                "slots_busy": sum(p.is_slot and bool(p.batches or p.busy) for p in places),
                "preparing": sum(p.busy for p in places if not p.is_slot),
                "windows_waiting": self._schedule.waiting_windows,
                "calls": len(calls.under_way),
                "calls_waiting": len(calls),
                "calls_at_once": calls.limits.at_once,
            }
        )
        self._tell(events.Sampled(sample))

    def _pressed(self, pressure: Pressure, left: int | None) -> None:
        """Memory is short, or no longer is: the schedule acts on it, a person hears of it once."""
        megabytes = (left or 0) >> 20
        self._ledger.note("pressure", f"{pressure.name.lower()}: {megabytes} MiB of memory left")
        if pressure is not Pressure.NONE and not self._told:
            self._told = True
            self._tell(
                events.Notice(
                    f"Memory is short ({megabytes} MiB left): fewer videos are prepared ahead, and "
                    "if that is not enough batches are halved, until there is more."
                )
            )
        self._step(messages.MemoryPressure(pressure))
