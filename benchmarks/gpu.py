"""What a GPU does: the list of measurements that decide its settings, each a command of its own.

    python benchmarks/gpu.py canary         opens every slot there would be
    python benchmarks/gpu.py model          the model alone, by batch size: what is possible
    python benchmarks/gpu.py slots          whole runs with 1, 2, 3 slots on the GPU
    python benchmarks/gpu.py preparation    whole runs with 1, 2, 4, 8 preparation workers
    python benchmarks/gpu.py folder         ours and BatchedInferencePipeline in turn

In: nothing but this repository and `pip install -e .[gpu]`; the model has the true shape and random
weights (shapes.py). Speech comes from the bundled samples or --speech, joined with a seed.
Out: times real time, the share of time in which a model call was under way, the share of the
physical floor. Each takes under 10 minutes with --model large-v3-turbo (the default) or large-v3.
Text is not looked at: accuracy.py does that, with real models. `folder` ends with exit code 1 if a
gate fails on a GPU: turbo at least 4 times, large-v3 at least 2.5 times as fast as the peer, busy
at least 97 %, at least 35 % of the floor. Without a GPU nothing is measured, and that is no
failure; `--device cpu --model tiny --minutes 1` goes through the same steps slowly. To see whether
two processes on one GPU gain from MPS, start its daemon and run `slots` again.
"""

import argparse
import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib import util
from pathlib import Path
from statistics import median
from typing import Any

import model_shapes
from common import (
    SPEECH,
    Gate,
    bundled_clips,
    clips_of,
    conclude,
    join_clips,
    machine,
    print_machine,
    print_table,
    say,
    turns,
)
from peers import Job
from shapes import SHAPES, Peak, given_peak, known_peak, make_shape
from ways import run_peer

from engine.api import check_slots, run
from engine.bench import limited
from engine.config import Config
from engine.pools.hardware import snapshot
from engine.terminal import count

TIMES_AS_FAST = {"large-v3-turbo": 4.0, "large-v3": 2.5}
BUSY, FLOOR = 0.97, 0.35
SLOTS, WORKERS = (1, 2, 3), (1, 2, 4, 8)
PEER_BATCH = 16


@dataclass(frozen=True, slots=True)
class Setting:
    """What all runs of one command share."""

    paths: Sequence[Path]
    audio: float  # seconds
    model: Path
    place: Path
    given: argparse.Namespace
    peak: Peak | None


@dataclass(frozen=True, slots=True)
class Pass:
    """A run of the engine, from its first open slot to its last batch."""

    seconds: float
    windows: int
    busy: float  # share of the time in which a slot had a model call, mean over slots
    share_of_floor: float | None
    times_real_time: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; the exit code."""
    given = _parser().parse_args(arguments)
    facts = machine()
    print_machine(facts)
    if given.device == "cuda" and not snapshot().gpus:
        why = "there is no GPU on this machine, or nvidia-ml-py is not installed to tell of it"
        print(f"skipped: {why}")
        return conclude("gpu", facts, [], command=given.command, state="skipped", reason=why)
    peak = given_peak(given.tera_flops, given.tera_bytes) or known_peak(given.device, facts["gpus"])
    with tempfile.TemporaryDirectory(prefix="gpu-", dir=given.scratch) as scratch:
        place = Path(scratch)
        say(f"making the model {given.model}")
        model = make_shape(place / "model", SHAPES[given.model], given.tokens)
        paths, audio = _speech(place / "files", given) if given.command in NEED_FILES else ([], 0)
        setting = Setting(paths, audio, model, place, given, peak)
        figures, gates = COMMANDS[given.command](setting)
    settings = {"model": given.model, "device": given.device, "tokens": given.tokens}
    return conclude(
        "gpu", facts, gates, command=given.command, state="measured", **settings, figures=figures
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("command", choices=COMMANDS)
    add("--model", choices=SHAPES, default="large-v3-turbo")
    add("--device", choices=["cuda", "cpu"], default="cuda")
    add("--speech", type=Path, default=SPEECH, help="folder of clips with manifest.tsv")
    add("--minutes", type=float, default=240.0, help="speech in all (default 240)")
    add("--seed", type=int, default=1)
    add("--scratch", type=Path, help="folder for the model, the audio and all outputs")
    model_shapes.add_costs(parser)
    return parser


def _speech(folder: Path, given: argparse.Namespace) -> tuple[list[Path], float]:
    folder.mkdir()
    real = (given.speech / "manifest.tsv").is_file()
    clips = clips_of(given.speech) if real else bundled_clips()
    english = [clip for clip in clips if clip.language == "en"]
    recordings = join_clips(english, folder, given.minutes, given.seed)
    return [r.path for r in recordings], sum(r.seconds for r in recordings)


# --- the commands: figures and gates -----------------------------------------------------------

_Found = tuple[Mapping[str, Any], list[Gate]]


def canary(setting: Setting) -> _Found:
    """Open every slot."""
    found = check_slots(_config(setting))
    for slot, good, sentence in found:
        print(f"{slot.device}  {'good' if good else 'BAD'}  {sentence}")
    gates = [Gate(f"slot {slot.device} opens", good, sentence) for slot, good, sentence in found]
    return {"slots": [slot.device for slot, _, _ in found]}, gates


def model(setting: Setting) -> _Found:
    """The model alone in this process, by batch size."""
    given = setting.given
    shape = SHAPES[given.model]
    costs = model_shapes.measure(setting.model, shape, given.device, given, setting.peak)
    model_shapes.show(given.model, given.device, costs)
    return {"batches": [model_shapes.told(cost) for cost in costs]}, []


def slots(setting: Setting) -> _Found:
    """Whole runs with more slots on the same GPU."""
    return _compared("slot", SLOTS, lambda number: _engine(setting, slots=number)), []


def preparation(setting: Setting) -> _Found:
    """Whole runs on so many cores that sizing takes one for itself and the rest to prepare."""

    def measured(workers: int) -> Pass:
        with limited(workers + 1):
            return _engine(setting)

    cores = int(snapshot().cores)
    counts = [workers for workers in WORKERS if workers < cores]
    return _compared("preparation worker", counts, measured), []


def folder(setting: Setting) -> _Found:
    """Ours and the peer in turn; medians."""
    given = setting.given
    ours: list[Pass] = []
    peers: list[float] = []
    for who in turns(["ours", "peer"], given.rounds):
        if who == "ours":
            ours.append(_engine(setting))
            say(f"ours: {ours[-1].seconds:.1f} s")
        else:
            peers.append(_peer(setting))
            say(f"BatchedInferencePipeline: {peers[-1]:.1f} s")
    best = sorted(ours, key=lambda found: found.seconds)[len(ours) // 2]
    peer = median(peers)
    _print({"ours": best})
    print(
        f"BatchedInferencePipeline, batch {PEER_BATCH}: {setting.audio / peer:.1f} times real time"
    )
    figures = {"ours": asdict(best), "peer_seconds": peer, "times_as_fast": peer / best.seconds}
    return figures, _gates(given, best, peer) if given.device == "cuda" else []


COMMANDS: Mapping[str, Callable[[Setting], _Found]] = {
    "canary": canary,
    "model": model,
    "slots": slots,
    "preparation": preparation,
    "folder": folder,
}
NEED_FILES = ("slots", "preparation", "folder")


def _compared(
    what: str, counts: Iterable[int], measured: Callable[[int], Pass]
) -> Mapping[str, Any]:
    found = {}
    for number in counts:
        found[number] = measured(number)
        say(f"{count(number, what)}: {found[number].seconds:.1f} s")
    _print({count(number, what): one for number, one in found.items()})
    return {f"{what}s": {number: asdict(one) for number, one in found.items()}}


def _print(found: Mapping[str, Pass]) -> None:
    head = ["", "seconds", "windows", "times real time", "busy", "share of the floor"]
    rows = [
        [
            name,
            f"{one.seconds:.1f}",
            one.windows,
            f"{one.times_real_time:.1f}",
            f"{one.busy:.1%}",
            "-" if one.share_of_floor is None else f"{one.share_of_floor:.1%}",
        ]
        for name, one in found.items()
    ]
    print_table(head, rows)


def _gates(given: argparse.Namespace, ours: Pass, peer: float) -> list[Gate]:
    gates = [Gate(f"busy at least {BUSY:.0%}", ours.busy >= BUSY, f"{ours.busy:.1%}")]
    if given.model in TIMES_AS_FAST:
        target, ratio = TIMES_AS_FAST[given.model], peer / ours.seconds
        name = f"{given.model} at least {target:g} times as fast as BatchedInferencePipeline"
        gates.append(Gate(name, ratio >= target, f"{ratio:.2f} times"))
    share = ours.share_of_floor
    if share is not None:
        gates.append(Gate(f"at least {FLOOR:.0%} of the floor", share >= FLOOR, f"{share:.1%}"))
    return gates


# --- one run -----------------------------------------------------------------------------------


def _config(setting: Setting, **changes: Any) -> Config:
    """Options of every run: one GPU, and the beam, as the peer has them."""
    device = "cuda:0" if setting.given.device == "cuda" else "cpu"
    beam = setting.given.beam_size
    common = {"language": "en", "analysis": False, "output_format": ("json",)}
    common |= {"quality_gates": False}  # random weights say what fails them
    path = str(setting.model)
    return Config(model=path, device=device, beam_size=beam, **common, **changes)


def _engine(setting: Setting, **changes: Any) -> Pass:
    """The engine over all files, into an empty folder; what it did is read from its ledger."""
    output = setting.place / "out"
    shutil.rmtree(output, ignore_errors=True)
    report = run(setting.paths, _config(setting, output=output, **changes))
    if report.exit_code:
        reasons = [*report.problems, *(r.problem for r in report.videos if r.problem)]
        raise SystemExit(f"the run ended with {report.exit_code}: {reasons[0].message}")
    opened, batches = _attempts(output / ".reelmine" / "ledger.sqlite")
    begin, end = min(opened.values()), max(end for _, _, end, _ in batches)
    windows = sum(rows for *_, rows in batches)
    busy = [
        covered([(b, e) for place, b, e, _ in batches if place == slot]) / (end - begin)
        for slot in opened
    ]
    return Pass(
        end - begin,
        windows,
        sum(busy) / len(busy),
        _share_of_floor(setting, windows, len(batches), end - begin),
        setting.audio / (end - begin),
    )


def _attempts(
    ledger: Path,
) -> tuple[dict[str, float], list[tuple[str, float, float, int]]]:
    """When each slot was open, and the batches: slot, begin, end, windows. Seconds of the run."""
    with closing(sqlite3.connect(f"{ledger.as_uri()}?mode=ro", uri=True)) as db:
        opened = dict(db.execute("SELECT place, ended FROM attempts WHERE what = 'open'"))
        rows = db.execute(
            "SELECT place, began, ended, outcome FROM attempts WHERE what = 'batch'"
        ).fetchall()
    return opened, [(place, b, e, int(outcome.split()[0])) for place, b, e, outcome in rows]


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Seconds in which at least one of the spans was under way."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def _share_of_floor(setting: Setting, windows: int, batches: int, seconds: float) -> float | None:
    """Of one GPU's, with the batch size that the run had on average."""
    if setting.peak is None:
        return None
    shape, tokens = SHAPES[setting.given.model], setting.given.tokens
    size = max(1, round(windows / batches))
    return windows * shape.floor(setting.peak, size, tokens) / seconds


def _peer(setting: Setting) -> float:
    """Seconds of the peer for all files, its model loaded, one process on the first GPU."""
    on_gpu = setting.given.device == "cuda"
    job = Job(
        str(setting.model),
        "batched",
        [(str(path), "en") for path in setting.paths],
        str(setting.place / "heard.json"),
        init={
            "device": setting.given.device,
            "compute_type": "float16" if on_gpu else "int8",
            "cpu_threads": 0 if on_gpu else (os.cpu_count() or 1),
        },
        options={
            "beam_size": setting.given.beam_size,
            "without_timestamps": False,
            "batch_size": PEER_BATCH,
        },
    )
    results, _ = run_peer(job, _libraries())
    return float(sum(found["seconds"] for found in results))


def _libraries() -> dict[str, str]:
    """Where the peer finds cuBLAS, if it comes from a wheel; the engine's slots find it alone."""
    spec = util.find_spec("nvidia")
    places = (spec.submodule_search_locations if spec else None) or ()
    folders = [f"{place}/cublas/lib" for place in places]
    known = os.environ.get("LD_LIBRARY_PATH")
    return {"LD_LIBRARY_PATH": ":".join([*folders, *([known] if known else [])])}


if __name__ == "__main__":
    sys.exit(main())
