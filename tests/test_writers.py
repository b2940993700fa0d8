"""Our subtitle and text writers against files that openai-whisper's own writers made."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import av
import pysubs2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.output.writers import render
from engine.records import Segment, Word

GOLDEN = Path(__file__).parent / "golden"


def segments_of(transcript: dict[str, Any], with_words: bool) -> list[Segment]:
    return [
        Segment(
            **{
                **segment,
                "tokens": tuple(segment["tokens"]),
                "words": tuple(Word(**word) for word in segment["words"]) if with_words else None,
            }
        )
        for segment in transcript["segments"]
    ]


@pytest.fixture(scope="module")
def transcript() -> dict[str, Any]:
    result: dict[str, Any] = json.loads((GOLDEN / "transcript.json").read_text(encoding="utf-8"))
    return result


def cue(start: float, end: float, text: str, words: tuple[Word, ...] | None = None) -> Segment:
    return Segment(0, 0, start, end, text, (), 0.0, 0.0, 0.0, 0.0, words)


@pytest.mark.parametrize("name", ["plain", "words"])
@pytest.mark.parametrize("output_format", ["srt", "vtt", "txt", "tsv"])
def test_files_equal_those_of_openai_whisper(
    transcript: dict[str, Any], output_format: str, name: str
) -> None:
    ours = render(output_format, segments_of(transcript, name == "words"))
    assert ours.encode() == (GOLDEN / f"{name}.{output_format}").read_bytes()


@pytest.mark.parametrize(
    ("output_format", "head"),
    [("srt", ""), ("vtt", "WEBVTT\n\n"), ("txt", ""), ("tsv", "start\tend\ttext\n")],
)
def test_transcript_without_segments_is_only_the_head_of_its_format(
    output_format: str, head: str
) -> None:
    assert render(output_format, []) == head


def test_unknown_format_is_an_error() -> None:
    with pytest.raises(ValueError, match="aud"):
        render("aud", [])


TIMES = st.integers(0, 40_000_000).map(lambda milliseconds: milliseconds / 1000)
LINES = st.text(st.sampled_from("abc é,'\"&"), min_size=1, max_size=20).filter(str.strip)
CUES = st.lists(st.builds(cue, TIMES, TIMES, LINES), min_size=1, max_size=8)


@given(CUES)
def test_every_cue_and_its_times_are_read_back_by_another_subtitle_library(
    cues: list[Segment],
) -> None:
    for output_format in ("srt", "vtt"):
        read = pysubs2.SSAFile.from_string(render(output_format, cues), format_=output_format)
        found = sorted((event.start, event.end) for event in read)
        assert found == sorted((round(1000 * c.start), round(1000 * c.end)) for c in cues)


@given(CUES)
def test_tsv_is_read_back_by_the_csv_module_as_milliseconds(cues: list[Segment]) -> None:
    table = io.StringIO(render("tsv", cues), newline="")
    rows = list(csv.DictReader(table, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert [(int(r["start"]), int(r["end"]), r["text"]) for r in rows] == [
        (round(1000 * c.start), round(1000 * c.end), c.text.strip()) for c in cues
    ]


@pytest.mark.parametrize("output_format", ["srt", "vtt"])
def test_ffmpeg_reads_every_cue_and_its_times(tmp_path: Path, output_format: str) -> None:
    cues = [cue(n * 700.5, n * 700.5 + 2.25, f" Line {n}.") for n in range(12)]
    file = tmp_path / f"talk.{output_format}"
    file.write_bytes(render(output_format, cues).encode())
    with av.open(str(file)) as container:
        packets = [packet for packet in container.demux() if packet.size]
    assert [
        (round(float(p.pts * p.time_base), 3), round(float(p.duration * p.time_base), 3))
        for p in packets
    ] == [(c.start, 2.25) for c in cues]
    assert [bytes(p) for p in packets] == [c.text.strip().encode() for c in cues]
