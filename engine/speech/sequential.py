"""Sequential mode: faster-whisper's own way through a file, drawn bit by bit.

In: a recogniser and all samples of a file. Out: its segments, about so many seconds at a time. Its
encoder is CTranslate2's, its temperature 0. Runs in a slot's process only.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.records import Segment, SpeechOptions, Word

if TYPE_CHECKING:
    from engine.speech.whisper import Recognizer


class FileDecoder:
    """A whole file decoded by faster-whisper's generator."""

    def __init__(self, recognizer: "Recognizer", audio: np.ndarray, options: SpeechOptions) -> None:
        language = options.language if recognizer.multilingual else "en"
        segments, info = recognizer.model.transcribe(
            audio,
            language=language,
            task=options.task,
            beam_size=options.beam_size,
            temperature=0.0,
            initial_prompt=options.initial_prompt,
            hotwords=options.hotwords,
            word_timestamps=options.word_timestamps,
            vad_filter=options.vad_filter,
        )
        self._segments: Iterator[Any] = iter(segments)
        self._next = 0
        self.language: str = info.language
        self.probability: float | None = None if language else info.language_probability
        self.duration: float = info.duration
        self.speech: float = info.duration_after_vad

    def advance(self, seconds: float) -> tuple[tuple[Segment, ...], bool]:
        """The segments of about the next ``seconds`` of audio, and whether the file has ended."""
        taken: list[Segment] = []
        for found in self._segments:
            taken.append(segment_of(found, self._next))
            self._next += 1
            if found.end - taken[0].start >= seconds:
                return tuple(taken), False
        return tuple(taken), True


def segment_of(found: Any, number: int) -> Segment:
    """faster-whisper's segment as ours."""
    words = found.words
    return Segment(
        id=number,
        seek=found.seek,
        start=float(found.start),
        end=float(found.end),
        text=found.text,
        tokens=tuple(found.tokens),
        temperature=float(found.temperature or 0.0),
        avg_logprob=float(found.avg_logprob),
        compression_ratio=float(found.compression_ratio),
        no_speech_prob=float(found.no_speech_prob),
        words=None
        if words is None
        else tuple(Word(float(w.start), float(w.end), w.word, float(w.probability)) for w in words),
    )
