"""Slots whose memory is too small: what each has come down to, what worked, and how it is told.

Beside the schedule, which decides the steps (half the windows, a smaller compute type, the end),
this keeps what they mean for a run: the compute type a slot opens with, which windows are of other
than the usual weights, what to remember for the next run. Owner: the loop's thread. Does nothing to
processes and writes nothing.
"""

from collections.abc import Mapping, Sequence

from engine.pools import fitting
from engine.pools.sizing import SlotPlan
from engine.pools.slots import smaller_type
from engine.records import Problem


class Shortage:
    """The memory of a run's slots."""

    def __init__(self, slots: Sequence[SlotPlan], asked: str, model_bytes: int | None) -> None:
        """``asked``: compute type; ``model_bytes``: None if not known, or to leave batches be."""
        self.steps: list[str] = []  # what was done, in order: a sentence's end each
        self._pins = {slot.device: slot.pin for slot in slots}
        self._compute = {slot.device: slot.compute_type for slot in slots}
        self._lowered = {slot.device for slot in slots if slot.lowered}
        self._short: set[str] = set()
        self._worked: dict[str, tuple[int, str]] = {}
        self._asked = asked
        self._model_bytes = model_bytes

    def compute_type(self, slot: str) -> str:
        """What it opens with from now on."""
        return self._compute[slot]

    def fallback(self, slot: str) -> str | None:
        """The compute type of its results, if that is not the usual one."""
        return self._compute[slot] if slot in self._lowered else None

    def smaller(self, slot: str) -> str | None:
        """The compute type it may come down to; None: none is left, or none may be taken."""
        smaller = smaller_type(self._asked, slot.partition(":")[0])
        if smaller and self._compute[slot].endswith("float32"):  # a GPU too old for float16
            smaller = "int8_float32"
        return None if smaller == self._compute[slot] else smaller

    def siblings(self, slot: str) -> list[str]:
        """The other slots on its GPU; none on a CPU."""
        pin = self._pins[slot]
        return [other for other, its in self._pins.items() if its == pin and other != slot and pin]

    def lower(self, slot: str) -> str:
        """It comes down to the smaller compute type; returns the step."""
        before, smaller = self._compute[slot], self.smaller(slot)
        assert smaller is not None
        self._compute[slot] = smaller
        self._lowered.add(slot)
        return self.step(slot, f"it is opened again in {smaller} instead of {before}")

    def ran_out(self, slot: str) -> None:
        """A call of it was out of memory: what works from now on is worth remembering."""
        self._short.add(slot)

    def step(self, slot: str, what: str) -> str:
        """Note what was done about a slot."""
        self.steps.append(f"{slot}: {what}")
        return what

    def room(self, slot: str, free: int | None) -> int | None:
        """Windows at once for ``free`` bytes on its GPU, once its model is there; None: not known.

        Slots that share a GPU share what is left of it.
        """
        if free is None or self._model_bytes is None:
            return None
        sharing = 1 + len(self.siblings(slot))
        model = fitting.weights(self._model_bytes, self._compute[slot])
        return fitting.windows_after(free // sharing, model)

    def worked(self, slot: str, batch_size: int) -> None:
        """A batch came back from it."""
        if slot in self._short:
            self._worked[slot] = batch_size, self._compute[slot]

    @property
    def found(self) -> Mapping[str, tuple[int, str]]:
        """By slot, batch size and compute type that worked after more had not."""
        return self._worked

    def problem(self, slot: str, model: str, error: str) -> Problem:
        """Why a slot cannot go on, and what a user can do."""
        compute_type = self._compute[slot]
        remedy = "use a smaller model"
        if "int8" not in compute_type:
            wide = "float32" if compute_type.endswith("float32") else "float16"
            int8 = f"int8_{wide}" if slot.startswith("cuda") else "int8"
            remedy += f" or --compute-type {int8}"
        return Problem(
            "E_OUT_OF_MEMORY",
            f"The memory of {slot} is too small for {model} in {compute_type} ({error}): {remedy}, "
            "or free some memory.",
        )
