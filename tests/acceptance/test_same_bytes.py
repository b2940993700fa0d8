"""Same input, same bytes out: any number of slots, any piece length, kills and restarts."""

import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from shell import command, environment
from speech import joined, write_wav

import engine
from engine import events, orders, setup
from engine.config import Config
from engine.pools.sizing import size
from engine.records import State
from engine.testing.transcriber import make_model

SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def shelf_of_videos(samples, tmp_path_factory) -> Path:
    """Two short videos and one of two minutes."""
    folder = tmp_path_factory.mktemp("videos")
    write_wav(folder / "long.wav", joined(samples, seconds=100, seed=1))
    for name in ("moving_house.wav", "wedding_day.mkv"):
        (folder / name).write_bytes((samples / name).read_bytes())
    return folder


def files_of(output: Path) -> dict[str, bytes]:
    """Every file a user gets, without the ledger's folder."""
    return {
        str(path.relative_to(output)): path.read_bytes()
        for path in sorted(output.rglob("*"))
        if path.is_file() and ".reelmine" not in path.parts
    }


@pytest.fixture(scope="module")
def undisturbed(shelf_of_videos, tiny_en, tmp_path_factory) -> dict[str, bytes]:
    """The files of a run that nothing disturbed, on one slot."""
    output = tmp_path_factory.mktemp("undisturbed")
    report = engine.run([shelf_of_videos], Config(output=output, model="tiny.en", slots=1))
    assert report.exit_code == 0
    return files_of(output)


def test_two_slots_give_the_bytes_of_one(shelf_of_videos, undisturbed, tmp_path):
    report = engine.run([shelf_of_videos], Config(output=tmp_path, model="tiny.en", slots=2))
    assert report.exit_code == 0
    assert files_of(tmp_path) == undisturbed


@pytest.mark.parametrize(
    "seconds", [1.0, pytest.param(7.0, marks=SLOW), pytest.param(3600.0, marks=SLOW)]
)
def test_piece_length_of_preparation_changes_nothing(
    shelf_of_videos, undisturbed, tmp_path, monkeypatch, seconds
):
    monkeypatch.setattr(orders, "PIECE", seconds)
    config = Config(output=tmp_path, model="tiny.en")
    assert engine.run([shelf_of_videos / "long.wav"], config).exit_code == 0
    ours = files_of(tmp_path)
    assert ours["long.json"] == undisturbed["long.json"]
    assert ours["long.srt"] == undisturbed["long.srt"]


def test_number_of_preparation_workers_changes_no_window(shelf_of_videos, tmp_path, monkeypatch):
    """With a model that says the same of the same window: its times show where windows lie."""
    model = str(make_model(tmp_path / "model", seconds=0.01))
    for workers in (1, 3):

        def sized(*facts, workers=workers):
            return replace(size(*facts), preparation=workers)

        monkeypatch.setattr(setup, "size", sized)
        config = Config(output=tmp_path / str(workers), model=model)
        assert engine.run([shelf_of_videos], config).exit_code == 0
    assert files_of(tmp_path / "1") == files_of(tmp_path / "3")


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 3])
def test_size_of_batches_changes_nothing(shelf_of_videos, undisturbed, tmp_path, batch):
    config = Config(output=tmp_path, model="tiny.en", batch_size=batch)
    assert engine.run([shelf_of_videos], config).exit_code == 0
    assert files_of(tmp_path) == undisturbed


def test_run_killed_half_way_goes_on_and_ends_with_the_same_bytes(
    shelf_of_videos, undisturbed, tmp_path
):
    output = tmp_path / "out"
    words = command(["run", shelf_of_videos, "-o", output, "--model", "tiny.en", "--quiet"])
    run = subprocess.Popen(words, env=environment())
    deadline = time.monotonic() + 120
    while not list(output.rglob("*.json")) and time.monotonic() < deadline:
        assert run.poll() is None
        time.sleep(0.05)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert subprocess.run(words, env=environment(), check=False).returncode == 0
    assert files_of(output) == undisturbed


class Killer:
    """Kills slots as the run goes on: ``at`` are the numbers of the batches that start."""

    def __init__(self, at: set[int]) -> None:
        self._at = at
        self._batches = 0
        self.killed = 0

    def __call__(self, event: events.Event) -> None:
        if isinstance(event, events.SlotChanged) and "window" in event.doing:
            self._batches += 1
            if self._batches in self._at:
                self._kill(event.slot)

    def _kill(self, slot: str) -> None:
        """Slots are those of our spawned children that are not nice; the dying do not count."""
        slots = []
        for child in psutil.Process().children():
            with suppress(psutil.Error):
                if child.nice() == 0 and "spawn_main" in " ".join(child.cmdline()):
                    slots.append(child)
        os.kill(slots[int(slot.split(":")[1]) % len(slots)].pid, signal.SIGKILL)
        self.killed += 1


@pytest.mark.slow
@pytest.mark.parametrize("at", [{2}, {3, 4}, {2, 10}])
def test_killed_worker_costs_nothing_but_time(shelf_of_videos, undisturbed, tmp_path, at):
    killer = Killer(at)
    config = Config(output=tmp_path, model="tiny.en", slots=2, batch_size=1)
    report = engine.run([shelf_of_videos], config, on_event=killer)
    assert killer.killed == len(at)
    assert report.exit_code == 0
    assert {result.state for result in report.videos} == {State.DONE}
    assert files_of(tmp_path) == undisturbed


@pytest.mark.slow
def test_stream_yields_transcripts_and_the_same_bytes(shelf_of_videos, undisturbed, tmp_path):
    results = list(engine.stream([shelf_of_videos], Config(output=tmp_path, model="tiny.en")))
    assert sorted(result.video.name for result in results) == [
        "long",
        "moving_house",
        "wedding_day",
    ]
    assert all(result.transcript is not None for result in results)
    assert files_of(tmp_path) == undisturbed
