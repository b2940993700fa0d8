"""A media file's audio, piece by piece: 16 kHz mono float32, the only door to PyAV.

In: the path of a regular file. Out: what its container declares, and samples bit-equal to those of
``faster_whisper.audio.decode_audio``, in pieces of any length, without ever holding the whole file.
Where the library ends at the first damaged frame, the damaged frames are left out and counted here.

A file cannot make us read another file or open a connection: it is opened by its absolute path
(a name such as ``concat:a|b`` stays a name), by the file protocol only, and only as one of the
formats below, which hold their media themselves (no playlists, no lists of files, no session
descriptions). Knows nothing about speech.
"""

import itertools
import os
import re
from collections.abc import Generator, Iterable, Iterator
from types import TracebackType
from typing import Self

import av
import numpy as np
from av.audio.codeccontext import AudioCodecContext
from av.audio.fifo import AudioFifo
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container.input import InputContainer
from av.error import ArgumentError, FFmpegError
from av.packet import Packet

from engine.errors import CodecError, MediaError, NoAudioError, UnreadableError
from engine.media.find import stat_regular
from engine.media.names import shown
from engine.records import SAMPLE_RATE, AudioTrack, Probe

FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,mxf,nut,rm,wtv,dv,"
    "wav,w64,aiff,au,caf,flac,ogg,mp3,aac,loas,ac3,eac3,dts,dtshd,truehd,mlp,amr,amrnb,amrwb,"
    "wv,tta,tak,ape,mpc,mpc8,dsf,voc"
)
_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
_NO_DURATION = frozenset({"aac", "loas", "ac3", "eac3", "dts", "truehd", "mlp"})  # bit rate guessed
_GROUP = 500_000  # samples resampled at once, as in the library: the borders show in the last bit
_RATES = range(1_000, 1_000_001)  # Hz; a group of fewer would fill the memory when resampled
_MOST_ERRORS = 100  # reads that fail in a row before the rest of a file is given up


def probe(path: str) -> Probe:
    """What a media file says about itself, in milliseconds: nothing is decoded.

    Raises NotRegularError (pipes and devices are never opened), UnreadableError, MediaError for
    what is no media file or a playlist, NoAudioError.
    """
    with _open(path) as container:
        duration = container.duration
        return Probe(
            None if duration is None else duration / av.time_base,
            tuple(_track(n, stream) for n, stream in enumerate(_tracks(container, path))),
        )


class Audio:
    """One audio track, read from front to end; a context manager that closes the file.

    ``declared``: seconds the file says the track has, None where it does not say. ``decoded``:
    samples read so far. ``invalid``: frames left out so far because they are damaged.

    Opening raises the errors of `probe`, NoAudioError if there is no such track and CodecError if
    it cannot be decoded here.
    """

    def __init__(self, path: str, track: int | None = None) -> None:
        self.decoded = 0
        self.invalid = 0
        self._path = path
        self._container = _open(path)
        try:
            self._stream = _choose(self._container, path, track or 0)
            self.declared = _declared(self._container, self._stream)
        except BaseException:
            self._container.close()
            raise
        self._blocks = self._decode()
        self._rest = np.empty(0, np.int16)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; nothing can be read after it."""
        self._blocks.close()
        self._container.close()

    def read(self, samples: int) -> np.ndarray:
        """The next ``samples`` samples as float32 in -1..1: fewer at the end, then none.

        The sizes asked for do not change the samples. Raises UnreadableError if the disk fails, and
        MediaError at the end of a track of which nothing could be decoded.
        """
        pieces = [self._rest[:samples]]
        self._rest = self._rest[samples:]
        missing = samples - len(pieces[0])
        while missing > 0 and (block := next(self._blocks, None)) is not None:
            pieces.append(block[:missing])
            self._rest = block[missing:]
            missing -= len(pieces[-1])
        self.decoded += samples - max(missing, 0)
        return np.concatenate(pieces).astype(np.float32) / 32768.0

    def _decode(self) -> Generator[np.ndarray, None, None]:
        """Blocks of int16 samples; a change of format inside the track starts a new resampler."""
        empty = True
        for _, run in itertools.groupby(self._frames(), key=_shape):
            resampler = AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
            for group in itertools.chain(_groups(run), [None]):  # None: flush
                try:
                    frames = resampler.resample(group)
                except FFmpegError as error:  # an arrangement of channels that it does not know
                    raise _undecodable(self._path, self._stream, _reason(error)) from error
                for frame in frames:
                    empty = False
                    yield frame.to_ndarray()[0]
        if empty and self.invalid:
            raise MediaError(
                f"{shown(self._path)} has a damaged audio track: none of its "
                f"{self.invalid} frames can be decoded; copy it again or choose another track."
            )

    def _frames(self) -> Iterator[AudioFrame]:
        for packet in self._packets():
            try:
                frames = packet.decode()
            except FFmpegError:
                self.invalid += 1
                continue
            for frame in frames:
                if frame.sample_rate in _RATES:
                    yield frame
                else:
                    self.invalid += 1

    def _packets(self) -> "Iterator[Packet[AudioStream]]":
        """The packets of the track and one that flushes; damage between them is passed over."""
        failures = 0
        while failures < _MOST_ERRORS:
            try:
                for packet in self._container.demux(self._stream):
                    failures = 0
                    yield packet
                return
            except IndexError:  # PyAV's, at the very end, if tracks have appeared on the way
                return
            except FFmpegError as error:
                if _is_disk(error):
                    raise _unusable(self._path, error) from error
                failures += 1
                self.invalid += 1


def _open(path: str) -> InputContainer:
    stat_regular(path)
    absolute = os.path.abspath(path)
    try:
        return av.open(absolute, "r", options=dict(_OPTIONS), metadata_errors="ignore")
    except FFmpegError as error:
        raise _unusable(path, error) from error


def _tracks(container: InputContainer, path: str) -> tuple[AudioStream, ...]:
    """The audio tracks of a file, in its order; at least one."""
    if not container.streams.audio:
        raise NoAudioError(
            f"{shown(path)} has no audio track; export it with its sound, or leave it out."
        )
    return container.streams.audio


def _track(index: int, stream: AudioStream) -> AudioTrack:
    language = None if stream.language == "und" else stream.language  # "und": not determined
    return AudioTrack(index, _codec(stream), language, stream.metadata.get("title"))


def _choose(container: InputContainer, path: str, track: int) -> AudioStream:
    """The audio track to read, its decoder open."""
    tracks = _tracks(container, path)
    if not 0 <= track < len(tracks):
        has = "1 audio track" if len(tracks) == 1 else f"{len(tracks)} audio tracks"
        raise NoAudioError(
            f"{shown(path)} has {has} and none with the number {track}; "
            "choose one with --audio-track, counted from 0."
        )
    stream = tracks[track]
    decoder = _decoder(stream)
    if decoder is None:
        raise _undecodable(path, stream, "no decoder for it")
    try:
        decoder.open(strict=False)
    except FFmpegError as error:
        raise _undecodable(path, stream, _reason(error)) from error
    return stream


def _declared(container: InputContainer, stream: AudioStream) -> float | None:
    """Seconds of the track; of the whole file where only that is known.

    Matroska's writers put it into a tag. A raw stream without an index says nothing: what FFmpeg
    gives for it is a guess from the bit rate.
    """
    if container.format.name in _NO_DURATION:
        return None
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    tagged = re.fullmatch(r"(\d+):(\d\d):(\d\d\.\d+)", stream.metadata.get("DURATION", ""))
    if tagged:
        return int(tagged[1]) * 3600 + int(tagged[2]) * 60 + float(tagged[3])
    return None if container.duration is None else container.duration / av.time_base


def _shape(frame: AudioFrame) -> tuple[str, str, int]:
    return frame.format.name, frame.layout.name, frame.sample_rate


def _groups(frames: Iterable[AudioFrame]) -> Iterator[AudioFrame]:
    """The frames joined into groups of at least ``_GROUP`` samples, the last one shorter."""
    waiting = AudioFifo()
    for frame in frames:
        frame.pts = None  # gaps and jumps in the time stamps do not matter
        waiting.write(frame)
        if waiting.samples >= _GROUP and (group := waiting.read()) is not None:
            yield group
    if (group := waiting.read()) is not None:
        yield group


def _decoder(stream: AudioStream) -> AudioCodecContext | None:
    """None where FFmpeg has no decoder for it, which PyAV's types do not say."""
    return stream.codec_context


def _codec(stream: AudioStream) -> str:
    decoder = _decoder(stream)
    return "unknown" if decoder is None else decoder.name


def _unusable(path: str, error: FFmpegError) -> MediaError:
    """Why a file cannot be opened or read on, as one of our errors."""
    if _is_disk(error):
        return UnreadableError(
            f"{shown(path)} cannot be read ({_reason(error)}); check the disk and its permissions."
        )
    reason = _reason(error)
    if isinstance(error, ArgumentError):  # what the format whitelist leads to
        reason = "a playlist, a list or another format that is not accepted"
    return MediaError(
        f"{shown(path)} is not a video or audio file that can be read ({reason}); "
        "check that it plays, or copy it again."
    )


def _undecodable(path: str, stream: AudioStream, reason: str) -> CodecError:
    return CodecError(
        f"{shown(path)} has audio that cannot be decoded here ({_codec(stream)}: {reason}); "
        "convert it, for example to AAC, or choose another track with --audio-track."
    )


def _is_disk(error: FFmpegError) -> bool:
    """Whether the system could not read; "try again" is said by demuxers, of damaged files."""
    return isinstance(error, OSError) and not isinstance(error, BlockingIOError)


def _reason(error: FFmpegError) -> str:
    return error.strerror or str(error)
