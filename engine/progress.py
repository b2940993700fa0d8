"""What a run shows while it goes on: events in, lines or one live display out.

On a terminal: a line per slot, one for the LLM pool and one for all of it, under the lines of the
videos that have ended. Elsewhere only those lines. Everything happens in the thread that calls, the
run's own: there is no refresh thread to race with, and the monitor's samples come once a second.
Nothing here ever raises into the run: a display that cannot be written is given up.
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from engine.events import Event, Fetching, Notice, RunFinished, RunStarted, VideoFinished
from engine.records import State
from engine.summary import Flaw, flaws_of, items_line, spending_line, table, usage_line, video_line
from engine.tally import BROKEN, Tally
from engine.terminal import clock, count, printable, write_line

_LEAST_PAUSE = 0.1  # seconds between two drawings

log = logging.getLogger(__name__)


class Progress:
    """A run's ``on_event``; use it as a context manager, so that the terminal is given back."""

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        quiet: bool = False,
        env: Mapping[str, str] = os.environ,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream or sys.stdout
        self._quiet = quiet
        self._now = now
        self._tally = Tally(started=now())
        self._flaws: list[Flaw] = []  # of the videos so far: the report says less of each
        self._fetching = False
        self._drawn = 0.0
        self._gone = False
        self._live = None if quiet or not _is_terminal(self._stream, env) else self._display(env)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._guarded(self._live.start)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def __call__(self, event: Event) -> None:
        """Show what happened."""
        if not self._gone:
            self._guarded(lambda: self._show(event))

    def _show(self, event: Event) -> None:
        now = self._now()
        if isinstance(event, RunStarted):
            self._tally.started = now
        self._tally.note(event)
        match event:
            case RunStarted():
                self._say(_beginning(event))
                if event.note:
                    self._say(printable(event.note))
            case Fetching() if not self._fetching:
                self._fetching = True
                size = f", {event.total / 1e6:,.0f} MB" if event.total else ""
                self._say(f"fetching the model{size}, once")
            case Notice():
                self._say(printable(event.text), problem=True)
            case VideoFinished(result):
                self._flaws += flaws_of(result)
                if not result.resumed and result.state is not State.INTERRUPTED:
                    so_far = "" if self._live else f" [{_overall(self._tally, now)}]"
                    self._say(video_line(result) + so_far, problem=result.state in BROKEN)
            case RunFinished(report):
                self._close()
                counts, *flaws = table(report, self._flaws)
                self._say(_ending(self._tally, now))
                for told in (usage_line, items_line, spending_line):
                    if line := told(report.figures):
                        self._say(line)
                self._say(counts)
                for line in flaws:
                    self._say(line, problem=True)
        if self._live is not None and now - self._drawn >= _LEAST_PAUSE:
            self._drawn = now
            self._live.update(self._picture(now), refresh=True)

    def _say(self, line: str, *, problem: bool = False) -> None:
        if self._quiet and not problem:
            return
        if self._live is None:
            write_line(self._stream, line)
        else:
            self._live.console.print(Text(line), soft_wrap=True)

    def _display(self, env: Mapping[str, str]) -> Live:
        console = Console(
            file=self._stream,
            force_terminal=True,
            no_color=bool(env.get("NO_COLOR")),
            highlight=False,
        )
        return Live(
            console=console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,  # others' streams are not ours to replace
            redirect_stderr=False,
        )

    def _picture(self, now: float) -> RenderableType:
        tally = self._tally
        whole = Table.grid()
        whole.add_row(
            ProgressBar(total=tally.audio_total or None, completed=tally.audio_done, width=60)
        )
        whole.add_row(Text(_overall(tally, now)))
        lines = Table.grid(padding=(0, 2))
        lines.add_column(style="bold", no_wrap=True)
        lines.add_column(no_wrap=True, overflow="ellipsis")
        if tally.fetched is not None:
            lines.add_row("model", Text(_fetched(*tally.fetched)))
        lines.add_row("LLM", Text(_calls(tally)))
        for slot, doing in tally.slots.items():  # last: a low terminal cuts off some of these
            lines.add_row(Text(slot), Text(printable(doing)))
        return Group(whole, lines)

    def _guarded(self, act: Callable[[], object]) -> None:
        try:
            act()
        except OSError:  # the reader has gone, or the terminal: nobody is left to tell
            self._gone = True
        except Exception as error:  # the display is a stage of its own, whose faults cost no video
            self._gone = True
            log.exception("the progress display stopped; the run goes on")
            cause = f"{type(error).__name__}: {error}"
            with suppress(OSError, ValueError):  # stderr may be gone too
                write_line(
                    sys.stderr,
                    f"reelmine: the display stopped ({printable(cause)}); the run goes on, and "
                    ".reelmine/last-run.json in the output folder will tell how it ended.",
                )

    def _close(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            self._guarded(live.stop)


def _is_terminal(stream: TextIO, env: Mapping[str, str]) -> bool:
    return stream.isatty() and env.get("TERM", "") not in {"", "dumb", "unknown"}


def _beginning(event: RunStarted) -> str:
    done = event.videos - event.todo
    before = f" ({done} of {count(event.videos, 'video')} done before)" if done else ""
    slots = f"{count(len(event.slots), 'slot')}: {', '.join(event.slots)}"
    return f"{count(event.todo, 'video')} to do{before}; model {event.model}; {slots}"


def _overall(tally: Tally, now: float) -> str:
    parts = [f"{tally.ended} of {count(tally.todo, 'video')}"]
    total, speed, left = tally.audio_total, tally.speed(now), tally.seconds_left(now)
    about = "about " if tally.guessed else ""
    of = f" of {about}{clock(total)}" if total is not None else ""
    parts.append(f"{clock(tally.audio_done)}{of} audio")
    if speed is not None:
        parts.append(f"{speed:.1f} x real time")
    if left is not None:
        parts.append(f"{about}{clock(left)} left")
    if tally.broken:
        parts.append(f"{tally.broken} failed")
    return ", ".join(parts)


def _fetched(done: int, total: int) -> str:
    of = f" of {total / 1e6:,.0f}" if total else ""
    return f"{done / 1e6:,.0f}{of} MB fetched"


def _calls(tally: Tally) -> str:
    ended = sum(tally.calls.values())
    failed = ended - tally.calls[State.DONE] - tally.calls[State.SKIPPED]
    text = f"{tally.calls_active} under way, {tally.calls_waiting} waiting, {ended} ended"
    return f"{text}, {failed} failed" if failed else text


def _ending(tally: Tally, now: float) -> str:
    speed, analysed = tally.speed(now), tally.calls[State.DONE]
    done = [f"{clock(tally.audio_done)} of audio"] if tally.audio_done else []
    done += [f"{count(analysed, 'chunk')} analysed"] if analysed else []
    pace = f", {speed:.1f} x real time" if speed is not None else ""
    return f"{' and '.join(done) or 'nothing new'} in {clock(now - tally.started)}{pace}"
