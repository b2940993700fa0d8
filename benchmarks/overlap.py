"""How much of the analysis hides behind the transcription, or the other way round.

In: clips of real speech (`../shared/speech`, or --speech; without them the bundled samples), joined
with a seed; a test server in a process of its own with lognormal latencies, the same by a seed.
Out: wall seconds of whole processes: transcribing alone, analysing what is transcribed, and both in
one run; the overlap, (speech + analysis - both) / the shorter one: 0 is stage by stage, 1 is that
the shorter one costs nothing. Ends with exit code 1 if it is under 0.95.

    python benchmarks/overlap.py --minutes 60
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

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
    timed,
)
from llm_side import RECIPE, server

TARGET = 0.95
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
        (place / "speech").mkdir()
        recordings = join_clips(clips, place / "speech", given.minutes, given.seed)
        recipe = place / "remarks.toml"
        recipe.write_text(RECIPE, encoding="utf-8")
        walls: dict[str, list[float]] = {stage: [] for stage in STAGES}
        for number in range(given.rounds):
            for stage, seconds in _round(given, place, recipe).items():
                walls[stage].append(seconds)
            say(f"round {number + 1}: " + ", ".join(f"{s} {w[-1]:.1f} s" for s, w in walls.items()))
    seconds = sum(recording.seconds for recording in recordings)
    return _tell(given, facts, {stage: median(times) for stage, times in walls.items()}, seconds)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--speech", type=Path, default=SPEECH, help="folder of clips with manifest.tsv")
    add("--minutes", type=float, default=60.0, help="speech in all (default 60)")
    add("--seed", type=int, default=1)
    add("--model", default="tiny.en")
    add("--threads", type=int, default=16, help="--llm-threads (default 16)")
    add("--median", type=float, default=1.0, help="of the latency, in seconds (default 1)")
    add("--sigma", type=float, default=0.5, help="of the lognormal latency (default 0.5)")
    add("--rounds", type=int, default=1)
    return parser


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
    with server(given.median, given.sigma) as url:
        command: list[Any] = [sys.executable, "-m", "engine", "run", place / "speech", "-o", output]
        command += ["--model", given.model, "--language", "en", "--quiet", *words]
        env = {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": ""}
        return timed(command, env).wall


def _tell(
    given: argparse.Namespace, facts: dict[str, Any], walls: dict[str, float], seconds: float
) -> int:
    shorter = min(walls["speech"], walls["analysis"])
    longer = max(walls["speech"], walls["analysis"])
    overlap = (walls["speech"] + walls["analysis"] - walls["both"]) / shorter
    rows = [[stage, f"{wall:.1f}", f"{wall / longer:.3f}"] for stage, wall in walls.items()]
    print(
        f"\n{seconds / 60:.1f} min of speech, {given.model}; latency with median"
        f" {given.median:g} s, {given.threads} LLM threads, {given.rounds} rounds"
    )
    print_table(["", "wall s", "of the longer stage"], rows)
    gate = Gate("overlap of speech and analysis", overlap >= TARGET, f"{overlap:.3f}")
    figures = {stage: round(wall, 2) for stage, wall in walls.items()}
    return conclude("overlap", facts, [gate], overlap=round(overlap, 3), seconds=figures)


if __name__ == "__main__":
    sys.exit(main())
