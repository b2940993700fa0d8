"""Which videos a run is about: paths in, videos with their output names out.

Folders are searched recursively for known kinds of media; a file that is named is taken whatever it
is called. What cannot be used becomes a problem, and the others go on. Everything is ordered by the
bytes of the path, so that the same files give the same names in whatever order they are given. No
file is decoded here, and none that is not a regular file is opened.
"""

import os
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from engine.errors import (
    MediaError,
    NotRegularError,
    NoVideosError,
    ReelmineError,
    UnreadableError,
)
from engine.media.names import output_names, shown
from engine.records import Problem, Video
from engine.store.keys import fingerprint

SUFFIXES = frozenset(
    {
        *(".3g2", ".3gp", ".asf", ".avi", ".dv", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4"),
        *(".mpeg", ".mpg", ".mts", ".mxf", ".nut", ".ogm", ".ogv", ".rm", ".rmvb", ".ts", ".vob"),
        *(".webm", ".wmv", ".wtv"),
        *(".aac", ".ac3", ".aif", ".aifc", ".aiff", ".amr", ".au", ".caf", ".dts", ".eac3"),
        *(".flac", ".m4a", ".m4b", ".mka", ".mp2", ".mp3", ".mpga", ".oga", ".ogg", ".opus"),
        *(".snd", ".tta", ".w64", ".wav", ".weba", ".wma", ".wv"),
    }
)
_SKIPPED_FOLDER = ".reelmine"  # state of a run whose output folder lies in the input
_SKIPPED_PREFIX = "._"  # what macOS leaves beside each file on foreign disks
_READERS = 8  # threads: a disk over a network answers several questions as fast as one

_Identity = tuple[int, int]  # device and inode


@dataclass(frozen=True, slots=True)
class Found:
    """What the given paths hold."""

    videos: tuple[Video, ...]  # by the bytes of their paths
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class _File:
    """A candidate: not yet known to be usable."""

    path: str  # absolute
    name: str  # wanted output name with its suffix, as path below the given folder


class _Gathering:
    """Candidates and problems on the way to a Found; each folder and each file counts once."""

    def __init__(self, output: _Identity | None) -> None:
        self.files: list[_File] = []
        self.problems: list[tuple[str, ReelmineError]] = []
        self._output = output
        self._folders: set[_Identity] = set()
        self._names: set[tuple[_Identity, str]] = set()
        self._passed = 0  # folders met again

    def add(self, path: str) -> None:
        """What the user named: a folder, or a file whatever its suffix."""
        try:
            if stat.S_ISDIR(os.stat(path).st_mode):
                self._add_folder(path)
            else:
                self._add_file(path, os.path.dirname(path), _identity(os.path.dirname(path)))
        except (FileNotFoundError, NotADirectoryError, ValueError):
            self.problems.append((path, _missing(path)))
        except OSError as error:
            self.problems.append((path, _unreadable(path, error)))

    def _add_folder(self, root: str) -> None:
        """Everything below a folder; one without videos is a problem."""
        before = self._met()
        stack = [root]
        while stack:
            folder = stack.pop()
            try:
                stack.extend(self._search(folder, root))
            except OSError as error:
                self.problems.append((folder, _unreadable(folder, error)))
        if self._met() == before:
            self.problems.append((root, _no_videos(root)))

    def _search(self, folder: str, root: str) -> list[str]:
        """Take the media that lie in a folder; returns the folders in it."""
        identity = _identity(folder)
        if identity in self._folders:
            self._passed += 1
            return []
        if identity == self._output and folder != root:
            return []
        self._folders.add(identity)
        inner = []
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    inner.append(entry.path)
                elif _is_media(entry):
                    self._add_file(entry.path, root, identity)
        return sorted(path for path in inner if os.path.basename(path) != _SKIPPED_FOLDER)

    def _add_file(self, path: str, root: str, folder: _Identity) -> None:
        identity = (folder, os.path.basename(path))
        if identity not in self._names:
            self._names.add(identity)
            self.files.append(_File(path, os.path.relpath(path, root)))

    def _met(self) -> int:
        return len(self.files) + len(self.problems) + self._passed


def find_videos(paths: Sequence[str | os.PathLike[str]], output: Path) -> Found:
    """The videos below ``paths``, and one problem for each path or file that cannot be used.

    Links to folders are followed where they are given, not where they are met; the output folder is
    left out where it is met. A video's name is its path below the folder it was found in, without
    suffix; where two would be equal (also to a disk that ignores case) both keep the suffix, and a
    digest of the path where that is not enough.
    """
    gathering = _Gathering(_identity(output) if output.is_dir() else None)
    given = {os.path.abspath(os.fsdecode(path)) for path in paths}
    for path in sorted(given, key=lambda path: (not os.path.isdir(path), os.fsencode(path))):
        gathering.add(path)
    return _examined(gathering)


def stat_regular(path: str) -> os.stat_result:
    """Facts of a regular file, found without opening anything.

    Raises NotRegularError for pipes, sockets, devices and folders, whose opening may block, and
    UnreadableError for what is not there.
    """
    try:
        facts = os.stat(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    if not stat.S_ISREG(facts.st_mode):
        raise NotRegularError(
            f"{shown(path)} is {_kind(facts.st_mode)}, not a regular file; copy what it gives into "
            "a file and name that."
        )
    return facts


def _examined(gathering: _Gathering) -> Found:
    """Sort the candidates into videos and problems; the threads end before it returns."""
    # A file that cannot be used today holds its name: repairing it renames no other.
    names = output_names([(file.path, file.name) for file in gathering.files])
    problems = list(gathering.problems)
    videos: list[Video] = []
    with ThreadPoolExecutor(_READERS) as readers:
        for file, video in zip(
            gathering.files,
            readers.map(lambda file: _examine(file.path, names[file.path]), gathering.files),
            strict=True,
        ):
            if isinstance(video, Video):
                videos.append(video)
            else:
                problems.append((file.path, video))
    videos.sort(key=lambda video: os.fsencode(video.path))
    problems.sort(key=lambda problem: os.fsencode(problem[0]))
    return Found(tuple(videos), tuple(error.problem for _, error in problems))


def _examine(path: str, name: str) -> Video | ReelmineError:
    """The video in a file, or why there is none."""
    try:
        facts = stat_regular(path)
        if facts.st_size == 0:
            return MediaError(f"{shown(path)} is empty (0 bytes); copy or download it again.")
        content = fingerprint(path, facts.st_size)
    except ReelmineError as error:
        return error
    except OSError as error:
        return _unreadable(path, error)
    return Video(path, name, facts.st_size, facts.st_mtime_ns, content)


def _is_media(entry: os.DirEntry[str]) -> bool:
    """Whether a file met in a folder counts; links only where they lead to a file."""
    suffix = os.path.splitext(entry.name)[1].lower()
    if suffix not in SUFFIXES or entry.name.startswith(_SKIPPED_PREFIX):
        return False
    return not entry.is_symlink() or os.path.isfile(entry.path)


def _identity(folder: str | Path) -> _Identity:
    facts = os.stat(folder)
    return facts.st_dev, facts.st_ino


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFDIR: "a folder",
    }
    return kinds.get(stat.S_IFMT(mode), "something special")


def _unreadable(path: str, error: OSError) -> UnreadableError:
    reason = error.strerror or str(error)
    return UnreadableError(
        f"{shown(path)} cannot be read ({reason}); check that it is there and its permissions."
    )


def _missing(path: str) -> UnreadableError:
    return UnreadableError(f"{shown(path)} does not exist; check the spelling.")


def _no_videos(folder: str) -> NoVideosError:
    return NoVideosError(
        f"{shown(folder)} has no videos in it; name a file in it to take it whatever its suffix."
    )
