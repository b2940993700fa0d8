"""A recording: the replies of a language model in one file, to be replayed without one.

JSON lines. The first is `{"format": "reelmine replies", "version": 1}`, each other one
`{"key": ..., "model": ..., "recipe": ..., "reply": {...}}`, in order of the keys, so that equal
replies make equal files. In: replies as the ledger keeps them. Out: the file; from a file, the
replies of one model by key, or UsageError that names file and line. Knows nothing about recipes or
calls. Nothing of an endpoint is in it: neither address nor key.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from engine.errors import UsageError
from engine.records import Recorded, Reply
from engine.store.files import write_atomic

FORMAT = "reelmine replies"
VERSION = 1

_COUNTS = ("dropped", "attempts", "prompt_tokens", "completion_tokens")
_UNKNOWN = ("prompt_tokens", "completion_tokens")  # may be null


@dataclass(frozen=True, slots=True)
class Recording:
    """Replies of one model."""

    path: Path
    model: str
    replies: Mapping[str, Reply]


def write_recording(path: Path, replies: Iterable[Recorded]) -> None:
    """Whole or not at all; DiskError if it cannot be written."""
    lines = [{"format": FORMAT, "version": VERSION}]
    lines += [asdict(reply) for reply in sorted(replies, key=lambda reply: reply.key)]
    write_atomic(path, b"".join(json.dumps(line).encode() + b"\n" for line in lines))


def read_recording(path: Path, model: str | None) -> Recording:
    """The replies of `model`, or of the only one that is in the file."""
    try:
        first, *lines = path.read_text("utf-8").rstrip().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageError(f"--replay {path} cannot be read: {reason}.") from error
    _check_header(path, _parsed(path, 1, first))
    recorded = [
        _recorded(path, number, _parsed(path, number, line))
        for number, line in enumerate(lines, start=2)
    ]
    named = _model(path, model, sorted({entry.model for entry in recorded}))
    replies = {entry.key: entry.reply for entry in recorded if entry.model == named}
    return Recording(path, named, replies)


def _model(path: Path, asked: str | None, recorded: list[str]) -> str:
    if asked is not None and (asked in recorded or not recorded):
        return asked
    held = ", ".join(recorded) or "no model"
    if asked is not None:
        raise UsageError(f"--replay {path} has replies of {held}, none of --llm-model {asked}.")
    if len(recorded) != 1:
        raise UsageError(f"--replay {path} has replies of {held}: name one with --llm-model.")
    return recorded[0]


def _check_header(path: Path, header: dict[str, Any]) -> None:
    if header.get("format") != FORMAT:
        raise UsageError(f"--replay {path} is no recording: make one with run --record FILE.")
    if header.get("version") != VERSION:
        version = header.get("version")
        raise UsageError(
            f"--replay {path} has version {version}, and this reelmine reads {VERSION}: record it "
            "again."
        )


def _parsed(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _broken(path, number, "it is not JSON") from error
    if not isinstance(value, dict):
        raise _broken(path, number, "it is no JSON object")
    return value


def _recorded(path: Path, number: int, entry: dict[str, Any]) -> Recorded:
    texts = [entry.get(name) for name in ("key", "model", "recipe")]
    reply = entry.get("reply")
    if not all(isinstance(text, str) for text in texts) or not isinstance(reply, dict):
        raise _broken(path, number, "key, model, recipe or reply is missing")
    if set(reply) != {field.name for field in fields(Reply)}:
        raise _broken(path, number, "its reply has other fields than a reply has")
    for name in _COUNTS:
        count = reply[name]
        known = isinstance(count, int) and not isinstance(count, bool) and count >= 0
        if not known and not (count is None and name in _UNKNOWN):
            raise _broken(path, number, f"its {name} is no count")
    _check_items(path, number, reply["items"])
    return Recorded(entry["key"], entry["model"], entry["recipe"], Reply(**reply))


def _check_items(path: Path, number: int, items: Any) -> None:
    """They were checked by their recipe when they came; here only that they are such a list."""
    try:
        found = json.loads(items)
    except (TypeError, ValueError, RecursionError) as error:
        raise _broken(path, number, "its items are not JSON") from error
    usable = isinstance(found, list) and all(_is_item(item) for item in found)
    if not usable:
        raise _broken(path, number, "its items have no cues and quote")


def _is_item(item: Any) -> bool:
    if not isinstance(item, dict) or not isinstance(item.get("quote"), str):
        return False
    cues = item.get("cues")
    return isinstance(cues, list) and all(isinstance(cue, int) for cue in cues)


def _broken(path: Path, number: int, reason: str) -> UsageError:
    return UsageError(f"--replay {path}, line {number}: {reason}; record it again.")
