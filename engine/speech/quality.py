"""The quality gates: whether the text of a stretch of speech can be right, and which is better.

In: a result with times from the begin of its stretch, and the seconds of speech in it. Out: the
gate that it fails, the second from which the rest of it has to be heard, the better of two results.
Thresholds are openai-whisper's where it has one. Pure; knows nothing about models and audio.
"""

import difflib
import zlib
from dataclasses import replace
from enum import StrEnum

from engine.records import WindowResult

REPETITIVE = 2.4  # compression ratio above which a text repeats itself (openai-whisper)
UNLIKELY = -1.0  # average log-probability below which nothing is trusted (openai-whisper)
NO_SPEECH = 0.6  # probability of no speech above which unlikely text is none (openai-whisper)
LOOP_TIMES, LOOP_WORDS = 4, 8  # the same words in a row so often, and so many in all, are a loop
FASTEST = 30.0  # characters a second; the fastest speakers stay below 25
ENOUGH = 3.0  # seconds of what is taken for speech that must give text
LEFT = 1.0  # seconds without text at the end; 0.4 of them are the padding of voice detection
SEAM = 4  # words that may be said twice where text was read on
ALIKE = 0.8  # share of words in common from which two hearings say the same


class Flaw(StrEnum):
    """The gates, by what is wrong with a text that fails."""

    REPETITION = "repetition"  # inside a segment: the model never came to an end
    ECHO = "the same segment again and again"  # which may be what was said
    UNLIKELY = "low probability"
    NO_TEXT = "speech without text"
    TOO_FAST = "more text than can be spoken"
    UNFINISHED = "text ends before the speech"


def text_of(result: WindowResult) -> str:
    """All that was heard."""
    return "".join(piece.text for piece in result.pieces)


def flaw_of(result: WindowResult, seconds: float) -> Flaw | None:
    """The gate that the text of so many seconds of speech fails.

    That it is unfinished is not among them: ``rest_of`` says that, and what to do.
    """
    text = text_of(result)
    if not text:
        silent = result.no_speech_prob > NO_SPEECH or seconds < ENOUGH
        return None if silent else Flaw.NO_TEXT
    if any(_repeats(piece.text) for piece in result.pieces):
        return Flaw.REPETITION
    if _repeats(text):
        return Flaw.REPETITION if result.no_speech_prob > NO_SPEECH else Flaw.ECHO
    if result.avg_logprob < UNLIKELY:
        return Flaw.UNLIKELY
    if len(text.strip()) > FASTEST * max(seconds, 1.0):
        return Flaw.TOO_FAST
    return None


def compression_ratio(text: str) -> float:
    """Length over zlib length: above 2.4 the text repeats itself (openai-whisper)."""
    data = text.encode("utf-8")
    return len(data) / len(zlib.compress(data))


def without_noise(result: WindowResult) -> WindowResult:
    """No text where text is unlikely and speech is too: the rule of openai-whisper."""
    if result.no_speech_prob > NO_SPEECH and result.avg_logprob < UNLIKELY:
        return replace(result, pieces=())
    return result


def marked(result: WindowResult, flaw: Flaw, seconds: float) -> WindowResult:
    """What is kept of a text that fails a gate however it was heard.

    So short a sound need not be speech; a text of it that stays unlikely is none.
    """
    none = flaw is Flaw.UNLIKELY and seconds < ENOUGH
    return replace(result, suspect=flaw, pieces=() if none else result.pieces)


def rest_of(result: WindowResult, seconds: float) -> float | None:
    """The second from which the rest has to be heard; None: the text goes to the end."""
    if not result.pieces:
        return None
    end = result.pieces[-1].end
    return end if 0.0 < end <= seconds - LEFT else None


def goes_on(result: WindowResult, rest: WindowResult) -> bool:
    """Whether what was heard of a rest is new, and not the end of the text before once more."""
    before, after = (_plain(text_of(part)) for part in (result, rest))
    return not after or before[-len(after) :] != after


def begins_again(result: WindowResult, rest: WindowResult) -> bool:
    """Whether what was read on begins with the last words of the text before once more."""
    before, after = (_plain(text_of(part)) for part in (result, rest))
    return any(before[-count:] == after[:count] for count in range(1, SEAM + 1))


def better(first: WindowResult, second: WindowResult, seconds: float) -> WindowResult:
    """The one with the lesser flaw; of equal ones the likelier.

    How likely a loop is counts for nothing: the longer it goes on, the surer the model is of it.
    But a segment again and again may be right, and is not given up for less than half the text.
    """
    flaws = [flaw_of(result, seconds) for result in (first, second)]
    if Flaw.ECHO in flaws and None in flaws:
        echo, other = (first, second) if flaws[0] is Flaw.ECHO else (second, first)
        return echo if 2 * len(text_of(other)) < len(text_of(echo)) else other
    ranks = [(flaw is not None) + (flaw is Flaw.REPETITION) for flaw in flaws]
    if ranks[0] != ranks[1]:
        return first if ranks[0] < ranks[1] else second
    return second if second.avg_logprob > first.avg_logprob else first


def agree(first: WindowResult, second: WindowResult) -> bool:
    """Whether two hearings of the same speech say about the same."""
    ours, theirs = _plain(text_of(first)), _plain(text_of(second))
    return difflib.SequenceMatcher(None, ours, theirs, autojunk=False).ratio() >= ALIKE


def _repeats(text: str) -> bool:
    return compression_ratio(text) > REPETITIVE or loops(_plain(text))


def loops(words: list[str]) -> bool:
    """Whether some words are said again and again without others between them."""
    for length in range(1, len(words) // LOOP_TIMES + 1):
        least = max(LOOP_TIMES * length, LOOP_WORDS) - length
        run = 0
        for here in range(length, len(words)):
            run = run + 1 if words[here] == words[here - length] else 0
            if run >= least:
                return True
    return False


def _plain(text: str) -> list[str]:
    return [word.strip(".,!?;:").lower() for word in text.split()]
