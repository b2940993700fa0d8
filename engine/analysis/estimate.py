"""What the calls of a run will take, before one is made.

In: the chunks still to be asked where transcripts are there, the declared lengths of the videos
where they are not, and how long earlier answers were. Out: calls and tokens, with the assumptions
in words. Pure; knows nothing about prices, limits or who answers.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from engine.analysis import prompts
from engine.analysis.recipes import Recipe
from engine.records import Chunk
from engine.terminal import count

# Of 22 minutes of recorded English: 2.2 read aloud, 2.7 in conversation. All of a video counts as
# speech: how much of it is one knows only afterwards.
WORDS_PER_SECOND = 2.5
# Of our prompts about English speech, cue numbers included.
BYTES_PER_WORD = 5.3
# GPT-2's vocabulary on the same prompts; larger ones make up to a fifth fewer tokens, other scripts
# more.
BYTES_PER_TOKEN = 3.5
# Of the tokens that an answer may have, where nothing is known; a guess that is told as one.
USUAL_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is to be asked; calls that have to be repeated are not in it."""

    calls: int
    answered: int  # questions whose replies are there already
    prompt_tokens: int
    completion_tokens: int  # as is usual
    most_completion_tokens: int  # as the recipes allow
    calls_why: str
    tokens_why: str


def estimate(
    recipes: Sequence[Recipe],
    asked: Sequence[tuple[Recipe, Chunk]],
    answered: int,
    seconds: Sequence[float | None],
    usual: Mapping[str, float],
) -> Estimate:
    """`asked`: of videos with a transcript; `seconds`: of those without, None where unknown.

    `usual`: recipe -> tokens of an answer so far, for recipes that have answers.
    """
    known = [span for span in seconds if span is not None]
    calls = {recipe.name: 0 for recipe in recipes}
    size = 0.0  # bytes of all prompts
    for recipe, chunk in asked:
        calls[recipe.name] += 1
        size += _bytes(recipe, chunk)
    for recipe in recipes:
        chunks = sum(_chunks(recipe, span) for span in known)
        calls[recipe.name] += chunks
        size += chunks * _bytes(recipe, Chunk(0, (), ()))
        size += sum(known) * WORDS_PER_SECOND * BYTES_PER_WORD
    answers = sum(calls[r.name] * usual.get(r.name, USUAL_SHARE * r.max_tokens) for r in recipes)
    return Estimate(
        sum(calls.values()),
        answered,
        math.ceil(size / BYTES_PER_TOKEN),
        math.ceil(answers),
        sum(calls[recipe.name] * recipe.max_tokens for recipe in recipes),
        _calls_why(recipes, len(asked), known, len(seconds) - len(known)),
        _tokens_why([r.name for r in recipes if calls[r.name]], usual),
    )


def _chunks(recipe: Recipe, seconds: float) -> int:
    """Of a video of which only the length is known; pauses fall anywhere between the limits."""
    words = seconds * WORDS_PER_SECOND
    if words <= recipe.max_words:
        return int(words > 0)
    return math.ceil(words / _mean_words(recipe))


def _mean_words(recipe: Recipe) -> float:
    return (recipe.min_words + recipe.max_words) / 2


def _bytes(recipe: Recipe, chunk: Chunk) -> int:
    return sum(len(message["content"].encode()) for message in prompts.messages(recipe, chunk))


def _calls_why(recipes: Iterable[Recipe], asked: int, known: Sequence[float], unknown: int) -> str:
    reasons = [f"{asked} by transcripts that are there"] if asked else []
    if known:
        words = dict.fromkeys(f"{_mean_words(recipe):g}" for recipe in recipes)
        reasons.append(
            f"the length of {count(len(known), 'video')} at {WORDS_PER_SECOND:g} words a second "
            f"and {' or '.join(words)} words a chunk"
        )
    if unknown:
        reasons.append(f"{count(unknown, 'video')} of unknown length left out")
    return ", ".join(reasons) or "nothing is left to ask"


def _tokens_why(names: Sequence[str], usual: Mapping[str, float]) -> str:
    guessed = [name for name in names if name not in usual]
    learned = [name for name in names if name in usual]
    reasons = [f"{BYTES_PER_TOKEN:g} bytes of the prompt a token"]
    if learned:
        reasons.append(f"answers of {', '.join(learned)} as long as those in this folder")
    if guessed:
        share = f"{USUAL_SHARE:.0%}".replace("%", " %")
        reasons.append(f"answers of {', '.join(guessed)} guessed at {share} of max_tokens")
    return ", ".join(reasons)
