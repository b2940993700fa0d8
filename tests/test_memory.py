"""Too little memory in whole runs: real processes, a transcriber that runs out of it."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from machines import card, fake_nvml
from shell import attempts, last_run, measured, result

import engine
from engine import events
from engine.api import plan as plan_of
from engine.config import Config
from engine.loop import Loop
from engine.pools import preparation_worker, pressure
from engine.pools.out_of_memory import out_of_memory_named
from engine.pools.preparation_worker import prepare
from engine.records import RunReport, State
from engine.store import fitted
from engine.testing.transcriber import make_model

Nvml = Callable[[Any], None]
pytestmark = (
    pytest.mark.slow
)  # each waits for several processes; test_schedule.py is the quick part

RTX = "NVIDIA GeForce RTX 4090"


@pytest.fixture
def videos(samples: Path, tmp_path: Path) -> Path:
    """Four videos of several windows each."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for n in range(4):
        (folder / f"{n}.mkv").write_bytes((samples / "bad_heist.mkv").read_bytes())
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of its own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("REELMINE_CACHE", str(folder))
    return folder


class Told(list[events.Event]):
    """What a run told."""

    @property
    def notices(self) -> list[str]:
        return [event.text for event in self if isinstance(event, events.Notice)]

    @property
    def opened(self) -> int:
        opening = [e for e in self if isinstance(e, events.SlotChanged) and e.doing == "opening"]
        return sum(not event.slot.startswith("prep") for event in opening)


def run(videos: Path, output: Path, model: Path, **options: Any) -> tuple[RunReport, Told]:
    told = Told()
    config = Config(output=output, model=str(model), analysis=False, **options)
    return engine.run([videos], config, told.append), told


def segments(output: Path) -> list[Any]:
    return [result(output, str(n))["segments"] for n in range(4)]


def test_a_gpu_that_is_too_small_for_the_batch_gets_smaller_ones(videos, tmp_path, nvml: Nvml):
    nvml([card(0, RTX, 24)])
    model = make_model(tmp_path / "model", seconds=0.05, open_seconds=4.0, memory_windows=2)
    report, told = run(videos, tmp_path / "out", model)
    assert report.exit_code == 0
    assert {video.state for video in report.videos} == {State.DONE}
    steps = last_run(tmp_path / "out")["memory_steps"]
    assert steps
    assert all(step.startswith("cuda:0: it takes ") for step in steps)
    assert [f"cuda:0: {note['outcome']}" for note in attempts(tmp_path / "out", "memory")] == steps
    assert (
        f"The memory of cuda:0 is too small: {steps[0].removeprefix('cuda:0: ')}." in told.notices
    )
    assert any("out of memory" in note["outcome"] for note in attempts(tmp_path / "out", "batch"))
    assert told.opened == 1  # in the same process

    roomy = make_model(tmp_path / "roomy", seconds=0.05)
    run(videos, tmp_path / "roomy-out", roomy)
    assert last_run(tmp_path / "roomy-out")["memory_steps"] == []
    assert segments(tmp_path / "out") == segments(tmp_path / "roomy-out")


def test_what_fitted_is_where_the_next_run_begins(videos, tmp_path, nvml: Nvml):
    nvml([card(0, RTX, 24)])
    model = make_model(tmp_path / "model", seconds=0.05, open_seconds=4.0, memory_windows=2)
    run(videos, tmp_path / "out", model)
    config = Config(output=tmp_path / "again", model=str(model), analysis=False)
    (slot,) = plan_of([videos], config).sizing.slots
    assert slot.batch_size <= 2
    assert "more did not fit into such a GPU before" in slot.why
    run(videos, tmp_path / "again", model)
    assert last_run(tmp_path / "again")["memory_steps"] == []
    # another model, another compute type, another card: nothing is known
    other = make_model(tmp_path / "other", memory_windows=3)
    for changed in (Config(model=str(other)), Config(model=str(model), compute_type="bfloat16")):
        (slot,) = plan_of([videos], changed).sizing.slots
        assert slot.batch_size == 32
    nvml([card(0, "another card", 24)])
    (slot,) = plan_of([videos], config).sizing.slots
    assert slot.batch_size == 32


def test_a_fallback_to_int8_is_named_wherever_its_text_goes(videos, tmp_path, nvml: Nvml):
    nvml([card(0, RTX, 24)])
    model = make_model(tmp_path / "model", seconds=0.05, memory_windows=0)
    report, told = run(videos, tmp_path / "out", model)
    assert report.exit_code == 0
    assert told.opened == 2
    assert (
        "The memory of cuda:0 is too small: it is opened again in int8_float16 instead of float16."
    ) in told.notices
    for video in report.videos:
        assert video.state is State.DEGRADED
        assert video.problem is not None
        assert video.problem.code == "E_FALLBACK"
        assert "int8_float16" in video.problem.message
        ours = result(tmp_path / "out", video.video.name)["reelmine"]
        assert ours["fallback"] == "int8_float16"
        assert ours["problem"]["code"] == "E_FALLBACK"
        assert ours["options"]["compute_type"] == "auto"  # as asked
    again, told = run(videos, tmp_path / "out", model)
    assert all(video.resumed for video in again.videos)
    assert {video.state for video in again.videos} == {State.DEGRADED}

    elsewhere, told = run(videos, tmp_path / "elsewhere", model)  # planned so from the start
    assert told.opened == 1
    assert {video.state for video in elsewhere.videos} == {State.DEGRADED}


def test_a_compute_type_that_was_asked_for_is_never_replaced(videos, tmp_path, nvml: Nvml):
    nvml([card(0, RTX, 24)])
    model = make_model(tmp_path / "model", seconds=0.05, memory_windows=0)
    report, _ = run(videos, tmp_path / "out", model, compute_type="float16")
    assert report.exit_code == 1
    assert {video.state for video in report.videos} == {State.FAILED}
    for video in report.videos:
        assert video.problem is not None
        assert video.problem.code == "E_OUT_OF_MEMORY"
        assert "--compute-type int8_float16" in video.problem.message
    assert last_run(tmp_path / "out")["memory_steps"][-1] == "cuda:0: it is not used any more"
    assert fitted.recall(str(model), "float16") == ({}, None)


def test_of_two_slots_on_a_gpu_one_is_given_up_before_weights_are_changed(
    videos, tmp_path, nvml: Nvml
):
    nvml([card(0, RTX, 24)])
    model = make_model(tmp_path / "model", seconds=0.05, memory_windows=0)
    report, _ = run(videos, tmp_path / "out", model, slots=2)
    assert report.exit_code == 0
    steps = last_run(tmp_path / "out")["memory_steps"]
    kinds = [step.partition(": ")[2] for step in steps]
    assert [kind for kind in kinds if "at once" not in kind] == [
        "it is not used any more",
        "it is opened again in int8_float16 instead of float16",
    ]


def test_both_batches_of_a_slot_that_fail_in_one_turn_of_the_loop_are_one_step(
    videos, tmp_path, nvml: Nvml, monkeypatch
):
    """The second is void: its windows wait again, and its process is to end."""
    nvml([card(0, RTX, 24)])
    model = make_model(tmp_path / "model", seconds=0.05, open_seconds=4.0, memory_windows=0)
    wait = Loop._wait

    def late(loop: Loop) -> list[Any]:
        if any(len(place.batches) == 2 for place in loop._schedule.places.values()):
            time.sleep(0.5)
        return wait(loop)

    monkeypatch.setattr(Loop, "_wait", late)
    config = Config(output=tmp_path / "out", model=str(model), analysis=False, batch_size=1)
    assert engine.run([videos], config).exit_code == 0
    steps = last_run(tmp_path / "out")["memory_steps"]
    assert steps == ["cuda:0: it is opened again in int8_float16 instead of float16"]


def test_without_any_slot_that_holds_a_window_every_video_says_so(videos, tmp_path):
    """Host memory: a CPU has no smaller compute type than the usual one."""
    model = make_model(tmp_path / "model", seconds=0.05, int8_windows=0)
    report, _ = run(videos, tmp_path / "out", model, slots=2)
    assert report.exit_code == 1
    assert {video.problem.code for video in report.videos if video.problem} == {"E_OUT_OF_MEMORY"}
    steps = last_run(tmp_path / "out")["memory_steps"]
    assert {step for step in steps if "any more" in step} == {
        "cpu:0: it is not used any more",
        "cpu:1: it is not used any more",
    }
    assert "use a smaller model, or free some memory" in report.problems[0].message


def test_memory_taken_between_the_plan_and_the_opening_is_seen(videos, tmp_path, nvml: Nvml):
    nvml([card(0, RTX, 24)])
    model = make_model(tmp_path / "model", seconds=0.05)
    told = Told()

    def tell(event: events.Event) -> None:
        told.append(event)
        if isinstance(event, events.RunStarted):
            fake_nvml(tmp_path / "nvml", [card(0, RTX, 24, 1)])  # for processes to come

    config = Config(output=tmp_path / "out", model=str(model), analysis=False)
    assert engine.run([videos], config, tell).exit_code == 0
    step = "it has room for 8 windows at once instead of 32"
    assert f"The memory of cuda:0 is too small: {step}." in told.notices
    assert last_run(tmp_path / "out")["memory_steps"] == [f"cuda:0: {step}"]
    assert fitted.recall(str(model), "auto") == ({}, None)  # no error: nothing to remember


def test_a_machine_whose_gpu_is_full_is_told_so_and_works_on_its_cores(
    videos, tmp_path, nvml: Nvml
):
    nvml([card(0, RTX, 24, 0)])
    model = make_model(tmp_path / "model", seconds=0.05)
    report, told = run(videos, tmp_path / "out", model, slots=1)
    assert report.exit_code == 0
    assert [text.partition(":")[0] for text in told.notices if "left out" in text] == ["cuda"]
    assert {e.slot for e in told if isinstance(e, events.SlotChanged)} == {"cpu:0", "prep:0"}


@pytest.mark.parametrize(("free", "encoder"), [(24, "torch-float16"), (0, "torch-")])
def test_the_encoder_is_one_for_the_device_that_is_used(
    samples, tiny_en, tmp_path, nvml: Nvml, free, encoder
):
    pytest.importorskip("torch")
    nvml([card(0, RTX, 24, free)])
    config = Config(output=tmp_path / "out", model=str(tiny_en), encoder="torch", analysis=False)
    plan = plan_of([samples / "moving_house.wav"], config)
    assert plan.encoder.name.startswith(encoder)
    assert (plan.encoder.name == "torch-float16") == bool(free)


def test_a_file_in_sequential_mode_keeps_its_weights_or_fails(videos, tmp_path, nvml: Nvml):
    nvml([card(0, RTX, 24)])
    model = make_model(tmp_path / "model", seconds=0.05, memory_windows=0)
    report, told = run(videos, tmp_path / "out", model, mode="sequential")
    assert {video.problem.code for video in report.videos if video.problem} == {"E_OUT_OF_MEMORY"}
    assert told.opened == 1


def test_memory_that_cannot_be_kept_is_told_and_costs_nothing_else(
    videos, tmp_path, cache: Path, nvml: Nvml
):
    nvml([card(0, RTX, 24)])
    cache.write_text("a file where the folder should be")
    model = make_model(tmp_path / "model", seconds=0.05, open_seconds=4.0, memory_windows=2)
    report, told = run(videos, tmp_path / "out", model)
    assert report.exit_code == 0
    assert any("not remembered for the next run" in notice for notice in told.notices)


def test_a_damaged_memory_is_noted_in_the_plan_and_replaced(
    videos, tmp_path, cache: Path, nvml: Nvml
):
    nvml([card(0, RTX, 24)])
    cache.mkdir()
    (cache / fitted.FILE).write_text("[{]")
    model = make_model(tmp_path / "model", seconds=0.05, open_seconds=4.0, memory_windows=2)
    plan = plan_of([videos], Config(output=tmp_path / "out", model=str(model)))
    [note] = plan.notes
    assert f"{fitted.FILE} is damaged and was not used" in note
    run(videos, tmp_path / "out", model)
    [entry] = json.loads((cache / fitted.FILE).read_text())
    assert entry["gpu"] == RTX


def _prepare_without_memory_once(spec: Any, count: int) -> Any:
    """In a preparation worker: the first call of all finds no memory."""
    short = spec.folder.parent / "was short"
    if not short.exists():
        short.touch()
        with out_of_memory_named():
            bytearray(1 << 62)
    return prepare(spec, count)


def _prepare_without_memory(spec: Any, count: int) -> Any:
    """The first file never finds any."""
    if Path(spec.path).stem == "0":
        with out_of_memory_named():
            bytearray(1 << 62)
    return prepare(spec, count)


def test_preparation_without_memory_begins_anew_and_costs_no_video(videos, tmp_path, monkeypatch):
    model = make_model(tmp_path / "model", seconds=0.05)
    run(videos, tmp_path / "calm", model)
    monkeypatch.setattr(preparation_worker, "prepare", _prepare_without_memory_once)
    report, _ = run(videos, tmp_path / "out", model, scratch=tmp_path)
    assert report.exit_code == 0
    assert segments(tmp_path / "out") == segments(tmp_path / "calm")
    assert "MemoryError" in [note["outcome"] for note in attempts(tmp_path / "out", "prepare")]


def test_a_video_that_never_finds_memory_to_prepare_fails_with_the_remedy(
    videos, tmp_path, monkeypatch
):
    model = make_model(tmp_path / "model", seconds=0.05)
    monkeypatch.setattr(preparation_worker, "prepare", _prepare_without_memory)
    report, _ = run(videos, tmp_path / "out", model)
    assert report.exit_code == 1
    [failed] = [video for video in report.videos if video.state is State.FAILED]
    assert failed.video.name == "0"
    assert failed.problem is not None and failed.problem.code == "E_OUT_OF_MEMORY"
    assert "--slots" in failed.problem.message


def test_pressure_on_the_host_is_told_once_and_kept_in_the_ledger(videos, tmp_path, monkeypatch):
    """Real samples of this machine, against a limit that it cannot meet."""
    monkeypatch.setattr(pressure, "_LEAST", 1 << 60)
    model = make_model(tmp_path / "model", seconds=0.3)
    report, told = run(videos, tmp_path / "out", model, slots=1, batch_size=4)
    assert report.exit_code == 0
    assert sum("Memory is short" in notice for notice in told.notices) == 1
    notes = [note["outcome"] for note in attempts(tmp_path / "out", "pressure")]
    assert [note.partition(":")[0] for note in notes][:2] == ["preparation", "batch"]
    assert all("MiB of memory left" in note for note in notes)
    batches = [note["outcome"] for note in attempts(tmp_path / "out", "batch")]
    assert "2 windows" in batches  # half of what was asked for
    assert all(sample["memory_left"] > 0 for sample in measured(tmp_path / "out"))
