"""A few seconds of known speech that every slot must understand before it gets work.

Broken GPU libraries have produced empty transcripts without any error; so an opened slot must hear
text in it, twice the same, with a finite score and, for models of the catalogue, the right words.
"""

import math
import re
import time
import wave
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from faster_whisper.feature_extractor import FeatureExtractor

from engine.errors import SlotError
from engine.records import SAMPLE_RATE, SpeechOptions, WindowResult
from engine.speech.windows import ROW_FRAMES

if TYPE_CHECKING:
    from engine.speech.whisper import Recognizer

WAV = Path(__file__).with_name("canary.wav")  # 16 kHz mono, spoken for us; see samples/README.md

BEAM = 5
CPU_FRAMES = 1000  # an encoder on a CPU need not read 30 s to prove that it works

OPTIONS = SpeechOptions(
    mode="batched",
    language="en",
    task="transcribe",
    initial_prompt=None,
    hotwords=None,
    beam_size=1,
    word_timestamps=False,
    vad_filter=False,
    audio_track=None,
    compute_type="",
    quality_gates=False,
)


def listen(recognizer: "Recognizer", words: tuple[str, ...]) -> tuple[str, float]:
    """What is heard, and the seconds that one pass takes; SlotError if it cannot be right."""
    row, seconds = known_speech(recognizer.mels)
    if recognizer.on_gpu:
        # A card newer than CTranslate2's build: what it runs is compiled at its first use, which
        # takes long. So that of a beam is used here, where there is time, and not in a batch.
        _pass(recognizer, row, seconds, replace(OPTIONS, beam_size=BEAM))
    else:
        row = np.ascontiguousarray(row[:, :CPU_FRAMES])
    first = _pass(recognizer, row, seconds, OPTIONS)
    began = time.monotonic()
    second = _pass(recognizer, row, seconds, OPTIONS)
    took = time.monotonic() - began
    text = "".join(piece.text for piece in first.pieces).strip()
    if not text:
        raise SlotError("the canary (known speech) gave no text: the device's libraries are broken")
    if not math.isfinite(first.avg_logprob):
        raise SlotError(f"the canary gave a score of {first.avg_logprob}")
    if [piece.tokens for piece in first.pieces] != [piece.tokens for piece in second.pieces]:
        raise SlotError("the canary gave two different texts in two passes")
    heard = set(re.findall(r"[a-z']+", text.lower()))
    if missing := [word for word in words if word not in heard]:
        raise SlotError(f"the canary heard {text!r}, without {', '.join(missing)}")
    return text, took


def known_speech(mels: int) -> tuple[np.ndarray, float]:
    """The canary's row, float32 [mels, 3000], and the seconds of speech in it."""
    with wave.open(str(WAV)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    features = FeatureExtractor(feature_size=mels)(samples.astype(np.float32) / 32768)[..., :-1]
    row = np.zeros((mels, ROW_FRAMES), np.float32)
    row[:, : features.shape[1]] = features
    return row, len(samples) / SAMPLE_RATE


def _pass(
    recognizer: "Recognizer", row: np.ndarray, seconds: float, options: SpeechOptions
) -> WindowResult:
    states = recognizer.encode([row])
    return recognizer.decode(states, [0], [seconds], ["en"], options)[0]
