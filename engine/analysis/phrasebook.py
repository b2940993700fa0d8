"""The offline analyser: finds the expressions of a phrasebook in the cues of a transcript.

In: the entries of the book (`models/phrasebook-en/phrases.tsv`) and the texts of the cues, in
order. Out: matches in text order, each with its entry, quote, cues and character offsets.
Knows nothing about times, language models, recipes or result files; reads one file, in `load`.

The book becomes one trie whose edges are words (every inflected form its own edge) and slots. From
each word of the text the trie is walked forward; slots take at most four words and phrases are
short, so the cost of a start is bounded and that of a text linear, whatever the text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engine.analysis import tokens
from engine.analysis.inflect import noun_forms, past_forms, verb_forms, word_set
from engine.analysis.tokens import OBJECT, OWNER, SELF, SLOTS, SUBJECT, CueText

COLUMNS = ("phrase", "kind", "level", "definition", "example", "literal")
KINDS = ("phrasal", "verb", "noun", "fixed")  # the later, the stricter
LEVELS = ("A2", "B1", "B2", "C1", "C2")
MAX_BORDERS = 2
CLOSED = (OWNER, SELF)  # slots that few words can fill


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the book; the notation is described in `models/phrasebook-en/README.md`."""

    phrase: str
    kind: str
    level: str
    definition: str
    example: str
    literal: tuple[str, ...] = ()


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
            for ending, pattern in _patterns(entry):
                self._root.add(pattern, ending)

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
                entry = _parse(line)
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
            for ending, use, crossed in _walk(self._root, text, start):
                if ending.literal:
                    if crossed <= tokens.HYPHEN:  # "you know what, I quit" is not "you know what I"
                        key = (use.entry.phrase, start)
                        literals[key] = max(use.end, literals.get(key, 0))
                elif _holds_together(text, use, crossed) and (
                    not ending.passive or _is_passive(text, start)
                ):
                    uses.append(use)
        return uses, literals


@dataclass(frozen=True, slots=True)
class _Use:
    entry: Entry
    start: int
    end: int
    own: int  # words that are the entry's own; "my" and "myself" are, an object is not


@dataclass(frozen=True, slots=True)
class _Ending:
    entry: Entry
    literal: bool = False
    passive: bool = False


Element = frozenset[str] | str  # the forms of a word, or a slot
Pattern = tuple[Element, ...]


@dataclass(slots=True)
class _Node:
    edges: dict[str, list[_Node]] = field(default_factory=dict)
    slots: list[tuple[str, _Node]] = field(default_factory=list)
    endings: list[_Ending] = field(default_factory=list)
    skippable: frozenset[str] = tokens.FILLERS
    children: dict[Element, _Node] = field(default_factory=dict)

    def add(self, pattern: Pattern, ending: _Ending) -> None:
        node = self
        for position, element in enumerate(pattern):
            if position and not tokens.PARTICLES.isdisjoint(element):
                node.skippable |= tokens.PARTICLE_ADVERBS
            node = node._child(element)
            if not position and "been" in element:
                node.skippable |= tokens.BE_ADVERBS
        node.endings.append(ending)

    def _child(self, element: Element) -> _Node:
        if element not in self.children:
            child = self.children[element] = _Node()
            if isinstance(element, str):
                self.slots.append((element, child))
            else:
                for form in element:
                    self.edges.setdefault(form, []).append(child)
        return self.children[element]


def _walk(root: _Node, text: CueText, start: int) -> Iterator[tuple[_Ending, _Use, int]]:
    """Every ending reached from token `start`, with the flags of the gaps crossed on the way."""
    first = text.tokens[start]
    stack = [(child, start + 1, 1, tokens.TIGHT) for child in root.edges.get(first.word, ())]
    if first.short:
        stack += [(child, start + 1, 1, tokens.TIGHT) for child in root.edges.get(first.short, ())]
    for slot, child in root.slots:
        stack += [(child, end, 0, tokens.TIGHT) for end in text.slot_ends(slot, start)]
    while stack:
        node, here, own, crossed = stack.pop()
        for ending in node.endings:
            yield ending, _Use(ending.entry, start, here, own), crossed
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


def _parse(line: str) -> Entry:
    cells = line.split("\t")
    if len(cells) != len(COLUMNS):
        raise ValueError(f"{len(cells)} columns instead of {len(COLUMNS)}")
    phrase, kind, level, definition, example, literal = (cell.strip() for cell in cells)
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}")
    if level not in LEVELS:
        raise ValueError(f"unknown level {level!r}")
    if not (definition and example):
        raise ValueError("definition and example must not be empty")
    guards = tuple(guard.strip() for guard in literal.split(";") if guard.strip())
    for notation in (phrase, *guards):
        _elements(notation)
    return Entry(phrase, kind, level, definition, example, guards)


def _elements(notation: str) -> list[str]:
    """The words and slots of a phrase, in order; ValueError where it is not in our notation."""
    elements: list[str] = []
    for piece in notation.split():
        if not piece.startswith("{"):
            elements += tokens.words_of(piece)
        elif piece not in SLOTS:
            raise ValueError(f"unknown slot {piece!r} in {notation!r}")
        elif SLOTS[piece] == OBJECT and elements[-1:] and elements[-1] in _BEFORE_SUBJECT:
            elements.append(SUBJECT)
        else:
            elements.append(SLOTS[piece])
    if all(element.startswith("{") for element in elements):
        raise ValueError(f"no words in {notation!r}")
    return elements


def _patterns(entry: Entry) -> Iterator[tuple[_Ending, Pattern]]:
    """All word orders under which the entry, or one of its literal patterns, may stand."""
    elements = _elements(entry.phrase)
    verbal = entry.kind in ("verb", "phrasal")
    while verbal and elements[-1] == OBJECT:  # "stand up for {one}": it may stand elsewhere
        elements.pop()
    head, *rest = pattern = _inflected(entry.kind, elements)
    yield _Ending(entry), tuple(pattern)
    forms = {e: p for e, p in zip(elements, pattern, strict=True) if p != _exactly(e)}
    for guard in entry.literal:
        words = _elements(guard)
        yield _Ending(entry, literal=True), tuple(forms.get(w, _exactly(w)) for w in words)
    if OBJECT not in rest[:1]:
        return
    if entry.kind == "phrasal":
        yield _Ending(entry), (head, *rest[1:])
        if len(rest) > 2 and "{sth}" in entry.phrase:  # but not "put up him to it"
            yield _Ending(entry), (head, rest[1], OBJECT, *rest[2:])
    elif entry.kind == "verb":
        yield _Ending(entry, passive=True), (past_forms(elements[0]), *rest[1:])


def _inflected(kind: str, elements: list[str]) -> list[Element]:
    """The elements with the forms of those words that inflect."""
    pattern = [_exactly(element) for element in elements]
    for i, element in enumerate(elements):
        before = elements[i - 1] if i else ""
        if element.startswith("{"):
            continue
        if before == SUBJECT:  # "than {one} can chew", "when {one} come to it"
            pattern[i] = verb_forms(element)
        elif before == OWNER or (before == "own" and OWNER in elements[:i]):
            pattern[i] = noun_forms(element)  # "we laughed our heads off"
        elif before == "and" and kind == "verb" and i == 2:  # "cut and run"
            pattern[i] = verb_forms(element)
    if kind == "verb" and elements[0] == "not":  # "not say a word" -> "didn't say a word"
        pattern[:2] = tokens.NEGATIONS, verb_forms(elements[1])
    elif kind in ("verb", "phrasal"):
        pattern[0] = verb_forms(elements[0])
    elif kind == "noun":
        ends = [i for i, element in enumerate(elements) if i and element in _AFTER_HEAD]
        head = min(ends, default=len(elements)) - 1
        pattern[head] = noun_forms(elements[head])
    elif elements[0] in _SHORT:  # "had better" -> "I'd better"
        pattern[0] = frozenset({elements[0], _SHORT[elements[0]]})
    return pattern


def _exactly(element: str) -> Element:
    return element if element.startswith("{") else frozenset({element})


_BE_OR_GET = verb_forms("be") | verb_forms("get")
_BEFORE_SUBJECT = word_set("than when what till until where as if before whatever")
_AFTER_HEAD = word_set("of in with on at for from to")
_SHORT = {"had": "'d", "would": "'d", "have": "'ve", "will": "'ll", "is": "'s", "are": "'re"}
