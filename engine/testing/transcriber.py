"""A transcriber with set durations: tests of a farm script, a recipe or a schedule without weights.

``make_model(folder)`` writes a model folder; ``--model FOLDER`` then runs everything for real
(processes, preparation, ledger, analysis), but a slot sleeps for the set time and says a set text,
the same for the same window. Knows nothing about audio.

    from engine.testing.transcriber import make_model
    make_model(Path("fake"), seconds=0.2)          # a window takes 0.2 s
    # reelmine run videos -o out --model fake
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.records import SAMPLE_RATE, Piece, Segment, SpeechOptions, WindowResult

FILE = "fake.json"
MELS = 80
_ENGLISH_ONLY = 51_864  # tokens of the vocabulary that tell an English-only model
_MULTILINGUAL = 51_865


@dataclass(frozen=True, slots=True)
class FakeModel:
    """What the slots of this model do."""

    seconds: float = 0.1  # a window takes
    open_seconds: float = 0.0  # opening takes
    text: str = "Let's call it a day, we can burn the midnight oil another time."
    texts: tuple[str, ...] = ()  # said in the first windows, one in each, instead of the text
    sentences: int = 6  # said in a window
    language: str = "en"
    memory_windows: int | None = None  # a batch of more windows is out of memory; None: none is
    int8_windows: int | None = None  # the same in an int8 compute type
    heard: tuple[Mapping[str, float], ...] = ()  # languages by window; empty: knows only its own

    @property
    def multilingual(self) -> bool:
        """Whether it has a language to tell: a model for English alone does not."""
        return bool(self.heard) or self.language != "en"

    def said_in(self, window: int) -> str:
        """What it says in a window, again and again."""
        return self.texts[window] if window < len(self.texts) else self.text


def make_model(folder: Path, **values: Any) -> Path:
    """Write a model folder with these `FakeModel` values; returns the folder."""
    model = FakeModel(**values)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text(json.dumps(asdict(model)))
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    tokens = _MULTILINGUAL if model.multilingual else _ENGLISH_ONLY
    (folder / "vocabulary.txt").write_text("".join(f"{n}\n" for n in range(tokens)))
    (folder / "model.bin").write_text(json.dumps(asdict(model)))  # other values, other key
    return folder


class FakeRecognizer:
    """Stands where `speech.whisper.Recognizer` does."""

    may_err = False  # a set text is never decoded again
    mels = MELS

    def __init__(self, folder: Path, compute_type: str = "int8") -> None:
        self.compute_type = compute_type
        self._model = FakeModel(**json.loads((folder / FILE).read_text()))
        self.multilingual = self._model.multilingual
        time.sleep(self._model.open_seconds)

    def listen(self) -> tuple[str, float]:
        """The canary: what it would hear, and the seconds a window takes."""
        return self._model.text, self._model.seconds

    def encode(self, rows: Sequence[Any]) -> Sequence[Any]:
        """The rows as they are."""
        return rows

    def decode(
        self,
        states: Sequence[Any],
        positions: Sequence[int],
        seconds: Sequence[float],
        languages: Sequence[str | None],
        options: SpeechOptions,
    ) -> list[WindowResult]:
        """The set text in each window, after the set time; CTranslate2's error if memory is set."""
        self._take_memory(len(states))
        time.sleep(self._model.seconds * len(states))
        return [
            self._window(position, length, language)
            for position, length, language in zip(positions, seconds, languages, strict=True)
        ]

    def _window(self, position: int, length: float, language: str | None) -> WindowResult:
        """A model of several languages says in which it understood a window."""
        if not self._model.heard:
            own, said = self._model.language, self._said(length, self._model.said_in(position))
            sure = {own: 1.0} if self.multilingual and not language else {}
            return WindowResult(position, own, sure.get(own), -0.1, 0.0, said, heard=sure)
        known = self._model.heard[min(position, len(self._model.heard) - 1)]
        heard = {} if language else dict(known)
        spoken = language or max(known, key=lambda name: known[name])
        said = self._said(length, f"({spoken}) {self._model.said_in(position)}")
        odds = max(heard.values(), default=None)
        return WindowResult(position, spoken, odds, -0.1, 0.0, said, heard=heard)

    def open_file(self, audio: Any, options: SpeechOptions) -> "FakeFile":
        """Sequential mode: a whole file of 16 kHz samples."""
        self._take_memory(1)
        return FakeFile(self._model, len(audio) / SAMPLE_RATE)

    def settle(self) -> None:
        """Nothing stays of a call that failed."""

    def _take_memory(self, windows: int) -> None:
        small = "int8" in self.compute_type
        most = self._model.int8_windows if small else self._model.memory_windows
        if most is not None and windows > most:
            raise RuntimeError("CUDA failed with error out of memory")

    def _said(self, length: float, text: str) -> tuple[Piece, ...]:
        step = length / self._model.sentences
        return tuple(
            Piece(round(n * step, 2), round((n + 0.8) * step, 2), f" {text}", (), 1.0)
            for n in range(self._model.sentences)
        )


class FakeFile:
    """Stands where `speech.sequential.FileDecoder` does: a set text once for every 30 s."""

    probability = None

    def __init__(self, model: FakeModel, duration: float) -> None:
        self.language = model.language
        self.duration = self.speech = duration
        self._model = model
        self._next = 0

    def advance(self, seconds: float) -> tuple[tuple[Segment, ...], bool]:
        """The next ``seconds`` of the file, and whether it has ended."""
        time.sleep(self._model.seconds)
        start = self._next * seconds
        end = min(start + seconds, self.duration)
        segment = Segment(
            self._next,
            int(100 * start),
            start,
            end,
            f" {self._model.said_in(self._next)}",
            (),
            0.0,
            -0.1,
            1.0,
            0.0,
        )
        self._next += 1
        return (segment,), end >= self.duration
