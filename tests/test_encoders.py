"""Which encoder a run uses: known before the first slot opens, and the same ever after."""

import importlib.util
from contextlib import closing
from dataclasses import replace

import pytest

import engine
from engine import events, setup
from engine.errors import UsageError
from engine.pools.hardware import snapshot
from engine.setup import BEGUN_ENCODER
from engine.speech.encoders import Encoder, Means, choose
from engine.store.ledger import Ledger
from engine.testing.transcriber import make_model

AMX = frozenset({"avx512f", "avx512_bf16", "amx_bf16"})
AVX = frozenset({"avx512f", "avx512_bf16"})
VNNI = AVX | {"avx512_vnni"}
HAS_TORCH = importlib.util.find_spec("torch") is not None


def means(device="cpu", features=AMX, torch=True, unknown=None, int8=True):
    return Means(device, features, int8, torch, unknown)


def chosen(asked, here, begun=None, sequential=False):
    return choose(asked, begun, here, sequential=sequential).name


@pytest.mark.parametrize(
    ("here", "name"),
    [
        (means(), "torch-bfloat16-speech"),
        (means(features=AMX | VNNI), "torch-bfloat16-speech"),
        (means(features=VNNI), "torch-int8-speech"),
        (means(features=VNNI, int8=False), "ctranslate2-speech"),
        (means(features=VNNI, torch=False), "ctranslate2-speech"),
        (means(features=AVX), "ctranslate2-speech"),
        (means(features=frozenset()), "ctranslate2-speech"),
        (means(torch=False), "ctranslate2-speech"),
        (means(unknown="its encoder has other parts"), "ctranslate2-speech"),
        (means(device="cuda"), "ctranslate2"),
    ],
)
def test_best_encoder_follows_from_processor_and_installation(here, name):
    assert chosen("auto", here) == name


@pytest.mark.parametrize(
    ("here", "name"),
    [
        (means(features=VNNI), "torch-int8-speech"),
        (means(features=VNNI, int8=False), "torch-bfloat16-speech"),
        (means(features=AVX), "torch-bfloat16-speech"),
        (means(features=frozenset()), "torch-float32-speech"),
        (means(device="cuda"), "torch-float16"),
    ],
)
def test_torch_asked_for_computes_in_what_the_device_has(here, name):
    assert chosen("torch", here) == name
    assert chosen("ctranslate2", here) == "ctranslate2"


@pytest.mark.parametrize(("features", "every_run"), [(AMX, True), (VNNI, False)])
def test_a_processor_with_fast_units_but_without_torch_hears_what_it_misses(features, every_run):
    encoder = choose("auto", None, means(features=features, torch=False), sequential=False)
    assert "pip install 'reelmine[torch]'" in encoder.why
    assert encoder.second_best == every_run


@pytest.mark.parametrize(
    ("name", "torch_type", "speech_only"),
    [
        ("ctranslate2", None, False),
        ("ctranslate2-speech", None, True),
        ("torch-int8-speech", "int8", True),
        ("torch-float16", "float16", False),
    ],
)
def test_a_name_says_what_is_multiplied_and_what_is_read(name, torch_type, speech_only):
    encoder = Encoder(name, "")
    assert (encoder.torch_type, encoder.speech_only) == (torch_type, speech_only)


def test_a_folder_keeps_the_encoder_it_was_begun_with():
    assert chosen("auto", means(), begun="ctranslate2") == "ctranslate2"
    assert chosen("auto", means(features=AVX), begun="torch-bfloat16") == "torch-bfloat16"
    assert chosen("auto", means(torch=False), begun="ctranslate2-speech") == "ctranslate2-speech"
    assert chosen("ctranslate2", means(), begun="torch-bfloat16") == "ctranslate2"


@pytest.mark.parametrize(
    ("asked", "begun", "here", "sentence"),
    [
        ("torch", None, means(torch=False), "--encoder torch needs torch, which is not installed"),
        ("torch", None, means(unknown="it is new"), r"cannot read this model \(it is new\)"),
        ("auto", "torch-bfloat16", means(torch=False), "was begun with the encoder torch-bfloat16"),
    ],
)
def test_an_encoder_that_cannot_be_had_is_an_error_with_a_remedy(asked, begun, here, sentence):
    with pytest.raises(UsageError, match=sentence) as caught:
        chosen(asked, here, begun)
    assert "--encoder ctranslate2" in str(caught.value) or "leave it out" in str(caught.value)


def test_sequential_mode_is_the_librarys_own():
    assert chosen("auto", means(), begun="torch-bfloat16", sequential=True) == "ctranslate2"
    for asked in ("torch", "ctranslate2-speech"):
        with pytest.raises(UsageError, match=f"{asked} has no meaning with --mode sequential"):
            chosen(asked, means(), sequential=True)


@pytest.mark.skipif(HAS_TORCH, reason="this is about a machine without torch")
def test_a_folder_begun_with_torch_stops_without_it(reelmine, samples, tmp_path):
    with closing(Ledger(tmp_path / "out")) as ledger:
        ledger.set(BEGUN_ENCODER, "torch-bfloat16")
        ledger.commit()
    model = make_model(tmp_path / "fake", seconds=0.0)
    words = ("run", samples / "moving_house.wav", "-o", tmp_path / "out", "--model", model)
    done = reelmine(*words)
    assert done.returncode == 2
    assert "was begun with the encoder torch-bfloat16" in done.stderr
    assert not list((tmp_path / "out").glob("*.json"))
    assert reelmine(*words, "--encoder", "ctranslate2").returncode == 0
    assert reelmine(*words).returncode == 0  # it is kept


def test_plan_names_the_encoder_and_the_reason(reelmine, samples, tmp_path):
    model = make_model(tmp_path / "fake")
    done = reelmine(
        "plan", samples / "moving_house.wav", "--model", model, "--encoder", "ctranslate2"
    )
    assert "\nencoder      ctranslate2: asked for; whole windows" in done.stdout


def test_run_says_why_it_goes_without_the_faster_encoder_and_what_it_could_not_read(
    samples, tmp_path, monkeypatch
):
    bare = snapshot()
    amx = replace(bare, cpu_features=frozenset({"amx_bf16"}), gpus=(), notes=("A note.",))
    monkeypatch.setattr(setup, "snapshot", lambda: amx)
    told = []
    config = engine.Config(
        output=tmp_path / "out", model=str(make_model(tmp_path / "fake", seconds=0.0))
    )
    assert engine.run([samples / "moving_house.wav"], config, told.append).exit_code == 0
    notices = [event.text for event in told if isinstance(event, events.Notice)]
    assert "A note." in notices
    assert any(text.startswith("The encoder is ctranslate2-speech: torch") for text in notices)
