"""Merging: the union of the chunks' items, in an order that depends on nothing but the items."""

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.analysis.merging import merge
from engine.analysis.recipes import Recipe, parse
from engine.records import ChunkResult, Grounding, Item, Problem, State


def recipe(merging: str) -> Recipe:
    key = "" if merging == "concat" else 'key = "key"'
    text = f'name = "x"\nprompt = "y"\nmerge = "{merging}"\n{key}\n[fields.key]\ntype = "string"'
    return parse(text.encode(), "x.toml")


CONCAT, DEDUPE, JOIN = recipe("concat"), recipe("dedupe"), recipe("join_adjacent")


def item(key: str, start: float, *cues: int, end: float | None = None, score: float = 1.0) -> Item:
    kind = Grounding.EXACT if score == 1 else Grounding.FUZZY
    return Item({"key": key}, cues, f"q{key}", start, end or start + 1, kind, score)


def lost(key: str) -> Item:
    return Item({"key": key}, (99,), "never said", None, None, Grounding.UNGROUNDED, 0.0)


def done(index: int, *items: Item) -> ChunkResult:
    return ChunkResult(index, State.DONE, items)


def keys(items: tuple[Item, ...]) -> list[str]:
    return [found.fields["key"] for found in items]


def test_items_come_in_order_of_time_whichever_chunk_ended_first() -> None:
    results = [done(0, item("b", 2, 1), item("a", 1, 0)), done(1, item("d", 9, 5)), done(2)]
    for order in permutations(results):
        assert keys(merge(CONCAT, order)[0]) == ["a", "b", "d"]


def test_of_equal_times_the_earlier_cue_and_then_the_text_decides() -> None:
    items = [item("c", 1, 4), item("b", 1, 2, 3), item("a", 1, 4)]
    for order in permutations(items):
        assert keys(merge(CONCAT, [done(0, *order)])[0]) == ["b", "a", "c"]


def test_concat_keeps_all_but_the_very_same_item_twice() -> None:
    grounded, _ = merge(CONCAT, [done(0, item("a", 1, 0), item("a", 1, 0), item("a", 5, 2))])
    assert [found.start for found in grounded] == [1, 5]


def test_dedupe_keeps_the_earliest_of_equal_keys_across_chunks() -> None:
    results = [done(1, item("Piece of cake!", 9, 7)), done(0, item("piece of  cake", 3, 2))]
    grounded, _ = merge(DEDUPE, results)
    assert [found.start for found in grounded] == [3]


def test_keys_without_letters_are_different_keys() -> None:
    assert len(merge(DEDUPE, [done(0, item("?", 1, 0), item("!", 2, 1), item("!", 3, 2))])[0]) == 2


def test_neighbours_of_equal_key_are_joined_and_others_are_not() -> None:
    results = [
        done(0, item("A", 0, 0, 1, end=10), item("B", 10, 2, end=20)),
        done(1, item("b", 20, 3, 4, end=30, score=0.9), item("A", 30, 5, end=40)),
    ]
    grounded, _ = merge(JOIN, results)
    assert [(found.start, found.end, found.cues) for found in grounded] == [
        (0, 10, (0, 1)),
        (10, 30, (2, 3, 4)),
        (30, 40, (5,)),
    ]
    assert (grounded[1].quote, grounded[1].score) == ("qB", 0.9)
    assert grounded[1].grounding is Grounding.FUZZY


def test_ungrounded_items_are_apart_in_order_of_their_chunks() -> None:
    results = [done(1, lost("z")), done(0, lost("b"), item("a", 1, 0), lost("c"))]
    grounded, ungrounded = merge(CONCAT, results)
    assert keys(grounded) == ["a"]
    assert keys(ungrounded) == ["b", "c", "z"]


def test_an_ungrounded_item_never_stands_for_a_grounded_one() -> None:
    grounded, ungrounded = merge(DEDUPE, [done(0, lost("a")), done(1, item("a", 5, 3))])
    assert (keys(grounded), keys(ungrounded)) == (["a"], ["a"])


@pytest.mark.parametrize("state", [State.FAILED, State.TIMED_OUT, State.INTERRUPTED])
def test_chunk_that_is_not_done_takes_no_neighbour_with_it(state: State) -> None:
    failed = ChunkResult(1, state, problem=Problem("E_LLM", "no"))
    results = [done(0, item("a", 1, 0)), failed, done(2, item("c", 9, 9))]
    assert keys(merge(DEDUPE, results)[0]) == ["a", "c"]


@given(st.lists(st.tuples(st.sampled_from("ab?"), st.integers(0, 3), st.integers(0, 3))))
def test_merging_does_not_depend_on_the_chunks_that_items_came_in(
    drawn: list[tuple[str, int, int]],
) -> None:
    items = [item(key, start, cue) for key, start, cue in drawn]
    for asked in (CONCAT, DEDUPE, JOIN):
        together = merge(asked, [done(0, *items)])
        apart = merge(asked, [done(index, one) for index, one in enumerate(reversed(items))])
        assert together == apart
