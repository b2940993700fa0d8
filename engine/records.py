"""The values that travel between stages: frozen, picklable, without behaviour.

Nothing here imports anything of ours. Times are seconds on the video's own clock unless a name says
samples (16 kHz mono). ``None`` means unknown, never zero and never a guess.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

SAMPLE_RATE = 16_000  # Hz; what Whisper's encoder was trained on


class State(StrEnum):
    """Where a video or a chunk stands; everything ends in exactly one of the last six."""

    PENDING = "pending"  # nothing has been done
    RUNNING = "running"  # some of it is under way
    DONE = "done"
    DEGRADED = "degraded"  # usable, with a named flaw (short decode, suspect windows)
    FAILED = "failed"  # ended with a reason
    TIMED_OUT = "timed_out"  # ended by its deadline
    SKIPPED = "skipped"  # not applicable, with a reason; not a failure
    INTERRUPTED = "interrupted"  # the run was stopped; the same command goes on with it


@dataclass(frozen=True, slots=True)
class Problem:
    """Why something is not ``done``: a code for programs, one sentence for people."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Video:
    """One input file."""

    path: str  # absolute; bytes that are not UTF-8 as surrogate escapes
    name: str  # where its outputs go below the output folder, without a suffix: "season1/talk"
    size: int  # bytes
    mtime_ns: int
    fingerprint: str  # digest of size, head and tail of the content


@dataclass(frozen=True, slots=True)
class AudioTrack:
    """One audio stream of a container."""

    index: int  # among the audio streams, from 0
    codec: str
    language: str | None
    title: str | None


@dataclass(frozen=True, slots=True)
class Probe:
    """What a container says about itself before anything is decoded."""

    duration: float | None  # seconds, as declared
    tracks: tuple[AudioTrack, ...]


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of speech, in samples of the decoded audio; ``end`` is exclusive."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Window:
    """At most 30 s of speech: what the encoder reads at once."""

    position: int  # among the windows of its video, from 0
    spans: tuple[Span, ...]  # the speech in it, in order
    row: str  # file with its log-mel features, float32 [mels, 3000]; "" if not computed

    @property
    def samples(self) -> int:
        """Length of the speech in it."""
        return sum(span.end - span.start for span in self.spans)


@dataclass(frozen=True, slots=True)
class SpeechOptions:
    """What decides a transcript, beside the audio and the model."""

    mode: str  # "batched" or "sequential"
    language: str | None  # None: detected per video
    task: str  # "transcribe" or "translate"
    initial_prompt: str | None
    hotwords: str | None
    beam_size: int
    word_timestamps: bool
    vad_filter: bool
    audio_track: int | None
    compute_type: str
    quality_gates: bool  # batched mode: windows that fail are decoded again


@dataclass(frozen=True, slots=True)
class Word:
    """A word with its times; as in faster-whisper."""

    start: float
    end: float
    word: str  # with its leading blank, as the tokenizer gives it
    probability: float


@dataclass(frozen=True, slots=True)
class Piece:
    """A segment inside one window, times in seconds from the window's start."""

    start: float
    end: float
    text: str
    tokens: tuple[int, ...]
    compression_ratio: float
    words: tuple[Word, ...] = ()  # as aligned, before the clean-up that needs the window before


@dataclass(frozen=True, slots=True)
class WindowResult:
    """What a slot made of one window."""

    position: int
    language: str
    language_probability: float | None  # None: given, not detected here
    avg_logprob: float
    no_speech_prob: float
    pieces: tuple[Piece, ...]
    word_median: float = 0.0  # seconds; median word length, capped at 0.7, for the clean-up
    fallback: str | None = None  # its compute type, where memory was too small for the usual one
    heard: Mapping[str, float] = field(default_factory=dict)  # language -> probability, if detected
    suspect: str | None = None  # which quality gate it still fails; None: none
    decodings: int = 1  # rows that were decoded for it


@dataclass(frozen=True, slots=True)
class Segment:
    """A cue of the transcript; the fields of openai-whisper's JSON."""

    id: int  # from 0, in order of time; what prompts and items cite
    seek: int  # first frame (10 ms) of its window in the video
    start: float
    end: float
    text: str
    tokens: tuple[int, ...]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float
    words: tuple[Word, ...] | None = None


@dataclass(frozen=True, slots=True)
class Suspect:
    """A window whose text fails a quality gate, however it was decoded."""

    start: float
    end: float
    reason: str


@dataclass(frozen=True, slots=True)
class Transcript:
    """All segments of a video, in order of time."""

    language: str | None  # None: not given, and there was no speech to tell it from
    language_probability: float | None  # None: given, not detected
    duration: float  # seconds of audio decoded
    speech: float  # seconds of it that are speech
    segments: tuple[Segment, ...]
    fallback: str | None = None  # compute type of some of it: memory was too small for the usual
    suspects: tuple[Suspect, ...] = ()

    @property
    def text(self) -> str:
        """Everything said, as openai-whisper's JSON has it."""
        return "".join(segment.text for segment in self.segments)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A slice of a transcript that one LLM call reads."""

    index: int  # among the chunks of its video, from 0
    context: tuple[Segment, ...]  # the cues just before: shown, not to be cited
    cues: tuple[Segment, ...]


class Grounding(StrEnum):
    """How an item's quote was found in the cues it cites."""

    EXACT = "exact"
    FUZZY = "fuzzy"
    UNGROUNDED = "ungrounded"


@dataclass(frozen=True, slots=True)
class Item:
    """One thing found, with where it was said; times come from our cues, never from a model."""

    fields: Mapping[str, Any]  # what the recipe's schema asks for, in its order
    cues: tuple[int, ...]  # ids of the segments it cites
    quote: str  # as the model has it; where it left words out, as it was said
    start: float | None  # None: ungrounded
    end: float | None
    grounding: Grounding
    score: float  # 0..1, how much of what was said the model's quote has; 1 for exact


@dataclass(frozen=True, slots=True)
class Reply:
    """What one call brought: validated items as canonical JSON, and what it took."""

    items: str  # JSON list of raw items (recipe fields + "cues" + "quote"), before grounding
    dropped: int = 0  # items of the reply that did not fit the schema
    attempts: int = 1
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """A reply with the question it answers."""

    key: str  # digest of model, question and recipe
    model: str
    recipe: str
    reply: Reply


@dataclass(frozen=True, slots=True)
class Spent:
    """What HTTP exchanges with one model took; what nobody counted is in it at its most."""

    exchanges: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    uncounted: int = 0  # exchanges of which the server told no usage


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """How one chunk ended; ``items`` means something only if ``state`` is done."""

    index: int
    state: State
    items: tuple[Item, ...] = ()
    dropped: int = 0
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class Analysis:
    """All items one recipe found in one video, merged, in order of time."""

    recipe: str
    analyst: str  # who answered: "phrasebook-en", or the model's name
    state: State
    items: tuple[Item, ...] = ()
    ungrounded: tuple[Item, ...] = ()
    chunks: int = 0
    failed: tuple[ChunkResult, ...] = ()  # the chunks that did not end as done
    dropped: int = 0
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class VideoResult:
    """How one video ended."""

    video: Video
    state: State
    problem: Problem | None = None
    transcript: Transcript | None = None
    analyses: tuple[Analysis, ...] = ()
    files: tuple[str, ...] = ()
    resumed: bool = False  # it was already done before this run


@dataclass(frozen=True, slots=True)
class RunReport:
    """What a run did; also written as ``.reelmine/last-run.json``."""

    exit_code: int
    videos: tuple[VideoResult, ...]
    problems: tuple[Problem, ...] = ()  # paths that gave no video, endpoint trouble
    figures: Mapping[str, Any] = field(default_factory=dict)  # seconds, rates, counts
