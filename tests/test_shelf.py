"""What counts as done: the key of what is on disk, whatever a killed run left behind."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import engine
from engine import events
from engine.config import Config
from engine.records import State
from engine.store.ledger import Ledger, Row
from engine.testing.transcriber import make_model


@pytest.fixture
def done(samples, tmp_path) -> Config:
    """The options of a finished run over one video."""
    config = Config(output=tmp_path / "out", model=str(make_model(tmp_path / "m", seconds=0.02)))
    assert engine.run([samples / "moving_house.wav"], config).exit_code == 0
    return config


def again(samples: Path, config: Config) -> tuple[engine.RunReport, list[str]]:
    """The same run once more, and the slots that it opened."""
    slots: list[str] = []

    def tell(event: events.Event) -> None:
        if isinstance(event, events.SlotChanged) and event.slot.startswith("cpu"):
            slots.append(event.slot)

    return engine.run([samples / "moving_house.wav"], config, tell), slots


def rewrite(config: Config, **changes: object) -> None:
    """Make the ledger say something else about the video."""
    ledger = Ledger(config.output)
    row: Row = ledger.videos()["moving_house"]
    ledger.save_video("moving_house", replace(row, **changes))  # type: ignore[arg-type]
    ledger.close()


def test_run_killed_between_the_last_file_and_its_mark_is_not_transcribed_again(samples, done):
    """The JSON is the final one, the row still that of the transcript alone."""
    rewrite(done, state=State.RUNNING, analysis_key=None, bytes=17)
    before = (done.output / "moving_house.json").read_bytes()
    report, slots = again(samples, done)
    assert report.exit_code == 0
    assert slots == []
    assert (done.output / "moving_house.json").read_bytes() == before


def test_row_without_its_file_is_not_done(samples, done):
    (done.output / "moving_house.json").unlink()
    rewrite(done, bytes=None)
    report, slots = again(samples, done)
    assert report.exit_code == 0
    assert slots
    assert (done.output / "moving_house.json").exists()


def test_file_of_another_model_is_never_taken_for_this_one(samples, done, tmp_path):
    """Even if a row claims it: the file says itself what it was made of."""
    other = str(make_model(tmp_path / "other", seconds=0.02, text="Quite another text."))
    ledger = Ledger(done.output)
    row = ledger.videos()["moving_house"]
    ledger.save_video("moving_house", replace(row, state=State.FAILED, speech_key=None))
    ledger.close()
    report, slots = again(samples, replace(done, model=other))
    assert report.exit_code == 0
    assert slots
    data = json.loads((done.output / "moving_house.json").read_text())
    assert "Quite another text." in data["text"]


def test_disk_that_was_full_for_the_new_model_leaves_no_claim_on_the_old_ones_file(
    samples, done, tmp_path, monkeypatch
):
    other = replace(done, model=str(make_model(tmp_path / "other", seconds=0.02, text="New.")))

    def full(descriptor: int, data: memoryview) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("engine.store.files._write", full)
    monkeypatch.setattr("engine.setup.check_writable", lambda folder: None)
    assert engine.run([samples / "moving_house.wav"], other).exit_code == 1
    monkeypatch.undo()
    report, slots = again(samples, other)
    assert report.exit_code == 0
    assert slots
    assert "New." in json.loads((done.output / "moving_house.json").read_text())["text"]
