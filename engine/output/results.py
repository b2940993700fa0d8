"""The result file of a video, and the table of all items of a run.

In: a VideoResult, with the model and the options it was made with. Out: JSON in openai-whisper's
shape (what reads its files reads ours) with everything else under one key ``reelmine``, and back
again, exactly. The bytes hold no time of day, no number of slots and no folder: only what follows
from content, model and options. Also CSV for spreadsheets, by RFC 4180. Writes nothing to disk.
"""

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.records import (
    Analysis,
    ChunkResult,
    Grounding,
    Item,
    Problem,
    Segment,
    State,
    Suspect,
    Transcript,
    VideoResult,
    Word,
)

SCHEMA_VERSION = 1
COLUMNS = ("video", "recipe", "start", "end", "cues", "quote", "grounding", "score")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would run a cell that begins like this


@dataclass(frozen=True, slots=True)
class StoredResult:
    """What a result file holds: a VideoResult without what belongs to one run or one folder."""

    file: str  # the video's file name, as the disk has it
    name: str  # as Video.name
    size: int
    fingerprint: str
    model: Mapping[str, Any]
    options: Mapping[str, Any]
    state: State
    problem: Problem | None
    transcript: Transcript
    analyses: tuple[Analysis, ...]


def result_json(result: VideoResult, options: Mapping[str, Any], model: Mapping[str, Any]) -> bytes:
    """The result file of a video that has a transcript; ValueError for one that has none.

    ASCII: a name whose bytes are not UTF-8 survives as escapes.
    """
    transcript = result.transcript
    if transcript is None:
        raise ValueError(f"{result.video.name} has no transcript to write")
    shape = {
        "text": transcript.text,
        "segments": [_from_segment(segment) for segment in transcript.segments],
        "language": transcript.language,
        "reelmine": {
            "schema_version": SCHEMA_VERSION,
            "source": {
                "file": os.path.basename(result.video.path),
                "name": result.video.name,
                "size": result.video.size,
                "fingerprint": result.video.fingerprint,
            },
            "model": dict(model),
            "options": dict(options),
            "state": result.state,
            "problem": _from_problem(result.problem),
            "duration": transcript.duration,
            "speech": transcript.speech,
            "language_probability": transcript.language_probability,
            "fallback": transcript.fallback,
            "suspects": [
                {"start": suspect.start, "end": suspect.end, "reason": suspect.reason}
                for suspect in transcript.suspects
            ],
            "analyses": [_from_analysis(analysis) for analysis in result.analyses],
        },
    }
    return json.dumps(shape).encode()


def read_result_json(data: bytes) -> StoredResult:
    """The inverse of `result_json`; ValueError for anything that it has not written."""
    try:
        shape = json.loads(data)
        ours = shape["reelmine"]
        if ours["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema version {ours['schema_version']} is not {SCHEMA_VERSION}")
        transcript = Transcript(
            language=shape["language"],
            language_probability=ours["language_probability"],
            duration=ours["duration"],
            speech=ours["speech"],
            segments=tuple(_to_segment(segment) for segment in shape["segments"]),
            fallback=ours.get("fallback"),  # older files have none
            suspects=tuple(Suspect(**suspect) for suspect in ours.get("suspects", ())),
        )
        return StoredResult(
            **ours["source"],
            model=ours["model"],
            options=ours["options"],
            state=State(ours["state"]),
            problem=_to_problem(ours["problem"]),
            transcript=transcript,
            analyses=tuple(_to_analysis(analysis) for analysis in ours["analyses"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a result file of ours: {error!r}") from error


def analysis_csv(results: Sequence[VideoResult]) -> bytes:
    """One row for each grounded item, in the order given: `COLUMNS`, then the items' own fields.

    A field named like a column is ``item.NAME``. ``cues`` are ids divided by blanks; lists and
    objects are JSON. Text that a spreadsheet would take for a formula gets an apostrophe in front.
    """
    rows = [
        (result.video.name, analysis.recipe, item)
        for result in results
        for analysis in result.analyses
        for item in analysis.items
        if item.grounding is not Grounding.UNGROUNDED
    ]
    fields = list(dict.fromkeys(field for _, _, item in rows for field in item.fields))
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(
        [*COLUMNS, *(_cell(f"item.{field}" if field in COLUMNS else field) for field in fields)]
    )
    for video, recipe, item in rows:
        cues = " ".join(map(str, item.cues))
        known = (video, recipe, item.start, item.end, cues, item.quote, item.grounding, item.score)
        writer.writerow(map(_cell, [*known, *(item.fields.get(field) for field in fields)]))
    return table.getvalue().encode("utf-8", "backslashreplace")


def _cell(value: object) -> str | float | None:
    """A value as csv shall write it."""
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    text = str(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"'{text}" if text.startswith(_FORMULA) else text


def _from_segment(segment: Segment) -> dict[str, Any]:
    shape: dict[str, Any] = {
        "id": segment.id,
        "seek": segment.seek,
        "start": segment.start,
        "end": segment.end,
        "text": segment.text,
        "tokens": segment.tokens,
        "temperature": segment.temperature,
        "avg_logprob": segment.avg_logprob,
        "compression_ratio": segment.compression_ratio,
        "no_speech_prob": segment.no_speech_prob,
    }
    if segment.words is not None:
        shape["words"] = [
            {
                "word": word.word,
                "start": word.start,
                "end": word.end,
                "probability": word.probability,
            }
            for word in segment.words
        ]
    return shape


def _to_segment(shape: dict[str, Any]) -> Segment:
    words = shape.get("words")
    return Segment(
        **{
            **shape,
            "tokens": tuple(shape["tokens"]),
            "words": None if words is None else tuple(Word(**word) for word in words),
        }
    )


def _from_problem(problem: Problem | None) -> dict[str, str] | None:
    return None if problem is None else {"code": problem.code, "message": problem.message}


def _to_problem(shape: dict[str, str] | None) -> Problem | None:
    return None if shape is None else Problem(**shape)


def _from_analysis(analysis: Analysis) -> dict[str, Any]:
    return {
        "recipe": analysis.recipe,
        "analyst": analysis.analyst,
        "state": analysis.state,
        "items": [_from_item(item) for item in analysis.items],
        "ungrounded": [_from_item(item) for item in analysis.ungrounded],
        "chunks": analysis.chunks,
        "failed": [_from_chunk(chunk) for chunk in analysis.failed],
        "dropped": analysis.dropped,
        "problem": _from_problem(analysis.problem),
    }


def _to_analysis(shape: dict[str, Any]) -> Analysis:
    return Analysis(
        **{
            **shape,
            "state": State(shape["state"]),
            "items": tuple(_to_item(item) for item in shape["items"]),
            "ungrounded": tuple(_to_item(item) for item in shape["ungrounded"]),
            "failed": tuple(_to_chunk(chunk) for chunk in shape["failed"]),
            "problem": _to_problem(shape["problem"]),
        }
    )


def _from_chunk(chunk: ChunkResult) -> dict[str, Any]:
    """A chunk that did not end as done: its items mean nothing and are not kept."""
    return {
        "index": chunk.index,
        "state": chunk.state,
        "dropped": chunk.dropped,
        "problem": _from_problem(chunk.problem),
    }


def _to_chunk(shape: dict[str, Any]) -> ChunkResult:
    return ChunkResult(
        **{**shape, "state": State(shape["state"]), "problem": _to_problem(shape["problem"])}
    )


def _from_item(item: Item) -> dict[str, Any]:
    return {
        "fields": dict(item.fields),
        "cues": item.cues,
        "quote": item.quote,
        "start": item.start,
        "end": item.end,
        "grounding": item.grounding,
        "score": item.score,
    }


def _to_item(shape: dict[str, Any]) -> Item:
    return Item(
        **{**shape, "cues": tuple(shape["cues"]), "grounding": Grounding(shape["grounding"])}
    )
