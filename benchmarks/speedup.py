"""How much faster a folder is done with more slots: `reelmine bench` on real speech.

In: media files (default: clips of real speech, or without them the bundled samples, joined with a
seed). Out: for 1, 2, ... slots seconds of a whole run, speed-up over one, efficiency, the serial
share by Amdahl's law, the setting to use, and with --plot a picture. On a CPU a run with fewer
slots has fewer cores, so that each slot keeps its threads. There is no target, so no gate.

    python benchmarks/speedup.py --minutes 10 --model tiny.en --plot speedup.svg
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from common import (
    SPEECH,
    bundled_clips,
    clips_of,
    conclude,
    join_clips,
    machine,
    print_machine,
    say,
)

from engine.bench import lines, measure, numbers
from engine.config import Config
from engine.plot import svg
from engine.terminal import count


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; the exit code."""
    given = _parser().parse_args(arguments)
    facts = machine()
    print_machine(facts)
    with tempfile.TemporaryDirectory(prefix="speedup-") as scratch:
        paths = given.paths or _joined(Path(scratch), given)
        config = Config(model=given.model, language="en", device=given.device)
        counts = numbers(given.slots) if given.slots else ()
        found = measure(paths, config, counts, given.rounds, _tell)
    print("\n".join(["", *lines(found), ""]))
    if given.plot:
        given.plot.write_text(svg(found), encoding="utf-8")
    return conclude("speedup", facts, [], rounds=given.rounds, **asdict(found))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("paths", nargs="*", metavar="PATH")
    add("--speech", type=Path, default=SPEECH, help="folder of clips with manifest.tsv")
    add("--minutes", type=float, default=10.0, help="speech in all, without PATH (default 10)")
    add("--seed", type=int, default=1)
    add("--model", default="tiny.en", help="name or folder (default tiny.en)")
    add("--device", default="auto")
    add("--slots", help="numbers, separated by commas; default: doubling up to what fits")
    add("--rounds", type=int, default=3)
    add("--plot", type=Path, help="SVG file to write")
    return parser


def _joined(folder: Path, given: argparse.Namespace) -> list[str]:
    real = (given.speech / "manifest.tsv").is_file()
    clips = clips_of(given.speech) if real else bundled_clips()
    english = [clip for clip in clips if clip.language == "en"]
    return [str(r.path) for r in join_clips(english, folder, given.minutes, given.seed)]


def _tell(slots: int, seconds: float) -> None:
    say(f"{count(slots, 'slot')}: {seconds:.1f} s")


if __name__ == "__main__":
    sys.exit(main())
