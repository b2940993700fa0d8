"""The files of a run, read by the programs that other people use, and every way to ask for them."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import pysubs2
import pytest
from shell import (
    ROOT,
    Reelmine,
    attempts,
    environment,
    last_run,
    measured,
    reelmine_in,
    result,
)

import engine
from engine.testing.server import Server

ENDS = ("json", "srt", "vtt", "txt", "tsv")


def names(eight: Any) -> list[str]:
    return [video.stem for video in eight.videos]


def cues(output: Path, name: str) -> list[tuple[int, int, str]]:
    """Start and end in milliseconds and text of each segment."""
    return [
        (round(1000 * s["start"]), round(1000 * s["end"]), s["text"].strip())
        for s in result(output, name)["segments"]
    ]


# What other programs read


@pytest.mark.parametrize("end", ["srt", "vtt"])
def test_subtitles_load_in_pysubs2_with_every_cue_and_time(eight: Any, end: str) -> None:
    for name in names(eight):
        loaded = pysubs2.load(str(eight.output / f"{name}.{end}"), encoding="utf-8")
        read = [(line.start, line.end, line.plaintext) for line in loaded]
        assert read == cues(eight.output, name)
        assert len(read) > 3


@pytest.mark.parametrize("end", ["srt", "vtt"])
def test_subtitles_load_in_ffmpeg_with_every_cue_and_time(eight: Any, end: str) -> None:
    for name in names(eight):
        with av.open(str(eight.output / f"{name}.{end}")) as container:
            stream = container.streams.subtitles[0]
            assert stream.time_base == container.streams[0].time_base
            unit = 1000 * stream.time_base
            read = [
                (int(p.pts * unit), int((p.pts + p.duration) * unit), bytes(p).decode().strip())
                for p in container.demux(stream)
                if p.pts is not None
            ]
        assert read == cues(eight.output, name)


def test_tsv_is_read_by_csv(eight: Any) -> None:
    for name in names(eight):
        with (eight.output / f"{name}.tsv").open(newline="", encoding="utf-8") as table:
            header, *rows = csv.reader(table, delimiter="\t")
        assert header == ["start", "end", "text"]
        assert [(int(s), int(e), text) for s, e, text in rows] == cues(eight.output, name)


def test_txt_has_a_line_for_every_segment(eight: Any) -> None:
    for name in names(eight):
        lines = (eight.output / f"{name}.txt").read_text("utf-8").splitlines()
        assert lines == [text for _, _, text in cues(eight.output, name)]


def test_json_is_openai_whispers_with_ours_under_one_key(eight: Any) -> None:
    for video in eight.videos:
        shape = result(eight.output, video.stem)
        assert list(shape) == ["text", "segments", "language", "reelmine"]
        assert shape["language"] == "en"
        assert shape["text"] == "".join(segment["text"] for segment in shape["segments"])
        assert [segment["id"] for segment in shape["segments"]] == list(
            range(len(shape["segments"]))
        )
        for segment in shape["segments"]:
            assert list(segment) == [
                *("id", "seek", "start", "end", "text", "tokens", "temperature"),
                *("avg_logprob", "compression_ratio", "no_speech_prob"),
            ]
            assert 0 <= segment["start"] < segment["end"] <= shape["reelmine"]["duration"] + 0.05
        ours = shape["reelmine"]
        assert ours["schema_version"] == 1
        assert (ours["state"], ours["problem"]) == ("done", None)
        assert ours["model"]["name"] == "tiny.en"
        assert ours["options"]["beam_size"] == 5
        assert ours["source"]["file"] == video.name
        assert ours["source"]["size"] == video.stat().st_size


def test_analysis_table_opens_in_a_spreadsheet(eight: Any) -> None:
    data = (eight.output / "analysis.csv").read_bytes()
    assert data.decode("utf-8").count("\r\n") >= 200
    with (eight.output / "analysis.csv").open(newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table, strict=True))
    assert list(rows[0]) == [
        *("video", "recipe", "start", "end", "cues", "quote", "grounding", "score"),
        *("phrase", "meaning", "example", "level"),
    ]
    for row in rows:
        assert row["video"] in names(eight)
        assert float(row["start"]) < float(row["end"])
        assert all(int(cue) >= 0 for cue in row["cues"].split())
        assert row["grounding"] in ("exact", "fuzzy") and 0.8 <= float(row["score"]) <= 1
        assert not any(cell.startswith(("=", "+", "-", "@")) for cell in row.values())


def test_last_run_tells_scripts_counts_rates_and_exit_code(eight: Any) -> None:
    document = last_run(eight.output)
    assert document["exit_code"] == 0 == eight.report.exit_code
    assert document["states"] == {"done": 8}
    assert (document["resumed"], document["call_overruns"], document["problems"]) == (0, 0, [])
    lasted = sum(result(eight.output, name)["reelmine"]["duration"] for name in names(eight))
    assert document["audio_seconds"] == pytest.approx(lasted, abs=0.1)
    rate = document["audio_seconds"] / document["seconds"]
    assert document["times_real_time"] == pytest.approx(rate, rel=0.05)
    assert {video["name"] for video in document["videos"]} == set(names(eight))
    assert {video["path"] for video in document["videos"]} == set(map(str, eight.videos))


def test_ledger_holds_attempts_and_a_sample_a_second(eight: Any) -> None:
    opened = attempts(eight.output, "open")
    assert opened and all(row["place"].startswith("cpu:") for row in opened)
    assert attempts(eight.output, "batch")
    samples = measured(eight.output)
    assert len(samples) >= 0.5 * last_run(eight.output)["seconds"]
    assert all(0 <= sample["cpu"] <= 100 and sample["memory"] for sample in samples)


# Words


@pytest.fixture(scope="module")
def words(samples: Path, tiny_en: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video with the time of every word, asked for as whisper's users spell it."""
    folder = tmp_path_factory.mktemp("words")
    done = reelmine_in(folder)(
        *("run", samples / "moving_house.wav", "--output_dir", "out", "--model", "tiny.en"),
        *("--word_timestamps", "True", "--beam_size", "1", "--device", "cpu"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "out"


def test_every_word_has_its_time_inside_the_segment(words: Path) -> None:
    shape = result(words, "moving_house")
    assert shape["reelmine"]["options"]["word_timestamps"] is True
    assert shape["reelmine"]["options"]["beam_size"] == 1
    for segment in shape["segments"]:
        assert "".join(word["word"] for word in segment["words"]) == segment["text"]
        times = [time for word in segment["words"] for time in (word["start"], word["end"])]
        assert times == sorted(times)
        assert segment["start"] <= times[0] + 0.5 and times[-1] <= segment["end"] + 0.5
        assert all(0 <= word["probability"] <= 1 for word in segment["words"])


def test_items_have_the_times_of_their_words(words: Path) -> None:
    shape = result(words, "moving_house")
    (found,) = shape["reelmine"]["analyses"]
    assert found["items"]
    for item in found["items"]:
        spoken = [w for s in shape["segments"] if s["id"] in item["cues"] for w in s["words"]]
        assert item["start"] in [word["start"] for word in spoken]
        assert item["end"] in [word["end"] for word in spoken]


def test_subtitles_with_words_load_with_every_cue(words: Path) -> None:
    segments = result(words, "moving_house")["segments"]
    for end in ("srt", "vtt"):
        loaded = pysubs2.load(str(words / f"moving_house.{end}"), encoding="utf-8")
        assert [line.plaintext for line in loaded] == [s["text"].strip() for s in segments]
        assert [line.start for line in loaded] == [
            round(1000 * s["words"][0]["start"]) for s in segments
        ]


# Formats


@pytest.fixture
def talk(tmp_path: Path, samples: Path) -> Path:
    """A video in the folder where the command runs."""
    return Path(shutil.copy(samples / "moving_house.wav", tmp_path / "talk.wav"))


def written(output: Path) -> set[str]:
    return {path.name for path in output.iterdir() if path.name != ".reelmine"}


def test_all_formats_are_written_unless_some_are_chosen(
    reelmine: Reelmine, tmp_path: Path, talk: Path, fake: Path
) -> None:
    assert reelmine("run", talk, "-o", "out", "--model", fake).returncode == 0
    assert written(tmp_path / "out") == {*(f"talk.{end}" for end in ENDS), "analysis.csv"}


def test_json_is_written_even_if_only_srt_was_asked_for(
    reelmine: Reelmine, tmp_path: Path, talk: Path, fake: Path
) -> None:
    words = ("run", talk, "-o", "out", "--model", fake, "--output-format")
    assert reelmine(*words, "srt").returncode == 0
    assert written(tmp_path / "out") == {"talk.json", "talk.srt", "analysis.csv"}
    # another format later is rendered from it
    assert reelmine(*words, "vtt,txt").returncode == 0
    assert written(tmp_path / "out") >= {"talk.srt", "talk.vtt", "talk.txt"}
    assert attempts(tmp_path / "out", "open") == []


@pytest.mark.parametrize(
    "name", ["talk.srt", pytest.param("talk.tsv", marks=pytest.mark.slow), "analysis.csv"]
)
def test_deleted_file_comes_back_without_a_model(
    reelmine: Reelmine, tmp_path: Path, talk: Path, fake: Path, name: str
) -> None:
    words = ("run", talk, "-o", "out", "--model", fake)
    assert reelmine(*words).returncode == 0
    before = (tmp_path / "out" / name).read_bytes()
    (tmp_path / "out" / name).unlink()
    done = reelmine(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "out" / name).read_bytes() == before
    assert attempts(tmp_path / "out", "open") == []
    assert last_run(tmp_path / "out")["resumed"] == 1


def test_deleted_json_is_made_again(
    reelmine: Reelmine, tmp_path: Path, talk: Path, fake: Path
) -> None:
    words = ("run", talk, "-o", "out", "--model", fake)
    assert reelmine(*words).returncode == 0
    before = (tmp_path / "out" / "talk.json").read_bytes()
    (tmp_path / "out" / "talk.json").unlink()
    assert reelmine(*words).returncode == 0
    assert (tmp_path / "out" / "talk.json").read_bytes() == before
    assert attempts(tmp_path / "out", "call") == []  # the reply was paid for


def test_lost_ledger_is_rebuilt_from_the_files(
    reelmine: Reelmine, tmp_path: Path, talk: Path, fake: Path
) -> None:
    words = ("run", talk, "-o", "out", "--model", fake)
    assert reelmine(*words).returncode == 0
    before = {name: (tmp_path / "out" / name).read_bytes() for name in written(tmp_path / "out")}
    (tmp_path / "out" / ".reelmine" / "ledger.sqlite").unlink()
    assert reelmine(*words).returncode == 0
    assert attempts(tmp_path / "out", "open") == attempts(tmp_path / "out", "call") == []
    assert last_run(tmp_path / "out")["resumed"] == 1
    assert {name: (tmp_path / "out" / name).read_bytes() for name in before} == before


@pytest.mark.slow
def test_other_options_or_another_content_are_done_anew(
    reelmine: Reelmine, tmp_path: Path, talk: Path, fake: Path, samples: Path
) -> None:
    words = ("run", talk, "-o", "out", "--model", fake)
    assert reelmine(*words).returncode == 0
    assert reelmine(*words, "--beam-size", "2").returncode == 0
    assert len(attempts(tmp_path / "out", "batch")) == 1
    assert result(tmp_path / "out", "talk")["reelmine"]["options"]["beam_size"] == 2
    shutil.copy(samples / "coffee_shop.mp4", talk)
    assert reelmine(*words, "--beam-size", "2").returncode == 0
    assert attempts(tmp_path / "out", "batch")
    assert result(tmp_path / "out", "talk")["reelmine"]["duration"] > 70


def test_tree_of_the_input_is_mirrored(
    reelmine: Reelmine, tmp_path: Path, samples: Path, fake: Path
) -> None:
    for place in ("a.wav", "season 1/b.wav", "season 1/extras/c.wav"):
        (tmp_path / "in" / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(samples / "moving_house.wav", tmp_path / "in" / place)
    # the output folder lies in the input, where it is no input
    assert reelmine("run", "in", "-o", "in/out", "--model", fake).returncode == 0
    assert reelmine("run", "in", "-o", "in/out", "--model", fake).returncode == 0
    made = {
        str(path.relative_to(tmp_path / "in" / "out")) for path in tmp_path.rglob("in/out/**/*.srt")
    }
    assert made == {"a.srt", "season 1/b.srt", "season 1/extras/c.srt"}
    assert last_run(tmp_path / "in" / "out")["resumed"] == 3


# Other commands


def test_status_tells_what_was_done(reelmine: Reelmine, eight: Any) -> None:
    found = json.loads(reelmine("status", eight.output, "--json").stdout)
    assert found["videos"] == {"done": 8}
    assert found["failures"] == []
    assert found["last_run"]["exit_code"] == 0
    assert found["last_run"]["pid"] == os.getpid()
    assert "8 done" in reelmine("status", eight.output).stdout


def test_status_of_a_folder_without_runs_is_no_error(reelmine: Reelmine, tmp_path: Path) -> None:
    done = reelmine("status", "nowhere", "--json")
    assert done.returncode in (0, 2)
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "nowhere").exists()


def test_plan_starts_nothing_and_agrees_with_the_run(
    reelmine: Reelmine, tmp_path: Path, talk: Path, fake: Path
) -> None:
    words = (talk, "-o", "out", "--model", fake, "--device", "cpu", "--slots", "2")
    plan = reelmine("plan", *words)
    assert plan.returncode == 0, plan.stderr
    assert "1 to do, 0 done already, 0:00:26 of audio" in plan.stdout
    assert plan.stdout.count("slot cpu") == 2
    assert attempts(tmp_path / "out", "open") == []
    assert not (tmp_path / "out" / "talk.json").exists()
    assert reelmine("run", *words).returncode == 0
    assert "0 to do, 1 done already" in reelmine("plan", *words).stdout


def test_plan_leaves_no_trace(reelmine: Reelmine, tmp_path: Path, talk: Path, fake: Path) -> None:
    assert reelmine("plan", talk, "-o", "out", "--model", fake).returncode == 0
    assert not (tmp_path / "out").exists()


def test_models_lists_the_catalogue(reelmine: Reelmine, tiny_en: Path) -> None:
    done = reelmine("models")
    assert done.returncode == 0
    assert f"{tiny_en}" in done.stdout and "large-v3-turbo" in done.stdout


def test_doctor_asks_the_endpoint_it_is_given(reelmine: Reelmine, fake: Path) -> None:
    with Server() as server:
        env = {
            "REELMINE_MODEL": str(fake),
            "REELMINE_DEVICE": "cpu",
            "REELMINE_SLOTS": "1",
            "REELMINE_LLM_MODEL": "phrasebook",
            "REELMINE_LLM_BASE_URL": server.url,
        }
        done = reelmine("doctor", env=env)
        assert server.requests == []  # it costs no tokens
    assert done.returncode == 0, done.stdout + done.stderr
    host = server.url.removeprefix("http://").removesuffix("/v1")
    assert f"{host} answers" in done.stdout


# Ways to ask


def test_files_from_a_list_and_from_stdin(
    reelmine: Reelmine, tmp_path: Path, talk: Path, fake: Path
) -> None:
    shutil.copy(talk, tmp_path / "two words.wav")
    (tmp_path / "list.txt").write_text("talk.wav\ntwo words.wav\n")
    words = ("run", "-o", "out", "--model", fake, "--files-from")
    assert reelmine(*words, "list.txt").returncode == 0
    assert last_run(tmp_path / "out")["states"] == {"done": 2}
    assert reelmine(*words, "-", stdin=b"two words.wav\0talk.wav\0").returncode == 0
    assert last_run(tmp_path / "out")["resumed"] == 2
    both = ("run", "talk.wav", *words[1:], "-")
    assert reelmine(*both, stdin=b"two words.wav\ntalk.wav\n").returncode == 0
    assert last_run(tmp_path / "out")["resumed"] == 2


def test_options_come_from_the_line_the_environment_and_the_file_in_this_order(
    reelmine: Reelmine, tmp_path: Path, talk: Path, fake: Path
) -> None:
    settings = {"model": str(fake), "output": "from_file", "beam_size": 1, "hotwords": "Ada"}
    (tmp_path / "reelmine.toml").write_text(
        "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items())
        + 'initial_prompt = "A talk."\noutput_format = ["srt"]\nno_analysis = true\n'
    )
    env = {"REELMINE_BEAM_SIZE": "2", "REELMINE_HOTWORDS": "Grace"}
    done = reelmine("run", "talk.wav", "--beam-size", "3", env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    ours = result(tmp_path / "from_file", "talk")["reelmine"]
    asked = ours["options"]
    assert (asked["beam_size"], asked["hotwords"]) == (3, "Grace")
    assert asked["initial_prompt"] == "A talk."
    assert ours["analyses"] == []
    assert {path.suffix for path in (tmp_path / "from_file").glob("talk.*")} == {".json", ".srt"}


def test_whispers_spelling_gives_the_same_run(
    reelmine: Reelmine, tmp_path: Path, talk: Path, fake: Path
) -> None:
    ours = ("--output-dir", "out", "--beam-size", "4", "--vad-filter", "--output-format", "all")
    theirs = ("--output_dir", "out", "--beam_size=4", "--vad_filter", "True", "-f", "all")
    assert reelmine("run", "talk.wav", "--model", fake, *ours).returncode == 0
    assert reelmine("run", "talk.wav", "--model", fake, *theirs).returncode == 0
    assert last_run(tmp_path / "out")["resumed"] == 1  # the same options, so nothing to do


def test_module_is_the_same_command_as_the_script(tmp_path: Path, talk: Path, fake: Path) -> None:
    script = Path(sys.executable).with_name("reelmine")
    if not script.exists():
        pytest.skip("reelmine is not installed in this environment")
    done = {}
    for name, words in (("module", [sys.executable, "-m", "engine"]), ("script", [str(script)])):
        done[name] = subprocess.run(
            [*words, "run", "talk.wav", "-o", name, "--model", str(fake)],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            timeout=120,
            check=False,
        ).returncode
    assert done == {"module": 0, "script": 0}
    for end in ENDS:
        module, made = (tmp_path / name / f"talk.{end}" for name in done)
        assert module.read_bytes() == made.read_bytes()


def test_the_same_from_python(tmp_path: Path, talk: Path, fake: Path) -> None:
    finished = list(engine.stream([talk], engine.Config(output=tmp_path / "a", model=str(fake))))
    (only,) = finished
    assert only.state == "done" and only.transcript is not None
    assert [segment.text for segment in only.transcript.segments] == [
        segment["text"] for segment in result(tmp_path / "a", "talk")["segments"]
    ]
    assert {Path(file).name for file in only.files} == {f"talk.{end}" for end in ENDS}
    report = engine.run([talk], engine.Config(output=tmp_path / "a", model=str(fake)))
    assert (report.exit_code, report.videos[0].resumed) == (0, True)


def test_unguarded_script_gets_one_sentence_with_the_remedy(
    tmp_path: Path, talk: Path, fake: Path
) -> None:
    (tmp_path / "script.py").write_text(
        f"import engine\nconfig = engine.Config(output='out', model={str(fake)!r})\n"
        "engine.run(['talk.wav'], config)\n"
    )
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0
    assert 'if __name__ == "__main__":' in done.stderr.strip().splitlines()[-1]


def test_checkout_is_found_from_another_folder(tmp_path: Path, talk: Path, fake: Path) -> None:
    """`python -m engine` needs no working folder of its own."""
    assert not tmp_path.is_relative_to(ROOT)
    words = [sys.executable, "-m", "engine", "--version"]
    done = subprocess.run(
        words, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout == f"reelmine {engine.__version__}\n"
