"""torch's encoder with real weights: CTranslate2's states, whatever the neighbours."""

from pathlib import Path

import numpy as np
import pytest
from speech import decoded

import engine
from engine.config import Config
from engine.output.results import read_result_json

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'reelmine[torch]'")
pytestmark = pytest.mark.torch

from test_whisper import OPTIONS, rows_of  # noqa: E402 -- needs no torch, but the rest does

from engine.speech.canary import listen  # noqa: E402
from engine.speech.encoder import Int8Linear, TorchEncoder, attention_in_blocks  # noqa: E402
from engine.speech.encoders import Encoder  # noqa: E402
from engine.speech.whisper import Recognizer  # noqa: E402


@pytest.fixture(scope="module")
def rows(samples):
    return rows_of(decoded(samples / "coffee_shop.mp4"))[1]


@pytest.fixture(scope="module")
def exact(tiny_en, rows):
    """CTranslate2's states in float32."""
    return np.array(Recognizer(tiny_en, "cpu", "float32", 2).encode(rows))


def error(states, exact):
    return float(np.linalg.norm(states - exact) / np.linalg.norm(exact))


def test_float32_states_are_those_of_ctranslate2(tiny_en, rows, exact):
    states = TorchEncoder(tiny_en, "float32", "cpu", 2).encode(rows)
    assert states.dtype == np.float32 and states.shape == (len(rows), 1500, 384)
    assert error(states, exact) < 1e-3


def test_bfloat16_is_nearer_to_float32_than_int8_is(tiny_en, rows, exact):
    states = TorchEncoder(tiny_en, "bfloat16", "cpu", 2).encode(rows)
    int8 = np.array(Recognizer(tiny_en, "cpu", "int8", 2).encode(rows))
    assert error(states, exact) < error(int8, exact)


def test_int8_is_as_near_to_float32_as_ctranslate2s_is(tiny_en, rows, exact):
    states = TorchEncoder(tiny_en, "int8", "cpu", 2).encode(rows)
    int8 = np.array(Recognizer(tiny_en, "cpu", "int8", 2).encode(rows))
    assert states.dtype == np.float32 and states.shape == exact.shape
    assert error(states, exact) < 1.1 * error(int8, exact)


def test_an_int8_layer_is_the_product_to_a_hundredth():
    x, weight, bias = torch.randn(2, 7, 64), torch.randn(32, 64), torch.randn(32)
    x[1, 3] = 0  # a row of zeros has no scale
    found = Int8Linear(weight, bias)(x)
    assert found.shape == (2, 7, 32) and torch.equal(found[1, 3], bias)
    assert error(found, torch.nn.functional.linear(x, weight, bias)) < 0.01


@pytest.mark.parametrize("frames", [1, 249, 250, 251, 1500])
def test_attention_in_blocks_is_attention(frames):
    asked = torch.randn(2, 3, 3, frames, 16).permute(1, 0, 2, 3, 4)  # in no order of its own
    whole = torch.nn.functional.scaled_dot_product_attention(*asked)
    assert error(attention_in_blocks(*asked), whole) < 1e-5
    in_bfloat16 = attention_in_blocks(*asked.to(torch.bfloat16)).float()
    assert error(in_bfloat16, whole) < 0.02


@pytest.mark.parametrize("number_type", ["bfloat16", "int8"])
def test_states_do_not_depend_on_neighbours_or_threads(tiny_en, rows, number_type):
    encoder = TorchEncoder(tiny_en, number_type, "cpu", 1)
    together = encoder.encode(rows)
    for number, row in enumerate(rows):
        assert np.array_equal(encoder.encode([row])[0], together[number])
    assert np.array_equal(TorchEncoder(tiny_en, number_type, "cpu", 2).encode(rows), together)


@pytest.mark.parametrize("number_type", ["bfloat16", "int8"])
def test_recognizer_understands_what_torch_has_encoded(tiny_en, rows, number_type):
    encoder = Encoder(f"torch-{number_type}-speech", "")
    recognizer = Recognizer(tiny_en, "cpu", "int8", 2, encoder)
    heard, _ = listen(recognizer, ("meeting", "tuesday"))
    assert heard.startswith("The meeting")
    states = recognizer.encode(rows)
    results = recognizer.decode(
        states, range(len(rows)), [30.0] * len(rows), ["en"] * len(rows), OPTIONS
    )
    assert "dead on my feet" in "".join(p.text for r in results for p in r.pieces)


def test_slots_with_torch_give_the_same_bytes_and_name_it(samples, tiny_en, tmp_path):
    videos = [samples / "coffee_shop.mp4", samples / "moving_house.wav"]
    for slots in (1, 2):
        config = Config(output=tmp_path / str(slots), model="tiny.en", encoder="torch", slots=slots)
        assert engine.run(videos, config).exit_code == 0
    for file in filter(Path.is_file, (tmp_path / "1").iterdir()):
        assert file.read_bytes() == (tmp_path / "2" / file.name).read_bytes()
    stored = read_result_json((tmp_path / "1" / "coffee_shop.json").read_bytes())
    numbers = ("int8", "bfloat16", "float32")
    assert stored.model["encoder"] in [f"torch-{kind}-speech" for kind in numbers]
    assert len(stored.transcript.segments) > 10


@pytest.mark.parametrize("number_type", ["float16", "bfloat16", "float32", "int8"])
def test_all_of_an_encoder_is_on_its_device(tiny_en, monkeypatch, number_type):
    """A device without memory stands for a GPU: what is made elsewhere cannot be put together."""
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    encoder = TorchEncoder(tiny_en, number_type, "meta", 1)
    states = encoder.encode([np.zeros((80, 3000), np.float32)] * 2)
    assert (states.device.type, states.dtype) == ("meta", torch.float16)
    assert states.shape == (2, 1500, 384) and states.is_contiguous()
