"""Plans and results in words: a line for a decision, for a video, and the table of a run.

Pure: records in, lines out, none of which contains anything a terminal could act on.
"""

import datetime as dt
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from engine.llm.prices import money
from engine.records import Analysis, RunReport, State, Video, VideoResult
from engine.terminal import clock, count, printable

if TYPE_CHECKING:
    from engine.api import Plan
    from engine.forecast import Forecast

_WORDS = {State.TIMED_OUT: "timed out"}
_FINE = (State.DONE, State.SKIPPED)
_LEFT_OUT = (State.SKIPPED, State.INTERRUPTED)

Flaw = tuple[State, str, str]  # how it ended, the video's name, why


def word(state: State) -> str:
    """A state as people write it."""
    return _WORDS.get(state, state.value)


def name_of(video: Video) -> str:
    """The name of a video's outputs, which is also how people know it."""
    return printable(video.name)


def video_line(result: VideoResult) -> str:
    """How a video ended, with its figures: for the moment it ends."""
    return f"{word(result.state):<11} {name_of(result.video)}: {'; '.join(_facts(result))}"


def table(report: RunReport, flaws: Sequence[Flaw]) -> list[str]:
    """The end of a run: counts, then each thing that is not as it should be, with its reason.

    What was left out (skipped, interrupted) is told once per reason, everything else per video.
    """
    rows = list(flaws)
    left_out = Counter((state, why) for state, _, why in rows if state in _LEFT_OUT)
    rows = [row for row in rows if row[0] not in _LEFT_OUT]
    width = min(max((len(name) for _, name, _ in rows), default=0), 40)
    lines = [_counts(report)]
    lines += [f"  {word(state):<11} {name:<{width}}  {why}" for state, name, why in rows]
    lines += [f"  {word(s):<11} {count(n, 'video')}: {why}" for (s, why), n in left_out.items()]
    lines += [f"  {'problem':<11} {printable(p.message)}" for p in report.problems]
    return lines


def usage_line(figures: Mapping[str, Any]) -> str | None:
    """How well the slots were used, and for how long; None: nothing of it is known."""
    shares = (
        ("slots_busy", "slots {:.0f} % busy"),
        ("slots_starved", "without a window {:.0f} %"),
        ("windows_waited", "preparation ahead {:.0f} %"),
        ("batch_fill", "batches {:.0f} % full"),
        ("window_fill", "windows {:.0f} % full"),
        ("share_of_floor", "{:.0f} % of the GPU's limit"),
    )
    known = [(text, figures.get(name)) for name, text in shares]
    parts = [text.format(100 * share) for text, share in known if share is not None]
    predicted, taken = figures.get("predicted_seconds"), figures.get("transcription_seconds")
    if predicted is not None and taken is not None:
        parts.append(f"transcribed in {clock(taken)}, predicted {clock(predicted)}")
    return ", ".join(parts) or None


def items_line(figures: Mapping[str, Any]) -> str | None:
    """What was found, and how much of it was said; None: nothing."""
    items, share = figures.get("items"), figures.get("share_grounded")
    if not items or (share is None and not items["dropped"]):
        return None
    kinds = [f"{n:,} {kind}" for kind, n in items.items() if n and kind != "dropped"]
    parts = [f"items: {', '.join(kinds) or 'none'}"]
    if share is not None and share < 1:
        parts.append(f"{min(99, round(100 * share))} % grounded")  # all but one are not all
    if items["dropped"]:
        parts.append(f"{items['dropped']:,} dropped that did not fit the recipe")
    return "; ".join(parts)


def spending_line(figures: Mapping[str, Any]) -> str | None:
    """What language models took, in this run and for the folder; None: nothing ever."""
    run, folder = figures.get("llm_run"), figures.get("llm_folder")
    if not run or not folder or not folder["exchanges"]:
        return None
    if run == folder:
        return f"language model: {_spent(run)}"
    now = _spent(run) if run["exchanges"] else "nothing now"
    return f"language model: {now}; in all runs {_spent(folder)}"


def _spent(took: Mapping[str, Any]) -> str:
    number, uncounted = count(took["exchanges"], "exchange"), took["uncounted"]
    if uncounted:
        number += f" ({uncounted} not counted by the server, taken at the most)"
    parts = [number, f"{took['prompt_tokens']:,} tokens in, {took['completion_tokens']:,} out"]
    if took.get("cost") is not None:
        parts.append(f"cost {money(took['cost'])}")
    return ", ".join(parts)


def flaws_of(result: VideoResult) -> Iterator[Flaw]:
    """What is not as it should be with a video: itself, or its analyses."""
    name = name_of(result.video)
    losses = [a for a in result.analyses if a.state is not State.DONE or a.failed]
    if not _told_by(losses, result) and (result.state not in _FINE or result.problem is not None):
        reason = result.problem.message if result.problem else "no reason was given"
        yield result.state, name, printable(reason)
    if result.state is not State.INTERRUPTED:
        for analysis in losses:
            yield analysis.state, name, f"{analysis.recipe}: {_loss(analysis)}"


def _told_by(losses: Sequence[Analysis], result: VideoResult) -> bool:
    """Whether what is wrong with a video is what its analyses lack, which they say themselves."""
    return bool(losses) and result.problem is not None and result.problem.code == "E_ANALYSIS"


def plan_lines(plan: "Plan", *, every_video: bool = False) -> list[str]:
    """What would be done, a line for each decision with its reason."""
    audio = f", {clock(plan.audio_seconds)} of audio" if plan.audio_seconds else ""
    sizing = plan.sizing
    lines = [f"{'videos':<12} {plan.todo} to do, {plan.done} done already{audio}"]
    if every_video:
        lines += [f"{'':<12} {name_of(video)}" for video in plan.videos]
    lines += [f"{'no video':<12} {printable(problem.message)}" for problem in plan.problems]
    lines.append(f"{'model':<12} {printable(plan.model_note or plan.model)}")
    lines += [f"{'note':<12} {printable(note)}" for note in plan.notes]
    lines.append(f"{'encoder':<12} {plan.encoder.name}: {printable(plan.encoder.why)}")
    for slot in sizing.slots:
        threads = count(slot.threads, "thread")
        shape = f"{slot.compute_type}, batch {slot.batch_size}, {threads}"
        lines.append(f"{'slot ' + slot.device:<12} {shape}: {slot.why}")
    if sizing.oversubscription > 1:
        threads = f"{count(sizing.threads, 'thread')} on {sizing.cores:g} cores"
        factor = f"{sizing.oversubscription:.1f} times as many"
        lines.append(f"{'too many':<12} {threads}, {factor}: the slots take turns")
    workers = count(sizing.preparation, "worker")
    lines.append(f"{'preparation':<12} {workers}: {sizing.preparation_why}")
    lines.append(f"{'LLM threads':<12} {sizing.llm_threads}: {sizing.llm_why}")
    lines.append(f"{'quality':<12} {plan.quality}")
    lines += [_text_goes_to(*analyst) for analyst in plan.analysts]
    return lines + (_forecast(plan.forecast) if plan.forecast else [])


def status_lines(status: Mapping[str, Any]) -> list[str]:
    """``read_status`` in words."""
    counts = ", ".join(f"{n} {word(State(state))}" for state, n in status["videos"].items())
    lines = [f"note      {printable(status['note'])}"] if status["note"] else []
    lines.append(f"videos    {counts or 'none'}")
    for failure in status["failures"]:
        state, name = word(State(failure["state"])), printable(failure["video"])
        lines.append(f"  {state:<11} {name}  {printable(failure['message'] or '')}")
    for model, took in status["spent"].items():
        lines.append(f"spent     {printable(model)}: {_spent(took)}")
    return [*lines, f"last run  {_last_run(status['last_run'])}"]


def _last_run(run: Mapping[str, Any] | None) -> str:
    if run is None:
        return "none"
    begun = dt.datetime.fromtimestamp(run["started"]).astimezone().isoformat(" ", "seconds")
    place = f"process {run['pid']} on {printable(run['host'])}"
    if run["ended"] is None:
        return f"began {begun}, has not ended: {place}"
    span = clock(run["ended"] - run["started"])
    return f"began {begun}, ended after {span} with exit code {run['exit_code']}"


def _text_goes_to(recipe: str, analyst: str, hosts: tuple[str, ...]) -> str:
    who = printable(analyst)
    if not hosts:
        return f"{'text goes to':<12} nobody for {recipe}: {who} works offline"
    return f"{'text goes to':<12} {', '.join(map(printable, hosts))} for {recipe}, by {who}"


def _forecast(forecast: "Forecast") -> list[str]:
    found = forecast.estimate
    known = f" ({found.answered:,} more are answered already)" if found.answered else ""
    lines = [f"{'LLM calls':<12} {found.calls:,}{known}: {found.calls_why}"]
    if not found.calls:
        return lines
    tokens = f"{found.prompt_tokens:,} in, {found.completion_tokens:,} out"
    most = f"at most {found.most_completion_tokens:,} out"
    if forecast.cost is not None and forecast.most_cost is not None:
        tokens += f", cost {money(forecast.cost)}"
        most += f", cost {money(forecast.most_cost)}"
    lines.append(f"{'LLM tokens':<12} {tokens} ({most}, if none is repeated): {found.tokens_why}")
    if forecast.over:
        lines.append(f"{'over limit':<12} {forecast.over}: the calls would stop there; raise it")
    return lines


def _facts(result: VideoResult) -> Iterator[str]:
    transcript = result.transcript
    if transcript is not None:
        segments = count(len(transcript.segments), "segment")
        language = f", {transcript.language}" if transcript.language else ""
        yield f"{clock(transcript.duration)} of audio, {segments}{language}"
    losses = [analysis for analysis in result.analyses if _loss(analysis)]
    if result.problem is not None and not _told_by(losses, result):
        yield printable(result.problem.message)
    for analysis in result.analyses:
        yield _found(analysis)


def _found(analysis: Analysis) -> str:
    if lost := _loss(analysis):
        return f"{analysis.recipe}: {lost}"
    apart = f" ({len(analysis.ungrounded):,} more ungrounded)" if analysis.ungrounded else ""
    return f"{analysis.recipe}: {count(len(analysis.items), 'item')}{apart}"


def _counts(report: RunReport) -> str:
    states = Counter(result.state for result in report.videos)
    ended = ", ".join(f"{states[state]} {word(state)}" for state in State if states[state])
    resumed = sum(result.resumed for result in report.videos)
    before = f" ({resumed} done before)" if resumed else ""
    suspects = report.figures.get("suspect_windows", 0)
    doubts = f", {count(suspects, 'suspect window')}" if suspects else ""
    return f"{count(len(report.videos), 'video')}: {ended or 'none'}{before}{doubts}"


def _loss(analysis: Analysis) -> str:
    """What an analysis lacks and why; "" if it lacks nothing."""
    reasons = Counter(
        printable(chunk.problem.message if chunk.problem else word(chunk.state))
        for chunk in analysis.failed
    )
    parts = [f"{n} of {count(analysis.chunks, 'chunk')} failed: {r}" for r, n in reasons.items()]
    if analysis.problem is not None and not parts:
        parts = [f"{word(analysis.state)}: {printable(analysis.problem.message)}"]
    if analysis.state not in _FINE and not parts:
        parts = [word(analysis.state)]
    return "; ".join(parts)
