"""Whisper's encoder in torch: log-mel rows in, states out; the other half of the recogniser's seam.

The arithmetic is that of openai-whisper's ``AudioEncoder`` (Radford et al. 2022, figure 1) with the
weights of the CTranslate2 model file. On a CPU one row at a time, which is as fast as several and
makes a row's states independent of its neighbours; on a GPU all rows at once, and the states stay
there. Runs in a slot's process only, and only where torch is installed.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as nn

from engine.speech.weights import encoder_weights

Weights = Mapping[str, Tensor]
Linear = Callable[[Tensor], Tensor]

LINEAR = (  # of a layer, in the order of their use
    "self_attention/linear_0",  # queries, keys and values
    "self_attention/linear_1",
    "ffn/linear_0",
    "ffn/linear_1",
)
LEVELS = 127  # of a whole number of 8 bits, on each side of 0
BLOCK = 250  # queries; with 1,500 keys their scores (750 kB) stay in a core's cache


class TorchEncoder:
    """One encoder on one device."""

    def __init__(self, model: Path, number_type: str, device: str, threads: int) -> None:
        """``number_type``: what is multiplied: "bfloat16", "float16", "float32", or "int8".

        With "int8" (made for CPUs) the linear layers multiply whole numbers, attention and
        convolutions bfloat16, and what is added up between them is float32. Raises
        UnknownWeightsError.
        """
        torch.set_num_threads(threads)
        weights = encoder_weights(model)
        whole = number_type == "int8"
        self._type: torch.dtype = torch.bfloat16 if whole else getattr(torch, number_type)
        self._between: torch.dtype = torch.float32 if whole else self._type
        self._device = torch.device(device)
        self._heads = weights.heads
        self._outer = {
            name: self._tensor(array, self._type if name.startswith("conv") else self._between)
            for name, array in weights.outer.items()
        }
        self._norms = [
            {name: self._tensor(a, self._between) for name, a in layer.items() if "norm" in name}
            for layer in weights.layers
        ]
        self._linear = [
            {name: self._linear_of(layer, name, whole=whole) for name in LINEAR}
            for layer in weights.layers
        ]
        self._look: Callable[..., Tensor] = (
            attention_in_blocks
            if whole and self._device.type == "cpu"
            else nn.scaled_dot_product_attention
        )

    def _tensor(self, array: np.ndarray, number_type: torch.dtype) -> Tensor:
        return torch.from_numpy(np.array(array)).to(self._device, number_type)

    def _linear_of(self, layer: Mapping[str, np.ndarray], name: str, *, whole: bool) -> Linear:
        weight, bias = (self._tensor(layer[f"{name}/{p}"], self._between) for p in _PAIR)
        return Int8Linear(weight, bias) if whole else partial(nn.linear, weight=weight, bias=bias)

    def encode(self, rows: Sequence[np.ndarray]) -> Any:
        """States of log-mel rows [mels, frames]: [n, frames / 2, d_model].

        On a CPU a float32 array; on a GPU a float16 tensor that CTranslate2 can read where it is.
        """
        with torch.inference_mode():
            if self._device.type == "cpu":
                states = [self._states(torch.from_numpy(np.array(row[None]))) for row in rows]
                return torch.cat(states).float().numpy()
            features = torch.from_numpy(np.stack(rows)).to(self._device)
            found = self._states(features).to(torch.float16).contiguous()
            torch.cuda.synchronize(self._device)
            return found

    def _states(self, features: Tensor) -> Tensor:
        outer = self._outer
        x = nn.gelu(nn.conv1d(features.to(self._type), *_of(outer, "conv1", _PAIR), padding=1))
        x = nn.gelu(nn.conv1d(x, *_of(outer, "conv2", _PAIR), stride=2, padding=1))
        x = x.transpose(1, 2).contiguous().to(self._between)
        x = x + outer["position_encodings/encodings"][: x.shape[1]]
        for norms, linear in zip(self._norms, self._linear, strict=True):
            mix, join, widen, narrow = (linear[name] for name in LINEAR)
            x = x + join(self._attend(mix(_norm(x, norms, "self_attention/layer_norm"))))
            y = widen(_norm(x, norms, "ffn/layer_norm"))
            x = x + narrow(nn.gelu(y.to(self._type)))
        return _norm(x, outer, "layer_norm")

    def _attend(self, mixed: Tensor) -> Tensor:
        """Every frame looks at every frame, in each head by itself."""
        count, frames, width = mixed.shape
        parts = mixed.to(self._type).view(count, frames, 3, self._heads, -1)
        queries, keys, values = parts.permute(2, 0, 3, 1, 4)
        seen = self._look(queries, keys, values)
        return seen.transpose(1, 2).reshape(count, frames, width // 3)


class Int8Linear:
    """A linear layer in whole numbers: each row of the weights, and of the input, has its scale.

    As CTranslate2 does it (its docs/quantization.md), so that the states are as exact as its own.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        scale = _largest(weight) / LEVELS
        self._weight = (weight / scale).round_().to(torch.int8).t()
        self._scale = scale.flatten()
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        """[..., in] of any float type -> [..., out] in float32."""
        rows = x.flatten(0, -2)
        largest = _largest(rows)
        # torch's name for the product of two int8 matrices; there is no public one.
        product = torch._int_mm((rows * (LEVELS / largest)).round_().to(torch.int8), self._weight)
        found = torch.addcmul(self._bias, product * (largest / LEVELS), self._scale)
        return found.view(*x.shape[:-1], -1)


def attention_in_blocks(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """As torch's scaled_dot_product_attention on a CPU: [n, heads, frames, width], each.

    Two plain products and a softmax for each block of queries: where a CPU multiplies bfloat16 but
    has no AMX, two thirds of the time of torch's own, which is written for AMX
    (benchmarks/README.md, encoders.py).
    """
    count, heads, frames, width = queries.shape
    seen = torch.empty((count, frames, heads, width), dtype=queries.dtype).transpose(1, 2)
    scores = torch.empty((BLOCK, frames), dtype=queries.dtype)
    for n in range(count):
        for head in range(heads):
            asked = queries[n, head] * width**-0.5
            key, value = keys[n, head].contiguous().t(), values[n, head].contiguous()
            for start in range(0, frames, BLOCK):
                block = asked[start : start + BLOCK]
                score = torch.mm(block, key, out=scores[: len(block)])
                torch.softmax(score, -1, out=score)
                seen[n, head, start : start + BLOCK] = torch.mm(score, value)
    return seen


_PAIR = ("weight", "bias")
_NORM = ("gamma", "beta")


def _of(weights: Weights, name: str, parts: tuple[str, str]) -> tuple[Tensor, Tensor]:
    first, second = parts
    return weights[f"{name}/{first}"], weights[f"{name}/{second}"]


def _norm(x: Tensor, weights: Weights, name: str) -> Tensor:
    return nn.layer_norm(x, x.shape[-1:], *_of(weights, name, _NORM))


def _largest(rows: Tensor) -> Tensor:
    """The largest magnitude of each row, in float32; of a row of zeros a number that divides."""
    return rows.abs().amax(-1, keepdim=True).float().clamp_(min=1e-8)
