"""The gates: what passes, what fails and why, which of two texts is kept, where a rest begins."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.records import SAMPLE_RATE, Piece, Span, Window, WindowResult, Word
from engine.speech.ladder import join, longest_pause, stretch_of
from engine.speech.quality import (
    Flaw,
    agree,
    begins_again,
    better,
    flaw_of,
    goes_on,
    loops,
    marked,
    rest_of,
    text_of,
    without_noise,
)

TALK = (
    " We had planned to leave at noon, but the van would not start.",
    " So my brother walked to the garage and came back with a new battery.",
)


def result(*texts, ends=29.0, logprob=-0.2, no_speech=0.02):
    """Texts spread evenly up to ``ends``."""
    step = ends / max(len(texts), 1)
    pieces = tuple(
        Piece(n * step, (n + 1) * step, text, (1, 2), 1.0) for n, text in enumerate(texts)
    )
    return WindowResult(0, "en", None, logprob, no_speech, pieces)


def test_ordinary_speech_passes():
    assert flaw_of(result(*TALK), 30.0) is None
    assert rest_of(result(*TALK), 29.5) is None


@pytest.mark.parametrize(
    ("text", "flaw"),
    [
        (" I'm going to the store." * 12, Flaw.REPETITION),
        (" Okay. Okay, okay okay okay. Okay. Okay. Okay.", Flaw.REPETITION),
        (" No, no, no, no.", None),  # people say that
        (" Never, never, never give up. Nothing is over, nothing at all.", None),
        (" 谢谢大家" * 30, Flaw.REPETITION),
    ],
)
def test_text_that_repeats_itself_fails(text, flaw):
    assert flaw_of(result(text), 30.0) is flaw


def test_segment_that_comes_again_and_again_may_have_been_said():
    song = result(*[" Row, row, row your boat."] * 8)
    assert flaw_of(song, 30.0) is Flaw.ECHO
    assert flaw_of(replace(song, no_speech_prob=0.9), 30.0) is Flaw.REPETITION


def test_two_hearings_agree_if_most_words_are_the_same():
    song = result(*[" Row, row, row your boat."] * 8)
    assert agree(song, result(*[" row row row your boat"] * 7))
    assert not agree(song, result(*[" Row, row, row your boat."] * 3))
    assert not agree(song, result(*TALK))


def test_unlikely_text_fails():
    assert flaw_of(result(*TALK, logprob=-1.01), 30.0) is Flaw.UNLIKELY
    assert flaw_of(result(*TALK, logprob=-0.99), 30.0) is None


def test_short_sound_whose_text_stays_unlikely_was_no_speech_and_is_told():
    laugh = marked(result(" lol"), Flaw.UNLIKELY, 1.1)
    assert (laugh.pieces, laugh.suspect) == ((), Flaw.UNLIKELY)
    for flaw, seconds in ((Flaw.UNLIKELY, 8.0), (Flaw.TOO_FAST, 1.1)):
        kept = marked(result(*TALK), flaw, seconds)
        assert (text_of(kept), kept.suspect) == ("".join(TALK), flaw)


def test_seconds_of_speech_without_text_fail_unless_the_model_hears_none():
    assert flaw_of(result(), 8.0) is Flaw.NO_TEXT
    assert flaw_of(result(no_speech=0.8), 8.0) is None
    assert flaw_of(result(), 1.5) is None


def test_more_text_than_a_mouth_can_speak_fails():
    assert flaw_of(result("".join(TALK)), 2.0) is Flaw.TOO_FAST
    assert flaw_of(result("".join(TALK)), 7.0) is None
    assert flaw_of(result(" Thank you very much.", ends=0.3), 0.3) is None


def test_unlikely_text_where_the_model_hears_no_speech_is_left_out():
    noise = result(" Thanks for watching!", logprob=-1.2, no_speech=0.7)
    assert without_noise(noise).pieces == ()
    assert flaw_of(without_noise(noise), 20.0) is None
    for sure in (replace(noise, avg_logprob=-0.9), replace(noise, no_speech_prob=0.5)):
        assert without_noise(sure) == sure


def test_rest_begins_where_the_text_stops_a_second_or_more_before_the_speech():
    assert rest_of(result(*TALK, ends=20.0), 29.0) == 20.0
    assert rest_of(result(*TALK, ends=28.0), 29.0) == 28.0
    assert rest_of(result(*TALK, ends=28.1), 29.0) is None
    assert rest_of(result(), 29.0) is None


def test_text_before_once_more_is_no_rest():
    said = result(" It was cold.", " We went home.")
    assert not goes_on(said, result(" we went home!"))
    assert goes_on(said, result(" We went home again."))
    assert goes_on(said, result())


def test_what_was_read_on_must_not_begin_with_the_words_before():
    said = result(" They chose the steward,", " who was picked by the")
    assert begins_again(said, result(" by the whole body."))
    assert begins_again(said, result(" The whole body."))
    assert not begins_again(said, result(" whole body, by the way."))
    assert not begins_again(said, result())


def test_text_without_flaw_is_better_than_a_likelier_one():
    loop = result(" I see." * 20, logprob=-0.05)
    good = result(*TALK, logprob=-0.5)
    assert better(loop, good, 29.5) == better(good, loop, 29.5) == good


def test_any_text_is_better_than_a_loop_however_likely():
    loop = result(" I see." * 20, logprob=-0.05)
    doubtful = result(*TALK, logprob=-1.3)
    assert better(loop, doubtful, 29.5) == doubtful


def test_segment_again_and_again_is_not_given_up_for_much_less_text():
    song = result(*[" Row, row, row your boat."] * 8)
    once = result(" Row, row, row your boat.")
    assert better(song, once, 29.5) == better(once, song, 29.5) == song
    assert better(song, result(*TALK), 29.5) == result(*TALK)


def test_of_two_flawed_texts_the_likelier_is_better():
    worse, bad = result(*TALK, logprob=-1.4), result(*TALK, logprob=-1.1)
    assert better(worse, bad, 29.5) == better(bad, worse, 29.5) == bad


WORDS = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=4)


@given(WORDS, st.integers(0, 3))
def test_any_phrase_said_ten_times_in_a_row_is_a_loop(phrase, before):
    assert loops(["x", "y", "z"][:before] + phrase * 10 + ["end"])


@given(st.lists(st.integers(), unique=True).map(lambda numbers: list(map(str, numbers))))
def test_words_that_differ_are_no_loop(words):
    assert not loops(words)


def window(*seconds):
    spans = tuple(Span(int(a * SAMPLE_RATE), int(b * SAMPLE_RATE)) for a, b in seconds)
    return stretch_of(Window(0, spans, ""), np.zeros((80, 3000), np.float32), "en")


def test_window_is_cut_at_its_longest_inner_pause():
    assert longest_pause(window((0, 8), (9, 15), (20, 30))) == 14.0
    assert longest_pause(window((0, 8), (9, 15), (16, 30))) == 14.0  # equal: the central one
    assert longest_pause(window((0, 0.5), (9, 15))) is None  # too short a half
    assert longest_pause(window((0, 28))) is None


def test_joined_text_is_in_the_time_of_the_whole():
    word = Word(1.0, 2.0, " late", 0.9)
    late = WindowResult(
        0, "en", None, -0.4, 0.9, (Piece(1.0, 2.0, " late", (3,), 1.0, (word,)),), 0.3,
        suspect=Flaw.UNLIKELY,
    )  # fmt: skip
    whole = join(result(" early", ends=12.5), 12.0, late)
    assert [(p.start, p.end) for p in whole.pieces] == [(0.0, 12.0), (13.0, 14.0)]
    assert whole.pieces[1].words == (Word(13.0, 14.0, " late", 0.9),)
    assert (whole.suspect, whole.decodings, whole.word_median) == (Flaw.UNLIKELY, 2, 0.3)
    assert -0.4 < whole.avg_logprob < -0.2
    assert whole.no_speech_prob == 0.02
