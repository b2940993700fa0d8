"""One video on its way: windows and chunk results come in, chunks and in the end a result go out.

Pure state: no clock, no files, no processes. The loop (loop.py) feeds it and does what follows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count, takewhile

from engine.questions import Questions
from engine.records import (
    SAMPLE_RATE,
    Analysis,
    Chunk,
    ChunkResult,
    Problem,
    Segment,
    State,
    Suspect,
    Transcript,
    Video,
    VideoResult,
    Window,
    WindowResult,
)
from engine.speech.language import WINDOWS, Odds, decide
from engine.speech.transcript import Assembly
from engine.terminal import clock

SHORT = 0.98  # share of the declared duration below which a decode counts as short


class Job:
    """What one video has become so far."""

    def __init__(
        self,
        video: Video,
        speech_key: str,
        questions: Sequence[Questions],
        language: str | None = None,
    ) -> None:
        """``language``: what is known before anything is heard."""
        self.language = language
        self._probability: float | None = None  # of a language that was not given
        self._heard: dict[int, WindowResult] = {}  # of windows that decide the language
        self._again: list[int] = []  # of these, those that were decoded in another one
        self.video = video
        self.speech_key = speech_key
        self.questions = {question.recipe.name: question for question in questions}
        self.windows: dict[int, Window] = {}
        self.total: int | None = None  # windows, once known
        self.decoded = 0.0  # seconds
        self.declared: float | None = None
        self.speech = 0.0
        self.transcript: Transcript | None = None
        self.read_back = False  # the transcript was on disk before the run
        self.problem: Problem | None = None
        self.state = State.PENDING
        self._assembly = Assembly()
        self._stream: list[Segment] = []  # sequential mode
        self._results = 0
        self.fallback: str | None = None  # see Transcript
        self.decoded_again = 0  # windows that failed a quality gate
        self._suspects: dict[int, Suspect] = {}  # by position

    # transcription

    @property
    def gate(self) -> int | None:
        """How many first windows may be decoded while the language is unknown; None: all."""
        if self.language is not None:
            return None
        return WINDOWS if self._heard else 1

    def take_again(self) -> tuple[int, ...]:
        """Windows to be decoded again, now in the video's language; told once."""
        again, self._again = tuple(self._again), []
        return again

    def standing(self, results: Mapping[int, WindowResult]) -> frozenset[int]:
        """Those of an earlier run's results that no decision about the language can undo."""
        heard = [_odds(results[0])] if 0 in results else []
        if self.language is not None or decide(heard, whole=False) is not None:
            return frozenset(results)
        return frozenset(position for position in results if position >= WINDOWS)

    def has(self, position: int) -> bool:
        """Whether the text of this window is there to stay."""
        return self._assembly.has(position)

    @property
    def segments(self) -> Sequence[Segment]:
        """The sealed prefix of the transcript."""
        if self.transcript is not None:
            return self.transcript.segments
        return self._stream or self._assembly.segments

    @property
    def sealed_seconds(self) -> float:
        """How far the sealed prefix reaches."""
        return self.segments[-1].end if self.segments else 0.0

    def add_windows(self, windows: Sequence[Window], *, ended: bool) -> list[Window]:
        """The windows not seen before (a new preparation worker starts from the first again)."""
        new = [window for window in windows if window.position not in self.windows]
        self.windows |= {window.position: window for window in new}
        if ended:
            self.total = len(self.windows)
            self._decide()
            self._seal_if_complete()
        return new

    def add_result(self, result: WindowResult) -> WindowResult:
        """A window's text; a second result for it (its batch was sent twice) changes nothing.

        Returned is what the ledger should keep: one that was decoded again still says what was
        heard in it at first, so that another run decides alike.
        """
        if result.position in self._heard:
            result = replace(result, heard=self._heard[result.position].heard)
        if self.transcript is not None or self._assembly.has(result.position):
            return result
        if self.language is None:
            self._heard[result.position] = result
            self._decide()
        else:
            self._assemble(result)
        return result

    def _decide(self) -> None:
        """The language, once enough is heard; what was decoded in another one does not count."""
        if self.language is not None:
            return
        first = [self._heard[n] for n in takewhile(self._heard.__contains__, count())]
        verdict = decide([_odds(result) for result in first], whole=len(first) == self.total)
        if verdict is None:
            return
        self.language, self._probability = verdict
        for result in self._heard.values():
            if result.language == self.language:
                self._assemble(result)
            else:
                self._again.append(result.position)

    def _assemble(self, result: WindowResult) -> None:
        window = self.windows[result.position]
        self._assembly.add(window, result)
        self.fallback = result.fallback or self.fallback
        self._results += 1
        self.decoded_again += result.decodings > 1
        if result.suspect is not None:
            start, end = window.spans[0].start, window.spans[-1].end
            self._suspects[result.position] = Suspect(
                round(start / SAMPLE_RATE, 2), round(end / SAMPLE_RATE, 2), result.suspect
            )
        self._seal_if_complete()

    def _seal_if_complete(self) -> None:
        if self.total is not None and self._results == self.total and self.transcript is None:
            self.seal(
                Transcript(
                    self.language,
                    self._probability,
                    round(self.decoded, 3),
                    round(self.speech, 3),
                    tuple(self._assembly.segments),
                    self.fallback,
                    tuple(self._suspects[position] for position in sorted(self._suspects)),
                )
            )

    def add_segments(self, segments: Sequence[Segment]) -> None:
        """Sequential mode: the next segments."""
        self._stream += segments

    def restart(self) -> None:
        """Sequential mode: the slot died; chunks already handed out stay, the text is the same."""
        self._stream = []

    def seal_stream(self, language: str, probability: float | None, speech: float) -> None:
        """Sequential mode: the file has ended."""
        self.seal(
            Transcript(
                language,
                probability,
                round(self.decoded, 3),
                round(speech, 3),
                tuple(self._stream),
                self.fallback,
            )
        )

    def seal_read_back(self, transcript: Transcript) -> None:
        """The transcript is on disk already; only analysis is missing."""
        self.read_back = True
        self.decoded = transcript.duration
        self.seal(transcript)

    def seal(self, transcript: Transcript) -> None:
        """The transcript is whole."""
        self.transcript = transcript
        if self.declared and self.decoded < SHORT * self.declared:
            share = 100 * self.decoded / self.declared
            self.state = State.DEGRADED
            self.problem = Problem(
                "E_SHORT",
                f"Only {self.decoded:.1f} s of the declared {self.declared:.1f} s ({share:.0f} %) "
                "could be decoded: the file is damaged or cut off; copy it again.",
            )
        elif transcript.fallback:
            self.state = State.DEGRADED
            self.problem = Problem(
                "E_FALLBACK",
                f"Some of it was transcribed in {transcript.fallback}, because the GPU's memory was"
                " too small for the usual compute type: its text may be slightly less good.",
            )
        elif transcript.suspects:
            self.state, self.problem = State.DEGRADED, _suspicion(transcript.suspects)

    # analysis

    def new_chunks(self) -> list[tuple[str, Chunk]]:
        """Chunks of every recipe that the sealed prefix decides now."""
        sealed = self.transcript is not None
        return [
            (name, chunk)
            for name, question in self.questions.items()
            for chunk in question.new_chunks(self.segments, sealed=sealed)
        ]

    def add_chunk(self, recipe: str, result: ChunkResult) -> None:
        """How a chunk ended."""
        self.questions[recipe].results[result.index] = result

    def skip_analysis(self, problem: Problem) -> None:
        """No recipe applies to this video."""
        for question in self.questions.values():
            question.skipped = problem

    # the end

    @property
    def complete(self) -> bool:
        """Nothing more will come."""
        return self.state is State.FAILED or (
            self.transcript is not None
            and all(question.complete(self.transcript) for question in self.questions.values())
        )

    def fail(self, problem: Problem) -> None:
        """The video cannot be transcribed."""
        self.state, self.problem = State.FAILED, problem

    def analyses(self, *, final: bool = True) -> tuple[Analysis, ...]:
        """What each recipe found, in the order they were asked for."""
        return tuple(q.analysis(self.transcript, final=final) for q in self.questions.values())

    def result(self, files: tuple[str, ...] = (), *, resumed: bool = False) -> VideoResult:
        """How the video stands now; what is not complete counts as interrupted."""
        analyses = self.analyses() if self.transcript is not None else ()
        state, problem = self._outcome(analyses)
        return VideoResult(self.video, state, problem, self.transcript, analyses, files, resumed)

    def _outcome(self, analyses: tuple[Analysis, ...]) -> tuple[State, Problem | None]:
        if self.state is State.FAILED:
            return State.FAILED, self.problem
        if not self.complete:
            what = "video" if self.transcript is None else "video's analysis"
            return State.INTERRUPTED, self.problem or Problem(
                "E_INTERRUPTED", f"The run ended before this {what}; the same command goes on."
            )
        for analysis in analyses:
            if analysis.state in (State.FAILED, State.TIMED_OUT):
                count = len(analysis.failed)
                reason = analysis.problem.message if analysis.problem else "no reason given"
                return State.FAILED, Problem(
                    "E_ANALYSIS",
                    f"{count} of {analysis.chunks} chunks of {analysis.recipe} have no analysis: "
                    f"{reason}",
                )
        if self.state is State.DEGRADED:
            return State.DEGRADED, self.problem
        return State.DONE, None


def _odds(result: WindowResult) -> Odds:
    """What was heard in a window; a language that was given is taken as it was told."""
    probability = result.language_probability
    return result.heard or {result.language: 1.0 if probability is None else probability}


def _suspicion(suspects: Sequence[Suspect]) -> Problem:
    """What to look at, and what may help."""
    first, more = suspects[0], len(suspects) - 1
    others = f" and {more} more" if more else ""
    return Problem(
        "E_SUSPECT",
        f"The text may be wrong from {clock(first.start)} to {clock(first.end)} "
        f"({first.reason}){others}: read it there, or try a larger model.",
    )
