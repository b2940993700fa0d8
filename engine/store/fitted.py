"""What fitted into which GPU, kept in the user's cache folder from run to run.

A run that had to take less than was planned leaves here what worked, by the GPU's name, the model
and the compute type asked for; sizing begins with that next time. The file is a convenience: one
that is damaged or cannot be written costs an error or two on the GPU again, and a note.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.errors import DiskError
from engine.pools.fitting import Fit
from engine.speech.catalog import cache_folder
from engine.store.files import write_atomic

FILE = "fitted.json"


def recall(model: str, asked: str) -> tuple[dict[str, Fit], str | None]:
    """By GPU name, what fitted of the model of this identity; and what is wrong with the file."""
    entries, note = _read()
    return {
        entry["gpu"]: Fit(entry["batch_size"], entry["compute_type"], entry["free"])
        for entry in entries
        if (entry["model"], entry["asked"]) == (model, asked)
    }, note


def remember(model: str, asked: str, fits: Mapping[str, Fit]) -> str | None:
    """Keep these beside what is there, instead of older ones; a sentence if it cannot be done."""
    entries = [
        entry
        for entry in _read()[0]
        if (entry["model"], entry["asked"]) != (model, asked) or entry["gpu"] not in fits
    ]
    for gpu, fit in fits.items():
        found = {"batch_size": fit.batch_size, "compute_type": fit.compute_type, "free": fit.free}
        entries.append({"gpu": gpu, "model": model, "asked": asked, **found})
    try:
        write_atomic(_path(), json.dumps(entries, indent=1).encode() + b"\n")
    except DiskError as error:
        return f"What fitted into the GPU is not remembered for the next run: {error}"
    return None


def _path() -> Path:
    return cache_folder() / FILE


def _read() -> tuple[list[dict[str, Any]], str | None]:
    """Entries that are whole; with the reason if there is a file that has others."""
    path = _path()
    try:
        entries = json.loads(path.read_bytes())
        if not all(map(_whole, entries)):
            raise ValueError("it is not what this version writes")
    except FileNotFoundError:
        return [], None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return [], f"{path} is damaged and was not used ({reason}); it can be deleted"
    return entries, None


def _whole(entry: dict[str, Any]) -> bool:
    batch, free = entry.get("batch_size"), entry.get("free")
    texts = (entry.get(name) for name in ("gpu", "model", "asked", "compute_type"))
    return (
        all(isinstance(text, str) for text in texts)
        and isinstance(batch, int)
        and batch > 0
        and (free is None or isinstance(free, int))
    )
