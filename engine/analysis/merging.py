"""The items of all chunks of a video as one list.

In: a recipe and the results of its chunks, in any order. Out: the grounded items in order of time,
and apart from them the ungrounded ones, in order of their chunks. Order depends on the items only:
time, then cue, then text. Knows nothing about files or calls.

`concat` keeps all, `dedupe` of items with an equal key the earliest, `join_adjacent` makes one of
neighbours with an equal key. The same item twice (a model that repeats itself) is one item always.
"""

import json
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace

from engine.analysis.grounding import tokens_of
from engine.analysis.recipes import Recipe
from engine.records import ChunkResult, Grounding, Item, State

Merged = tuple[tuple[Item, ...], tuple[Item, ...]]


def merge(recipe: Recipe, results: Sequence[ChunkResult]) -> Merged:
    """(grounded, ungrounded) items of the chunks that are done; the others have none to give."""
    done = sorted((r for r in results if r.state is State.DONE), key=lambda r: r.index)
    items = [item for result in done for item in result.items]
    grounded = [item for item in items if item.grounding is not Grounding.UNGROUNDED]
    ungrounded = [item for item in items if item.grounding is Grounding.UNGROUNDED]
    grounded.sort(key=_order)
    return _merged(recipe, grounded), _merged(recipe, ungrounded)


def _merged(recipe: Recipe, items: Iterable[Item]) -> tuple[Item, ...]:
    if recipe.merge == "dedupe":
        return _first_of_each(items, lambda item: _key(recipe, item))
    items = _first_of_each(items, _same)
    return _joined(recipe, items) if recipe.merge == "join_adjacent" else items


def _first_of_each(items: Iterable[Item], key: Callable[[Item], Hashable]) -> tuple[Item, ...]:
    first: dict[Hashable, Item] = {}
    for item in items:
        first.setdefault(key(item), item)
    return tuple(first.values())


def _joined(recipe: Recipe, items: Iterable[Item]) -> tuple[Item, ...]:
    """Neighbours of equal key as one: fields and quote of the first, cues and time of all."""
    joined: list[Item] = []
    for item in items:
        if joined and _key(recipe, joined[-1]) == _key(recipe, item):
            joined[-1] = _both(joined[-1], item)
        else:
            joined.append(item)
    return tuple(joined)


def _both(first: Item, second: Item) -> Item:
    ends = [end for end in (first.end, second.end) if end is not None]
    return replace(
        first,
        cues=tuple(sorted({*first.cues, *second.cues})),
        end=max(ends, default=None),
        grounding=first.grounding if first.score <= second.score else second.grounding,
        score=min(first.score, second.score),
    )


def _key(recipe: Recipe, item: Item) -> Hashable:
    """The key field as quotes are compared; as it stands if it has no letters."""
    value = str(item.fields.get(recipe.key or ""))
    return tuple(tokens_of(value)) or value.strip()


def _same(item: Item) -> Hashable:
    return _text(item), item.cues


def _order(item: Item) -> tuple[float, float, tuple[int, ...], str]:
    if item.start is None or item.end is None:
        raise ValueError("a grounded item has times")
    return item.start, item.end, item.cues, _text(item)


def _text(item: Item) -> str:
    return json.dumps([item.quote, item.fields], sort_keys=True)
