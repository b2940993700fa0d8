"""A video on its way: windows and chunk results in any order, one outcome."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.analysis.recipes import load
from engine.job import Job
from engine.questions import Questions
from engine.records import (
    SAMPLE_RATE,
    ChunkResult,
    Grounding,
    Item,
    Piece,
    Problem,
    Span,
    State,
    Suspect,
    Video,
    Window,
    WindowResult,
)

VIDEO = Video("/v/talk.mp4", "talk", 1, 0, "f")
EXPRESSIONS = load("expressions")


def a_job() -> Job:
    return Job(VIDEO, "key", [Questions(EXPRESSIONS, "phrasebook-en")])


def windows(count: int) -> list[Window]:
    return [
        Window(n, (Span(30 * n * SAMPLE_RATE, (30 * n + 28) * SAMPLE_RATE),), "")
        for n in range(count)
    ]


def result(position: int, words: int = 80) -> WindowResult:
    pieces = tuple(
        Piece(7.0 * n, 7.0 * n + 5 + n % 3, " " + " ".join(["word"] * (words // 4)), (), 1.0)
        for n in range(4)
    )
    return WindowResult(position, "en", 0.9, -0.1, 0.0, pieces)


def item(text: str, start: float) -> Item:
    return Item({"phrase": text}, (0,), text, start, start + 1, Grounding.EXACT, 1.0)


def chunks_of(job: Job) -> list[tuple[int, tuple[int, ...]]]:
    return [(c.index, tuple(cue.id for cue in c.cues)) for _, c in job.new_chunks()]


@given(st.permutations(range(8)), st.integers(1, 8))
def test_chunks_are_the_same_for_any_order_of_arrival(order, ask_every):
    whole = a_job()
    whole.add_windows(windows(8), ended=True)
    for n in range(8):
        whole.add_result(result(n))
    expected = chunks_of(whole)

    job = a_job()
    job.add_windows(windows(8), ended=True)
    got = []
    for count, n in enumerate(order):
        job.add_result(result(n))
        if count % ask_every == 0:
            got += chunks_of(job)
    got += chunks_of(job)
    assert got == expected
    assert [cue for _, cues in got for cue in cues] == list(range(32))


def test_chunks_come_while_the_video_is_still_being_transcribed():
    job = a_job()
    job.add_windows(windows(8), ended=True)
    for n in range(5):
        job.add_result(result(n))
    assert job.transcript is None
    assert chunks_of(job)


def test_windows_seen_before_are_not_new():
    job = a_job()
    assert job.add_windows(windows(3), ended=False) == windows(3)
    assert job.add_windows(windows(5), ended=True) == windows(5)[3:]


def test_second_result_of_a_window_changes_nothing():
    job = a_job()
    job.add_windows(windows(2), ended=True)
    job.add_result(result(0))
    job.add_result(result(0))
    assert job.transcript is None
    job.add_result(result(1))
    job.add_result(result(1))
    assert len(job.segments) == 8


def test_video_without_speech_is_done_without_a_chunk():
    job = a_job()
    job.decoded = 3600.0
    job.add_windows([], ended=True)
    assert job.transcript is not None
    assert job.new_chunks() == []
    assert job.complete
    assert job.result().state is State.DONE


def finished(*results: ChunkResult) -> Job:
    job = a_job()
    job.decoded = job.declared = 240.0
    job.add_windows(windows(8), ended=True)
    for n in range(8):
        job.add_result(result(n))
    for _, chunk in job.new_chunks():
        found = ChunkResult(chunk.index, State.DONE, (item(f"i{chunk.index}", chunk.index),))
        job.add_chunk("expressions", next((r for r in results if r.index == chunk.index), found))
    return job


def test_union_of_the_chunks_is_the_analysis():
    [analysis] = finished().analyses()
    assert [i.fields["phrase"] for i in analysis.items] == [f"i{n}" for n in range(analysis.chunks)]
    assert analysis.state is State.DONE


def test_failed_chunk_is_a_state_with_a_reason_and_costs_no_other_chunk_anything():
    failed = ChunkResult(1, State.FAILED, problem=Problem("E_LLM_NOT_JSON", "It said hello."))
    job = finished(failed)
    [analysis] = job.analyses()
    assert analysis.failed == (failed,)
    assert len(analysis.items) == analysis.chunks - 1
    assert job.complete
    outcome = job.result()
    assert outcome.state is State.FAILED
    assert outcome.problem is not None
    assert "1 of" in outcome.problem.message
    assert "It said hello." in outcome.problem.message


def test_timed_out_chunks_are_told_apart():
    late = ChunkResult(0, State.TIMED_OUT, problem=Problem("E_LLM_TIMEOUT", "late"))
    assert finished(late).analyses()[0].state is State.TIMED_OUT


def test_open_chunk_leaves_the_video_interrupted_not_done():
    job = a_job()
    job.add_windows(windows(8), ended=True)
    for n in range(8):
        job.add_result(result(n))
    assert job.new_chunks()
    assert not job.complete
    assert job.result().state is State.INTERRUPTED


def test_short_decode_is_degraded_and_says_how_short():
    job = a_job()
    job.decoded, job.declared = 50.0, 100.0
    job.add_windows([], ended=True)
    outcome = job.result()
    assert outcome.state is State.DEGRADED
    assert outcome.problem is not None
    assert "50 %" in outcome.problem.message


def test_transcript_that_no_recipe_applies_to_is_done_with_the_analysis_skipped():
    job = a_job()
    job.add_windows(windows(1), ended=True)
    job.add_result(result(0))
    job.skip_analysis(Problem("E_LANGUAGE", "not English"))
    assert job.new_chunks() == []
    assert job.complete
    assert job.analyses()[0].state is State.SKIPPED
    assert job.result().state is State.DONE


@pytest.mark.parametrize("declared", [None, 80.0])
def test_one_window_in_a_fallback_type_is_a_flaw_of_the_video(declared):
    job = a_job()
    job.declared = declared
    job.decoded = 60.0
    job.add_windows(windows(2), ended=True)
    job.add_result(result(0))
    job.add_result(replace(result(1), fallback="int8_float16"))
    assert job.transcript is not None
    assert job.transcript.fallback == "int8_float16"
    assert job.state is State.DEGRADED
    assert job.problem is not None
    assert job.problem.code == ("E_SHORT" if declared else "E_FALLBACK")  # the worse one is told


def test_a_fallback_is_not_forgotten_when_the_transcript_is_read_back():
    job = a_job()
    job.add_windows(windows(1), ended=True)
    job.add_result(replace(result(0), fallback="int8_float16"))
    assert job.transcript is not None
    later = a_job()
    later.seal_read_back(job.transcript)
    assert later.problem is not None
    assert later.problem.code == "E_FALLBACK"


def heard(position: int, language: str, **odds: float) -> WindowResult:
    """A window that was decoded in this language, since nothing was known."""
    pieces = (Piece(0.0, 5.0, f" {language}", (), 1.0),)
    return WindowResult(position, language, max(odds.values()), -0.1, 0.0, pieces, heard=odds)


def given_language(position: int, language: str) -> WindowResult:
    pieces = (Piece(0.0, 5.0, f" {language}", (), 1.0),)
    return WindowResult(position, language, None, -0.1, 0.0, pieces)


UNSURE = (
    heard(0, "en", en=0.45, de=0.4),
    heard(1, "de", en=0.1, de=0.9),
    heard(2, "fr", fr=0.6, de=0.4),
    heard(3, "de", en=0.2, de=0.8),
    heard(4, "de", en=0.3, de=0.7),
)


def test_sure_first_window_decides_the_language_alone():
    job = Job(VIDEO, "key", [])
    assert job.gate == 1
    job.add_windows(windows(2), ended=True)
    job.add_result(heard(0, "en", en=0.5, de=0.3))
    assert (job.language, job.gate, job.take_again()) == ("en", None, ())
    job.add_result(given_language(1, "en"))
    assert job.transcript is not None
    assert job.transcript.language_probability == 0.5


@given(st.permutations(range(1, 5)))
def test_mean_of_five_decides_where_the_first_is_not_sure(order):
    job = Job(VIDEO, "key", [])
    job.add_windows(windows(6), ended=True)
    for position in (0, *order):
        assert job.language is None
        job.add_result(UNSURE[position])
        assert job.gate in (5, None)
    assert (job.language, job.gate) == ("de", None)
    assert sorted(job.take_again()) == [0, 2]
    assert job.take_again() == ()
    assert [job.has(n) for n in range(5)] == [False, True, False, True, True]
    assert job.segments == []
    for position in (5, 2, 0):
        job.add_result(given_language(position, "de"))
    assert job.transcript is not None
    assert job.transcript.text == " de" * 6
    assert job.transcript.language_probability == (0.4 + 0.9 + 0.4 + 0.8 + 0.7) / 5


def test_video_of_few_windows_is_decided_by_those_it_has():
    job = Job(VIDEO, "key", [])
    job.add_windows(windows(2), ended=False)
    job.add_result(UNSURE[0])
    job.add_result(UNSURE[1])
    assert job.language is None  # there may be more
    job.add_windows([], ended=True)
    assert job.language == "de"
    assert job.take_again() == (0,)


def test_run_that_goes_on_decides_as_the_run_before_did():
    """What the ledger keeps of a window that was decoded again still says what was heard first."""
    first = Job(VIDEO, "key", [])
    first.add_windows(windows(6), ended=True)
    kept = {result.position: first.add_result(result) for result in UNSURE}
    kept[2] = first.add_result(given_language(2, "de"))
    assert kept[2].language == "de"
    assert kept[2].heard == UNSURE[2].heard

    second = Job(VIDEO, "key", [])
    assert second.standing(kept) == frozenset()  # their rows may be needed again
    second.add_windows(windows(6), ended=True)
    for result in kept.values():
        second.add_result(result)
    assert second.language == "de"
    assert second.take_again() == (0,)
    for job in (first, second):
        for position in (0, 5):
            job.add_result(given_language(position, "de"))
    assert first.transcript == second.transcript


def test_results_in_a_language_that_is_sure_need_no_row_in_another_run():
    job = Job(VIDEO, "key", [])
    kept = {0: heard(0, "en", en=0.9), 1: given_language(1, "en")}
    assert job.standing(kept) == {0, 1}
    assert job.standing({0: UNSURE[0], 1: UNSURE[1], 7: given_language(7, "de")}) == {7}
    assert Job(VIDEO, "key", [], "en").standing(kept) == {0, 1}


@given(st.permutations(range(4)))
def test_video_with_suspect_windows_is_degraded_and_names_the_first(order):
    job = a_job()
    job.add_windows(windows(4), ended=True)
    for n in order:
        suspect = "repetition" if n in (1, 3) else None
        job.add_result(replace(result(n), suspect=suspect, decodings=1 + (n > 0)))
    assert job.transcript is not None
    assert job.transcript.suspects == (
        Suspect(30.0, 58.0, "repetition"),
        Suspect(90.0, 118.0, "repetition"),
    )
    assert job.decoded_again == 3
    assert job.state is State.DEGRADED
    assert job.problem is not None
    assert "from 0:00:30 to 0:00:58 (repetition) and 1 more" in job.problem.message
    read_back = a_job()
    read_back.seal_read_back(job.transcript)
    assert (read_back.state, read_back.problem) == (job.state, job.problem)
