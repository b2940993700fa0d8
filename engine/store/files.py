"""The one door through which files are written, and the locks that guard folders.

In: paths and bytes. Out: files that are there whole or not at all, a scratch folder that does not
outlive its run, a lock on an output folder. The locks are ``flock`` (by filelock), held by the
process: the kernel frees them however it ends, so the mere presence of a lock file means nothing.
Knows nothing about what is written.
"""

import errno
import json
import os
import secrets
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout

from engine.errors import DiskError, LockedError, OutputError, UsageError

STATE_FOLDER = ".reelmine"  # in an output folder: lock, ledger, last-run.json
_TEMPORARY = (".reelmine-", ".tmp")
_SCRATCH = "reelmine-"
_SCRATCH_LOCK = "lock"
_UNLOCKED_AGE = 60.0  # seconds after which a scratch folder without a lock file is an orphan

_REMEDIES = {
    errno.ENOSPC: "free some space and give the same command again",
    errno.EDQUOT: "free some space and give the same command again",
    errno.EACCES: "check the permissions of the folder",
    errno.EPERM: "check the permissions of the folder",
    errno.EROFS: "choose a folder on a disk that can be written",
    errno.ENAMETOOLONG: "choose an output folder with a shorter path",
}


def write_atomic(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path``: readers see the old content or the new, whatever happens.

    Written beside it, synced, renamed over it, and the folder synced. The file has the permissions
    that the umask gives. Raises DiskError naming the file and the reason; nothing is left behind.
    """
    temporary = path.parent / secrets.token_hex(8).join(_TEMPORARY)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write_synced(temporary, data)
            _replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        _sync_folder(path.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        remedy = _REMEDIES.get(error.errno or 0, "check the disk and give the same command again")
        raise DiskError(f"{path} could not be written ({reason}); {remedy}.") from error


def check_writable(folder: Path) -> None:
    """Make sure that files can be written in ``folder``, which is created; OutputError if not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / secrets.token_hex(8).join(_TEMPORARY)
        try:
            _write_synced(probe, b"probe")
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(
            f"The output folder {folder} cannot be written ({reason}); name another one with -o."
        ) from error


def sweep_temporaries(folder: Path) -> int:
    """Remove what killed runs left half-written below ``folder``; returns how many files.

    To be called by the run that holds the folder's lock. A folder inside it with a state folder of
    its own is another run's output and is left alone.
    """
    swept = 0
    for where, folders, names in os.walk(folder):
        below = Path(where)
        folders[:] = [name for name in folders if not (below / name / STATE_FOLDER).exists()]
        for name in names:
            if name.startswith(_TEMPORARY[0]) and name.endswith(_TEMPORARY[1]):
                with suppress(OSError):
                    (below / name).unlink()
                    swept += 1
    return swept


class RunLock:
    """Only one run at a time works on an output folder: a lock on ``.reelmine/lock`` in it.

    Entering raises LockedError that names the holder. The file stays after the run: only the
    kernel's lock on it counts.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / STATE_FOLDER / "lock"
        self._lock = FileLock(self._file, thread_local=False)

    def __enter__(self) -> Self:
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise LockedError(self._held()) from None
        except OSError as error:
            reason = error.strerror or str(error)
            raise OutputError(
                f"The output folder {self._folder} cannot be locked ({reason}); "
                "name another one with -o."
            ) from error
        self._sign()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.release()

    def _sign(self) -> None:
        """Say in the file who holds it; only people read that."""
        started = datetime.now().astimezone().isoformat(timespec="seconds")
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "started": started}
        self._file.write_text(json.dumps(holder), encoding="utf-8")

    def _held(self) -> str:
        try:
            holder = json.loads(self._file.read_text(encoding="utf-8"))
            who = f"process {holder['pid']} on {holder['host']}, since {holder['started']}"
        except (OSError, ValueError, KeyError, TypeError):  # being written just now
            who = "it has not signed yet"
        return (
            f"Another run is working on {self._folder} ({who}); "
            "wait for it to end, or name another folder with -o."
        )


class ScratchFolder:
    """A folder for one run's intermediate files, removed when the run ends.

    It lies below ``parent`` (default: SLURM_TMPDIR, TMPDIR, then the system's), is locked while it
    lives, and entering it also removes those of our user whose run was killed. ``path`` may be used
    between enter and exit. Entering raises UsageError where no folder can be made.
    """

    path: Path

    def __init__(self, parent: Path | None = None) -> None:
        self._parent = parent or default_scratch(os.environ)
        self._lock: FileLock | None = None

    def __enter__(self) -> Self:
        try:
            self._parent.mkdir(parents=True, exist_ok=True)
            _sweep_scratch(self._parent)
            while self._lock is None:
                self.path = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=self._parent)).absolute()
                self._lock = _take(self.path)
        except OSError as error:
            reason = error.strerror or str(error)
            raise UsageError(
                f"No scratch folder can be made in {self._parent} ({reason}); "
                "name another place with --scratch."
            ) from error
        return self

    @property
    def free(self) -> int | None:
        """Bytes that fit there now; None: it cannot be told."""
        try:
            return shutil.disk_usage(self.path).free
        except OSError:
            return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._lock is not None:
            _remove(self.path, self._lock)
            self._lock = None


def default_scratch(env: Mapping[str, str]) -> Path:
    """Where scratch goes if nobody says: the first of these that is a folder."""
    for name in ("SLURM_TMPDIR", "TMPDIR"):
        value = env.get(name)
        if value and os.path.isdir(value):
            return Path(value)
    return Path(tempfile.gettempdir())


def _sweep_scratch(parent: Path) -> None:
    for folder in _own_folders(parent):
        with suppress(OSError):  # what cannot be locked is not ours to remove
            lock = _take(folder)
            if lock is not None:
                _remove(folder, lock)


def _own_folders(parent: Path) -> Iterator[Path]:
    """Scratch folders of this user that no living run is just setting up; never through a link."""
    for folder in parent.glob(_SCRATCH + "*"):
        try:
            facts = folder.lstat()
            locked = (folder / _SCRATCH_LOCK).exists()
        except OSError:
            continue
        old = time.time() - facts.st_mtime > _UNLOCKED_AGE
        ours = not hasattr(os, "getuid") or facts.st_uid == os.getuid()
        if stat.S_ISDIR(facts.st_mode) and ours and (locked or old):
            yield folder


def _take(folder: Path) -> FileLock | None:
    """The lock of a scratch folder; None if another process has it or has just removed it."""
    lock = FileLock(folder / _SCRATCH_LOCK, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except (Timeout, FileNotFoundError):
        return None
    if not (folder / _SCRATCH_LOCK).exists():  # a sweeper was quicker than we
        lock.release()
        return None
    return lock


def _remove(folder: Path, lock: FileLock) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    lock.release()  # not before: until it is empty nobody else may take it for an orphan
    shutil.rmtree(folder, ignore_errors=True)  # Windows keeps a locked file until its release


# -- the system calls of write_atomic, one function each, so that a test can make the n-th fail --


def _write_synced(path: Path, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    flags |= getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    descriptor = _open(path, flags)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[_write(descriptor, rest) :]
        _fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # a folder cannot be opened there
        return
    descriptor = _open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network disks have no such call
            raise
    finally:
        os.close(descriptor)


def _open(path: Path, flags: int) -> int:
    return os.open(path, flags, 0o666)


def _write(descriptor: int, data: memoryview) -> int:
    return os.write(descriptor, data)


def _fsync(descriptor: int) -> None:
    os.fsync(descriptor)


def _replace(source: Path, target: Path) -> None:
    os.replace(source, target)
