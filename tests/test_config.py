"""Options: where their values come from, what they may be, what a wrong one says."""

from dataclasses import fields
from pathlib import Path

import pytest
from faster_whisper.tokenizer import _LANGUAGE_CODES as WHISPERS_LANGUAGES
from hypothesis import given
from hypothesis import strategies as st

from engine.config import COMPUTE_TYPES, FORMATS, Config, checked, load
from engine.errors import EXIT_USAGE, UsageError
from engine.speech.languages import LANGUAGES, code_of


def toml(folder: Path, text: str) -> Path:
    path = folder / "reelmine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(cli: dict[str, object], env: dict[str, str], path: Path | None = None) -> str:
    with pytest.raises(UsageError) as caught:
        load(cli, env, path)
    assert caught.value.exit_code == EXIT_USAGE
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_nothing_given_gives_the_defaults(tmp_path: Path) -> None:
    assert load({}, {}, tmp_path / "reelmine.toml") == Config()


def test_command_line_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    path = toml(tmp_path, "beam_size = 2\nslots = 2\nbatch_size = 2\n")
    env = {"REELMINE_BEAM_SIZE": "3", "REELMINE_SLOTS": "3"}
    config = load({"beam_size": "4"}, env, path)
    assert (config.beam_size, config.slots, config.batch_size) == (4, 3, 2)
    assert config.llm_threads is None


def test_a_value_that_a_higher_place_hides_is_still_checked_nowhere(tmp_path: Path) -> None:
    """The hidden value is never used, so it cannot be wrong."""
    assert load({"task": "translate"}, {"REELMINE_TASK": "sing"}, None).task == "translate"


def test_empty_variable_counts_as_not_set() -> None:
    assert load({}, {"REELMINE_MODEL": ""}, None) == Config()


def test_cache_variable_is_no_option() -> None:
    assert load({}, {"REELMINE_CACHE": "/models"}, None) == Config()


@pytest.mark.parametrize("key", ["word_timestamps", "word-timestamps"])
def test_file_takes_both_spellings(tmp_path: Path, key: str) -> None:
    assert load({}, {}, toml(tmp_path, f"{key} = true")).word_timestamps


def test_negative_names_mean_the_opposite(tmp_path: Path) -> None:
    assert not load({}, {}, toml(tmp_path, "no_analysis = true")).analysis
    assert not load({}, {"REELMINE_NO_ANALYSIS": "1"}, None).analysis
    assert load({}, {"REELMINE_NO_ANALYSIS": "0"}, None).analysis


def test_every_field_can_come_from_each_place(tmp_path: Path) -> None:
    """A field without a parser, or a default that its own parser refuses, would show here."""
    config = checked(Config())
    assert config == Config()
    for field in fields(Config):
        with pytest.raises(UsageError, match=f"Config.{field.name}"):
            checked(Config(**{field.name: object()}))


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("task", "sing", "transcribe, translate"),
        ("mode", "fast", "batched, sequential"),
        ("compute_type", "int9", ", ".join(COMPUTE_TYPES)),
        ("output_format", "docx", ", ".join(FORMATS)),
        ("device", "cuda:", "auto, cpu, cuda"),
        ("device", "gpu", "cuda:0,cuda:2"),
        ("language", "Klingon", "en, zh, de"),
        ("beam_size", "0", "from 1 up"),
        ("beam_size", "2.5", "whole number"),
        ("audio_track", "-1", "from 0 up"),
        ("slots", "many", "whole number"),
        ("batch_size", "65", "from 1 to 64"),
        ("grace", "0", "above 0"),
        ("call_timeout", "nan", "above 0"),
        ("call_timeout", "inf", "above 0"),
        ("attempt_timeout", "-3", "above 0"),
        ("time_limit", "1:30", "HH:MM:SS"),
        ("time_limit", "01:75:00", "HH:MM:SS"),
        ("word_timestamps", "maybe", "true or false"),
        ("llm_base_url", "localhost:8000", "http://localhost:8000/v1"),
        ("llm_base_url", "http://host:port/", "http://localhost:8000/v1"),
        ("recipe", "expressions,,summary", "separated by commas"),
        ("model", " ", "text"),
        ("max_cost", "0", "an amount above 0"),
        ("max_cost", "1 EUR", "an amount above 0"),
        ("max_tokens_total", "1e6", "whole number from 1 up"),
        ("max_tokens_total", "0", "whole number from 1 up"),
    ],
)
def test_wrong_value_names_its_origin_and_what_is_allowed(
    tmp_path: Path, name: str, value: str, allowed: str
) -> None:
    option, variable = "--" + name.replace("_", "-"), "REELMINE_" + name.upper()
    path = toml(tmp_path, f'{name} = "{value}"')
    for message, origin in (
        (refusal({name: value}, {}), option),
        (refusal({}, {variable: value}), variable),
        (refusal({}, {}, path), f"{name} in {path}"),
    ):
        assert message.startswith(f"{origin}: ")
        assert repr(value) in message
        assert allowed in message


def test_unknown_name_names_its_origin_and_the_nearest(tmp_path: Path) -> None:
    assert "REELMINE_DEVCE" in refusal({}, {"REELMINE_DEVCE": "cpu"})
    message = refusal({}, {}, toml(tmp_path, "beam-sise = 3"))
    assert "beam-sise" in message and "beam_size" in message


def test_broken_file_is_named_with_the_line(tmp_path: Path) -> None:
    message = refusal({}, {}, toml(tmp_path, 'task = "translate"\nmode = batched\n'))
    assert "reelmine.toml" in message and "line 2" in message


def test_file_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    assert str(tmp_path) in refusal({}, {}, tmp_path)


@pytest.mark.parametrize(
    ("written", "seconds"), [("90", 90), ("0.5", 0.5), ("01:30:00", 5400), ("100:00:01", 360_001)]
)
def test_time_limit_is_seconds_or_a_clock(written: str, seconds: float) -> None:
    assert load({"time_limit": written}, {}, None).time_limit == seconds


def test_time_limit_in_the_file_may_be_a_toml_time(tmp_path: Path) -> None:
    assert load({}, {}, toml(tmp_path, "time_limit = 01:30:00")).time_limit == 5400


@pytest.mark.parametrize(
    ("written", "formats"),
    [
        ("srt", ("srt",)),
        ("VTT, json", ("json", "vtt")),
        (("tsv", "srt,tsv"), ("srt", "tsv")),
        ("all", FORMATS),
        (("srt", "all"), FORMATS),
    ],
)
def test_formats_are_listed_or_repeated(written: object, formats: tuple[str, ...]) -> None:
    assert load({"output_format": written}, {}, None).output_format == formats


def test_recipes_keep_the_order_they_were_given_in() -> None:
    config = load({"recipe": ("summary", "expressions,my.toml", "summary")}, {}, None)
    assert config.recipe == ("summary", "expressions", "my.toml")


def test_devices_lose_blanks_and_repetitions() -> None:
    assert load({"device": "CUDA:0, cuda:2,cuda:0"}, {}, None).device == "cuda:0,cuda:2"


def test_home_is_written_as_a_tilde_in_the_file(tmp_path: Path) -> None:
    config = load({}, {}, toml(tmp_path, 'output = "~/talks"\nscratch = "/scratch"'))
    assert config.output == Path.home() / "talks"
    assert config.scratch == Path("/scratch")


def test_languages_are_whispers() -> None:
    assert set(LANGUAGES) == set(WHISPERS_LANGUAGES)


@given(st.sampled_from(sorted(LANGUAGES.items())))
def test_language_is_a_code_or_an_english_name_in_any_case(language: tuple[str, str]) -> None:
    code, name = language
    for written in (code, code.upper(), name, name.lower(), f" {name} "):
        assert code_of(written) == code


@pytest.mark.parametrize(("other", "code"), [("Mandarin", "zh"), ("flemish", "nl")])
def test_other_names_of_languages_are_known(other: str, code: str) -> None:
    assert load({"language": other}, {}, None).language == code


def test_checked_brings_a_callers_object_into_its_usual_form() -> None:
    config = checked(Config(output="out", language="French", output_format=["srt"]))  # type: ignore[arg-type]
    assert config == Config(output=Path("out"), language="fr", output_format=("srt",))
