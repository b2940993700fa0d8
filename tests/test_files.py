"""Files that are there whole or not at all, and locks that end with their process."""

import errno
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from engine.errors import DiskError, LockedError, OutputError, UsageError
from engine.store import files
from engine.store.files import (
    RunLock,
    ScratchFolder,
    check_writable,
    default_scratch,
    sweep_temporaries,
    write_atomic,
)

CALLS = ("_open", "_write", "_fsync", "_replace")


class Faults:
    """Lets the n-th system call of `write_atomic` fail, and counts them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fail_at: int, code: int) -> None:
        self.count = 0
        for name in CALLS:
            monkeypatch.setattr(files, name, self._around(getattr(files, name), fail_at, code))

    def _around(self, call: Callable[..., Any], fail_at: int, code: int) -> Callable[..., Any]:
        def wrapped(*args: Any) -> Any:
            self.count += 1
            if self.count == fail_at:
                raise OSError(code, os.strerror(code))
            return call(*args)

        return wrapped


@contextmanager
def child(program: str, *args: object) -> Iterator[subprocess.Popen[str]]:
    """A real process that prints a line when it has entered, and then waits to be killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, args)], stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


HOLD_LOCK = """
import sys, time; from pathlib import Path; from engine.store.files import RunLock
with RunLock(Path(sys.argv[1])):
    print("held", flush=True); time.sleep(60)
"""
HOLD_SCRATCH = """
import sys, time; from pathlib import Path; from engine.store.files import ScratchFolder
with ScratchFolder(Path(sys.argv[1])) as scratch:
    (scratch.path / "rows").write_bytes(b"x" * 1000)
    print(scratch.path, flush=True); time.sleep(60)
"""
WRITE_ON = """
import sys; from pathlib import Path; from engine.store.files import write_atomic
print("on", flush=True)
while True:
    for letter in b"ab":
        write_atomic(Path(sys.argv[1]), bytes([letter]) * 400_000)
"""


def test_file_is_written_with_its_folders(tmp_path: Path) -> None:
    write_atomic(tmp_path / "season 1" / "a" / "talk.json", b"content")
    assert (tmp_path / "season 1" / "a" / "talk.json").read_bytes() == b"content"
    write_atomic(tmp_path / "season 1" / "a" / "talk.json", b"")
    assert (tmp_path / "season 1" / "a" / "talk.json").read_bytes() == b""
    assert os.listdir(tmp_path / "season 1" / "a") == ["talk.json"]


def test_name_as_long_as_the_disk_allows_can_be_written(tmp_path: Path) -> None:
    write_atomic(tmp_path / ("n" * 255), b"content")
    assert (tmp_path / ("n" * 255)).read_bytes() == b"content"


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_file_has_the_permissions_that_the_umask_gives(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_atomic(tmp_path / "talk.json", b"content")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "talk.json").stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_any_failing_system_call_leaves_old_or_new_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    target = tmp_path / "talk.json"
    with monkeypatch.context() as patch:
        counted = Faults(patch, 0, code)
        write_atomic(target, b"old")
    assert counted.count >= 6  # open, write, sync, rename, open folder, sync folder
    for n in range(1, counted.count + 1):
        target.write_bytes(b"old")
        with monkeypatch.context() as patch:
            Faults(patch, n, code)
            with pytest.raises(DiskError) as caught:
                write_atomic(target, b"new")
        renamed = n > 4
        assert target.read_bytes() == (b"new" if renamed else b"old")
        assert os.listdir(tmp_path) == ["talk.json"]
        assert str(target) in str(caught.value)
        assert os.strerror(code) in str(caught.value)
        assert isinstance(caught.value.__cause__, OSError)


def test_full_disk_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Faults(monkeypatch, 2, errno.ENOSPC)
    with pytest.raises(DiskError, match="free some space and give the same command again"):
        write_atomic(tmp_path / "talk.json", b"new")


def test_disk_that_takes_a_few_bytes_at_a_time_gets_them_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_write", lambda descriptor, data: os.write(descriptor, data[:7]))
    content = os.urandom(1000)
    write_atomic(tmp_path / "talk.json", content)
    assert (tmp_path / "talk.json").read_bytes() == content


def test_network_disk_that_cannot_sync_a_folder_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = Faults(monkeypatch, 6, errno.EINVAL)
    write_atomic(tmp_path / "talk.json", b"new")
    assert faults.count == 6
    assert (tmp_path / "talk.json").read_bytes() == b"new"


def test_interrupted_write_leaves_no_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "_fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "talk.json", b"new")
    assert os.listdir(tmp_path) == []


def test_folder_in_the_place_of_the_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "talk.json").mkdir()
    with pytest.raises(DiskError, match=r"talk\.json"):
        write_atomic(tmp_path / "talk.json", b"new")
    assert os.listdir(tmp_path) == ["talk.json"]


def test_file_in_the_place_of_the_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "season").write_bytes(b"")
    with pytest.raises(DiskError, match="season"):
        write_atomic(tmp_path / "season" / "talk.json", b"new")


def test_kills_while_writing_never_leave_a_torn_file(tmp_path: Path) -> None:
    target = tmp_path / "talk.json"
    whole = {bytes([letter]) * 400_000 for letter in b"ab"}
    write_atomic(target, min(whole))
    for n in range(8):
        with child(WRITE_ON, target) as process:
            first_line(process)
            time.sleep(0.01 + 0.007 * n)
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert target.read_bytes() in whole
    left = len(os.listdir(tmp_path)) - 1
    assert sweep_temporaries(tmp_path) == left
    assert os.listdir(tmp_path) == ["talk.json"]


def test_sweep_takes_our_temporaries_at_any_depth_and_nothing_else(tmp_path: Path) -> None:
    ours = [tmp_path / ".reelmine-0011.tmp", tmp_path / "a" / "b" / ".reelmine-2233.tmp"]
    ours.append(tmp_path / ".reelmine" / ".reelmine-4455.tmp")
    others = [tmp_path / "x.tmp", tmp_path / ".reelmine-notes", tmp_path / "a" / "talk.json"]
    inner = tmp_path / "a" / "other run" / ".reelmine-6677.tmp"  # may be in use
    (inner.parent / ".reelmine").mkdir(parents=True)
    for path in (*ours, *others, inner):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    assert sweep_temporaries(tmp_path) == 3
    assert not any(path.exists() for path in ours)
    assert all(path.exists() for path in (*others, inner))


def test_writable_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    check_writable(tmp_path / "out" / "deep")
    assert os.listdir(tmp_path / "out" / "deep") == []


def test_output_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"")
    for folder in (tmp_path / "out", tmp_path / "out" / "deep"):
        with pytest.raises(OutputError, match=r"cannot be written .* name another one with -o"):
            check_writable(folder)


def test_output_folder_on_a_full_disk_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Faults(monkeypatch, 2, errno.ENOSPC)
    with pytest.raises(OutputError, match="No space left"):
        check_writable(tmp_path)
    assert os.listdir(tmp_path) == []


def test_second_run_on_a_folder_is_told_who_holds_it(tmp_path: Path) -> None:
    with child(HOLD_LOCK, tmp_path) as process:
        assert first_line(process) == "held"
        with pytest.raises(LockedError) as caught, RunLock(tmp_path):
            pass
        assert f"process {process.pid} on {socket.gethostname()}" in str(caught.value)
        signed = json.loads((tmp_path / ".reelmine" / "lock").read_text())
        assert signed["started"] in str(caught.value)
        assert signed["pid"] == process.pid


def test_lock_of_a_killed_run_is_free(tmp_path: Path) -> None:
    with child(HOLD_LOCK, tmp_path) as process:
        first_line(process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    with RunLock(tmp_path):
        assert json.loads((tmp_path / ".reelmine" / "lock").read_text())["pid"] == os.getpid()


def test_lock_is_exclusive_within_a_process_and_can_be_taken_again(tmp_path: Path) -> None:
    for _ in range(2):
        with RunLock(tmp_path / "out"), pytest.raises(LockedError), RunLock(tmp_path / "out"):
            pass


def test_lock_whose_holder_has_not_signed_is_still_held(tmp_path: Path) -> None:
    with RunLock(tmp_path):
        (tmp_path / ".reelmine" / "lock").write_text("")
        with pytest.raises(LockedError, match="not signed yet"), RunLock(tmp_path):
            pass


def test_folder_that_cannot_hold_a_lock_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot be locked"), RunLock(tmp_path / "out"):
        pass


def test_scratch_folder_is_private_and_gone_after_use(tmp_path: Path) -> None:
    with ScratchFolder(tmp_path / "scratch") as scratch:
        assert scratch.path.parent == tmp_path / "scratch"
        assert stat.S_IMODE(scratch.path.stat().st_mode) == 0o700
        (scratch.path / "deep").mkdir()
        (scratch.path / "deep" / "rows").write_bytes(b"x")
    assert os.listdir(tmp_path / "scratch") == []


def test_scratch_folder_is_gone_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), ScratchFolder(tmp_path):
        raise RuntimeError
    assert os.listdir(tmp_path) == []


def test_scratch_of_a_killed_run_is_swept_and_that_of_a_living_one_is_not(tmp_path: Path) -> None:
    with child(HOLD_SCRATCH, tmp_path) as alive, child(HOLD_SCRATCH, tmp_path) as dead:
        living, orphan = Path(first_line(alive)), Path(first_line(dead))
        dead.send_signal(signal.SIGKILL)
        dead.wait()
        assert (orphan / "rows").exists()
        with ScratchFolder(tmp_path) as scratch:
            assert sorted(tmp_path.iterdir()) == sorted([living, scratch.path])
        assert (living / "rows").read_bytes() == b"x" * 1000


def test_sweep_of_scratch_leaves_what_is_not_an_orphan_of_ours(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "lock").write_bytes(b"")
    (tmp_path / "reelmine-link").symlink_to(precious)
    (tmp_path / "reelmine-file").write_bytes(b"")
    (tmp_path / "reelmine-starting").mkdir()  # another run has made it, and not locked it yet
    (tmp_path / "reelmine-old").mkdir()
    os.utime(tmp_path / "reelmine-old", (0, 0))
    with ScratchFolder(tmp_path):
        pass
    assert sorted(os.listdir(tmp_path)) == [
        *("precious", "reelmine-file", "reelmine-link", "reelmine-starting")
    ]
    assert (precious / "lock").exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make another user's folder")
def test_scratch_of_another_user_is_not_swept(tmp_path: Path) -> None:
    theirs = tmp_path / "reelmine-theirs"
    theirs.mkdir()
    (theirs / "lock").write_bytes(b"")
    os.chown(theirs, 65534, 65534)
    with ScratchFolder(tmp_path):
        pass
    assert (theirs / "lock").exists()


def test_many_runs_that_start_and_end_together_each_keep_their_scratch(tmp_path: Path) -> None:
    program = """
import sys; from pathlib import Path; from engine.store.files import ScratchFolder
for _ in range(40):
    with ScratchFolder(Path(sys.argv[1])) as scratch:
        (scratch.path / "rows").write_bytes(b"mine")
        assert (scratch.path / "rows").read_bytes() == b"mine"
        assert (scratch.path / "lock").exists()
"""
    runs = [subprocess.Popen([sys.executable, "-c", program, tmp_path]) for _ in range(3)]
    assert [run.wait(timeout=60) for run in runs] == [0, 0, 0]
    assert os.listdir(tmp_path) == []


def test_scratch_goes_where_the_environment_says(tmp_path: Path) -> None:
    env = {"SLURM_TMPDIR": str(tmp_path / "job"), "TMPDIR": str(tmp_path)}
    assert default_scratch(env) == tmp_path  # the first one is no folder
    (tmp_path / "job").mkdir()
    assert default_scratch(env) == tmp_path / "job"
    assert default_scratch({}).is_dir()


def test_scratch_that_cannot_be_made_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="--scratch"), ScratchFolder(tmp_path / "file"):
        pass
