"""Which language a video is in, from what its first windows sound like.

In: the probabilities of all languages for the first windows, in order. Out: a language with its
probability, or nothing yet. Pure; what the windows said, and who decodes them, is not known here.
"""

from collections.abc import Mapping, Sequence

SURE = 0.5  # from this probability on the first window decides alone
WINDOWS = 5  # else so many together: what a cold open or a song misleads, they outvote

Odds = Mapping[str, float]  # language -> probability, of one window


def decide(heard: Sequence[Odds], *, whole: bool) -> tuple[str, float] | None:
    """The language and its probability; None: further windows must be heard.

    ``heard`` holds the first windows, none left out; ``whole``: the video has no others. Where the
    first is not sure, the highest mean over the windows counts.
    """
    if not heard:
        return None
    language, probability = _best(heard[0])
    if probability >= SURE:
        return language, probability
    if len(heard) < WINDOWS and not whole:
        return None
    first = heard[:WINDOWS]
    names = {name for odds in first for name in odds}
    return _best({name: sum(odds.get(name, 0.0) for odds in first) / len(first) for name in names})


def _best(odds: Odds) -> tuple[str, float]:
    """The most probable; of equals the first by its code, so that no order of arrival shows."""
    return max(sorted(odds.items()), key=lambda pair: pair[1])
