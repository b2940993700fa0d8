"""How an endpoint wants to be asked: learned from its refusals, and remembered.

In: what to ask, and an exchange that sends it. Out: the answer, or the error of a refusal that no
other way of asking helps against. What a refusal's words ask for is done; where they say nothing to
us, simpler formats of the answer are tried, until plain text has been refused as well. Knows
nothing about HTTP.

One Asking per client, shared by its threads; it starts none.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from engine import errors
from engine.llm import wire


class Refusal(Exception):
    """The server did not take a request as it was."""

    def __init__(self, error: errors.CallError, words: tuple[str, str, str]) -> None:
        super().__init__(str(error))
        self.error = error  # what the call ends with if no other way helps
        self.words = words  # the message, the kind of error, the parameter it is about


class Asking:
    """The way that one endpoint and model are asked."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._lock = threading.Lock()  # protects the two below
        self._style = wire.Style()
        self._guesses = True  # a refusal that says nothing to us may be about the format

    def ask(
        self,
        exchange: Callable[[Mapping[str, Any]], wire.Answer],
        messages: Sequence[Mapping[str, str]],
        schema: Mapping[str, Any],
        max_tokens: int,
    ) -> wire.Answer:
        """One exchange, or more where the server has to tell first how it wants to be asked."""
        style = known = self._style  # one reference, read at once: needs no lock
        first: errors.CallError | None = None  # of the refusals whose words say nothing to us
        while True:
            try:
                answer = exchange(
                    wire.request_body(style, self._model, messages, schema, max_tokens)
                )
            except Refusal as refusal:
                refused, adapted = refusal.error, wire.adapt(style, *refusal.words)
            else:
                self._learn(known, style)  # a guess was right
                return answer
            if adapted is None:
                first = first or refused
                adapted = self._guess(style, refused, first)
            elif first is None:
                self._learn(known, adapted)
                known = adapted
            style = adapted

    def _learn(self, known: wire.Style, better: wire.Style) -> None:
        if better is known:
            return
        with self._lock:
            if self._style == known:  # else another thread has learned it meanwhile
                self._style = better

    def _guess(
        self, style: wire.Style, refused: errors.CallError, first: errors.CallError
    ) -> wire.Style:
        """A simpler way to ask. Where there is none the call ends as the server said first; if all
        were refused it was never about the format, and no later refusal is taken for that."""
        if isinstance(refused, errors.ContextError):
            raise refused
        with self._lock:
            simpler = wire.simpler(style) if self._guesses else None
            if simpler is None and refused is not first:
                self._guesses = False
        if simpler is None:
            raise first
        return simpler
