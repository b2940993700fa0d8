"""How long a folder of real speech takes: ours and faster-whisper in turn, as whole processes.

In: clips of real speech (`../shared/speech`, or --speech; without them the bundled samples), joined
with a seed into files of 5 s to 5 min and one longer; with --unjoined the English clips as they
are; with --clips N so many of 3 to 10 s (default 200), in a seeded order and under other names, all
of them before one comes again. Out: wall and CPU seconds from start to exit, medians over rounds in
the order A B, B A, A B; ratios; the word error rate of each; of ours how full batches and windows
were. All with int8, beam 5, the language given and without_timestamps=False; the peer's own
defaults are rows of their own, and so are runs of ours without the quality gates and with whole
windows (--encoder ctranslate2).

Ends with exit code 1 if a gate fails. Ours has to be at least 2.5 times as fast as
BatchedInferencePipeline in one process with 2 threads, and 1.15 times as fast as two processes of
it with one thread each (batch 1 or 8, whichever is faster); with torch's encoder, meant for
processors with bf16 units, 4 times as fast as the one, and 2 (tiny models) or 2.5 times as the two.
Its text is no worse, and batches are full wherever that could be had. A run during which others
take more than 5 % of the machine is repeated, twice at most.

    python benchmarks/folder.py --minutes 10
    python benchmarks/folder.py --unjoined
    python benchmarks/folder.py --clips 200 --batch-size 8 --models tiny.en
"""

import argparse
import random
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from common import (
    SPEECH,
    Clip,
    Gate,
    Recording,
    WordErrors,
    bundled_clips,
    clips_of,
    conclude,
    join_clips,
    machine,
    percent,
    print_machine,
    print_table,
    say,
    turns,
)
from contestants import WAYS, Run, here, run

from engine.speech.models import ResolvedModel, get
from engine.values import whole

SHORT, LONG = 3.0, 10.0  # seconds of the clips taken with --clips
SLACK = 0.1  # points of word error rate that ours may be above the peer
FULL = 0.99  # batches that could be full are
ONE, TWO = ("one",), ("two", "two-8")  # peers of one kind, of which the fastest counts
QUIET = 0.05  # share of the machine that others may take during a run that counts
ATTEMPTS = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; the exit code."""
    parser = _parser()
    given = parser.parse_args(arguments)
    unknown = sorted(set(given.only) - set(WAYS))
    if unknown:
        parser.error(f"--only {unknown[0]}: known are {', '.join(WAYS)}")
    facts = machine()
    print_machine(facts)
    real = (given.speech / "manifest.tsv").is_file()
    counter = WordErrors(given.speech) if real else None
    if not real:
        print(f"There is no manifest.tsv in {given.speech}: the bundled samples, errors uncounted.")
    clips = clips_of(given.speech) if real else bundled_clips()
    with tempfile.TemporaryDirectory(prefix="folder-", dir=given.scratch) as scratch:
        place = Path(scratch)
        recordings = _recordings(clips, place / "speech", given)
        seconds = sum(recording.seconds for recording in recordings)
        print(f"{len(recordings)} files, {seconds / 60:.1f} min of speech, seed {given.seed}")
        gates: list[Gate] = []
        figures = {}
        for name in given.models:
            runs = _race(get(name), recordings, place, given)
            figures[name] = _figures(runs, recordings, counter)
            _print(name, figures[name], seconds)
            gates += _gates(name, figures[name])
    return conclude(
        "folder",
        facts,
        gates,
        files=len(recordings),
        audio_seconds=round(seconds, 1),
        seed=given.seed,
        rounds=given.rounds,
        batch_size=given.batch_size,
        models=figures,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--speech", type=Path, default=SPEECH, help="folder of clips with manifest.tsv")
    add("--minutes", type=float, default=10.0, help="speech in all (default 10)")
    text = "so many clips of 3 to 10 s as they are instead of joined files (default 200)"
    add("--clips", type=whole(1), nargs="?", const=200, metavar="N", help=text)
    add("--unjoined", action="store_true", help="the clips as they are instead of joined files")
    add("--batch-size", type=whole(1), help="windows per model call of ours (default: its own)")
    add("--seed", type=int, default=1)
    add("--models", type=_names, default=["tiny.en", "base"], help="names, separated by commas")
    add("--rounds", type=int, default=3, help="of the contestants of a gate (default 3)")
    add("--other-rounds", type=int, default=1, help="of the other contestants; 0: leave them out")
    add("--only", type=_names, default=here(), help=f"contestants of {', '.join(WAYS)}")
    add("--scratch", type=Path, help="folder for the audio and all outputs")
    return parser


def _names(text: str) -> list[str]:
    return text.split(",")


def _recordings(
    clips: Sequence[Clip], folder: Path, given: argparse.Namespace
) -> Sequence[Recording]:
    english = [clip for clip in clips if clip.language == "en"]
    folder.mkdir()
    if given.unjoined:
        return _copied(english, folder)
    if given.clips:
        return copy_clips(english, folder, given.clips, given.seed)
    return join_clips(english, folder, given.minutes, given.seed)


def copy_clips(clips: Sequence[Clip], folder: Path, number: int, seed: int) -> list[Recording]:
    """So many short clips as they are, the same for one seed; all before one comes again."""
    short = [clip for clip in clips if SHORT <= clip.seconds <= LONG]
    if not short:
        raise SystemExit("there is no clip of 3 to 10 s; leave out --clips")
    chance = random.Random(seed)
    order: list[Clip] = []
    while len(order) < number:
        order += chance.sample(short, len(short))
    return _copied(order[:number], folder)


def _copied(clips: Sequence[Clip], folder: Path) -> list[Recording]:
    return [
        Recording(
            Path(shutil.copy(clip.path, folder / f"clip_{position:03d}{clip.path.suffix}")),
            clip.seconds,
            clip.reference,
        )
        for position, clip in enumerate(clips)
    ]


# --- the race ----------------------------------------------------------------------------------


def _race(
    model: ResolvedModel, recordings: Sequence[Recording], place: Path, given: argparse.Namespace
) -> dict[str, list[Run]]:
    """Every contestant's runs; each file has been read before the first one starts."""
    gated = [key for key in given.only if WAYS[key].gated]
    others = [key for key in given.only if not WAYS[key].gated]
    runs: dict[str, list[Run]] = {}
    more = ("--batch-size", str(given.batch_size)) if given.batch_size else ()
    if gated:  # the libraries and the model come from the disk once, and that is not counted
        run("ours", model, [min(recordings, key=lambda r: r.seconds)], place, more)
    for key in [*turns(gated, given.rounds), *turns(others, given.other_rounds)]:
        runs.setdefault(key, []).append(_quiet_run(key, model, recordings, place, more))
    return runs


def _quiet_run(
    key: str,
    model: ResolvedModel,
    recordings: Sequence[Recording],
    place: Path,
    more: Sequence[str],
) -> Run:
    """A run that others have not disturbed; after some attempts any, which the table then shows."""
    for _ in range(ATTEMPTS):
        done = run(key, model, recordings, place, more)
        timing, others = done.timing, done.timing.others or 0.0
        say(
            f"{model.name} {key}: {timing.wall:.1f} s wall, {timing.cpu:.1f} s CPU,"
            f" {others:.0%} of the machine taken by others"
        )
        if others <= QUIET:
            break
    return done


# --- telling -----------------------------------------------------------------------------------


def _figures(
    runs: Mapping[str, Sequence[Run]], recordings: Sequence[Recording], counter: WordErrors | None
) -> dict[str, dict[str, Any]]:
    """Medians and word error rates by contestant; None for what is not known."""
    return {
        key: {
            "wall": round(median(run.timing.wall for run in done), 2),
            "cpu": round(median(run.timing.cpu for run in done), 2),
            "others": round(max(run.timing.others or 0.0 for run in done), 3),
            "walls": [round(run.timing.wall, 2) for run in done],
            "error_rate": None if counter is None else _rate(counter, recordings, done[-1].texts),
            "same_text": all(run.texts == done[0].texts for run in done),
            "batch_fill": _median(run.batch_fill for run in done),
            "window_fill": _median(run.window_fill for run in done),
        }
        for key, done in runs.items()
    }


def _median(numbers: Iterable[float | None]) -> float | None:
    """Of those that are known."""
    known = [number for number in numbers if number is not None]
    return median(known) if known else None


def _rate(counter: WordErrors, recordings: Sequence[Recording], texts: Sequence[str]) -> float:
    pairs = zip(recordings, texts, strict=True)
    counted = [counter.count(recording.reference, text, "en") for recording, text in pairs]
    return percent(sum(errors for errors, _ in counted), sum(words for _, words in counted))


def _print(model: str, figures: Mapping[str, Mapping[str, Any]], seconds: float) -> None:
    print(f"\n{model}, int8, beam 5, whole processes")
    ours = figures.get("ours")
    rows = []
    for key, figure in figures.items():
        rate = figure["error_rate"]
        rows.append(
            [
                WAYS[key].name,
                len(figure["walls"]),
                f"{figure['wall']:.1f}",
                f"{figure['cpu']:.1f}",
                f"{seconds / figure['wall']:.1f}",
                f"{figure['wall'] / ours['wall']:.2f}" if ours else "-",
                "-" if rate is None else f"{rate:.2f} %",
                _share(figure["batch_fill"]),
                _share(figure["window_fill"]),
                f"{figure['others']:.0%}",
            ]
        )
    head = ["", "rounds", "wall s", "CPU s", "times real time", "wall / ours", "word errors"]
    print_table([*head, "batch fill", "window fill", "taken by others"], rows)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _gates(model: str, figures: Mapping[str, Mapping[str, Any]]) -> list[Gate]:
    """What can be said with the contestants that ran."""
    gates = []
    for key in (key for key, way in WAYS.items() if way.ours and way.gated and key in figures):
        ours, who = figures[key], f"{model}, {WAYS[key].name}"
        runs = f"{len(ours['walls'])} runs"
        gates.append(Gate(f"{who}: the same text in every run", ours["same_text"], runs))
        if (fill := ours["batch_fill"]) is not None:
            name = f"{who}: batch fill at least {FULL}"
            gates.append(Gate(name, fill >= FULL, _share(fill)))
        for keys, target in targets(key, model):
            gates += _against(who, ours, keys, target, figures)
    return gates


def targets(key: str, model: str) -> tuple[tuple[Sequence[str], float], ...]:
    """How many times as fast as the peers of each kind a contestant of ours has to be."""
    if key == "torch":
        return (ONE, 4.0), (TWO, 2.0 if model.startswith("tiny") else 2.5)
    return (ONE, 2.5), (TWO, 1.15)


def _against(
    who: str,
    ours: Mapping[str, Any],
    keys: Sequence[str],
    target: float,
    figures: Mapping[str, Mapping[str, Any]],
) -> list[Gate]:
    """Against the fastest peer of a kind; its text too, where words were counted."""
    present = [key for key in keys if key in figures]
    if not present:
        return []
    peer = min(present, key=lambda key: float(figures[key]["wall"]))
    ratio = figures[peer]["wall"] / ours["wall"]
    name = f"{who}: at least {target:g} times as fast as {WAYS[peer].name}"
    gates = [Gate(name, ratio >= target, f"{ratio:.2f} times as fast")]
    mine, other = ours["error_rate"], figures[peer]["error_rate"]
    if mine is not None:
        name = f"{who}: word error rate at most {SLACK} point above {WAYS[peer].name}"
        gates.append(Gate(name, mine <= other + SLACK, f"{mine:.2f} % and {other:.2f} %"))
    return gates


if __name__ == "__main__":
    sys.exit(main())
