"""The least time that a GPU could take, by what it multiplies and what it reads from memory.

In: a model's shape, peaks by data sheet, how many windows and tokens. Out: seconds, which nobody
reaches; a share of it compares runs on different cards. Counted are the encoder, the projection of
its states for cross-attention, and greedy decoding in half precision; a beam, voice activity and
log-mel rows count as overhead. Pure; a model or a card that is not listed is None, never a guess.
"""

from collections.abc import Sequence
from dataclasses import dataclass

POSITIONS = 1500  # encoder states of a window
PROMPT = 4  # tokens before the text
HALF = 2  # bytes of a number
COMPUTE_TYPES = ("float16", "bfloat16")  # which the peaks below are for


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a Whisper model decides its work."""

    width: int
    encoder_layers: int
    decoder_layers: int
    mels: int = 80
    vocabulary: int = 51_865


@dataclass(frozen=True, slots=True)
class Peak:
    """What a GPU can do at most."""

    flops: float  # half precision by tensor cores, 32 bit sums, without sparsity, a second
    bandwidth: float  # bytes a second


# By each model's config.json; what a layer does: openai/whisper, whisper/model.py. Distil-Whisper
# keeps the encoder and few layers of the decoder (arXiv 2311.00430).
SHAPES = {
    "tiny": Shape(384, 4, 4),
    "base": Shape(512, 6, 6),
    "small": Shape(768, 12, 12),
    "medium": Shape(1024, 24, 24),
    "large-v1": Shape(1280, 32, 32),
    "large-v2": Shape(1280, 32, 32),
    "large-v3": Shape(1280, 32, 32, mels=128, vocabulary=51_866),
    "large-v3-turbo": Shape(1280, 32, 4, mels=128, vocabulary=51_866),
    "distil-small": Shape(768, 12, 4),
    "distil-medium": Shape(1024, 24, 2),
    "distil-large-v2": Shape(1280, 32, 2),
    "distil-large-v3": Shape(1280, 32, 2, mels=128, vocabulary=51_866),
    "distil-large-v3.5": Shape(1280, 32, 2, mels=128, vocabulary=51_866),
}

# NVIDIA's data sheets of each card, by the name that NVML gives it; a laptop's or a slice of a card
# is another one.
PEAKS = {
    "NVIDIA H200": Peak(989e12, 4.8e12),
    "NVIDIA H100 80GB HBM3": Peak(989e12, 3.35e12),
    "NVIDIA H100 PCIe": Peak(756e12, 2.0e12),
    "NVIDIA A100-SXM4-80GB": Peak(312e12, 2.039e12),
    "NVIDIA A100 80GB PCIe": Peak(312e12, 1.935e12),
    "NVIDIA A100-SXM4-40GB": Peak(312e12, 1.555e12),
    "NVIDIA A100-PCIE-40GB": Peak(312e12, 1.555e12),
    "NVIDIA A30": Peak(165e12, 933e9),
    "NVIDIA A10": Peak(125e12, 600e9),
    "NVIDIA L40S": Peak(362e12, 864e9),
    "NVIDIA L4": Peak(121e12, 300e9),
    "Tesla T4": Peak(65e12, 320e9),
    "NVIDIA GeForce RTX 4090": Peak(165e12, 1008e9),
    "NVIDIA GeForce RTX 3090": Peak(71e12, 936e9),
}


def shape_named(model: str) -> Shape | None:
    """By the name in the catalogue; English-only models have their sister's shape."""
    return SHAPES.get(model.removesuffix(".en"))


def window_seconds(shape: Shape, peak: Peak, batch: int, tokens: float) -> float:
    """One window in a batch of so many, with so many tokens of text in each."""
    encoding = encoder_flops(shape) / peak.flops
    context = PROMPT + tokens / 2
    step = max(
        batch * token_flops(shape, context) / peak.flops,
        step_bytes(shape, batch, context) / peak.bandwidth,
    )
    return encoding + tokens * step / batch


def floor_seconds(
    shape: Shape, peaks: Sequence[Peak], batch: int, windows: int, tokens: int
) -> float:
    """All windows of a run on these GPUs at once, each doing what it can."""
    each = tokens / windows
    return windows / sum(1 / window_seconds(shape, peak, batch, each) for peak in peaks)


def encoder_flops(shape: Shape) -> float:
    """A window: two convolutions, the layers, keys and values for cross-attention."""
    d, t = shape.width, POSITIONS
    convolutions = 2 * 2 * t * d * 3 * shape.mels + 2 * t * 3 * d * d
    layers = shape.encoder_layers * (24 * t * d * d + 4 * t * t * d)
    return convolutions + layers + 4 * t * d * d * shape.decoder_layers


def token_flops(shape: Shape, context: float) -> float:
    """A token of one sequence: the decoder's layers, then the vocabulary."""
    d = shape.width
    layer = 28 * d * d + 4 * POSITIONS * d + 4 * context * d
    return shape.decoder_layers * layer + 2 * d * shape.vocabulary


def step_bytes(shape: Shape, batch: int, context: float) -> float:
    """Read for one token of every sequence: all weights once, each sequence's keys and values."""
    d, layers = shape.width, shape.decoder_layers
    weights = 14 * d * d * layers + d * shape.vocabulary
    return HALF * (weights + batch * 2 * (POSITIONS + context) * d * layers)
