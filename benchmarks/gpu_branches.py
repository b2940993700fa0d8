"""Every branch of the recogniser that only a GPU takes, each tried once: does it run, is it right?

In: a model folder of random weights and its shape (shapes.py). Out: named steps, each a function
that returns what it saw and raises if that is wrong; without torch its steps are not among them,
nor are those that need it to fill the memory. Knows nothing about speed.
"""

from collections.abc import Callable, Iterator, Sequence
from importlib import util
from pathlib import Path
from typing import Any

import common  # noqa: F401 -- first: with it the engine is that of this checkout
import ctranslate2
import numpy as np
from shapes import Shape

from engine.errors import OutOfMemoryError
from engine.pools.gpus import free_now
from engine.pools.out_of_memory import out_of_memory_named
from engine.pools.slot_worker import preload_cublas
from engine.records import SpeechOptions, WindowResult
from engine.speech.encoders import WHOLE, Encoder
from engine.speech.states import array_of, take
from engine.speech.whisper import Recognizer
from engine.speech.windows import ROW_FRAMES

TYPES = ("int8_float16", "int8", "int8_bfloat16", "bfloat16", "int8_float32", "float32")
EXACT = 0.05  # of the states, half precision against float32
SECONDS = 30.0
LEFT = 1 << 30  # bytes that are left free where memory is to run out
MANY = 64  # rows, which take more

Step = tuple[str, Callable[[], str]]


def steps(folder: Path, shape: Shape, device: str) -> Iterator[Step]:
    """What is tried, in this order; the first one opens the model that most others use."""
    tried = _Branches(folder, shape, device)
    yield "a model opens", tried.open
    yield "states are where the model is", tried.where
    yield "states are those of the CPU in float32", tried.exact
    yield "rows of a batch can be taken, one and several", tried.rows
    yield "states on the host give the same text", tried.from_host
    yield "a window's text does not depend on its neighbours", tried.neighbours
    yield "the second step of the ladder decodes", tried.again
    yield "the language is detected", tried.language
    yield "words have times", tried.words
    can = ctranslate2.get_supported_compute_types(device)
    for kind in filter(can.__contains__, TYPES):
        yield f"compute type {kind}", lambda kind=kind: tried.compute_type(kind)
    if util.find_spec("torch") is None:
        return
    yield "torch's states are CTranslate2's", tried.torch
    yield "torch's int8 of a folder begun on a CPU", tried.torch_int8
    if device == "cuda":
        yield "out of memory in CTranslate2 is known, and passes", tried.out_of_memory
        yield "out of memory in torch is known, and passes", tried.out_of_memory_in_torch


class _Branches:
    def __init__(self, folder: Path, shape: Shape, device: str) -> None:
        self._folder = folder
        self._device = device
        chance = np.random.default_rng(1)
        noise = chance.standard_normal((4, shape.mels, ROW_FRAMES), np.float32)
        self._rows = list(noise * np.float32(0.5))

    def _recognizer(self, kind: str, encoder: Encoder = WHOLE) -> Recognizer:
        if kind == "float16" and self._device == "cpu":
            kind = "float32"
        return Recognizer(self._folder, self._device, kind, 1, encoder)

    def open(self) -> str:
        before = free_now({})
        if self._device == "cuda":
            preload_cublas()
        self._model = self._recognizer("float16")
        self._states = self._model.encode(self._rows)
        after = free_now({})
        took = "-" if before is None or after is None else f"{(before - after) / 2**30:.2f} GiB"
        return f"{self._model.compute_type}, {took}, {', '.join(_mapped('libcublas'))}"

    def where(self) -> str:
        expect(self._states.device == self._device, self._states.device)
        return f"{self._states.dtype} on {self._states.device}:{self._states.device_index}"

    def exact(self) -> str:
        found = array_of(self._states)[:1].astype(np.float32)
        self._true = array_of(Recognizer(self._folder, "cpu", "float32", 8).encode(self._rows[:1]))
        return _near(found, self._true)

    def rows(self) -> str:
        whole = array_of(self._states)
        for some in ([2], [3, 1], [0, 1, 2, 3]):
            expect(np.array_equal(array_of(take(self._states, some)), whole[some]), f"rows {some}")
        return f"one stays on {take(self._states, [2]).device}"

    def from_host(self) -> str:
        host = ctranslate2.StorageView.from_array(np.array(array_of(self._states)))
        expect(_texts(self._decode(host)) == _texts(self._decode(self._states)), "other text")
        return "equal"

    def neighbours(self) -> str:
        together = _texts(self._decode(self._states))
        alone = [_texts(self._decode(take(self._states, [n])))[0] for n in range(4)]
        encoded = [_texts(self._decode(self._model.encode([row])))[0] for row in self._rows]
        same = [sum(a == b for a, b in zip(together, x, strict=True)) for x in (alone, encoded)]
        told = f"{same[0]} of 4 the same decoded alone, {same[1]} of 4 encoded alone too"
        expect(same == [4, 4], told)
        return told

    def again(self) -> str:
        return _told(self._decode(self._states, again=True))

    def language(self) -> str:
        return f"{[result.language for result in self._decode(self._states, language=None)]}"

    def words(self) -> str:
        found = self._decode(self._states, words=True)
        counts = [sum(len(piece.words) for piece in result.pieces) for result in found]
        expect(all(counts), f"{counts} words")
        return f"{counts} words"

    def torch(self) -> str:
        kind = "float16" if self._device == "cuda" else "float32"
        model = self._recognizer("float16", Encoder(f"torch-{kind}", ""))
        states = model.encode(self._rows)
        expect(states.device == self._device, states.device)
        told = _told(self._decode(states))
        near = _near(array_of(states)[:1].astype(np.float32), self._true)
        return f"{near}; {told}"

    def torch_int8(self) -> str:
        model = self._recognizer("float16", Encoder("torch-int8-speech", ""))
        return _near(array_of(model.encode(self._rows[:1])).astype(np.float32), self._true)

    def compute_type(self, kind: str) -> str:
        model = self._recognizer(kind)
        states = model.encode(self._rows)
        found = self._decode(take(states, [3, 1]), model=model, rows=2)
        self._decode(take(states, [2]), model=model, rows=1, words=True)
        return f"{model.compute_type}; {_told(found)}"

    def out_of_memory(self) -> str:
        before = _texts(self._decode(self._states))
        told = self._without_memory(self._model.encode)
        try:
            self._model.encode(self._rows)
        except RuntimeError as error:
            told += f"; the next call fails too: {error}"
        else:
            told += "; the next call works"
        self._model.settle()
        expect(_texts(self._decode(self._model.encode(self._rows))) == before, "other text after")
        return told

    def out_of_memory_in_torch(self) -> str:
        from engine.speech.encoder import TorchEncoder

        encoder = TorchEncoder(self._folder, "float16", self._device, 1)
        told = self._without_memory(encoder.encode)
        encoder.encode(self._rows)
        return told

    def _without_memory(self, encode: Callable[[Sequence[np.ndarray]], Any]) -> str:
        """What is said when there is too little memory for so many rows."""
        import torch

        torch.cuda.empty_cache()
        room = torch.cuda.mem_get_info()[0] - LEFT
        held = torch.empty(room, dtype=torch.uint8, device="cuda")
        try:
            with out_of_memory_named():
                encode(self._rows * (MANY // len(self._rows)))
        except OutOfMemoryError as error:
            return str(error)
        finally:
            del held
            torch.cuda.empty_cache()
        raise AssertionError(f"{MANY} rows fitted into {LEFT} bytes")

    def _decode(
        self,
        states: Any,
        *,
        model: Recognizer | None = None,
        rows: int | None = None,
        language: str | None = "en",
        words: bool = False,
        again: bool = False,
    ) -> list[WindowResult]:
        count = states.shape[0]
        expect(rows is None or rows == count, f"{count} rows")
        options = SpeechOptions(
            "batched", language, "transcribe", None, None, 5, words, True, None, "auto", False
        )
        places = range(count), [SECONDS] * count, [language] * count
        return (model or self._model).decode(states, *places, options, again=again)


def expect(right: bool, told: object) -> None:
    """As assert, with -O too."""
    if not right:
        raise AssertionError(str(told))


def _near(found: np.ndarray, true: np.ndarray) -> str:
    error = float(np.linalg.norm(found - true) / np.linalg.norm(true))
    expect(error < EXACT, f"{error:.2%} off")
    return f"{error:.2%} off"


def _texts(results: Sequence[WindowResult]) -> list[list[tuple[int, ...]]]:
    return [[piece.tokens for piece in result.pieces] for result in results]


def _told(results: Sequence[WindowResult]) -> str:
    counts = [sum(len(piece.tokens) for piece in result.pieces) for result in results]
    expect(all(counts), f"{counts} tokens")
    return f"{counts} tokens"


def _mapped(name: str) -> list[str]:
    """Libraries of this name in this process."""
    try:
        lines = Path("/proc/self/maps").read_text("utf-8").splitlines()
    except OSError:
        return []
    return sorted({line.split(maxsplit=5)[-1] for line in lines if name in line})
