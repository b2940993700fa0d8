"""The encoder's weights in a CTranslate2 model file, found without that library.

In: a ``model.bin``. Out: arrays of the encoder by name, mapped rather than read; and whether the
file is one we know. The format is CTranslate2's ``ModelSpec.save`` (specs/model_spec.py there),
version 6, little-endian: a header, then every variable's name, shape, type and bytes. Knows nothing
about torch, nor what is done with the weights.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

VERSION = 6
SPEC = "WhisperSpec"
PREFIX = "encoder/"
TYPES: Mapping[int, type[np.generic]] = {
    0: np.float32,
    1: np.int8,
    2: np.int16,
    3: np.int32,
    4: np.float16,
}

OUTER = (  # before and after the layers
    "conv1/weight",
    "conv1/bias",
    "conv2/weight",
    "conv2/bias",
    "position_encodings/encodings",
    "layer_norm/gamma",
    "layer_norm/beta",
)
LAYER = (  # of one layer, in the order of their use
    "self_attention/layer_norm/gamma",
    "self_attention/layer_norm/beta",
    "self_attention/linear_0/weight",  # queries, keys and values
    "self_attention/linear_0/bias",
    "self_attention/linear_1/weight",
    "self_attention/linear_1/bias",
    "ffn/layer_norm/gamma",
    "ffn/layer_norm/beta",
    "ffn/linear_0/weight",
    "ffn/linear_0/bias",
    "ffn/linear_1/weight",
    "ffn/linear_1/bias",
)


class UnknownWeightsError(Exception):
    """The file is not of a kind whose encoder can be read; the message says what is different."""


@dataclass(frozen=True, slots=True)
class EncoderWeights:
    """Whisper's encoder: arrays of float16 or float32, as they lie in the file."""

    heads: int
    outer: Mapping[str, np.ndarray]  # the names of OUTER
    layers: tuple[Mapping[str, np.ndarray], ...]  # each the names of LAYER


def encoder_weights(model: Path) -> EncoderWeights:
    """The encoder in a model folder; UnknownWeightsError if its file is not as we know it."""
    file = model / "model.bin"
    found = {
        name.removeprefix(PREFIX): _array(file, variable)
        for name, variable in _variables(file).items()
        if name.startswith(PREFIX)
    }
    count = len(
        {name.split("/")[0] for name in found if name.startswith("layer_")} - {"layer_norm"}
    )
    names = [*OUTER, *(f"layer_{n}/{part}" for n in range(count) for part in LAYER)]
    expected = {*names, "num_heads"}
    different = sorted(set(found) - expected) + sorted(expected - set(found))
    if not count or different:
        raise UnknownWeightsError(f"its encoder has other parts: {', '.join(different[:3])}")
    for name in names:
        if found[name].dtype not in (np.float16, np.float32):
            raise UnknownWeightsError(f"{name} is stored as {found[name].dtype}")
    layers = ({part: found[f"layer_{n}/{part}"] for part in LAYER} for n in range(count))
    outer = {name: found[name] for name in OUTER}
    return EncoderWeights(int(found["num_heads"].item()), outer, tuple(layers))


@dataclass(frozen=True, slots=True)
class _Variable:
    shape: tuple[int, ...]
    kind: int
    offset: int  # of its bytes in the file


def _array(file: Path, variable: _Variable) -> np.ndarray:
    kind = TYPES.get(variable.kind)
    if kind is None:
        raise UnknownWeightsError(f"a variable has the unknown type {variable.kind}")
    try:
        return np.memmap(file, kind, "r", variable.offset, variable.shape or (1,))
    except (OSError, ValueError) as error:
        raise UnknownWeightsError(f"it is shorter than it says: {error}") from error


def _variables(file: Path) -> dict[str, _Variable]:
    """Every variable of the file, by name; only the headers are read."""
    try:
        with file.open("rb") as data:
            version, spec = _number(data, "I"), _text(data)
            if (version, spec) != (VERSION, SPEC):
                raise UnknownWeightsError(f"it is a {spec} of format {version}, not {VERSION}")
            _number(data, "I")  # the specification's own revision
            return dict(_variable(data) for _ in range(_number(data, "I")))
    except (OSError, struct.error, UnicodeDecodeError) as error:
        raise UnknownWeightsError(f"it cannot be read: {error}") from error


def _variable(data: BinaryIO) -> tuple[str, _Variable]:
    name = _text(data)
    shape = tuple(_number(data, "I") for _ in range(_number(data, "B")))
    kind, size = _number(data, "B"), _number(data, "I")
    variable = _Variable(shape, kind, data.tell())
    data.seek(size, 1)
    return name, variable


def _number(data: BinaryIO, kind: str) -> int:
    value: Any = struct.unpack("<" + kind, data.read(struct.calcsize(kind)))[0]
    return int(value)


def _text(data: BinaryIO) -> str:
    return data.read(_number(data, "H")).rstrip(b"\0").decode("utf-8")
