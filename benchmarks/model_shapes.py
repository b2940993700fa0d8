"""What Whisper's model sizes cost, without their weights: models of the true shape, random inside.

In: names of shapes. Out: for each batch size the seconds that a window's encoding and decoding
take, windows/s, tokens/s, and the share of the physical floor: the least time in which the device
could do the arithmetic and read the weights and keys, if nothing else took any. On a CPU one thread
in int8, counted in CPU seconds; on a GPU float16, wall seconds. Peaks of a device are known for a
few GPUs, or given with --tera-flops and --tera-bytes; else the share is not told.

How the models are made, and why every window has the same number of tokens: shapes.py.

    python benchmarks/model_shapes.py --models tiny,base,small
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import ctranslate2
import numpy as np
from common import conclude, machine, print_machine, print_table, say
from gpu_memory import Pool
from shapes import SHAPES, TOKENS, Peak, Shape, given_peak, known_peak, make_shape

from engine.pools.slot_worker import preload_cublas
from engine.records import SpeechOptions
from engine.speech.encoders import WHOLE, Encoder
from engine.speech.whisper import Recognizer
from engine.speech.windows import ROW_FRAMES


@dataclass(frozen=True, slots=True)
class Cost:
    """What a window costs in a batch of this size."""

    batch: int
    encode: float  # seconds a window
    decode: float  # seconds a window
    tokens: int  # a window
    floor: float | None  # seconds a window; None: the device's peak is not known
    memory: int | None = None  # bytes of the GPU in use at most, the model's too; None: not known

    @property
    def windows_per_second(self) -> float:
        """Of one model, its two halves taking turns."""
        return 1 / (self.encode + self.decode)

    @property
    def share(self) -> float | None:
        """Of the floor: 1 would be the device's limit."""
        return None if self.floor is None else self.floor / (self.encode + self.decode)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; the exit code."""
    parser = _parser()
    given = parser.parse_args(arguments)
    unknown = sorted(set(given.models) - set(SHAPES))
    if unknown:
        parser.error(f"--models {unknown[0]}: known are {', '.join(SHAPES)}")
    facts = machine()
    print_machine(facts)
    device = given.device or ("cuda" if ctranslate2.get_cuda_device_count() else "cpu")
    peak = given_peak(given.tera_flops, given.tera_bytes) or known_peak(device, facts["gpus"])
    figures = {}
    for name in given.models:
        with tempfile.TemporaryDirectory(prefix="shape-") as scratch:
            say(f"{name}: making the model")
            folder = make_shape(Path(scratch) / name, SHAPES[name], given.tokens)
            costs = measure(folder, SHAPES[name], device, given, peak)
        show(name, device, costs)
        figures[name] = [told(cost) for cost in costs]
    settings = {"device": device, "beam_size": given.beam_size, "tokens": given.tokens}
    return conclude("model_shapes", facts, [], **settings, models=figures)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--models", type=lambda text: text.split(","), default=["tiny", "base", "small"])
    add("--device", choices=["cpu", "cuda"], help="default: a GPU if there is one")
    add_costs(parser)
    return parser


def add_costs(parser: argparse.ArgumentParser) -> None:
    """The options that ``measure`` reads."""
    add = parser.add_argument
    add("--batches", type=_numbers, help="default: 1,4,8 on a CPU, 8,16,32,64 on a GPU")
    add("--beam-size", type=int, default=5)
    add("--tokens", type=int, default=TOKENS, help="of every window (default 100)")
    add("--rounds", type=int, default=3)
    add("--encode-only", action="store_true")
    add("--tera-flops", type=float, help="peak of the device, in 10^12 operations/s")
    add("--tera-bytes", type=float, help="its memory's, in 10^12 bytes/s")


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


# --- measuring ---------------------------------------------------------------------------------


def measure(
    folder: Path,
    shape: Shape,
    device: str,
    given: argparse.Namespace,
    peak: Peak | None,
    encoder: Encoder = WHOLE,
) -> list[Cost]:
    """The costs of a model folder, by batch size; ``given`` has the options of ``add_costs``.

    A batch that fails, for want of memory perhaps, is told and left out.
    """
    if device == "cuda":
        preload_cublas()
    compute_type = "float16" if device == "cuda" else "int8"
    recognizer = Recognizer(folder, device, compute_type, 1, encoder)
    costs = []
    for batch in given.batches or ([8, 16, 32, 64] if device == "cuda" else [1, 4, 8]):
        try:
            cost = _cost(recognizer, shape, batch, given, peak)
        except (RuntimeError, MemoryError) as error:
            say(f"batch {batch} failed: {error}")
            continue
        say(f"batch {batch}: {cost.encode:.4f} s to encode a window, {cost.decode:.4f} to decode")
        costs.append(cost)
    return costs


def _cost(
    recognizer: Recognizer, shape: Shape, batch: int, given: argparse.Namespace, peak: Peak | None
) -> Cost:
    chance = np.random.default_rng(batch)
    rows = [
        chance.standard_normal((shape.mels, ROW_FRAMES), np.float32) * 0.5 for _ in range(batch)
    ]
    options = SpeechOptions(
        "batched", "en", "transcribe", None, None, given.beam_size, False, True, None, "auto", False
    )
    encoding, decoding, lengths = [], [], [0]
    pool = Pool() if recognizer.on_gpu else None
    if pool is not None:
        pool.peak()
    for _ in range(given.rounds + 1):  # the first warms up
        seconds, states = _timed(recognizer, lambda: recognizer.encode(rows))
        encoding.append(seconds / batch)
        if given.encode_only:
            continue
        spoken = ["en"] * batch
        seconds, found = _timed(
            recognizer,
            lambda: recognizer.decode(states, range(batch), [30.0] * batch, spoken, options),  # noqa: B023 -- called at once
        )
        decoding.append(seconds / batch)
        lengths = [sum(len(piece.tokens) for piece in result.pieces) for result in found]
    if set(lengths) != {0 if given.encode_only else given.tokens}:
        raise SystemExit(f"the windows have {sorted(set(lengths))} tokens, not {given.tokens}")
    floor = None if peak is None else shape.floor(peak, batch, given.tokens)
    return Cost(
        batch,
        median(encoding[1:]),
        median(decoding[1:]) if decoding else 0.0,
        lengths[0],
        None if given.encode_only else floor,
        None if pool is None else pool.peak(),
    )


def _timed(recognizer: Recognizer, work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of one thread, which others do not disturb; wall seconds of a GPU."""
    clock = time.perf_counter if recognizer.on_gpu else time.process_time
    began = clock()
    value = work()
    return clock() - began, value


def show(name: str, device: str, costs: Sequence[Cost]) -> None:
    """A table of one model."""
    print(f"\n{name}, {device}: seconds a window")
    head = ["batch", "encode", "decode", "windows/s", "tokens/s", "share of the floor", "GiB"]
    rows = [
        [
            cost.batch,
            f"{cost.encode:.4f}",
            f"{cost.decode:.4f}" if cost.decode else "-",
            f"{cost.windows_per_second:.2f}",
            f"{cost.tokens / cost.decode:.0f}" if cost.decode else "-",
            "-" if cost.share is None else f"{cost.share:.1%}",
            "-" if cost.memory is None else f"{cost.memory / 2**30:.2f}",
        ]
        for cost in costs
    ]
    print_table(head, rows)


def told(cost: Cost) -> dict[str, Any]:
    """A cost for programs."""
    more = {"windows_per_second": cost.windows_per_second, "share_of_floor": cost.share}
    return {key: value and round(value, 6) for key, value in (asdict(cost) | more).items()}


if __name__ == "__main__":
    sys.exit(main())
