"""How the command line is spelled: click with the habits of whisper's users.

Every long option may be written with ``-`` or ``_``. A yes-or-no option may be written ``--x``,
``--no-x`` or, as openai-whisper has it, ``--x True``. Values stay texts: ``config`` reads them.
Knows nothing about what the options mean.
"""

from collections.abc import Sequence
from typing import Any

import click

_YES_NO = ("true", "false")


class Option(click.Option):
    """An option under a heading of the help page."""

    def __init__(self, *args: Any, section: str = "Options", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


class Switch(Option):
    """A yes-or-no option; its value is the text "true" or "false"."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        """Shown as --[no-]x; the other spelling is explained once, by the command."""
        long = self.opts[-1].removeprefix("--")
        short = "".join(f"{name}, " for name in self.opts[:-1])
        return f"{short}--[no-]{long}", self.help or ""


def _dashes(token: str) -> str:
    return token.replace("_", "-")


_HABITS: dict[str, Any] = {"token_normalize_func": _dashes, "help_option_names": ["-h", "--help"]}


class Group(click.Group):
    """A command with commands below it."""

    def __init__(self, name: str | None = None, **attributes: Any) -> None:
        super().__init__(name, context_settings=dict(_HABITS), **attributes)


class Command(click.Command):
    """A command whose options may be spelled either way, listed by section."""

    def __init__(self, name: str | None = None, **attributes: Any) -> None:
        super().__init__(name, context_settings=dict(_HABITS), **attributes)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """click's, after yes-or-no options have got their values."""
        return super().parse_args(ctx, spelled_out(args, self.get_params(ctx)))

    def invoke(self, ctx: click.Context) -> Any:
        """click's; it would end without a word where the pipe to one of our processes breaks."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise RuntimeError(f"a process that was written to has gone ({error})") from error

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """click's, with the headings of our options."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for option in self.get_params(ctx):
            record = option.get_help_record(ctx) if isinstance(option, click.Option) else None
            if record is not None:
                sections.setdefault(getattr(option, "section", "Options"), []).append(record)
        sections["Options"] = sections.pop("Options", [])  # what every command has, last
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def spelled_out(args: Sequence[str], parameters: Sequence[click.Parameter]) -> list[str]:
    """The same arguments with each switch as ``--x=true`` or ``--x=false``.

    A word after a switch is its value only if it is true or false, in any case, so that
    ``--word-timestamps talk.mp4`` names a video. After ``--``, and where another option takes its
    value, nothing is touched.
    """
    switches = {name: p for p in parameters if isinstance(p, Switch) for name in p.opts}
    valued = {
        name
        for p in parameters
        if isinstance(p, click.Option) and not isinstance(p, Switch) and not p.is_flag
        for name in p.opts
    }
    result: list[str] = []
    waiting = list(reversed(args))
    while waiting:
        arg = waiting.pop()
        if arg == "--":
            return [*result, arg, *reversed(waiting)]
        name = _dashes(arg) if arg.startswith("--") else arg
        positive = "--" + name.removeprefix("--no-")
        if name in switches:
            follows = waiting[-1].lower() if waiting else ""
            value = waiting.pop().lower() if follows in _YES_NO else "true"
            result.append(f"{switches[name].opts[-1]}={value}")
        elif name.startswith("--no-") and positive in switches:
            result.append(f"{positive}=false")
        else:
            result.append(arg)
            if name in valued and waiting:
                result.append(waiting.pop())
    return result
