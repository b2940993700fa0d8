"""The ladder with real weights: what is won back, what is decoded again, what stays suspect."""

import json
from dataclasses import replace

import numpy as np
import pytest
from faster_whisper.feature_extractor import FeatureExtractor
from speech import decoded, joined, write_wav
from test_whisper import OPTIONS, rows_of

import engine
from engine.config import Config
from engine.output.results import read_result_json
from engine.records import SAMPLE_RATE, Span, State, Window
from engine.speech.ladder import Ladder, stretch_of
from engine.speech.quality import Flaw, flaw_of, rest_of, text_of
from engine.speech.whisper import Recognizer

pytestmark = pytest.mark.slow  # real weights, again and again; test_quality.py is the quick part

GATED = replace(OPTIONS, quality_gates=True)
REVERSED = "coffee_shop.mp4"  # played backwards nobody understands it


@pytest.fixture(scope="module")
def recognizer(tiny_en):
    return Recognizer(tiny_en, "cpu", "int8", 2)


def stretches_of(audio):
    spans, rows = rows_of(audio)
    windows = [Window(n, found, "") for n, found in enumerate(spans)]
    return [stretch_of(w, row, "en") for w, row in zip(windows, rows, strict=True)]


def plain(recognizer, stretches):
    """The results without gates."""
    return recognizer.decode(
        recognizer.encode([s.row for s in stretches]),
        [s.position for s in stretches],
        [s.seconds for s in stretches],
        ["en"] * len(stretches),
        OPTIONS,
    )


@pytest.fixture(scope="module")
def good(samples):
    """Three windows of ordinary speech; of at least one the model drops the rest."""
    return stretches_of(joined(samples, seconds=80, seed=4))


@pytest.fixture(scope="module")
def bad(samples):
    """Speech at twice its speed, on which tiny.en loops, and speech played backwards."""
    fast = stretches_of(decoded(samples / "moving_house.wav")[::2].copy())
    return fast + stretches_of(decoded(samples / REVERSED)[::-1].copy())[:1]


@pytest.fixture(scope="module")
def alone(recognizer, good, bad):
    ladder = Ladder(recognizer, GATED)
    return [ladder.hear([stretch])[0] for stretch in good + bad]


def test_results_are_the_same_for_any_batch(recognizer, good, bad, alone):
    ladder = Ladder(recognizer, GATED)
    stretches = good + bad
    assert ladder.hear(stretches) == alone
    backwards = ladder.hear(stretches[::-1])
    assert backwards[::-1] == alone


def test_dropped_rest_is_won_back(recognizer, good, alone):
    dropped = 0
    for stretch, before, after in zip(good, plain(recognizer, good), alone, strict=False):
        start = rest_of(before, stretch.seconds)
        if start is None:
            assert after == before
            continue
        dropped += 1
        assert after.pieces[: len(before.pieces)] == before.pieces
        assert after.pieces[len(before.pieces)].start >= start
        assert rest_of(after, stretch.seconds) is None
        assert after.decodings > 1
        assert len(text_of(after).split()) > len(text_of(before).split())
    assert dropped


class Counting:
    """A recogniser that counts the rows it encodes, and may have nothing more to say."""

    def __init__(self, recognizer, *, mute=False):
        self._recognizer = recognizer
        self._mute = mute
        self.encoded = 0

    def encode(self, rows):
        self.encoded += len(rows)
        return self._recognizer.encode(rows)

    def decode(self, *positional, heard=(), **named):
        results = self._recognizer.decode(*positional, heard=heard, **named)
        if self._mute and heard:
            return [replace(r, pieces=had) for r, had in zip(results, heard, strict=True)]
        return results


def test_rest_is_read_on_from_the_same_states_or_heard_anew_where_that_gives_nothing(
    recognizer, good, alone
):
    reading = Counting(recognizer)
    assert Ladder(reading, GATED).hear(good) == alone[: len(good)]
    assert reading.encoded == len(good)
    hearing = Counting(recognizer, mute=True)
    results = Ladder(hearing, GATED).hear(good)
    assert hearing.encoded > len(good)
    assert [rest_of(r, s.seconds) for r, s in zip(results, good, strict=True)] == [None] * len(good)


def test_rest_has_word_times_of_its_window(recognizer, good):
    worded = replace(GATED, word_timestamps=True)
    results = Ladder(recognizer, worded).hear(good)
    [result, *_] = [result for result in results if result.decodings > 1]
    words = [word for piece in result.pieces for word in piece.words]
    assert [w.start for w in words] == sorted(w.start for w in words)
    assert words[-1].end > good[result.position].seconds - 1.5


def test_loop_is_decoded_again(recognizer, bad, alone):
    before, after = plain(recognizer, bad[:1])[0], alone[-2]
    assert flaw_of(before, bad[0].seconds) is Flaw.REPETITION
    assert flaw_of(after, bad[0].seconds) is None
    assert after.suspect is None
    assert after.decodings > 1
    assert len(text_of(after)) < len(text_of(before))


def test_text_that_fails_however_it_is_decoded_is_suspect(bad, alone):
    assert alone[-1].suspect is not None
    assert alone[-1].decodings > 2


def test_phrase_that_is_really_said_again_and_again_is_believed(recognizer, samples):
    """The first sentence of the sample, five times with pauses."""
    phrase = decoded(samples / "moving_house.wav")[: int(3.0 * SAMPLE_RATE)]
    [stretch, *_] = stretches_of(np.tile(np.concatenate((phrase, np.zeros_like(phrase))), 5))
    [result] = Ladder(recognizer, GATED).hear([stretch])
    assert result.suspect is None
    assert text_of(result).lower().count("put your back into it") == 5


def test_noise_that_was_taken_for_speech_gives_no_text(recognizer):
    noise = 0.1 * np.random.default_rng(1).standard_normal(30 * SAMPLE_RATE).astype(np.float32)
    row = FeatureExtractor(feature_size=80)(noise)[..., :3000].astype(np.float32)
    whole = Window(0, (Span(0, len(noise)),), "")  # as without the voice activity filter
    stretch = stretch_of(whole, row, "en")
    [before] = plain(recognizer, [stretch])
    [after] = Ladder(recognizer, GATED).hear([stretch])
    assert len(text_of(before).split()) > 20
    assert text_of(after) == ""
    assert after.suspect is None


@pytest.fixture(scope="module")
def run_on_bad_speech(samples, tiny_en, tmp_path_factory):
    folder = tmp_path_factory.mktemp("suspect")
    write_wav(folder / "backwards.wav", decoded(samples / REVERSED)[::-1])
    config = Config(
        output=folder / "out",
        model="tiny.en",
        language="en",
        encoder="ctranslate2",
        analysis=False,
    )
    return folder, config, engine.run([folder / "backwards.wav"], config)


def test_video_with_suspect_windows_is_degraded_and_says_where(run_on_bad_speech):
    folder, _, report = run_on_bad_speech
    assert report.exit_code == 0
    [result] = report.videos
    assert result.state is State.DEGRADED
    assert result.problem is not None
    assert result.problem.code == "E_SUSPECT"
    stored = read_result_json((folder / "out" / "backwards.json").read_bytes())
    suspects = stored.transcript.suspects
    assert suspects
    assert all(0 <= s.start < s.end <= stored.transcript.duration for s in suspects)
    assert {s.reason for s in suspects} <= set(Flaw)
    last = json.loads((folder / "out" / ".reelmine" / "last-run.json").read_bytes())
    assert last["suspect_windows"] == len(suspects)
    assert last["windows_decoded_again"] >= len(suspects)


def test_degraded_video_is_finished_for_the_next_run(run_on_bad_speech):
    folder, config, _ = run_on_bad_speech
    again = engine.run([folder / "backwards.wav"], config)
    assert [result.resumed for result in again.videos] == [True]
    assert again.videos[0].state is State.DEGRADED


def test_without_gates_text_is_as_it_was_decoded(recognizer, run_on_bad_speech, tmp_path):
    folder, config, _ = run_on_bad_speech
    report = engine.run(
        [folder / "backwards.wav"], replace(config, output=tmp_path, quality_gates=False)
    )
    assert report.videos[0].state is State.DONE
    stored = read_result_json((tmp_path / "backwards.json").read_bytes())
    expected = plain(recognizer, stretches_of(decoded(folder / "backwards.wav")))
    assert stored.transcript.text == "".join(map(text_of, expected))
    assert stored.transcript.suspects == ()
    assert stored.options["quality_gates"] is False
