"""A run without processes: the schedule driven by a clock that jumps from event to event.

In: how many windows each video has, the slots with their batch sizes, how long things take. Out:
the makespan, what was decoded, which batches there were. A night on eight GPUs takes a second, so a
farm script or a benchmark can ask how the schedule would deal with its videos. Knows nothing about
audio and models.

    from engine.testing.replay import Replay
    replay = Replay(windows={0: 240, 1: 3, 2: 12}, slots={"cuda:0": 16, "cuda:1": 16})
    seconds = replay.run()
"""

import heapq
import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from engine import messages
from engine.job import Job
from engine.llm.limits import Limits
from engine.messages import Unit
from engine.records import SAMPLE_RATE, Piece, Problem, Span, Video, Window, WindowResult
from engine.schedule import Schedule

DIED = Problem("E_WORKER_DIED", "killed")
_PROBE_SECONDS = 0.001
_DEATH_SECONDS = 0.2  # after its turn has come a batch that kills does so


def _one_second(unit: Unit) -> float:
    return 1.0


def _never(action: messages.Decode) -> bool:
    return False


@dataclass
class Replay:
    """What there is to do and how long it takes; ``run`` fills the rest. Spans are seconds."""

    windows: Mapping[int, int]  # by video
    slots: Mapping[str, int]  # batch sizes
    preparation: int = 1  # workers
    seconds: Callable[[Unit], float] = _one_second  # a window's share of its batch
    prepare_seconds: float = 0.01  # a window
    open_seconds: float = 0.1  # a worker's start
    may_wait: int | None = None  # windows that scratch has room for
    heard: Callable[[Unit], Mapping[str, float]] | None = None  # None: all is English
    kills: Callable[[messages.Decode], bool] = _never  # whether this batch kills its slot

    now: float = 0.0
    done: list[Unit] = field(default_factory=list)
    failed: dict[int, Problem] = field(default_factory=dict)
    batches: list[tuple[float, str, tuple[Unit, ...]]] = field(default_factory=list)
    gave_up: Problem | None = None
    started: list[str] = field(default_factory=list)  # places, as often as they got a process
    _coming: list[tuple[float, int, str, messages.Event]] = field(default_factory=list)  # a heap
    _number: Iterator[int] = field(default_factory=itertools.count)
    _delivered: dict[int, int] = field(default_factory=dict)
    _asked: dict[int, list[str | None]] = field(default_factory=dict)  # languages of a batch
    _free_at: dict[str, float] = field(default_factory=dict)

    def run(self) -> float:
        """The makespan, ``open_seconds`` included."""
        self.schedule = Schedule(
            dict(self.slots),
            self.preparation,
            Limits(4, 4),
            list(self.windows),
            may_wait=self.may_wait,
        )
        self.jobs = {video: self._job(video) for video in self.windows}
        self._perform(self.schedule.step(messages.Begin(), 0.0))
        while self._coming:
            self.now, _, _, event = heapq.heappop(self._coming)
            if isinstance(event, messages.Decoded):
                self._decoded(event)
            elif isinstance(event, messages.Windows):
                event = self._prepared(event)
            self._perform(self.schedule.step(event, self.now))
        return self.now

    def _job(self, video: int) -> Job:
        name = str(video)
        return Job(Video(name, name, 1, 0, name), name, [], "en" if self.heard is None else None)

    def _later(self, at: float, place: str, event: messages.Event) -> None:
        heapq.heappush(self._coming, (at, next(self._number), place, event))

    def _decoded(self, event: messages.Decoded) -> None:
        held = self.schedule.places[event.place].batches
        units = next(batch.units for batch in held if batch.number == event.batch)
        self.done += units
        for unit, language in zip(units, self._asked[event.batch], strict=True):
            job = self.jobs[unit[0]]
            job.add_result(self._result(unit, language))
            self.schedule.set_gate(unit[0], job.gate)
            self.schedule.decode_again(unit[0], job.take_again())

    def _result(self, unit: Unit, language: str | None) -> WindowResult:
        heard = dict(self.heard(unit)) if self.heard and language is None else {}
        spoken = language or max(heard, key=lambda name: heard[name])
        piece = Piece(0.0, 20.0, f" {spoken}", (), 1.0)
        return WindowResult(unit[1], spoken, None, -0.1, 0.0, (piece,), heard=heard)

    def _prepared(self, event: messages.Windows) -> messages.Windows:
        job = self.jobs[event.video]
        spans = (
            (n, Span(30 * n * SAMPLE_RATE, (30 * n + 20) * SAMPLE_RATE)) for n in event.positions
        )
        job.add_windows([Window(n, (span,), "") for n, span in spans], ended=event.ended)
        self.schedule.decode_again(event.video, job.take_again())
        return replace(event, gate=job.gate)

    def _perform(self, actions: Sequence[messages.Action]) -> None:
        for action in actions:
            match action:
                case messages.Start(place):
                    self.started.append(place)
                    self._free_at[place] = self.now
                    ready = messages.Ready(place, 0.5)
                    self._later(self.now + self.open_seconds, place, ready)
                case messages.Probe(place, videos):
                    found: dict[int, float | None] = {v: 30.0 * self.windows[v] for v in videos}
                    self._later(self.now + _PROBE_SECONDS, place, messages.Probed(place, found))
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
        ended = end == self.windows[video]
        found = messages.Windows(place, video, tuple(range(begin, end)), ended, None)
        self._later(self.now + self.prepare_seconds * (end - begin), place, found)

    def _decode(self, action: messages.Decode) -> None:
        place = action.place
        self.batches.append((self.now, place, action.units))
        self._asked[action.batch] = [self.jobs[video].language for video, _ in action.units]
        if any(e[2] == place and isinstance(e[3], messages.Died) for e in self._coming):
            return  # handed to a process that will be gone before it gets there
        begins = max(self.now, self._free_at[place])
        if self.kills(action):  # when it is this batch's turn
            self._later(begins + _DEATH_SECONDS, place, messages.Died(place, DIED))
            return
        took = sum(map(self.seconds, action.units))
        self._free_at[place] = begins + took
        self._later(self._free_at[place], place, messages.Decoded(place, action.batch, took))


def lengths(seed: int, videos: int, longest: int = 60) -> dict[int, int]:
    """Windows of a mixed folder: many short videos, some long; the same for the same seed."""
    chance = random.Random(seed)
    return {v: min(longest, int(chance.paretovariate(0.8))) for v in range(videos)}
