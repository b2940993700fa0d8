"""Chunk borders: a pure function of the transcript, however its segments arrive."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.analysis.chunking import count_words, halves, next_chunk
from engine.records import Chunk, Segment


def cues(*lengths_and_pauses: tuple[int, float]) -> list[Segment]:
    """Cues of so many words, each followed by a pause of so many seconds."""
    made, clock = [], 0.0
    for number, (words, pause) in enumerate(lengths_and_pauses):
        text = " ".join(["word"] * words)
        made.append(Segment(number, 0, clock, clock + 1, text, (), 0.0, 0.0, 1.0, 0.0))
        clock += 1 + pause
    return made


def lengths(segments: list[Segment], minimum: int, maximum: int) -> list[int]:
    """Cues per chunk of a finished transcript."""
    first, found = 0, []
    while chunk := next_chunk(segments, first, len(found), True, minimum, maximum):
        found.append(len(chunk.cues))
        first += len(chunk.cues)
    return found


def test_border_is_the_longest_pause_between_minimum_and_maximum() -> None:
    segments = cues((4, 9), (4, 1), (4, 3), (4, 1), (4, 8), (4, 0))
    # after cue 0 there are too few words, after cue 4 too many; of 1, 2, 3 the pause after 2
    assert lengths(segments, 8, 16)[0] == 3


def test_of_equal_pauses_the_earliest_is_the_border() -> None:
    assert lengths(cues((5, 1), (5, 2), (5, 2), (5, 2), (5, 1)), 10, 20)[0] == 2


def test_without_a_border_in_range_the_chunk_takes_what_fits() -> None:
    assert lengths(cues((3, 1), (3, 1), (20, 1), (3, 1)), 10, 15) == [2, 1, 1]


def test_a_cue_longer_than_the_maximum_is_a_chunk_of_its_own() -> None:
    assert lengths(cues((50, 1), (2, 1)), 10, 20) == [1, 1]


def test_a_sealed_rest_that_fits_is_one_chunk() -> None:
    assert lengths(cues((5, 9), (5, 9), (5, 9)), 5, 15) == [3]


def test_nothing_is_decided_until_more_than_the_maximum_is_known() -> None:
    segments = cues((5, 1), (5, 9), (5, 1), (1, 1))
    assert next_chunk(segments[:3], 0, 0, False, 5, 15) is None
    chunk = next_chunk(segments, 0, 0, False, 5, 15)
    assert chunk is not None
    assert len(chunk.cues) == 2


def test_nothing_left_is_no_chunk() -> None:
    assert next_chunk([], 0, 0, True, 5, 15) is None
    assert next_chunk(cues((5, 1)), 1, 1, True, 5, 15) is None


def test_the_two_cues_before_are_shown_with_a_chunk() -> None:
    segments = cues((9, 1), (9, 1), (9, 1), (9, 1), (9, 1))
    third = next_chunk(segments, 2, 1, True, 5, 15)
    assert third == Chunk(1, tuple(segments[0:2]), (segments[2],))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", 0),
        (" two  words\n", 2),
        ("Ça va, Zoë?", 3),
        ("今日はいい天気", 4),  # 7 characters
        ("東京tower 2024", 3),  # two characters, a word glued to them, a word
        ("สวัสดี", 3),
        ("안녕하세요 여러분", 2),  # Korean puts blanks
    ],
)
def test_words_are_counted_in_every_script(text: str, words: int) -> None:
    assert count_words(text) == words


def test_halves_are_cut_at_the_longest_pause_and_keep_their_context() -> None:
    segments = cues((3, 1), (3, 5), (3, 2), (3, 0))
    first, second = halves(Chunk(7, (), tuple(segments))) or pytest.fail("not cut")
    assert first == Chunk(7, (), tuple(segments[:2]))
    assert second == Chunk(7, tuple(segments[:2]), tuple(segments[2:]))


def test_a_chunk_of_one_cue_has_no_halves() -> None:
    assert halves(Chunk(0, (), tuple(cues((300, 1))))) is None


transcripts = st.lists(
    st.tuples(st.integers(0, 12), st.sampled_from([0.0, 0.1, 0.5, 2.0])), max_size=40
)


@given(transcripts, st.lists(st.integers(0, 7)), st.integers(1, 12), st.integers(0, 20))
def test_any_split_of_arrivals_gives_the_same_chunks(
    shape: list[tuple[int, float]], arrivals: list[int], minimum: int, more: int
) -> None:
    segments, maximum = cues(*shape), minimum + more
    whole = lengths(segments, minimum, maximum)
    chunks: list[Chunk] = []
    known = first = 0
    # at the end: all is there before anybody knows that it is all, and then that is known too
    for size, sealed in [*((n, False) for n in arrivals), (len(segments), False), (0, True)]:
        known = min(known + size, len(segments))
        while chunk := next_chunk(segments[:known], first, len(chunks), sealed, minimum, maximum):
            chunks.append(chunk)
            first += len(chunk.cues)
    assert [len(chunk.cues) for chunk in chunks] == whole
    assert [cue for chunk in chunks for cue in chunk.cues] == segments
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
