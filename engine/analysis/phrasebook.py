"""The offline analyser: finds the expressions of a phrasebook in the cues of a transcript.

In: the entries of the book (`models/phrasebook-en/phrases.tsv`) and the texts of the cues, in
order. Out: matches in text order, each with its entry, quote, cues and character offsets.
Knows nothing about times, language models, recipes or result files; reads one file, in `load`.

The patterns of all entries (`entries.py`) become one trie whose edges are words (every inflected
form its own edge) and slots. From each word of the text the trie is walked forward; slots take at
most four words and phrases are short, so the cost of a start is bounded and that of a text linear,
whatever the text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engine.analysis import tokens
from engine.analysis.entries import COLUMNS, KINDS, Element, Entry, Pattern, parse, patterns
from engine.analysis.inflect import verb_forms
from engine.analysis.tokens import OWNER, SELF, CueText

MAX_BORDERS = 2
CLOSED = (OWNER, SELF)  # slots that few words can fill
_BE_OR_GET = verb_forms("be") | verb_forms("get")


@dataclass(frozen=True, slots=True)
class Match:
    """One use of an entry. Cue numbers are positions in the sequence given to `find`."""

    entry: Entry
    cues: tuple[int, ...]
    quote: str
    start: tuple[int, int]  # cue, character of its text
    end: tuple[int, int]  # cue, one past the last character


class Phrasebook:
    """Entries ready for matching. Immutable once built, so threads may share it without a lock."""

    entries: tuple[Entry, ...]

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.entries = tuple(entries)
        self._root = _Node()
        for entry in self.entries:
            for pattern in patterns(entry):
                self._root.add(pattern)

    @classmethod
    def load(cls, folder: Path) -> Phrasebook:
        """The book in `folder`/phrases.tsv; ValueError names file, line and reason."""
        path = folder / "phrases.tsv"
        lines = path.read_text(encoding="utf-8").splitlines()
        if not lines or tuple(lines[0].split("\t")) != COLUMNS:
            raise ValueError(f"{path}, line 1: the header must be {' '.join(COLUMNS)}")
        entries: dict[str, Entry] = {}
        for number, line in enumerate(lines[1:], start=2):
            try:
                entry = parse(line)
                if entry.phrase in entries:
                    raise ValueError(f"{entry.phrase!r} is there twice")
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from error
            entries[entry.phrase] = entry
        return cls(entries.values())

    def find(self, cues: Sequence[str]) -> list[Match]:
        """All expressions in `cues`, in text order, no word in two of them.

        Where two overlap, the longer wins, counted in words that are the entry's own; then the
        one with fewer words in between, the stricter kind, the earlier, the first in the book.
        """
        text = CueText(cues)
        uses, literals = self._uses(text)
        uses.sort(key=_preference)
        owners: list[_Use | None] = [None] * len(text.tokens)
        chosen: list[_Use] = []
        guarded: list[tuple[_Use, list[range]]] = []
        for use in uses:
            if guards := _guards(use, literals):
                guarded.append((use, guards))
            else:
                _choose(use, owners, chosen)
        for use, guards in guarded:
            if all(_is_torn(guard, owners) for guard in guards):
                _choose(use, owners, chosen)
        chosen.sort(key=lambda use: use.start)
        return [_match(text, use) for use in chosen]

    def _uses(self, text: CueText) -> tuple[list[_Use], dict[tuple[str, int], int]]:
        """Uses of entries, and of their literal patterns as (phrase, first token) -> end."""
        uses: list[_Use] = []
        literals: dict[tuple[str, int], int] = {}
        for start in range(len(text.tokens)):
            for pattern, use, crossed in _walk(self._root, text, start):
                if pattern.literal:
                    if crossed <= tokens.HYPHEN:  # "you know what, I quit" is not "you know what I"
                        key = (use.entry.phrase, start)
                        literals[key] = max(use.end, literals.get(key, 0))
                elif _holds_together(text, use, crossed) and (
                    not pattern.passive or _is_passive(text, start)
                ):
                    uses.append(use)
        return uses, literals


@dataclass(frozen=True, slots=True)
class _Use:
    entry: Entry
    start: int
    end: int
    own: int  # words that are the entry's own; "my" and "myself" are, an object is not


@dataclass(slots=True)
class _Node:
    edges: dict[str, list[_Node]] = field(default_factory=dict)
    slots: list[tuple[str, _Node]] = field(default_factory=list)
    endings: list[Pattern] = field(default_factory=list)
    skippable: frozenset[str] = tokens.FILLERS
    children: dict[Element, _Node] = field(default_factory=dict)

    def add(self, pattern: Pattern) -> None:
        node = self
        for position, element in enumerate(pattern.elements):
            if position and not tokens.PARTICLES.isdisjoint(element):
                node.skippable |= tokens.PARTICLE_ADVERBS
            node = node._child(element)
            if not position and "been" in element:
                node.skippable |= tokens.BE_ADVERBS
        node.endings.append(pattern)

    def _child(self, element: Element) -> _Node:
        if element not in self.children:
            child = self.children[element] = _Node()
            if isinstance(element, str):
                self.slots.append((element, child))
            else:
                for form in element:
                    self.edges.setdefault(form, []).append(child)
        return self.children[element]


def _walk(root: _Node, text: CueText, start: int) -> Iterator[tuple[Pattern, _Use, int]]:
    """Every pattern that fits from token `start` on, with the flags of the gaps crossed."""
    first = text.tokens[start]
    stack = [(child, start + 1, 1, tokens.TIGHT) for child in root.edges.get(first.word, ())]
    if first.short:
        stack += [(child, start + 1, 1, tokens.TIGHT) for child in root.edges.get(first.short, ())]
    for slot, child in root.slots:
        stack += [(child, end, 0, tokens.TIGHT) for end in text.slot_ends(slot, start)]
    while stack:
        node, here, own, crossed = stack.pop()
        for pattern in node.endings:
            yield pattern, _Use(pattern.entry, start, here, own), crossed
        for _ in range(2):  # once as it stands, once after a skipped filler
            if here >= len(text.tokens) or text.gaps[here] == tokens.BREAK:
                break
            crossed |= text.gaps[here]
            word = text.tokens[here].word
            for child in node.edges.get(word, ()):
                stack.append((child, here + 1, own + 1, crossed))
            for slot, child in node.slots:
                for end in text.slot_ends(slot, here):
                    stack.append((child, end, own + (slot in CLOSED), crossed))
            if word not in node.skippable:
                break
            here += 1


def _holds_together(text: CueText, use: _Use, crossed: int) -> bool:
    """Whether the punctuation and borders inside still let it be one expression.

    A full stop at a border is often the recogniser's own: three words of the book outweigh it,
    two or a phrasal verb ("I had to go. / On Sunday") do not. A comma may stand in a fixed phrase
    of three words, or where it repeats itself ("well, well"), not in "so, what are you doing".
    """
    first, last = text.tokens[use.start], text.tokens[use.end - 1]
    if last.cue - first.cue > MAX_BORDERS:
        return False
    fixed, phrasal = use.entry.kind == "fixed", use.entry.kind == "phrasal"
    weighty = use.own >= 3 and not phrasal
    comma = fixed and (weighty or first.word == last.word or "," in use.entry.phrase)
    return not (
        (crossed & tokens.HYPHEN and phrasal)  # "your make-up"
        or (crossed & tokens.COMMA and not comma)
        or (crossed & tokens.BORDER_COMMA and not (comma or weighty))
        or (crossed & tokens.BORDER_STOP and not weighty)
    )


def _is_passive(text: CueText, i: int) -> bool:
    """Whether a form of "be" or "get" stands at most three words before token i."""
    return any(
        token.word in _BE_OR_GET or token.short in _BE_OR_GET
        for token in text.tokens[max(0, i - 3) : i]
    )


def _guards(use: _Use, literals: dict[tuple[str, int], int]) -> list[range]:
    """The words of each literal pattern of the entry that covers all words of the use."""
    if not use.entry.literal:
        return []
    ends = {
        start: literals.get((use.entry.phrase, start), 0)
        for start in range(max(0, use.start - 2 * tokens.MAX_SLOT_WORDS), use.start + 1)
    }
    return [range(start, end) for start, end in ends.items() if end >= use.end]


def _is_torn(guard: range, owners: list[_Use | None]) -> bool:
    """Whether another expression has some of the words, and goes on beyond them.

    "not much, to be honest" is not the literal "not much to": that "to" belongs elsewhere.
    """
    return any(
        owner is not None and (owner.start < guard.start or owner.end > guard.stop)
        for owner in owners[guard.start : guard.stop]
    )


def _choose(use: _Use, owners: list[_Use | None], chosen: list[_Use]) -> None:
    """Take the use, if none of its words has an owner."""
    if not any(owners[use.start : use.end]):
        owners[use.start : use.end] = [use] * (use.end - use.start)
        chosen.append(use)


def _preference(use: _Use) -> tuple[int, int, int, int]:
    return -use.own, use.end - use.start, -KINDS.index(use.entry.kind), use.start


def _match(text: CueText, use: _Use) -> Match:
    first, last = text.tokens[use.start], text.tokens[use.end - 1]
    return Match(
        entry=use.entry,
        cues=tuple(range(first.cue, last.cue + 1)),
        quote=text.quote(use.start, use.end),
        start=(first.cue, first.start),
        end=(last.cue, last.end),
    )
