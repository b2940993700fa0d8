"""What is written that nobody said: ours and faster-whisper on what makes Whisper invent text.

In: the folder of clips with reference texts (`../shared/speech`, or --speech), models. Out: per
kind of trigger the words that were written beside those spoken, and the segments that repeat
themselves or the one before. Triggers: the folder's clips in which nobody speaks; a minute of
noise, of hum, of chords; speech, a minute of noise or chords, and speech again; a phrase that is
said twelve times. All but the clips are made here, the same for one seed. int8, beam 5, the
language given; the sequential pipeline with its own temperature fallback. Ends with exit code 1 if
a gate fails: ours has fewer of both than BatchedInferencePipeline and than the sequential pipeline
(as few, where there are none).

    python benchmarks/hallucination.py --models tiny.en,base
"""

import argparse
import itertools
import random
import sys
import tempfile
import wave
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import (
    SPEECH,
    Clip,
    Gate,
    WordErrors,
    clips_of,
    conclude,
    machine,
    print_machine,
    print_table,
)
from ways import BATCHED, BEAM, OURS, UNGATED, Way, Weights, hear

from engine.media.decode import Audio
from engine.records import SAMPLE_RATE
from engine.speech.models import get

LONG = 60  # seconds of noise
PHRASE = (2.0, 5.0)  # seconds of a clip that is said again and again
TIMES = 12
REPETITIVE = 2.4  # compression ratio of a segment that repeats itself

SEQUENTIAL = Way("faster-whisper", None, "sequential")
SEQUENTIAL_VAD = Way("faster-whisper, VAD", None, "sequential", {"vad_filter": True})
WAYS = (OURS, UNGATED, BATCHED, SEQUENTIAL, SEQUENTIAL_VAD)


@dataclass(frozen=True, slots=True)
class Trigger:
    """A file that makes Whisper invent text, and what is really said in it."""

    path: Path
    kind: str
    reference: str = ""
    repeats: int = 0  # segments that may equal the one before, because it is said again


@dataclass(frozen=True, slots=True)
class Count:
    """What one way wrote that nobody said."""

    invented: int = 0  # words
    repeated: int = 0  # segments
    missing: int = 0  # words that were said and not written

    def __add__(self, other: "Count") -> "Count":
        return Count(
            self.invented + other.invented,
            self.repeated + other.repeated,
            self.missing + other.missing,
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--speech", type=Path, default=SPEECH, help="folder of clips with manifest.tsv")
    add("--models", default="tiny.en,base", help="names, separated by commas")
    add("--kinds", help="only these kinds of triggers, separated by commas")
    add("--seed", type=int, default=1)
    add("--texts", type=Path, help="write model, way, file, counts and text of each as TSV")
    given = parser.parse_args(arguments)
    facts = machine()
    if not (given.speech / "manifest.tsv").is_file():
        print(f"There is no manifest.tsv in {given.speech}: nothing to measure; give --speech.")
        return conclude("hallucination", facts, [], skipped="no speech")
    print_machine(facts)
    counter = WordErrors(given.speech)
    gates: list[Gate] = []
    figures: dict[str, Any] = {}
    texts: list[str] = []
    with tempfile.TemporaryDirectory(prefix="hallucination-") as scratch:
        triggers = list(make_triggers(clips_of(given.speech), Path(scratch), given.seed))
        if given.kinds:
            triggers = [t for t in triggers if t.kind in given.kinds.split(",")]
        for name in given.models.split(","):
            figures[name] = _measure(Weights(get(name)), triggers, counter, gates, texts)
    if given.texts:
        given.texts.write_text("".join(texts), encoding="utf-8")
    return conclude(
        "hallucination", facts, gates, models=figures, files=len(triggers), seed=given.seed
    )


# --- triggers ----------------------------------------------------------------------------------


def make_triggers(clips: Sequence[Clip], folder: Path, seed: int) -> Iterator[Trigger]:
    """All files to measure on; those that are made go into the folder."""
    for clip in clips:
        if clip.kind == "nonspeech":
            yield Trigger(clip.path, "clips without speech")
    chance = random.Random(seed)
    noises: dict[str, Callable[[], np.ndarray]] = {
        name: lambda make=make: make(np.random.default_rng(seed), LONG)  # type: ignore[misc]
        for name, make in (("white", white), ("pink", pink), ("hum", hum), ("chords", chords))
    }
    for name, make in noises.items():
        kind = "long music" if name == "chords" else "long noise"
        yield Trigger(_write(folder / f"{name}.wav", make()), kind)
    english = [clip for clip in clips if clip.language == "en" and clip.kind == "read"]
    short = [clip for clip in english if PHRASE[0] <= clip.seconds <= PHRASE[1]]
    for name, make in noises.items():
        before, after = chance.sample(short, 2)
        audio = np.concatenate((_read(before), make(), _read(after)))
        said = f"{before.reference} {after.reference}"
        yield Trigger(_write(folder / f"speech_{name}.wav", audio), "noise in speech", said)
    for number, clip in enumerate(chance.sample(short, min(4, len(short)))):
        audio = np.tile(np.concatenate((_read(clip), np.zeros(SAMPLE_RATE // 2))), TIMES)
        said = " ".join([clip.reference] * TIMES)
        path = _write(folder / f"phrase_{number}.wav", audio)
        yield Trigger(path, "phrase again and again", said, TIMES - 1)


def white(random: np.random.Generator, seconds: int) -> np.ndarray:
    """Hiss."""
    return 0.1 * random.standard_normal(seconds * SAMPLE_RATE)


def pink(random: np.random.Generator, seconds: int) -> np.ndarray:
    """Wind: noise whose power falls with the frequency, swelling every few seconds."""
    spectrum = np.fft.rfft(random.standard_normal(seconds * SAMPLE_RATE))
    shaped = np.fft.irfft(spectrum / np.sqrt(np.arange(1, len(spectrum) + 1)))
    time = np.arange(len(shaped)) / SAMPLE_RATE
    return 0.3 * shaped / np.abs(shaped).max() * (1.2 + np.sin(2 * np.pi * time / 3.7))


def hum(random: np.random.Generator, seconds: int) -> np.ndarray:
    """A machine: mains hum with overtones, and a little hiss."""
    time = np.arange(seconds * SAMPLE_RATE) / SAMPLE_RATE
    tones = sum(np.sin(2 * np.pi * 50 * n * time) / n for n in (1, 2, 3, 5))
    return 0.1 * tones + 0.01 * random.standard_normal(len(time))


def chords(random: np.random.Generator, seconds: int) -> np.ndarray:
    """Music: a chord of three every 0.6 s, each note with overtones that die away."""
    step = int(0.6 * SAMPLE_RATE)
    time = np.arange(step) / SAMPLE_RATE
    parts = []
    for _ in range(seconds * SAMPLE_RATE // step):
        root = 220 * 2 ** (random.integers(0, 12) / 12)
        notes = [root * 2 ** (interval / 12) for interval in (0, random.choice([3, 4]), 7)]
        sound = sum(
            np.sin(2 * np.pi * note * n * time) / n**2 for note in notes for n in range(1, 5)
        )
        parts.append(0.15 * sound * np.exp(-3 * time))
    return np.concatenate(parts)


def _read(clip: Clip) -> np.ndarray:
    with Audio(str(clip.path), clip.track) as audio:
        return audio.read(600 * SAMPLE_RATE)


def _write(path: Path, audio: np.ndarray) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((np.clip(audio, -1, 1) * 32767).astype("<i2").tobytes())
    return path


# --- counting ----------------------------------------------------------------------------------


def _measure(
    model: Weights,
    triggers: Sequence[Trigger],
    counter: WordErrors,
    gates: list[Gate],
    texts: list[str],
) -> dict[str, Any]:
    """All figures of one model; prints its table and adds its gates."""
    counts: dict[Way, dict[str, Count]] = {}
    for way in WAYS:
        counts[way] = {}
        heard = hear(way, model, [(trigger.path, "en") for trigger in triggers])
        for trigger, one in zip(triggers, heard, strict=True):
            count = count_of(trigger, one.segments, counter)
            for kind in (trigger.kind, "all"):
                counts[way][kind] = counts[way].get(kind, Count()) + count
            text = " / ".join(" ".join(segment.split()) for segment in one.segments)
            numbers = (count.invented, count.repeated, count.missing)
            row = (model.name, way.name, trigger.path.name, *map(str, numbers), text)
            texts.append("\t".join(row) + "\n")
    _print(model.name, counts)
    gates += [
        Gate(
            f"{model.name}, fewer {what} than {peer.name}",
            mine < theirs or mine == theirs == 0,
            f"{mine} and {theirs}",
        )
        for peer in (BATCHED, SEQUENTIAL)
        for what, mine, theirs in (
            ("words invented", counts[OURS]["all"].invented, counts[peer]["all"].invented),
            ("segments repeated", counts[OURS]["all"].repeated, counts[peer]["all"].repeated),
        )
    ]
    return {
        way.name: {
            kind: {"invented": c.invented, "repeated": c.repeated, "missing": c.missing}
            for kind, c in kinds.items()
        }
        for way, kinds in counts.items()
    }


def count_of(trigger: Trigger, segments: Sequence[str], counter: WordErrors) -> Count:
    """Words beside the reference's, segments that repeat more than was said, words left out."""
    spoken, written = (counter.split(text) for text in (trigger.reference, "".join(segments)))
    invented = _inserted(spoken, written)
    missing = invented - (len(written) - len(spoken))
    plain = [counter.split(segment) for segment in segments]
    repeated = sum(here == before for before, here in itertools.pairwise(plain))
    itself = sum(map(_repeats_itself, segments))
    return Count(invented, max(0, repeated + itself - trigger.repeats), missing)


def _inserted(spoken: Sequence[str], written: Sequence[str]) -> int:
    """Words put in, where as few as possible are put in, left out or changed."""
    row = [(n, n) for n in range(len(written) + 1)]  # edits, words put in
    for said, word in enumerate(spoken, 1):
        diagonal, row[0] = row[0], (said, 0)
        for n, found in enumerate(written, 1):
            same = (diagonal[0] + (found != word), diagonal[1])
            left_out = (row[n][0] + 1, row[n][1])
            put_in = (row[n - 1][0] + 1, row[n - 1][1] + 1)
            diagonal, row[n] = row[n], min(same, left_out, put_in)
    return row[-1][1]


def _repeats_itself(text: str) -> bool:
    data = text.encode()
    return len(data) / len(zlib.compress(data)) > REPETITIVE


def _print(model: str, counts: Mapping[Way, Mapping[str, Count]]) -> None:
    print(f"\n{model}, int8, beam {BEAM}: words invented / segments repeated (words left out)")
    kinds = list(counts[OURS])
    rows = [
        [way.name, *(f"{c.invented} / {c.repeated} ({c.missing})" for c in counts[way].values())]
        for way in WAYS
    ]
    print_table(["", *kinds], rows)


if __name__ == "__main__":
    sys.exit(main())
