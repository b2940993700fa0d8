"""Models of Whisper's true shapes with random weights, and the least time such a shape can take.

In: a shape, a number of tokens. Out: a model folder for CTranslate2, faster-whisper and the engine;
the physical floor of a window of it on a device with a known peak.
Knows nothing about measuring.

Speed depends on shapes and lengths, not on what the numbers mean, so random weights measure it. A
random model does not know when to stop, though. So that every window gives the same number of
tokens, whatever decodes it, three of the decoder's dimensions are taken from the layers and used as
a clock: the position embedding sets them, the projection lets them decide when the closing
timestamp and the end of text win, and that no other special token ever does. All matrix products
are those of a real model. The vocabulary is invented, with Whisper's layout; the projection is not
tied to the embedding, which costs memory (130 MB for large-v3) and no time.
"""

import itertools
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from ctranslate2.specs import WhisperSpec
from tokenizers import decoders, models, pre_tokenizers

from engine import floor
from engine.floor import PEAKS, Peak
from engine.speech.languages import LANGUAGES

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

    def floor(self, peak: Peak, batch: int, tokens: int) -> float:
        """The least seconds of a window in float16: see engine/floor.py."""
        work = floor.Shape(
            self.width, self.encoder_layers, self.decoder_layers, self.mels, self.vocabulary
        )
        return floor.window_seconds(work, peak, batch, tokens)


SHAPES = {
    "tiny": Shape(384, 6, 4, 4, 80),
    "base": Shape(512, 8, 6, 6, 80),
    "small": Shape(768, 12, 12, 12, 80),
    "large-v3": Shape(1280, 20, 32, 32, 128, 100),
    "large-v3-turbo": Shape(1280, 20, 32, 4, 128, 100),
}


def known_peak(device: str, gpus: Sequence[str]) -> Peak | None:
    """Of the first GPU, if its name is known."""
    return PEAKS.get(gpus[0]) if device == "cuda" and gpus else None


def given_peak(tera_flops: float | None, tera_bytes: float | None) -> Peak | None:
    """What the user knows of the device."""
    if tera_flops is None or tera_bytes is None:
        return None
    return Peak(tera_flops * 1e12, tera_bytes * 1e12)


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
        # no two alike: CTranslate2 saves equal ones once, and then the engine's torch encoder does
        # not know the file
        spec.gamma, spec.beta = self.matrix(width) + np.float32(1), self.matrix(width)

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
