"""Windows from a stream of audio: speech packed into at most 30 s, and its log-mel row.

Audio comes in pieces of any length; a window goes out once the next span of speech does not fit
(the greedy packing of faster-whisper's ``collect_chunks``) or the audio has ended. The windows are
the same for any piece length. Memory holds one open window and the span that is still open.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from faster_whisper.feature_extractor import FeatureExtractor

from engine.errors import DiskError
from engine.records import SAMPLE_RATE, Span, Window
from engine.speech.activity import SpeechDetector

WINDOW_SAMPLES = 30 * SAMPLE_RATE
ROW_FRAMES = 3000  # of 10 ms; what the encoder takes


class WindowStream:
    """``feed`` pieces, then ``finish``; both yield (spans, samples) of each window that is full."""

    def __init__(self, detector: SpeechDetector | None) -> None:
        """Without a detector everything is one span of speech (at most 30 s; else ValueError)."""
        self._detector = detector
        self._audio = np.zeros(0, np.float32)  # what spans to come may still need
        self._offset = 0  # sample at which it begins
        self._spans: list[Span] = []
        self._parts: list[np.ndarray] = []
        self.decoded = 0  # samples seen
        self.speech = 0  # samples of speech in final spans

    def feed(self, audio: np.ndarray) -> Iterator[tuple[tuple[Span, ...], np.ndarray]]:
        """Windows that are full with these samples."""
        self._audio = np.concatenate((self._audio, audio))
        self.decoded += len(audio)
        if self._detector is None:
            if self.decoded > WINDOW_SAMPLES:
                raise ValueError("audio of 30 s or more needs the voice activity filter")
            return
        for span in self._detector.feed(audio):
            yield from self._pack(span)
        self._forget(self._detector.needed)

    def finish(self) -> Iterator[tuple[tuple[Span, ...], np.ndarray]]:
        """The windows that were still open when the audio ended."""
        if self._detector is not None:
            for span in self._detector.finish():
                yield from self._pack(span)
        elif self.decoded:
            yield from self._pack(Span(0, self.decoded))
        if self._spans:
            yield self._take()

    def _pack(self, span: Span) -> Iterator[tuple[tuple[Span, ...], np.ndarray]]:
        length = span.end - span.start
        held = sum(part.shape[0] for part in self._parts)
        if self._spans and held + length > WINDOW_SAMPLES:
            yield self._take()
        self.speech += length
        self._spans.append(span)
        self._parts.append(self._audio[span.start - self._offset : span.end - self._offset].copy())

    def _take(self) -> tuple[tuple[Span, ...], np.ndarray]:
        window = tuple(self._spans), np.concatenate(self._parts)
        self._spans, self._parts = [], []
        return window

    def _forget(self, needed: int) -> None:
        if needed > self._offset:
            self._audio = self._audio[needed - self._offset :].copy()
            self._offset = needed


class RowWriter:
    """Writes the log-mel row of a window into scratch, one file a window, for a slot to map."""

    def __init__(self, folder: Path, mels: int) -> None:
        self._folder = folder
        self._extract = FeatureExtractor(feature_size=mels)
        self._mels = mels

    def write(self, position: int, spans: tuple[Span, ...], samples: np.ndarray) -> Window:
        """The window with its row on disk: float32 [mels, 3000], zeros after the speech.

        DiskError if there is no room for it.
        """
        features = self._extract(samples)[..., :-1][:, :ROW_FRAMES]
        row = np.zeros((self._mels, ROW_FRAMES), np.float32)
        row[:, : features.shape[1]] = features
        path = self._folder / f"{position}.mel"
        try:
            path.write_bytes(row.data)
        except OSError as error:
            raise DiskError(
                f"The scratch file {path} cannot be written ({error.strerror}): make room there, "
                "or name another place with --scratch."
            ) from error
        return Window(position, spans, str(path))


def read_row(path: str, mels: int) -> np.ndarray:
    """The row of a window, mapped: float32 [mels, 3000]."""
    return np.memmap(path, np.float32, "r", shape=(mels, ROW_FRAMES))
