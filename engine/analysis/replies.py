"""What may be used of a model's reply.

In: a recipe and the text of a reply, which may be anything. Out: the items that fit the recipe's
schema and how many did not, or NotJsonError, SchemaError, EmptyReplyError. Nothing found is a valid
answer; an answer we cannot use is an error, never an empty list. Knows nothing about transcripts:
whether a quote was said is for grounding to find out. Work is linear in the length of the text.
"""

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model

from engine.analysis.recipes import Recipe
from engine.errors import EmptyReplyError, NotJsonError, SchemaError

MAX_QUOTE = 4_000  # characters; what is longer is no quote
MAX_ITEMS = 500  # of one reply; a model that repeats itself for ever gives more
MAX_SHOWN = 200  # characters of a reply that an error may hold
MAX_STARTS = 64  # brackets tried as the beginning of the answer

_SIMPLE: dict[str, Any] = {"string": str, "integer": int, "number": float, "boolean": bool}
_CUES = {"type": "array", "items": {"type": "integer"}, "description": "Numbers of the cues."}
_QUOTE = {"type": "string", "description": "Words of those cues, copied exactly."}


@dataclass(frozen=True, slots=True)
class Parsed:
    """The items that fit, as the recipe's fields + "cues" + "quote", and how many did not."""

    items: list[dict[str, Any]]
    dropped: int


def schema(recipe: Recipe) -> dict[str, Any]:
    """JSON schema of an answer, within what servers with strict schemas accept.

    Lengths and ranges are left out (several servers refuse them; we check them ourselves), and a
    field that is not required is one that may be null.
    """
    fields = {name: _sent(field, name in recipe.required) for name, field in recipe.fields.items()}
    properties = {"cues": _CUES, "quote": _QUOTE, **fields}
    item = _object(properties)
    return _object({"items": {"type": "array", "items": item}})


def parse(recipe: Recipe, text: str) -> Parsed:
    """The usable items of a reply; CallError if it holds no answer, or items of which none fits."""
    if not text.strip():
        raise EmptyReplyError
    raw = _items(_find_json(text))
    model = _item_model(recipe)
    good: list[dict[str, Any]] = []
    first_error: ValidationError | None = None
    for item in raw[:MAX_ITEMS]:
        try:
            good.append(model.model_validate(item).model_dump(by_alias=True, exclude_none=True))
        except ValidationError as error:
            first_error = first_error or error
    if first_error and not good:
        raise SchemaError(
            f"None of the {len(raw)} items of the reply fits the recipe: {_told(first_error)}."
        ) from first_error
    return Parsed(good, len(raw) - len(good))


def _find_json(text: str) -> Any:
    """The answer in a reply that may have fences, or words before and after it.

    Among words only a whole `{"items": ...}` or list of objects counts: an item that can be read
    inside a list that was cut off is not the answer.
    """
    text = _unfenced(text.strip())
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        pass
    decoder = json.JSONDecoder(parse_constant=_no_constant)
    for start in _starts(text):
        try:
            value, _ = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and "items" in value:
            return value
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            return value
    shown = " ".join(text[:MAX_SHOWN].split())
    raise NotJsonError(f"The reply is not JSON; it begins: {shown}")


def _unfenced(text: str) -> str:
    if not text.startswith("```"):
        return text
    _, _, inside = text.partition("\n")
    return inside.rstrip().removesuffix("```").rstrip()


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _starts(text: str) -> list[int]:
    """Where an answer may begin: the first brackets of the text, few, so that work stays linear."""
    brackets = (found.start() for found in re.finditer(r"[{\[]", text))
    return list(islice(brackets, MAX_STARTS))


def _items(value: Any) -> list[Any]:
    if isinstance(value, dict) and "items" in value:
        value = value["items"]
    elif isinstance(value, dict) and "quote" in value:
        value = [value]
    if not isinstance(value, list):
        raise SchemaError('The reply has no list "items".')
    return value


@lru_cache(maxsize=64)
def _item_model(recipe: Recipe) -> type[BaseModel]:
    """The pydantic model of an item; fields have numbers, as names may clash with pydantic's."""
    fields: dict[str, Any] = {}
    for number, (name, field) in enumerate(recipe.fields.items()):
        kind = _type(field)
        if name in recipe.required:
            fields[f"field_{number}"] = (kind, Field(alias=name))
        else:
            fields[f"field_{number}"] = (kind | None, Field(alias=name, default=None))
    fields["cues"] = (Annotated[list[int], BeforeValidator(_listed)], Field(max_length=1_000))
    fields["quote"] = (str, Field(min_length=1, max_length=MAX_QUOTE))
    return create_model(
        "Item", __config__=ConfigDict(extra="ignore", allow_inf_nan=False), **fields
    )


def _type(field: Any) -> Any:
    if "enum" in field:
        return Literal[tuple(field["enum"])]
    if field["type"] == "array":
        bounds = Field(min_length=field.get("minItems"), max_length=field.get("maxItems"))
        return Annotated[list[_type(field["items"])], bounds]  # type: ignore[misc]  # made at run time
    return Annotated[
        _SIMPLE[field["type"]],
        Field(
            min_length=field.get("minLength"),
            max_length=field.get("maxLength"),
            ge=field.get("minimum"),
            le=field.get("maximum"),
        ),
    ]


def _listed(cues: Any) -> Any:
    """Models write a lone cue as a number."""
    return cues if isinstance(cues, list) else [cues]


def _sent(field: Any, required: bool) -> dict[str, Any]:
    kept = {key: field[key] for key in ("type", "description", "enum") if key in field}
    if "items" in field:
        kept["items"] = _sent(field["items"], required=True)
    if not required:
        kept["type"] = [kept["type"], "null"]
        if "enum" in kept:
            kept["enum"] = [*kept["enum"], None]
    return kept


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _told(error: ValidationError) -> str:
    """The first few faults of an item, in one line, without what the item holds."""
    faults = (
        f"{'.'.join(map(str, fault['loc'])) or 'item'}: {fault['msg']}"
        for fault in error.errors(include_url=False, include_input=False)[:3]
    )
    return "; ".join(faults)
