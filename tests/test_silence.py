"""Only the speech of a window is read; the states after it are those after known speech."""

import re
from difflib import SequenceMatcher

import numpy as np
import pytest
from speech import decoded
from test_whisper import OPTIONS, rows_of

from engine.speech.canary import known_speech
from engine.speech.encoders import Encoder
from engine.speech.silence import MARGIN, SpeechStates, to_be_read
from engine.speech.whisper import Recognizer

FRAMES = 3000


def row(speech: int, value: float = 1.0) -> np.ndarray:
    """Two bands: so many frames of one value, and zeros."""
    made = np.zeros((2, FRAMES), np.float32)
    made[1, :speech] = value
    return made


@pytest.mark.parametrize(
    ("speech", "frames"),
    [(0, 1500), (1300, 1500), (1301, 1600), (1400, 1600), (2799, 3000), (2800, 3000), (3000, 3000)],
)
def test_speech_and_two_seconds_are_read_in_whole_seconds_and_fifteen_at_least(speech, frames):
    assert to_be_read(row(speech)) == frames >= min(FRAMES, speech + MARGIN)


def test_a_pause_inside_is_read():
    with_pause = row(1900)
    with_pause[:, 100:1800] = 0
    assert to_be_read(with_pause) == 2100


class Reader:
    """Each state is the sum of its two frames, and a thousand for each state read with it."""

    def __init__(self):
        self.read = []

    def __call__(self, part):
        self.read.append(part.shape[1])
        sums = part[1].reshape(-1, 2).sum(axis=1)
        return (sums + 1000 * len(sums))[None, :, None]


def test_states_after_the_speech_are_those_of_the_known_row_at_the_same_places():
    reader = Reader()
    states = SpeechStates(reader, row(100, value=7.0))
    for _ in range(2):
        found = states.of(row(1500))[0, :, 0]
        assert np.array_equal(found[:750], np.full(750, 850_002.0))
        assert np.array_equal(found[750:850], np.full(100, 850_000.0))
        assert np.array_equal(found[850:], np.full(650, 1_500_000.0))
    assert reader.read == [1700, FRAMES, 1700]  # the known row once


def test_a_full_window_and_a_shorter_row_are_read_as_they_are():
    reader = Reader()
    states = SpeechStates(reader, row(100))
    assert states.of(row(2900)).shape == (1, 1500, 1)
    assert states.of(row(300)[:, :1000]).shape == (1, 500, 1)
    assert reader.read == [FRAMES, 1000]


@pytest.fixture(scope="module")
def both(tiny_en):
    """A recogniser that reads whole windows, and one that reads the speech in them."""
    kinds = (Encoder(name, "") for name in ("ctranslate2", "ctranslate2-speech"))
    return [Recognizer(tiny_en, "cpu", "int8", 2, kind) for kind in kinds]


@pytest.fixture(scope="module")
def short(samples):
    """Real speech of 4, 9 and 20 s from 6.6 s on, each as a window."""
    audio = decoded(samples / "coffee_shop.mp4")
    return [rows_of(audio[105_600:][: s * 16_000])[1][0] for s in (4, 9, 20)]


def test_real_states_of_the_speech_are_near_and_do_not_depend_on_neighbours(both, short):
    whole, speech = (np.array(recognizer.encode(short)) for recognizer in both)
    assert speech.shape == whole.shape
    for number, feature in enumerate(short):
        read = to_be_read(feature) // 2
        assert read < 1500
        near = np.linalg.norm(speech[number, :read] - whole[number, :read])
        assert near < 0.3 * np.linalg.norm(whole[number, :read])
        assert np.array_equal(np.array(both[1].encode([feature]))[0], speech[number])


def test_text_is_that_of_whole_windows_and_would_not_be_with_speech_after_it(
    both, short, samples, monkeypatch
):
    whole, speech = (words(recognizer, short) for recognizer in both)
    assert differing(whole, speech) <= 2 < 0.05 * len(whole)
    full = rows_of(decoded(samples / "wedding_day.mkv"))[1][:1]
    monkeypatch.setitem(vars(both[1]._speech), "_silence", np.array(both[0].encode(full)))
    assert differing(whole, words(both[1], short)) > 10


def test_known_speech_is_short_and_at_the_begin():
    feature, seconds = known_speech(80)
    assert feature.shape == (80, FRAMES) and 2 < seconds < 3
    assert to_be_read(feature) == 1500


def words(recognizer: Recognizer, rows: list[np.ndarray]) -> list[str]:
    results = recognizer.decode(
        recognizer.encode(rows), range(len(rows)), [30.0] * len(rows), ["en"] * len(rows), OPTIONS
    )
    text = " ".join(piece.text for result in results for piece in result.pieces)
    return re.findall(r"[a-z']+", text.lower())


def differing(one: list[str], other: list[str]) -> int:
    same = sum(block.size for block in SequenceMatcher(None, one, other).get_matching_blocks())
    return max(len(one), len(other)) - same
