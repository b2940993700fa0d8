"""Who answers a recipe's question about a chunk: the phrasebook, or a language model.

In: a recipe and a chunk. Out: a Reply (validated raw items), or one of the CallError family; and
from a Reply, by `result`, the grounded items of the chunk. A failure is an error here and a
state further on, never an empty list. Knows nothing about videos, threads or the ledger: `call`
blocks its thread until its own deadline at the latest, and may run in any number of threads; `key`
names a reply in the ledger's cache.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from engine.analysis import grounding, prompts, replies
from engine.analysis.chunking import count_words, halves
from engine.analysis.phrasebook import Match, Phrasebook
from engine.analysis.recipes import Recipe
from engine.errors import (
    CallError,
    ContextError,
    NotJsonError,
    SchemaError,
    TruncatedError,
    UsageError,
)
from engine.records import Chunk, ChunkResult, Reply, State
from engine.store.keys import digest

if TYPE_CHECKING:
    from engine.llm.client import Client

VERSION = 1  # part of every key: raise it when the same question would now be answered otherwise
PHRASES = "phrases.tsv"
CONTEXT_FULL = (
    "The answer was cut off where the model's context ends; lower max_words in the recipe, or give "
    "the model a longer context."
)

Keep = Callable[[Reply], object]


class Analyst(Protocol):
    """Somebody who answers."""

    @property
    def name(self) -> str:
        """Who that is, for result files."""

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts that receive the text of transcripts."""

    def key(self, recipe: Recipe, chunk: Chunk) -> str:
        """Digest of everything that changes the answer."""

    def call(
        self, recipe: Recipe, chunk: Chunk, half: Reply | None = None, keep: Keep | None = None
    ) -> Reply:
        """The answer, checked against the recipe; CallError if there is none in time.

        Where the chunk has to be asked in halves, `keep` gets the reply to the first at once, in
        this thread: it is not lost if the call then fails. `half`: that reply, of an earlier call.
        """


def result(recipe: Recipe, chunk: Chunk, reply: Reply) -> ChunkResult:
    """The items of a reply with the cues and times where they were said."""
    items = grounding.ground(recipe, json.loads(reply.items), chunk)
    return ChunkResult(chunk.index, State.DONE, tuple(items), reply.dropped)


class PhrasebookAnalyst:
    """Answers `expressions` for English offline, out of the bundled phrasebook."""

    name = "phrasebook-en"
    hosts: tuple[str, ...] = ()

    def __init__(self, book: Phrasebook, book_digest: str) -> None:
        self._book = book
        self._digest = book_digest

    @classmethod
    def load(cls, folder: Path) -> "PhrasebookAnalyst":
        """With the book in `folder`; UsageError if it is not there or damaged."""
        try:
            content = (folder / PHRASES).read_bytes()
            return cls(Phrasebook.load(folder), sha256(content).hexdigest())
        except (OSError, ValueError) as error:
            raise UsageError(
                f"The phrasebook in {folder} cannot be used, install reelmine anew: {error}."
            ) from error

    @classmethod
    def bundled(cls) -> "PhrasebookAnalyst":
        """With the book that we ship."""
        from engine.speech.catalog import find_models_folder

        return cls.load(find_models_folder() / cls.name)

    def key(self, recipe: Recipe, chunk: Chunk) -> str:
        """The book, the recipe and the text."""
        cues = [[cue.id, cue.text] for cue in (*chunk.context, *chunk.cues)]
        return digest([VERSION, self._digest, recipe.digest, len(chunk.context), cues])

    def call(
        self, recipe: Recipe, chunk: Chunk, half: Reply | None = None, keep: Keep | None = None
    ) -> Reply:
        """The expressions whose last word is in the chunk's own cues.

        The cues before are read too, so an expression across the border of two chunks is found in
        the second, and only there.
        """
        if recipe.needs_endpoint:
            raise CallError(f"The phrasebook answers no recipe but expressions, not {recipe.name}.")
        cues = (*chunk.context, *chunk.cues)
        texts = [cue.text for cue in cues]
        found = [m for m in self._book.find(texts) if m.cues[-1] >= len(chunk.context)]
        items = [_item(match, texts, [cues[position].id for position in match.cues])
                 for match in found]  # fmt: skip
        return Reply(_canonical(items))


class LlmAnalyst:
    """Asks a language model at the client's endpoint; all recipes may share one."""

    def __init__(self, client: "Client") -> None:
        self._client = client
        self.name = client.model
        self.hosts = (client.host,)

    def key(self, recipe: Recipe, chunk: Chunk) -> str:
        """The model, the question word for word, and what a reply may be.

        Not the base URL: a server that moves to another port repeats nothing.
        """
        return question_key(self.name, recipe, chunk)

    def call(
        self, recipe: Recipe, chunk: Chunk, half: Reply | None = None, keep: Keep | None = None
    ) -> Reply:
        """The model's items. Within one deadline: an answer cut off is asked for again with double
        the tokens, an unusable one once more with the reason, a chunk too long for the model's
        context in two halves. With the first half's reply it is known to be too long.
        """
        if not has_words(chunk):
            return Reply("[]", attempts=0)  # nothing was said: nothing to ask
        parts = halves(chunk)
        with self._client.call():
            if parts is None or half is None:
                try:
                    return _ask(self._client, recipe, chunk)
                except ContextError:
                    if parts is None:
                        raise
            if half is None:
                half = _ask(self._client, recipe, parts[0])
                if keep is not None:
                    keep(half)
            return _joined(half, _ask(self._client, recipe, parts[1]))


def question_key(model: str, recipe: Recipe, chunk: Chunk) -> str:
    """Names the reply of a language model to a question."""
    return digest([VERSION, model, recipe.digest, prompts.messages(recipe, chunk)])


def has_words(chunk: Chunk) -> bool:
    """Whether anything was said in it: else there is nothing to ask a model."""
    return any(count_words(cue.text) for cue in chunk.cues)


def _ask(client: "Client", recipe: Recipe, chunk: Chunk) -> Reply:
    text, spent = _answer(client, recipe, chunk, None)
    try:
        return _checked(recipe, text, spent)
    except (NotJsonError, SchemaError) as error:
        text, again = _answer(client, recipe, chunk, str(error))
    return _checked(recipe, text, _sum(spent, again))


def _answer(client: "Client", recipe: Recipe, chunk: Chunk, note: str | None) -> tuple[str, Reply]:
    """A complete text and what it took; TruncatedError if double the tokens are not enough."""
    asked, schema = prompts.messages(recipe, chunk, note), replies.schema(recipe)
    spent = Reply("[]", attempts=0)
    for max_tokens in (recipe.max_tokens, 2 * recipe.max_tokens):
        answer = client.chat(asked, schema, max_tokens)
        took = Reply("[]", 0, answer.attempts, answer.prompt_tokens, answer.completion_tokens)
        spent = _sum(spent, took)
        if not answer.cut:
            return answer.text, spent
    early = answer.completion_tokens is not None and answer.completion_tokens < max_tokens
    raise TruncatedError(CONTEXT_FULL if early else None)


def _checked(recipe: Recipe, text: str, spent: Reply) -> Reply:
    parsed = replies.parse(recipe, text)
    return replace(spent, items=_canonical(parsed.items), dropped=parsed.dropped)


def _joined(first: Reply, second: Reply) -> Reply:
    """The replies about two halves as one about the chunk."""
    items = [*json.loads(first.items), *json.loads(second.items)]
    return replace(
        _sum(first, second), items=_canonical(items), dropped=first.dropped + second.dropped
    )


def _sum(first: Reply, second: Reply) -> Reply:
    """The second with what both took; tokens stay unknown where neither server counted."""
    return replace(
        second,
        attempts=first.attempts + second.attempts,
        prompt_tokens=_total(first.prompt_tokens, second.prompt_tokens),
        completion_tokens=_total(first.completion_tokens, second.completion_tokens),
    )


def _total(*counts: int | None) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _canonical(items: Sequence[Mapping[str, Any]]) -> str:
    return json.dumps(items, sort_keys=True, separators=(",", ":"))


def _item(match: Match, texts: Sequence[str], ids: Sequence[int]) -> dict[str, Any]:
    return {
        "phrase": match.entry.phrase,
        "meaning": match.entry.definition,
        "example": _sentence(match, texts),
        "level": match.entry.level,
        "cues": list(ids),
        "quote": match.quote,
    }


def _sentence(match: Match, texts: Sequence[str]) -> str:
    """The sentence in which it is said, as far as its own cues hold it."""
    before = texts[match.start[0]][: match.start[1]]
    after = texts[match.end[0]][match.end[1] :]
    opening = re.split(r"[.!?\u2026]+[\"'\u201d\u2019)]*\s", before)[-1]
    closing = re.match(r"[^.!?\u2026]*[.!?\u2026]*[\"'\u201d\u2019)]*", after)
    return f"{opening}{match.quote}{closing[0] if closing else ''}".strip()
