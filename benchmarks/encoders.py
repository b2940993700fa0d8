"""What encoding a window costs on this CPU, and how exact it is: CTranslate2's encoder and torch's.

One thread, one window at a time, with the memory kept as a slot keeps it and as a process gets it
by default (the column "buffers given back"); CPU seconds, the mean over windows of the bundled
samples; the error is that of the states against CTranslate2 in float32 (Euclidean, relative).
"Speech only" does not read the silence after a window's speech. This is where the choice in
engine/speech/encoders.py comes from. Without torch its rows are missing.

    python benchmarks/encoders.py --models tiny.en base
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"  # before any library is imported

import numpy as np
from batch import windows
from common import conclude, machine, print_machine, print_table

from engine.pools.crew import KEEP_MEMORY
from engine.speech.encoders import Encoder
from engine.speech.models import get
from engine.speech.silence import to_be_read
from engine.speech.whisper import Recognizer

WAYS = (  # name, compute type of CTranslate2, encoder
    ("CTranslate2 float32", "float32", "ctranslate2"),
    ("CTranslate2 int8", "int8", "ctranslate2"),
    ("CTranslate2 int8, speech only", "int8", "ctranslate2-speech"),
    ("torch float32", "int8", "torch-float32"),
    ("torch bfloat16", "int8", "torch-bfloat16"),
    ("torch bfloat16, speech only", "int8", "torch-bfloat16-speech"),
    ("torch int8", "int8", "torch-int8"),
    ("torch int8, speech only", "int8", "torch-int8-speech"),
)
FIGURES = "--figures-of"  # what this script calls itself with, to have another memory


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["tiny.en", "base"])
    parser.add_argument("--windows", type=int, default=6)
    parser.add_argument(FIGURES, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.figures_of:
        print(json.dumps(figures_of(options.figures_of, options.windows)))
        return 0
    facts = machine()
    print_machine(facts)
    read = [to_be_read(row) / row.shape[1] for row in windows(options.windows)]
    shares = ", ".join(f"{share:.2f}" for share in read)
    print(f"{len(read)} windows; with speech only, so much of each is read: {shares}")
    figures: dict[str, Any] = {}
    for model in options.models:
        kept = in_process(get(model).path, options.windows, KEEP_MEMORY)
        given_back = in_process(get(model).path, options.windows, {})
        figures[model] = {name: (*row, given_back[name][0]) for name, row in kept.items()}
        rows = [
            [name, f"{kept_s:.3f}", f"{back_s:.3f}", "-" if not error else f"{100 * error:.2f} %"]
            for name, (kept_s, error, back_s) in figures[model].items()
        ]
        print(f"\n{model}: CPU seconds of a window, one thread")
        print_table(["encoder", "buffers kept", "buffers given back", "error"], rows)
    return conclude("encoders", facts, [], read=read, models=figures)


def in_process(model: Path, count: int, env: dict[str, str]) -> dict[str, tuple[float, float]]:
    """`figures_of` in a process with this environment; the C library reads it when it starts."""
    words = [sys.executable, __file__, FIGURES, str(model), "--windows", str(count)]
    done = subprocess.run(
        words, env=os.environ | env, stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, tuple[float, float]] = json.loads(done.stdout)
    return found


def figures_of(model: Path, count: int) -> dict[str, tuple[float, float]]:
    """Way -> (seconds of a window, error against the first way)."""
    rows = windows(count)
    exact: np.ndarray | None = None
    found: dict[str, tuple[float, float]] = {}
    for name, compute_type, encoder in WAYS:
        try:
            recognizer = Recognizer(model, "cpu", compute_type, 1, Encoder(encoder, ""))
        except ModuleNotFoundError:
            continue
        seconds, states = cost(lambda row, it=recognizer: np.array(it.encode([row])), rows)
        exact = states if exact is None else exact
        error = float(np.linalg.norm(states - exact) / np.linalg.norm(exact))
        found[name] = seconds, error
    return found


def cost(
    encode: Callable[[np.ndarray], np.ndarray], rows: Sequence[np.ndarray]
) -> tuple[float, np.ndarray]:
    """CPU seconds of a row, all states; a short row before, which reads known silence too."""
    encode(min(rows, key=to_be_read))
    taken, states = [], []
    for row in rows:
        began = time.process_time()
        states.append(encode(row))
        taken.append(time.process_time() - began)
    return fmean(taken), np.concatenate(states)


if __name__ == "__main__":
    sys.exit(main())
