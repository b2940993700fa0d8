"""The phrasebook: how the matcher reads text, and whether the book that is shipped is sound."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.analysis.entries import COLUMNS, KINDS, LEVELS, Entry
from engine.analysis.phrasebook import Match, Phrasebook

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "models" / "phrasebook-en"
REFERENCES = ROOT / "engine" / "samples" / "references.json"
BOOK = Phrasebook.load(FOLDER)


def book(*phrases: str, kind: str = "verb", literal: tuple[str, ...] = ()) -> Phrasebook:
    return Phrasebook(Entry(phrase, kind, "B2", "d", "e", literal) for phrase in phrases)


def quotes(found: list[Match]) -> list[str]:
    return [match.quote for match in found]


def uses(phrase: str, text: str, kind: str = "verb") -> list[str]:
    return quotes(book(phrase, kind=kind).find([text]))


@pytest.mark.parametrize(
    ("phrase", "text", "quote"),
    [
        ("let the cat out of the bag", "He's let the cat out of the bag.", None),
        ("let the cat out of the bag", "Who keeps letting the cat out of the bag?", None),
        ("hedge {one's} bets", "She hedged her bets.", "hedged her bets"),
        ("hedge {one's} bets", "They are hedging the boss's bets.", "hedging the boss's bets"),
        ("go wrong", "It had gone wrong.", "gone wrong"),
        ("pull {one's} leg", "You're PULLING MY LEG!", "PULLING MY LEG"),
        ("pull {one's} leg", "He was pullin' John's leg.", "pullin' John's leg"),
        ("laugh {one's} head off", "We laughed our heads off.", "laughed our heads off"),
        ("be on cloud nine", "I'm on cloud nine.", "I'm on cloud nine"),
        ("be on cloud nine", "She wasn't exactly on cloud nine.", None),
        ("have a point", "I've got a point.", "got a point"),
        ("not say a word", "You didn't say a word.", "didn't say a word"),
        ("bite off more than {one} can chew", "We bit off more than we can chew.", None),
        ("make it up to {one}", "I'll make it up to you.", "make it up to"),
        ("throw {one} under the bus", "I threw my best friend under the bus.", None),
        ("throw {one} under the bus", "He got thrown under the bus.", "thrown under the bus"),
        ("pull {oneself} together", "Pull yourself together.", "Pull yourself together"),
        ("kick the bucket", "He kicked the goddamn bucket.", "kicked the goddamn bucket"),
        ("cut and run", "They cut and ran.", "cut and ran"),
    ],
)
def test_verb_idioms_are_found_in_every_form(phrase: str, text: str, quote: str | None) -> None:
    found = uses(phrase, text)
    assert len(found) == 1
    assert quote is None or found == [quote]


@pytest.mark.parametrize(
    ("text", "quote"),
    [
        ("They called the meeting off.", "called the meeting off"),
        ("They called it off.", "called it off"),
        ("They called off the meeting.", "called off"),
        ("It was called off.", "called off"),
        ("I'm calling the whole thing off!", "calling the whole thing off"),
        ("She called her sister's wedding party off.", "called her sister's wedding party off"),
    ],
)
def test_separable_verbs_are_found_in_both_orders(text: str, quote: str) -> None:
    assert uses("call {sth} off", text, "phrasal") == [quote]


@pytest.mark.parametrize(
    "text",
    [
        "They called me when the bus took off.",
        "I called. Off we went.",
        "He called, off and on, for years.",
        "The call-off was a surprise.",
        "He recalled it offhand.",
        "They called the one very big long boring meeting off.",
    ],
)
def test_words_that_do_not_belong_together_are_left_alone(text: str) -> None:
    assert uses("call {sth} off", text, "phrasal") == []


def test_nouns_may_be_plural_and_the_head_is_what_changes() -> None:
    assert uses("couch potato", "Two couch potatoes.", "noun") == ["couch potatoes"]
    assert uses("pain in the neck", "They are pains in the neck.", "noun") == ["pains in the neck"]
    assert uses("can of worms", "Open those cans of worms.", "noun") == ["cans of worms"]
    assert uses("can of worms", "Open a can of worm.", "noun") == []


def test_fixed_phrases_stand_as_written_but_for_punctuation_and_apostrophes() -> None:
    assert uses("well well", "Well, well, look at you.", "fixed") == ["Well, well"]
    assert uses("what's up", "What’s up, doc?", "fixed") == ["What’s up"]
    assert uses("so what", "So, what are you doing?", "fixed") == []
    assert uses("what's up", "What is up?", "fixed") == []
    assert uses("by the way", "By the ways of God.", "fixed") == []
    assert uses("had better", "I'd better go.", "fixed") == ["I'd better"]


def test_a_sentence_end_inside_a_cue_parts_an_expression() -> None:
    for mark in ".?!;:":
        assert uses("spill the beans", f"Don't spill{mark} The beans are hot.") == []


def test_an_expression_may_run_over_two_borders_but_not_three() -> None:
    one = book("let the cat out of the bag")
    (match,) = one.find(["Who let the cat.", "out of ", "the bag?"])
    assert match.cues == (0, 1, 2)
    assert match.quote == "let the cat. out of the bag"
    assert (match.start, match.end) == ((0, 4), (2, 7))
    assert one.find(["Who let", "the cat", "out of", "the bag?"]) == []
    assert one.find(["Who let the cat?", "Out of the bag."]) == []
    assert one.find(["Who let the cat", "- Out of the bag."]) == []


def test_a_full_stop_at_a_border_parts_a_short_expression() -> None:
    on = book("go on", kind="phrasal")
    assert on.find(["We had to go.", "On Sunday we slept."]) == []
    assert quotes(on.find(["They go.", "on and eat."])) == ["go. on"]


def test_a_literal_use_is_no_item() -> None:
    bucket = book("kick the bucket", literal=("kick the bucket over",))
    assert bucket.find(["Please don't kick the bucket over."]) == []
    assert quotes(bucket.find(["He kicked the bucket."])) == ["kicked the bucket"]
    leg = book("break a leg", kind="fixed", literal=("did break a leg",))
    assert leg.find(["He really did break a leg."]) == []
    what = book("you know what", kind="fixed", literal=("you know what i",))
    assert what.find(["You know what I did."]) == []
    assert quotes(what.find(["You know what, I quit."])) == ["You know what"]


def test_the_longer_of_two_overlapping_expressions_wins() -> None:
    both = book("off the hook", "get over it", "get over", kind="verb")
    assert quotes(both.find(["Get over it, get over her."])) == ["Get over it", "get over"]
    place = Phrasebook(
        [
            Entry("take {one} in", "phrasal", "B2", "d", "e"),
            Entry("take place", "verb", "B1", "d", "e"),
        ]
    )
    assert quotes(place.find(["It takes place in June."])) == ["takes place"]


def test_matches_come_in_text_order_and_the_same_each_time() -> None:
    text = ["By the way, he spilled the beans.", "Come on, give me a hand."]
    found = BOOK.find(text)
    assert [match.start for match in found] == sorted(match.start for match in found)
    assert found == BOOK.find(text) == Phrasebook.load(FOLDER).find(text)


WORDS = sorted({word for entry in BOOK.entries for word in re.findall(r"[a-z']+", entry.phrase)})
bookish = st.lists(
    st.sampled_from([*WORDS, "my", "it", "her", "the boss's", ".", ",", "-", "?", "\n", "’s"]),
    max_size=40,
).map(" ".join)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.one_of(st.text(max_size=60), bookish), max_size=6))
def test_any_text_gives_matches_that_slice_back_and_do_not_overlap(cues: list[str]) -> None:
    before = (0, 0)
    for match in BOOK.find(cues):
        (first, start), (last, end) = match.start, match.end
        assert before <= match.start < match.end
        before = match.end
        assert match.cues == tuple(range(first, last + 1))
        assert len(match.cues) <= 3
        if first == last:
            text = cues[first][start:end]
        else:
            text = " ".join((cues[first][start:], *cues[first + 1 : last], cues[last][:end]))
        assert match.quote == " ".join(text.split())


@pytest.mark.parametrize("words", ["get ", "come on ", "put the ", "a ", "don't you "])
def test_a_megabyte_of_repeated_words_stays_linear(words: str) -> None:
    def seconds(characters: int) -> float:
        text = words * (characters // len(words))
        began = time.perf_counter()
        BOOK.find([text])
        return time.perf_counter() - began

    small = min(seconds(25_000) for _ in range(3))
    assert seconds(200_000) < 8 * small * 4 + 1


def test_guard_that_another_expression_tears_guards_nothing() -> None:
    found = [match.quote for match in BOOK.find(["What's up? Not much to be honest."])]
    assert found == ["What's up", "Not much", "to be honest"]
    assert "not much" not in [m.entry.phrase for m in BOOK.find(["There is not much to do."])]


def test_the_book_is_large_sorted_and_without_doubles() -> None:
    phrases = [entry.phrase for entry in BOOK.entries]
    assert len(phrases) >= 1200
    assert phrases == sorted(phrases)
    bare = Counter(" ".join(re.sub(r"[^\w{}' ]", " ", phrase).split()) for phrase in phrases)
    assert [phrase for phrase, times in bare.items() if times > 1] == []


def test_every_entry_is_complete() -> None:
    for entry in BOOK.entries:
        assert entry.kind in KINDS
        assert entry.level in LEVELS
        assert entry.phrase == entry.phrase.lower()
        assert entry.definition[-1] != "."
        assert entry.example[-1] in ".?!", entry.example


def test_every_entry_is_found_in_its_own_example() -> None:
    missing = [
        entry.phrase
        for entry in BOOK.entries
        if all(match.entry != entry for match in BOOK.find([entry.example]))
    ]
    assert missing == []


def test_literal_phrases_of_the_book_are_not_items() -> None:
    for entry in BOOK.entries:
        for guard in (guard for guard in entry.literal if "{" not in guard):
            found = [match.entry.phrase for match in BOOK.find([guard])]
            assert entry.phrase not in found, guard


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("go on\tphrasal\tB1\tcontinue", "4 columns"),
        ("go on\tadverb\tB1\tcontinue\tGo on.\t", "unknown kind"),
        ("go on\tphrasal\tD1\tcontinue\tGo on.\t", "unknown level"),
        ("go on\tphrasal\tB1\t\tGo on.\t", "must not be empty"),
        ("go {x}\tphrasal\tB1\tcontinue\tGo on.\t", "unknown slot"),
        ("{sth}\tphrasal\tB1\tcontinue\tGo on.\t", "no words"),
        ("go\tverb\tB1\tmove\tGo.\t\ngo\tverb\tB1\tmove\tGo.\t", "twice"),
    ],
)
def test_a_broken_book_names_file_line_and_reason(tmp_path: Path, line: str, reason: str) -> None:
    (tmp_path / "phrases.tsv").write_text("\t".join(COLUMNS) + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=rf"phrases\.tsv, line \d: .*{reason}"):
        Phrasebook.load(tmp_path)


def test_a_book_without_its_header_is_refused(tmp_path: Path) -> None:
    (tmp_path / "phrases.tsv").write_text("go on\tphrasal\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 1: the header"):
        Phrasebook.load(tmp_path)


def bare(phrase: str) -> str:
    """A phrase without slots, articles and "be", to compare notations."""
    words = re.sub(r"\{[^}]*\}|,", " ", phrase.lower()).replace("-", " ").split()
    dropped = {"a", "an", "the", "be", "to"}
    return " ".join({"goes": "go", "comes": "come"}.get(w, w) for w in words if w not in dropped)


def placed(transcript: str, gold: list[dict[str, Any]]) -> list[tuple[int, int, str]]:
    """Gold quotes as (start, end, phrase) in the transcript; they are listed in text order."""
    places, position = [], 0
    for item in sorted(gold, key=lambda item: item["start"]):
        start = transcript.index(item["quote"], position)
        places.append((start, start + len(item["quote"]), bare(item["phrase"])))
        position = start + 1
    return places


def test_precision_and_recall_on_the_sample_scripts() -> None:
    right, wrong, total, met = 0, [], 0, set()
    tracks = [t for f in json.loads(REFERENCES.read_text("utf-8"))["files"] for t in f["tracks"]]
    for track in tracks:
        cues = [cue["text"] for cue in track["cues"]]
        offsets = [sum(len(text) + 1 for text in cues[:i]) for i in range(len(cues))]
        transcript = " ".join(cues)
        gold = placed(transcript, track["expressions"])
        optional = placed(transcript, track["optional"])
        total += len(gold)
        for match in BOOK.find(cues):
            start = offsets[match.start[0]] + match.start[1]
            end = offsets[match.end[0]] + match.end[1]
            over = [place for place in gold if place[0] < end and start < place[1]]
            same = [place for place in over if place[2] == bare(match.entry.phrase)]
            if same:
                right += 1
                met |= {(track["script"], *place) for place in same}
            elif over or not any(low < end and start < high for low, high, _ in optional):
                wrong.append((track["script"], match.entry.phrase, match.quote))
    assert right / (right + len(wrong)) >= 0.98, wrong
    assert len(met) / total >= 0.98
