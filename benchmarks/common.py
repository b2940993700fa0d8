"""What the benchmarks share: real speech with its references, turns, machine facts, the report.

In: the folder of clips (`manifest.tsv`, `wer.py`), or the bundled samples. Out: files to measure
on, the same for the same seed; word errors counted by the clips' own `wer.py`; tables for people
and, as the last line, one JSON document. Knows nothing about what is compared.
"""

import csv
import json
import os
import platform
import random
import resource
import subprocess
import sys
import time
import wave
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata, util
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
SPEECH = ROOT.parent / "shared" / "speech"  # beside the checkout; not part of it
sys.path.insert(0, str(ROOT))  # the benchmarks measure the checkout they lie in

from engine import __version__
from engine.media.decode import Audio
from engine.pools.hardware import snapshot
from engine.records import SAMPLE_RATE

PAUSES = (0.2, 0.4, 0.8, 1.5)  # seconds between two clips of a joined file
SHORTEST, LONGEST = 5.0, 300.0  # seconds; of joined files, but for the one long one
LONG_SHARE, LONG_MOST = 0.4, 1200.0  # of all audio, and seconds: the one long file

_Name = TypeVar("_Name")


# --- speech with references --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Clip:
    """A recording of which the words are known."""

    path: Path
    seconds: float
    language: str | None  # None: nobody speaks
    kind: str
    reference: str
    track: int = 0


def clips_of(speech: Path) -> list[Clip]:
    """The clips of a folder with a manifest, in its order."""
    with (speech / "manifest.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [
        Clip(
            speech / row["file"],
            float(row["seconds"]),
            None if row["kind"] == "nonspeech" else row["language"],
            row["kind"],
            row["transcript"],
        )
        for row in rows
    ]


def bundled_clips() -> list[Clip]:
    """The sample videos of the package, each track a clip."""
    samples = ROOT / "engine" / "samples"
    described = json.loads((samples / "references.json").read_text("utf-8"))["files"]
    return [
        Clip(
            samples / file["file"],
            file["duration"],
            "en",
            "sample",
            track["transcript"],
            track["track"],
        )
        for file in described
        for track in file["tracks"]
    ]


class WordErrors:
    """Edits against the reference, counted by the `wer.py` that lies beside the clips."""

    def __init__(self, speech: Path) -> None:
        spec = util.spec_from_file_location("speech_wer", speech / "wer.py")
        assert spec is not None
        assert spec.loader is not None
        self._wer: Any = util.module_from_spec(spec)
        spec.loader.exec_module(self._wer)

    def count(self, reference: str, text: str, language: str | None) -> tuple[int, int]:
        """(errors, words of the reference)."""
        spoken = self._wer.normalise(reference, language or "en")
        return self._wer.ed(spoken, self._wer.normalise(text, language or "en")), len(spoken)

    def words(self, text: str) -> int:
        """How many words were written."""
        return len(self.split(text))

    def split(self, text: str) -> list[str]:
        """The words of a text as they are compared."""
        words: list[str] = self._wer.normalise(text, "en")
        return words


# --- files to measure on -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Recording:
    """A file made of clips, and what is said in it."""

    path: Path
    seconds: float
    reference: str


def join_clips(clips: Sequence[Clip], folder: Path, minutes: float, seed: int) -> list[Recording]:
    """WAV files of 5 s to 5 min and one longer, about `minutes` in all, the same for one seed.

    Clips come in a seeded order with seeded pauses; all have been used before one comes again.
    """
    chance = random.Random(seed)
    pool: list[Clip] = []
    recordings = []
    for number, wanted in enumerate(_lengths(minutes * 60, chance)):
        parts: list[tuple[Clip, float]] = []
        length = 0.0
        while not parts or (length < wanted and any(c.seconds <= wanted - length for c in pool)):
            pool = pool or chance.sample(list(clips), len(clips))
            fitting = [clip for clip in pool if clip.seconds <= wanted - length]
            clip = fitting[0] if fitting else min(pool, key=lambda clip: clip.seconds)
            pool.remove(clip)
            parts.append((clip, chance.choice(PAUSES)))
            length += clip.seconds + parts[-1][1]
            pool = pool or chance.sample(list(clips), len(clips))
        recordings.append(_write(folder / f"joined_{number:03d}.wav", parts))
    return recordings


def _lengths(seconds: float, chance: random.Random) -> Iterator[float]:
    """Seconds of each file: the long one, then evenly spread on a logarithmic scale."""
    long = min(LONG_MOST, LONG_SHARE * seconds)
    yield long
    left = seconds - long
    while left > 0:
        most = min(LONGEST, long, max(left, SHORTEST))
        length = SHORTEST * (most / SHORTEST) ** chance.random()
        yield length
        left -= length


def join_film(clips: Sequence[Clip], path: Path, minutes: float, seed: int) -> Recording:
    """One WAV file of at least so many minutes, the same for one seed."""
    chance = random.Random(seed)
    parts: list[tuple[Clip, float]] = []
    length = 0.0
    while length < minutes * 60:
        for clip in chance.sample(list(clips), len(clips)):
            parts.append((clip, chance.choice(PAUSES)))
            length += clip.seconds + parts[-1][1]
            if length >= minutes * 60:
                break
    return _write(path, parts)


def _write(path: Path, parts: Sequence[tuple[Clip, float]]) -> Recording:
    """Put clips one after the other, a pause after each, as 16 bit WAV."""
    count = 0
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        for clip, pause in parts:
            with Audio(str(clip.path), clip.track) as audio:
                heard = audio.read(3600 * SAMPLE_RATE)
            samples = np.concatenate([heard, np.zeros(int(pause * SAMPLE_RATE))])
            whole = np.clip(np.round(samples * 32768), -32768, 32767)
            file.writeframes(whole.astype("<i2").tobytes())
            count += len(samples)
    text = " ".join(clip.reference for clip, _ in parts)
    return Recording(path, count / SAMPLE_RATE, text)


# --- measuring ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Timing:
    """What one whole process took, its children included."""

    wall: float  # seconds
    cpu: float  # seconds
    others: float | None  # share of the machine that others took meanwhile; None: not known


def timed(
    command: Sequence[str | Path],
    env: Mapping[str, str] | None = None,
    limit: float | None = None,
) -> Timing:
    """Run a command to its end; SystemExit with its last words if it fails.

    ``limit``: seconds after which it is ended, with subprocess.TimeoutExpired.
    """
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]  # where libraries may be
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy_before = _busy()
    began = time.monotonic()
    done = subprocess.run(
        [str(word) for word in command],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **(env or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=limit,
    )
    wall = time.monotonic() - began
    busy_after = _busy()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        words = " ".join(str(word) for word in command[1:4])
        raise SystemExit(f"python {words} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if busy_before is None or busy_after is None:
        return Timing(wall, cpu, None)
    busy = busy_after - busy_before - cpu
    return Timing(wall, cpu, max(0.0, busy / (wall * (os.cpu_count() or 1))))


def _busy() -> float | None:
    """Seconds that all processors together have worked, or were taken away by a host (proc(5))."""
    try:
        fields = Path("/proc/stat").read_text("ascii").splitlines()[0].split()[1:]
        user, nice, system, _, _, irq, softirq, steal = map(int, fields[:8])
    except (OSError, ValueError):
        return None
    ticks: int = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + softirq + steal) / ticks


def turns(contestants: Sequence[_Name], rounds: int) -> Iterator[_Name]:
    """A B, B A, A B, ...: what drifts during the measurement favours nobody."""
    for number in range(rounds):
        yield from contestants if number % 2 == 0 else reversed(contestants)


def machine() -> dict[str, Any]:
    """The facts that a figure needs beside it."""
    info = _cpu_info()
    flags = set(info.get("flags", "").split())
    hardware = snapshot()
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": info.get("model name") or platform.processor() or platform.machine(),
        "cpu_family_model": f"{info.get('cpu family', '?')}/{info.get('model', '?')}",
        "amx": any(flag.startswith("amx_") for flag in flags),
        "avx512_bf16": "avx512_bf16" in flags,
        "cores": hardware.cores,
        "memory_gib": round(hardware.memory / 2**30, 1) if hardware.memory else None,
        "gpus": [gpu.name for gpu in hardware.gpus],
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "reelmine": __version__,
        **{name.replace("-", "_"): _version(name) for name in ("faster-whisper", "ctranslate2")},
    }


def _cpu_info() -> dict[str, str]:
    """The first processor of /proc/cpuinfo; empty where there is none."""
    try:
        first = Path("/proc/cpuinfo").read_text("utf-8").split("\n\n", 1)[0]
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


# --- telling -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Gate:
    """A target, and whether this run meets it."""

    name: str
    passed: bool
    detail: str


def print_machine(facts: Mapping[str, Any]) -> None:
    """One line for people."""
    units = f"AMX {'yes' if facts['amx'] else 'no'}, AVX-512 BF16 " + (
        "yes" if facts["avx512_bf16"] else "no"
    )
    print(
        f"{facts['date']}: {facts['cpu']} (family/model {facts['cpu_family_model']}), {units}, "
        f"{facts['cores']:g} cores, load {facts['load_before']} before; "
        f"faster-whisper {facts['faster_whisper']}, CTranslate2 {facts['ctranslate2']}"
    )


def print_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A Markdown table with aligned columns."""
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in cells]
    lines.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    print("\n".join(["", *lines, ""]))


def conclude(name: str, facts: Mapping[str, Any], gates: Sequence[Gate], **figures: Any) -> int:
    """Print the gates, then everything as the last line; the exit code: 1 if a gate fails."""
    for gate in gates:
        print(f"{'pass' if gate.passed else 'FAIL'}  {gate.name}: {gate.detail}")
    verdicts = [{"name": g.name, "passed": g.passed, "detail": g.detail} for g in gates]
    document = {"benchmark": name, "machine": dict(facts), "gates": verdicts, **figures}
    print(json.dumps(document), flush=True)
    return 0 if all(gate.passed for gate in gates) else 1


def percent(part: float, whole: float) -> float:
    """Rounded as the tables show it."""
    return round(100 * part / whole, 2) if whole else 0.0


def say(text: str) -> None:
    """Progress for who watches; not part of the result."""
    print(text, file=sys.stderr, flush=True)
