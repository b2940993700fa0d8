"""Recipes: what is asked of every chunk, and how the items of a video are put together.

In: the name of a bundled recipe (the TOML files beside this one) or the path of a user's own file.
Out: a frozen Recipe, or RecipeError naming file, line and reason. Knows nothing about transcripts,
calls or endpoints. A recipe file:

    name = "jokes"
    prompt = "Find the jokes."        # what to look for, in plain words
    merge = "dedupe"                  # or "concat" (the default), "join_adjacent"
    key = "punchline"                 # field that dedupe and join_adjacent compare
    times = "quote"                   # or "cues": the item lasts as long as the cues it cites
    min_words = 150                   # length of a chunk
    max_words = 300
    max_tokens = 1024                 # of one answer
    required = ["punchline"]          # default: all fields

    [fields.punchline]                # JSON schema of a field; each item also gets cues and quote
    type = "string"                   # string, integer, number, boolean, array
    description = "The words that make it funny."

A string may have `enum`, `minLength`, `maxLength`; a number `enum`, `minimum`, `maximum`; an array
`items` (one schema of the simple types), `minItems`, `maxItems`.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from engine.analysis.recipes.check import Broken, check, line_of
from engine.errors import RecipeError
from engine.store.keys import digest

BUNDLED = ("expressions", "summary", "chapters")
OFFLINE = ("expressions",)  # what the phrasebook can answer


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """What to ask and how to merge; equal if everything in it is (`digest`)."""

    name: str
    digest: str  # of all that follows, bar `needs_endpoint`
    prompt: str
    fields: Mapping[str, Mapping[str, Any]]  # JSON schema properties of an item, in order
    required: tuple[str, ...]
    merge: str = "concat"
    key: str | None = None  # field that merging compares
    times: str = "quote"
    min_words: int = 150
    max_words: int = 300
    max_tokens: int = 1024
    needs_endpoint: bool = True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and other.digest == self.digest

    def __hash__(self) -> int:
        return hash(self.digest)


def load(name_or_path: str) -> Recipe:
    """The recipe of that name or in that file; RecipeError with line and reason if it is broken."""
    if name_or_path in BUNDLED:
        return _bundled(name_or_path)
    path = Path(name_or_path)
    if not path.is_file():
        raise RecipeError(
            f"There is no recipe {name_or_path!r}: give {', '.join(BUNDLED)} or the path of a TOML "
            "file."
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RecipeError(f"Recipe {path} cannot be read: {error.strerror}.") from error
    return parse(content, str(path))


def parse(content: bytes, source: str, *, needs_endpoint: bool = True) -> Recipe:
    """The recipe in a file's content; `source` is its name in errors."""
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _broken(source, line, "this is not UTF-8") from error
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line, reason = _position(str(error), text)
        raise _broken(source, line, reason) from error
    try:
        check(values)
    except Broken as error:
        raise _broken(source, line_of(text, error.path), error.reason) from error
    return _recipe(values, needs_endpoint)


@cache
def _bundled(name: str) -> Recipe:
    file = resources.files(__name__) / f"{name}.toml"
    return parse(file.read_bytes(), f"{name}.toml", needs_endpoint=name not in OFFLINE)


def _recipe(values: dict[str, Any], needs_endpoint: bool) -> Recipe:
    values = {**values, "required": tuple(values.get("required", values["fields"]))}
    fingerprint = digest([list(values["fields"]), values])
    return Recipe(**values, digest=fingerprint, needs_endpoint=needs_endpoint)


def _position(message: str, text: str) -> tuple[int, str]:
    """Line and reason out of tomllib's message: "Invalid value (at line 3, column 5)"."""
    found = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)$", message)
    if not found:
        return 1, message
    line = int(found[1]) if found[1] else text.count("\n") + 1
    return line, message[: found.start()]


def _broken(source: str, line: int, reason: str) -> RecipeError:
    return RecipeError(f"Recipe {source}, line {line}: {reason}.")
