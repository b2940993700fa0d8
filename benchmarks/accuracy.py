"""How many words are wrong: ours and faster-whisper, on real speech, at the same settings.

In: the folder of clips with reference texts (`../shared/speech`, or --speech), models. Out: word
error rate per kind of speech, words written where nobody speaks, and how often the language is
found. Ours is the whole engine: a run over the clips, its JSON files read back; as it is by
default, with whole windows, with these and without the quality gates, and in sequential mode. Ends
with exit code 1 if a gate fails: ours at most 0.1 point above the lowest of the three peers; the
same text as the peer's with whole windows without gates, and in sequential mode; no more words on
non-speech than the batched peer; the language right as often.

    python benchmarks/accuracy.py --models tiny.en,base
    python benchmarks/accuracy.py --compute-type float32
    python benchmarks/accuracy.py --altered slower     # other sound, the same words: altered.py
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from altered import ALTERATIONS, alter
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
)
from ways import BATCHED, BEAM, OURS, UNGATED, WHOLE, Heard, Way, Weights, hear

from engine.speech.models import get

SLACK = 0.1  # points of word error rate that ours may be above the peer
ENGLISH_ONLY = ("en", None)

OURS_SEQUENTIAL = Way("ours, sequential", {"mode": "sequential", "encoder": "auto"})
SEQUENTIAL = Way("faster-whisper", None, "sequential", {"temperature": 0})
SEQUENTIAL_VAD = Way(
    "faster-whisper, VAD", None, "sequential", {"temperature": 0, "vad_filter": True}
)
WAYS = (OURS, WHOLE, UNGATED, BATCHED, OURS_SEQUENTIAL, SEQUENTIAL, SEQUENTIAL_VAD)
PEERS_OF_OURS = (BATCHED, SEQUENTIAL, SEQUENTIAL_VAD)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; the exit code."""
    given = _parser().parse_args(arguments)
    facts = machine()
    if not (given.speech / "manifest.tsv").is_file():
        print(f"There is no manifest.tsv in {given.speech}: nothing to measure; give --speech.")
        return conclude("accuracy", facts, [], skipped="no speech")
    print_machine(facts)
    if given.altered is None:
        return _measured(given, given.speech, facts)
    with tempfile.TemporaryDirectory(prefix="reelmine-altered-") as folder:
        alter(given.speech, Path(folder), given.altered)
        return _measured(given, Path(folder), facts)


def _measured(given: argparse.Namespace, speech: Path, facts: dict[str, Any]) -> int:
    clips = _some(clips_of(speech), given.limit)
    counter = WordErrors(speech)
    gates: list[Gate] = []
    figures: dict[str, Any] = {}
    texts: list[tuple[str, ...]] = []
    for name in given.models.split(","):
        model = Weights(get(name), given.compute_type, given.encoder)
        figures[name] = _measure(model, clips, counter, gates, texts)
    if given.texts:
        given.texts.write_text("".join("\t".join(row) + "\n" for row in texts), encoding="utf-8")
    return conclude(
        "accuracy",
        facts,
        gates,
        models=figures,
        compute_type=given.compute_type,
        encoder=given.encoder,
        altered=given.altered,
        beam=BEAM,
        clips=len(clips),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--speech", type=Path, default=SPEECH, help="folder of clips")
    parser.add_argument("--altered", choices=ALTERATIONS, help="altered copies of the clips")
    parser.add_argument("--models", default="tiny.en,base", help="names, separated by commas")
    parser.add_argument("--compute-type", default="int8", help="of all ways; default int8")
    parser.add_argument("--encoder", default="auto", help="of ours where nothing else is said")
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
    model: Weights,
    clips: Sequence[Clip],
    counter: WordErrors,
    gates: list[Gate],
    texts: list[tuple[str, ...]],
) -> dict[str, Any]:
    """All figures of one model; prints its tables and adds its gates."""
    usable = [c for c in clips if model.model.multilingual or c.language in ENGLISH_ONLY]
    heard = {way: _hear(way, model, [(c, c.language) for c in usable]) for way in WAYS}
    errors = {way: _errors(usable, heard[way], counter) for way in WAYS}
    _print_errors(model, errors)
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
        _silence_gate(model.name, errors),
        _text_gate(model.name, heard, UNGATED, BATCHED),
        _text_gate(model.name, heard, OURS_SEQUENTIAL, SEQUENTIAL),
    ]
    figures: dict[str, Any] = {"errors": {way.name: errors[way] for way in WAYS}}
    foreign = [clip for clip in usable if clip.kind == "foreign"]
    if foreign:
        figures["languages"] = _languages(model, foreign, gates)
    return figures


def _hear(way: Way, model: Weights, asked: Sequence[tuple[Clip, str | None]]) -> dict[Clip, Heard]:
    """What a way makes of clips, each with the language it is told (None: to be detected)."""
    heard = hear(way, model, [(clip.path, language) for clip, language in asked])
    return {clip: one for (clip, _), one in zip(asked, heard, strict=True)}


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


def _print_errors(model: Weights, errors: Mapping[Way, Errors]) -> None:
    print(f"\nWord error rate of {model.name}, {model.compute_type}, beam {BEAM} (errors)")
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


def _text_gate(model: str, heard: Mapping[Way, Mapping[Clip, Heard]], ours: Way, peer: Way) -> Gate:
    """The same text clip by clip, to the byte; a tail that the library drops is named."""
    name = f"{model}, text of {ours.name} equals that of {peer.name}"
    pairs = {clip: (heard[ours][clip].text, theirs.text) for clip, theirs in heard[peer].items()}
    longer = [clip.path.name for clip, (a, b) in pairs.items() if a != b and a.startswith(b)]
    other = [clip.path.name for clip, (a, b) in pairs.items() if not a.startswith(b)]
    named = [f"with a tail: {', '.join(longer)}"] * bool(longer)
    named += [f"different: {', '.join(other)}"] * bool(other)
    equal = f"{len(pairs) - len(longer) - len(other)} of {len(pairs)} clips"
    return Gate(name, not other, "; ".join([equal, *named]))


def _silence_gate(model: str, errors: Mapping[Way, Errors]) -> Gate:
    mine, other = (errors[way].get("nonspeech", (0, 0))[0] for way in (OURS, BATCHED))
    name = f"{model}, words on non-speech no more than {BATCHED.name}"
    return Gate(name, mine <= other, f"{mine} and {other}")


def _languages(model: Weights, foreign: Sequence[Clip], gates: list[Gate]) -> dict[str, Any]:
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
