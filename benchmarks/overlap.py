"""How much of the analysis hides behind the transcription, or the other way round.

In: clips of real speech (`../shared/speech`, or --speech; without them the bundled samples), joined
with a seed into films of ten minutes, no two alike; a test server in a process of its own with
lognormal latencies, the same by a seed. Out: wall seconds of whole processes: transcribing alone,
analysing what is transcribed, and both in one run. Of these the overlap, (speech + analysis - both)
/ the shorter one: 0 is stage by stage, 1 is that the shorter one costs nothing. And how long both
take over the longer one and the fill: what no order can hide, the time to the first call if the
analysis is longer, else the longest call (the last chunk is known with the last word). Ends with
exit code 1 if the overlap is under 0.95, both take more than 1.05 times the longer one and the
fill, or both in one run ask another number of calls than the analysis alone.

    python benchmarks/overlap.py --minutes 360 --plot overlap.svg
"""

import argparse
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from math import ceil
from pathlib import Path
from statistics import median
from typing import Any

from common import (
    SPEECH,
    Clip,
    Gate,
    bundled_clips,
    clips_of,
    conclude,
    join_film,
    machine,
    print_machine,
    print_table,
    say,
    timed,
)
from llm_side import server

from engine.plot import bars
from engine.store.ledger import FILE

FILM = 10.0  # minutes
TARGET = 0.95
LONGER = 1.05  # times the longer stage, and the fill
RECIPE = """
name = "remarks"
prompt = "Say in one sentence what is remarkable in the dialogue."
min_words = 4
max_words = {words}

[fields.remark]
type = "string"
description = "One sentence."
"""
STAGES = ("speech", "analysis", "both")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; the exit code."""
    given = _parser().parse_args(arguments)
    facts = machine()
    print_machine(facts)
    real = (given.speech / "manifest.tsv").is_file()
    clips = [c for c in clips_of(given.speech) if c.language == "en"] if real else bundled_clips()
    with tempfile.TemporaryDirectory(prefix="overlap-") as scratch:
        place = Path(scratch)
        seconds = _films(clips, place / "speech", given.minutes, given.seed)
        recipe = place / "remarks.toml"
        recipe.write_text(RECIPE.format(words=given.words), encoding="utf-8")
        walls: dict[str, list[float]] = {stage: [] for stage in STAGES}
        fills: list[float] = []
        calls: list[tuple[int, int]] = []  # of the analysis alone, of both
        for number in range(given.rounds):
            for stage, wall in _round(given, place, recipe).items():
                walls[stage].append(wall)
            alone, both = (len(_calls(place / f / FILE)) for f in ("apart", "together"))
            calls.append((alone, both))
            fills.append(_fill(place / "together" / FILE, {s: w[-1] for s, w in walls.items()}))
            say(
                f"round {number + 1}: {alone} and {both} calls, "
                + ", ".join(f"{s} {w[-1]:.1f} s" for s, w in walls.items())
            )
    medians = {stage: median(times) for stage, times in walls.items()}
    return _tell(given, facts, medians, median(fills), seconds, calls)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--speech", type=Path, default=SPEECH, help="folder of clips with manifest.tsv")
    add("--minutes", type=float, default=60.0, help="speech in all (default 60)")
    add("--seed", type=int, default=1)
    add("--model", default="tiny.en")
    add("--words", type=int, default=160, help="of a chunk at most (default 160: a minute)")
    add("--threads", type=int, default=4, help="--llm-threads (default 4)")
    add("--median", type=float, default=3.0, help="of the latency, in seconds (default 3)")
    add("--sigma", type=float, default=0.5, help="of the lognormal latency (default 0.5)")
    add("--rounds", type=int, default=1)
    add("--plot", type=Path, help="SVG file to write")
    return parser


def _films(clips: Sequence[Clip], folder: Path, minutes: float, seed: int) -> float:
    """Make films of so many minutes in all; their seconds."""
    folder.mkdir()
    numbers = range(seed, seed + ceil(minutes / FILM))
    each = minutes / len(numbers)
    films = [join_film(clips, folder / f"film_{n:03d}.wav", each, n) for n in numbers]
    return sum(film.seconds for film in films)


def _round(given: argparse.Namespace, place: Path, recipe: Path) -> dict[str, float]:
    """Wall seconds of each stage, into fresh folders."""
    apart, together = place / "apart", place / "together"
    for folder in (apart, together):
        shutil.rmtree(folder, ignore_errors=True)
    asked = ["--recipe", str(recipe), "--llm-model", "phrasebook"]
    asked += ["--llm-threads", str(given.threads)]
    return {
        "speech": _run(given, place, apart, ["--no-analysis"]),
        "analysis": _run(given, place, apart, asked),
        "both": _run(given, place, together, asked),
    }


def _run(given: argparse.Namespace, place: Path, output: Path, words: Sequence[str]) -> float:
    with server(given.median, given.sigma) as running:
        command: list[Any] = [sys.executable, "-m", "engine", "run", place / "speech", "-o", output]
        command += ["--model", given.model, "--language", "en", "--quiet", *words]
        env = {"OPENAI_BASE_URL": running.url, "OPENAI_API_KEY": ""}
        return timed(command, env).wall


def _fill(ledger: Path, walls: Mapping[str, float]) -> float:
    """Seconds that cannot be hidden, by what the run noted of its calls."""
    calls = _calls(ledger)
    if walls["analysis"] > walls["speech"]:
        return min(began for began, _ in calls)
    return max(ended - began for began, ended in calls)


def _calls(ledger: Path) -> list[tuple[float, float]]:
    """When each call of a folder began and ended, in seconds from the run's start."""
    with closing(sqlite3.connect(ledger)) as db:
        calls = db.execute("SELECT began, ended FROM attempts WHERE what = 'call'").fetchall()
    if not calls:
        raise SystemExit("there was nothing to ask: no speech in these files")
    return calls


# --- telling -------------------------------------------------------------------------------------


def _tell(
    given: argparse.Namespace,
    facts: dict[str, Any],
    walls: dict[str, float],
    fill: float,
    seconds: float,
    calls: Sequence[tuple[int, int]],
) -> int:
    overlap, over = judge(walls, fill)
    longer = max(walls["speech"], walls["analysis"])
    rows = [[stage, f"{wall:.1f}", f"{wall / longer:.3f}"] for stage, wall in walls.items()]
    print(
        f"\n{seconds / 60:.1f} min of speech, {given.model}; latency with median"
        f" {given.median:g} s, {given.words} words a chunk, {given.threads} LLM threads,"
        f" {given.rounds} rounds; calls (analysis"
        f" alone, both): {', '.join(f'{a}, {b}' for a, b in calls)}"
    )
    print_table(["", "wall s", "of the longer stage"], [*rows, ["fill", f"{fill:.1f}", ""]])
    if given.plot:
        title = "Transcribing, analysing, and both in one run"
        shown = [*walls.items(), ("stage by stage", walls["speech"] + walls["analysis"])]
        given.plot.write_text(bars(title, "s", shown), encoding="utf-8")
    gates = [
        Gate(f"overlap at least {TARGET:g}", overlap >= TARGET, f"{overlap:.3f}"),
        Gate(f"both: at most {LONGER:g} times longer + fill", over <= LONGER, f"{over:.3f} times"),
        Gate("as many calls in one run", all(a == b for a, b in calls), f"{calls}"),
    ]
    figures = {stage: round(wall, 2) for stage, wall in walls.items()}
    return conclude(
        "overlap",
        facts,
        gates,
        overlap=round(overlap, 3),
        over_longer=round(over, 3),
        fill=round(fill, 2),
        seconds=figures,
        calls=calls,
    )


def judge(walls: Mapping[str, float], fill: float) -> tuple[float, float]:
    """The overlap, and both without the fill over the longer stage."""
    shorter, longer = sorted((walls["speech"], walls["analysis"]))
    overlap = (shorter + longer - walls["both"]) / shorter
    return overlap, (walls["both"] - fill) / longer


if __name__ == "__main__":
    sys.exit(main())
