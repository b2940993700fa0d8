"""Voice activity as a stream: samples in, spans of speech out, the same for any piece length.

The decisions are those of faster-whisper's ``get_speech_timestamps`` (Silero VAD v6), frame for
frame; here they are carried from piece to piece: the detector's state and context, the open span,
and the last span whose end still depends on where the next one begins. Knows nothing about files,
windows or text.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from faster_whisper.vad import get_vad_model

from engine.records import SAMPLE_RATE, Span

FRAME = 512  # samples the detector judges at once
CONTEXT = 64  # samples of the frame before that it sees too
THRESHOLD = 0.5
NEGATIVE_THRESHOLD = 0.35  # below: surely silence; between the two: as before
SHORT_PAUSE = 0.098 * SAMPLE_RATE  # a pause at which an over-long span may be cut


@dataclass(frozen=True, slots=True)
class ActivityOptions:
    """The batched pipeline's values; ``SEQUENTIAL`` has the sequential one's."""

    max_speech: float = 30.0  # seconds
    min_silence: float = 0.16  # seconds of silence that end a span
    padding: float = 0.4  # seconds added on both sides


class SpeechDetector:
    """``feed`` pieces of audio, then ``finish``; both yield the spans that have become final.

    A span is final once nothing that follows can move its end: the next one has begun, or the
    silence after it is longer than both paddings, or the audio has ended.
    """

    def __init__(self, options: ActivityOptions | None = None) -> None:
        options = options or ActivityOptions()
        self._padding = int(options.padding * SAMPLE_RATE)
        self._min_silence = options.min_silence * SAMPLE_RATE
        self._max_speech = options.max_speech * SAMPLE_RATE - FRAME - 2 * self._padding
        self._session = get_vad_model().session
        self._h = np.zeros((1, 1, 128), np.float32)
        self._c = np.zeros((1, 1, 128), np.float32)
        self._context = np.zeros(CONTEXT, np.float32)
        self._rest = np.zeros(0, np.float32)  # samples short of a frame
        self._position = 0  # sample at which the next frame begins
        # the open span
        self._start: int | None = None
        self._silence = 0  # where a possible end began; 0: none
        self._cut = self._resume = 0  # last short pause: its begin, and where speech went on
        # the closed span that waits for its successor, start already padded
        self._waiting: Span | None = None
        self._gap: int | None = None  # silence between the open span and the one before

    @property
    def needed(self) -> int:
        """First sample that a span still to come may reach back to."""
        if self._waiting is not None:
            return self._waiting.start
        if self._start is not None:
            return max(0, self._start - self._padding)
        return max(0, self._position - self._padding)

    def feed(self, audio: np.ndarray) -> Iterator[Span]:
        """Spans that become final with these samples (float32, mono, 16 kHz)."""
        audio = np.concatenate((self._rest, audio)) if len(self._rest) else audio
        whole = len(audio) - len(audio) % FRAME
        self._rest = audio[whole:].copy()
        for probability in self._judge(audio[:whole]):
            yield from self._frame(probability)

    def finish(self) -> Iterator[Span]:
        """The spans that were still open when the audio ended."""
        length = self._position + len(self._rest)
        last = np.pad(self._rest, (0, FRAME - len(self._rest)))
        for probability in self._judge(last):
            if self._start is not None or self._position < length:
                yield from self._frame(probability)
        if self._start is not None and length > self._start:
            self._close(length)
        if self._waiting is not None:
            end = min(length, self._waiting.end + self._padding)
            yield Span(self._waiting.start, end)
            self._waiting = None

    def _judge(self, audio: np.ndarray) -> Iterator[float]:
        """Speech probability of each frame; the model's state goes on to the next piece."""
        if not len(audio):
            return
        frames = audio.reshape(-1, FRAME)
        before = np.vstack((self._context, frames[:-1, -CONTEXT:]))
        self._context = frames[-1, -CONTEXT:].copy()
        inputs = np.concatenate((before, frames), axis=1)
        output, self._h, self._c = self._session.run(
            None, {"input": inputs, "h": self._h, "c": self._c}
        )
        yield from np.ravel(output).tolist()

    def _frame(self, probability: float) -> Iterator[Span]:
        """One step of the library's state machine; ``here`` is where the frame begins."""
        here = self._position
        self._position += FRAME
        speech = probability >= THRESHOLD
        if speech and self._silence:
            self._silence = 0
            if self._resume < self._cut:
                self._resume = here
        if speech and self._start is None:
            yield from self._open(here)
            return
        if self._start is None:
            yield from self._settle(here + FRAME)
            return
        if here - self._start > self._max_speech:
            if not self._cut:
                self._close(here)
                return
            # cut at the last short pause; go on with what came after it, if anything did
            resume = self._resume if self._resume >= self._cut else None
            self._close(self._cut)
            if resume is not None:
                yield from self._open(resume)
        if probability < NEGATIVE_THRESHOLD and self._start is not None:
            self._silence = self._silence or here
            if here - self._silence > SHORT_PAUSE:
                self._cut = self._silence
            if here - self._silence >= self._min_silence:
                self._close(self._silence)

    def _open(self, start: int) -> Iterator[Span]:
        """Speech begins: the span before gets its end, this one its padded start."""
        waiting, self._waiting = self._waiting, None
        self._start = start
        if waiting is None:
            return
        gap = start - waiting.end
        if gap < 2 * self._padding:
            yield Span(waiting.start, waiting.end + gap // 2)
        else:
            yield Span(waiting.start, waiting.end + self._padding)
        self._gap = gap

    def _close(self, end: int) -> None:
        """Speech has ended at ``end``; the span waits until its padding is known."""
        assert self._start is not None
        reach = self._padding
        if self._gap is not None and self._gap < 2 * self._padding:
            reach = self._gap // 2
        self._waiting = Span(max(0, self._start - reach), end)
        self._gap = None
        self._start = None
        self._silence = self._cut = self._resume = 0

    def _settle(self, coming: int) -> Iterator[Span]:
        """End the waiting span once speech that begins at ``coming`` or later cannot move it."""
        if self._waiting is not None and coming - self._waiting.end >= 2 * self._padding:
            yield Span(self._waiting.start, self._waiting.end + self._padding)
            self._waiting = None
