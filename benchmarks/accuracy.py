"""How many words are wrong: ours and faster-whisper, on real speech, at the same settings.

In: the folder of clips with reference texts (`../shared/speech`, or --speech), models. Out: word
error rate per kind of speech, words written where nobody speaks, and how often the language is
found. Ours is the whole engine: a run over the clips, its JSON files read back; with the quality
gates, without them, and in sequential mode. Ends with exit code 1 if a gate fails: ours at most 0.1
point above the lowest of the three peers, and without gates and in sequential mode above the same
kind of peer; no more words on non-speech than the batched peer; the language right as often.

    python benchmarks/accuracy.py --models tiny.en,base
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import (
    SPEECH,
    Clip,
    Gate,
    WordErrors,
    clips_of,
    conclude,
    machine,
    percent,
    print_machine,
    print_table,
    say,
    timed,
)

from engine.api import run
from engine.config import Config
from engine.speech.models import ResolvedModel, get

PEERS = Path(__file__).with_name("peers.py")
SLACK = 0.1  # points of word error rate that ours may be above the peer
BEAM = 5
ENGLISH_ONLY = ("en", None)


@dataclass(frozen=True, slots=True, eq=False)
class Way:
    """One way to transcribe: an engine and its settings."""

    name: str
    ours: Mapping[str, Any] | None = None  # of Config; None: the peer's
    pipeline: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


OURS = Way("ours", {})
UNGATED = Way("ours, without gates", {"quality_gates": False})
OURS_SEQUENTIAL = Way("ours, sequential", {"mode": "sequential"})
BATCHED = Way("BatchedInferencePipeline", None, "batched", {"without_timestamps": False})
SEQUENTIAL = Way("faster-whisper", None, "sequential", {"temperature": 0})
SEQUENTIAL_VAD = Way(
    "faster-whisper, VAD", None, "sequential", {"temperature": 0, "vad_filter": True}
)
WAYS = (OURS, UNGATED, BATCHED, OURS_SEQUENTIAL, SEQUENTIAL, SEQUENTIAL_VAD)
PEERS_OF_OURS = (BATCHED, SEQUENTIAL, SEQUENTIAL_VAD)


@dataclass(frozen=True, slots=True)
class Heard:
    """What one way made of one clip."""

    text: str
    language: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; the exit code."""
    given = _parser().parse_args(arguments)
    facts = machine()
    if not (given.speech / "manifest.tsv").is_file():
        print(f"There is no manifest.tsv in {given.speech}: nothing to measure; give --speech.")
        return conclude("accuracy", facts, [], skipped="no speech")
    print_machine(facts)
    clips = _some(clips_of(given.speech), given.limit)
    counter = WordErrors(given.speech)
    gates: list[Gate] = []
    figures: dict[str, Any] = {}
    texts: list[tuple[str, ...]] = []
    for name in given.models.split(","):
        model = get(name)
        figures[name] = _measure(model, clips, counter, gates, texts)
    if given.texts:
        given.texts.write_text("".join("\t".join(row) + "\n" for row in texts), encoding="utf-8")
    return conclude("accuracy", facts, gates, models=figures, beam=BEAM, clips=len(clips))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--speech", type=Path, default=SPEECH, help="folder of clips")
    parser.add_argument("--models", default="tiny.en,base", help="names, separated by commas")
    parser.add_argument("--limit", type=int, help="clips per kind, for a quick look")
    parser.add_argument(
        "--texts", type=Path, help="write model, way, clip, errors and text of each as TSV"
    )
    return parser


def _some(clips: Sequence[Clip], limit: int | None) -> list[Clip]:
    if limit is None:
        return list(clips)
    kinds = dict.fromkeys(clip.kind for clip in clips)
    return [clip for kind in kinds for clip in [c for c in clips if c.kind == kind][:limit]]


def _measure(
    model: ResolvedModel,
    clips: Sequence[Clip],
    counter: WordErrors,
    gates: list[Gate],
    texts: list[tuple[str, ...]],
) -> dict[str, Any]:
    """All figures of one model; prints its tables and adds its gates."""
    usable = [c for c in clips if model.multilingual or c.language in ENGLISH_ONLY]
    heard = {way: _hear(way, model, [(c, c.language) for c in usable]) for way in WAYS}
    errors = {way: _errors(usable, heard[way], counter) for way in WAYS}
    _print_errors(model.name, errors)
    for way in WAYS:
        texts += [
            (
                model.name,
                way.name,
                c.path.name,
                str(counter.count(c.reference, heard[way][c].text, c.language)[0]),
                " ".join(heard[way][c].text.split()),
            )
            for c in usable
        ]
    gates += [
        _rate_gate(model.name, errors, OURS, _lowest(errors)),
        _rate_gate(model.name, errors, UNGATED, BATCHED),
        _rate_gate(model.name, errors, OURS_SEQUENTIAL, SEQUENTIAL),
        _silence_gate(model.name, errors),
    ]
    figures: dict[str, Any] = {"errors": {way.name: errors[way] for way in WAYS}}
    foreign = [clip for clip in usable if clip.kind == "foreign"]
    if foreign:
        figures["languages"] = _languages(model, foreign, gates)
    return figures


# --- transcribing ------------------------------------------------------------------------------


def _hear(
    way: Way, model: ResolvedModel, asked: Sequence[tuple[Clip, str | None]]
) -> dict[Clip, Heard]:
    """What a way makes of clips, each with the language it is told (None: to be detected)."""
    say(f"{model.name}: {way.name}, {len(asked)} clips")
    with tempfile.TemporaryDirectory(prefix="accuracy-") as scratch:
        if way.ours is None:
            return _hear_peer(way, model, asked, Path(scratch))
        heard: dict[Clip, Heard] = {}
        for language in dict.fromkeys(language for _, language in asked):
            some = [clip for clip, told in asked if told == language]
            config = Config(
                output=Path(scratch, language or "any"),
                model=model.name,
                language=language,
                compute_type="int8",
                beam_size=BEAM,
                analysis=False,
                output_format=("json",),
                **way.ours,
            )
            heard |= _hear_ours(some, config)
        return heard


def _hear_ours(clips: Sequence[Clip], config: Config) -> dict[Clip, Heard]:
    """One run over the clips, and its JSON files."""
    report = run([clip.path for clip in clips], config)
    if report.exit_code != 0:
        raise SystemExit(f"ours ended with {report.exit_code}: {report}")
    by_path = {clip.path.resolve(): clip for clip in clips}
    heard = {}
    for result in report.videos:
        written = json.loads(Path(f"{config.output / result.video.name}.json").read_bytes())
        clip = by_path[Path(result.video.path).resolve()]
        heard[clip] = Heard(written["text"], written["language"])
    return heard


def _hear_peer(
    way: Way, model: ResolvedModel, asked: Sequence[tuple[Clip, str | None]], scratch: Path
) -> dict[Clip, Heard]:
    """The peer with a process for each core: faster, and the text is the same."""
    output = scratch / "heard.json"
    job = {
        "model": str(model.path),
        "pipeline": way.pipeline,
        "files": [(str(clip.path), language) for clip, language in asked],
        "output": str(output),
        "processes": max(1, int(machine()["cores"])),
        "init": {"compute_type": "int8", "cpu_threads": 1},
        "options": {"beam_size": BEAM, **way.options},
    }
    (scratch / "job.json").write_text(json.dumps(job), encoding="utf-8")
    timed([sys.executable, PEERS, scratch / "job.json"], {"OMP_NUM_THREADS": "1"})
    results = json.loads(output.read_bytes())
    return {
        clip: Heard(result["text"], result["language"])
        for (clip, _), result in zip(asked, results, strict=True)
    }


# --- counting ----------------------------------------------------------------------------------

Errors = Mapping[str, tuple[int, int]]  # kind -> errors, words of the reference


def _errors(clips: Sequence[Clip], heard: Mapping[Clip, Heard], counter: WordErrors) -> Errors:
    """Per kind and for all speech; for non-speech the words written and 0."""
    totals: dict[str, tuple[int, int]] = {}
    for clip in clips:
        text = heard[clip].text
        if clip.kind == "nonspeech":
            counted, kinds = (counter.words(text), 0), ["nonspeech"]
        else:
            counted = counter.count(clip.reference, text, clip.language)
            everywhere = ["all speech"] if clip.language != "en" else ["all English", "all speech"]
            kinds = [clip.kind, *everywhere]
        for kind in kinds:
            errors, words = totals.get(kind, (0, 0))
            totals[kind] = errors + counted[0], words + counted[1]
    return totals


def _print_errors(model: str, errors: Mapping[Way, Errors]) -> None:
    print(f"\nWord error rate of {model}, int8, beam {BEAM} (errors)")
    spoken = [kind for kind in errors[OURS] if kind != "nonspeech"]
    kinds = sorted(spoken, key=lambda kind: kind.startswith("all "))  # the sums come last
    rows: list[list[object]] = []
    for way in WAYS:
        row: list[object] = [way.name]
        for kind in kinds:
            wrong, words = errors[way][kind]
            row.append(f"{percent(wrong, words):.2f} % ({wrong})")
        rows.append([*row, errors[way].get("nonspeech", (0, 0))[0]])
    said = [f"{kind} ({errors[OURS][kind][1]} words)" for kind in kinds]
    print_table(["", *said, "words on non-speech"], rows)


def _lowest(errors: Mapping[Way, Errors]) -> Way:
    """The peer with the fewest errors."""
    return min(PEERS_OF_OURS, key=lambda way: errors[way]["all speech"][0])


def _rate_gate(model: str, errors: Mapping[Way, Errors], ours: Way, peer: Way) -> Gate:
    mine, other = (percent(*errors[way]["all speech"]) for way in (ours, peer))
    return Gate(
        f"{model}, {ours.name} at most {SLACK} point above {peer.name}",
        mine <= other + SLACK,
        f"{mine:.2f} % and {other:.2f} %",
    )


def _silence_gate(model: str, errors: Mapping[Way, Errors]) -> Gate:
    mine, other = (errors[way].get("nonspeech", (0, 0))[0] for way in (OURS, BATCHED))
    name = f"{model}, words on non-speech no more than {BATCHED.name}"
    return Gate(name, mine <= other, f"{mine} and {other}")


def _languages(model: ResolvedModel, foreign: Sequence[Clip], gates: list[Gate]) -> dict[str, Any]:
    """How many clips' languages are found by each way; prints the table."""
    ways = (OURS, OURS_SEQUENTIAL, BATCHED, SEQUENTIAL)
    heard = {way: _hear(way, model, [(clip, None) for clip in foreign]) for way in ways}
    right = {
        way: sum(heard[way][clip].language == clip.language for clip in foreign) for way in ways
    }
    print(f"Language of {len(foreign)} foreign clips found by {model.name}")
    rows = [[way.name, right[way], _mistaken(foreign, heard[way])] for way in ways]
    print_table(["", "right", "wrong"], rows)
    for ours, peer in ((OURS, BATCHED), (OURS_SEQUENTIAL, SEQUENTIAL)):
        gates.append(
            Gate(
                f"{model.name}, language of {ours.name} right as often as {peer.name}",
                right[ours] >= right[peer],
                f"{right[ours]} and {right[peer]} of {len(foreign)}",
            )
        )
    return {way.name: right[way] for way in ways}


def _mistaken(clips: Sequence[Clip], heard: Mapping[Clip, Heard]) -> str:
    """The languages that were taken for others."""
    return ", ".join(
        f"{heard[clip].language} for {clip.language}"
        for clip in clips
        if heard[clip].language != clip.language
    )


if __name__ == "__main__":
    sys.exit(main())
