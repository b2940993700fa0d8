"""What runs inside a preparation worker: one video becomes windows, with log-mel rows in scratch.

In: which video, and how many windows are wanted. Out: the next windows as records, or the Problem
of a file that cannot be used; OutOfMemoryError is nobody's fault. The open video, and windows
beyond those wanted, stay between calls. Knows nothing about models, scheduling or where windows go;
how its process begins and ends is in ``worker.py``.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import MediaError
from engine.pools.out_of_memory import out_of_memory_named
from engine.records import SAMPLE_RATE, Probe, Problem, Window

if TYPE_CHECKING:
    from engine.media.decode import Audio
    from engine.speech.windows import RowWriter, WindowStream

FIRST_PIECE = 45.0  # seconds decoded at once at most before the first window is out
PATIENCE = 600.0  # seconds of audio after which ``prepare`` reports even without a window


@dataclass(frozen=True, slots=True)
class PrepareSpec:
    """Which video to prepare, and how."""

    path: str
    track: int | None
    vad: bool
    mels: int
    folder: Path  # where its rows go
    skip: frozenset[int]  # positions whose results are known: no row is computed
    piece: float  # seconds decoded at a time; any value gives the same windows


@dataclass(frozen=True, slots=True)
class Prepared:
    """The next windows of a video; after ``ended`` none will come."""

    windows: tuple[Window, ...]
    ended: bool
    decoded: float  # seconds so far
    declared: float | None  # seconds, by the container
    speech: float  # seconds in windows so far
    invalid: int  # frames that could not be decoded
    seconds: float  # this call took


@dataclass(slots=True)
class _Video:
    spec: PrepareSpec
    audio: "Audio"
    stream: "WindowStream"
    writer: "RowWriter"
    windows: list[Window]
    count: int = 0
    ended: bool = False


_video: _Video | None = None


@out_of_memory_named()
def probe(paths: tuple[str, ...]) -> tuple[Probe | Problem, ...]:
    """What each container says of itself."""
    from engine.media.decode import probe as look

    found: list[Probe | Problem] = []
    for path in paths:
        try:
            found.append(look(path))
        except MediaError as error:
            found.append(error.problem)
    return tuple(found)


@out_of_memory_named()
def prepare(spec: PrepareSpec, count: int) -> Prepared | Problem:
    """Up to ``count`` further windows of a video (from its begin if it is not the open one)."""
    global _video  # noqa: PLW0603 -- one open video per process
    began = time.monotonic()
    try:
        if _video is None or _video.spec.path != spec.path or _video.spec.folder != spec.folder:
            _close_video()
            _video = _open_video(spec)
        video = _video
        heard = 0.0
        while len(video.windows) < count and not video.ended and heard < PATIENCE:
            heard += _hear(video)
    except MediaError as error:
        _close_video()
        return error.problem
    taken, video.windows = video.windows[:count], video.windows[count:]
    ended = video.ended and not video.windows
    prepared = Prepared(
        tuple(taken),
        ended,
        video.audio.decoded / SAMPLE_RATE,
        video.audio.declared,
        video.stream.speech / SAMPLE_RATE,
        video.audio.invalid,
        time.monotonic() - began,
    )
    if ended:
        _close_video()
    return prepared


def _open_video(spec: PrepareSpec) -> _Video:
    from engine.media.decode import Audio
    from engine.speech.activity import SpeechDetector
    from engine.speech.windows import RowWriter, WindowStream

    spec.folder.mkdir(parents=True, exist_ok=True)
    audio = Audio(spec.path, spec.track)
    audio.__enter__()
    stream = WindowStream(SpeechDetector() if spec.vad else None)
    return _Video(spec, audio, stream, RowWriter(spec.folder, spec.mels), [])


def _hear(video: _Video) -> float:
    """Decode one more piece and keep the windows it completes; returns its seconds."""
    piece = min(video.spec.piece, FIRST_PIECE) if not video.count else video.spec.piece
    wanted = int(piece * SAMPLE_RATE)
    samples = video.audio.read(wanted)
    found: Any = video.stream.feed(samples)
    _keep(video, found)
    if len(samples) < wanted:
        video.ended = True
        _keep(video, video.stream.finish())
    return piece


def _keep(video: _Video, found: Any) -> None:
    for spans, samples in found:
        if video.count in video.spec.skip:
            video.windows.append(Window(video.count, spans, ""))
        else:
            video.windows.append(video.writer.write(video.count, spans, samples))
        video.count += 1


def _close_video() -> None:
    global _video  # noqa: PLW0603 -- see prepare
    if _video is not None:
        _video.audio.__exit__(None, None, None)
        _video = None
