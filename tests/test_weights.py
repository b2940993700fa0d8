"""The encoder's weights are found in the model file, and a file that is different is told apart."""

import struct

import numpy as np
import pytest

from engine.speech.weights import LAYER, UnknownWeightsError, encoder_weights


def test_shapes_are_those_of_the_model(tiny_en):
    weights = encoder_weights(tiny_en)
    assert (weights.heads, len(weights.layers)) == (6, 4)
    assert weights.outer["conv1/weight"].shape == (384, 80, 3)
    assert weights.outer["position_encodings/encodings"].shape == (1500, 384)
    for layer in weights.layers:
        assert tuple(layer) == LAYER
        assert layer["self_attention/linear_0/weight"].shape == (3 * 384, 384)
        assert all(array.dtype == np.float16 for array in layer.values())


def test_positions_are_the_sinusoids_of_the_paper(tiny_en):
    positions = encoder_weights(tiny_en).outer["position_encodings/encodings"].astype(np.float32)
    scale = np.exp(-np.log(10_000) / (192 - 1) * np.arange(192))
    angles = np.arange(1500)[:, None] * scale[None]
    expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    assert np.abs(positions - expected).max() < 2e-3


def written(folder, head, variables=()):
    """A file in the format, with these variables: name, shape, type number, bytes."""
    folder.mkdir(exist_ok=True)
    version, spec = head
    data = struct.pack("<I", version) + text(spec) + struct.pack("<II", 3, len(variables))
    for name, shape, kind, content in variables:
        data += text(name) + struct.pack(f"<B{len(shape)}I", len(shape), *shape)
        data += struct.pack("<BI", kind, len(content)) + content
    (folder / "model.bin").write_bytes(data)
    return folder


def text(word):
    return struct.pack("<H", len(word) + 1) + word.encode() + b"\0"


@pytest.mark.parametrize(
    ("head", "variables", "reason"),
    [
        ((7, "WhisperSpec"), (), "a WhisperSpec of format 7, not 6"),
        ((6, "TransformerSpec"), (), "a TransformerSpec of format 6"),
        ((6, "WhisperSpec"), (), "other parts"),
        ((6, "WhisperSpec"), [("encoder/rotary", (1,), 0, b"\0\0\0\0")], "other parts: rotary"),
        ((6, "WhisperSpec"), [("encoder/conv1/weight", (1,), 9, b"\0")], "unknown type 9"),
        ((6, "WhisperSpec"), [("encoder/conv1/weight", (9, 9), 0, b"\0")], "shorter than it says"),
    ],
)
def test_a_file_that_is_different_is_not_read_wrongly(tmp_path, head, variables, reason):
    with pytest.raises(UnknownWeightsError, match=reason):
        encoder_weights(written(tmp_path / "model", head, variables))


@pytest.mark.parametrize(
    "content", [b"", b"\6\0\0\0", b'{"seconds": 0.1}', b"\6\0\0\0\2\0\xff\xff"]
)
def test_a_file_that_is_no_model_is_not_read_wrongly(tmp_path, content):
    (tmp_path / "model.bin").write_bytes(content)
    with pytest.raises(UnknownWeightsError):
        encoder_weights(tmp_path)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(UnknownWeightsError, match="cannot be read"):
        encoder_weights(tmp_path)
