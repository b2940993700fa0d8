"""What people really give to the command: broken files, odd names, servers that are not there.

Each thing that cannot be used costs itself, one sentence and exit code 1; what only looks odd costs
nothing; a wrong question is exit code 2 before any model loads.
"""

import os
import shutil
import socket
import subprocess
import sys
import wave
from pathlib import Path

import av
import numpy as np
import pytest
from shell import (
    Reelmine,
    analysis,
    attempts,
    command,
    environment,
    last_run,
    reelmine_in,
    result,
)

from engine.testing.server import Server
from engine.testing.transcriber import make_model


def mute_video(path: Path) -> Path:
    """A second of black, without sound."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        black = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
        for packet in (*(p for _ in range(10) for p in stream.encode(black)), *stream.encode()):
            container.mux(packet)
    return path


def silence(path: Path, seconds: int) -> Path:
    """Nothing at all: 8 kHz, 16 bit, mono."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        for _ in range(seconds):
            file.writeframesraw(bytes(16_000))
    return path


def fill(folder: Path, samples: Path) -> Path:
    """Every kind of file that cannot be used, and a good one."""
    folder.mkdir(exist_ok=True)
    (folder / "empty").mkdir()
    (folder / "empty" / "notes.txt").write_text("no videos here")
    (folder / "zero.mp4").touch()
    (folder / "text.mp4").write_text("I am a letter.\n" * 40)
    whole = (samples / "coffee_shop.mp4").read_bytes()
    index = whole.index(b"moov")
    assert index > len(whole) // 2, "the index is expected behind the media"
    (folder / "cut.mp4").write_bytes(whole[: index - 4])
    mute_video(folder / "mute.mp4")
    os.mkfifo(folder / "pipe.mp4")
    shutil.copy(samples / "moving_house.wav", folder / "good.wav")
    return folder


BAD = {  # what is given -> words of the sentence: what is wrong, and what to do
    "missing.mp4": ("does not exist", "check the spelling"),
    "empty": ("has no videos in it", "name a file"),
    "zero.mp4": ("is empty (0 bytes)", "copy or download it again"),
    "text.mp4": ("is not a video or audio file", "check that it plays"),
    "cut.mp4": ("is not a video or audio file", "copy it again"),
    "mute.mp4": ("has no audio track", "export it with its sound"),
    "pipe.mp4": ("is a named pipe", "copy what it gives into a file"),
}


@pytest.fixture(scope="module")
def mess(samples: Path, fake: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder in which all bad things and a good one have been given at once."""
    folder = fill(tmp_path_factory.mktemp("mess"), samples)
    done = reelmine_in(folder)("run", *BAD, "good.wav", "-o", "out", "--model", fake)
    assert done.returncode == 1, done.stderr
    (folder / "stdout").write_text(done.stdout)
    (folder / "stderr").write_text(done.stderr)
    return folder


@pytest.mark.parametrize("name", BAD)
def test_bad_file_gets_one_sentence_with_its_name_and_the_remedy(mess: Path, name: str) -> None:
    document = last_run(mess / "out")
    problems = [*document["problems"], *(v["problem"] for v in document["videos"] if v["problem"])]
    (message,) = [p["message"] for p in problems if p["message"].startswith(f"{name} ")]
    assert all(words in message for words in BAD[name])
    assert message.endswith(".") and "\n" not in message
    said = (mess / "stdout").read_text().splitlines()
    assert sum(message in line for line in said) == 2  # at once, and in the table at the end


def test_bad_files_do_not_hold_up_the_good_one(mess: Path) -> None:
    assert result(mess / "out", "good")["reelmine"]["state"] == "done"
    assert {path.stem for path in (mess / "out").glob("*.json")} == {"good"}
    document = last_run(mess / "out")
    assert document["exit_code"] == 1
    assert document["states"] == {"done": 1, "failed": 3}
    assert len(document["problems"]) == 4
    assert (mess / "stderr").read_text() == ""


@pytest.mark.parametrize("name", ["missing.mp4", "empty", "cut.mp4"])
def test_bad_file_alone_is_exit_1_too(mess: Path, tmp_path: Path, fake: Path, name: str) -> None:
    done = reelmine_in(mess)("run", name, "-o", tmp_path, "--model", fake)
    assert done.returncode == 1
    assert f"{name} {BAD[name][0]}" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_misspelt_name_is_told_before_any_model_is_wanted(
    reelmine: Reelmine, tmp_path: Path
) -> None:
    nowhere = {"REELMINE_CACHE": str(tmp_path / "cache"), "HF_HOME": str(tmp_path / "hf")}
    offline = {"HF_HUB_OFFLINE": "1", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}
    done = reelmine("run", "missing.mp4", "-o", "out", env={**nowhere, **offline})
    assert (done.returncode, done.stderr) == (1, "")
    assert "missing.mp4 does not exist; check the spelling" in done.stdout
    assert "fetched" not in done.stdout
    assert not (tmp_path / "cache" / "models").exists()
    assert last_run(tmp_path / "out")["exit_code"] == 1


def test_bad_files_are_met_in_a_folder_as_well(
    samples: Path, fake: Path, tmp_path: Path, reelmine: Reelmine
) -> None:
    fill(tmp_path / "videos", samples)
    done = reelmine("run", "videos", "-o", "out", "--model", fake)
    assert done.returncode == 1
    for name in ("zero.mp4", "text.mp4", "cut.mp4", "mute.mp4", "pipe.mp4"):
        assert f"videos/{name} {BAD[name][0]}" in done.stdout
    assert "notes" not in done.stdout
    assert result(tmp_path / "out", "good")["reelmine"]["state"] == "done"


# Permissions bind everybody but root; these two capabilities are why.
AS_ANYBODY = """\
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2
if os.geteuid() == 0:
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0):
            sys.exit("permissions do not bind this user")
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture
def reelmine_bound(tmp_path: Path) -> Reelmine:
    """The command as a user runs it whom permissions bind, root or not."""

    def run(*words: str | Path) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-c", AS_ANYBODY, *command(words)],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    (tmp_path / "closed.txt").touch(mode=0)
    if run("run", "--files-from", "closed.txt").stderr.count("Permission denied") != 1:
        pytest.skip("permissions do not bind the user who runs the tests")
    return run


def test_unreadable_file_is_named_and_the_rest_goes_on(
    reelmine_bound: Reelmine, tmp_path: Path, samples: Path, fake: Path
) -> None:
    for name in ("good.wav", "secret.wav"):
        shutil.copy(samples / "moving_house.wav", tmp_path / name)
    (tmp_path / "secret.wav").chmod(0)
    (tmp_path / "closed").mkdir(mode=0)
    words = ("good.wav", "secret.wav", "closed", "-o", "out", "--model", fake)
    done = reelmine_bound("run", *words)
    assert done.returncode == 1, done.stderr
    for name in ("secret.wav", "closed"):
        assert f"{name} cannot be read (Permission denied); check" in done.stdout
    assert last_run(tmp_path / "out")["states"] == {"done": 1}


def test_output_folder_without_permission_is_exit_2(
    reelmine_bound: Reelmine, tmp_path: Path, samples: Path, fake: Path
) -> None:
    (tmp_path / "out").mkdir(mode=0o555)
    words = (samples / "moving_house.wav", "-o", "out", "--model", fake)
    done = reelmine_bound("run", *words)
    assert done.returncode == 2, done.stdout
    assert done.stderr.count("\n") == 1
    assert "out" in done.stderr and "Permission denied" in done.stderr


def test_next_to_no_sound_is_still_a_video(
    reelmine: Reelmine, tmp_path: Path, tiny_en: Path
) -> None:
    for name, size in (("none", 0), ("sample", 2), ("blink", 1600)):
        with wave.open(str(tmp_path / f"{name}.wav"), "wb") as file:
            file.setparams((1, 2, 16_000, 0, "NONE", ""))
            file.writeframes(bytes(size))
    done = reelmine("run", tmp_path, "-o", "out", "--model", "tiny.en", "--device", "cpu")
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("none", "sample", "blink"):
        assert result(tmp_path / "out", name)["segments"] == []


def test_audio_track_that_one_video_lacks_costs_only_that_video(
    reelmine: Reelmine, tmp_path: Path, samples: Path, fake: Path
) -> None:
    videos = (samples / "wedding_day.mkv", samples / "office_gossip.mov")
    done = reelmine("run", *videos, "-o", "out", "--model", fake, "--audio-track", "1")
    assert done.returncode == 1
    assert "office_gossip.mov has 1 audio track and none with the number 1" in done.stdout
    assert "choose one with --audio-track" in done.stdout
    assert result(tmp_path / "out", "wedding_day")["segments"]


# The endpoint


def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def asking(url: str) -> tuple[str, ...]:
    return ("--llm-model", "phrasebook", "--llm-base-url", url)


def test_endpoint_that_refuses_costs_the_analysis_and_nothing_else(
    reelmine: Reelmine, tmp_path: Path, samples: Path, fake: Path
) -> None:
    port = closed_port()
    words = ("run", samples / "moving_house.wav", "-o", "out", "--model", fake)
    done = reelmine(*words, *asking(f"http://127.0.0.1:{port}/v1"))
    assert done.returncode == 1, done.stderr
    assert f"127.0.0.1:{port} cannot be reached" in done.stdout
    assert_transcribed_only(tmp_path / "out")
    assert_later_only_the_analysis_is_done(reelmine, tmp_path / "out", words)


def test_endpoint_that_answers_401_costs_the_analysis_and_nothing_else(
    reelmine: Reelmine, tmp_path: Path, samples: Path, fake: Path
) -> None:
    words = ("run", samples / "moving_house.wav", "-o", "out", "--model", fake)
    with Server(api_key="right") as server:
        done = reelmine(*words, *asking(server.url), env={"OPENAI_API_KEY": "sk-wrong-key"})
    assert done.returncode == 1, done.stderr
    assert "answered 401" in done.stdout
    assert "check OPENAI_API_KEY" in done.stdout
    assert "the same command later does only the missing analysis" in done.stdout
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert all(b"sk-wrong-key" not in path.read_bytes() for path in written)
    assert_transcribed_only(tmp_path / "out")
    assert_later_only_the_analysis_is_done(reelmine, tmp_path / "out", words)


def assert_transcribed_only(output: Path) -> None:
    assert all((output / f"moving_house.{end}").exists() for end in ("srt", "vtt", "txt", "tsv"))
    assert result(output, "moving_house")["segments"]
    missing = analysis(output, "moving_house", "expressions")
    assert missing["state"] == "failed"
    assert missing["problem"] and not missing["items"]
    assert last_run(output)["exit_code"] == 1


def assert_later_only_the_analysis_is_done(
    reelmine: Reelmine, output: Path, words: tuple[str | Path, ...]
) -> None:
    spoken = (output / "moving_house.srt").stat().st_mtime_ns
    with Server() as server:
        again = reelmine(*words, *asking(server.url))
        assert len(server.requests) == 1
    assert again.returncode == 0, again.stdout + again.stderr
    assert attempts(output, "open") == attempts(output, "batch") == []
    assert (output / "moving_house.srt").stat().st_mtime_ns == spoken
    assert analysis(output, "moving_house", "expressions")["items"]


def test_many_videos_do_not_each_wait_for_a_dead_endpoint(
    reelmine: Reelmine, tmp_path: Path, samples: Path, fake: Path
) -> None:
    for number in range(12):
        shutil.copy(samples / "moving_house.wav", tmp_path / f"{number}.wav")
    url = f"http://127.0.0.1:{closed_port()}/v1"
    words = ("run", tmp_path, "-o", "out", "--model", fake, "--llm-threads", "1")
    done = reelmine(*words, *asking(url), "--call-timeout", "1")
    assert done.returncode == 1
    assert len(attempts(tmp_path / "out", "call")) == 3  # then it counts as gone
    assert last_run(tmp_path / "out")["states"] == {"failed": 12}
    assert len(list((tmp_path / "out").glob("*.srt"))) == 12


# What only looks odd


def test_equal_stems_are_both_written(
    reelmine: Reelmine, tmp_path: Path, samples: Path, fake: Path
) -> None:
    shutil.copy(samples / "moving_house.wav", tmp_path / "talk.wav")
    shutil.copy(samples / "wedding_day.mkv", tmp_path / "talk.mkv")
    (tmp_path / "other").mkdir()
    shutil.copy(samples / "office_gossip.mov", tmp_path / "other" / "talk.mov")
    words = ("run", "talk.wav", "talk.mkv", "other/talk.mov", "-o", "out", "--model", fake)
    assert reelmine(*words).returncode == 0
    files = {path.name for path in (tmp_path / "out").glob("*.srt")}
    assert files == {"talk.wav.srt", "talk.mkv.srt", "talk.mov.srt"}
    lasted = {result(tmp_path / "out", path.stem)["reelmine"]["duration"]
              for path in (tmp_path / "out").glob("*.srt")}  # fmt: skip
    assert len(lasted) == 3
    assert reelmine(*words).returncode == 0
    assert last_run(tmp_path / "out")["resumed"] == 3


ODD = [b"two\nlines.wav", b"it's \"quoted\".wav", b"-dash.wav", b"caf\xe9 \xff.wav",
       "emoji \U0001f3ac.wav".encode(), b"-", b"x" * 251 + b".wav"]  # fmt: skip


def test_odd_names_are_names_like_any_other(
    reelmine: Reelmine, tmp_path: Path, samples: Path, fake: Path
) -> None:
    (tmp_path / "videos").mkdir()
    for number, name in enumerate(ODD):
        short = (samples / "moving_house.wav").read_bytes()[: 200_000 + 1000 * number]
        (tmp_path / "videos" / os.fsdecode(name)).write_bytes(short)
    # "-" has no suffix of a video, so it is named; so is a name that looks like an option
    names = b"\0".join(b"videos/" + name for name in ODD)
    done = reelmine("run", "--files-from", "-", "-o", "out", "--model", fake, stdin=names)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    document = last_run(tmp_path / "out")
    assert document["states"] == {"done": len(ODD)}
    paths = {os.fsencode(video["path"]) for video in document["videos"]}
    assert paths == {os.fsencode(tmp_path / "videos") + b"/" + name for name in ODD}
    for end in ("json", "srt", "vtt", "txt", "tsv"):
        assert len(list((tmp_path / "out").glob(f"*.{end}"))) == len(ODD)


def test_leading_dash_can_be_given_as_it_is_after_two_dashes(
    reelmine: Reelmine, tmp_path: Path, samples: Path, fake: Path
) -> None:
    shutil.copy(samples / "moving_house.wav", tmp_path / "--quiet.wav")
    done = reelmine("run", "-o", "out", "--model", fake, "--", "--quiet.wav")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "--quiet.srt").exists()


def assert_silence_is_done(reelmine: Reelmine, folder: Path, fake: Path, seconds: int) -> None:
    silence(folder / "silence.wav", seconds)
    with Server() as server:
        words = ("run", "silence.wav", "-o", "out", "--model", fake, *asking(server.url))
        done = reelmine(*words, timeout=600)
        assert server.requests == []
    assert done.returncode == 0, done.stdout + done.stderr
    written = result(folder / "out", "silence")
    assert (written["text"], written["segments"]) == ("", [])
    assert written["language"] == "en"  # the model knows no other
    assert written["reelmine"]["state"] == "done"
    assert written["reelmine"]["duration"] == seconds
    assert analysis(folder / "out", "silence", "expressions")["state"] == "done"
    assert attempts(folder / "out", "batch") == attempts(folder / "out", "call") == []
    assert (folder / "out" / "silence.vtt").read_text() == "WEBVTT\n\n"
    assert reelmine(*words).returncode == 0
    assert last_run(folder / "out")["resumed"] == 1


def test_silence_is_done_without_segments_and_calls(
    reelmine: Reelmine, tmp_path: Path, fake: Path
) -> None:
    assert_silence_is_done(reelmine, tmp_path, fake, 120)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_hour_of_silence_is_done_without_segments_and_calls(
    reelmine: Reelmine, tmp_path: Path, fake: Path
) -> None:
    assert_silence_is_done(reelmine, tmp_path, fake, 3600)


# Wrong questions: exit code 2, before any model loads


def assert_refused(reelmine: Reelmine, folder: Path, *words: str | Path) -> str:
    """Exit code 2 with one sentence, which is returned; nothing was started or written."""
    done = reelmine("run", "talk.wav", *words)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("reelmine: ") and done.stderr.count("\n") == 1
    assert "done" not in done.stdout
    assert attempts(folder / "out", "open") == []
    assert [path for path in (folder / "out").glob("*") if path.name != ".reelmine"] == []
    return done.stderr


@pytest.fixture
def talk(tmp_path: Path, samples: Path) -> Path:
    """A good video, in the folder where the command runs."""
    return Path(shutil.copy(samples / "moving_house.wav", tmp_path / "talk.wav"))


def test_unknown_model_is_refused_and_never_replaced(
    reelmine: Reelmine, tmp_path: Path, talk: Path
) -> None:
    said = assert_refused(reelmine, tmp_path, "-o", "out", "--model", "huge-v9")
    assert "'huge-v9'" in said
    assert "tiny.en" in said and "large-v3-turbo" in said


@pytest.mark.parametrize("file", ["model.bin", "config.json", "tokenizer.json", "vocabulary.txt"])
def test_model_folder_with_a_file_missing_is_refused(
    reelmine: Reelmine, tmp_path: Path, talk: Path, file: str
) -> None:
    model = make_model(tmp_path / "model")
    (model / file).unlink()
    said = assert_refused(reelmine, tmp_path, "-o", "out", "--model", "./model")
    assert str(model) in said and file in said


def test_model_folder_that_does_not_exist_is_refused(
    reelmine: Reelmine, tmp_path: Path, talk: Path
) -> None:
    said = assert_refused(reelmine, tmp_path, "-o", "out", "--model", "./nowhere")
    assert "nowhere" in said


@pytest.mark.parametrize("output", ["taken", "taken/below"])
def test_output_folder_that_is_a_file_is_refused(
    reelmine: Reelmine, tmp_path: Path, talk: Path, fake: Path, output: str
) -> None:
    (tmp_path / "taken").write_text("mine")
    said = assert_refused(reelmine, tmp_path, "-o", output, "--model", fake)
    assert output in said
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("--task", "sing", "transcribe, translate"),
        ("--mode", "fast", "batched, sequential"),
        ("--compute-type", "int7", "int8_float16"),
        ("--device", "tpu", "auto, cpu, cuda"),
        ("--output-format", "doc", "json, srt, vtt, txt, tsv"),
        ("--language", "elvish", "de"),
        ("--beam-size", "0", "from 1 up"),
        ("--slots", "many", "a whole number"),
        ("--call-timeout", "-1", "above 0"),
        ("--time-limit", "soon", "HH:MM:SS"),
        ("--llm-base-url", "ftp://x", "http://localhost:8000/v1"),
        ("--word-timestamps=maybe", "", "true or false"),
    ],
)
def test_unknown_option_value_is_refused_with_what_is_allowed(
    reelmine: Reelmine, tmp_path: Path, talk: Path, option: str, value: str, allowed: str
) -> None:
    words = [word for word in (option, value) if word]
    said = assert_refused(reelmine, tmp_path, "-o", "out", "--model", "tiny.en", *words)
    assert option.partition("=")[0] in said and allowed in said


BROKEN = {
    "syntax": ('name = "x"\nprompt = "y"\nmerge = \n', 3, "Invalid value"),
    "merge": (
        'name = "x"\nprompt = "y"\nmerge = "mix"\n[fields.a]\ntype = "string"\n',
        3,
        "concat",
    ),
    "type": ('name = "x"\nprompt = "y"\n[fields.a]\ntype = "poem"\n', 4, "type must be one of"),
    "key": ('name = "x"\nprompts = "y"\n[fields.a]\ntype = "string"\n', 2, "'prompts'"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_recipe_is_refused_with_line_and_reason(
    reelmine: Reelmine, tmp_path: Path, talk: Path, fake: Path, case: str
) -> None:
    content, line, reason = BROKEN[case]
    (tmp_path / "mine.toml").write_text(content)
    with Server() as server:
        words = ("-o", "out", "--model", fake, "--recipe", "mine.toml", *asking(server.url))
        said = assert_refused(reelmine, tmp_path, *words)
    assert f"mine.toml, line {line}:" in said and reason in said


def test_recipe_that_does_not_exist_is_refused(
    reelmine: Reelmine, tmp_path: Path, talk: Path, fake: Path
) -> None:
    said = assert_refused(reelmine, tmp_path, "-o", "out", "--model", fake, "--recipe", "haiku")
    assert "'haiku'" in said and "expressions, summary, chapters" in said


@pytest.mark.parametrize("words", [("--task", "translate"), ("--language", "de")])
@pytest.mark.parametrize("model", ["tiny.en", "folder"])
def test_english_only_model_is_not_asked_for_another_language(
    reelmine: Reelmine,
    tmp_path: Path,
    talk: Path,
    fake: Path,
    tiny_en: Path,
    model: str,
    words: tuple[str, str],
) -> None:
    asked = fake if model == "folder" else model
    said = assert_refused(reelmine, tmp_path, "-o", "out", "--model", asked, *words)
    assert "English only" in said and "--model base" in said


def test_whole_file_without_voice_activity_is_told_before_it_starts(
    reelmine: Reelmine, tmp_path: Path, samples: Path, fake: Path
) -> None:
    """Batched windows hold 30 s: a longer file needs the filter or the other mode."""
    words = ("-o", "out", "--model", fake, "--no-vad-filter")
    done = reelmine("run", samples / "wedding_day.mkv", *words)
    assert done.returncode in (1, 2)
    assert "leave the filter on, or use --mode sequential" in done.stdout + done.stderr
    short = reelmine("run", samples / "moving_house.wav", *words)
    assert short.returncode == 0, short.stdout + short.stderr
