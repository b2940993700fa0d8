"""What Whisper's model sizes cost, without their weights: models of the true shape, random inside.

In: names of shapes. Out: for each batch size the seconds that a window's encoding and decoding
take, windows/s, tokens/s, and the share of the physical floor: the least time in which the device
could do the arithmetic and read the weights and keys, if nothing else took any. On a CPU one thread
in int8, counted in CPU seconds; on a GPU float16, wall seconds. Peaks of a device are known for a
few GPUs, or given with --tera-flops and --tera-bytes; else the share is not told.

Speed depends on shapes and lengths, not on what the numbers mean, so random weights measure it. A
random model does not know when to stop, though. So that every window gives the same number of
tokens, whatever decodes it, three of the decoder's dimensions are taken from the layers and used as
a clock: the position embedding sets them, the projection lets them decide when the closing
timestamp and the end of text win, and that no other special token ever does. All matrix products
are those of a real model. The vocabulary is invented, with Whisper's layout; the projection is not
tied to the embedding, which costs memory (130 MB for large-v3) and no time.

    python benchmarks/model_shapes.py --models tiny,base,small
"""

import argparse
import itertools
import json
import random
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
import tokenizers
from common import conclude, machine, print_machine, print_table, say
from ctranslate2.specs import WhisperSpec
from tokenizers import decoders, models, pre_tokenizers

from engine.pools.worker import preload_cublas
from engine.records import SpeechOptions
from engine.speech.languages import LANGUAGES
from engine.speech.whisper import Recognizer
from engine.speech.windows import ROW_FRAMES

STATES, POSITIONS = 1500, 448  # of the encoder, of the decoder
TEXT, TIMESTAMPS = 50_257, 1501  # tokens
PROMPT = 3  # tokens: start, language, task; with a longer one the text is shorter by as much
TOKENS = 100  # a window: about 150 words a minute
SPREAD = 0.02  # of the random weights
END_CLOCK, STAMP_CLOCK, SPECIAL_CLOCK = 0, 1, 2  # dimensions of the decoder
CLOCKS = 3
TICK, WEIGHT = 20.0, 10.0  # of a clock in the embedding and in the projection


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a Whisper model."""

    width: int
    heads: int
    encoder_layers: int
    decoder_layers: int
    mels: int
    languages: int = 99

    @property
    def vocabulary(self) -> int:
        """Tokens: text, end, start, languages, six more, timestamps."""
        return TEXT + 2 + self.languages + 6 + TIMESTAMPS


SHAPES = {
    "tiny": Shape(384, 6, 4, 4, 80),
    "base": Shape(512, 8, 6, 6, 80),
    "small": Shape(768, 12, 12, 12, 80),
    "large-v3": Shape(1280, 20, 32, 32, 128, 100),
    "large-v3-turbo": Shape(1280, 20, 32, 4, 128, 100),
}


@dataclass(frozen=True, slots=True)
class Peak:
    """What a device can do at most."""

    flops: float  # dense float16, a second
    bandwidth: float  # bytes a second


# By a part of the GPU's name: measured with large products and copies (H200), else data sheets;
# an H100 SXM has the H200's chip with slower memory.
PEAKS = {
    "H200": Peak(790e12, 4.5e12),
    "H100 80GB HBM3": Peak(790e12, 3.35e12),
    "RTX 4090": Peak(165e12, 1.008e12),
}


@dataclass(frozen=True, slots=True)
class Cost:
    """What a window costs in a batch of this size."""

    batch: int
    encode: float  # seconds a window
    decode: float  # seconds a window
    tokens: int  # a window
    floor: float | None  # seconds a window; None: the device's peak is not known

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


# --- the physical floor ------------------------------------------------------------------------


def encoder_flops(shape: Shape) -> float:
    """Operations to encode a window, 2 for a multiply-add: convolutions, layers, attention."""
    d, t = shape.width, STATES
    convolutions = 2 * (2 * t) * d * 3 * shape.mels + 2 * t * 3 * d * d
    return convolutions + shape.encoder_layers * (24 * t * d * d + 4 * t * t * d)


def cross_flops(shape: Shape) -> float:
    """Operations to make the keys and values that the decoder reads of a window."""
    return 4 * STATES * shape.width**2 * shape.decoder_layers


def token_flops(shape: Shape, position: float) -> float:
    """Operations for one token of one sequence with ``position`` tokens before it."""
    d = shape.width
    layer = 28 * d * d + 4 * STATES * d + 4 * position * d
    return shape.decoder_layers * layer + 2 * d * shape.vocabulary


def step_bytes(shape: Shape, batch: int, position: float, size: int = 2) -> float:
    """Bytes that one step of a batch has to read: weights once, keys and values a sequence."""
    d = shape.width
    weights = 14 * d * d * shape.decoder_layers + d * shape.vocabulary
    return (weights + batch * 2 * (STATES + position) * d * shape.decoder_layers) * size


def floor_seconds(shape: Shape, batch: int, tokens: int, peak: Peak) -> float:
    """The least seconds a window in float16, one sequence each, encoding and decoding in turn."""
    position = tokens / 2 + PROMPT + 1
    encoding = (encoder_flops(shape) + cross_flops(shape)) / peak.flops
    computing = batch * token_flops(shape, position) / peak.flops
    reading = step_bytes(shape, batch, position) / peak.bandwidth
    return encoding + tokens * max(computing, reading) / batch


def known_peak(device: str, gpus: Sequence[str]) -> Peak | None:
    """Of the first GPU, if its name is known."""
    if device != "cuda" or not gpus:
        return None
    return next((peak for name, peak in PEAKS.items() if name in gpus[0]), None)


def given_peak(tera_flops: float | None, tera_bytes: float | None) -> Peak | None:
    """What the user knows of the device."""
    if tera_flops is None or tera_bytes is None:
        return None
    return Peak(tera_flops * 1e12, tera_bytes * 1e12)


# --- measuring ---------------------------------------------------------------------------------


def measure(
    folder: Path, shape: Shape, device: str, given: argparse.Namespace, peak: Peak | None
) -> list[Cost]:
    """The costs of a model folder, by batch size; ``given`` has the options of ``add_costs``."""
    if device == "cuda":
        preload_cublas()
    compute_type = "float16" if device == "cuda" else "int8"
    recognizer = Recognizer(folder, device, compute_type, 1)
    batches = given.batches or ([8, 16, 32, 64] if device == "cuda" else [1, 4, 8])
    return [_cost(recognizer, shape, batch, given, peak) for batch in batches]


def _cost(
    recognizer: Recognizer, shape: Shape, batch: int, given: argparse.Namespace, peak: Peak | None
) -> Cost:
    chance = np.random.default_rng(batch)
    rows = [
        chance.standard_normal((shape.mels, ROW_FRAMES), np.float32) * 0.5 for _ in range(batch)
    ]
    options = SpeechOptions(
        "batched", "en", "transcribe", None, None, given.beam_size, False, True, None, "auto"
    )
    encoding, decoding, lengths = [], [], [0]
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
    floor = None if peak is None else floor_seconds(shape, batch, given.tokens, peak)
    return Cost(
        batch,
        median(encoding[1:]),
        median(decoding[1:]) if decoding else 0.0,
        lengths[0],
        None if given.encode_only else floor,
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
    head = ["batch", "encode", "decode", "windows/s", "tokens/s", "share of the floor"]
    rows = [
        [
            cost.batch,
            f"{cost.encode:.4f}",
            f"{cost.decode:.4f}" if cost.decode else "-",
            f"{cost.windows_per_second:.2f}",
            f"{cost.tokens / cost.decode:.0f}" if cost.decode else "-",
            "-" if cost.share is None else f"{cost.share:.1%}",
        ]
        for cost in costs
    ]
    print_table(head, rows)


def told(cost: Cost) -> dict[str, Any]:
    """A cost for programs."""
    more = {"windows_per_second": cost.windows_per_second, "share_of_floor": cost.share}
    return {key: value and round(value, 6) for key, value in (asdict(cost) | more).items()}


# --- making a model ----------------------------------------------------------------------------


def make_shape(folder: Path, shape: Shape, tokens: int = TOKENS, seed: int = 1) -> Path:
    """A model folder that CTranslate2, faster-whisper and the engine open; returns the folder.

    Every window gives ``tokens`` tokens, the two timestamps among them, for a prompt of PROMPT.
    """
    if not 3 <= tokens <= POSITIONS // 2 - PROMPT - 1:
        raise SystemExit(f"{tokens} tokens a window are not possible: 3 to 220 are")
    folder.mkdir(parents=True)
    words, tokenizer = _vocabulary(shape)
    spec = WhisperSpec(shape.encoder_layers, shape.heads, shape.decoder_layers, shape.heads)
    weights = _Weights(np.random.default_rng(seed))
    _fill_encoder(spec.encoder, shape, weights)
    _fill_decoder(spec.decoder, shape, weights, tokens)
    spec.register_vocabulary(words)
    first_language = TEXT + 2
    spec.config.lang_ids = list(range(first_language, first_language + shape.languages))
    spec.config.suppress_ids = []
    spec.config.suppress_ids_begin = [TEXT]
    last = range(shape.decoder_layers // 2, shape.decoder_layers)
    spec.config.alignment_heads = [[layer, 0] for layer in last]
    spec.validate()
    spec.optimize(quantization="float16")
    spec.save(str(folder))
    tokenizer.save(str(folder / "tokenizer.json"))
    described = {"feature_size": shape.mels}
    (folder / "preprocessor_config.json").write_text(json.dumps(described))
    return folder


class _Weights:
    """Random layers."""

    def __init__(self, chance: np.random.Generator) -> None:
        self._chance = chance

    def matrix(self, *size: int) -> np.ndarray:
        return self._chance.standard_normal(size, np.float32) * np.float32(SPREAD)

    def linear(self, spec: Any, outputs: int, inputs: int, *, spared: int = 0) -> None:
        """A layer; its first ``spared`` outputs are 0."""
        spec.weight, spec.bias = self.matrix(outputs, inputs), self.matrix(outputs)
        spec.weight[:spared] = spec.bias[:spared] = 0

    def convolution(self, spec: Any, outputs: int, inputs: int) -> None:
        spec.weight, spec.bias = self.matrix(outputs, inputs, 3), self.matrix(outputs)

    def norm(self, spec: Any, width: int) -> None:
        spec.gamma, spec.beta = np.ones(width, np.float32), np.zeros(width, np.float32)

    def attention(self, spec: Any, width: int, *, own: bool, spared: int = 0) -> None:
        """Of a sequence to itself (queries, keys, values in one matrix) or to the encoder."""
        self.norm(spec.layer_norm, width)
        for layer, parts in zip(spec.linear, (3,) if own else (1, 2), strict=False):
            self.linear(layer, parts * width, width)
        self.linear(spec.linear[-1], width, width, spared=spared)

    def feed_forward(self, spec: Any, width: int, *, spared: int = 0) -> None:
        self.norm(spec.layer_norm, width)
        self.linear(spec.linear_0, 4 * width, width)
        self.linear(spec.linear_1, width, 4 * width, spared=spared)


def _fill_encoder(spec: Any, shape: Shape, weights: _Weights) -> None:
    d = shape.width
    weights.convolution(spec.conv1, d, shape.mels)
    weights.convolution(spec.conv2, d, d)
    spec.position_encodings.encodings = weights.matrix(STATES, d)
    weights.norm(spec.layer_norm, d)
    for layer in spec.layer:
        weights.attention(layer.self_attention, d, own=True)
        weights.feed_forward(layer.ffn, d)


def _fill_decoder(spec: Any, shape: Shape, weights: _Weights, tokens: int) -> None:
    """The layers leave the clocks alone; embedding, positions and projection make them tick."""
    d = shape.width
    spec.scale_embeddings = False
    for layer in spec.layer:
        weights.attention(layer.self_attention, d, own=True, spared=CLOCKS)
        weights.attention(layer.attention, d, own=False, spared=CLOCKS)
        weights.feed_forward(layer.ffn, d, spared=CLOCKS)
    weights.norm(spec.layer_norm, d)
    spec.embeddings.weight = weights.matrix(shape.vocabulary, d)
    spec.embeddings.weight[:, :CLOCKS] = 0
    spec.position_encodings.encodings = weights.matrix(POSITIONS, d)
    spec.position_encodings.encodings[:, :CLOCKS] = _clocks(tokens)
    projection = weights.matrix(shape.vocabulary, d)
    projection[:, :CLOCKS] = 0
    projection[TEXT, END_CLOCK] = WEIGHT
    projection[TEXT + 1 : -TIMESTAMPS, SPECIAL_CLOCK] = -WEIGHT
    projection[-TIMESTAMPS:, STAMP_CLOCK] = WEIGHT
    spec.projection.weight = projection


def _clocks(tokens: int) -> np.ndarray:
    """By position: the token it decides is the end, a timestamp, or text: [POSITIONS, CLOCKS]."""
    clocks = np.full((POSITIONS, CLOCKS), -TICK, np.float32)
    last = PROMPT - 1 + tokens - 1  # the position that decides the last token before the end
    clocks[last, STAMP_CLOCK] = TICK
    clocks[last + 1 :, END_CLOCK] = TICK
    clocks[:, SPECIAL_CLOCK] = TICK
    return clocks


def _vocabulary(shape: Shape) -> tuple[list[str], tokenizers.Tokenizer]:
    """All tokens, and a tokenizer that knows those without a time: bytes and invented words."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    syllables = ["".join(pair) for pair in itertools.product("bdfghklmnprstvwz", "aeiou")]
    invented = [f"\u0120{''.join(parts)}" for parts in itertools.product(syllables, repeat=3)]
    words = letters + random.Random(1).sample(invented, TEXT - len(letters) - 1)
    words.append("")  # as in Whisper's; without it CTranslate2 takes the model for English-only
    special = [
        "endoftext",
        "startoftranscript",
        *itertools.islice(LANGUAGES, shape.languages),
        "translate",
    ]
    special += ["transcribe", "startoflm", "startofprev", "nospeech", "notimestamps"]
    named = [f"<|{name}|>" for name in special]
    pieces = models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=[])
    tokenizer = tokenizers.Tokenizer(pieces)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(named)
    times = [f"<|{number * 0.02:.2f}|>" for number in range(TIMESTAMPS)]
    return [*words, *named, *times], tokenizer


if __name__ == "__main__":
    sys.exit(main())
