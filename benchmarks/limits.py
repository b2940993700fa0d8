"""How near to the server's limits does the work go on, while these change?

In: films that are transcribed already; servers in processes of their own that let in so many
requests and tokens a minute (a bucket of one second), and other numbers after each phase. Out: of
the engine's own run with nothing set, of a server that tells its limits in headers and of one that
does not, and of pools of 4, 16 and 64 threads over the openai client, with its 2 retries and with
10: the share of the limit that was used (over all phases; the limit of a phase is the smaller of
its requests and of its tokens over the tokens of a call), the share of requests that got a 429, how
long after a change until it goes well again (the first five seconds with 95 % of the limit used and
at most 5 % refused), and calls that were lost (who loses calls has soon none left to make). The
pools begin no call after the last phase; ours makes them all.

A contestant's server is its own; contestants of one kind run at the same time, because they wait
nearly always. Ends with exit code 1 if ours, where the server tells its limits, uses less than 97 %
of them, 1 % of its requests or more get a 429, or a change takes 10 s or more; and if a call is
lost, told or not. (A limit that nobody tells is found by exceeding it.)

    python benchmarks/limits.py --plot limits.svg
"""

import argparse
import json
import sys
import tempfile
import urllib.request
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from common import Gate, conclude, machine, percent, print_machine, print_table, say
from llm_side import Films, make_films, run_ours, run_peer, server

from engine.plot import Curve, curves
from engine.testing.rates import Limit, Rates

USED, REFUSED, ADAPTED = 0.97, 0.01, 10.0  # targets: share, share, seconds
WELL, SOME = 0.95, 0.05  # it goes well: share of the limit used, share of requests refused
LOOK, STEP = 5.0, 0.25  # seconds that are looked at, and by which the look moves on
MORE = 1.05  # calls, over what the limits let in: nobody runs dry before the end
WAKE = 0.05  # seconds; so often who would ask at every moment looks again
BIN = 2.0  # seconds, of the picture
LATENCY, SIGMA = 0.5, 0.5  # seconds
CALLS_A_FILM = 100


@dataclass(frozen=True, slots=True)
class Phase:
    """A limit; None: none of that kind."""

    after: float  # seconds after the first request
    seconds: float
    rpm: float | None
    tpm: float | None

    @property
    def option(self) -> str:
        """As the server's --limit has it."""
        return ":".join("-" if n is None else f"{n:g}" for n in (self.after, self.rpm, self.tpm))

    def rate(self, tokens: float) -> float:
        """Calls a second, if each takes so many tokens."""
        kinds = (self.rpm, None if self.tpm is None else self.tpm / tokens)
        return min(rate for rate in kinds if rate is not None) / 60


@dataclass(frozen=True, slots=True)
class Contestant:
    """Who asks."""

    kind: str  # those of one kind run at the same time
    name: str
    threads: int | None = None  # None: ours, as it sizes itself
    retries: int = 0
    headers: bool = True


CONTESTANTS = (
    Contestant("ours", "ours"),
    Contestant("ours", "ours, no headers", headers=False),
    *(
        Contestant(f"retries {retries}", f"{threads} threads, {retries} retries", threads, retries)
        for retries in (2, 10)
        for threads in (4, 16, 64)
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; the exit code."""
    given = _parser().parse_args(arguments)
    facts = machine()
    print_machine(facts)
    phases = _phases(given.phases, given.seconds)
    wanted = [c for c in CONTESTANTS if not given.only or c.kind in given.only.split(",")]
    figures: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="limits-") as scratch:
        place = Path(scratch)
        calls = round(MORE * sum(phase.seconds * phase.rate(given.tokens) for phase in phases))
        films = make_films(place / "films", -(-calls // CALLS_A_FILM), min(calls, CALLS_A_FILM))
        for kind, same in groupby(wanted, key=lambda contestant: contestant.kind):
            say(f"{films.calls} calls: {kind}")
            figures |= _side_by_side(list(same), films, phases, place)
    _print(figures, phases)
    if given.plot:
        given.plot.write_text(_picture(figures, phases), encoding="utf-8")
    for found in figures.values():
        del found["at"]
    told = [asdict(phase) for phase in phases]
    return conclude(
        "limits", facts, _gates(figures), calls=films.calls, phases=told, contestants=figures
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    usual = "1200:-,600:-,2400:720000"
    add("--phases", default=usual, help=f"RPM:TPM of each, '-': no limit (default {usual})")
    add("--seconds", type=float, default=30.0, help="of a phase (default 30)")
    add("--tokens", type=float, default=415.0, help="expected of a call, to have calls enough")
    add("--only", help="kinds: ours, 'retries 2', 'retries 10'; separated by commas")
    add("--plot", type=Path, help="SVG file to write: requests let in over time")
    return parser


def _phases(text: str, seconds: float) -> list[Phase]:
    pairs = [part.split(":") for part in text.split(",")]
    rates = [[None if n == "-" else float(n) for n in pair] for pair in pairs]
    return [Phase(n * seconds, seconds, rpm, tpm) for n, (rpm, tpm) in enumerate(rates)]


def _side_by_side(
    contestants: Sequence[Contestant], films: Films, phases: Sequence[Phase], place: Path
) -> dict[str, dict[str, Any]]:
    with ThreadPoolExecutor(len(contestants)) as pool:
        runs = [pool.submit(_run, one, films, phases, place) for one in contestants]
        return {one.name: run.result() for one, run in zip(contestants, runs, strict=True)}


def _run(one: Contestant, films: Films, phases: Sequence[Phase], place: Path) -> dict[str, Any]:
    words = [word for phase in phases for word in ("--limit", phase.option)]
    words += [] if one.headers else ["--no-rate-headers"]
    with server(LATENCY, SIGMA, *words) as running:
        if one.threads is None:
            told = run_ours(films, running.url, None, place)
        else:
            more = {"retries": one.retries, "seconds": phases[-1].after + phases[-1].seconds}
            told = run_peer(films, running.url, "threads", one.threads, place, **more)
        stats = _stats(running.url)
    kept = told["states"].get("done", 0) + told["states"].get("left", 0)
    return {
        **judge([tuple(request) for request in stats["at"]], phases),
        "seconds": round(told["seconds"], 1),
        "lost": films.calls - kept,
        "states": told["states"],
        "at": stats["at"],
    }


def _stats(url: str) -> Any:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{url}/stats", timeout=10) as reply:
        return json.load(reply)


# --- what the server saw -------------------------------------------------------------------------

Seen = tuple[float, int, int]  # of a request: seconds after the first, status, tokens


def judge(seen: Sequence[Seen], phases: Sequence[Phase]) -> dict[str, Any]:
    """Shares of the limit and of refusals over all phases, and seconds after each change."""
    end = phases[-1].after + phases[-1].seconds
    within = [request for request in seen if request[0] < end]
    let_in = [at for at, status, _ in within if status == 200]
    refused = [at for at, status, _ in within if status == 429]
    tokens = sum(n for _, status, n in within if status == 200) / max(1, len(let_in))
    most = most_calls(phases, round(tokens))
    return {
        "used": round(len(let_in) / most, 4),
        "refused": round(len(refused) / max(1, len(within)), 4),
        "tokens_a_call": round(tokens, 1),
        "most": most,
        "let_in": len(let_in),
        "adapted_seconds": [
            _adapted(let_in, refused, phase, phase.rate(tokens or 1)) for phase in phases[1:]
        ],
    }


def most_calls(phases: Sequence[Phase], tokens: int) -> int:
    """Calls of so many tokens that the server lets in, if there is always one more that asks."""
    rates = Rates([Limit(phase.after, phase.rpm, phase.tpm) for phase in phases])
    end = phases[-1].after + phases[-1].seconds
    calls, at = 0, 0.0
    while at < end:
        wait = rates.admit(at, tokens)
        calls += wait == 0
        at += min(wait, WAKE)  # a limit may change meanwhile
    return calls


def _adapted(
    let_in: Sequence[float], refused: Sequence[float], phase: Phase, rate: float
) -> float | None:
    """Seconds after the beginning of a phase until it goes well; None: never in it."""
    look = min(LOOK, phase.seconds)
    at = phase.after
    while at + look <= phase.after + phase.seconds:
        good, bad = (_between(times, at, at + look) for times in (let_in, refused))
        if good >= WELL * rate * look and bad <= SOME * (good + bad):
            return at - phase.after
        at += STEP
    return None


def _between(times: Sequence[float], begin: float, end: float) -> int:
    return bisect_left(times, end) - bisect_left(times, begin)


# --- telling -------------------------------------------------------------------------------------


def _print(figures: Mapping[str, Mapping[str, Any]], phases: Sequence[Phase]) -> None:
    limits = ", then ".join(
        f"{phase.rpm or '-'} requests and {phase.tpm or '-'} tokens a minute" for phase in phases
    )
    print(f"\n{phases[0].seconds:g} s each: {limits}")
    head = ["", "of what was possible", "429s", "goes well again after", "lost", "seconds for all"]
    rows = [
        [
            name,
            f"{percent(found['used'], 1):.1f} %",
            f"{percent(found['refused'], 1):.2f} %",
            ", ".join("never" if s is None else f"{s:g} s" for s in found["adapted_seconds"]),
            found["lost"],
            f"{found['seconds']:.0f}",
        ]
        for name, found in figures.items()
    ]
    print_table(head, rows)


def _gates(figures: Mapping[str, Mapping[str, Any]]) -> list[Gate]:
    return [gate for one in CONTESTANTS if one.threads is None and one.name in figures
            for gate in _gates_of(one.name, figures[one.name], told=one.headers)]  # fmt: skip


def _gates_of(name: str, found: Mapping[str, Any], *, told: bool) -> Iterator[Gate]:
    """`told`: the server says what its limits are."""
    used, refused, times = found["used"], found["refused"], found["adapted_seconds"]
    slow = [s for s in times if s is None or s >= ADAPTED]
    if told:
        yield Gate(f"{name}: at least {USED:.0%} of the limit", used >= USED, f"{used:.1%}")
        yield Gate(f"{name}: 429s under {REFUSED:.0%}", refused < REFUSED, f"{refused:.2%}")
        yield Gate(f"{name}: every change under {ADAPTED:g} s", not slow, f"{times}")
    yield Gate(f"{name}: no call lost", found["lost"] == 0, f"{found['lost']}")


def _picture(figures: Mapping[str, Mapping[str, Any]], phases: Sequence[Phase]) -> str:
    end = phases[-1].after + phases[-1].seconds
    first = next(iter(figures.values()))
    limit = [(phase.after, phase.rate(first["tokens_a_call"] or 1)) for phase in phases]
    drawn = [Curve("limit", [*limit, (end, limit[-1][1])], dashed=True, steps=True)]
    for name, found in figures.items():
        if "10 retries" in name or "no headers" in name:
            continue
        times = [at for at, status, _ in found["at"] if status == 200]
        bins = [n * BIN for n in range(int(end / BIN))]
        points = [(begin, _between(times, begin, begin + BIN) / BIN) for begin in bins]
        points += [(end, points[-1][1])] if points else []
        drawn.append(Curve(name.split(",")[0], points, steps=True))
    title = "Requests let in a second, under limits that change"
    return curves(title, "seconds", "a second", drawn)


if __name__ == "__main__":
    sys.exit(main())
