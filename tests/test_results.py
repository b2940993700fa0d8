"""Result files: openai-whisper's shape, read back exactly; and the table of items."""

import csv
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.output.results import StoredResult, analysis_csv, read_result_json, result_json
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
    Video,
    VideoResult,
    Word,
)

GOLDEN = Path(__file__).parent / "golden"
VIDEO = Video("/films/talk.mp4", "talk", 1234, 5678, "0" * 32)

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(max_size=20)
COUNTS = st.integers(0, 2**40)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(TEXTS, JSON, max_size=4)
PROBLEMS = st.none() | st.builds(Problem, TEXTS, TEXTS)
WORDS = st.builds(Word, FLOATS, FLOATS, TEXTS, FLOATS)
SEGMENTS = st.builds(
    Segment,
    *(COUNTS, COUNTS, FLOATS, FLOATS, TEXTS, st.lists(COUNTS, max_size=4).map(tuple)),
    *(FLOATS, FLOATS, FLOATS, FLOATS, st.none() | st.lists(WORDS, max_size=3).map(tuple)),
)
TRANSCRIPTS = st.builds(
    Transcript,
    *(TEXTS, st.none() | FLOATS, FLOATS, FLOATS, st.lists(SEGMENTS, max_size=4).map(tuple)),
    st.none() | TEXTS,
    st.lists(st.builds(Suspect, FLOATS, FLOATS, TEXTS), max_size=3).map(tuple),
)
ITEMS = st.lists(
    st.builds(
        Item,
        *(OBJECTS, st.lists(COUNTS, max_size=3).map(tuple), TEXTS, st.none() | FLOATS),
        *(st.none() | FLOATS, st.sampled_from(Grounding), FLOATS),
    ),
    max_size=3,
).map(tuple)
FAILED = st.builds(
    ChunkResult,
    index=COUNTS,
    state=st.sampled_from(State),
    dropped=COUNTS,
    problem=PROBLEMS,
)
ANALYSES = st.builds(
    Analysis,
    *(TEXTS, TEXTS, st.sampled_from(State), ITEMS, ITEMS, COUNTS),
    *(st.lists(FAILED, max_size=3).map(tuple), COUNTS, PROBLEMS),
)
# what os.fsdecode gives for any bytes a file name can have
FILE_NAMES = (
    st.binary(min_size=1, max_size=40)
    .map(lambda raw: raw.replace(b"/", b"_").replace(b"\0", b"_"))
    .map(os.fsdecode)
)
VIDEOS = st.builds(Video, FILE_NAMES.map("/films/".__add__), TEXTS, COUNTS, COUNTS, TEXTS)
RESULTS = st.builds(
    VideoResult,
    video=VIDEOS,
    state=st.sampled_from(State),
    problem=PROBLEMS,
    transcript=TRANSCRIPTS,
    analyses=st.lists(ANALYSES, max_size=2).map(tuple),
)


def rebuilt(stored: StoredResult) -> VideoResult:
    return VideoResult(
        Video(f"/elsewhere/{stored.file}", stored.name, stored.size, 1, stored.fingerprint),
        stored.state,
        stored.problem,
        stored.transcript,
        stored.analyses,
    )


@settings(deadline=None)
@given(RESULTS, OBJECTS, OBJECTS)
def test_result_file_is_read_back_exactly(
    result: VideoResult, options: Mapping[str, Any], model: Mapping[str, Any]
) -> None:
    data = result_json(result, options, model)
    stored = read_result_json(data)
    assert stored == StoredResult(
        *(os.path.basename(result.video.path), result.video.name),
        *(result.video.size, result.video.fingerprint, model, options),
        *(result.state, result.problem, result.transcript, result.analyses),
    )
    assert result_json(rebuilt(stored), stored.options, stored.model) == data


@pytest.mark.parametrize("name", ["plain", "words"])
def test_without_our_key_the_file_is_what_openai_whisper_writes(name: str) -> None:
    golden = (GOLDEN / f"{name}.json").read_bytes()
    shape = json.loads(golden)
    segments = tuple(
        Segment(
            **{
                **segment,
                "tokens": tuple(segment["tokens"]),
                "words": tuple(Word(**w) for w in segment["words"]) if name == "words" else None,
            }
        )
        for segment in shape["segments"]
    )
    result = VideoResult(
        VIDEO, State.DONE, transcript=Transcript("en", None, 360000.75, 9.5, segments)
    )
    ours = result_json(result, {"language": "en"}, {"name": "tiny.en"})
    rest = json.loads(ours)
    assert list(rest) == ["text", "segments", "language", "reelmine"]
    del rest["reelmine"]
    assert json.dumps(rest).encode() == golden
    assert ours.startswith(golden[:-1])


def test_file_name_that_is_not_utf8_is_kept() -> None:
    video = Video(os.fsdecode(b"/films/caf\xe9\n.mp4"), "caf_", 1, 1, "f")
    result = VideoResult(video, State.DONE, transcript=Transcript("en", 1.0, 1.0, 0.0, ()))
    data = result_json(result, {}, {})
    assert data.isascii()
    assert os.fsencode(read_result_json(data).file) == b"caf\xe9\n.mp4"


def test_bytes_do_not_depend_on_folder_or_date_of_the_file() -> None:
    transcript = Transcript("en", 1.0, 1.0, 0.0, ())
    here = VideoResult(Video("/a/t.mp4", "t", 1, 1, "f"), State.DONE, transcript=transcript)
    there = VideoResult(
        *(Video("/b/t.mp4", "t", 1, 2, "f"), State.DONE, None, transcript, (), ("t.json",), True)
    )
    assert result_json(here, {}, {}) == result_json(there, {}, {})


def test_video_without_transcript_has_no_result_file() -> None:
    with pytest.raises(ValueError, match="talk"):
        result_json(VideoResult(VIDEO, State.FAILED), {}, {})


GOOD = json.loads(
    result_json(
        VideoResult(VIDEO, State.DONE, transcript=Transcript("en", None, 1.0, 0.0, ())), {}, {}
    )
)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[1, 2",
        b"[]",
        b"null",
        b'{"text": "", "segments": [], "language": "en"}',
        json.dumps(GOOD).encode()[:-20],
        json.dumps({**GOOD, "segments": [{"id": 1}]}).encode(),
        json.dumps({**GOOD, "segments": None}).encode(),
        json.dumps({**GOOD, "reelmine": {**GOOD["reelmine"], "schema_version": 2}}).encode(),
        json.dumps({**GOOD, "reelmine": {**GOOD["reelmine"], "state": "fine"}}).encode(),
        json.dumps({**GOOD, "reelmine": {**GOOD["reelmine"], "analyses": [1]}}).encode(),
        b"\xff\xfe\xff",
    ],
)
def test_what_is_no_result_file_of_ours_is_refused(data: bytes) -> None:
    read_result_json(json.dumps(GOOD).encode())  # as it was, it is one
    with pytest.raises(ValueError, match=r"."):
        read_result_json(data)


def item(**fields: Any) -> Item:
    return Item(fields, (3, 4), "he let the cat out", 12.5, 14.0, Grounding.EXACT, 1.0)


def result_with(name: str, recipe: str, *items: Item) -> VideoResult:
    analysis = Analysis(recipe, "phrasebook-en", State.DONE, items)
    return VideoResult(Video(f"/{name}", name, 1, 1, "f"), State.DONE, analyses=(analysis,))


def rows_of(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode(), newline="")))


def test_table_has_a_row_for_each_item_with_its_fields_in_recipe_order() -> None:
    data = analysis_csv(
        [
            result_with("a", "expressions", item(phrase="let the cat", level="B2")),
            result_with("b", "summary", item(points=["x", "é"], level=None, sure=True)),
        ]
    )
    header = "video,recipe,start,end,cues,quote,grounding,score,phrase,level,points,sure"
    assert data.decode().split("\r\n") == [
        header,
        "a,expressions,12.5,14.0,3 4,he let the cat out,exact,1.0,let the cat,B2,,",
        'b,summary,12.5,14.0,3 4,he let the cat out,exact,1.0,,,"[""x"", ""é""]",true',
        "",
    ]


def test_table_of_nothing_is_its_header() -> None:
    assert analysis_csv([]) == b"video,recipe,start,end,cues,quote,grounding,score\r\n"


def test_item_that_was_not_found_in_the_cues_has_no_row() -> None:
    lost = Item({"phrase": "x"}, (), "never said", None, None, Grounding.UNGROUNDED, 0.1)
    analysis = Analysis("expressions", "m", State.DONE, (item(phrase="y"),), (lost,))
    data = analysis_csv([VideoResult(VIDEO, State.DONE, analyses=(analysis,))])
    assert [row["phrase"] for row in rows_of(data)] == ["y"]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_text_that_a_spreadsheet_would_run_is_made_harmless(start: str) -> None:
    formula = f'{start}HYPERLINK("http://x","y")'
    found = Item({formula: formula}, (1,), formula, 0.0, 1.0, Grounding.FUZZY, 0.9)
    [row] = rows_of(analysis_csv([result_with(formula, formula, found)]))
    assert row["video"] == row["recipe"] == row["quote"] == row[f"'{formula}"] == f"'{formula}"


def test_number_below_zero_stays_a_number() -> None:
    [row] = rows_of(analysis_csv([result_with("a", "own", item(mood=-0.5))]))
    assert row["mood"] == "-0.5"


def test_field_named_like_a_column_is_told_apart() -> None:
    [row] = rows_of(analysis_csv([result_with("a", "own", item(start="Monday"))]))
    assert (row["start"], row["item.start"]) == ("12.5", "Monday")


@given(st.lists(st.dictionaries(st.sampled_from("abc"), TEXTS, min_size=1), max_size=5))
def test_any_text_survives_the_table(fields: list[dict[str, str]]) -> None:
    rows = rows_of(analysis_csv([result_with("v", "own", *(item(**some) for some in fields))]))
    assert len(rows) == len(fields)
    for row, some in zip(rows, fields, strict=True):
        for name, text in some.items():
            assert row[name] == (f"'{text}" if text[:1] in tuple("=+-@\t\r") else text)


def test_a_file_from_before_fallbacks_were_kept_is_read():
    ours = {name: value for name, value in GOOD["reelmine"].items() if name != "fallback"}
    stored = read_result_json(json.dumps({**GOOD, "reelmine": ours}).encode())
    assert stored.transcript.fallback is None
