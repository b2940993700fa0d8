"""Who does what next: events in, actions out, nothing else.

``Schedule.step(event, now)`` is the only way in. It owns no process, thread, file or clock, so a
night on eight GPUs can be replayed in a test. What it decides: which windows form a batch and which
slot gets it, which video a preparation worker opens, when a call may start, who is killed for
hanging, and whose fault a death was.

What waits is in video_queue.py, window_queue.py and call_queue.py, what works in places.py; who has
died of what is in deaths.py, and its words are in messages.py. Videos are numbers here.
"""

from collections.abc import Iterable, Mapping

from engine import messages
from engine.assignment import Assignment
from engine.call_queue import CallQueue
from engine.deaths import Deaths
from engine.llm.limits import Limits
from engine.messages import Action, Event
from engine.places import Batch, Phase, Place, those_open
from engine.pools.pressure import Pressure
from engine.records import Problem
from engine.usage import Standing
from engine.video_queue import VideoQueue
from engine.window_queue import WindowQueue

STARTS = 3  # processes in a row that may die in a place before it is given up


class Schedule:
    """The state of a run's work; see the module's docstring."""

    def __init__(
        self,
        slots: Mapping[str, int],
        preparation: int,
        limits: Limits,
        videos: Iterable[int],
        *,
        sequential: bool = False,
        may_wait: int | None = None,
    ) -> None:
        """``slots``: name -> batch size; ``videos``: those that need a transcript.

        ``may_wait``: windows for which there is room while they wait; None: it is not known.
        """
        self._slots = [Place(name, size, size) for name, size in slots.items()]
        self._preparers = [Place(f"prep:{i}") for i in range(preparation)]
        self.places = {place.name: place for place in (*self._slots, *self._preparers)}
        self._videos = VideoQueue(videos)
        self._windows = WindowQueue()
        self.calls = CallQueue(limits)
        self._assignment = Assignment(
            self._slots,
            self._preparers,
            self._videos,
            self._windows,
            sequential=sequential,
            may_wait=may_wait,
        )
        self._gone: set[int] = set()  # videos given up
        self._deaths = Deaths()
        self._draining = False
        self._gave_up = False

    # what the loop may ask

    @property
    def idle(self) -> bool:
        """Nothing is under way, and nothing waits for an instant."""
        calls = self.calls.under_way or self.calls.wake is not None
        return not calls and not any(place.working for place in self.places.values())

    @property
    def opening(self) -> bool:
        """Some place is being opened."""
        return any(place.phase is Phase.OPENING for place in self.places.values())

    @property
    def next_deadline(self) -> float | None:
        """The next instant at which a place will be judged to hang, or a call may begin."""
        instants = [p.deadline for p in self.places.values() if p.deadline]
        if self.calls.wake is not None:
            instants.append(self.calls.wake)
        return min(instants, default=None)

    @property
    def waiting_windows(self) -> int:
        """Windows that wait for a slot."""
        return len(self._windows)

    @property
    def standing(self) -> Standing:
        """How the slots stand, for the account of the run."""
        slots = those_open(self._slots)
        busy = sum(slot.working for slot in slots)
        reading = self._assignment.reading
        return Standing(len(slots), busy, self._windows.available, reading)

    @property
    def batch_fill(self) -> float | None:
        """Rows used over rows offered, over batches that could have been full."""
        return self._assignment.batch_fill

    @property
    def open_slots(self) -> tuple[str, ...]:
        """Names of the slots that have a model."""
        return tuple(slot.name for slot in those_open(self._slots))

    def holds(self, name: str, batch: int) -> bool:
        """Whether a batch is still that slot's; else its windows wait again, and it is void."""
        return any(held.number == batch for held in self.places[name].batches)

    # what the loop may tell

    def step(self, event: Event, now: float) -> list[Action]:
        """What follows from an event; ``now`` in seconds on the monotonic clock."""
        actions = self._take(event, now)
        if not self._draining:
            if self._assignment.pressure is not Pressure.NONE:
                actions += self._send_home()
            actions += self._assignment.give(now)
            actions += [messages.Call(key) for key in self.calls.begin(now)]
        return actions

    def set_gate(self, video: int, gate: int | None) -> None:
        """How many first windows of this video may go; None: all, its language is known."""
        self._windows.set_gate(video, gate)

    def decode_again(self, video: int, positions: Iterable[int]) -> None:
        """These windows were done in another language than the video's: they wait once more."""
        if positions := tuple(positions):
            self._windows.put(video, positions)

    def drop(self, video: int) -> None:
        """Forget everything that waits for a video."""
        self._gone.add(video)
        self._windows.drop(video)
        self._videos.drop(video)
        self.calls.drop(video)
        for place in self.places.values():
            if place.video == video and not place.busy:
                place.video = None

    # events

    def _take(self, event: Event, now: float) -> list[Action]:  # noqa: PLR0912 -- a table
        match event:
            case messages.Ready(name, seconds, room):
                self.places[name].opened(seconds, room)
            case messages.CannotOpen(name, problem):
                return self._retire(self.places[name], problem)
            case messages.Died(name, problem):
                return self._died(self.places[name], problem)
            case messages.Probed(name, seconds):
                self.places[name].delivered()
                self._videos.measured(seconds)
            case messages.Windows():
                self._prepared(event)
            case messages.Broken(name, video):
                self.places[name].delivered(ended=True)
                self.drop(video)
            case messages.Decoded(name, batch, seconds):
                self.places[name].decoded(batch, seconds, now)
            case messages.Refused(name, batch, problem):
                return self._blame(self.places[name].take(batch, now), problem)
            case messages.OutOfMemory():
                return self._out_of_memory(event, now)
            case messages.MemoryPressure(pressure):
                self._assignment.pressure = pressure
            case messages.Advanced(name, video, ended, seconds):
                ended = ended or video in self._gone
                self.places[name].delivered(ended=ended, seconds=seconds)
            case messages.ChunkReady(key):
                self.calls.add(key, self._videos.rank(key[0]))
            case messages.CallEnded(key, unsent):
                self.calls.ended(key, unsent=unsent)
            case messages.Drain():
                self._draining = True
                self.calls.hold()
            case messages.Tick():
                return self._overdue(now)
            case messages.Begin():
                pass
        return []

    def _prepared(self, event: messages.Windows) -> None:
        gone = event.video in self._gone
        self.places[event.place].delivered(ended=event.ended or gone)
        if not gone:
            self.set_gate(event.video, event.gate)
            self.decode_again(event.video, event.positions)

    def _give_back(self, batches: Iterable[Batch], video: int | None = None) -> None:
        """What a place had under way waits again."""
        for batch in batches:
            for number, position in batch.units:
                if number not in self._gone:
                    self._windows.put(number, [position])
        if video is not None and video not in self._gone:
            self._videos.put_back(video)

    # memory

    def _out_of_memory(self, event: messages.OutOfMemory, now: float) -> list[Action]:
        """No video's fault. Half the windows at once; if it is one, smaller weights; or the end."""
        place, problem = self.places[event.place], event.problem
        failed = [] if event.batch is None else [place.take(event.batch, now)]
        self._give_back(failed)
        windows = sum(len(batch.units) for batch in failed)
        if windows > 1:
            place.batch_size = min(place.batch_size, windows // 2)
            return []
        self._empty(place)
        if not event.smaller:
            return [messages.Kill(place.name, problem), *self._retire(place, problem)]
        place.batch_size = place.planned
        return [messages.Lower(place.name, problem)]

    def _empty(self, place: Place) -> None:
        """Its process goes, and nobody is to blame."""
        held = place.end()
        self._give_back(held.batches, held.video)

    def _send_home(self) -> list[Action]:
        """Under pressure one preparation worker is enough: those that hold no video are ended."""
        here = those_open(self._preparers)
        idle = [place for place in here if not place.busy and place.video is None]
        actions: list[Action] = []
        for place in idle[: len(here) - 1]:
            self._empty(place)
            problem = Problem("E_MEMORY", "ended because memory is short")
            actions.append(messages.Kill(place.name, problem))
        return actions

    # deaths

    def _died(self, place: Place, problem: Problem) -> list[Action]:
        """Charge the oldest thing under way; give everything else back."""
        was_open = place.phase is Phase.OPEN
        held = place.end()
        self._give_back(held.batches[1:], None if held.busy else held.video)
        actions: list[Action] = []
        if held.batches:
            actions += self._blame(held.batches[0], problem)
        for video in held.probing:  # of several it is not known which: each is tried by itself
            if len(held.probing) > 1 or self._deaths.may_try(video):
                self._videos.probe_alone(video)
            else:
                actions += self._fail(video, problem)
        if held.busy and held.video is not None and held.video not in self._gone:
            if self._deaths.may_try(held.video):
                self._videos.put_back(held.video)
            else:
                actions += self._fail(held.video, problem)
        if not was_open:
            place.starts += 1
            if place.starts >= STARTS:
                actions += self._retire(place, problem)
        return actions

    def _blame(self, batch: Batch, problem: Problem) -> list[Action]:
        """A batch failed: try again video by video; twice in a batch of its own ends a video."""
        parts = self._deaths.parts(batch)
        for units in parts:
            if units[0][0] not in self._gone:
                self._windows.put_batch(units)
        video = batch.videos[0]
        return [] if parts or video in self._gone else self._fail(video, problem)

    def _fail(self, video: int, problem: Problem) -> list[Action]:
        self.drop(video)
        return [messages.Fail(video, problem)]

    def _retire(self, place: Place, problem: Problem) -> list[Action]:
        """No further process for this place; without any of its kind the run cannot go on."""
        place.retire()
        kind = self._slots if place.is_slot else self._preparers
        if self._gave_up or any(other.phase is not Phase.RETIRED for other in kind):
            return []
        self._gave_up = True
        self._videos.clear()
        self._windows.clear()
        return [messages.GiveUp(problem)]

    def _overdue(self, now: float) -> list[Action]:
        actions: list[Action] = []
        for place in self.places.values():
            if place.deadline is not None and now >= place.deadline:
                problem = Problem(
                    "E_WORKER_HUNG", f"The worker {place.name} made no progress and was ended."
                )
                actions += [messages.Kill(place.name, problem), *self._died(place, problem)]
        return actions
