"""What runs inside a slot's process, as far as it can be tried without a GPU."""

import shutil
from pathlib import Path

import pytest

from engine.errors import OutOfMemoryError
from engine.pools import slot_worker
from engine.pools.local import call_once
from engine.records import SpeechOptions, Window
from engine.testing.transcriber import make_model

OPTIONS = SpeechOptions(
    mode="batched",
    language="en",
    task="transcribe",
    initial_prompt=None,
    hotwords=None,
    beam_size=5,
    word_timestamps=False,
    vad_filter=True,
    audio_track=None,
    compute_type="auto",
    quality_gates=False,
)


# --- out of memory ---------------------------------------------------------------------------


def _transcribe_two(model: str, compute_type: str) -> object:
    """In a process of its own: open a slot, give it two windows."""
    slot_worker.open_slot(slot_worker.SlotSpec(Path(model), "cpu", compute_type, 1, ()))
    rows = tuple(
        slot_worker.Row(0, Window(n, (), str(Path(model) / "row")), "en") for n in range(2)
    )
    return slot_worker.transcribe(rows, OPTIONS)


@pytest.mark.parametrize(("compute_type", "fits"), [("float32", False), ("int8", True)])
def test_a_batch_without_memory_raises_our_error_across_processes(tmp_path, compute_type, fits):
    import numpy as np

    model = make_model(tmp_path / "model", seconds=0.0, memory_windows=1)
    np.zeros((80, 3000), np.float32).tofile(model / "row")
    if fits:
        batch = call_once({}, _transcribe_two, str(model), compute_type)
        assert len(batch.results) == 2
        return
    with pytest.raises(OutOfMemoryError, match="CUDA failed with error out of memory") as caught:
        call_once({}, _transcribe_two, str(model), compute_type)
    assert caught.value.problem.code == "E_OUT_OF_MEMORY"


# --- cuBLAS ----------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of installed packages, with the one namespace package that matters."""
    folder = tmp_path / "site-packages"
    (folder / "nvidia").mkdir(parents=True)
    monkeypatch.syspath_prepend(folder)
    return folder


def test_without_the_wheel_there_is_nothing_to_preload(site):
    assert slot_worker.cublas_libraries() == []


def test_libraries_of_the_wheel_are_found_in_the_order_they_need_each_other(site):
    lib = site / "nvidia" / "cublas" / "lib"
    lib.mkdir(parents=True)
    for name in ("libcublas.so.12", "libcublasLt.so.12", "libnvblas.so.12"):
        (lib / name).touch()
    assert slot_worker.cublas_libraries() == [lib / "libcublasLt.so.12", lib / "libcublas.so.12"]


def _loaded(name: str) -> bool:
    slot_worker.preload_cublas()
    return name in Path("/proc/self/maps").read_text()


def test_libraries_of_the_wheel_are_loaded_before_anybody_asks_for_them(site):
    """Any real library in their place: what counts is that it is mapped from there."""
    from numpy.random import _mt19937

    lib = site / "nvidia" / "cublas" / "lib"
    lib.mkdir(parents=True)
    shutil.copy(_mt19937.__file__, lib / "libcublas.so.12")
    assert call_once({}, _loaded, str(lib / "libcublas.so.12"))


def test_a_damaged_library_is_named(site):
    lib = site / "nvidia" / "cublas" / "lib"
    lib.mkdir(parents=True)
    (lib / "libcublas.so.12").write_text("cut off")
    with pytest.raises(OSError, match=r"libcublas\.so\.12"):
        slot_worker.preload_cublas()


# --- after a call without memory ---------------------------------------------------------------


class _Short:
    """A recogniser whose next call fails, for one reason or another."""

    mels, may_err = 80, False

    def __init__(self, error):
        self.error = error
        self.settled = 0

    def encode(self, features):
        return features

    def decode(self, *_):
        raise self.error

    def settle(self):
        self.settled += 1


@pytest.mark.parametrize(
    ("error", "raised", "settled"),
    [
        (RuntimeError("CUDA failed with error out of memory"), OutOfMemoryError, 1),
        (RuntimeError("CUDA failed with error unknown error"), RuntimeError, 0),
    ],
)
def test_a_call_without_memory_is_settled_and_no_other(monkeypatch, error, raised, settled):
    recognizer = _Short(error)
    monkeypatch.setattr(slot_worker, "_slot", slot_worker._Slot(recognizer))
    with pytest.raises(raised):
        slot_worker.transcribe((), OPTIONS)
    assert recognizer.settled == settled
