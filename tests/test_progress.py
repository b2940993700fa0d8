"""What a run shows: lines, a live display on a real terminal, the table at the end."""

import io
import os
import pty
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

import pytest

from engine.events import (
    CallFinished,
    Event,
    Fetching,
    LlmChanged,
    Notice,
    RunFinished,
    RunStarted,
    SlotChanged,
    VideoFinished,
    VideoMeasured,
    VideoProgress,
    VideoStarted,
)
from engine.progress import Progress
from engine.records import (
    Analysis,
    ChunkResult,
    Problem,
    RunReport,
    Spent,
    State,
    Transcript,
    Video,
    VideoResult,
)
from engine.tally import Tally

TERMINAL = {"TERM": "xterm"}


def video(name: str) -> Video:
    return Video(path=f"/films/{name}.mp4", name=name, size=1, mtime_ns=0, fingerprint=name)


def done(name: str, seconds: float = 60.0, **more: object) -> VideoResult:
    transcript = Transcript("en", 0.9, seconds, seconds, ())
    return VideoResult(video(name), State.DONE, transcript=transcript, **more)  # type: ignore[arg-type]


def failed(name: str, reason: str) -> VideoResult:
    return VideoResult(video(name), State.FAILED, Problem("E_MEDIA_INVALID", reason))


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


START = RunStarted(3, 2, ("cpu:0", "cpu:1"), "tiny.en", None)


def shown(
    *happened: Event, quiet: bool = False, stream: TextIO | None = None, clock: Clock | None = None
) -> str:
    out = stream or io.StringIO()
    with Progress(out, quiet=quiet, env={}, now=clock or Clock()) as progress:
        for event in happened:
            progress(event)
    return out.getvalue() if isinstance(out, io.StringIO) else ""


@contextmanager
def terminal() -> Iterator[tuple[TextIO, list[str]]]:
    """A pseudo-terminal to write to, and afterwards what was written."""
    master, slave = pty.openpty()
    written: list[str] = []
    with open(slave, "w", encoding="utf-8") as stream:
        yield stream, written
        stream.flush()
        os.set_blocking(master, False)
        content = b""
        while True:
            try:
                content += os.read(master, 65536)
            except BlockingIOError:
                break
    os.close(master)
    written.append(content.decode())


@pytest.fixture(autouse=True)
def _same_colours_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rich asks the environment itself how many colours there are, and remembers the first."""
    monkeypatch.setenv("TERM", "xterm-256color")


# Figures


def test_done_total_speed_and_time_left_are_weighted_by_duration() -> None:
    tally = Tally(started=0.0)
    for event in (
        RunStarted(2, 2, ("cpu:0",), "tiny.en", None),
        VideoMeasured(video("short"), 100.0),
        VideoMeasured(video("long"), 300.0),
        VideoProgress(video("short"), 40.0, 100.0),
        VideoFinished(done("short", 100.0)),
        VideoProgress(video("long"), 60.0, 300.0),
    ):
        tally.note(event)
    assert (tally.audio_done, tally.audio_total) == (160.0, 400.0)
    assert tally.speed(20.0) == 8.0
    assert tally.seconds_left(20.0) == 30.0


def test_what_a_failed_video_leaves_undone_is_not_waited_for() -> None:
    tally = Tally(started=0.0)
    for event in (
        RunStarted(2, 2, ("cpu:0",), "tiny.en", None),
        VideoMeasured(video("good"), 100.0),
        VideoProgress(video("bad"), 50.0, 300.0),
        VideoFinished(failed("bad", "cut")),
        VideoProgress(video("good"), 100.0, 100.0),
        VideoFinished(done("good", 100.0)),
    ):
        tally.note(event)
    assert tally.audio_total == tally.audio_done == 150.0
    assert tally.seconds_left(10.0) == 0.0
    assert tally.broken == 1


def test_videos_not_opened_yet_count_as_average_and_the_total_says_so() -> None:
    tally = Tally(started=0.0)
    tally.note(RunStarted(4, 4, ("cpu:0",), "tiny.en", None))
    tally.note(VideoProgress(video("a"), 10.0, 100.0))
    tally.note(VideoProgress(video("b"), 10.0, 200.0))
    assert (tally.audio_total, tally.guessed) == (600.0, True)
    tally.note(VideoProgress(video("c"), 0.0, 50.0))
    tally.note(VideoProgress(video("d"), 0.0, 50.0))
    assert (tally.audio_total, tally.guessed) == (400.0, False)


def test_unknown_durations_give_no_invented_time_left() -> None:
    tally = Tally(started=0.0)
    tally.note(RunStarted(1, 1, ("cpu:0",), "tiny.en", None))
    tally.note(VideoProgress(video("a"), 10.0, None))
    assert tally.audio_total is None
    assert tally.seconds_left(1.0) is None
    assert tally.speed(1.0) == 10.0


def test_progress_never_goes_back() -> None:
    tally = Tally(started=0.0)
    tally.note(VideoProgress(video("a"), 30.0, None))
    tally.note(VideoProgress(video("a"), 10.0, None))  # a restarted slot
    assert tally.audio_done == 30.0


def test_videos_done_before_count_neither_as_work_nor_as_speed() -> None:
    tally = Tally(started=0.0)
    tally.note(VideoFinished(done("old", 1000.0, resumed=True)))
    assert (tally.resumed, tally.ended, tally.audio_done) == (1, 0, 0.0)
    assert tally.speed(1.0) is None


# Plain lines


def test_end_tells_how_the_slots_were_used_and_leaves_out_what_is_not_known() -> None:
    figures = {
        "slots_busy": 0.966,
        "slots_starved": 0.0,
        "windows_waited": 0.75,
        "batch_fill": None,
        "window_fill": 0.805,
        "share_of_floor": None,
        "predicted_seconds": 61.0,
        "transcription_seconds": 58.4,
    }
    text = shown(START, RunFinished(RunReport(0, (), figures=figures)))
    assert (
        "slots 97 % busy, without a window 0 %, preparation ahead 75 %, windows 80 % full, "
        "transcribed in 0:00:58, predicted 0:01:01\n"
    ) in text
    assert "%" not in shown(START, RunFinished(RunReport(0, ())))


def took(exchanges: int, cost: float | None = None, uncounted: int = 0) -> dict[str, float | None]:
    spent = Spent(exchanges, 1_000 * exchanges, 50 * exchanges, uncounted)
    return {**asdict(spent), "cost": cost}


@pytest.mark.parametrize(
    ("run", "folder", "line"),
    [
        (took(0, 0.0), took(0, 0.0), None),
        (took(2), took(2), "language model: 2 exchanges, 2,000 tokens in, 100 out\n"),
        (
            took(1, 0.00125),
            took(3, 12.5),
            (
                "language model: 1 exchange, 1,000 tokens in, 50 out, cost 0.00125; "
                "in all runs 3 exchanges, 3,000 tokens in, 150 out, cost 12.50\n"
            ),
        ),
        (
            took(0, 0.0),
            took(3, None, 2),
            (
                "language model: nothing now; in all runs 3 exchanges (2 not counted by the server,"
                " taken at the most), 3,000 tokens in, 150 out\n"
            ),
        ),
    ],
)
def test_end_tells_what_the_calls_took(
    run: dict[str, float], folder: dict[str, float], line: str | None
) -> None:
    figures = {"llm_run": run, "llm_folder": folder}
    text = shown(START, RunFinished(RunReport(0, (), figures=figures)))
    if line is None:
        assert "language model" not in text
    else:
        assert line in text


@pytest.mark.parametrize(
    ("counts", "share", "line"),
    [
        ((0, 0, 0, 0), None, None),
        ((85, 0, 0, 0), 1.0, "items: 85 exact\n"),
        (
            (1_200, 20, 80, 1),
            0.938,
            (
                "items: 1,200 exact, 20 fuzzy, 80 ungrounded; 94 % grounded; "
                "1 dropped that did not fit the recipe\n"
            ),
        ),
        ((999, 0, 1, 0), 0.999, "items: 999 exact, 1 ungrounded; 99 % grounded\n"),
        ((0, 0, 3, 0), 0.0, "items: 3 ungrounded; 0 % grounded\n"),
        ((0, 0, 0, 2), None, "items: none; 2 dropped that did not fit the recipe\n"),
    ],
)
def test_end_tells_what_was_found_and_how_much_of_it_was_said(
    counts: tuple[int, ...], share: float | None, line: str | None
) -> None:
    items = dict(zip(("exact", "fuzzy", "ungrounded", "dropped"), counts, strict=True))
    figures = {"items": items, "share_grounded": share}
    text = shown(START, RunFinished(RunReport(0, (), figures=figures)))
    assert ("items:" in text) == (line is not None)
    assert line is None or line in text


def test_each_ended_video_is_one_line_with_its_figures() -> None:
    clock = Clock()
    out = io.StringIO()
    with Progress(out, env={}, now=clock) as progress:
        progress(START)
        progress(VideoMeasured(video("a"), 60.0))
        progress(VideoMeasured(video("b"), 60.0))
        clock.now += 10
        progress(VideoProgress(video("a"), 60.0, 60.0))
        progress(VideoFinished(done("a", analyses=(Analysis("expressions", "pb", State.DONE),))))
    first, second = out.getvalue().splitlines()
    assert first == (
        "2 videos to do (1 of 3 videos done before); model tiny.en; 2 slots: cpu:0, cpu:1"
    )
    assert second == (
        "done        a: 0:01:00 of audio, 0 segments, en; expressions: 0 items "
        "[1 of 2 videos, 0:01:00 of 0:02:00 audio, 6.0 x real time, 0:00:10 left]"
    )


def test_lines_are_flushed_as_they_happen(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("w", encoding="utf-8") as stream, Progress(stream, env={}) as progress:
        progress(Notice("first"))
        assert path.read_text() == "first\n"


def test_fetching_the_model_is_told_once_and_counted_on_a_terminal() -> None:
    steps = [Fetching(n * 10**6, 75 * 10**6) for n in (0, 30, 60)]
    assert shown(*steps) == "fetching the model, 75 MB, once\n"
    clock = Clock()
    with terminal() as (stream, written), Progress(stream, env=TERMINAL, now=clock) as progress:
        for event in steps:
            clock.now += 1
            progress(event)
    assert "30 of 75 MB fetched" in written[0]


def test_model_note_is_told() -> None:
    note = "Model base, because small is not on this machine"
    assert note in shown(RunStarted(1, 1, ("cpu:0",), "base", note))


def test_videos_done_before_get_no_line() -> None:
    assert "old" not in shown(START, VideoFinished(done("old", resumed=True)))


def test_table_gives_counts_and_the_reason_of_each_failure() -> None:
    late = ChunkResult(2, State.TIMED_OUT, problem=Problem("E_LLM_TIMEOUT", "too late"))
    lost = ChunkResult(3, State.FAILED, problem=Problem("E_LLM_EMPTY", "nothing said"))
    partly = Analysis("summary", "gpt", State.FAILED, chunks=5, failed=(late, late, lost))
    problem = Problem("E_ANALYSIS", "3 of 5 chunks of summary have no analysis")
    report = RunReport(
        1,
        (
            done("good", resumed=True),
            failed("bad", "bad.mp4 is cut; copy it again."),
            VideoResult(video("half"), State.FAILED, problem, done("half").transcript, (partly,)),
            VideoResult(video("short"), State.DEGRADED, Problem("E_SHORT", "Only 3 s of 9 s.")),
        ),
        (Problem("E_NO_VIDEOS", "empty/ holds no video."),),
    )
    text = shown(*map(VideoFinished, report.videos), RunFinished(report))
    assert "have no analysis" not in text  # its analyses say it themselves
    lines = text.splitlines()
    lines = lines[lines.index("4 videos: 1 done, 1 degraded, 2 failed (1 done before)") - 1 :]
    assert [" ".join(line.split()) for line in lines[2:]] == [
        "failed bad bad.mp4 is cut; copy it again.",
        "failed half summary: 2 of 5 chunks failed: too late; 1 of 5 chunks failed: nothing said",
        "degraded short Only 3 s of 9 s.",
        "problem empty/ holds no video.",
    ]


def test_end_names_only_what_was_done() -> None:
    call = CallFinished(video("old"), "expressions", 0, State.DONE)
    report = RunReport(0, (done("old", resumed=True),))
    assert "of audio" not in shown(START, RunFinished(report))
    assert "1 chunk analysed in" in shown(START, call, RunFinished(report))


def test_what_was_left_out_is_told_once_per_reason() -> None:
    def skipped(name: str) -> VideoResult:
        reason = Problem("E_LANGUAGE", "the phrasebook knows English only.")
        return done(name, analyses=(Analysis("expressions", "pb", State.SKIPPED, problem=reason),))

    stopped = Problem("E_INTERRUPTED", "the same command goes on.")
    report = RunReport(
        130,
        (
            *(skipped(f"s{n}") for n in range(20)),
            *(VideoResult(video(f"i{n}"), State.INTERRUPTED, stopped) for n in range(30)),
        ),
    )
    out = shown(*map(VideoFinished, report.videos), RunFinished(report))
    assert "i7" not in out  # thousands of videos may be waiting when a run is stopped
    assert [" ".join(line.split()) for line in out.splitlines()[-2:]] == [
        "skipped 20 videos: expressions: skipped: the phrasebook knows English only.",
        "interrupted 30 videos: the same command goes on.",
    ]


def test_quiet_tells_problems_only() -> None:
    report = RunReport(1, (done("good"), failed("bad", "cut off.")))
    out = shown(
        START,
        VideoFinished(done("good")),
        VideoFinished(failed("bad", "cut off.")),
        RunFinished(report),
        quiet=True,
    )
    assert "good" not in out
    assert out.count("cut off.") == 2  # when it happens, and in the table
    assert shown(START, RunFinished(RunReport(0, (done("good"),))), quiet=True) == ""


@pytest.mark.parametrize(
    ("name", "harmless"),
    [
        ("a\x1b[31mred", r"a\x1b[31mred"),
        ("two\nlines", r"two\nlines"),
        ("caf\udce9", r"caf\xe9"),  # a byte that is not UTF-8
        ("gpj.\u202eexe", r"gpj.\u202eexe"),
        ("[bold]talk[/bold]", "[bold]talk[/bold]"),
        ("\U0001f3ac \u65e5\u672c", "\U0001f3ac \u65e5\u672c"),
    ],
)
def test_names_cannot_act_on_the_terminal(name: str, harmless: str) -> None:
    ended = failed(name, name)
    events = (START, VideoFinished(ended), RunFinished(RunReport(1, (ended,))))
    plain = shown(*events)
    with terminal() as (stream, written), Progress(stream, env=TERMINAL) as progress:
        for event in events:
            progress(event)
    for text in (plain, written[0]):
        assert text.count(harmless) == 4  # name and reason, when it happens and in the table
        assert "\x1b[31m" not in text
        assert "\u202e" not in text
    assert len(plain.splitlines()) == 5


def test_stream_without_unicode_gets_escapes() -> None:
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding="ascii") as stream:
        shown(Notice("\u65e5\u672c"), stream=stream)
        assert raw.getvalue() == b"\\u65e5\\u672c\n"


# The live display


def test_terminal_shows_slots_calls_and_the_whole() -> None:
    clock = Clock()
    with terminal() as (stream, written), Progress(stream, env=TERMINAL, now=clock) as progress:
        progress(START)
        clock.now += 8
        for event in (
            VideoMeasured(video("talk"), 90.0),
            VideoMeasured(video("other"), 30.0),
            VideoStarted(video("talk")),
            SlotChanged("cpu:0", "2 windows of talk"),
            LlmChanged(active=3, waiting=7),
            CallFinished(video("talk"), "expressions", 0, State.TIMED_OUT),
            VideoProgress(video("talk"), 60.0, 90.0),
        ):
            clock.now += 1
            progress(event)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written[0])
    assert re.search(r"cpu:0 +2 windows of talk", text)
    assert re.search(r"cpu:1 +waiting", text)
    assert "3 under way, 7 waiting, 1 ended, 1 failed" in text
    assert "0 of 2 videos, 0:01:00 of 0:02:00 audio, 4.0 x real time, 0:00:15 left" in text


def test_terminal_gets_its_cursor_back_after_an_error() -> None:
    hide, show = "\x1b[?25l", "\x1b[?25h"
    with terminal() as (stream, written), pytest.raises(KeyError):  # noqa: SIM117 -- order matters
        with Progress(stream, env=TERMINAL) as progress:
            progress(START)
            raise KeyError
    assert hide in written[0]
    assert written[0].rindex(show) > written[0].rindex(hide)


def test_no_color_leaves_no_colour() -> None:
    colour = re.compile(r"\x1b\[[0-9;]*3[0-9;]*m")
    for env, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        with terminal() as (stream, written), Progress(stream, env=TERMINAL | env) as progress:
            progress(START)
        assert bool(colour.search(written[0])) is coloured


def test_dumb_terminal_gets_plain_lines() -> None:
    with terminal() as (stream, written), Progress(stream, env={"TERM": "dumb"}) as progress:
        progress(START)
    assert "\x1b" not in written[0]
    assert "2 videos to do" in written[0]


# Trouble


def test_reader_that_has_gone_ends_the_display_not_the_run() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    stream = open(writing, "w", encoding="utf-8")  # noqa: SIM115 -- its close fails, as it should
    with Progress(stream, env={}) as progress:
        for _ in range(3):
            progress(START)
            progress(RunFinished(RunReport(0, ())))
    with pytest.raises(BrokenPipeError):
        stream.close()


def test_fault_of_the_display_is_logged_and_does_not_reach_the_run(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = RunStarted(1, 1, ("cpu:0",), "tiny.en", note=object())  # type: ignore[arg-type]
    out = shown(broken, Notice("after it"))
    assert "the run goes on" in caplog.text
    assert "last-run.json" in capsys.readouterr().err  # a person sees it without any log
    assert "after it" not in out
