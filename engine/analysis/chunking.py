"""Where a transcript is cut into chunks.

In: the segments known so far, where the last chunk ended, and whether more segments may come. Out:
the next chunk, or None. A chunk depends on the whole transcript only, never on how its segments
arrived: it is given out once enough is known that no later segment can move its border. Knows
nothing about recipes, calls or times beyond the pauses between cues.
"""

import re
from collections.abc import Sequence
from itertools import islice

from engine.records import Chunk, Segment

CONTEXT_CUES = 2  # cues before a chunk that are shown with it, not to be cited
CHARACTERS_PER_WORD = 2  # in scripts that put no blanks between words

# Thai, Lao, Myanmar, Khmer; kana; Han with its extensions and compatibility forms; half-width kana
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
_UNSPACED = re.compile(f"[{UNSPACED}]")


def next_chunk(  # the transcript so far, and the recipe's two limits
    segments: Sequence[Segment],
    first: int,
    index: int,
    sealed: bool,
    min_words: int,
    max_words: int,
) -> Chunk | None:
    """The chunk that begins at `segments[first]`; None: not known yet, or nothing left.

    With w(i) the words from `first` through cue i: once the cues known hold more than `max_words`,
    the chunk ends at the longest pause after a cue with min_words <= w(i) <= max_words (equal
    pauses: the earliest); without such a cue after the last one with w(i) <= max_words; and if
    even the first cue is longer, after that one. What is left at a sealed end and has at most
    `max_words` is one chunk.
    """
    words = [0]  # words[k]: in the k cues from `first` on
    for segment in islice(segments, first, None):
        words.append(words[-1] + count_words(segment.text))
        if words[-1] > max_words:
            cues = _border(segments, first, words, min_words)
            return _chunk(segments, first, first + cues, index)
    if sealed and first < len(segments):
        return _chunk(segments, first, len(segments), index)
    return None


def count_words(text: str) -> int:
    """Tokens between blanks; of scripts that use none, every two characters are a word."""
    if text.isascii():
        return len(text.split())
    return sum(_words_of(token) for token in text.split())


def is_unspaced(character: str) -> bool:
    """Whether the character is of a script that puts no blanks between words."""
    return _UNSPACED.match(character) is not None


def longest_pause(cues: Sequence[Segment]) -> int | None:
    """How many cues stand before the longest pause inside `cues` (equal: the earliest)."""
    if len(cues) < 2:
        return None
    return max(range(1, len(cues)), key=lambda i: cues[i].start - cues[i - 1].end)


def halves(chunk: Chunk) -> tuple[Chunk, Chunk] | None:
    """The chunk cut at its longest inner pause, each half with its context; None: one cue only."""
    border = longest_pause(chunk.cues)
    if border is None:
        return None
    shown = (*chunk.context, *chunk.cues[:border])[-CONTEXT_CUES:]
    return (
        Chunk(chunk.index, chunk.context, chunk.cues[:border]),
        Chunk(chunk.index, shown, chunk.cues[border:]),
    )


def _border(segments: Sequence[Segment], first: int, words: list[int], min_words: int) -> int:
    """How many cues the chunk gets; the last of `words` is the first above the maximum."""
    most = len(words) - 2  # cues that fit
    fitting = [k for k in range(1, most + 1) if words[k] >= min_words]
    if not fitting:
        return max(most, 1)
    return max(fitting, key=lambda k: segments[first + k].start - segments[first + k - 1].end)


def _chunk(segments: Sequence[Segment], first: int, end: int, index: int) -> Chunk:
    context = segments[max(0, first - CONTEXT_CUES) : first]
    return Chunk(index, tuple(context), tuple(segments[first:end]))


def _words_of(token: str) -> int:
    unspaced = len(_UNSPACED.findall(token))
    if not unspaced:
        return 1
    spaced = any(c.isalnum() for c in _UNSPACED.sub("", token))
    return -(-unspaced // CHARACTERS_PER_WORD) + spaced
