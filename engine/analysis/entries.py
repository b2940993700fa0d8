"""An entry of the phrasebook, and every order of words under which it may stand in a text.

In: lines of `models/phrasebook-en/phrases.tsv`; the notation is described in the README beside it.
Out: entries, or ValueError with the reason; for an entry its patterns of inflected words and slots.
Knows nothing about files, texts or how a pattern is looked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from engine.analysis import tokens
from engine.analysis.inflect import noun_forms, past_forms, verb_forms, word_set
from engine.analysis.tokens import OBJECT, OWNER, SLOTS, SUBJECT

COLUMNS = ("phrase", "kind", "level", "definition", "example", "literal")
KINDS = ("phrasal", "verb", "noun", "fixed")  # the later, the stricter
LEVELS = ("A2", "B1", "B2", "C1", "C2")


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the book."""

    phrase: str
    kind: str
    level: str
    definition: str
    example: str
    literal: tuple[str, ...] = ()


Element = frozenset[str] | str  # the forms of a word, or a slot


@dataclass(frozen=True, slots=True)
class Pattern:
    """One order of words under which an entry, or a literal phrase of it, may stand."""

    entry: Entry
    elements: tuple[Element, ...]
    literal: bool = False
    passive: bool = False  # only after a form of "be" or "get"


def parse(line: str) -> Entry:
    """The entry in a line of the book; ValueError says what is wrong with it."""
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


def patterns(entry: Entry) -> Iterator[Pattern]:
    """All word orders under which the entry, or one of its literal patterns, may stand."""
    elements = _elements(entry.phrase)
    verbal = entry.kind in ("verb", "phrasal")
    while verbal and elements[-1] == OBJECT:  # "stand up for {one}": it may stand elsewhere
        elements.pop()
    head, *rest = pattern = _inflected(entry.kind, elements)
    yield Pattern(entry, tuple(pattern))
    forms = {e: p for e, p in zip(elements, pattern, strict=True) if p != _exactly(e)}
    for guard in entry.literal:
        words = _elements(guard)
        yield Pattern(entry, tuple(forms.get(w, _exactly(w)) for w in words), literal=True)
    if OBJECT not in rest[:1]:
        return
    if entry.kind == "phrasal":
        yield Pattern(entry, (head, *rest[1:]))
        if len(rest) > 2 and "{sth}" in entry.phrase:  # but not "put up him to it"
            yield Pattern(entry, (head, rest[1], OBJECT, *rest[2:]))
    elif entry.kind == "verb":
        yield Pattern(entry, (past_forms(elements[0]), *rest[1:]), passive=True)


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


_BEFORE_SUBJECT = word_set("than when what till until where as if before whatever")
_AFTER_HEAD = word_set("of in with on at for from to")
_SHORT = {"had": "'d", "would": "'d", "have": "'ve", "will": "'ll", "is": "'s", "are": "'re"}
