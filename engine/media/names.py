"""Names for people and names for output files, from paths of any bytes.

In: paths as the system gives them (bytes that are not UTF-8 as surrogate escapes). Out: text that
can be printed, and one distinct writable name for each file. Touches no disk.
"""

import os
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from engine.store.keys import digest

LONGEST = 230  # bytes of a name's last part; file systems allow 255, suffixes are added to it
_DIGITS = 8  # of a digest that keeps names apart
_FORBIDDEN = '<>:"|?*' if sys.platform == "win32" else ""
_HIGHEST = 2  # level of distinction, see _name


def shown(path: str) -> str:
    """A path as text for one line of a terminal.

    Relative where it is below the working folder; what cannot be printed as a backslash escape.
    """
    short = path.removeprefix(os.getcwd() + os.sep)
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in short)


def output_names(files: Sequence[tuple[str, str]]) -> dict[str, str]:
    """The output name of each file, by its path.

    ``files``: absolute path, and the wanted name with its suffix. A name is without suffix if that
    is distinct among all, else with it, else with a digest of the path too. Names count as equal if
    a disk that ignores case or Unicode composition would take them so, and where one would need as
    a folder what is another's file.
    """
    levels = {path: 0 for path, _ in files}
    while True:
        names = {path: _name(path, wanted, levels[path]) for path, wanted in files}
        clashing = [path for path in _clashing(names) if levels[path] < _HIGHEST]
        if not clashing:
            return names
        for path in clashing:
            levels[path] += 1


def _name(path: str, wanted: str, level: int) -> str:
    """A writable name: 0 without suffix, 1 with it, 2 with a digest of the path behind it."""
    *folders, last = wanted.split(os.sep)
    if level == 0:
        last = os.path.splitext(last)[0]
    last = _writable(last)
    if level == _HIGHEST:
        last = f"{_cut(last)}-{digest(path)[:_DIGITS]}"
    elif len(last.encode()) > LONGEST:
        last = f"{_cut(last)}-{digest(wanted)[:_DIGITS]}"
    return "/".join([*map(_writable, folders), last])


def _writable(part: str) -> str:
    """One part of a path without control characters and bytes that are not UTF-8."""
    return "".join(
        "_" if char in _FORBIDDEN or unicodedata.category(char) in ("Cc", "Cs") else char
        for char in part
    )


def _cut(part: str) -> str:
    """A part short enough for a digest behind it, cut between characters."""
    return part.encode()[: LONGEST - _DIGITS - 1].decode(errors="ignore")


def _clashing(names: Mapping[str, str]) -> Iterator[str]:
    """The paths whose names are not theirs alone."""
    keys = {path: _key(name) for path, name in names.items()}
    count = Counter(keys.values())
    folders = {folder for key in count for folder in _folders_of(key)}
    for path, key in keys.items():
        if count[key] > 1 or any(key + suffix in folders for suffix in _SUFFIXES):
            yield path


def _key(name: str) -> str:
    """Equal for names that some disk would take for the same."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _folders_of(key: str) -> Iterator[str]:
    while "/" in key:
        key = key.rpartition("/")[0]
        yield key


_SUFFIXES = (".json", ".srt", ".vtt", ".txt", ".tsv")
