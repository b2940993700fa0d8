"""Whole runs with a transcriber of set durations: stops, limits, locks, unguarded scripts."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from shell import command, environment
from speech import write_wav

import engine
from engine import events, messages
from engine.config import Config
from engine.errors import LockedError, UsageError
from engine.llm.limits import Limits
from engine.loop import Loop
from engine.records import Problem, State
from engine.schedule import Schedule
from engine.store import files
from engine.store.ledger import Ledger
from engine.tally import Tally
from engine.testing.transcriber import make_model
from engine.usage import Usage


@pytest.fixture(scope="module")
def voice(samples) -> Path:
    return samples / "moving_house.wav"


@pytest.fixture
def videos(voice, tmp_path) -> Path:
    """Six copies of a 26 s sample."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for n in range(6):
        (folder / f"{n}.wav").write_bytes(voice.read_bytes())
    return folder


@pytest.fixture
def quick(tmp_path) -> str:
    return str(make_model(tmp_path / "quick", seconds=0.05))


@pytest.fixture
def slow(tmp_path) -> str:
    return str(make_model(tmp_path / "slow", seconds=1.5))


def states(report) -> list[State]:
    return [result.state for result in report.videos]


def children() -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process().children(recursive=True)
        if "spawn_main" in " ".join(child.cmdline())
    ]


def test_run_leaves_no_process_thread_or_descriptor(videos, quick, tmp_path):
    engine.run([videos], Config(output=tmp_path / "warm", model=quick))
    before = threading.active_count(), psutil.Process().num_fds()
    engine.run([videos], Config(output=tmp_path / "out", model=quick))
    assert (threading.active_count(), psutil.Process().num_fds()) == before
    assert children() == []


def test_report_tells_what_the_slots_did_with_their_time(videos, quick, tmp_path):
    config = Config(output=tmp_path / "out", model=quick, slots=1, batch_size=1)
    figures = engine.run([videos], config).figures
    written = json.loads((tmp_path / "out/.reelmine/last-run.json").read_text())
    assert written.items() >= figures.items()
    for name in ("slots_busy", "windows_waited", "slots_starved"):
        assert 0 <= figures[name] <= 1
    assert 0.7 < figures["window_fill"] < 0.9  # 24 s of speech in each
    assert figures["batch_fill"] == 1
    assert 0 < figures["transcription_seconds"] <= figures["seconds"]
    assert figures["predicted_seconds"] > 0
    assert figures["share_of_floor"] is None  # of a CPU nothing is known
    again = engine.run([videos], config).figures
    assert again["slots_busy"] is again["window_fill"] is again["predicted_seconds"] is None


def test_second_run_does_nothing_and_starts_no_process(videos, quick, tmp_path):
    config = Config(output=tmp_path / "out", model=quick)
    engine.run([videos], config)
    happened: list[events.Event] = []
    report = engine.run([videos], config, happened.append)
    assert report.exit_code == 0
    assert not [e for e in happened if isinstance(e, events.SlotChanged)]
    assert all(result.resumed for result in report.videos)


def test_changed_video_is_done_again_and_only_that(videos, quick, tmp_path):
    config = Config(output=tmp_path / "out", model=quick)
    engine.run([videos], config)
    changed = (videos / "3.wav").read_bytes()[:-64_000]
    (videos / "3.wav").write_bytes(changed)
    report = engine.run([videos], config)
    again = [r.video.name for r in report.videos if not r.resumed]
    assert again == ["3"]


def test_touched_video_is_not_done_again(videos, quick, tmp_path):
    config = Config(output=tmp_path / "out", model=quick)
    engine.run([videos], config)
    os.utime(videos / "3.wav", (1, 1))
    assert all(result.resumed for result in engine.run([videos], config).videos)


def test_lost_ledger_is_rebuilt_from_the_files(videos, quick, tmp_path):
    config = Config(output=tmp_path / "out", model=quick)
    engine.run([videos], config)
    (tmp_path / "out/.reelmine/ledger.sqlite").write_bytes(b"rubbish" * 200)
    happened: list[events.Event] = []
    report = engine.run([videos], config, happened.append)
    assert all(result.resumed for result in report.videos)
    assert any(isinstance(e, events.Notice) and "rebuilt" in e.text for e in happened)


def test_windows_of_a_killed_run_are_not_decoded_again(samples, slow, tmp_path):
    """A long file half done: the second run decodes only what is missing."""
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "long.mp4").write_bytes((samples / "bad_heist.mkv").read_bytes())
    words = command(["run", folder, "-o", tmp_path / "out", "--model", slow, "--slots", "1", "-q"])
    words += ["--batch-size", "1"]
    run = subprocess.Popen(words, env=environment())
    deadline = time.monotonic() + 60
    done = 0
    while done < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
        done = _batches(tmp_path / "out")
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert subprocess.run(words, env=environment(), check=False).returncode == 0
    ledger = Ledger(tmp_path / "out", look=True)
    [(total,)] = ledger._db.execute("SELECT count(*) FROM attempts WHERE what = 'batch'")
    ledger.close()
    windows = json.loads((tmp_path / "out/long.json").read_text())
    expected = len({segment["seek"] for segment in windows["segments"]})
    assert expected >= 3
    assert total <= expected + 1  # at most the one that was in flight was done twice


def _batches(output: Path) -> int:
    if not (output / ".reelmine/ledger.sqlite").exists():
        return 0
    ledger = Ledger(output, look=True)
    [(count,)] = ledger._db.execute("SELECT count(*) FROM attempts WHERE what = 'batch'")
    ledger.close()
    return int(count)


@pytest.mark.parametrize(
    ("number", "code"),
    [pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow), (signal.SIGINT, 130)],
)
def test_signal_drains_and_the_same_command_goes_on(videos, slow, tmp_path, number, code):
    words = command(
        [
            "run",
            videos,
            "-o",
            tmp_path / "out",
            "--model",
            slow,
            "--slots",
            "2",
            "--batch-size",
            "1",
        ]
    )
    run = subprocess.Popen(words, env=environment(), stdout=subprocess.PIPE)
    assert run.stdout is not None
    for line in run.stdout:
        if line.startswith(b"done"):
            break
    run.send_signal(number)
    out = run.stdout.read()
    assert run.wait(60) == code
    run.stdout.close()
    assert b"interrupted" in out
    report = json.loads((tmp_path / "out/.reelmine/last-run.json").read_text())
    assert report["exit_code"] == code
    assert set(report["states"]) == {"done", "interrupted"}
    again = subprocess.run(words, env=environment(), check=False, capture_output=True)
    assert again.returncode == 0


def test_second_signal_stops_at_once(videos, tmp_path):
    model = make_model(tmp_path / "endless", seconds=600)
    words = command(["run", videos, "-o", tmp_path / "out", "--model", model, "--grace", "300"])
    run = subprocess.Popen(words, env=environment(), stdout=subprocess.PIPE)
    assert run.stdout is not None
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(psutil.Process(run.pid).children()) < 4:
        time.sleep(0.1)
    time.sleep(2)
    workers = psutil.Process(run.pid).children()
    run.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert run.poll() is None  # draining, for five minutes if need be
    run.send_signal(signal.SIGTERM)
    assert run.wait(30) == 143
    run.stdout.close()
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert alive == []


@pytest.mark.slow
def test_time_limit_ends_in_try_again(videos, slow, tmp_path):
    config = Config(
        output=tmp_path / "out", model=slow, slots=1, batch_size=1, time_limit=4.0, grace=2.0
    )
    report = engine.run([videos], config)
    assert report.exit_code == 75
    assert State.INTERRUPTED in states(report)
    assert engine.run([videos], Config(output=tmp_path / "out", model=slow)).exit_code == 0


def test_second_run_on_the_folder_is_refused(videos, slow, tmp_path):
    config = Config(output=tmp_path / "out", model=slow)
    refused: list[BaseException] = []

    def try_too(event: events.Event) -> None:
        if isinstance(event, events.VideoStarted) and not refused:
            with pytest.raises(LockedError, match="process"):
                engine.run([videos], config)
            refused.append(LockedError())

    assert engine.run([videos], config, try_too).exit_code == 0
    assert refused


def test_slots_that_cannot_open_end_the_run_with_the_reason(videos, tmp_path):
    model = make_model(tmp_path / "broken")
    (model / "fake.json").write_text('{"no": "such value"}')
    report = engine.run([videos], Config(output=tmp_path / "out", model=str(model)))
    assert report.exit_code == 1
    assert set(states(report)) == {State.FAILED}
    assert any("no" in problem.message for problem in report.problems)


def test_results_of_a_slow_consumer_do_not_hold_up_the_slots(videos, quick, tmp_path):
    results = engine.stream([videos], Config(output=tmp_path / "out", model=quick))
    next(results)
    last_run = tmp_path / "out/.reelmine/last-run.json"
    deadline = time.monotonic() + 60
    while not last_run.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert last_run.exists()  # the run has ended, though only one result was taken
    assert len(list(results)) == 5


def test_work_given_to_a_process_that_died_in_the_same_turn_is_not_submitted():
    """Two outcomes in one turn: the first earns the place a batch, the second is its death."""
    place = Loop.__new__(Loop)
    place.usage, place._tally, place._jobs = Usage(0.0), Tally(started=0.0), {}
    place._schedule = Schedule({"cpu:0": 1}, 1, Limits(1, 1), [0])
    place._actions = [messages.Decode("cpu:0", 1, ((0, 0),)), messages.Decode("cpu:1", 2, ())]
    place._step(messages.Died("cpu:0", Problem("E_WORKER_DIED", "killed")))
    assert messages.Decode("cpu:0", 1, ((0, 0),)) not in place._actions
    assert messages.Decode("cpu:1", 2, ()) in place._actions


def test_closed_stream_stops_the_run(videos, slow, tmp_path):
    results = engine.stream([videos], Config(output=tmp_path / "out", model=slow, slots=1))
    next(results)
    results.close()
    assert children() == []
    report = json.loads((tmp_path / "out/.reelmine/last-run.json").read_text())
    assert report["states"].get("interrupted")


def test_stream_raises_usage_errors_in_the_consumer(videos, tmp_path):
    with pytest.raises(UsageError, match="no model"):
        list(engine.stream([videos], Config(output=tmp_path / "out", model="nonsense")))


UNGUARDED = """
import sys, engine
engine.run([sys.argv[1]], engine.Config(output=sys.argv[2], model=sys.argv[3]))
"""


def test_unguarded_script_gets_one_sentence_with_the_remedy(voice, quick, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED)
    done = subprocess.run(
        [sys.executable, script, voice, tmp_path / "out", quick],
        env=environment(),
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode != 0
    last = done.stderr.decode().strip().splitlines()[-1]
    assert 'if __name__ == "__main__":' in last
    assert done.stderr.count(b"Traceback") <= 1


def test_sequential_mode_shares_the_loop(samples, tiny_en, tmp_path):
    config = Config(output=tmp_path / "out", model="tiny.en", mode="sequential")
    report = engine.run([samples / "moving_house.wav", samples / "wedding_day.mkv"], config)
    assert report.exit_code == 0
    data = json.loads((tmp_path / "out/moving_house.json").read_text())
    assert data["reelmine"]["options"]["mode"] == "sequential"
    assert len(data["segments"]) > 3


def test_hour_of_nothing_in_a_video_asks_nobody(tmp_path, quick):
    import numpy as np

    path = write_wav(tmp_path / "silence.wav", np.zeros(120 * 16_000, np.float32))
    report = engine.run([path], Config(output=tmp_path / "out", model=quick))
    assert report.exit_code == 0
    data = json.loads((tmp_path / "out/silence.json").read_text())
    assert data["segments"] == []
    assert data["reelmine"]["analyses"][0]["chunks"] == 0


def test_event_callback_that_raises_ends_the_run_cleanly(videos, quick, tmp_path):
    def bad(event: events.Event) -> None:
        if isinstance(event, events.VideoFinished):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        engine.run([videos], Config(output=tmp_path / "out", model=quick), bad)
    assert children() == []
    assert engine.run([videos], Config(output=tmp_path / "out", model=quick)).exit_code == 0


def test_full_disk_fails_its_video_stops_the_run_and_loses_nothing(
    videos, quick, tmp_path, monkeypatch
):
    write = files._write
    writes = iter(range(10**6))

    def full(descriptor: int, data: memoryview) -> int:
        if 8 < next(writes) < 12:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr(files, "_write", full)
    config = Config(output=tmp_path / "out", model=quick)
    report = engine.run([videos], config)
    assert report.exit_code == 1
    assert {p.code for p in report.problems} == {"E_DISK"}
    failed = [r for r in report.videos if r.state is State.FAILED]
    assert failed
    assert all(r.problem is not None and "No space left" in r.problem.message for r in failed)
    assert not list((tmp_path / "out").rglob("*.tmp*"))
    monkeypatch.undo()
    again = engine.run([videos], config)
    assert again.exit_code == 0
    assert set(states(again)) == {State.DONE}


def test_equal_name_from_another_folder_never_overwrites_an_earlier_runs_results(
    voice, quick, tmp_path
):
    for folder, cut in (("a", 0), ("b", 6400)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "talk.wav").write_bytes(voice.read_bytes()[: -cut or None])
    config = Config(output=tmp_path / "out", model=quick)
    engine.run([tmp_path / "a/talk.wav"], config)
    before = (tmp_path / "out/talk.json").read_bytes()
    report = engine.run([tmp_path / "b/talk.wav"], config)
    assert report.exit_code == 1
    [problem] = report.problems
    assert problem.code == "E_NAME_TAKEN"
    assert "a/talk.wav" in problem.message
    assert (tmp_path / "out/talk.json").read_bytes() == before
    # moved and changed: it is the same video's place
    (tmp_path / "a/talk.wav").unlink()
    assert engine.run([tmp_path / "b/talk.wav"], config).exit_code == 0
    assert (tmp_path / "out/talk.json").read_bytes() != before


def test_moved_folder_is_not_done_again(videos, quick, tmp_path):
    config = Config(output=tmp_path / "out", model=quick)
    engine.run([videos], config)
    videos.rename(tmp_path / "elsewhere")
    assert all(r.resumed for r in engine.run([tmp_path / "elsewhere"], config).videos)


def test_stream_reads_back_what_was_done_before(videos, quick, tmp_path):
    config = Config(output=tmp_path / "out", model=quick)
    first = {r.video.name: r for r in engine.stream([videos], config)}
    second = {r.video.name: r for r in engine.stream([videos], config)}
    assert all(result.resumed for result in second.values())
    for name, result in second.items():
        assert result.transcript == first[name].transcript
        assert result.analyses == first[name].analyses


def test_sequential_file_whose_slot_is_killed_ends_with_the_same_bytes(samples, tmp_path):
    model = str(make_model(tmp_path / "model", seconds=0.3))
    video = samples / "bad_heist.mkv"

    def run(output: Path, kill: bool) -> bytes:
        steps = []

        def tell(event: events.Event) -> None:
            if isinstance(event, events.VideoProgress) and kill and not steps:
                steps.append(event)
                [slot] = [child for child in children() if child.nice() == 0]
                slot.kill()

        config = Config(output=output, model=model, mode="sequential", slots=1)
        assert engine.run([video], config, tell).exit_code == 0
        assert bool(steps) == kill
        return (output / "bad_heist.json").read_bytes()

    assert run(tmp_path / "killed", kill=True) == run(tmp_path / "quiet", kill=False)
