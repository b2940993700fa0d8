"""What the schedule decides about places becomes calls to their processes.

In: actions. Out: processes that begin and end, calls submitted to them, and an event for whoever
listens; what comes back is batches.py's. Owner: the loop's thread.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine import events, messages
from engine.job import Job
from engine.pools import preparation_worker, slot_worker
from engine.pools.crew import Crew
from engine.pools.sizing import SlotPlan
from engine.records import SpeechOptions, WindowResult
from engine.shortage import Shortage
from engine.speech.encoders import Encoder
from engine.speech.models import ResolvedModel
from engine.store.ledger import Ledger

PIECE = 60.0  # seconds of audio that preparation decodes at a time
STEP = 30.0  # seconds of a file that sequential mode decodes at a time


@dataclass(frozen=True, slots=True)
class SpeechSetup:
    """What is decided about transcription before the first process starts."""

    options: SpeechOptions
    model: ResolvedModel
    canary_words: tuple[str, ...]
    encoder: Encoder
    slots: tuple[SlotPlan, ...]
    scratch: Path
    may_wait: int | None  # windows that fit into scratch while they wait; None: there are no rows
    model_bytes: int | None  # None: not known, or the batch size is as the user wants it


class Orders:
    """The calls of one run to its workers."""

    def __init__(
        self,
        setup: SpeechSetup,
        jobs: Mapping[int, Job],
        ledger: Ledger,
        crew: Crew,
        shortage: Shortage,
        tell: Callable[[events.Event], None],
    ) -> None:
        # results of an earlier run by position, of each video that is being prepared
        self.known: dict[int, dict[int, WindowResult]] = {}
        self._setup = setup
        self._jobs = jobs
        self._ledger = ledger
        self._crew = crew
        self._shortage = shortage
        self._tell = tell

    def give(self, action: messages.Action) -> None:
        """Do what the schedule says about a place."""
        match action:
            case messages.Start(place):
                self._tell(events.SlotChanged(place, "opening"))
                self._crew.start(place)
            case messages.Kill(place, problem):
                self._ledger.note("kill", problem.message, place=place)
                self._crew.kill(place)
                self._tell(events.SlotChanged(place, "ended"))
            case messages.Lower(place, _):
                self.came_down(place, self._shortage.lower(place))
                self._crew.kill(place)
            case messages.Probe(place, videos):
                paths = tuple(self._jobs[number].video.path for number in videos)
                self._crew.submit(place, "probe", videos, preparation_worker.probe, paths)
            case messages.Prepare(place, video, count):
                self._prepare(place, video, count)
            case messages.Decode(place, batch, units):
                self._decode(place, batch, units)
            case messages.Advance(place, video, restart):
                self._advance(place, video, restart=restart)

    def _prepare(self, place: str, video: int, count: int) -> None:
        job, options = self._jobs[video], self._setup.options
        if video not in self.known:
            self.known[video] = self._ledger.windows(job.speech_key)
        if not job.windows:
            self._tell(events.VideoStarted(job.video))
        spec = preparation_worker.PrepareSpec(
            job.video.path,
            options.audio_track,
            options.vad_filter,
            self._setup.model.mels,
            self._setup.scratch / str(video),
            frozenset(job.windows) | job.standing(self.known[video]),
            PIECE,
        )
        self._tell(events.SlotChanged(place, f"preparing {job.video.name}"))
        self._crew.submit(place, "prepare", video, preparation_worker.prepare, spec, count)

    def _decode(self, place: str, batch: int, units: Sequence[messages.Unit]) -> None:
        rows = tuple(
            slot_worker.Row(
                video,
                self._jobs[video].windows[position],
                self._jobs[video].language,
            )
            for video, position in units
        )
        names = dict.fromkeys(self._jobs[video].video.name for video, _ in units)
        count = f"{len(units)} window" + "s" * (len(units) > 1)
        self._tell(events.SlotChanged(place, f"{count} of {', '.join(names)}"))
        self._crew.submit(
            place, "batch", (batch, units), slot_worker.transcribe, rows, self._setup.options
        )

    def _advance(self, place: str, video: int, *, restart: bool) -> None:
        job = self._jobs[video]
        if restart:
            job.restart()
            self._tell(events.VideoStarted(job.video))
        self._tell(events.SlotChanged(place, job.video.name))
        what = slot_worker.advance, job.video.path, self._setup.options, STEP, restart
        self._crew.submit(place, "advance", video, *what)

    def open(self, place: str) -> bool:
        """A slot's process loads its model now; False: the place is not a slot."""
        plan = next((s for s in self._setup.slots if s.device == place), None)
        if plan is None:
            return False
        spec = slot_worker.SlotSpec(
            self._setup.model.path,
            "cuda" if place.startswith("cuda") else "cpu",
            self._shortage.compute_type(place),
            plan.threads,
            self._setup.canary_words,
            self._setup.encoder,
        )
        self._crew.submit(place, "open", None, slot_worker.open_slot, spec)
        return True

    def came_down(self, place: str, step: str) -> None:
        """A slot whose memory is too small has taken this step."""
        self._ledger.note("memory", step, place=place)
        self._tell(events.Notice(f"The memory of {place} is too small: {step}."))
