"""How many windows a model call on a CPU should take, and what the two halves of a window cost.

One thread, one model, int8, beam 5, windows of the bundled samples; CPU seconds of a window for
batches of 1, 2, 4 and 8: encoding all rows at once, one by one, and decoding. This is where
``CPU_BATCH`` in engine/pools/sizing.py comes from.

    python benchmarks/batch.py --models tiny.en base
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"  # before any library is imported

import ctranslate2
import numpy as np
from common import conclude, machine, print_machine, print_table
from faster_whisper.feature_extractor import FeatureExtractor

from engine.media.decode import Audio
from engine.records import SAMPLE_RATE, SpeechOptions
from engine.speech.activity import SpeechDetector
from engine.speech.models import get
from engine.speech.whisper import Recognizer
from engine.speech.windows import ROW_FRAMES, WindowStream

SAMPLES = Path(__file__).parent.parent / "engine" / "samples"
FILES = ("coffee_shop.mp4", "bad_heist.mkv", "hospital_corridor.webm", "office_gossip.mov")
OPTIONS = SpeechOptions(
    "batched", "en", "transcribe", None, None, 5, False, True, None, "int8", False
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--models", nargs="+", default=["tiny.en", "base"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    facts = machine()
    print_machine(facts)
    rows = windows(8)
    figures: dict[str, Any] = {}
    for model in options.models:
        recognizer = Recognizer(get(model).path, "cpu", "int8", 1)
        figures[model] = {b: costs(recognizer, rows, b, options.rounds) for b in options.batches}
        table = [
            [str(batch), *(f"{seconds:.3f}" for seconds in cost)]
            for batch, cost in figures[model].items()
        ]
        print(f"\n{model}: CPU seconds of a window, one thread, int8, beam 5")
        print_table(["batch", "encode together", "encode one by one", "decode"], table)
    return conclude("batch", facts, [], models=figures)


def windows(count: int) -> list[np.ndarray]:
    """Log-mel rows of the samples' first windows."""
    extract = FeatureExtractor()
    rows: list[np.ndarray] = []
    for file in FILES:
        with Audio(str(SAMPLES / file)) as audio:
            stream = WindowStream(SpeechDetector())
            found = [*stream.feed(audio.read(600 * SAMPLE_RATE)), *stream.finish()]
        for _, samples in found:
            row = np.zeros((80, ROW_FRAMES), np.float32)
            features = extract(samples)[..., :-1]
            row[:, : features.shape[1]] = features
            rows.append(row)
    return rows[:count]


def costs(
    recognizer: Recognizer, rows: Sequence[np.ndarray], batch: int, rounds: int
) -> tuple[float, float, float]:
    """CPU seconds of a window: encoded together, one by one, decoded; medians over rounds."""
    taken: list[tuple[float, float, float]] = []
    groups = [rows[begin : begin + batch] for begin in range(0, len(rows), batch)]
    for _ in range(rounds + 1):  # the first warms up
        together = cpu(lambda: [encode_together(recognizer, group) for group in groups])[0]
        alone, states = cpu(lambda: [recognizer.encode(group) for group in groups])
        decoding = cpu(partial(decode_all, recognizer, states))[0]
        taken.append((together / len(rows), alone / len(rows), decoding / len(rows)))
    together, alone, decoding = (median(column) for column in zip(*taken[1:], strict=True))
    return together, alone, decoding


def cpu(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.process_time()
    value = work()
    return time.process_time() - began, value


def encode_together(recognizer: Recognizer, group: Sequence[np.ndarray]) -> None:
    features = ctranslate2.StorageView.from_array(np.ascontiguousarray(np.stack(group)))
    recognizer.model.model.encode(features)


def decode_all(recognizer: Recognizer, batches: Sequence[Any]) -> None:
    for states in batches:
        count = states.shape[0]
        recognizer.decode(states, range(count), [30.0] * count, ["en"] * count, OPTIONS)


if __name__ == "__main__":
    sys.exit(main())
