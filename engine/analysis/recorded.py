"""Who answers out of a recording: no endpoint, no key, nothing spent.

In: a recipe and a chunk. Out: the Reply that was recorded for them, or NotRecordedError. The keys
are those of the model that answered first, so results and ledger are the same as with it.
"""

from collections.abc import Mapping

from engine.analysis.analysts import has_words, question_key
from engine.analysis.recipes import Recipe
from engine.errors import NotRecordedError
from engine.records import Chunk, Reply


class RecordedAnalyst:
    """Gives the replies of one model again."""

    hosts: tuple[str, ...] = ()

    def __init__(self, source: str, model: str, replies: Mapping[str, Reply]) -> None:
        """`source`: what the replies come from, for errors."""
        self.name = model
        self._source = source
        self._replies = replies

    def key(self, recipe: Recipe, chunk: Chunk) -> str:
        """The same as the model's own."""
        return question_key(self.name, recipe, chunk)

    def call(self, recipe: Recipe, chunk: Chunk) -> Reply:
        """The recorded reply."""
        if not has_words(chunk):
            return Reply("[]", attempts=0)
        reply = self._replies.get(self.key(recipe, chunk))
        if reply is None:
            raise NotRecordedError(
                f"{self._source} holds no reply of {self.name} to this chunk of {recipe.name}: "
                "its text or recipe was another one; run it with an endpoint and --record."
            )
        return reply
