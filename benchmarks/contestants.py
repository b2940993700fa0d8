"""Contestants of folder.py: how to run each of them, as a whole process, over the same files.

In: a contestant's key, a model, the recordings. Out: what the process took, the texts that it left
in the order of the recordings, and of ours how full batches and windows were. The peer is run by
peers.py, a program of its own; whisper-ctranslate2 by its command, where it is installed. Knows
nothing about rounds, ratios and gates.
"""

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from common import Recording, Timing, timed
from peers import Job
from ways import run_peer

from engine.speech.models import ResolvedModel

SAME = {"beam_size": 5, "without_timestamps": False}
INT8 = {"compute_type": "int8"}
COMMAND = Path(sys.executable).with_name("whisper-ctranslate2")


@dataclass(frozen=True, slots=True)
class Way:
    """A contestant: ours, a pipeline of the peer, or whisper-ctranslate2."""

    name: str
    gated: bool
    pipeline: str | None = None
    processes: int = 1
    init: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    words: tuple[str, ...] = ()  # of the command line, where it is ours or whisper-ctranslate2

    @property
    def ours(self) -> bool:
        """Whether it is this engine."""
        return self.pipeline is None


WAYS = {
    "ours": Way("ours", True, words=("--encoder", "ctranslate2-speech")),
    "plain": Way(
        "ours, --no-quality-gates",
        False,
        words=("--encoder", "ctranslate2-speech", "--no-quality-gates"),
    ),
    "whole": Way(
        "ours, --encoder ctranslate2 --no-quality-gates",
        False,
        words=("--encoder", "ctranslate2", "--no-quality-gates"),
    ),
    "torch": Way("ours, --encoder torch", True, words=("--encoder", "torch")),
    "wide": Way(
        "ours, --no-quality-gates --slots 1",
        False,
        words=("--encoder", "ctranslate2-speech", "--no-quality-gates", "--slots", "1"),
    ),
    "one": Way(
        "BatchedInferencePipeline, 1 process, 2 threads, batch 8",
        True,
        "batched",
        init=INT8 | {"cpu_threads": 2},
        options=SAME | {"batch_size": 8},
    ),
    "two": Way(
        "BatchedInferencePipeline, 2 processes, 1 thread, batch 1",
        True,
        "batched",
        2,
        INT8 | {"cpu_threads": 1},
        SAME | {"batch_size": 1},
        {"OMP_NUM_THREADS": "1"},
    ),
    "two-8": Way(
        "BatchedInferencePipeline, 2 processes, 1 thread, batch 8",
        True,
        "batched",
        2,
        INT8 | {"cpu_threads": 1},
        SAME | {"batch_size": 8},
        {"OMP_NUM_THREADS": "1"},
    ),
    "sequential": Way(
        "faster-whisper, 1 process, 2 threads, VAD",
        False,
        "sequential",
        init=INT8 | {"cpu_threads": 2},
        options=SAME | {"vad_filter": True},
    ),
    "whisper-ctranslate2": Way(
        "whisper-ctranslate2, 2 threads, --batched True, batch 8",
        False,
        "command",
        words=("--threads", "2", "--batched", "True", "--batch_size", "8"),
    ),
    "batched-defaults": Way("BatchedInferencePipeline, its defaults", False, "batched"),
    "sequential-defaults": Way("faster-whisper, its defaults", False, "sequential"),
}


def here() -> list[str]:
    """Keys of the contestants that can run on this machine."""
    missing = {"torch"} if find_spec("torch") is None else set()
    if not COMMAND.exists():
        missing.add("whisper-ctranslate2")
    return [key for key in WAYS if key not in missing]


@dataclass(frozen=True, slots=True)
class Run:
    """One timed process and the texts it left, in the order of the recordings."""

    timing: Timing
    texts: list[str]
    batch_fill: float | None = None  # None: not known, as of every peer
    window_fill: float | None = None


def run(
    key: str,
    model: ResolvedModel,
    recordings: Sequence[Recording],
    place: Path,
    more: Sequence[str],
) -> Run:
    """One run of a contestant; ``more``: words for ours, whichever it is."""
    way = WAYS[key]
    if way.ours:
        return _run_ours(model, recordings, place / "out", [*way.words, *more])
    if way.pipeline == "command":
        return _run_command(model, recordings, place / "heard", way.words)
    job = Job(
        str(model.path),
        way.pipeline,
        [(str(recording.path), "en") for recording in recordings],
        str(place / "heard.json"),
        way.processes,
        way.init,
        way.options,
    )
    results, timing = run_peer(job, way.env)
    return Run(timing, [result["text"] for result in results])


def _run_ours(
    model: ResolvedModel, recordings: Sequence[Recording], output: Path, more: Sequence[str]
) -> Run:
    """The command as a user types it, into an empty folder."""
    shutil.rmtree(output, ignore_errors=True)
    paths = [recording.path for recording in recordings]
    words = ["--model", model.name, "--language", "en", "--beam-size", "5"]
    words += ["--compute-type", "int8", "--no-analysis", "--quiet", *more]
    timing = timed([sys.executable, "-m", "engine", "run", *paths, "-o", output, *words])
    files = [output / f"{recording.path.stem}.json" for recording in recordings]
    texts = [json.loads(file.read_bytes())["text"] for file in files]
    told = json.loads((output / ".reelmine" / "last-run.json").read_bytes())
    return Run(timing, texts, told["batch_fill"], told["window_fill"])


def _run_command(
    model: ResolvedModel, recordings: Sequence[Recording], output: Path, more: Sequence[str]
) -> Run:
    """whisper-ctranslate2, one call for all files."""
    shutil.rmtree(output, ignore_errors=True)
    words = ["--model_directory", str(model.path), "--language", "en", "--beam_size", "5"]
    words += ["--compute_type", "int8", "--device", "cpu", "--output_format", "json", *more]
    paths = [recording.path for recording in recordings]
    timing = timed([COMMAND, *paths, "--output_dir", output, *words])
    files = [output / f"{recording.path.stem}.json" for recording in recordings]
    return Run(timing, [json.loads(file.read_bytes())["text"] for file in files])
