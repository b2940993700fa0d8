"""Windows from a stream equal the batched pipeline's, sample for sample."""

from pathlib import Path

import numpy as np
import pytest
from faster_whisper import vad
from faster_whisper.feature_extractor import FeatureExtractor
from speech import joined

from engine.errors import DiskError
from engine.records import SAMPLE_RATE
from engine.speech.activity import SpeechDetector
from engine.speech.windows import ROW_FRAMES, RowWriter, WindowStream, read_row


def windows(audio, step):
    stream = WindowStream(SpeechDetector())
    found = []
    for begin in range(0, len(audio), step):
        found += stream.feed(audio[begin : begin + step])
    return [*found, *stream.finish()]


def the_pipelines(audio):
    spans = vad.get_speech_timestamps(
        audio, vad.VadOptions(max_speech_duration_s=30, min_silence_duration_ms=160)
    )
    return vad.collect_chunks(audio, spans, max_duration=30)[0]


@pytest.fixture(scope="module")
def audio(samples):
    return joined(samples, seconds=200, seed=2)


@pytest.mark.parametrize("seconds", [1, 7, 60, 1000])
def test_windows_are_the_pipelines_for_any_piece_length(audio, seconds):
    ours = windows(audio, seconds * SAMPLE_RATE)
    theirs = the_pipelines(audio)
    assert len(ours) == len(theirs)
    for (spans, samples), other in zip(ours, theirs, strict=True):
        assert np.array_equal(samples, other)
        assert sum(span.end - span.start for span in spans) == len(samples)


@pytest.mark.slow
def test_windows_of_half_an_hour_are_the_pipelines(samples):
    audio = joined(samples, seconds=1800, seed=9)
    ours = windows(audio, 60 * SAMPLE_RATE)
    theirs = the_pipelines(audio)
    assert [len(samples) for _, samples in ours] == [len(other) for other in theirs]
    assert all(np.array_equal(a, b) for (_, a), b in zip(ours, theirs, strict=True))


def test_row_is_faster_whispers_log_mel(audio, tmp_path):
    spans, samples = windows(audio, len(audio))[0]
    window = RowWriter(tmp_path, 80).write(0, spans, samples)
    row = read_row(window.row, 80)
    features = FeatureExtractor()(samples)[..., :-1]
    assert row.shape == (80, ROW_FRAMES)
    assert np.array_equal(row[:, : features.shape[1]], features)
    assert not row[:, features.shape[1] :].any()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_row_for_which_there_is_no_room_says_so(tmp_path):
    (tmp_path / "0.mel").symlink_to("/dev/full")
    with pytest.raises(DiskError, match=r"No space left.*--scratch"):
        RowWriter(tmp_path, 80).write(0, (), np.zeros(16_000, np.float32))


def test_silence_has_no_windows():
    assert windows(np.zeros(60 * SAMPLE_RATE, np.float32), SAMPLE_RATE) == []


def test_memory_is_bounded_through_an_hour_of_silence(audio):
    stream = WindowStream(SpeechDetector())
    held = 0
    for _ in range(20):
        list(stream.feed(np.zeros(60 * SAMPLE_RATE, np.float32)))
        held = max(held, len(stream._audio))
    assert held <= 61 * SAMPLE_RATE


def test_without_a_detector_everything_is_one_window():
    stream = WindowStream(None)
    audio = np.ones(10 * SAMPLE_RATE, np.float32)
    assert list(stream.feed(audio)) == []
    [(spans, samples)] = stream.finish()
    assert (spans[0].start, spans[0].end) == (0, len(audio))
    assert np.array_equal(samples, audio)


def test_without_a_detector_more_than_a_window_is_refused():
    stream = WindowStream(None)
    with pytest.raises(ValueError, match="voice activity"):
        list(stream.feed(np.zeros(31 * SAMPLE_RATE, np.float32)))
