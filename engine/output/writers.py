"""Subtitles and plain text from segments, byte for byte as openai-whisper's own writers give them.

In: segments. Out: the text of an srt, vtt, txt or tsv file. What those writers do is the format
here (whisper/utils.py, release 20250625): subtitles show whole segments, and where there are words,
cues begin and end with them. The json file is made in `results`. Knows nothing about files.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from engine.records import Segment, Word

_WIDTH = 1000  # characters of a line built from words; whisper's default
_WORDS = 1000  # words of a cue


class _Cue(NamedTuple):
    start: float
    end: float
    text: str


def render(output_format: str, segments: Sequence[Segment]) -> str:
    """The content of a file in ``output_format`` (srt, vtt, txt, tsv); to be encoded as UTF-8."""
    if output_format == "srt":
        return "".join(
            f"{number}\n{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}\n{cue.text}\n\n"
            for number, cue in enumerate(_cues(segments), 1)
        )
    if output_format == "vtt":
        return "WEBVTT\n\n" + "".join(
            f"{_short_clock(cue.start)} --> {_short_clock(cue.end)}\n{cue.text}\n\n"
            for cue in _cues(segments)
        )
    if output_format == "txt":
        return "".join(f"{segment.text.strip()}\n" for segment in segments)
    if output_format == "tsv":
        return "start\tend\ttext\n" + "".join(
            f"{round(1000 * segment.start)}\t{round(1000 * segment.end)}\t"
            + segment.text.strip().replace("\t", " ")
            + "\n"
            for segment in segments
        )
    raise ValueError(f"no such format: {output_format}")


def _cues(segments: Sequence[Segment]) -> Iterator[_Cue]:
    if segments and segments[0].words is not None:
        return _cues_of_words(segments)
    return (
        _Cue(segment.start, segment.end, segment.text.strip().replace("-->", "->"))
        for segment in segments
    )


def _cues_of_words(segments: Iterable[Segment]) -> Iterator[_Cue]:
    """A cue for the words of each segment, none for a segment without; ``-->`` in a word stays."""
    for segment in segments:
        words = segment.words or ()
        for first in range(0, len(words), _WORDS):
            part = words[first : first + _WORDS]
            yield _Cue(part[0].start, part[-1].end, _joined(part))


def _joined(words: Iterable[Word]) -> str:
    """The words as text, in lines of at most ``_WIDTH`` characters where words allow it."""
    text = ""
    length = 0  # of the last line
    for word in words:
        if length > 0 and length + len(word.word) <= _WIDTH:
            text += word.word
            length += len(word.word)
        else:
            begun = word.word.strip()
            text += f"\n{begun}" if length > 0 else begun
            length = len(begun)
    return text


def _clock(seconds: float, mark: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    return (
        f"{minutes // 60:02d}:{minutes % 60:02d}"
        f":{milliseconds // 1000:02d}{mark}{milliseconds % 1000:03d}"
    )


def _short_clock(seconds: float) -> str:
    """As vtt has it: a point, and hours only from the first on."""
    return _clock(seconds, ".").removeprefix("00:")
