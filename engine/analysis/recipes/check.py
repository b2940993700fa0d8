"""Whether the values of a recipe file make sense.

In: what tomllib read. Out: nothing, or Broken with the path of the key and the reason. Knows
nothing about files; `line_of` finds the line of a key in the text, for the message.
"""

import re
from collections.abc import Mapping
from typing import Any

MERGES = ("concat", "dedupe", "join_adjacent")
TIMES = ("quote", "cues")
RESERVED = (  # ours in every item, or columns of analysis.csv
    "cues", "quote", "video", "recipe", "start", "end", "grounding", "score",
)  # fmt: skip
SIMPLE: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
}
KEYWORDS = {
    "string": ("enum", "minLength", "maxLength"),
    "integer": ("enum", "minimum", "maximum"),
    "number": ("enum", "minimum", "maximum"),
    "boolean": (),
    "array": ("items", "minItems", "maxItems"),
}
LIMITS = {"min_words": 5_000, "max_words": 5_000, "max_tokens": 100_000}
KEYS = (
    "name", "prompt", "merge", "key", "times", "required", "fields", *LIMITS,
)  # fmt: skip

Path = tuple[str, ...]


class Broken(Exception):
    """A value that cannot be used."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(reason)
        self.path = path
        self.reason = reason


def check(values: Mapping[str, Any]) -> None:
    """Raise Broken for the first thing wrong."""
    _known(values, KEYS, ())
    for key in ("name", "prompt"):
        if not (isinstance(values.get(key), str) and values[key].strip()):
            raise Broken((key,), f"{key} must be given, as text")
    if not re.fullmatch(r"\w[\w-]{0,63}", values["name"]):
        raise Broken(("name",), "a name has letters, digits, _ and -, at most 64")
    _choice(values, "merge", MERGES)
    _choice(values, "times", TIMES)
    _limits(values)
    _fields(values.get("fields"))
    _required(values)
    _key(values)


def line_of(text: str, path: Path) -> int:
    """The line where the key at `path` stands, or the nearest table around it; 1 if none does."""
    line, best, inside = 1, 0, False
    table: Path = ()
    for number, content in enumerate(text.splitlines(), start=1):
        quotes = content.count('"""') + content.count("'''")
        here = None if inside else _key_at(content, table)
        inside ^= bool(quotes % 2)
        if here is None:
            continue
        if content.lstrip().startswith("["):
            table = here
        shared = len(here) if here == path[: len(here)] else 0
        if shared > best:
            line, best = number, shared
    return line


def _key_at(content: str, table: Path) -> Path | None:
    header = re.match(r"\s*\[+([^\]]+)\]", content)
    if header:
        return _parts(header[1])
    key = re.match(r"""\s*([\w.\-"' ]+?)\s*=""", content)
    return (*table, *_parts(key[1])) if key else None


def _parts(dotted: str) -> Path:
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))


def _known(values: Mapping[str, Any], keys: tuple[str, ...], path: Path) -> None:
    for key in values:
        if key not in keys:
            raise Broken((*path, key), f"{key!r} is not known here; known: {', '.join(keys)}")


def _choice(values: Mapping[str, Any], key: str, allowed: tuple[str, ...]) -> None:
    if key in values and values[key] not in allowed:
        raise Broken((key,), f"{key} must be one of {', '.join(allowed)}")


def _limits(values: Mapping[str, Any]) -> None:
    for key, most in LIMITS.items():
        if key in values and not (_is(values[key], "integer") and 1 <= values[key] <= most):
            raise Broken((key,), f"{key} must be a whole number from 1 to {most}")
    if values.get("min_words", 150) > values.get("max_words", 300):
        wrong = "min_words" if "min_words" in values else "max_words"
        raise Broken((wrong,), "min_words (default 150) must not exceed max_words (default 300)")


def _fields(fields: Any) -> None:
    if not (isinstance(fields, dict) and fields):
        raise Broken(("fields",), "at least one [fields.NAME] must be given")
    for name, schema in fields.items():
        path = ("fields", name)
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,63}", name):
            raise Broken(path, f"field name {name!r} may have letters, digits and _ only")
        if name in RESERVED:
            raise Broken(path, f"field name {name!r} is taken; we add it to every item ourselves")
        _field(schema, path, (*SIMPLE, "array"))


def _field(schema: Any, path: Path, types: tuple[str, ...]) -> None:
    if not isinstance(schema, dict):
        raise Broken(path, f"{path[-1]} must be a table with type and description")
    kind = schema.get("type")
    if kind not in types:
        raise Broken((*path, "type"), f"type must be one of {', '.join(types)}")
    _known(schema, ("type", "description", *KEYWORDS[kind]), path)
    if not isinstance(schema.get("description", ""), str):
        raise Broken((*path, "description"), "description must be text")
    for keyword in schema.keys() & {"minLength", "maxLength", "minItems", "maxItems"}:
        if not (_is(schema[keyword], "integer") and schema[keyword] >= 0):
            raise Broken((*path, keyword), f"{keyword} must be a whole number from 0")
    for keyword in schema.keys() & {"minimum", "maximum"}:
        if not _is(schema[keyword], kind):
            raise Broken((*path, keyword), f"{keyword} must be a number like the field")
    if "enum" in schema:
        _enum(schema["enum"], kind, (*path, "enum"))
    if kind == "array":
        _field(schema.get("items"), (*path, "items"), tuple(SIMPLE))


def _enum(values: Any, kind: str, path: Path) -> None:
    if not (isinstance(values, list) and values and all(_is(value, kind) for value in values)):
        raise Broken(path, f"enum must be a list of values of type {kind}")


def _is(value: Any, kind: str) -> bool:
    return isinstance(value, SIMPLE[kind]) and (kind == "boolean" or not isinstance(value, bool))


def _required(values: Mapping[str, Any]) -> None:
    required = values.get("required", [])
    if not isinstance(required, list) or any(name not in values["fields"] for name in required):
        raise Broken(("required",), "required must be a list of fields of this recipe")


def _key(values: Mapping[str, Any]) -> None:
    key, fields = values.get("key"), values["fields"]
    if values.get("merge", "concat") == "concat":
        if key is not None:
            raise Broken(("key",), "key is used by merge = dedupe and join_adjacent only")
        return
    if not isinstance(key, str) or fields.get(key, {}).get("type") != "string":
        where = ("key",) if "key" in values else ("merge",)
        raise Broken(where, f"merge = {values['merge']} needs key = the name of a string field")
    if key not in values.get("required", fields):
        raise Broken(("required",), f"{key!r} must be required: merging compares it")
