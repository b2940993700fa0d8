"""The speech side of a run: what becomes of what the workers bring.

Calls go out to places (slots, preparation workers) as the schedule says, by orders.py; answers,
errors and deaths come back through the loop's queue, change the video's job, and become events for
the schedule.

Owner: the loop's thread.
"""

import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Any

from engine import events, messages
from engine.errors import OutOfMemoryError, ReelmineError, UnguardedError
from engine.job import Job
from engine.orders import STEP, Orders, SpeechSetup
from engine.places import Phase
from engine.pools import slot_worker
from engine.pools.crew import Answer, Crew
from engine.pools.local import Outcome
from engine.pools.slots import plural
from engine.records import SAMPLE_RATE, Probe, Problem
from engine.schedule import Schedule
from engine.shortage import Shortage
from engine.store.ledger import Ledger
from engine.usage import Usage

log = logging.getLogger(__name__)

MARKER = "unguarded"  # left in scratch by a worker that finds itself running the user's script


@dataclass(frozen=True, slots=True)
class Hooks:
    """What both sides of a run tell the loop."""

    step: Callable[[messages.Event], None]  # an event for the schedule
    tell: Callable[[events.Event], None]  # an event for whoever listens
    fail: Callable[[int, Problem], None]  # this video is given up
    grown: Callable[[int, Job], None]  # this video has new text
    usage: Usage  # the account of the slots' time


class Batches:
    """The transcription of one run."""

    def __init__(
        self,
        setup: SpeechSetup,
        jobs: Mapping[int, Job],
        ledger: Ledger,
        plan: Schedule,
        queue: "SimpleQueue[Any]",
        hooks: Hooks,
    ) -> None:
        self._setup = setup
        self._jobs = jobs
        self._ledger = ledger
        self._schedule = plan
        self._step = hooks.step
        self._tell = hooks.tell
        self._fail = hooks.fail
        self._grown = hooks.grown
        self._usage = hooks.usage
        preparation = [place.name for place in plan.places.values() if not place.is_slot]
        self._crew = Crew(setup.slots, preparation, setup.scratch, queue)
        self.shortage = Shortage(setup.slots, setup.options.compute_type, setup.model_bytes)
        self._orders = Orders(setup, jobs, ledger, self._crew, self.shortage, hooks.tell)

    def act(self, action: messages.Action) -> None:
        """Do what the schedule says about a place."""
        self._orders.give(action)

    def close(self) -> None:
        """End all workers: the busy ones by a kill."""
        self._crew.close()

    # what came back

    def took(self, outcome: Outcome) -> None:
        """Something came back from a worker."""
        answer = self._crew.read(outcome)
        if answer is None:  # of a process that was given up before
            return
        if answer.what == "batch" and not (
            answer.died or self._schedule.holds(answer.place, answer.about[0])
        ):  # both batches of a slot ended in this turn, and after the first its process has to go
            return
        if answer.died:
            self._died(answer.place, answer.what)
        elif answer.error is not None:
            self._raised(answer, answer.error)
        else:
            match answer.what:
                case "hello":
                    self._hello(answer.place)
                case "open":
                    self._opened(answer)
                case "probe":
                    self._probed(answer)
                case "prepare":
                    self._prepared(answer)
                case "batch":
                    self._decoded(answer)
                case "advance":
                    self._advanced(answer)

    def _died(self, place: str, doing: str) -> None:
        if (self._setup.scratch / MARKER).exists():
            raise UnguardedError
        problem = Problem(
            "E_WORKER_DIED",
            f"The worker process {place} died while it did this ({doing}): killed from outside, "
            "out of memory, or crashed by the file.",
        )
        self._ledger.note("died", doing, place=place)
        self._tell(events.SlotChanged(place, "died"))
        self._step(messages.Died(place, problem))

    def _raised(self, answer: Answer, error: BaseException) -> None:
        place, what = answer.place, answer.what
        log.warning("%s failed in %s", what, place, exc_info=error)
        if isinstance(error, OutOfMemoryError):
            self._out_of_memory(answer, error)
            return
        problem = (
            error.problem
            if isinstance(error, ReelmineError)
            else Problem("E_WORKER", f"{what} failed in {place}: {_sentence(error)}")
        )
        self._ledger.note(what, problem.message, place=place, began=answer.began)
        match what:
            case "hello" | "open":
                self._step(messages.CannotOpen(place, problem))
            case "batch":
                self._step(messages.Refused(place, answer.about[0], problem))
            case "probe":
                for video in answer.about:
                    self._fail(video, problem)
                self._step(messages.Probed(place, {}))
            case _:
                self._fail(answer.about, problem)
                self._step(messages.Broken(place, answer.about))

    def _out_of_memory(self, answer: Answer, error: OutOfMemoryError) -> None:
        """Nobody's fault: the schedule decides what the slot tries next.

        A preparation worker has nothing smaller to try: it begins anew, with what it held given
        back to the system, as if it had died.
        """
        place, what = answer.place, answer.what
        self._ledger.note(what, str(error), place=place, began=answer.began)
        if what in ("probe", "prepare"):
            self._crew.kill(place)
            self._tell(events.SlotChanged(place, "ended"))
            self._step(messages.Died(place, _no_memory(place, what, error)))
            return
        self.shortage.ran_out(place)
        problem = self.shortage.problem(place, self._setup.model.name, str(error))
        batch = answer.about[0] if what == "batch" else None
        # a file in sequential mode would begin anew, with other text than its chunks were cut from
        smaller = what != "advance" and self._may_lower(place)
        slot = self._schedule.places[place]
        before = slot.batch_size
        self._step(messages.OutOfMemory(place, batch, problem, smaller))
        if slot.phase is Phase.RETIRED:
            self._orders.came_down(place, self.shortage.step(place, "it is not used any more"))
        elif slot.batch_size < before:
            windows = f"{slot.batch_size} {plural('window', slot.batch_size)}"
            half = f"it takes {windows} at once instead of {before}"
            self._orders.came_down(place, self.shortage.step(place, half))

    def _may_lower(self, place: str) -> bool:
        """Whether smaller weights come next: not while another slot on the GPU goes on without."""
        places = self._schedule.places
        siblings = (places[slot] for slot in self.shortage.siblings(place))
        alone = all(slot.phase is Phase.RETIRED for slot in siblings)
        return alone and self.shortage.smaller(place) is not None

    def _hello(self, place: str) -> None:
        """The process is there: a slot loads its model now, preparation is ready."""
        if not self._orders.open(place):
            self._step(messages.Ready(place))

    def _opened(self, answer: Answer) -> None:
        info: slot_worker.SlotInfo = answer.value
        self._ledger.note("open", info.compute_type, place=answer.place, began=answer.began)
        self._tell(events.SlotChanged(answer.place, "idle"))
        room = self.shortage.room(answer.place, info.free)
        slot = self._schedule.places[answer.place]
        if room is not None and room < slot.batch_size:
            windows = f"{room} {plural('window', room)}"
            what = f"it has room for {windows} at once instead of {slot.batch_size}"
            self._orders.came_down(answer.place, self.shortage.step(answer.place, what))
        self._step(messages.Ready(answer.place, info.canary_seconds, room))

    def _probed(self, answer: Answer) -> None:
        seconds: dict[int, float | None] = {}
        for number, probe in zip(answer.about, answer.value, strict=True):
            problem = probe if isinstance(probe, Problem) else self._unfit(probe)
            if problem is not None:
                self._fail(number, problem)
            else:
                job = self._jobs[number]
                seconds[number] = job.declared = probe.duration
                self._tell(events.VideoMeasured(job.video, probe.duration))
        self._step(messages.Probed(answer.place, seconds))

    def _unfit(self, probe: Probe) -> Problem | None:
        """Batched mode without voice activity takes only what fits one window."""
        options = self._setup.options
        short = probe.duration is None or probe.duration < STEP
        if options.mode == "sequential" or options.vad_filter or short:
            return None
        return Problem(
            "E_USAGE",
            f"It lasts {probe.duration:.0f} s, and without --vad-filter batched mode takes at most "
            "30 s: leave the filter on, or use --mode sequential.",
        )

    def _prepared(self, answer: Answer) -> None:
        place, video, prepared = answer.place, answer.about, answer.value
        job = self._jobs.get(video)
        if isinstance(prepared, Problem):
            self._fail(video, prepared)
            self._step(messages.Broken(place, video))
            return
        if job is None:  # it was given up meanwhile
            self._step(messages.Windows(place, video, (), prepared.ended, gate=None))
            return
        job.decoded, job.speech = prepared.decoded, prepared.speech
        job.declared = prepared.declared if prepared.declared is not None else job.declared
        cached = self._orders.known.get(video, {})
        new = job.add_windows(prepared.windows, ended=prepared.ended)
        for window in new:
            if window.position in cached:
                job.add_result(cached[window.position])
        waiting = tuple(w.position for w in new if w.position not in cached)
        if prepared.ended:
            self._orders.known.pop(video, None)
            if prepared.invalid:  # what they cost shows in the length; here is why
                damage = f"{prepared.invalid} frames could not be decoded"
                self._ledger.note("damaged", damage, place=place, video=job.video.name)
        self._grown(video, job)
        self._schedule.decode_again(video, job.take_again())
        self._step(messages.Windows(place, video, waiting, prepared.ended, job.gate))

    def _decoded(self, answer: Answer) -> None:
        number, units = answer.about
        batch: slot_worker.BatchResult = answer.value
        grown: dict[int, Job] = {}
        fallback = self.shortage.fallback(answer.place)
        speech: list[float] = []
        for (video, position), window in zip(units, batch.results, strict=True):
            job = self._jobs.get(video)
            if job is None:
                continue
            kept = job.add_result(replace(window, fallback=fallback))
            self._ledger.add_window(job.speech_key, kept)
            if job.has(position):  # else its language is not decided, and it may be needed again
                with suppress(OSError):  # scratch goes at the end anyway
                    os.unlink(job.windows[position].row)
            grown[video] = job
            speech.append(job.windows[position].samples / SAMPLE_RATE)
        tokens = sum(len(piece.tokens) for window in batch.results for piece in window.pieces)
        self._usage.add_batch(answer.place, speech, tokens, batch.seconds)
        self._ledger.note("batch", f"{len(units)} windows", place=answer.place, began=answer.began)
        self.shortage.worked(answer.place, self._schedule.places[answer.place].batch_size)
        for video, job in grown.items():
            self._schedule.set_gate(video, job.gate)
            self._schedule.decode_again(video, job.take_again())
            self._grown(video, job)
        self._step(messages.Decoded(answer.place, number, batch.seconds))
        if not self._schedule.places[answer.place].batches:
            self._tell(events.SlotChanged(answer.place, "idle"))

    def _advanced(self, answer: Answer) -> None:
        place, video, step = answer.place, answer.about, answer.value
        job = self._jobs.get(video)
        if isinstance(step, Problem):
            self._fail(video, step)
            self._step(messages.Broken(place, video))
            return
        if job is not None:
            job.add_segments(step.segments)
            job.fallback = self.shortage.fallback(place)
            job.decoded, job.declared = step.decoded, step.declared
            if step.ended:
                job.seal_stream(step.language, step.language_probability, step.speech)
            self._grown(video, job)
        self._ledger.note(
            "advance", f"{len(step.segments)} segments", place=place, began=answer.began
        )
        self._step(messages.Advanced(place, video, step.ended, step.seconds))


def _sentence(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _no_memory(place: str, what: str, error: OutOfMemoryError) -> Problem:
    return Problem(
        "E_OUT_OF_MEMORY",
        f"The memory of this machine was too small ({what} in {place}: {error}): end what else "
        "uses it, or use fewer slots (--slots).",
    )
