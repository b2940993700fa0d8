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
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.records import SAMPLE_RATE, Piece, Segment, SpeechOptions, WindowResult

FILE = "fake.json"
MELS = 80
_ENGLISH_ONLY = 51_864  # tokens of the vocabulary that tell an English-only model


@dataclass(frozen=True, slots=True)
class FakeModel:
    """What the slots of this model do."""

    seconds: float = 0.1  # a window takes
    open_seconds: float = 0.0  # opening takes
    text: str = "Let's call it a day, we can burn the midnight oil another time."
    sentences: int = 6  # said in a window
    language: str = "en"


def make_model(folder: Path, **values: Any) -> Path:
    """Write a model folder with these `FakeModel` values; returns the folder."""
    model = FakeModel(**values)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text(json.dumps(asdict(model)))
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    (folder / "vocabulary.txt").write_text("".join(f"{n}\n" for n in range(_ENGLISH_ONLY)))
    (folder / "model.bin").write_text(json.dumps(asdict(model)))  # other values, other key
    return folder


class FakeRecognizer:
    """Stands where `speech.whisper.Recognizer` does."""

    multilingual = False
    may_err = False  # a set text is never decoded again
    mels = MELS
    compute_type = "fake"

    def __init__(self, folder: Path) -> None:
        self._model = FakeModel(**json.loads((folder / FILE).read_text()))
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
        """The set text in each window, after the set time."""
        time.sleep(self._model.seconds * len(states))
        return [
            WindowResult(position, self._model.language, None, -0.1, 0.0, self._said(length))
            for position, length in zip(positions, seconds, strict=True)
        ]

    def open_file(self, audio: Any, options: SpeechOptions) -> "FakeFile":
        """Sequential mode: a whole file of 16 kHz samples."""
        return FakeFile(self._model, len(audio) / SAMPLE_RATE)

    def _said(self, length: float) -> tuple[Piece, ...]:
        step = length / self._model.sentences
        return tuple(
            Piece(round(n * step, 2), round((n + 0.8) * step, 2), f" {self._model.text}", (), 1.0)
            for n in range(self._model.sentences)
        )


class FakeFile:
    """Stands where `speech.whisper.FileDecoder` does: the set text once for every 30 s."""

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
            f" {self._model.text}",
            (),
            0.0,
            -0.1,
            1.0,
            0.0,
        )
        self._next += 1
        return (segment,), end >= self.duration
