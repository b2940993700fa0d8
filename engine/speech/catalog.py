"""The models known by name, and whether the files in a folder are one of them.

In: ``models/catalog.toml``, folders. Out: ``KnownModel`` values, and the names of files that are
missing or damaged. What has been hashed once is remembered in our cache by size and time of change,
so that a start does not read gigabytes. Fetches nothing; knows nothing about hubs and devices.
"""

import hashlib
import json
import os
import tomllib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from engine.errors import DiskError, ModelError
from engine.speech.sources import Wheel
from engine.store.files import write_atomic
from engine.store.keys import digest

_BLOCK = 1 << 20

# Vocabulary sizes tell the families apart, as CTranslate2 does (src/models/whisper.cc).
_MULTILINGUAL = 51_865  # tokens; English-only models have one less
_LARGE_V3 = 51_866  # tokens; these read 128 mels, all others 80


@dataclass(frozen=True, slots=True)
class ModelFile:
    """What a file of a model must be."""

    name: str
    size: int  # bytes
    sha256: str


@dataclass(frozen=True, slots=True)
class KnownModel:
    """An entry of the catalogue."""

    name: str
    aliases: tuple[str, ...]
    repository: str  # on the hub
    revision: str | None
    multilingual: bool
    mels: int
    size: int  # bytes of all files
    files: tuple[ModelFile, ...]  # empty: not pinned, so it cannot be checked
    wheels: tuple[Wheel, ...]
    remark: str | None


@cache
def catalogue() -> dict[str, KnownModel]:
    """The models by name, best first."""
    return {entry["name"]: _parsed(entry) for entry in _file()["model"]}


def known_model(name: str) -> KnownModel | None:
    """By name or alias."""
    for entry in catalogue().values():
        if name == entry.name or name in entry.aliases:
            return entry
    return None


def defaults(device_kind: str) -> tuple[KnownModel, ...]:
    """What to take when none is named, for "cuda" or "cpu": the first that can be had."""
    names = _file()["default"]["cuda" if device_kind == "cuda" else "cpu"]
    return tuple(catalogue()[name] for name in names)


def find_models_folder() -> Path:
    """``models/`` of a checkout, or where the wheel has it."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_models", package.parent / "models"):
        if (folder / "catalog.toml").is_file():
            return folder
    raise ModelError(f"models/catalog.toml is not there beside {package}; install reelmine again.")


def cache_folder() -> Path:
    """Our own cache: REELMINE_CACHE, or ``reelmine`` in the user's cache folder."""
    own = os.environ.get("REELMINE_CACHE")
    if own:
        return Path(own).expanduser().absolute()
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "reelmine"


# --- checking --------------------------------------------------------------------------------


def seems_whole(folder: Path, files: Sequence[ModelFile]) -> bool:
    """All files are there with the right sizes; nothing is hashed."""
    return all(_size(folder / file.name) == file.size for file in files)


def wrong_files(folder: Path, files: Sequence[ModelFile]) -> tuple[str, ...]:
    """The files that are missing or not what they must be."""
    whole = seems_whole(folder, files)
    if whole and _remembered(folder, files):
        return ()
    wrong = tuple(
        file.name
        for file in files
        if _size(folder / file.name) != file.size or _sha256(folder / file.name) != file.sha256
    )
    if not wrong:
        remember_checked(folder, files)
    return wrong


def remember_checked(folder: Path, files: Sequence[ModelFile]) -> None:
    """These files have been hashed and found right."""
    with suppress(OSError, DiskError):  # a cache that cannot be written costs time, no more
        write_atomic(_memory(folder), json.dumps(_stamp(folder, files)).encode())


def _remembered(folder: Path, files: Sequence[ModelFile]) -> bool:
    try:
        return bool(json.loads(_memory(folder).read_bytes()) == _stamp(folder, files))
    except (OSError, ValueError):
        return False


def _memory(folder: Path) -> Path:
    return cache_folder() / "verified" / f"{digest(str(folder.absolute()))}.json"


def _stamp(folder: Path, files: Sequence[ModelFile]) -> dict[str, list[int | str]]:
    """Valid as long as no file has another size or time of change."""
    stats = {file.name: (folder / file.name).stat() for file in files}
    return {
        file.name: [stats[file.name].st_size, stats[file.name].st_mtime_ns, file.sha256]
        for file in files
    }


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _sha256(path: Path) -> str | None:
    """Of a file's content; None: not readable."""
    found = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while block := stream.read(_BLOCK):
                found.update(block)
    except OSError:
        return None
    return found.hexdigest()


# --- a model folder that the catalogue does not know ------------------------------------------


@dataclass(frozen=True, slots=True)
class Shape:
    """What the files of a folder say of the model."""

    multilingual: bool
    mels: int


def shape_of(folder: Path) -> Shape:
    """Read it; ModelError names a file that is missing or broken."""
    vocabulary = _vocabulary_of(folder)
    return Shape(vocabulary >= _MULTILINGUAL, _mels(folder, vocabulary))


def _vocabulary_of(folder: Path) -> int:
    if not folder.is_dir():
        raise ModelError(f"There is no model folder {folder}; known names: `reelmine models`.")
    for name in ("model.bin", "config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise ModelError(_incomplete(folder, name))
    for vocabulary in (folder / "vocabulary.json", folder / "vocabulary.txt"):
        if vocabulary.is_file():
            return _tokens(vocabulary)
    raise ModelError(_incomplete(folder, "vocabulary.json or vocabulary.txt"))


def _tokens(vocabulary: Path) -> int:
    try:
        text = vocabulary.read_text(encoding="utf-8")
        if vocabulary.suffix == ".json":
            return len(json.loads(text))
        return text.rstrip("\n").count("\n") + 1
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"{vocabulary} cannot be read ({error}); fetch the model anew.") from error


def _incomplete(folder: Path, name: str) -> str:
    return (
        f"The model folder {folder} has no {name}; convert the model again with"
        " ct2-transformers-converter --copy_files tokenizer.json preprocessor_config.json."
    )


def _mels(folder: Path, vocabulary: int) -> int:
    """As faster-whisper: from preprocessor_config.json; without it by the family."""
    path = folder / "preprocessor_config.json"
    try:
        return int(json.loads(path.read_bytes())["feature_size"])
    except FileNotFoundError:
        return 128 if vocabulary >= _LARGE_V3 else 80
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} cannot be read ({error}); fetch the model anew.") from error


# --- the catalogue's file --------------------------------------------------------------------


@cache
def _file() -> dict[str, Any]:
    with (find_models_folder() / "catalog.toml").open("rb") as stream:
        return tomllib.load(stream)


def _parsed(entry: dict[str, Any]) -> KnownModel:
    files = tuple(ModelFile(**file) for file in entry.get("files", ()))
    return KnownModel(
        name=entry["name"],
        aliases=tuple(entry.get("aliases", ())),
        repository=entry["repository"],
        revision=entry.get("revision"),
        multilingual=entry["multilingual"],
        mels=entry["mels"],
        size=sum(file.size for file in files) or entry["bytes"],
        files=files,
        wheels=tuple(Wheel(**wheel) for wheel in entry.get("wheels", ())),
        remark=entry.get("remark"),
    )
