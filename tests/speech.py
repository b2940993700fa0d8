"""Long recordings for tests, made of the bundled samples: seeded order, pauses and gains."""

import random
import wave
from functools import cache
from pathlib import Path

import numpy as np

from engine.media.decode import Audio
from engine.records import SAMPLE_RATE

FILES = ("coffee_shop.mp4", "bad_heist.mkv", "hospital_corridor.webm", "office_gossip.mov",
         "moving_house.wav", "wedding_day.mkv")  # fmt: skip


@cache
def decoded(path: Path) -> np.ndarray:
    """The first audio track: float32, mono, 16 kHz."""
    with Audio(str(path)) as audio:
        return audio.read(3600 * SAMPLE_RATE)


def joined(samples: Path, seconds: float, seed: int) -> np.ndarray:
    """At least so many seconds of speech, the same for the same seed."""
    chance = random.Random(seed)
    parts: list[np.ndarray] = []
    length = 0
    while length < seconds * SAMPLE_RATE:
        part = decoded(samples / chance.choice(FILES)) * chance.choice([0.4, 0.7, 1.0])
        pause = np.zeros(int(chance.choice([0.2, 0.6, 1.5, 4.0]) * SAMPLE_RATE), np.float32)
        parts += [part.astype(np.float32), pause]
        length += len(part) + len(pause)
    return np.concatenate(parts)


def write_wav(path: Path, audio: np.ndarray) -> Path:
    """16 kHz, 16 bit, mono."""
    pcm = (np.clip(audio, -1, 1) * 32767).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(pcm.tobytes())
    return path
