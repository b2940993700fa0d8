"""Whisper's encoder in torch: log-mel rows in, states out; the other half of the recogniser's seam.

The arithmetic is that of openai-whisper's ``AudioEncoder`` (Radford et al. 2022, figure 1) with the
weights of the CTranslate2 model file. On a CPU one row at a time, which is as fast as several and
makes a row's states independent of its neighbours; on a GPU all rows at once, and the states stay
there. Runs in a slot's process only, and only where torch is installed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as nn

from engine.speech.weights import encoder_weights

Weights = Mapping[str, Tensor]


class TorchEncoder:
    """One encoder on one device."""

    def __init__(self, model: Path, number_type: str, device: str, threads: int) -> None:
        """``number_type``: "bfloat16", "float16" or "float32"; raises UnknownWeightsError."""
        torch.set_num_threads(threads)
        weights = encoder_weights(model)
        self._type: torch.dtype = getattr(torch, number_type)
        self._device = torch.device(device)
        self._heads = weights.heads
        self._outer = self._tensors(weights.outer)
        self._layers = [self._tensors(layer) for layer in weights.layers]

    def _tensors(self, arrays: Mapping[str, np.ndarray]) -> Weights:
        return {
            name: torch.from_numpy(np.array(array)).to(self._device, self._type)
            for name, array in arrays.items()
        }

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
        x = nn.gelu(nn.conv1d(features.to(self._type), *_pair(outer, "conv1"), padding=1))
        x = nn.gelu(nn.conv1d(x, *_pair(outer, "conv2"), stride=2, padding=1)).transpose(1, 2)
        x = x + outer["position_encodings/encodings"][: x.shape[1]]
        for layer in self._layers:
            y = _norm(x, layer, "self_attention/layer_norm")
            x = x + self._attend(y, layer)
            y = _norm(x, layer, "ffn/layer_norm")
            y = nn.gelu(nn.linear(y, *_pair(layer, "ffn/linear_0")))
            x = x + nn.linear(y, *_pair(layer, "ffn/linear_1"))
        return _norm(x, outer, "layer_norm")

    def _attend(self, x: Tensor, layer: Weights) -> Tensor:
        """Every frame looks at every frame, in each head by itself."""
        count, frames, width = x.shape
        mixed = nn.linear(x, *_pair(layer, "self_attention/linear_0"))
        parts = mixed.view(count, frames, 3, self._heads, width // self._heads)
        queries, keys, values = parts.permute(2, 0, 3, 1, 4)
        seen = nn.scaled_dot_product_attention(queries, keys, values)
        seen = seen.transpose(1, 2).reshape(count, frames, width)
        return nn.linear(seen, *_pair(layer, "self_attention/linear_1"))


def _pair(weights: Weights, name: str) -> tuple[Tensor, Tensor]:
    return weights[f"{name}/weight"], weights[f"{name}/bias"]


def _norm(x: Tensor, weights: Weights, name: str) -> Tensor:
    gamma, beta = weights[f"{name}/gamma"], weights[f"{name}/beta"]
    return nn.layer_norm(x, x.shape[-1:], gamma, beta)
