"""What a GPU does: the list of measurements that decide its settings, each a command of its own.

    python benchmarks/gpu.py branches       what only a GPU does, each thing once: is it right?
    python benchmarks/gpu.py canary         opens every slot there would be
    python benchmarks/gpu.py model          the model alone, by batch size: what is possible; with
                                            freed memory kept; with torch's encoder
    python benchmarks/gpu.py slots          whole runs with 1, 2, 4, 6 slots on the GPU
    python benchmarks/gpu.py preparation    whole runs with 1, 2, 4, 8 preparation workers
    python benchmarks/gpu.py folder         ours and BatchedInferencePipeline in turn

In: nothing but this repository and `pip install -e .[gpu]`; the model has the true shape and random
weights (shapes.py). Speech comes from the bundled samples or --speech, joined with a seed.
Out: times real time, the share of time in which a model call was under way, the share of the
physical floor. --kept FOLDER leaves model and audio for the next command. A command takes little
more than --budget seconds: what would take longer is left out and named, as is a step that fails,
and the others are done. Text is not looked at: accuracy.py does that, with real models. The exit
code is 1 if something is missing, and after `folder` if a gate fails on a GPU: turbo at least 4
times, large-v3 at least 2.5 times as fast as the peer, busy at least 97 %, at least 35 % of the
floor. Without a GPU nothing is measured, and that is no failure; `--device cpu --model tiny
--minutes 1` goes through the same steps slowly. To see whether two processes on one GPU gain from
MPS, start its daemon and run `slots` again; to see CTranslate2's other allocator, set
CT2_CUDA_ALLOCATOR=cub_caching and run `model` again.
"""

import argparse
import os
import shutil
import sqlite3
import sys
import tempfile
import time
import wave
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib import util
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import gpu_branches
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
from gpu_memory import Pool
from peers import Job
from shapes import SHAPES, Peak, given_peak, known_peak, make_shape
from ways import run_peer

from engine.api import check_slots, run
from engine.bench import limited
from engine.config import Config
from engine.pools.hardware import snapshot
from engine.speech.encoders import WHOLE, Encoder
from engine.terminal import count

TIMES_AS_FAST = {"large-v3-turbo": 4.0, "large-v3": 2.5}
BUSY, FLOOR = 0.97, 0.35
SLOTS, WORKERS = (1, 2, 4, 6), (1, 2, 4, 8)
PEER_BATCH = 16
MINUTES = {"large-v3": 60.0}  # of speech
USUAL_MINUTES = 240.0
MADE = "made"  # lies in a folder that is complete

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Setting:
    """What all runs of one command share."""

    paths: Sequence[Path]
    audio: float  # seconds
    model: Path
    place: Path
    given: argparse.Namespace
    peak: Peak | None
    steps: "Steps"


class Steps:
    """One thing after the other, while there is time; what fails is told, and the next one done."""

    def __init__(self, seconds: float) -> None:
        self.missing: dict[str, str] = {}  # what was not done, and why
        self._until = time.monotonic() + seconds
        self._longest = 0.0

    @property
    def left(self) -> float:
        """Seconds."""
        return self._until - time.monotonic()

    def do(self, what: str, work: Callable[[], _Value]) -> _Value | None:
        """The value of a step; None: it is missing."""
        if self.left < self._longest:
            return self._miss(what, "there is no time left for it (--budget)")
        began = time.monotonic()
        try:
            value = work()
        except (Exception, SystemExit) as error:  # noqa: BLE001 -- whatever it is, it is told
            return self._miss(what, f"{type(error).__name__}: {error}")
        took = time.monotonic() - began
        self._longest = max(self._longest, took)
        say(f"{what}: done in {took:.1f} s")
        return value

    def _miss(self, what: str, why: str) -> None:
        self.missing[what] = why
        say(f"{what}: MISSING: {why}")


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
        why = "there is no GPU on this machine, or NVML does not tell of it"
        why += "".join(f" ({note})" for note in snapshot().notes if "GPU" in note)
        print(f"skipped: {why}")
        return conclude("gpu", facts, [], command=given.command, state="skipped", reason=why)
    peak = given_peak(given.tera_flops, given.tera_bytes) or known_peak(given.device, facts["gpus"])
    steps = Steps(given.budget)
    with tempfile.TemporaryDirectory(prefix="gpu-", dir=given.scratch) as scratch:
        place = Path(scratch)
        model = _model(given.kept or place, given)
        paths, audio = (
            _speech(given.kept or place, given) if given.command in NEED_FILES else ([], 0)
        )
        setting = Setting(paths, audio, model, place, given, peak, steps)
        figures, gates = COMMANDS[given.command](setting)
    gates += [Gate(what, passed=False, detail=why) for what, why in steps.missing.items()]
    settings = {"model": given.model, "device": given.device, "tokens": given.tokens}
    settings["encoder"] = given.encoder
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
    add("--minutes", type=float, help="speech in all (default 240; large-v3: 60)")
    add("--seed", type=int, default=1)
    add("--scratch", type=Path, help="folder for the model, the audio and all outputs")
    add("--kept", type=Path, help="folder for the model and the audio, used again if it has them")
    add("--budget", type=float, default=480.0, help="seconds of a command (default 480)")
    add("--encoder", default="ctranslate2", choices=["ctranslate2", "torch"], help="of whole runs")
    model_shapes.add_costs(parser)
    return parser


def _model(place: Path, given: argparse.Namespace) -> Path:
    folder = place / f"{given.model}-{given.tokens}"
    if not (folder / MADE).exists():
        shutil.rmtree(folder, ignore_errors=True)
        say(f"making the model {given.model}")
        make_shape(folder, SHAPES[given.model], given.tokens)
        (folder / MADE).touch()
    return folder


def _speech(place: Path, given: argparse.Namespace) -> tuple[list[Path], float]:
    minutes = given.minutes or MINUTES.get(given.model, USUAL_MINUTES)
    folder = place / f"speech-{minutes:g}-{given.seed}"
    if not (folder / MADE).exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        say(f"making {minutes:g} minutes of speech")
        real = (given.speech / "manifest.tsv").is_file()
        clips = clips_of(given.speech) if real else bundled_clips()
        english = [clip for clip in clips if clip.language == "en"]
        join_clips(english, folder, minutes, given.seed)
        (folder / MADE).touch()
    paths = sorted(folder.glob("*.wav"))
    return paths, sum(map(_seconds, paths))


def _seconds(path: Path) -> float:
    with wave.open(str(path)) as file:
        return file.getnframes() / file.getframerate()


# --- the commands: figures and gates -----------------------------------------------------------

_Found = tuple[Mapping[str, Any], list[Gate]]


def branches(setting: Setting) -> _Found:
    """What only a GPU does."""
    given, found = setting.given, {}
    for name, work in gpu_branches.steps(setting.model, SHAPES[given.model], given.device):
        found[name] = setting.steps.do(name, work)
        if found[name] is not None:
            print(f"right  {name}: {found[name]}", flush=True)
    return found, []


def canary(setting: Setting) -> _Found:
    """Open every slot."""
    found = setting.steps.do("opening all slots", lambda: check_slots(_config(setting))) or ()
    for slot, good, sentence in found:
        print(f"{slot.device}  {'good' if good else 'BAD'}  {sentence}")
    gates = [Gate(f"slot {slot.device} opens", good, sentence) for slot, good, sentence in found]
    return {"slots": [slot.device for slot, _, _ in found]}, gates


def model(setting: Setting) -> _Found:
    """The model alone in this process, by batch size; then what could be other."""
    given, shape = setting.given, SHAPES[setting.given.model]
    encoding = argparse.Namespace(**{**vars(given), "encode_only": True})
    on_gpu = given.device == "cuda"

    def measured(
        name: str, what: argparse.Namespace = given, encoder: Encoder = WHOLE
    ) -> list[model_shapes.Cost]:
        costs = model_shapes.measure(
            setting.model, shape, given.device, what, setting.peak, encoder
        )
        model_shapes.show(f"{given.model}, {name}", given.device, costs)
        return costs

    def with_memory_kept(name: str) -> list[model_shapes.Cost]:
        if not Pool().keep():
            raise SystemExit("the driver has no such setting")
        try:
            return measured(name)
        finally:
            Pool().keep(0)

    ways: dict[str, Callable[[str], list[model_shapes.Cost]]] = {"batches": measured}
    if on_gpu:
        ways["with freed memory kept"] = with_memory_kept
    if util.find_spec("torch"):
        torch = Encoder("torch-float16" if on_gpu else "torch-bfloat16", "measured")
        ways["torch's encoder"] = lambda name: measured(name, encoding, torch)
    found = {
        name: setting.steps.do(name, lambda: work(name)) or []  # noqa: B023 -- called at once
        for name, work in ways.items()
    }
    told = {name: [model_shapes.told(cost) for cost in costs] for name, costs in found.items()}
    return told, []


def slots(setting: Setting) -> _Found:
    """Whole runs with more slots on the same GPU."""
    return _compared(setting, "slot", SLOTS, lambda number: _engine(setting, slots=number)), []


def preparation(setting: Setting) -> _Found:
    """Whole runs on so many cores that sizing takes one for itself and the rest to prepare."""

    def measured(workers: int) -> Pass:
        with limited(workers + 1):
            return _engine(setting)

    cores = int(snapshot().cores)
    counts = [workers for workers in WORKERS if workers < cores]
    return _compared(setting, "preparation worker", counts, measured), []


def folder(setting: Setting) -> _Found:
    """Ours and the peer in turn; medians."""
    given, steps = setting.given, setting.steps
    ours: list[Pass] = []
    peers: list[float] = []
    for turn, who in enumerate(turns(["ours", "peer"], given.rounds)):
        what = f"{who}, round {turn // 2 + 1}"
        if who == "ours" and (one := steps.do(what, lambda: _engine(setting))):
            ours.append(one)
            _print({what: one})
        if who == "peer" and (seconds := steps.do(what, lambda: _peer(setting))):
            peers.append(seconds)
            say(f"BatchedInferencePipeline: {peers[-1]:.1f} s")
    if not ours or not peers:
        return {"ours": [asdict(one) for one in ours], "peer_seconds": peers}, []
    best = sorted(ours, key=lambda found: found.seconds)[len(ours) // 2]
    peer = median(peers)
    _print({"ours": best})
    print(
        f"BatchedInferencePipeline, batch {PEER_BATCH}: {setting.audio / peer:.1f} times real time"
    )
    figures = {"ours": asdict(best), "peer_seconds": peer, "times_as_fast": peer / best.seconds}
    return figures, _gates(given, best, peer) if given.device == "cuda" else []


COMMANDS: Mapping[str, Callable[[Setting], _Found]] = {
    "branches": branches,
    "canary": canary,
    "model": model,
    "slots": slots,
    "preparation": preparation,
    "folder": folder,
}
NEED_FILES = ("slots", "preparation", "folder")


def _compared(
    setting: Setting, what: str, counts: Iterable[int], measured: Callable[[int], Pass]
) -> Mapping[str, Any]:
    found = {}
    for number in counts:
        name = count(number, what)
        if one := setting.steps.do(name, lambda: measured(number)):  # noqa: B023 -- called at once
            found[number] = one
            _print({name: one})
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
    sys.stdout.flush()


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
    common |= {"encoder": setting.given.encoder, "time_limit": max(60.0, setting.steps.left)}
    path = str(setting.model)
    return Config(model=path, device=device, beam_size=beam, **common, **changes)


def _engine(setting: Setting, **changes: Any) -> Pass:
    """The engine over all files, into an empty folder; what it did is read from its ledger."""
    output = setting.place / "out"
    shutil.rmtree(output, ignore_errors=True)
    report = run(setting.paths, _config(setting, output=output, **changes))
    if report.exit_code:
        reasons = [*report.problems, *(r.problem for r in report.videos if r.problem)]
        why = reasons[0].message if reasons else "its time was over"
        raise SystemExit(f"the run ended with {report.exit_code}: {why}")
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
    results, _ = run_peer(job, _libraries(), max(60.0, setting.steps.left))
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
