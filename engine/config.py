"""One frozen options object, and where its values come from.

Order: command line > ``REELMINE_*`` environment > ``reelmine.toml`` in the working
folder > default.
A value that cannot be used is a ``UsageError`` that says where it came from and what is allowed.
Knows nothing about hardware: what is ``None`` here, sizing decides.
"""

import difflib
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from engine import values
from engine.errors import UsageError

FORMATS = ("json", "srt", "vtt", "txt", "tsv")
TASKS = ("transcribe", "translate")
MODES = ("batched", "sequential")
COMPUTE_TYPES = (  # CTranslate2's
    "default",
    "auto",
    "int8",
    "int8_float32",
    "int8_float16",
    "int8_bfloat16",
    "int16",
    "float16",
    "bfloat16",
    "float32",
)
ENCODERS = ("auto", "ctranslate2", "ctranslate2-speech", "torch")
# CTranslate2 counts elements in 32 bits (its cuda/helpers.h), and the encoder's scores of 96
# windows of a large model are more. Sizing takes 32 at most.
MOST_WINDOWS = 64  # of a batch
TOML_FILE = Path("reelmine.toml")


@dataclass(frozen=True, slots=True)
class Config:
    """What a run is asked to do; the same names as the long options."""

    output: Path = Path("reelmine-out")
    files_from: str | None = None  # the command's: a list of more paths; "-": standard input
    # speech: these decide the text, so they are part of a result's key
    model: str | None = None  # None: the best that can be had
    language: str | None = None  # None: detected per video
    task: str = "transcribe"
    initial_prompt: str | None = None
    hotwords: str | None = None
    compute_type: str = "auto"
    encoder: str = "auto"
    beam_size: int = 5
    word_timestamps: bool = False
    vad_filter: bool | None = None  # None: on if batched, off if sequential: as in faster-whisper
    audio_track: int | None = None  # None: the first
    mode: str = "batched"
    quality_gates: bool = True  # batched mode only
    # how: these change speed, never the text
    device: str = "auto"
    batch_size: int | None = None
    slots: int | None = None
    scratch: Path | None = None
    grace: float = 20.0  # seconds from the first signal to the kill
    time_limit: float | None = None  # seconds for the whole run
    # outputs and analysis
    output_format: tuple[str, ...] = FORMATS
    analysis: bool = True
    recipe: tuple[str, ...] = ("expressions",)  # names or TOML files
    llm_model: str | None = None
    llm_base_url: str | None = None  # None: OPENAI_BASE_URL, else OpenAI if there is a key
    llm_threads: int | None = None
    llm_rpm: int | None = None  # requests a minute; None: as the endpoint's headers say
    llm_tpm: int | None = None  # tokens a minute
    call_timeout: float = 300.0  # seconds for a call, all attempts and waits
    attempt_timeout: float = 120.0  # seconds for one HTTP exchange
    # hard limits: all that the output folder has spent counts, as long as its ledger is there
    max_cost: float | None = None
    max_tokens_total: int | None = None  # of prompts and answers
    prices: Path | None = None  # TOML: per model input and output, for a million tokens
    record: Path | None = None  # the replies that the folder holds go there
    replay: Path | None = None  # answers come from there alone


def load(
    cli_values: Mapping[str, object],
    env: Mapping[str, str] = os.environ,
    toml_path: Path | None = TOML_FILE,
) -> Config:
    """The options of a run, each from the first place that has it.

    ``cli_values`` is keyed by field name; None there means not given. A TOML file that does not
    exist counts as empty, so does an environment variable without a value.
    """
    given = _from_toml(toml_path) | _from_env(env)
    for name, value in cli_values.items():
        if value is not None:
            given[name] = _Given("--" + name.replace("_", "-"), value)
    return _build(given)


def checked(config: Config) -> Config:
    """The same options, each checked and in its usual form: for objects that a caller built."""
    stated = {field.name: getattr(config, field.name) for field in fields(Config)}
    return _build({n: _Given(f"Config.{n}", v) for n, v in stated.items() if v is not None})


class _Given(NamedTuple):
    """A value as it was written, and where: "--task", "REELMINE_TASK", "task in reelmine.toml"."""

    origin: str
    value: object


def _build(given: Mapping[str, _Given]) -> Config:
    parsed: dict[str, Any] = {
        name: _parse(_PARSERS[name], origin, value) for name, (origin, value) in given.items()
    }
    return Config(**parsed)


def _parse(parser: Callable[[object], object], origin: str, value: object) -> object:
    try:
        return parser(value)
    except ValueError as error:
        raise UsageError(f"{origin}: {_shown(value)} cannot be used: {error}") from error


def _shown(value: object) -> str:
    items = value if isinstance(value, (list, tuple)) else (value,)
    return repr(",".join(str(item) for item in items))


# Where values come from

_ALIASES = {"output_dir": "output"}
_OTHER_VARIABLES = {"cache"}  # REELMINE_CACHE: where models are kept; not an option of a run


def _from_toml(path: Path | None) -> dict[str, _Given]:
    if path is None:
        return {}
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    return dict(_named(key, value, f"{key} in {path}") for key, value in table.items())


def _from_env(env: Mapping[str, str]) -> dict[str, _Given]:
    given = {}
    for variable, value in env.items():
        name = variable.removeprefix("REELMINE_").lower()
        if variable.startswith("REELMINE_") and value and name not in _OTHER_VARIABLES:
            field, entry = _named(name, value, variable)
            given[field] = entry
    return given


def _named(key: str, value: object, origin: str) -> tuple[str, _Given]:
    """The field that a key means; ``no_analysis = true`` means ``analysis = false``."""
    name = key.replace("-", "_")
    name = _ALIASES.get(name, name)
    if name in _PARSERS:
        return name, _Given(origin, value)
    opposite = name.removeprefix("no_")
    if _PARSERS.get(opposite) is values.boolean:
        return opposite, _Given(origin, not _parse(values.boolean, origin, value))
    near = difflib.get_close_matches(name, _PARSERS, n=1)
    hint = f"did you mean {near[0]}?" if near else "known are " + ", ".join(_PARSERS) + "."
    raise UsageError(f"{origin} is not an option of reelmine; {hint}")


_PARSERS: dict[str, Callable[[object], object]] = {
    "output": values.path,
    "files_from": values.text,
    "model": values.text,
    "language": values.language,
    "task": values.choice(TASKS),
    "initial_prompt": values.text,
    "hotwords": values.text,
    "compute_type": values.choice(COMPUTE_TYPES),
    "encoder": values.choice(ENCODERS),
    "beam_size": values.whole(1),
    "word_timestamps": values.boolean,
    "vad_filter": values.boolean,
    "audio_track": values.whole(0),
    "mode": values.choice(MODES),
    "quality_gates": values.boolean,
    "device": values.device,
    "batch_size": values.whole(1, most=MOST_WINDOWS),
    "slots": values.whole(1),
    "scratch": values.path,
    "grace": values.seconds,
    "time_limit": values.span,
    "output_format": values.some_of(FORMATS),
    "analysis": values.boolean,
    "recipe": values.names,
    "llm_model": values.text,
    "llm_base_url": values.url,
    "llm_threads": values.whole(1),
    "llm_rpm": values.whole(1),
    "llm_tpm": values.whole(1),
    "call_timeout": values.seconds,
    "attempt_timeout": values.seconds,
    "max_cost": values.amount,
    "max_tokens_total": values.whole(1, digits=15),
    "prices": values.file,
    "record": values.file,
    "replay": values.file,
}
