"""torch's encoder with real weights: CTranslate2's states, whatever the neighbours."""

from pathlib import Path

import numpy as np
import pytest
from speech import decoded

import engine
from engine.config import Config
from engine.output.results import read_result_json

pytest.importorskip("torch", reason="torch is not installed: pip install 'reelmine[torch]'")
pytestmark = pytest.mark.torch

from test_whisper import OPTIONS, rows_of  # noqa: E402 -- needs no torch, but the rest does

from engine.speech.canary import listen  # noqa: E402
from engine.speech.encoder import TorchEncoder  # noqa: E402
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


def test_states_do_not_depend_on_neighbours(tiny_en, rows):
    encoder = TorchEncoder(tiny_en, "bfloat16", "cpu", 1)
    together = encoder.encode(rows)
    for number, row in enumerate(rows):
        assert np.array_equal(encoder.encode([row])[0], together[number])


def test_recognizer_understands_what_torch_has_encoded(tiny_en, rows):
    recognizer = Recognizer(tiny_en, "cpu", "int8", 2, "bfloat16")
    heard, _ = listen(recognizer, ("meeting", "tuesday"))
    assert heard.startswith("The meeting")
    states = recognizer.encode(rows)
    results = recognizer.decode(
        states, range(len(rows)), [30.0] * len(rows), ["en"] * len(rows), OPTIONS
    )
    assert "burned the midnight oil" in "".join(p.text for r in results for p in r.pieces)


def test_slots_with_torch_give_the_same_bytes_and_name_it(samples, tiny_en, tmp_path):
    videos = [samples / "coffee_shop.mp4", samples / "moving_house.wav"]
    for slots in (1, 2):
        config = Config(output=tmp_path / str(slots), model="tiny.en", encoder="torch", slots=slots)
        assert engine.run(videos, config).exit_code == 0
    for file in filter(Path.is_file, (tmp_path / "1").iterdir()):
        assert file.read_bytes() == (tmp_path / "2" / file.name).read_bytes()
    stored = read_result_json((tmp_path / "1" / "coffee_shop.json").read_bytes())
    assert stored.model["encoder"] in ("torch-bfloat16", "torch-float32")
    assert len(stored.transcript.segments) > 10
