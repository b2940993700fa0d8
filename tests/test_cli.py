"""The command as people and scripts use it: spellings, exit codes, one sentence for an error."""

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shell import Reelmine, command, environment

import engine
from engine import __version__, cli, config, events, setup
from engine.config import Config
from engine.options import run_options, talk_options
from engine.speech.encoders import Encoder
from engine.spelling import Command, spelled_out
from engine.testing.transcriber import make_model


@click.command(cls=Command)
@run_options
@talk_options
def probe(paths: tuple[str, ...], **options: object) -> dict[str, object]:
    """What the command line of `run` and `plan` is understood as."""
    given = {name: value for name, value in options.items() if value not in (None, ())}
    return {"paths": paths, "config": config.load(given, {}, None)}


class Talk:
    quiet = verbose = False


def understood(*words: str) -> config.Config:
    return probe.main(list(words), standalone_mode=False, obj=Talk())["config"]


def paths(*words: str) -> tuple[str, ...]:
    return probe.main(list(words), standalone_mode=False, obj=Talk())["paths"]


# Spelling


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--word-timestamps"], True),
        (["--word_timestamps"], True),
        (["--word_timestamps", "True"], True),
        (["--word-timestamps", "false"], False),
        (["--word_timestamps=True"], True),
        (["--word-timestamps=no"], False),
        (["--no-word-timestamps"], False),
        (["--no_word_timestamps"], False),
        (["--word-timestamps", "--no-word-timestamps"], False),  # the last one counts
    ],
)
def test_yes_or_no_options_take_whispers_spelling_and_ours(
    words: list[str], expected: bool
) -> None:
    assert understood(*words).word_timestamps is expected


def test_no_analysis_is_an_option() -> None:
    assert understood("--no-analysis").analysis is False


def test_switch_does_not_swallow_the_video_after_it() -> None:
    words = ("--word-timestamps", "talk.mp4", "--vad-filter", "true", "true", "--no-analysis", "x")
    assert paths(*words) == ("talk.mp4", "true", "x")


@pytest.mark.parametrize("field", sorted(config.Config.__dataclass_fields__))
def test_every_option_is_there_with_hyphens_and_underscores(field: str) -> None:
    values = {
        "output": "out", "task": "translate", "mode": "sequential", "language": "fr",
        "compute_type": "int8", "encoder": "torch", "device": "cpu", "output_format": "srt",
        "llm_base_url": "http://localhost/v1", "time_limit": "00:01:00", "word_timestamps": "True",
        "vad_filter": "False", "analysis": "False", "quality_gates": "False",
    }  # fmt: skip
    value = values.get(field, "7")
    results = {
        understood(option, value)
        for option in (f"--{field}", f"--{field.replace('_', '-')}", f"--{field.upper()}".lower())
    }
    assert len(results) == 1
    assert getattr(results.pop(), field) != getattr(config.Config(), field)


@pytest.mark.parametrize("option", ["-o", "--output", "--output-dir", "--output_dir"])
def test_output_folder_has_whispers_names_too(option: str) -> None:
    assert understood(option, "x").output == Path("x")


@pytest.mark.parametrize(
    "words",
    [
        ["-f", "srt,vtt"],
        ["-f", "vtt", "-f", "srt"],
        ["--output_format", "srt", "--output-format=vtt"],
    ],
)
def test_formats_may_be_listed_or_repeated(words: list[str]) -> None:
    assert understood(*words).output_format == ("srt", "vtt")


def test_what_comes_after_two_dashes_is_a_path() -> None:
    assert paths("a.mp4", "--", "--no-analysis", "-dash.mp4") == (
        "a.mp4", "--no-analysis", "-dash.mp4",
    )  # fmt: skip


def test_value_of_another_option_is_never_taken_for_a_switch() -> None:
    parsed = understood("--initial-prompt", "--word-timestamps", "--hotwords", "--no-analysis")
    assert parsed.initial_prompt == "--word-timestamps"
    assert parsed.hotwords == "--no-analysis"
    assert (parsed.word_timestamps, parsed.analysis) == (False, True)


@given(st.lists(st.text("abc._-", min_size=1).filter(lambda w: not w.startswith("-"))))
def test_words_that_are_no_options_pass_unchanged(words: list[str]) -> None:
    assert spelled_out(words, probe.params) == words


# Errors


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "x", "--task", "sing"], ["--task", "transcribe", "translate"]),
        (["run", "x", "--compute-type", "int9"], ["--compute-type", "int8_float16"]),
        (["run", "x", "--modle", "base"], ["--modle"]),
        (["run"], ["PATH"]),
        (["run", "--files-from", "nowhere.txt"], ["nowhere.txt"]),
        (["run", "--files-from", os.devnull], [os.devnull]),
        (["run", "x", "--quiet=perhaps"], ["true or false"]),
        (["plan", "x", "--beam-size", "0"], ["--beam-size"]),
        (["sing"], ["sing"]),
        (["models", "path", "no-such-model"], ["no-such-model"]),
    ],
)
def test_wrong_usage_is_one_line_on_stderr_and_exit_2(
    reelmine: Reelmine, words: list[str], said: list[str]
) -> None:
    done = reelmine(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("reelmine: ")
    assert done.stderr.count("\n") == 1
    assert all(word in done.stderr for word in said)


def test_broken_settings_are_named_by_where_they_are(reelmine: Reelmine, tmp_path: Path) -> None:
    (tmp_path / "reelmine.toml").write_text("beam_size = 'many'\n")
    assert "beam_size in reelmine.toml" in reelmine("plan", "x").stderr
    done = reelmine("plan", "x", "--beam-size", "1", env={"REELMINE_MODE": "fast"})
    assert done.returncode == 2
    assert "REELMINE_MODE" in done.stderr


def test_names_in_errors_cannot_act_on_the_terminal(reelmine: Reelmine) -> None:
    done = reelmine("run", "--files-from", "a\x1b[31m\nb")
    assert done.stderr.count("\n") == 1
    assert r"a\x1b[31m\nb" in done.stderr


def test_traceback_only_with_verbose(reelmine: Reelmine) -> None:
    words = ("run", "--files-from", "nowhere.txt")
    assert "Traceback" not in reelmine(*words).stderr
    loud = reelmine(*words, "--verbose")
    assert loud.returncode == 2
    assert "Traceback" in loud.stderr
    assert loud.stderr.splitlines()[-1].startswith("reelmine: ")


# Talking


def test_version_and_help_are_quick_and_load_no_library(reelmine: Reelmine) -> None:
    assert reelmine("--version").stdout == f"reelmine {__version__}\n"
    program = (
        "import sys\nfrom engine.cli import main\nassert main(['run', '--help']) == 0\n"
        "heavy = {'rich', 'openai', 'av', 'ctranslate2', 'faster_whisper', 'numpy', 'psutil'}\n"
        "sys.exit(str(sorted(heavy & set(sys.modules))) if heavy & set(sys.modules) else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_importing_the_package_imports_nothing_heavy() -> None:
    program = (
        "import sys, engine\n"
        "heavy = {'numpy', 'click', 'rich', 'pydantic', 'openai', 'av', 'ctranslate2'}\n"
        "found = heavy & set(sys.modules) | {n for n in sys.modules if n.startswith('engine.')}\n"
        "assert not found, found\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_what_workers_import_again_brings_no_command_line() -> None:
    """The installed script is their main module, and it imports `engine.__main__`."""
    program = (
        "import sys, engine.__main__\n"
        "assert not {'click', 'rich', 'engine.cli'} & set(sys.modules)\n"
        "assert callable(engine.__main__.main)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_package_offers_everything_it_names() -> None:
    program = (
        "import engine\nimport engine.api, engine.loop\n"
        "assert callable(engine.run) and engine.run.__name__ == 'run'\n"
        "assert all(getattr(engine, name) is not None for name in engine.__all__)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("words", [["models"], ["run", "--help"], ["plan", "{samples}"]])
def test_reader_that_has_gone_gets_no_complaint(
    words: list[str], samples: Path, tmp_path: Path
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    words = [word.format(samples=samples) for word in words]
    done = subprocess.run(
        command(words),
        stdout=writing,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env=environment({"REELMINE_MODEL": "tiny.en"}),
        check=False,
    )
    os.close(writing)
    assert done.stderr == b""
    assert done.returncode in (0, 1)  # 1 is click's own for a help page cut off


def test_models_lists_what_is_known_and_where_it_is(reelmine: Reelmine, tiny_en: Path) -> None:
    rows = {line.split()[0]: line for line in reelmine("models").stdout.splitlines()}
    assert rows["tiny.en"].endswith(str(tiny_en))
    assert {"base", "small", "large-v3-turbo"} <= rows.keys()
    assert reelmine("models", "path", "tiny.en").stdout == f"{tiny_en}\n"


# Runs


FEW = ("--model", "tiny.en", "--device", "cpu", "--no-analysis")


def test_files_from_takes_lines_and_nul_separated_names(
    reelmine: Reelmine, tmp_path: Path, samples: Path, tiny_en: Path
) -> None:
    names = [b"one.mp4", b"two\xff.mp4"]
    for name in names:
        Path(os.fsdecode(bytes(tmp_path) + b"/" + name)).write_bytes(
            (samples / "coffee_shop.mp4").read_bytes()
        )
    odd = tmp_path / "line\nbreak.mp4"
    odd.write_bytes((samples / "coffee_shop.mp4").read_bytes())
    for content, videos in (
        (b"\n".join(names), 2),
        (b"\r\n".join(names) + b"\r\n\r\n", 2),
        (b"\0".join([*names, b"line\nbreak.mp4", b""]), 3),
    ):
        done = reelmine("plan", "--files-from", "-", *FEW, stdin=content)
        assert f"{videos} to do" in done.stdout, done.stderr
        (tmp_path / "list").write_bytes(content)
        assert f"{videos} to do" in reelmine("plan", "--files-from", "list", *FEW).stdout
    (tmp_path / "reelmine.toml").write_text('files_from = "list"\n', "utf-8")
    assert "3 to do" in reelmine("plan", *FEW).stdout
    (tmp_path / "one").write_bytes(names[0])
    assert "1 to do" in reelmine("plan", *FEW, env={"REELMINE_FILES_FROM": "one"}).stdout
    assert "2 to do" in reelmine("plan", "line\nbreak.mp4", "--files-from", "one", *FEW).stdout


def test_plan_says_what_why_and_who_gets_the_text(
    reelmine: Reelmine, samples: Path, tiny_en: Path
) -> None:
    out = reelmine("plan", samples, "--model", "tiny.en", "--device", "cpu", "--slots", "2").stdout
    assert "6 to do, 0 done already" in out
    assert out.count("slot cpu") == 2
    assert "nobody for expressions" in out
    endpoint = ("--llm-model", "m", "--llm-base-url", "http://127.0.0.1:9/v1")
    assert (
        "text goes to 127.0.0.1:9 for expressions"
        in reelmine("plan", samples, *FEW[:4], *endpoint).stdout
    )


def test_run_prints_a_line_per_video_and_status_tells_the_same_later(
    reelmine: Reelmine, tmp_path: Path, samples: Path, tiny_en: Path
) -> None:
    (tmp_path / "broken.mp4").write_text("this is no video")
    words = ("run", samples / "coffee_shop.mp4", "broken.mp4", "-o", "out", *FEW, "--slots", "1")
    done = reelmine(*words)
    assert done.returncode == 1, done.stderr
    assert "\x1b" not in done.stdout
    assert sum(line.startswith("done ") for line in done.stdout.splitlines()) == 1
    assert sum("broken" in line for line in done.stdout.splitlines()) == 2  # at once, in the table
    found = json.loads(reelmine("status", "out", "--json").stdout)
    assert found["videos"] == {"done": 1, "failed": 1}
    assert found["last_run"]["exit_code"] == 1
    text = reelmine("status", "out").stdout
    assert "1 done, 1 failed" in text and "broken" in text
    quiet = reelmine(*words, "--quiet")
    assert quiet.stdout == ""
    assert "broken" in quiet.stderr and "coffee" not in quiet.stderr


def test_wrong_path_is_told_at_once_and_in_the_table_but_not_twice_in_a_row(
    reelmine: Reelmine, tmp_path: Path, samples: Path
) -> None:
    model = make_model(tmp_path / "quick", seconds=0.05)
    words = ("run", "typo.mp4", samples / "moving_house.wav", "-o", "out", "--model", model)
    said = "typo.mp4 does not exist; check the spelling."
    lines = reelmine(*words).stdout.splitlines()
    [at_once, in_table] = [number for number, line in enumerate(lines) if said in line]
    [ended] = [number for number, line in enumerate(lines) if line.startswith("done ")]
    assert at_once < ended < in_table  # a run may take hours, and a quick remedy saves them
    again = reelmine(*words)
    assert again.returncode == 1
    assert again.stdout.count(said) == 1
    assert again.stdout.splitlines()[-1] == f"  problem     {said}"


def test_run_tells_of_model_and_encoder_only_if_it_transcribes(
    samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = str(make_model(tmp_path / "quick", seconds=0.05))
    noted = replace(setup.look_for(quick, "cpu"), note="Another model.")
    second = Encoder("ctranslate2", "slow.", True)
    monkeypatch.setattr(setup, "look_for", lambda *_: noted)
    monkeypatch.setattr(setup, "choose", lambda *_, **__: second)
    told: list[str | None] = []

    def hear(event: events.Event) -> None:
        if isinstance(event, events.RunStarted):
            told.append(event.note)
        elif isinstance(event, events.Notice):
            told.append(event.text)

    config = Config(output=tmp_path / "out", model=quick, device="cpu", analysis=False)
    for again, expected in (
        (config, ["Another model.", "The encoder is ctranslate2: slow."]),
        (config, [None]),  # nothing is left to do
        (replace(config, analysis=True), [None]),  # nor to be transcribed
    ):
        told.clear()
        report = engine.run([samples / "moving_house.wav"], again, hear)
        assert (report.exit_code, told) == (0, expected)


def test_model_is_neither_looked_up_nor_fetched_where_every_video_is_transcribed(
    reelmine: Reelmine, tmp_path: Path, samples: Path, tiny_en: Path
) -> None:
    words = ("run", samples / "moving_house.wav", "-o", "out", *FEW, "--slots", "1")
    assert reelmine(*words).returncode == 0
    gone = {"REELMINE_CACHE": str(tmp_path / "cache"), "HF_HOME": str(tmp_path / "hub")}
    gone |= {"HF_HUB_OFFLINE": "1", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""}
    again = reelmine(*words, env=gone)
    assert (again.returncode, again.stderr) == (0, "")
    assert "nothing new" in again.stdout
    analysed = reelmine(*(word for word in words if word != "--no-analysis"), env=gone)
    assert (analysed.returncode, analysed.stderr) == (0, "")
    assert "1 chunk analysed" in analysed.stdout
    assert not (tmp_path / "cache" / "models").exists()
    other = reelmine(*words, "--beam-size", "1", env=gone)
    assert other.returncode == 2
    assert "tiny.en is not on this machine" in other.stderr


def test_run_goes_on_when_its_reader_has_gone(tmp_path: Path, samples: Path, tiny_en: Path) -> None:
    words = ["run", str(samples / "coffee_shop.mp4"), "-o", "out", *FEW, "--slots", "1"]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        command(words),
        stdout=writing,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env=environment(),
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "out" / "coffee_shop.srt").exists()


def test_pipe_to_a_process_that_breaks_is_not_taken_for_a_reader_that_has_gone(
    monkeypatch, capsys, tmp_path: Path
) -> None:
    def breaks(*_: object) -> int:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(cli, "_run", breaks)
    assert cli.main(["run", str(tmp_path), "-o", str(tmp_path / "out")]) == 1
    assert "a process that was written to has gone" in capsys.readouterr().err


@pytest.mark.slow
def test_demo_ends_by_naming_files_that_are_there(
    reelmine: Reelmine, tmp_path: Path, tiny_en: Path
) -> None:
    done = reelmine("demo", env={"OPENAI_API_KEY": "never-used"}, timeout=280)
    assert done.returncode == 0, done.stderr
    named = [line.split()[0] for line in done.stdout.split("Open these:\n")[1].splitlines()]
    assert len(named) == 3
    assert all((tmp_path / name).stat().st_size > 0 for name in named)


def test_doctor_checks_every_part_and_says_what_to_do(reelmine: Reelmine, tiny_en: Path) -> None:
    fine = reelmine("doctor", env={"REELMINE_MODEL": "tiny.en", "REELMINE_DEVICE": "cpu"})
    assert fine.returncode == 0, fine.stdout + fine.stderr
    for part in ("faster-whisper", "cores", "models", "slot cpu:0", "endpoint"):
        assert part in fine.stdout
    dead = {"REELMINE_LLM_MODEL": "m", "REELMINE_LLM_BASE_URL": "http://127.0.0.1:9/v1"}
    broken = reelmine(
        "doctor", "--quiet", env=dead | {"REELMINE_MODEL": "tiny.en", "REELMINE_DEVICE": "cpu"}
    )
    assert broken.returncode == 1
    assert broken.stdout.startswith("BROKEN") and "127.0.0.1:9" in broken.stdout
    assert broken.stdout.count("\n") == 1


def test_thread_that_was_left_behind_does_not_hold_up_the_exit(tmp_path: Path) -> None:
    script = (
        "import sys, threading, time\n"
        "from engine.cli import main\n"
        "threading.Thread(target=time.sleep, args=(600,), name='reelmine-call_0').start()\n"
        "sys.exit(main(['status', sys.argv[1]]))\n"
    )
    words = [sys.executable, "-c", script, tmp_path]
    done = subprocess.run(words, env=environment(), timeout=60, capture_output=True, check=False)
    assert done.returncode == 0
    assert done.stdout
