"""Decoding: the library's samples in any pieces, and no file that harms or fools us.

All media are made here, by PyAV's encoders, from seeded signals.
"""

import os
import random
import socket
import struct
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from faster_whisper.audio import decode_audio
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import (
    CodecError,
    MediaError,
    NoAudioError,
    NotRegularError,
    UnreadableError,
)
from engine.media.decode import Audio, probe
from engine.records import SAMPLE_RATE


def speechlike(seconds: float, rate: int, seed: int = 0) -> np.ndarray:
    """Syllables of a gliding voice with pauses and a little noise; float32."""
    chance = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    pitch = 120 + 20 * seed + 15 * np.sin(2 * np.pi * 0.7 * t)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    voice = sum(np.sin(n * phase) / n for n in range(1, 6))
    syllables = np.clip(np.sin(2 * np.pi * 3.1 * t), 0, 1) * (np.sin(2 * np.pi * 0.31 * t) > -0.5)
    return (0.3 * voice * syllables + 0.01 * chance.standard_normal(len(t))).astype(np.float32)


def write_media(
    path: Path,
    container: str,
    codec: str,
    rate: int,
    layout: str = "mono",
    signals: Sequence[np.ndarray] = (),
    metadata: Sequence[dict[str, str]] = (),
    late: float = 0.0,
) -> Path:
    """A media file with one audio track for each signal."""
    with av.open(str(path), "w", format=container) as target:
        streams = [target.add_stream(codec, rate=rate, layout=layout) for _ in signals]
        if codec.startswith("wma"):
            streams[0].bit_rate = 128_000  # it has no default
        for stream, tags in zip(streams, metadata, strict=False):
            stream.metadata.update(tags)
        for stream, signal in zip(streams, signals, strict=True):
            context = stream.codec_context
            channels = context.layout.nb_channels
            planes = np.stack([signal * (1 - 0.3 * n) for n in range(channels)])
            frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout=layout)
            frame.sample_rate = rate
            frame.pts = 0
            shaper = av.AudioResampler(
                context.format.name, layout, rate, frame_size=context.frame_size or 1024
            )
            for piece in shaper.resample(frame) + shaper.resample(None):
                piece.pts = (piece.pts or 0) + round(late * rate)
                target.mux(stream.encode(piece))
            target.mux(stream.encode(None))
    return path


def write_silent_film(path: Path) -> Path:
    """A video without an audio track."""
    with av.open(str(path), "w", format="mp4") as target:
        stream = target.add_stream("mpeg4", rate=10, width=64, height=48, pix_fmt="yuv420p")
        for _ in range(10):
            frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    return path


def read_all(path: Path | str, track: int | None = None, sizes: Sequence[int] = (16_000,)) -> Any:
    pieces = []
    with Audio(str(path), track) as audio:
        n = 0
        while True:
            size = sizes[n % len(sizes)]
            piece = audio.read(size)
            pieces.append(piece)
            assert audio.decoded == sum(map(len, pieces))
            if len(piece) < size:
                break
            n += 1
        assert len(audio.read(1000)) == 0
    return np.concatenate(pieces)


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("media")


@pytest.fixture(scope="module")
def film(media: Path) -> Path:
    """An mp4 that is long enough for two groups of the resampler."""
    signal = speechlike(13, 44_100)
    return write_media(media / "film.mp4", "mp4", "aac", 44_100, "stereo", [signal])


@pytest.fixture(scope="module")
def film_samples(film: Path) -> np.ndarray:
    samples: np.ndarray = decode_audio(str(film))
    return samples


KINDS = [
    ("a.mp4", "mp4", "aac", 44_100, "stereo", 25),
    ("a.mkv", "matroska", "libopus", 48_000, "mono", 25),
    ("a.webm", "webm", "libopus", 48_000, "stereo", 12),
    ("a.mov", "mov", "pcm_s16le", 22_050, "stereo", 25),
    ("a.wav", "wav", "pcm_s16le", 16_000, "mono", 40),
    ("24bit.wav", "wav", "pcm_s24le", 48_000, "stereo", 12),
    ("a.flac", "flac", "flac", 8_000, "mono", 130),
    ("a.mp3", "mp3", "libmp3lame", 44_100, "stereo", 12),
    ("a.avi", "avi", "libmp3lame", 44_100, "stereo", 12),
    ("a.ts", "mpegts", "aac", 48_000, "stereo", 12),
    ("a.aac", "adts", "aac", 48_000, "stereo", 12),
    ("a.mpg", "mpeg", "mp2", 44_100, "stereo", 12),
    ("a.flv", "flv", "aac", 44_100, "mono", 12),
    ("a.m4a", "ipod", "alac", 44_100, "stereo", 12),
    ("a.ogg", "ogg", "libopus", 48_000, "mono", 12),
    ("a.wma", "asf", "wmav2", 44_100, "stereo", 12),
    ("a.aiff", "aiff", "pcm_s16be", 44_100, "stereo", 12),
    ("a.caf", "caf", "pcm_s16le", 44_100, "stereo", 12),
    ("a.au", "au", "pcm_s16be", 8_000, "mono", 70),
    ("a.w64", "w64", "pcm_s16le", 8_000, "mono", 70),
    ("a.3gp", "3gp", "aac", 44_100, "mono", 12),
    ("5.1.mp4", "mp4", "aac", 48_000, "5.1", 12),
]


@pytest.mark.parametrize(("name", "container", "codec", "rate", "layout", "seconds"), KINDS)
def test_samples_equal_the_library_s(
    media: Path, name: str, container: str, codec: str, rate: int, layout: str, seconds: int
) -> None:
    signal = speechlike(seconds, rate)
    path = write_media(media / name, container, codec, rate, layout, [signal])
    expected = decode_audio(str(path))
    assert len(expected) > (seconds - 0.1) * SAMPLE_RATE
    samples = read_all(path)
    assert samples.dtype == np.float32
    np.testing.assert_array_equal(samples, expected)
    np.testing.assert_array_equal(read_all(path, sizes=(10**9,)), expected)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.integers(1, 9) | st.integers(100, 40_000) | st.integers(150_000, 10**6),
        min_size=1,
        max_size=5,
    ).filter(lambda sizes: max(sizes) > 1000)
)
def test_any_sizes_of_reads_give_the_same_samples(
    film: Path, film_samples: np.ndarray, sizes: list[int]
) -> None:
    np.testing.assert_array_equal(read_all(film, sizes=sizes), film_samples)


def test_read_of_nothing_takes_nothing(film: Path, film_samples: np.ndarray) -> None:
    with Audio(str(film)) as audio:
        assert len(audio.read(0)) == 0
        np.testing.assert_array_equal(audio.read(100), film_samples[:100])


def test_audio_that_starts_late_is_read_from_its_first_sample(media: Path) -> None:
    signal = speechlike(3, 48_000)
    path = write_media(media / "late.mkv", "matroska", "flac", 48_000, "mono", [signal], late=5)
    samples = read_all(path)
    np.testing.assert_array_equal(samples, decode_audio(str(path)))
    assert len(samples) == 3 * SAMPLE_RATE


def test_long_file_is_never_held_whole(media: Path) -> None:
    signal = np.tile(speechlike(60, 8_000), 20)
    path = write_media(media / "long.wav", "wav", "pcm_s16le", 8_000, "mono", [signal])
    tracemalloc.start()
    try:
        with Audio(str(path)) as audio:
            while len(audio.read(16_000)):
                pass
            seconds = audio.decoded / SAMPLE_RATE
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seconds == 1200
    assert peak < 8e6  # of the 77 MB that the samples are


@pytest.fixture(scope="module")
def two_tracks(media: Path) -> Path:
    signals = [speechlike(4, 48_000, seed) for seed in (1, 2)]
    tags = [{"language": "eng", "title": "Original"}, {"language": "fra"}]
    return write_media(
        media / "two.mkv", "matroska", "flac", 48_000, "mono", signals, metadata=tags
    )


def test_probe_tells_duration_and_tracks(two_tracks: Path) -> None:
    found = probe(str(two_tracks))
    assert found.duration == pytest.approx(4, abs=0.01)
    assert [(t.index, t.codec, t.language, t.title) for t in found.tracks] == [
        (0, "flac", "eng", "Original"),
        (1, "flac", "fra", None),
    ]


def test_chosen_track_is_read_and_the_first_by_default(media: Path, two_tracks: Path) -> None:
    for track in (0, 1):
        signal = speechlike(4, 48_000, track + 1)
        alone = write_media(
            media / f"alone{track}.mkv", "matroska", "flac", 48_000, "mono", [signal]
        )
        np.testing.assert_array_equal(read_all(two_tracks, track), decode_audio(str(alone)))
    np.testing.assert_array_equal(read_all(two_tracks), read_all(two_tracks, 0))
    assert not np.array_equal(read_all(two_tracks, 0), read_all(two_tracks, 1))


@pytest.mark.parametrize("track", [2, 7, -1])
def test_track_that_is_not_there_is_refused_with_their_number(two_tracks: Path, track: int) -> None:
    with pytest.raises(NoAudioError, match=f"two.mkv has 2 audio tracks and none .* {track};"):
        Audio(str(two_tracks), track)


def test_only_track_is_counted_as_one(film: Path) -> None:
    with pytest.raises(NoAudioError, match="has 1 audio track and none with the number 1;"):
        Audio(str(film), 1)


@pytest.mark.parametrize(
    ("name", "container", "codec", "declared"),
    [
        ("d.mp4", "mp4", "aac", 3.0),
        ("d.mkv", "matroska", "libopus", 3.0),
        ("d.wav", "wav", "pcm_s16le", 3.0),
        ("d.aac", "adts", "aac", None),  # has no index: what FFmpeg says is a guess
    ],
)
def test_declared_seconds_are_those_of_the_track_or_unknown(
    media: Path, name: str, container: str, codec: str, declared: float | None
) -> None:
    signal = speechlike(3, 48_000)
    path = write_media(media / name, container, codec, 48_000, "mono", [signal])
    with Audio(str(path)) as audio:
        assert audio.declared == (None if declared is None else pytest.approx(declared, abs=0.05))


# -- damage --


def test_cut_matroska_gives_what_the_library_gives_and_less_than_declared(media: Path) -> None:
    signal = speechlike(20, 48_000)
    path = write_media(media / "whole.mkv", "matroska", "libopus", 48_000, "mono", [signal])
    cut = media / "cut.mkv"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    np.testing.assert_array_equal(read_all(cut), decode_audio(str(cut)))
    with Audio(str(cut)) as audio:
        audio.read(10**9)
        assert audio.declared == pytest.approx(20, abs=0.1)
        assert 0.3 < audio.decoded / SAMPLE_RATE / audio.declared < 0.7


def test_damaged_frames_are_left_out_and_counted_and_the_rest_is_read(
    film: Path, film_samples: np.ndarray, media: Path
) -> None:
    content = bytearray(film.read_bytes())
    start = content.index(b"mdat") + 1000
    chance = random.Random(3)
    for _ in range(20):
        content[chance.randrange(start, start + 20_000)] ^= 0xFF
    damaged = media / "damaged.mp4"
    damaged.write_bytes(content)
    with Audio(str(damaged)) as audio:
        samples = audio.read(10**9)
        assert 0 < audio.invalid <= 20
    assert 0.9 < len(samples) / len(film_samples) < 1
    tail = slice(-SAMPLE_RATE, -2000)  # what lies behind the damage is heard as before
    assert np.abs(samples[tail]).max() == pytest.approx(np.abs(film_samples[tail]).max(), rel=0.1)
    assert len(decode_audio(str(damaged))) < len(samples) / 2  # the library ends at the first


def test_sound_file_has_no_invalid_frames(film: Path) -> None:
    with Audio(str(film)) as audio:
        audio.read(10**9)
        assert audio.invalid == 0


def test_track_of_which_nothing_can_be_decoded_is_an_error_not_silence(
    film: Path, media: Path
) -> None:
    content = bytearray(film.read_bytes())
    start, end = content.index(b"mdat") + 4, content.index(b"moov") - 4
    content[start:end] = b"\xff" * (end - start)
    dead = media / "dead.mp4"
    dead.write_bytes(content)
    with Audio(str(dead)) as audio, pytest.raises(MediaError, match=r"none of its \d+ frames"):
        audio.read(10)


def test_change_of_rate_and_channels_inside_a_track_is_followed(media: Path) -> None:
    parts = [
        write_media(media / f"part{rate}.aac", "adts", "aac", rate, layout, [speechlike(3, rate)])
        for rate, layout in ((48_000, "stereo"), (22_050, "mono"))
    ]
    joined = media / "joined.aac"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    samples = read_all(joined)
    lengths = [len(decode_audio(str(part))) for part in parts]
    assert len(samples) == pytest.approx(sum(lengths), abs=2000)
    np.testing.assert_array_equal(
        samples[: lengths[0] - 2000], decode_audio(str(parts[0]))[: lengths[0] - 2000]
    )


def sun_audio(rate: int, channels: int) -> bytes:
    """A file whose header says anything; half a second at 8 kHz."""
    return struct.pack(">4s5I", b".snd", 24, 0xFFFFFFFF, 3, rate, channels) + bytes(8_000)


@pytest.mark.parametrize("rate", [1, 999, 1_000_001, 2**31 - 1])
def test_rate_that_no_recording_has_is_refused_before_it_fills_the_memory(
    media: Path, rate: int
) -> None:
    (media / "rate.au").write_bytes(sun_audio(rate, 1))
    with Audio(str(media / "rate.au")) as audio, pytest.raises(MediaError, match="none of its"):
        audio.read(1)
    (media / "rate.au").write_bytes(sun_audio(8_000, 1))
    assert len(read_all(media / "rate.au")) == 8_000


def test_channels_that_cannot_be_mixed_down_are_refused(media: Path) -> None:
    (media / "many.au").write_bytes(sun_audio(8_000, 70))
    with Audio(str(media / "many.au")) as audio, pytest.raises(CodecError, match="pcm_s16be"):
        audio.read(1)


@pytest.mark.parametrize(
    ("container", "codec"),
    [("mp4", "aac"), ("matroska", "libopus"), ("mpegts", "aac"), ("flv", "aac"), ("flac", "flac")],
)
def test_any_damage_ends_as_audio_or_as_a_media_error(
    media: Path, container: str, codec: str
) -> None:
    signal = speechlike(2, 48_000)
    sound = write_media(media / "sound", container, codec, 48_000, "stereo", [signal])
    whole = len(decode_audio(str(sound)))
    damaged = media / "fuzz"
    ended = {"audio": 0, "error": 0}
    for seed in range(60):
        chance = random.Random(seed)
        content = bytearray(sound.read_bytes())
        if seed % 3 == 0:
            del content[chance.randrange(1, len(content)) :]
        for _ in range(chance.choice([1, 10, 100])):
            content[chance.randrange(len(content))] = chance.randrange(256)
        damaged.write_bytes(content)
        try:
            assert len(read_all(damaged)) <= 1.5 * whole
            ended["audio"] += 1
        except MediaError:
            ended["error"] += 1
    assert ended["audio"] > 0


# -- what is no media file --


def both(path: Path | str) -> Iterator[Callable[[], object]]:
    """The two ways to open a file; both refuse alike."""
    yield lambda: probe(str(path))
    yield lambda: Audio(str(path))


def refused(path: Path | str, kind: type[MediaError]) -> str:
    messages = set()
    for way in both(path):
        with pytest.raises(MediaError) as caught:
            way()
        assert type(caught.value) is kind
        messages.add(str(caught.value))
    [message] = messages
    assert "\n" not in message
    assert message.endswith(".")
    return message


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0",
        b"This is only text.\n" * 100,
        b"<html><body>Not found</body></html>",
        bytes(random.Random(1).randbytes(50_000)),
        bytes(50_000),
        b"GIF89a\x01\x00\x01\x00\x00\x00\x00;",
        b"1\n00:00:01,000 --> 00:00:02,000\nA subtitle file.\n\n" * 20,
    ],
    ids=["zero", "byte", "text", "html", "random", "zeros", "gif", "subtitles"],
)
def test_what_is_no_media_file_is_refused_by_name(media: Path, content: bytes) -> None:
    path = media / "no.mp4"
    path.write_bytes(content)
    message = refused(path, MediaError)
    assert message.startswith(f"{path} is not a video or audio file that can be read (")
    assert message.endswith("; check that it plays, or copy it again.")


def test_message_names_the_file_as_seen_from_the_working_folder(
    media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (media / "talk.mp4").write_bytes(b"text")
    monkeypatch.chdir(media)
    assert refused(media / "talk.mp4", MediaError).startswith("talk.mp4 is not a video")


def test_mp4_cut_before_its_index_is_refused(film: Path, media: Path) -> None:
    cut = media / "cut.mp4"
    cut.write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    refused(cut, MediaError)


def test_video_without_audio_is_refused_as_such(media: Path) -> None:
    message = refused(write_silent_film(media / "mute.mp4"), NoAudioError)
    assert "no audio track" in message


def test_codec_without_a_decoder_is_told_when_it_is_to_be_decoded(
    two_tracks: Path, media: Path
) -> None:
    strange = media / "strange.mkv"
    strange.write_bytes(two_tracks.read_bytes().replace(b"A_FLAC", b"A_XLAC"))
    assert [track.codec for track in probe(str(strange)).tracks] == ["unknown", "unknown"]
    with pytest.raises(CodecError, match=r"strange\.mkv has audio that cannot be decoded here"):
        Audio(str(strange))


@pytest.mark.timeout(20)
def test_pipe_socket_device_and_folder_are_refused_without_opening(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    assert "is a named pipe" in refused(tmp_path / "pipe.mp4", NotRegularError)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.mp4"))
        assert "is a socket" in refused(tmp_path / "socket.mp4", NotRegularError)
    assert "is a device" in refused("/dev/zero", NotRegularError)
    assert "is a folder" in refused(tmp_path, NotRegularError)


def test_file_that_is_gone_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "gone.mp4", UnreadableError)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without root's right to read everything; an ordinary user has none to give up."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_file_without_permission_is_refused(film: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)  # every user can reach it; pytest's own folders are private
        secret = Path(folder) / "secret.mp4"
        secret.write_bytes(film.read_bytes())
        secret.chmod(0)
        with as_nobody():
            message = refused(secret, UnreadableError)
    assert "Permission denied" in message


def test_nothing_stays_open(film: Path, media: Path) -> None:
    (media / "text.mp4").write_bytes(b"text")
    before = len(os.listdir("/dev/fd"))
    for _ in range(10):
        probe(str(film))
        with Audio(str(film)) as audio:
            audio.read(1000)
        with pytest.raises(MediaError):
            probe(str(media / "text.mp4"))
        with pytest.raises(NoAudioError):
            Audio(str(film), 5)
    assert len(os.listdir("/dev/fd")) == before


# -- hostile files and odd names --


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A server that nobody may connect to."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


def connections(listener: socket.socket) -> int:
    count = 0
    while True:
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


HOSTILE = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{url}/a.ts\n#EXT-X-ENDLIST\n",
    "hls-key": "#EXTM3U\n#EXT-X-TARGETDURATION:5\n"
    '#EXT-X-KEY:METHOD=AES-128,URI="{url}/key"\n#EXTINF:5,\nfile.ts\n#EXT-X-ENDLIST\n',
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT5S"><Period><AdaptationSet mimeType="audio/mp4">'
    '<Representation id="1" bandwidth="1"><BaseURL>{url}/a.mp4</BaseURL></Representation>'
    "</AdaptationSet></Period></MPD>",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
    "m=audio {port} RTP/AVP 0\n",
    "concat": "ffconcat version 1.0\nfile '{url}/a.mp4'\n",
    "concat-file": "ffconcat version 1.0\nfile 'other.wav'\n",
    "asx": "#!asx\n{url}/a.mp4\n",
    "redirect": "[Reference]\nRef1={url}/a.asf\n",
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("suffix", [".mp4", ".m3u8", ".mpd", ".sdp", ".ffconcat", ""])
@pytest.mark.parametrize("kind", HOSTILE)
def test_lists_of_other_media_are_refused_and_reach_nothing(
    tmp_path: Path, listener: socket.socket, kind: str, suffix: str
) -> None:
    port = listener.getsockname()[1]
    write_media(tmp_path / "other.wav", "wav", "pcm_s16le", 8_000, "mono", [speechlike(1, 8_000)])
    path = tmp_path / f"list{suffix}"
    path.write_text(HOSTILE[kind].format(url=f"http://127.0.0.1:{port}", port=port))
    refused(path, MediaError)
    assert connections(listener) == 0
    with socket.create_connection(("127.0.0.1", port)):
        assert connections(listener) == 1  # it would have been seen


def test_without_our_whitelist_a_list_does_read_another_file(tmp_path: Path) -> None:
    """What the test above would miss if FFmpeg no longer knew such lists."""
    write_media(tmp_path / "other.wav", "wav", "pcm_s16le", 8_000, "mono", [speechlike(1, 8_000)])
    (tmp_path / "list.mp4").write_text(HOSTILE["concat-file"])
    assert len(decode_audio(str(tmp_path / "list.mp4"))) == SAMPLE_RATE


@pytest.mark.parametrize(
    "name",
    [
        b"concat:a.wav|b.wav",
        b"http:x.wav",
        b"file:a.wav",
        b"subfile,,start,0,end,10,,:a.wav",
        b"-i.wav",
        b"line\nbreak 'quote\" %d.wav",
        b"caf\xe9\xff.wav",
        "👩\u200d👧 日本.wav".encode(),
        b"n" * 251 + b".wav",
        b" .wav",
    ],
)
def test_name_is_only_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: bytes) -> None:
    for seconds, other in ((1, "a.wav"), (1, "b.wav"), (3, "source")):
        signal = speechlike(seconds, 8_000)
        write_media(tmp_path / other, "wav", "pcm_s16le", 8_000, "mono", [signal])
    (tmp_path / "source").rename(tmp_path / os.fsdecode(name))
    monkeypatch.chdir(tmp_path)
    for path in (os.fsdecode(name), str(tmp_path / os.fsdecode(name))):
        assert probe(path).duration == 3
        assert len(read_all(path)) == 3 * SAMPLE_RATE


def test_metadata_that_is_not_utf8_is_no_obstacle(two_tracks: Path, media: Path) -> None:
    odd = media / "odd.mkv"
    odd.write_bytes(two_tracks.read_bytes().replace(b"Original", b"Origin\xe9\xff"))
    assert probe(str(odd)).tracks[0].title == "Origin"
    np.testing.assert_array_equal(read_all(odd), read_all(two_tracks))
