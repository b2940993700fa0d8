"""Where in the transcript an item was really said.

In: a recipe, the raw items of a reply and the chunk they are about. Out: items with the cues, the
times and how the quote was found. Knows nothing about how the reply came about.

A quote is compared token by token: Unicode's compatible forms (NFKC) and case folded, apostrophes
dropped, all other punctuation and blanks between tokens, a token for each character of a script
without blanks; so typographic variants and cue borders make no difference. The quote decides: a
cited cue that does not hold it is replaced by the one that does, whatever was cited. Times are
those of our words, or of our cues where there are no words. What cannot be found has no times.

A quote is false if it has a word that was not said there, in that order. Exact: it was said word
for word. Fuzzy: words in between are left out, a fifth of the stretch at most, as a model does that
tidies up speech; the score is the share that it kept, and the item shows the whole stretch instead,
since a "not" may be among what was left out. A swapped or added word makes a quote false however
long it is: one word may turn a sentence round, and which words do so differs from language to
language. So every quote of a grounded item was said as it stands.
"""

import itertools
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from engine.analysis.chunking import is_unspaced
from engine.analysis.recipes import Recipe
from engine.records import Chunk, Grounding, Item, Segment

KEPT = 0.8  # of the tokens of a stretch: from here a quote that leaves some out is found
MAX_FUZZY = 60  # tokens; a longer quote is found exactly or not at all

_APOSTROPHES = "'\u2019\u02bc\u2018`\u00b4\uff07"
_DROPPED = dict.fromkeys(map(ord, _APOSTROPHES))
_ASCII_TOKEN = re.compile("[0-9A-Za-z][0-9A-Za-z'`]*")


class _Token(NamedTuple):
    """Where a token stands."""

    cue: int  # position in the sequence of cues
    start: int  # characters of the cue's text
    end: int


@dataclass(frozen=True, slots=True)
class _Found:
    """A stretch of tokens; `end` is exclusive."""

    start: int
    end: int
    score: float


def ground(recipe: Recipe, raw_items: Iterable[Mapping[str, Any]], chunk: Chunk) -> list[Item]:
    """One item for each raw one, in the same order; see the module for the rules."""
    text = _Text(chunk)
    return [_grounded(recipe, raw, text) for raw in raw_items]


def tokens_of(text: str) -> list[str]:
    """The text as it is compared."""
    return [token for token, _, _ in _scan(text)]


class _Text:
    """The cues of a chunk, context first, as one row of tokens."""

    def __init__(self, chunk: Chunk) -> None:
        self.cues: Sequence[Segment] = (*chunk.context, *chunk.cues)
        self.own = len(chunk.context)  # position of the first cue that may be cited
        self.position = {cue.id: position for position, cue in enumerate(self.cues)}
        self._scans = [_scan(cue.text) for cue in self.cues]
        self.words = [word for scan in self._scans for word, _, _ in scan]
        lengths = itertools.accumulate(map(len, self._scans), initial=0)
        self._firsts = list(lengths)[:-1]  # of each cue, its first token

    def _token(self, number: int) -> _Token:
        cue = bisect_right(self._firsts, number) - 1
        _, start, end = self._scans[cue][number - self._firsts[cue]]
        return _Token(cue, start, end)

    def cues_of(self, found: _Found) -> tuple[int, int]:
        return self._token(found.start).cue, self._token(found.end - 1).cue

    def said(self, found: _Found) -> str:
        """The stretch as the cues have it."""
        first, last = self._token(found.start), self._token(found.end - 1)
        texts = [cue.text for cue in self.cues[first.cue : last.cue + 1]]
        texts[-1] = texts[-1][: last.end]
        texts[0] = texts[0][first.start :]
        return " ".join(text.strip() for text in texts)

    def times_of(self, found: _Found) -> tuple[float, float]:
        first, last = self._token(found.start), self._token(found.end - 1)
        start_word = _word_at(self.cues[first.cue], first.start, first.end)
        end_word = _word_at(self.cues[last.cue], last.start, last.end)
        return (
            self.cues[first.cue].start if start_word is None else start_word[0],
            self.cues[last.cue].end if end_word is None else end_word[1],
        )


def _grounded(recipe: Recipe, raw: Mapping[str, Any], text: _Text) -> Item:
    fields = {name: raw[name] for name in recipe.fields if name in raw}
    cited = sorted({text.position[cue] for cue in raw["cues"] if cue in text.position})
    found = _find(text, tokens_of(raw["quote"]), cited)
    if found is None:
        return Item(fields, tuple(raw["cues"]), raw["quote"], None, None, Grounding.UNGROUNDED, 0.0)
    first, last = text.cues_of(found)
    start, end = text.times_of(found)
    cues = tuple(text.cues[position].id for position in range(first, last + 1))
    if recipe.times == "cues" and _spans(cited, raw["cues"], first, last):
        start, end = text.cues[cited[0]].start, text.cues[cited[-1]].end
        cues = tuple(text.cues[position].id for position in cited)
    if found.score == 1:
        return Item(fields, cues, raw["quote"], start, end, Grounding.EXACT, 1.0)
    return Item(fields, cues, text.said(found), start, end, Grounding.FUZZY, found.score)


def _spans(cited: list[int], raw_cues: Sequence[int], first: int, last: int) -> bool:
    """Whether all cited cues exist and the quote lies within them."""
    exist = bool(cited) and len(cited) == len(set(raw_cues))
    return exist and cited[0] <= first and last <= cited[-1]


def _find(text: _Text, quote: list[str], cited: list[int]) -> _Found | None:
    """The best place of the quote: whole before with gaps, cited before own cues before context."""
    if not quote:
        return None
    found = _exact(text.words, quote) or _with_gaps(text.words, quote)
    return min(found, key=lambda one: _rank(text, one, cited), default=None)


def _rank(text: _Text, found: _Found, cited: list[int]) -> tuple[float, int, bool, int, int]:
    first, last = text.cues_of(found)
    outside = sum(position not in cited for position in range(first, last + 1))
    distance = min((abs(position - first) for position in cited), default=0)
    return -found.score, outside, last < text.own, distance, found.start


def _exact(words: list[str], quote: list[str]) -> list[_Found]:
    size = len(quote)
    return [
        _Found(start, start + size, 1.0)
        for start in range(len(words) - size + 1)
        if words[start] == quote[0] and words[start : start + size] == quote
    ]


def _with_gaps(words: list[str], quote: list[str]) -> list[_Found]:
    """The stretches that begin and end as the quote does and hold all of it in its order."""
    size = len(quote)
    if not 1 < size <= MAX_FUZZY:
        return []
    longest = int(size / KEPT)
    found = []
    for start, word in enumerate(words):
        end = _end_of(quote, words, start, longest) if word == quote[0] else None
        if end is not None:
            found.append(_Found(start, end, round(size / (end - start), 3)))
    return found


def _end_of(quote: list[str], words: list[str], start: int, longest: int) -> int | None:
    """Where the shortest such stretch from `start` on ends; None: there is none, or too long."""
    seen = 0
    for position in range(start, min(start + longest, len(words))):
        seen += words[position] == quote[seen]
        if seen == len(quote):
            return position + 1
    return None


def _word_at(cue: Segment, start: int, end: int) -> tuple[float, float] | None:
    """Start of the word that holds character `start`, and end of the one that holds `end` - 1."""
    first = last = None
    position = 0
    for word in cue.words or ():
        text = word.word.strip()
        if not text:
            continue
        place = cue.text.find(text, position)
        if place < 0:
            return None
        position = place + len(text)
        if first is None and position > start:
            first = word.start
        if place < end:
            last = word.end
    return None if first is None or last is None else (first, last)


@lru_cache(maxsize=4096)
def _scan(text: str) -> tuple[tuple[str, int, int], ...]:
    """Tokens with the characters they span."""
    if text.isascii():  # most of it, and ten times as fast
        found = _ASCII_TOKEN.finditer(text)
        return tuple((m[0].translate(_DROPPED).lower(), m.start(), m.end()) for m in found)
    spans: list[tuple[int, int]] = []
    begin = -1  # where the running token began; -1: none runs
    for position, character in enumerate(f"{text} "):
        category = unicodedata.category(character)
        is_letter = category[0] in "LNM"
        alone = is_letter and is_unspaced(character)
        if begin >= 0 and (alone or not (is_letter or _is_dropped(character, category))):
            spans.append((begin, position))
            begin = -1
        if alone:
            spans.append((position, position + 1))
        elif is_letter and begin < 0:
            begin = position
    return tuple((_folded(text[start:end]), start, end) for start, end in spans)


def _folded(token: str) -> str:
    kept = "".join(c for c in token if not _is_dropped(c, unicodedata.category(c)))
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", kept).casefold())


def _is_dropped(character: str, category: str) -> bool:
    """Apostrophes and invisible characters: in a word they are as good as not there."""
    return character in _APOSTROPHES or category == "Cf"
