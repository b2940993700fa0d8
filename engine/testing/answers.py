"""What the test server answers: out of the prompt alone, the same every time.

In: the messages of a request as `analysis/prompts.py` writes them. Out: a completion of the chat
completions format. Knows nothing about HTTP.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from engine.analysis.analysts import PhrasebookAnalyst
from engine.analysis.prompts import CONTEXT_MARK, CUE_LINE, CUES_MARK, SCHEMA_MARK
from engine.analysis.recipes import Recipe, load
from engine.records import Chunk, Segment

Messages = Sequence[Mapping[str, Any]]
Schema = Mapping[str, Any]

_OF_TYPE: dict[str, Any] = {"integer": 1, "number": 1.0, "boolean": True}


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a prompt of ours asks: the schema of an item, and the cues."""

    item: Schema | None
    context: tuple[Segment, ...]
    cues: tuple[Segment, ...]


def parse_prompt(messages: Messages) -> Prompt:
    """Read a prompt of ours; another one has no schema and no cues."""
    texts = [str(message.get("content", "")) for message in messages]
    _, marked, schema = texts[0].partition(SCHEMA_MARK) if texts else ("", "", "")
    item = json.loads(schema)["properties"]["items"]["items"] if marked else None
    before, _, after = texts[1].partition(CUES_MARK) if len(texts) > 1 else ("", "", "")
    return Prompt(item, _cues(before.partition(CONTEXT_MARK)[2]), _cues(after))


class Answers:
    """Answers to our prompts; `phrasebook` is the folder of the book, None the bundled one."""

    def __init__(self, phrasebook: Path | None = None) -> None:
        self._folder = phrasebook

    def completion(self, question: Mapping[str, Any], prompt: Prompt) -> dict[str, Any]:
        """The body of the reply to a request."""
        text = json.dumps({"items": self._items(prompt)}, ensure_ascii=False)
        asked = sum(len(str(message["content"]).split()) for message in question["messages"])
        answered = len(text.split())
        return {
            "id": f"chatcmpl-{asked}",
            "object": "chat.completion",
            "created": 0,
            "model": question.get("model", ""),
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text},
                    "finish_reason": "stop",
                }
            ],
            "usage": {
                "prompt_tokens": asked,
                "completion_tokens": answered,
                "total_tokens": asked + answered,
            },
        }

    def _items(self, prompt: Prompt) -> list[dict[str, Any]]:
        spoken = [cue for cue in prompt.cues if cue.text.strip()]
        if prompt.item is None or not spoken:
            return []
        if self._expressions.fields.keys() <= prompt.item["properties"].keys():
            reply = self._phrasebook.call(self._expressions, Chunk(0, prompt.context, prompt.cues))
            found: list[dict[str, Any]] = json.loads(reply.items)
            return found
        return [_made_up(prompt.item, spoken[0])]

    @cached_property
    def _expressions(self) -> Recipe:
        return load("expressions")

    @cached_property
    def _phrasebook(self) -> PhrasebookAnalyst:
        if self._folder:
            return PhrasebookAnalyst.load(self._folder)
        return PhrasebookAnalyst.bundled()


def _made_up(item: Schema, cue: Segment) -> dict[str, Any]:
    """An item that fits the schema, about one cue."""
    fields = {name: _value(schema, cue.text) for name, schema in item["properties"].items()}
    return {**fields, "cues": [cue.id], "quote": cue.text}


def _value(schema: Schema, text: str) -> Any:
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema["type"][0] if isinstance(schema["type"], list) else schema["type"]
    if kind == "array":
        return [_value(schema["items"], text)]
    return _OF_TYPE.get(kind, text[:100])


def _cues(text: str) -> tuple[Segment, ...]:
    return tuple(
        Segment(int(number), 0, 0.0, 0.0, words, (), 0.0, 0.0, 0.0, 0.0)
        for number, words in CUE_LINE.findall(text)
    )
