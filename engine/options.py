"""The options of the commands: names, help and sections, for click.

Those of ``run`` and ``plan`` are the fields of ``Config``, as texts; ``config`` checks them. A new
field needs a line here.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from engine import values
from engine.config import COMPUTE_TYPES, ENCODERS, FORMATS, MODES, TASKS
from engine.spelling import Option, Switch

_F = TypeVar("_F", bound=Callable[..., Any])
_Decorator = Callable[[_F], _F]


def run_options(command: _F) -> _F:
    """PATHS and everything of ``Config``, in the order of the help page."""
    return _with_paths(command, _OPTIONS)


def bench_options(command: _F) -> _F:
    """PATHS, what decides the text, where it runs, and what to measure."""
    own = (
        _value("--slots NUMBERS", "Such as 1,2,4; default: doubling up to what fits.", _MACHINE),
        _counted("--rounds N", "Runs with each; the median counts; default 1.", _MACHINE),
        _value("--plot FILE", "Draw speed-up against slots into this SVG file.", _MACHINE),
    )
    return _with_paths(command, (*_MODEL, *_WHERE, *_TEXT, *own, *_PROCESS))


def _with_paths(command: _F, options: Sequence[_Decorator[Any]]) -> _F:
    for option in reversed(options):
        command = option(command)
    return click.argument("paths", nargs=-1, type=click.UNPROCESSED, metavar="PATH...")(command)


def talk_options(command: _F) -> _F:
    """--quiet and --verbose, put into the context's object before the command starts."""
    for name, text in (("--verbose", "Tell more."), ("--quiet", "Tell of problems only.")):
        command = click.option(
            name[1:3], name, cls=Switch, help=text, expose_value=False, callback=_remember
        )(command)
    return command


def _remember(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    try:
        setattr(context.obj, parameter.name or "", value is not None and values.boolean(value))
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from error


def _value(names: str, text: str, section: str, *, many: bool = False) -> _Decorator[Any]:
    """``names``: spellings, perhaps the field's name, then what the help page calls a value."""
    *decls, metavar = names.split()
    return click.option(
        *decls, cls=Option, help=text, section=section, metavar=metavar, multiple=many
    )


def _counted(names: str, text: str, section: str) -> _Decorator[Any]:
    """A number from 1 up that is not a field of ``Config``; 1 if it is not given."""
    name, metavar = names.split()
    number = click.IntRange(min=1)
    return click.option(
        name, cls=Option, help=text, section=section, metavar=metavar, type=number, default=1
    )


def _switch(names: str, text: str, section: str) -> _Decorator[Any]:
    return click.option(*names.split(), cls=Switch, help=text, section=section)


_FIRST, _SPEECH, _ANALYSIS, _MACHINE = "Needed first", "Speech", "Analysis", "Machine"
_OUTPUT = (
    _value("-o --output --output-dir output DIR", "Folder for all that is written.", _FIRST),
)
_MODEL = (
    _value("--model NAME", "Name, hub repository or folder; default: the best to be had.", _FIRST),
    _value("--language LANG", "Code or English name; default: detected per video.", _FIRST),
)
_ASKED = (
    _value(
        "-f --output-format NAMES",
        f"all, or of {', '.join(FORMATS)}; default all.",
        _FIRST,
        many=True,
    ),
    _value(
        "--recipe NAMES",
        "What to look for, or a TOML file; default expressions.",
        _FIRST,
        many=True,
    ),
    _value("--llm-model NAME", "The model that analyses; default: offline phrasebook.", _FIRST),
    _value("--llm-base-url URL", "OpenAI-compatible endpoint; default: OPENAI_BASE_URL.", _FIRST),
)
_WHERE = (
    _value("--device DEVICE", "auto, cpu, cuda, or GPUs by number: cuda:0,cuda:2.", _FIRST),
    _value(
        "--files-from LIST", "List of more paths, one a line or NUL-separated; -: stdin.", _FIRST
    ),
)
_TEXT = (
    _value("--task TASK", f"{' or '.join(TASKS)} (into English).", _SPEECH),
    _value("--initial-prompt TEXT", "Text before the speech: names, spelling, style.", _SPEECH),
    _value("--hotwords TEXT", "Words to expect.", _SPEECH),
    _value("--beam-size N", "Candidates kept while decoding; default 5.", _SPEECH),
    _switch("--word-timestamps", "Times of every word.", _SPEECH),
    _switch("--vad-filter", "Skip what is not speech; default: yes if batched.", _SPEECH),
    _value("--audio-track N", "Which audio track, from 0; default: the first.", _SPEECH),
    _value("--mode MODE", f"{' or '.join(MODES)}; default batched.", _SPEECH),
    _switch("--quality-gates", "If batched, decode doubtful text again; default: yes.", _SPEECH),
    _value("--compute-type TYPE", f"{', '.join(COMPUTE_TYPES)}; default auto.", _SPEECH),
    _value("--encoder NAME", f"{', '.join(ENCODERS)}; default auto.", _SPEECH),
)
_CALLS = (
    _switch("--analysis", "Analyse the transcripts; default: yes.", _ANALYSIS),
    _value("--llm-threads N", "Calls at a time; default: 8, then what it takes.", _ANALYSIS),
    _value("--llm-rpm N", "Requests a minute; default: as the endpoint tells.", _ANALYSIS),
    _value("--llm-tpm N", "Tokens a minute; default: as the endpoint tells.", _ANALYSIS),
    _value("--call-timeout SECONDS", "Seconds for a call, all attempts; default 300.", _ANALYSIS),
    _value("--attempt-timeout SECONDS", "Seconds for one HTTP exchange; default 120.", _ANALYSIS),
    _value(
        "--max-tokens-total N",
        "No call beyond so many tokens, earlier runs into the folder counted (its ledger keeps the "
        "count: one that is lost or damaged forgets it).",
        _ANALYSIS,
    ),
    _value("--max-cost AMOUNT", "The same, as a cost by --prices.", _ANALYSIS),
    _value("--prices FILE", "TOML: per model input and output for a million tokens.", _ANALYSIS),
    _value("--record FILE", "Write the replies that the output folder holds.", _ANALYSIS),
    _value("--replay FILE", "Take all replies from there: no endpoint, no key.", _ANALYSIS),
)
_SLOTS = (_value("--slots N", "Transcribing processes; default: what the machine has.", _MACHINE),)
_PROCESS = (
    _value("--batch-size N", "Windows per model call, at most 64; default: what fits.", _MACHINE),
    _value("--scratch DIR", "Folder for what is kept meanwhile; default: TMPDIR.", _MACHINE),
)
_ENDING = (
    _value("--grace SECONDS", "Seconds from a signal to the kill; default 20.", _MACHINE),
    _value("--time-limit TIME", "Seconds or HH:MM:SS for the whole run.", _MACHINE),
)
_OPTIONS = (
    *_OUTPUT, *_MODEL, *_ASKED, *_WHERE, *_TEXT, *_CALLS, *_SLOTS, *_PROCESS, *_ENDING,
)  # fmt: skip
