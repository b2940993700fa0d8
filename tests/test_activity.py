"""Voice activity as a stream equals faster-whisper's on the whole file, frame for frame."""

from types import SimpleNamespace

import numpy as np
import pytest
from faster_whisper import vad
from hypothesis import given
from hypothesis import strategies as st
from speech import joined

from engine.records import SAMPLE_RATE
from engine.speech.activity import FRAME, SpeechDetector

OPTIONS = vad.VadOptions(max_speech_duration_s=30, min_silence_duration_ms=160)


def stream(audio: np.ndarray, step: int) -> list[tuple[int, int]]:
    detector = SpeechDetector()
    spans = []
    for begin in range(0, len(audio), step):
        spans += detector.feed(audio[begin : begin + step])
    spans += detector.finish()
    return [(span.start, span.end) for span in spans]


def library(audio: np.ndarray) -> list[tuple[int, int]]:
    return [(s["start"], s["end"]) for s in vad.get_speech_timestamps(audio, OPTIONS)]


@pytest.fixture(scope="module")
def audio(samples) -> np.ndarray:
    return joined(samples, seconds=150, seed=5)


@pytest.mark.parametrize("seconds", [1, 7, 60, 1000])
def test_spans_are_the_librarys_for_any_piece_length(audio, seconds):
    assert stream(audio, seconds * SAMPLE_RATE) == library(audio)


def test_pieces_need_not_be_whole_frames(audio):
    assert stream(audio, 12_345) == library(audio)


class Probabilities:
    """Stands in for the neural network: frame n of the audio gets the n-th number."""

    def __init__(self, numbers):
        self.numbers = numbers
        self.session = SimpleNamespace(run=self.run)

    def __call__(self, audio):
        return np.array(self.numbers[: len(audio) // FRAME], np.float32)

    def run(self, _, inputs):
        # the frame's number is its first sample: the audio of these tests counts frames
        numbers = [self.numbers[round(float(frame[64]))] for frame in inputs["input"]]
        return np.array(numbers, np.float32), inputs["h"], inputs["c"]


levels = st.sampled_from([0.1, 0.4, 0.9])
runs = st.lists(st.tuples(levels, st.integers(1, 1100)), min_size=1, max_size=14)


@pytest.mark.slow
@given(runs, st.integers(0, FRAME - 1), st.integers(1, 40_000))
def test_any_course_of_speech_and_silence_gives_the_librarys_spans(course, rest, step):
    """Over-long speech, cuts at short pauses, speech to the very end: all branches."""
    numbers = [level for level, count in course for _ in range(count)]
    audio = np.repeat(np.arange(len(numbers), dtype=np.float32), FRAME)
    audio = audio[: len(audio) - rest]
    numbers += [0.0, 0.0]
    audio_with_number = audio.copy()
    fake = Probabilities(numbers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vad, "get_vad_model", lambda: fake)
        patch.setattr("engine.speech.activity.get_vad_model", lambda: fake)
        assert stream(audio_with_number, step) == library(audio_with_number)


def test_a_long_silence_holds_no_audio_back():
    """A span is final once the silence after it is long, not only when speech comes again."""
    numbers = [0.9] * 40 + [0.0] * 4000
    audio = np.repeat(np.arange(len(numbers), dtype=np.float32), FRAME)
    fake = Probabilities([*numbers, 0.0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.speech.activity.get_vad_model", lambda: fake)
        detector = SpeechDetector()
        spans = list(detector.feed(audio))
        assert len(spans) == 1
        assert len(audio) - detector.needed <= 2 * 6400
