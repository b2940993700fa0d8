"""The texts of cues as words: what stands between them, and what may fill the slot of a phrase.

In: the cue texts in order. Out: tokens with their offsets, the punctuation class of every gap, and
for a slot that begins at some token all the places where its filling may end.
Knows nothing about phrases: it has no grammar but closed word classes and a bound of four words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from engine.analysis.inflect import word_set

MAX_SLOT_WORDS = 4
OBJECT, SUBJECT, OWNER, SELF = "{object}", "{subject}", "{owner}", "{self}"
SLOTS = {"{sth}": OBJECT, "{one}": OBJECT, "{one's}": OWNER, "{oneself}": SELF}

# What stands before a word: flags, so that a walk can remember all it has crossed.
TIGHT, HYPHEN, COMMA, BORDER_COMMA, BORDER_STOP, BREAK = 0, 1, 2, 4, 8, 16

_APOSTROPHES = "'`\u2018\u2019\u02bc"
_SPACE = rf'\s"{_APOSTROPHES}\u201c\u201d'  # blanks and quotation marks
_DASHES = "\u2013\u2014-"
_WORD = re.compile(rf"[^\W_]+(?:[{_APOSTROPHES}][^\W_]+)*")
_INSIDE_TIGHT = re.compile(f"[{_SPACE}]*")
_INSIDE_COMMA = re.compile(f"[{_SPACE},/{_DASHES}]*")
_BORDER_TAIL = re.compile(f"[{_SPACE},.\u2026{_DASHES}]*")
_BORDER_HEAD = re.compile(f"[{_SPACE}.\u2026]*")


@dataclass(frozen=True, slots=True)
class Token:
    """One word of the text: lower case, straight apostrophes."""

    word: str
    short: str  # "'s" of "she's", "'re" of "we're", "s'" of "the boys'"; else empty
    cue: int
    start: int
    end: int


class CueText:
    """The cues as tokens; `gaps[i]` says what stands before token i (a flag from above)."""

    def __init__(self, cues: Sequence[str]) -> None:
        self.cues = cues
        self.tokens = [
            _token(cue, found) for cue, text in enumerate(cues) for found in _WORD.finditer(text)
        ]
        self.gaps = [BREAK] + [self._gap(i) for i in range(1, len(self.tokens))]
        self._object_ends: dict[int, tuple[int, ...]] = {}

    def slot_ends(self, slot: str, i: int) -> tuple[int, ...]:
        """Where a filling of the slot that begins at token i may end (exclusive)."""
        word = self.tokens[i].word
        if slot == SELF:
            return (i + 1,) if word in REFLEXIVES else ()
        if slot == OWNER:
            return tuple(self._owners(i))
        if slot == SUBJECT and word in SUBJECT_PRONOUNS:
            return (i + 1,)
        if i not in self._object_ends:
            self._object_ends[i] = tuple(self._objects(i))
        return self._object_ends[i]

    def quote(self, start: int, end: int) -> str:
        """The text of tokens start to end (exclusive) as it stands, blanks normalised."""
        first, last = self.tokens[start], self.tokens[end - 1]
        texts = list(self.cues[first.cue : last.cue + 1])
        texts[-1] = texts[-1][: last.end]
        texts[0] = texts[0][first.start :]
        return " ".join(" ".join(texts).split())

    def _gap(self, i: int) -> int:
        before, after = self.tokens[i - 1], self.tokens[i]
        if before.cue == after.cue:
            return _gap_inside(self.cues[before.cue][before.end : after.start])
        middle = self.cues[before.cue + 1 : after.cue]
        tail = "".join((self.cues[before.cue][before.end :], *middle))
        head = self.cues[after.cue][: after.start]
        if not (_BORDER_TAIL.fullmatch(tail) and _BORDER_HEAD.fullmatch(head)):
            return BREAK
        if "." in tail or "\u2026" in tail:
            return TIGHT if self.cues[after.cue][after.start].islower() else BORDER_STOP
        return BORDER_COMMA if "," in tail else TIGHT

    def _owners(self, i: int) -> Iterator[int]:
        """A possessive ("my", "my own"), or a noun phrase with 's ("the boss's", "my mother's")."""
        for end in range(i + 1, min(i + MAX_SLOT_WORDS, len(self.tokens)) + 1):
            token = self.tokens[end - 1]
            if (end == i + 1 and token.word in POSSESSIVES) or _is_owner(token):
                yield end
                if end < len(self.tokens) and self.tokens[end].word == "own":
                    yield end + 1
            elif not _in_noun_phrase(token.word, first=end == i + 1):
                return
            if not self._goes_on(end):
                return

    def _objects(self, i: int) -> Iterator[int]:
        """A pronoun, or up to four words that may be a noun phrase (also "a cup of tea")."""
        opening = True  # a determiner or pronoun may come: at the start and after "of", "and"
        for end in range(i + 1, min(i + MAX_SLOT_WORDS, len(self.tokens)) + 1):
            token = self.tokens[end - 1]
            if opening and token.word in OBJECT_PRONOUNS:
                yield end
                opening = token.word in ("all", "both")
                if token.word not in DETERMINERS and not self._joins(end):
                    return
            elif opening and token.word in DETERMINERS:
                opening = token.word in ("all", "both", "half", "such", "what")
            elif token.word in ("of", "and", "or") and end > i + 1:
                opening = True
            elif _is_owner(token):
                opening = False
            elif _in_noun_phrase(token.word, first=opening and end == i + 1):
                opening = False
                yield end
            else:
                return
            if not self._goes_on(end):
                return

    def _joins(self, end: int) -> bool:
        return end < len(self.tokens) and self.tokens[end].word in ("of", "and", "or")

    def _goes_on(self, end: int) -> bool:
        return end < len(self.tokens) and self.gaps[end] <= HYPHEN


def _gap_inside(between: str) -> int:
    if between == " " or _INSIDE_TIGHT.fullmatch(between):
        return TIGHT
    if between == "-":
        return HYPHEN
    return COMMA if _INSIDE_COMMA.fullmatch(between) else BREAK


def words_of(text: str) -> list[str]:
    """The words of a phrase, cut as those of a text are; a leading "'d" stays one."""
    return [found.group() for found in re.finditer(f"'?{_WORD.pattern}", _straight(text.lower()))]


def _token(cue: int, found: re.Match[str]) -> Token:
    word = _straight(found.group().lower())
    start, end = found.span()
    short = word[word.rindex("'") :] if "'" in word else ""
    if not short and end < len(found.string) and found.string[end] in _APOSTROPHES:
        if word.endswith("in") and len(word) > 4:
            word += "g"  # lookin' -> looking
        elif word.endswith("s"):
            short = "s'"
    return Token(word, short, cue, start, end)


def _straight(text: str) -> str:
    return re.sub(f"[{_APOSTROPHES}]", "'", text)


def _is_owner(token: Token) -> bool:
    if token.short == "'s":
        return token.word[:-2] not in NOT_OWNERS
    return token.short == "s'"


def _in_noun_phrase(word: str, *, first: bool) -> bool:
    if word in NOT_IN_NOUN_PHRASE or "'" in word:
        return False
    if word in DETERMINERS or word in OBJECT_PRONOUNS:
        return first
    return not (first and word.endswith(("ing", "ed", "ly")))


NOT_OWNERS = word_set("he she it that there here what where who how let when why")
SUBJECT_PRONOUNS = word_set("i you he she it we they one someone somebody everyone")
POSSESSIVES = word_set("my your his her its our their one's whose")
REFLEXIVES = word_set(
    "myself yourself himself herself itself ourselves yourselves themselves oneself themself"
)
OBJECT_PRONOUNS = REFLEXIVES | word_set(
    "me you him her it us them this that these those one ones someone somebody something anyone"
    " anybody anything everyone everybody everything nobody nothing mine yours hers ours theirs"
    " 'em em ya all both everything"
)
DETERMINERS = POSSESSIVES | word_set(
    "the a an this that these those some any no every each another which what such more most"
    " enough all both half many few several other two three four five six ten"
)
# Words that cannot stand inside a short noun phrase: what is not here may be a noun.
NOT_IN_NOUN_PHRASE = word_set(
    "i he she we they who whom whoever whatever and or but nor if because so than as though"
    " although while when where why how whether until unless since that's there's here's what's"
    " let's to of in on at by for from with without into onto upon about over under up down out"
    " off away back through across along around round after before behind between against toward"
    " towards during except like near past beside besides beyond within apart together forward"
    " aside ahead be am is are was were been being have has had having do does did done doing can"
    " could will would shall should may might must ought gonna gotta wanna not never always just"
    " really very too also again ever even only still already yet now then here there today"
    " tonight tomorrow yesterday home maybe perhaps please okay ok yeah yes no oh well right left"
    " straight anyway soon later once twice instead quite rather pretty almost much alone first go"
    " went gone come came get got said says say know knew think thought want wanted wants needs"
    " make made took take gave give"
)
# Swearing and "proverbial" may stand inside an expression without making it another one.
FILLERS = word_set(
    "damn damned goddamn bloody bleeding fucking fuckin freaking freakin frigging friggin"
    " proverbial stinking"
)
# What may stand before a particle: "came right back", "took the words right out of my mouth".
PARTICLE_ADVERBS = word_set("right straight really completely totally quickly slowly")
PARTICLES = word_set("out off in up down under on through over to into from away back")
NEGATIONS = word_set(
    "not never don't doesn't didn't won't wouldn't can't cannot couldn't haven't hasn't hadn't"
    " shouldn't mustn't"
)
BE_ADVERBS = word_set(
    "not really just totally completely absolutely literally always never still so actually"
    " definitely finally already all even also clearly kinda basically probably exactly only"
    " almost nearly quite pretty practically"
)
