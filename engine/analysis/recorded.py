"""Who answers out of a recording: no endpoint, no key, nothing spent.

In: a recipe and a chunk. Out: the Reply that was recorded for them, or NotRecordedError. The keys
are those of the model that answered first, so results and ledger are the same as with it.
"""

from engine.analysis.analysts import Keep, has_words, question_key
from engine.analysis.recipes import Recipe
from engine.errors import NotRecordedError
from engine.records import Chunk, Reply
from engine.store.recording import Recording


class RecordedAnalyst:
    """Gives the replies of one model again."""

    hosts: tuple[str, ...] = ()

    def __init__(self, recording: Recording) -> None:
        self.name = recording.model
        self._recording = recording

    def key(self, recipe: Recipe, chunk: Chunk) -> str:
        """The same as the model's own."""
        return question_key(self.name, recipe, chunk)

    def call(
        self, recipe: Recipe, chunk: Chunk, half: Reply | None = None, keep: Keep | None = None
    ) -> Reply:
        """The recorded reply."""
        if not has_words(chunk):
            return Reply("[]", attempts=0)
        reply = self._recording.replies.get(self.key(recipe, chunk))
        if reply is None:
            raise NotRecordedError(
                f"{self._recording.path} holds no reply of {self.name} to this chunk of "
                f"{recipe.name}: its text or recipe was another one; run it with an endpoint and "
                "--record."
            )
        return reply
