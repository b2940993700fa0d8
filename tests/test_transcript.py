"""Window results in any order become one transcript on the video's clock."""

from hypothesis import given
from hypothesis import strategies as st

from engine.records import SAMPLE_RATE, Piece, Span, Window, WindowResult, Word
from engine.speech.transcript import Assembly, WindowClock


def seconds(*pairs):
    return tuple(Span(int(a * SAMPLE_RATE), int(b * SAMPLE_RATE)) for a, b in pairs)


def window(position, *pairs):
    return Window(position, seconds(*pairs), "")


def result(position, *pieces):
    return WindowResult(position, "en", 0.9, -0.2, 0.01, tuple(pieces))


def piece(start, end, text, words=()):
    return Piece(start, end, text, (1, 2), 1.0, words)


def test_times_go_through_the_pauses_between_spans():
    clock = WindowClock(seconds((10, 12), (20, 25)))
    assert clock.time(1.0) == 11.0
    assert clock.time(2.0) == 20.0  # a start on the border belongs to the span after
    assert clock.time(2.0, is_end=True) == 12.0  # an end to the span before
    assert clock.time(4.5) == 22.5


def test_times_beyond_the_speech_end_with_it():
    assert WindowClock(seconds((10, 12))).time(29.0, is_end=True) == 12.0


def test_a_word_never_straddles_a_pause():
    assembly = Assembly()
    word = Word(1.9, 2.3, " well", 0.9)
    [segment] = assembly.add(
        window(0, (10, 12), (20, 25)), result(0, piece(1.9, 2.3, " well", (word,)))
    )
    assert segment.words is not None
    assert segment.words[0].end - segment.words[0].start < 0.5


@given(st.permutations(range(6)))
def test_order_of_arrival_changes_nothing(order):
    windows = [window(n, (30 * n, 30 * n + 20)) for n in range(6)]
    results = [result(n, piece(0, 5, f" {n}a"), piece(5, 9, f" {n}b")) for n in range(6)]
    assembly = Assembly()
    sealed = []
    for n in order:
        sealed += assembly.add(windows[n], results[n])
    assert [segment.text for segment in sealed] == [f" {n}{c}" for n in range(6) for c in "ab"]
    assert [segment.id for segment in sealed] == list(range(12))
    assert sealed == assembly.segments
    assert [segment.seek for segment in sealed[::2]] == [3000 * n for n in range(6)]


def test_only_the_prefix_without_gaps_is_sealed():
    assembly = Assembly()
    assert assembly.add(window(1, (30, 40)), result(1, piece(0, 5, " later"))) == []
    assert len(assembly.add(window(0, (0, 10)), result(0, piece(0, 5, " first")))) == 2
    assert assembly.has(0)
    assert not assembly.has(2)
