"""How soon the first batch of a two-hour film goes out, and how much memory preparing it takes.

In: clips of real speech (`../shared/speech`, or --speech; without them the bundled samples), joined
with a seed into one film. Out: for ours the seconds from the moment the first slot is open to the
first batch sent, and to the first text, beside BatchedInferencePipeline in a process of its own:
from the model loaded to the end of its preparation, and to its first segment. Then a run of the
command over the whole film with a model that costs nothing, so that preparation is all there is:
the peak memory of the parent and of a preparation worker (VmHWM of proc(5); not told where there is
none). The film is WAV, which the peer reads fastest. Ends with exit code 1 if a gate fails: first
batch within 1 s, parent under 300 MiB, preparation worker under 400 MiB.

    python benchmarks/first_batch.py
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from common import (
    ROOT,
    SPEECH,
    Gate,
    bundled_clips,
    clips_of,
    conclude,
    join_film,
    machine,
    print_machine,
    print_table,
    say,
    turns,
)
from peers import Job
from ways import run_peer

from engine import events
from engine.api import run
from engine.config import Config
from engine.pools.crew import NICE
from engine.speech.models import get
from engine.testing.transcriber import make_model

FIRST_BATCH = 1.0  # seconds after the slot is open
PARENT, PREPARATION = 300.0, 400.0  # MiB
LOOK = 0.05  # seconds between two looks at the processes
OURS, PEER = "ours", "BatchedInferencePipeline"


@dataclass(frozen=True, slots=True)
class First:
    """Seconds from the open slot, or the loaded model."""

    sent: float  # the first batch: all preparation that had to come before it is done
    text: float  # the first text is there


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; the exit code."""
    given = _parser().parse_args(arguments)
    facts = machine()
    print_machine(facts)
    with tempfile.TemporaryDirectory(prefix="first-batch-", dir=given.scratch) as scratch:
        place = Path(scratch)
        real = (given.speech / "manifest.tsv").is_file()
        clips = clips_of(given.speech) if real else bundled_clips()
        english = [clip for clip in clips if clip.language == "en"]
        film = join_film(english, place / "film.wav", given.minutes, given.seed).path
        say(f"the film is {film.stat().st_size / 1e6:.0f} MB")
        firsts: dict[str, list[First]] = {OURS: [], PEER: []}
        for who in turns([OURS, PEER], given.rounds):
            found = ours(film, given.model, place) if who == OURS else peer(film, given, place)
            say(f"{who}: {found.sent:.2f} s, first text {found.text:.2f} s")
            firsts[who].append(found)
        memory = peaks(film, place)
    return _tell(given, facts, firsts, memory)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--speech", type=Path, default=SPEECH, help="folder of clips with manifest.tsv")
    add("--minutes", type=float, default=120.0, help="of the film (default 120)")
    add("--seed", type=int, default=1)
    add("--model", default="tiny.en")
    add("--rounds", type=int, default=3)
    add("--scratch", type=Path, help="folder for the film and all outputs; 2 MB a minute")
    return parser


# --- time --------------------------------------------------------------------------------------


def ours(film: Path, model: str, place: Path) -> First:
    """A run that is stopped at its first text, as a user's two signals would stop it."""
    output = place / "out"
    shutil.rmtree(output, ignore_errors=True)
    opening: set[str] = set()
    at: dict[str, float] = {}

    def note(event: events.Event) -> None:
        match event:
            case events.SlotChanged(slot, "opening") if not slot.startswith("prep"):
                opening.add(slot)
            case events.SlotChanged(slot, "idle") if slot in opening:
                at.setdefault("open", time.monotonic())
            case events.SlotChanged(slot, doing) if slot in opening and " window" in doing:
                at.setdefault("sent", time.monotonic())
            case events.VideoProgress(_, seconds, _) if seconds > 0 and "text" not in at:
                at["text"] = time.monotonic()
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGINT)

    run([film], Config(output=output, model=model, language="en", analysis=False), note)
    missing = {"open", "sent", "text"} - at.keys()
    if missing:
        raise SystemExit(f"the run ended without {', '.join(sorted(missing))}")
    return First(at["sent"] - at["open"], at["text"] - at["open"])


def peer(film: Path, given: argparse.Namespace, place: Path) -> First:
    """The peer's process, on the same file, told to stop after its first segment."""
    job = Job(
        str(get(given.model).path),
        "batched",
        [(str(film), "en")],
        str(place / "heard.json"),
        init={"compute_type": "int8", "cpu_threads": os.cpu_count() or 1},
        options={"beam_size": 5, "without_timestamps": False, "batch_size": 8},
        first_only=True,
    )
    [found], _ = run_peer(job)
    return First(found["prepared"], found["first"])


# --- memory ------------------------------------------------------------------------------------


def peaks(film: Path, place: Path) -> dict[str, float | None]:
    """MiB at most of the parent, and of its largest preparation worker, over the whole film."""
    model = make_model(place / "costs-nothing", seconds=0.0)
    words = ["run", film, "-o", place / "prepared", "--model", model, "--no-analysis", "--quiet"]
    process = subprocess.Popen(
        [sys.executable, "-m", "engine", *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    found: dict[str, float | None] = {"parent": None, "preparation": None}
    while process.poll() is None:
        _look(psutil.Process(process.pid), found)
        time.sleep(LOOK)
    if process.returncode != 0:
        raise SystemExit(f"the run over the film ended with {process.returncode}")
    return found


def _look(parent: psutil.Process, found: dict[str, float | None]) -> None:
    """A peak only grows, so the last look is the one that counts; workers tell by their nice."""
    try:
        _keep(found, "parent", parent.pid)
        for child in parent.children(recursive=True):
            if child.nice() >= parent.nice() + NICE:
                _keep(found, "preparation", child.pid)
    except psutil.Error:
        return  # it has just ended


def _keep(found: dict[str, float | None], who: str, pid: int) -> None:
    peak = peak_memory(pid)
    if peak is not None:
        found[who] = max(peak, found[who] or 0.0)


def peak_memory(pid: int) -> float | None:
    """MiB that a process has been resident with at most; None if that cannot be read."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text("ascii", "replace").splitlines()
    except OSError:
        return None
    return next((int(x.split()[1]) / 1024 for x in lines if x.startswith("VmHWM:")), None)


# --- telling -----------------------------------------------------------------------------------


def _tell(
    given: argparse.Namespace,
    facts: Mapping[str, Any],
    firsts: Mapping[str, Sequence[First]],
    memory: Mapping[str, float | None],
) -> int:
    medians = {
        who: First(median(f.sent for f in found), median(f.text for f in found))
        for who, found in firsts.items()
    }
    print(f"\n{given.minutes:g} minutes, {given.model}; seconds from the open slot or loaded model")
    rows = [[who, f"{found.sent:.2f}", f"{found.text:.2f}"] for who, found in medians.items()]
    print_table(["", "first batch sent", "first text"], rows)
    shown = {who: "not known" if peak is None else f"{peak:.0f}" for who, peak in memory.items()}
    print_table(["", "MiB at most"], list(shown.items()))
    figures = {
        who: {"sent": round(found.sent, 3), "text": round(found.text, 3)}
        for who, found in medians.items()
    }
    return conclude(
        "first_batch",
        facts,
        _gates(medians[OURS], memory),
        minutes=given.minutes,
        rounds=given.rounds,
        seconds=figures,
        memory_mib=memory,
    )


def _gates(first: First, memory: Mapping[str, float | None]) -> list[Gate]:
    name = f"first batch within {FIRST_BATCH:g} s of the open slot"
    gates = [Gate(name, first.sent <= FIRST_BATCH, f"{first.sent:.2f} s")]
    for who, most in (("parent", PARENT), ("preparation", PREPARATION)):
        peak = memory[who]
        if peak is not None:
            gates.append(Gate(f"{who} under {most:g} MiB", peak < most, f"{peak:.0f} MiB"))
    return gates


if __name__ == "__main__":
    sys.exit(main())
