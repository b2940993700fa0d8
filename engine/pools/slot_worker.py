"""What runs inside a slot: one model, and the windows or files that it hears.

In: records with the files of log-mel rows, or the path of a file in sequential mode. Out: results
in the order asked, or one of our errors. The model, and in sequential mode the open file, stay
between calls. Knows nothing about scheduling, the ledger, HTTP or the command line; how its process
begins and ends is in ``worker.py``.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import MediaError
from engine.pools.out_of_memory import is_out_of_memory, out_of_memory_named
from engine.records import SAMPLE_RATE, Problem, Segment, SpeechOptions, Window, WindowResult
from engine.speech.encoders import WHOLE, Encoder

if TYPE_CHECKING:
    import numpy as np

    from engine.media.decode import Audio
    from engine.speech.sequential import FileDecoder
    from engine.speech.whisper import Recognizer
    from engine.testing.transcriber import FakeFile, FakeRecognizer


@dataclass(frozen=True, slots=True)
class SlotSpec:
    """What a slot opens with."""

    model: Path
    device: str  # "cpu" or "cuda"; which GPU is in the environment
    compute_type: str
    threads: int
    canary_words: tuple[str, ...]  # words the canary must hold; empty: only "not empty"
    encoder: Encoder = WHOLE


@dataclass(frozen=True, slots=True)
class SlotInfo:
    """What an opened slot says of itself."""

    compute_type: str
    memory: int  # bytes resident
    canary: str  # what it heard
    canary_seconds: float
    free: int | None = None  # bytes left on its GPU now that the model is there; None: not known


@dataclass(frozen=True, slots=True)
class Row:
    """One window of a batch."""

    video: int
    window: Window
    language: str | None


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The results of a batch, in its order, and how long the model took."""

    results: tuple[WindowResult, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Advance:
    """A step of a file in sequential mode."""

    segments: tuple[Segment, ...]
    ended: bool
    language: str
    language_probability: float | None
    decoded: float  # seconds
    declared: float | None
    speech: float
    seconds: float  # this step took


@dataclass(slots=True)
class _Slot:
    recognizer: "Recognizer | FakeRecognizer"
    path: str | None = None
    decoder: "FileDecoder | FakeFile | None" = None
    declared: float | None = None


_slot: _Slot | None = None


@out_of_memory_named()
def open_slot(spec: SlotSpec) -> SlotInfo:
    """Load the model and hear the canary; raises what is wrong."""
    global _slot  # noqa: PLW0603 -- one model per process, for its life
    if spec.device == "cuda":
        preload_cublas()
    recognizer: Any
    if (spec.model / "fake.json").exists():  # made by engine.testing.transcriber
        from engine.testing.transcriber import FakeRecognizer

        recognizer = FakeRecognizer(spec.model, spec.compute_type)
        heard, seconds = recognizer.listen()
    else:
        from engine.speech.canary import listen
        from engine.speech.whisper import Recognizer

        recognizer = Recognizer(
            spec.model, spec.device, spec.compute_type, spec.threads, spec.encoder
        )
        heard, seconds = listen(recognizer, spec.canary_words)
    _slot = _Slot(recognizer)
    free = _free_on_gpu() if spec.device == "cuda" else None
    return SlotInfo(recognizer.compute_type, _resident(), heard, seconds, free)


@out_of_memory_named()
def transcribe(rows: tuple[Row, ...], options: SpeechOptions) -> BatchResult:
    """The text of a batch of windows, of any videos."""
    from engine.speech.windows import read_row

    assert _slot is not None
    began = time.monotonic()
    recognizer = _slot.recognizer
    features = [read_row(row.window.row, recognizer.mels) for row in rows]
    try:
        results = _hear(recognizer, rows, features, options)
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            recognizer.settle()
        raise
    return BatchResult(tuple(results), time.monotonic() - began)


def _hear(
    recognizer: Any, rows: "tuple[Row, ...]", features: "list[np.ndarray]", options: SpeechOptions
) -> list[WindowResult]:
    """The result of each row; with the quality gates what fails them is heard again."""
    if not (options.quality_gates and recognizer.may_err):
        found: list[WindowResult] = recognizer.decode(
            recognizer.encode(features),
            [row.window.position for row in rows],
            [row.window.samples / SAMPLE_RATE for row in rows],
            [row.language for row in rows],
            options,
        )
        return found
    from engine.speech.ladder import Ladder, stretch_of

    stretches = [
        stretch_of(row.window, feature, row.language)
        for row, feature in zip(rows, features, strict=True)
    ]
    return Ladder(recognizer, options).hear(stretches)


@out_of_memory_named()
def advance(path: str, options: SpeechOptions, seconds: float, restart: bool) -> Advance | Problem:
    """The next ``seconds`` of a file in sequential mode; opens it (again) if asked."""
    from engine.media.decode import Audio

    assert _slot is not None
    began = time.monotonic()
    if restart or _slot.path != path or _slot.decoder is None:
        try:
            with Audio(path, options.audio_track) as file:
                audio = _whole(file)
                _slot.declared = file.declared
        except MediaError as error:
            return error.problem
        _slot.path = path
        _slot.decoder = _slot.recognizer.open_file(audio, options)
    decoder = _slot.decoder
    segments, ended = decoder.advance(seconds)
    if ended:
        _slot.path = _slot.decoder = None
    return Advance(
        segments,
        ended,
        decoder.language,
        decoder.probability,
        decoder.duration,
        _slot.declared,
        decoder.speech,
        time.monotonic() - began,
    )


def _whole(file: "Audio") -> "np.ndarray":
    """All samples of a track; sequential mode needs them at once."""
    import numpy as np

    pieces = [np.zeros(0, np.float32)]
    while len(piece := file.read(60 * SAMPLE_RATE)):
        pieces.append(piece)
    return np.concatenate(pieces)


def cublas_libraries() -> list[Path]:
    """The files of the wheel nvidia-cublas-cu12, what is needed first; none without the wheel."""
    import importlib.util

    found = importlib.util.find_spec("nvidia") and importlib.util.find_spec("nvidia.cublas")
    places = found.submodule_search_locations if found else None
    names = ("libcublasLt.so.12", "libcublas.so.12")
    paths = (Path(place) / "lib" / name for place in places or () for name in names)
    return [path for path in paths if path.exists()]


def preload_cublas() -> None:
    """CTranslate2 opens libcublas.so.12 by name; load the wheel's copy first, without any path.

    The system finds a loaded library by its name; its symbols are not for all, because torch may
    bring another version of the same library.
    """
    import ctypes

    for library in cublas_libraries():
        ctypes.CDLL(str(library))


def _free_on_gpu() -> int | None:
    from engine.pools.gpus import free_now

    return free_now(os.environ)


def _resident() -> int:
    """Resident bytes of this process; 0 where /proc is not there."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
