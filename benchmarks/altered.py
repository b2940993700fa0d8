"""Altered copies of the clips: the same words once more, in other sound.

In: a folder of clips with references, how to alter them. Out: a folder of the same form. Whoever
has chosen a threshold on the clips has chosen it for their chances too: where a window is cut,
which word is just missed. In an altered copy these fall otherwise, and the references hold, so that
it shows what a choice is worth elsewhere. The same bytes every time. Knows nothing about what is
measured.
"""

import csv
import io
import wave
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import av
import numpy as np
from common import SAMPLE_RATE, Audio, clips_of

LEVEL = 0.7  # of a clip that gets noise, so that both together are not too loud
NOISE = 10 ** (-22 / 20)  # of the louder half of the clip
BITS = 24_000  # a second

Alter = Callable[[np.ndarray, int], tuple[np.ndarray, int]]  # samples, seed -> samples, rate


def _played(samples: np.ndarray, _seed: int, speed: float) -> tuple[np.ndarray, int]:
    """Faster is higher, too."""
    return samples, round(SAMPLE_RATE * speed)


def _with_noise(samples: np.ndarray, seed: int) -> tuple[np.ndarray, int]:
    """Pink noise 22 dB below the louder half of the clip."""
    chance = np.random.default_rng(seed)
    loud = np.sqrt(np.mean(np.sort(samples**2)[len(samples) // 2 :]) + 1e-12)
    noise = np.fft.rfft(chance.standard_normal(len(samples)))
    noise = np.fft.irfft(noise / np.sqrt(np.maximum(np.arange(len(noise)), 1)), len(samples))
    noise = (noise / noise.std()).astype(np.float32)
    return samples * LEVEL + LEVEL * loud * NOISE * noise, SAMPLE_RATE


def _through_mp3(samples: np.ndarray, _seed: int) -> tuple[np.ndarray, int]:
    """Written and read as MP3 of 24 kbit/s."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp3") as container:
        stream = container.add_stream("libmp3lame", rate=SAMPLE_RATE, layout="mono")
        stream.bit_rate = BITS
        frame = av.AudioFrame.from_ndarray(_whole(samples)[None], format="s16p", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    file.seek(0)
    resampler = av.AudioResampler("s16", "mono", SAMPLE_RATE)
    with av.open(file) as container:
        frames = [part for f in container.decode(audio=0) for part in resampler.resample(f)]
    heard = np.concatenate([frame.to_ndarray()[0] for frame in frames])
    return heard.astype(np.float32) / 32768, SAMPLE_RATE


ALTERATIONS: Mapping[str, Alter] = {
    "slower": partial(_played, speed=0.95),
    "faster": partial(_played, speed=1.05),
    "noise": _with_noise,
    "mp3": _through_mp3,
}


def alter(speech: Path, folder: Path, kind: str) -> None:
    """Write the clips of a folder, altered in one of the ALTERATIONS, and what lies beside them."""
    with (speech / "manifest.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    for row, clip in zip(rows, clips_of(speech), strict=True):
        with Audio(str(clip.path)) as audio:
            samples = audio.read(3600 * SAMPLE_RATE)
        samples, rate = ALTERATIONS[kind](samples, zlib.crc32(row["file"].encode()))
        row["file"] = f"{clip.path.stem}.wav"
        row["seconds"] = f"{len(samples) / rate:.2f}"
        with wave.open(str(folder / row["file"]), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes(_whole(samples).tobytes())
    lines = ["\t".join(rows[0]), *("\t".join(row.values()) for row in rows)]
    (folder / "manifest.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "wer.py").write_bytes((speech / "wer.py").read_bytes())


def _whole(samples: np.ndarray) -> np.ndarray:
    """As 16 bit."""
    return (np.clip(samples, -1, 1) * 32767).astype("<i2")
