"""Grounding: a quote that was said is found where it was said, one that was not is never found."""

import random
import time
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.analysis import grounding
from engine.analysis.grounding import ground, tokens_of
from engine.analysis.recipes import load
from engine.records import Chunk, Grounding, Item, Segment, Word

EXPRESSIONS, SUMMARY = load("expressions"), load("summary")


def cue(number: int, text: str, words: Sequence[tuple[str, float, float]] = ()) -> Segment:
    timed = tuple(Word(start, end, word, 1.0) for word, start, end in words) or None
    return Segment(number, 0, number * 10.0, number * 10 + 5.0, text, (), 0.0, 0.0, 1.0, 0.0, timed)


CHUNK = Chunk(
    1,
    (cue(3, " He let the cat"), cue(4, " out of the bag.")),
    (
        cue(5, " Don\u2019t worry \u2014 it\u2019s a piece of cake."),
        cue(6, " We called the whole"),
        cue(7, " thing off. It's a well-known fact."),
        cue(8, " So we let it go."),
        cue(9, " It's a piece of cake, I said."),
    ),
)


def found(quote: str, *cues: int, recipe: Any = EXPRESSIONS, chunk: Chunk = CHUNK) -> Item:
    (item,) = ground(recipe, [{"quote": quote, "cues": list(cues)}], chunk)
    return item


def test_quote_in_the_cited_cue_is_exact_and_has_its_time() -> None:
    item = found("So we let it go", 8)
    assert (item.grounding, item.score) == (Grounding.EXACT, 1.0)
    assert (item.cues, item.start, item.end) == ((8,), 80.0, 85.0)


@pytest.mark.parametrize(
    "quote",
    [
        "don't worry, it's a piece of cake",
        "Don\u2019t worry\u2014it\u2018s a PIECE of cake!",
        "dont  worry\n its a piece of cake...",
        "\u201cDon\u2019t worry - it\u2019s a piece\u00a0of cake\u201d",
        "Don't wor\u00adry it's a p\uff49ece of cake",
    ],
)
def test_signs_case_and_blanks_make_no_difference(quote: str) -> None:
    item = found(quote, 5)
    assert (item.grounding, item.cues) == (Grounding.EXACT, (5,))
    assert item.quote == quote


def test_composed_and_decomposed_letters_are_the_same() -> None:
    chunk = Chunk(0, (), (cue(0, "Cafe\u0301 Stra\u00dfe"),))
    assert found("caf\u00e9 STRASSE", 0, chunk=chunk).grounding is Grounding.EXACT


def test_quote_across_a_cue_border_has_both_cues() -> None:
    item = found("called the whole thing off", 6)
    assert (item.grounding, item.cues) == (Grounding.EXACT, (6, 7))
    assert (item.start, item.end) == (60.0, 75.0)


def test_wrong_cue_numbers_are_corrected_by_the_quote() -> None:
    assert found("So we let it go", 5).cues == (8,)
    assert found("So we let it go").cues == (8,)
    assert found("So we let it go", 10**30, -1, 999).cues == (8,)


def test_of_several_places_the_cited_one_counts() -> None:
    assert found("a piece of cake", 9).cues == (9,)
    assert found("a piece of cake", 5).cues == (5,)
    assert found("a piece of cake", 8).cues == (9,)  # the nearest to what is cited
    assert found("a piece of cake", 77).cues == (5,)  # else the first


def test_quote_that_begins_in_the_context_is_found() -> None:
    item = found("let the cat out of the bag. Don't worry", 4, 5)
    assert (item.cues, item.start) == ((3, 4, 5), 30.0)


def test_own_cues_come_before_context() -> None:
    chunk = Chunk(1, (cue(0, "a piece of cake"),), (cue(1, "a piece of cake"),))
    assert found("piece of cake", chunk=chunk).cues == (1,)


def test_quote_that_leaves_words_out_is_fuzzy_and_shows_them() -> None:
    item = found("we called the thing off – it's a well known fact", 6, 7)  # 10 tokens of 11
    assert (item.grounding, item.score, item.cues) == (Grounding.FUZZY, 0.909, (6, 7))
    assert item.quote == "We called the whole thing off. It's a well-known fact"
    assert found("so let it go", 8).quote == "So we let it go"
    assert found("so let it go", 8).score == 0.8


def test_negation_that_was_left_out_is_shown() -> None:
    chunk = Chunk(0, (), (cue(0, " And I did not"), cue(1, " steal the red car.")))
    item = found("and I did steal the red car", 0, 1, chunk=chunk)
    assert (item.grounding, item.quote) == (Grounding.FUZZY, "And I did not steal the red car")


def test_shortest_stretch_is_the_one_that_was_meant() -> None:
    chunk = Chunk(0, (), (cue(0, "so so we all let it go"), cue(1, "so we let it all go")))
    item = found("so we let it go", chunk=chunk)
    assert (item.quote, item.cues) == ("so we all let it go", (0,))
    assert found("so we let it go", 1, chunk=chunk).cues == (1,)


@pytest.mark.parametrize(
    "quote",
    [
        "we called that whole thing off",  # a word is another
        "so we all let it go",  # a word is one too many
        "we called the whole thing off it's a well-known fat",
        "we called off the whole thing",  # all of it was said, in another order
        "let go",  # too much is left out
        "He kicked the bucket",
        "cake",  # ... but see below: one word is enough if it is there
        "",
        "?!",
        "off thing whole the called we",
        "ake",
    ],
)
def test_what_was_not_said_has_no_time_and_keeps_what_it_cited(quote: str) -> None:
    chunk = Chunk(0, (), tuple(c for c in CHUNK.cues if "cake" not in c.text))
    item = found(quote, 6, 999, chunk=chunk)
    assert (item.grounding, item.score) == (Grounding.UNGROUNDED, 0.0)
    assert (item.start, item.end) == (None, None)
    assert item.cues == (6, 999)


def test_one_word_is_found_exactly_or_not_at_all() -> None:
    assert found("Cake!", 5).grounding is Grounding.EXACT
    assert found("cakes", 5).grounding is Grounding.UNGROUNDED


def test_times_are_those_of_the_words_where_there_are_words() -> None:
    words = [(" So", 0.5, 0.7), (" we", 0.7, 0.9), (" let", 1.0, 1.2), (" it", 1.2, 1.3),
             (" go.", 1.3, 1.8)]  # fmt: skip
    chunk = Chunk(0, (), (cue(0, " So we let it go.", words),))
    item = found("let it", 0, chunk=chunk)
    assert (item.start, item.end) == (1.0, 1.3)
    whole = found("so we let it go", 0, chunk=chunk)
    assert (whole.start, whole.end) == (0.5, 1.8)


def test_word_that_is_several_tokens_still_has_its_time() -> None:
    words = [(" a", 0.1, 0.2), (" well-known", 0.3, 0.8), (" rock'n'roll", 0.9, 1.4)]
    chunk = Chunk(0, (), (cue(0, " a well-known rock'n'roll", words),))
    assert (found("known", 0, chunk=chunk).start, found("known", 0, chunk=chunk).end) == (0.3, 0.8)
    assert found("rocknroll", 0, chunk=chunk).start == 0.9


def test_words_that_do_not_match_the_text_are_not_used() -> None:
    chunk = Chunk(0, (), (cue(0, " So we let it go.", [(" Other", 1.0, 2.0)]),))
    item = found("let it go", 0, chunk=chunk)
    assert (item.start, item.end) == (0.0, 5.0)


def test_quote_over_a_border_takes_its_times_from_either_cue() -> None:
    first = cue(0, " call it", [(" call", 1.0, 1.5), (" it", 1.6, 1.7)])
    item = found("it off", 0, 1, chunk=Chunk(0, (), (first, cue(1, " off now"))))
    assert (item.start, item.end) == (1.6, 15.0)


def test_scripts_without_blanks_are_compared_by_character() -> None:
    chunk = Chunk(0, (), (cue(0, "今日はいい天気ですね。"), cue(1, "散歩に行きましょう。")))
    assert found("いい天気ですね、散歩に", 0, chunk=chunk).cues == (0, 1)
    assert found("いい天気ね散歩に行き", chunk=chunk).grounding is Grounding.FUZZY
    assert found("いい天気でしたね散歩に", chunk=chunk).grounding is Grounding.UNGROUNDED
    assert found("悪い雨", chunk=chunk).grounding is Grounding.UNGROUNDED


def test_sentence_of_a_summary_lasts_as_long_as_the_cues_it_cites() -> None:
    item = found("called the whole thing off", 5, 6, 7, 8, recipe=SUMMARY)
    assert (item.cues, item.start, item.end) == ((5, 6, 7, 8), 50.0, 85.0)


@pytest.mark.parametrize("cited", [(8, 9), (6, 7, 99), ()])
def test_sentence_whose_cues_are_wrong_lasts_as_long_as_its_quote(cited: tuple[int, ...]) -> None:
    item = found("called the whole thing off", *cited, recipe=SUMMARY)
    assert (item.cues, item.start, item.end) == ((6, 7), 60.0, 75.0)


def test_fields_come_in_the_order_of_the_recipe_and_no_others() -> None:
    raw = {"level": "B1", "phrase": "let go", "cues": [8], "quote": "let it go", "time": 3}
    (item,) = ground(EXPRESSIONS, [raw], CHUNK)
    assert list(item.fields.items()) == [("phrase", "let go"), ("level", "B1")]


def test_true_quotes_are_always_found_and_false_ones_never() -> None:
    draw = random.Random(4)
    said = [f"{a}{b}" for a in ("ba", "di", "ko", "lu", "mer") for b in ("n", "p", "st", "x", "zo")]
    never = [f"not{word}" for word in said]
    cues = tuple(cue(i, " " + " ".join(draw.choices(said, k=9)) + ".") for i in range(20))
    words = [(c.id, word) for c in cues for word in c.text.split()]
    for _ in range(200):
        start, size = draw.randrange(len(words) - 12), draw.randrange(3, 12)
        stretch = words[start : start + size]
        quote = " ".join(draw.choice((w, w.upper(), f"\u201c{w}\u201d")) for _, w in stretch)
        item = found(quote, draw.randrange(40), chunk=Chunk(0, (), cues))
        assert item.grounding is Grounding.EXACT
        cited = " ".join(cues[i].text for i in item.cues)
        assert " ".join(tokens_of(quote)) in " ".join(tokens_of(cited))
        false = [
            draw.choice((w, n))
            for (_, w), n in zip(stretch, draw.choices(never, k=size), strict=True)
        ]
        false[draw.randrange(size)] = draw.choice(never)
        item = found(" ".join(false), stretch[0][0], chunk=Chunk(0, (), cues))
        assert item.grounding is Grounding.UNGROUNDED


def test_text_that_repeats_itself_costs_no_more() -> None:
    chunk = Chunk(0, (), tuple(cue(i, " no" * 29 + " oh") for i in range(20)))
    quotes = ["no " * n + "yes" for n in (10, 30, 58, 59, 200, 3_000)] + ["oh " * 2 + "no " * 50]
    began = time.process_time()
    items = ground(EXPRESSIONS, [{"quote": q, "cues": [0]} for q in quotes * 70], chunk)
    assert time.process_time() - began < 60  # it takes 1 s for the 500 items that a reply may have
    assert {item.grounding for item in items} == {Grounding.UNGROUNDED}


@given(st.text(st.characters(max_codepoint=127), max_size=80))
def test_ascii_text_has_the_tokens_that_any_text_has(text: str) -> None:
    """It is read by a shorter way; a sign of another script before it takes the long one."""
    long_way = grounding._scan(f"\u00e9 {text}")[1:]
    assert grounding._scan(text) == tuple((t, start - 2, end - 2) for t, start, end in long_way)
