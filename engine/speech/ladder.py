"""Hearing a batch of windows, and hearing again what fails the quality gates.

In: windows with their log-mel rows. Out: their results in order. A fixed ladder without sampling:
text that fails a gate is decoded again from the same encoder states, with a wider beam and no
three tokens twice; if that fails too, its stretch is cut in two at the longest pause inside and
both halves are heard; the best is kept, else the window is marked suspect. What repeats itself is
cut in any case: the second step can avoid a loop, but only at the cost of what is said more than
once. A segment that comes again and again is believed if the halves have it too.

Where text ends before the speech does, it is read on from the same states, after the last time
that it has; where that gives nothing good, the rest is heard as a row of its own, as sequential
decoding goes on from its last timestamp. The first is as right and needs no encoder
(benchmarks/README.md, accuracy.py).

All stretches of a batch that need the same step take it together, and none looks at another: the
outcome of a window follows from its row and the options. Knows nothing about files and processes;
what fails a gate is decided in ``quality``.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from engine.records import SAMPLE_RATE, Piece, SpeechOptions, Window, WindowResult, Word
from engine.speech import quality
from engine.speech.quality import Flaw
from engine.speech.states import take
from engine.speech.whisper import Recognizer

FRAMES = 100  # of a row, a second
RESTS = 5  # times that the rest of a window is read on, or heard, at most
SHORTEST = 1.0  # seconds of a half


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a window's speech that is heard as a row of its own."""

    row: np.ndarray  # float32 [mels, 3000], zeros after the speech
    seconds: float
    pauses: tuple[tuple[float, int], ...]  # where spans meet: second, samples left out there
    position: int
    language: str | None
    before: tuple[int, ...] = ()  # tokens of the text before it in its window


def stretch_of(window: Window, row: np.ndarray, language: str | None) -> Stretch:
    """A whole window."""
    ends = itertools.accumulate(span.end - span.start for span in window.spans)
    pauses = tuple(
        (end / SAMPLE_RATE, after.start - span.end)
        for end, (span, after) in zip(ends, itertools.pairwise(window.spans), strict=False)
    )
    return Stretch(row, window.samples / SAMPLE_RATE, pauses, window.position, language)


class Ladder:
    """Hears stretches with one recogniser and one set of options."""

    def __init__(self, recognizer: Recognizer, options: SpeechOptions) -> None:
        self._recognizer = recognizer
        self._options = options

    def hear(self, stretches: Sequence[Stretch], rests: int = RESTS) -> list[WindowResult]:
        """The text of each, with times from its begin; ``rests``: how often it may go on."""
        states = self._recognizer.encode([stretch.row for stretch in stretches])
        results = self._decode(states, stretches)
        first = _flaws(results, stretches)
        if failing := [n for n, flaw in first.items() if flaw is not Flaw.ECHO]:
            self._again(states, stretches, results, failing)
        repeating = {n for n, flaw in first.items() if flaw in (Flaw.REPETITION, Flaw.ECHO)}
        believed: set[int] = set()
        if failing := sorted(repeating | _flaws(results, stretches).keys()):
            believed = self._cut(stretches, results, failing)
        for n, flaw in _flaws(results, stretches).items():
            if n not in believed or flaw is not Flaw.ECHO:
                results[n] = quality.marked(results[n], flaw, stretches[n].seconds)
        if rests:
            self._read_on(states, stretches, results)
            self._go_on(stretches, results, rests - 1)
        return results

    def _decode(
        self,
        states: object,
        stretches: Sequence[Stretch],
        *,
        heard: Sequence[tuple[Piece, ...]] = (),
        again: bool = False,
    ) -> list[WindowResult]:
        results = self._recognizer.decode(
            states,
            [stretch.position for stretch in stretches],
            [stretch.seconds for stretch in stretches],
            [stretch.language for stretch in stretches],
            self._options,
            [() if again else stretch.before for stretch in stretches],
            heard=heard,
            again=again,
        )
        return [quality.without_noise(result) for result in results]

    def _again(
        self,
        states: object,
        stretches: Sequence[Stretch],
        results: list[WindowResult],
        failing: Sequence[int],
    ) -> None:
        """The second step: from the same states, with other options and no text before."""
        some = [replace(stretches[n], language=results[n].language) for n in failing]
        seconds = self._decode(take(states, failing), some, again=True)
        for n, second in zip(failing, seconds, strict=True):
            results[n] = _chosen(results[n], second, stretches[n].seconds)

    def _cut(
        self, stretches: Sequence[Stretch], results: list[WindowResult], failing: Sequence[int]
    ) -> set[int]:
        """The third step: in two halves, each without text before; returns where both agree."""
        cuts = {n: cut for n in failing if (cut := longest_pause(stretches[n])) is not None}
        if not cuts:
            return set()
        halves = []
        for n, cut in cuts.items():
            known = replace(stretches[n], language=results[n].language, before=())
            halves += [_slice(known, 0.0, cut), _slice(known, cut, known.seconds)]
        heard = iter(self._halves(halves))
        agreed = set()
        for n, cut in cuts.items():
            joined = join(next(heard), cut, next(heard))
            if quality.agree(results[n], joined):
                agreed.add(n)
            results[n] = _chosen(results[n], joined, stretches[n].seconds)
        return agreed

    def _halves(self, halves: Sequence[Stretch]) -> list[WindowResult]:
        """Halves are decoded once and may go on, but are not cut again."""
        states = self._recognizer.encode([half.row for half in halves])
        results = self._decode(states, halves)
        self._read_on(states, halves, results)
        self._go_on(halves, results, 0)
        return results

    def _read_on(
        self, states: object, stretches: Sequence[Stretch], results: list[WindowResult]
    ) -> None:
        """From the same states, after the last text, as long as that is too early to be the end."""
        going = set(range(len(stretches)))
        for _ in range(RESTS):
            starts = {n: s for n, s in _unfinished(results, stretches).items() if n in going}
            if not starts:
                return
            wholes = self._decode(
                take(states, list(starts)),
                [_after(stretches[n], results[n]) for n in starts],
                heard=[results[n].pieces for n in starts],
            )
            going = set()
            for (n, start), whole in zip(starts.items(), wholes, strict=True):
                known = len(results[n].pieces)
                rest = replace(whole, pieces=whole.pieces[known:])
                if _is_good(results[n], rest, stretches[n].seconds - start):
                    first = replace(results[n], pieces=whole.pieces[:known])  # words are new
                    results[n] = _together(first, rest)
                    going.add(n)
                else:
                    results[n] = replace(results[n], decodings=results[n].decodings + 1)

    def _go_on(self, stretches: Sequence[Stretch], results: list[WindowResult], rests: int) -> None:
        """Hear what comes after the last text, where that is too early to be the end."""
        starts = _unfinished(results, stretches)
        if not starts:
            return
        parts = [
            _slice(_after(stretches[n], results[n]), start, stretches[n].seconds)
            for n, start in starts.items()
        ]
        heard = self.hear(parts, rests)
        if echoes := [
            k
            for k, (n, rest) in enumerate(zip(starts, heard, strict=True))
            if not quality.goes_on(results[n], rest)
        ]:  # said again, or only read again in the text before
            unled = [replace(parts[k], before=()) for k in echoes]
            for k, rest in zip(echoes, self.hear(unled, 0), strict=True):
                heard[k] = replace(rest, decodings=heard[k].decodings + rest.decodings)
        for (n, start), rest in zip(starts.items(), heard, strict=True):
            results[n] = _with_rest(results[n], start, rest)


def longest_pause(stretch: Stretch) -> float | None:
    """Where to cut: the border of spans with most left out, of equal ones the one most central."""
    inside = [
        (pause, -abs(second - stretch.seconds / 2), second)
        for second, pause in stretch.pauses
        if SHORTEST <= second <= stretch.seconds - SHORTEST
    ]
    return max(inside)[-1] if inside else None


def join(first: WindowResult, start: float, second: WindowResult) -> WindowResult:
    """One result of two, the second of which begins ``start`` seconds later.

    What the first took for later than that (a half may be given a time after its end) ends there.
    """
    ended = [replace(p, start=min(p.start, start), end=min(p.end, start)) for p in first.pieces]
    moved = [_later(piece, start) for piece in second.pieces]
    return _together(replace(first, pieces=tuple(ended)), replace(second, pieces=tuple(moved)))


def _together(first: WindowResult, second: WindowResult) -> WindowResult:
    """One result of two with times from the same begin."""
    counts = [1 + sum(len(piece.tokens) for piece in part.pieces) for part in (first, second)]
    logprob = (first.avg_logprob * counts[0] + second.avg_logprob * counts[1]) / sum(counts)
    return replace(
        first,
        avg_logprob=logprob,
        pieces=first.pieces + second.pieces,
        word_median=first.word_median or second.word_median,
        suspect=first.suspect or second.suspect,
        decodings=first.decodings + second.decodings,
    )


def _unfinished(results: Sequence[WindowResult], stretches: Sequence[Stretch]) -> dict[int, float]:
    """Where text ends too early to be the end, by number of the stretch."""
    rests = {
        n: quality.rest_of(result, stretch.seconds)
        for n, (result, stretch) in enumerate(zip(results, stretches, strict=True))
        if not result.suspect
    }
    return {n: start for n, start in rests.items() if start is not None}


def _after(stretch: Stretch, result: WindowResult) -> Stretch:
    """The stretch, with what was heard in it as text before."""
    return replace(stretch, language=result.language, before=stretch.before + _tokens(result))


def _is_good(result: WindowResult, rest: WindowResult, seconds: float) -> bool:
    """Whether a rest of so many seconds passes the gates and is new, to its first word."""
    passes = bool(rest.pieces) and quality.flaw_of(rest, seconds) is None
    new = quality.goes_on(result, rest) and not quality.begins_again(result, rest)
    return passes and new


def _with_rest(result: WindowResult, start: float, rest: WindowResult) -> WindowResult:
    """A rest that is no good is left out, and the window is suspect for it."""
    if rest.suspect:
        return replace(result, suspect=Flaw.UNFINISHED, decodings=result.decodings + rest.decodings)
    return join(result, start, rest)


def _chosen(old: WindowResult, new: WindowResult, seconds: float) -> WindowResult:
    """The better one; it took all decodings."""
    best = quality.better(old, new, seconds)
    return replace(
        best,
        language_probability=old.language_probability,
        heard=old.heard,
        decodings=old.decodings + new.decodings,
    )


def _flaws(results: Sequence[WindowResult], stretches: Sequence[Stretch]) -> dict[int, Flaw]:
    """The gates that fail, by number of the stretch."""
    flaws = {
        n: quality.flaw_of(result, stretch.seconds)
        for n, (result, stretch) in enumerate(zip(results, stretches, strict=True))
    }
    return {n: flaw for n, flaw in flaws.items() if flaw is not None}


def _slice(stretch: Stretch, start: float, end: float) -> Stretch:
    """From one second to another: its frames, and zeros after them."""
    row = np.zeros_like(stretch.row)
    first, last = round(start * FRAMES), round(end * FRAMES)
    part = stretch.row[:, first:last]
    row[:, : part.shape[1]] = part
    pauses = tuple(
        (second - start, pause) for second, pause in stretch.pauses if start < second < end
    )
    return replace(stretch, row=row, seconds=end - start, pauses=pauses)


def _later(piece: Piece, start: float) -> Piece:
    words = tuple(
        Word(word.start + start, word.end + start, word.word, word.probability)
        for word in piece.words
    )
    return replace(piece, start=piece.start + start, end=piece.end + start, words=words)


def _tokens(result: WindowResult) -> tuple[int, ...]:
    return tuple(itertools.chain.from_iterable(piece.tokens for piece in result.pieces))
