"""A run without processes: a schedule driven by a clock that jumps from event to event."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from engine import messages
from engine.messages import Unit
from engine.records import Problem
from engine.schedule import Schedule

DIED = Problem("E_WORKER_DIED", "killed")


@dataclass
class Replay:
    """Windows of each video, and how long things take."""

    windows: Mapping[int, int]
    slots: Mapping[str, int]  # batch sizes
    preparation: int = 1
    seconds: Callable[[Unit], float] = lambda unit: 1.0
    prepare_seconds: float = 0.01
    multilingual: bool = False
    kills: Callable[[messages.Decode], bool] = lambda action: False

    now: float = 0.0
    done: list[Unit] = field(default_factory=list)
    failed: dict[int, Problem] = field(default_factory=dict)
    batches: list[tuple[float, str, tuple[Unit, ...]]] = field(default_factory=list)
    gave_up: Problem | None = None
    started: list[str] = field(default_factory=list)  # places, as often as they got a process
    _coming: list[tuple[float, int, str, messages.Event]] = field(default_factory=list)
    _delivered: dict[int, int] = field(default_factory=dict)
    _free_at: dict[str, float] = field(default_factory=dict)

    def run(self) -> float:
        """The makespan in seconds."""
        self.schedule = Schedule(dict(self.slots), self.preparation, 4, list(self.windows))
        self._perform(self.schedule.step(messages.Begin(), 0.0))
        while self._coming:
            first = min(self._coming)
            self._coming.remove(first)
            self.now, _, _, event = first
            if isinstance(event, messages.Decoded):
                self._decoded(event)
            self._perform(self.schedule.step(event, self.now))
        return self.now

    def _later(self, at: float, place: str, event: messages.Event) -> None:
        self._coming.append((at, len(self.batches) + len(self._coming), place, event))

    def _decoded(self, event: messages.Decoded) -> None:
        held = self.schedule.places[event.place].batches
        units = next(batch.units for batch in held if batch.number == event.batch)
        self.done += units
        for video, _ in units:
            self.schedule.language_known(video)

    def _perform(self, actions: list[messages.Action]) -> None:
        for action in actions:
            match action:
                case messages.Start(place):
                    self.started.append(place)
                    self._free_at[place] = self.now
                    self._later(self.now + 0.1, place, messages.Ready(place, 0.5))
                case messages.Probe(place, videos):
                    found = {video: 30.0 * self.windows[video] for video in videos}
                    self._later(self.now + 0.001, place, messages.Probed(place, found))
                case messages.Prepare():
                    self._prepare(action)
                case messages.Decode():
                    self._decode(action)
                case messages.Fail(video, problem):
                    self.failed[video] = problem
                case messages.GiveUp(problem):
                    self.gave_up = problem

    def _prepare(self, action: messages.Prepare) -> None:
        video, place = action.video, action.place
        begin = self._delivered.get(video, 0)
        end = min(begin + action.count, self.windows[video])
        self._delivered[video] = end
        known = not self.multilingual or any(unit[0] == video for unit in self.done)
        ended = end == self.windows[video]
        found = messages.Windows(place, video, tuple(range(begin, end)), ended, known)
        self._later(self.now + self.prepare_seconds * (end - begin), place, found)

    def _decode(self, action: messages.Decode) -> None:
        place = action.place
        self.batches.append((self.now, place, action.units))
        if any(e[2] == place and isinstance(e[3], messages.Died) for e in self._coming):
            return  # handed to a process that will be gone before it gets there
        begins = max(self.now, self._free_at[place])
        if self.kills(action):  # when it is this batch's turn
            self._later(begins + 0.2, place, messages.Died(place, DIED))
            return
        took = sum(map(self.seconds, action.units))
        self._free_at[place] = begins + took
        self._later(self._free_at[place], place, messages.Decoded(place, action.batch, took))


def lengths(seed: int, videos: int, longest: int = 60) -> dict[int, int]:
    """Windows of a mixed folder: many short videos, some long."""
    chance = random.Random(seed)
    return {v: min(longest, int(chance.paretovariate(0.8))) for v in range(videos)}
