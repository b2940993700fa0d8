"""The limits that control groups set this process, cores and memory, and how far they are reached.

In: ``/proc/self/cgroup``, ``/proc/self/mountinfo`` and the cgroup file systems, versions 1 and 2
and both mixed, or a recorded copy. Out: the tightest limits of our own group and all above it.
Knows nothing about processors, jobs and GPUs.

Formats: Linux ``cgroup-v2.rst``, ``cgroup-v1/memory.rst``, ``scheduler/sched-bwc.rst``,
``proc_pid_mountinfo(5)``.
"""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_UNLIMITED = 1 << 60  # bytes; version 1 writes "no limit" as the largest page-aligned number


@dataclass(frozen=True, slots=True)
class Limits:
    """The tightest of all groups; None: not limited, or not known."""

    cores: float | None
    memory: int | None  # bytes


@dataclass(frozen=True, slots=True)
class _Group:
    """The directory of a control group that limits us."""

    folder: Path
    version: int


def control_group_limits(root: Path, notes: list[str]) -> Limits:
    """Read them below ``root``; files that are there and cannot be read are added to ``notes``."""
    groups = _groups(root, notes)
    cores = [_cores(group, notes) for group in groups]
    memory = [_memory(group, notes) for group in groups]
    return Limits(
        min((limit for limit in cores if limit is not None), default=None),
        min((limit for limit in memory if limit is not None), default=None),
    )


def memory_left(root: Path, notes: list[str]) -> int | None:
    """Bytes below the limit of the group, ours or one above, that is nearest to its own.

    What the kernel would give back first (file pages not used lately) counts as left.
    """
    left = [_left(group, notes) for group in _groups(root, notes)]
    return min((room for room in left if room is not None), default=None)


def read_text(path: Path, notes: list[str]) -> str | None:
    """The content, or None; not there is normal, not readable is noted."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        notes.append(f"{path} cannot be read: {error.strerror}")
        return None


def _groups(root: Path, notes: list[str]) -> list[_Group]:
    """Our own groups and all above them."""
    mounts = _mounts(read_text(root / "proc/self/mountinfo", notes) or "")
    groups: list[_Group] = []
    for line in (read_text(root / "proc/self/cgroup", notes) or "").splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):  # "" in version 2
            if controller in ("", "cpu", "memory") and controller in mounts:
                version = 1 if controller else 2
                folders = _upwards(root, *mounts[controller], path)
                groups += [_Group(folder, version) for folder in folders]
    return groups


def _mounts(mountinfo: str) -> dict[str, tuple[str, str]]:
    """Controller ("" for version 2) -> the group shown at the mount point, the mount point."""
    mounts: dict[str, tuple[str, str]] = {}
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        shown = (_unescaped(fields[3]), _unescaped(fields[4]))
        if kind[0] == "cgroup2":
            mounts.setdefault("", shown)
        elif kind[0] == "cgroup":
            for controller in kind[2].split(","):
                mounts.setdefault(controller, shown)
    return mounts


def _unescaped(field: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, character)
    return field


def _upwards(root: Path, top: str, point: str, path: str) -> list[Path]:
    """From our group to the mount point; a container may be shown only a part of the tree."""
    try:
        below = PurePosixPath(path).relative_to(top)
    except ValueError:
        below = PurePosixPath(".")
    if ".." in below.parts:  # outside our namespace: not to be seen from here
        below = PurePosixPath(".")
    base = root / point.lstrip("/")
    return [base / part for part in (below, *below.parents)]


def _cores(group: _Group, notes: list[str]) -> float | None:
    """Quota by period; "max" (version 2) and -1 (version 1) are no limit."""
    if group.version == 2:
        words = (read_text(group.folder / "cpu.max", notes) or "").split()
    else:
        quota = read_text(group.folder / "cpu.cfs_quota_us", notes)
        period = read_text(group.folder / "cpu.cfs_period_us", notes)
        words = [*(quota or "").split(), *(period or "").split()]
    if len(words) != 2 or not all(word.isdigit() and int(word) for word in words):
        return None
    return int(words[0]) / int(words[1])


def _memory(group: _Group, notes: list[str]) -> int | None:
    name = "memory.max" if group.version == 2 else "memory.limit_in_bytes"
    value = (read_text(group.folder / name, notes) or "").strip()
    return int(value) if value.isdigit() and int(value) < _UNLIMITED else None


def _left(group: _Group, notes: list[str]) -> int | None:
    limit = _memory(group, notes)
    if limit is None:
        return None
    name = "memory.current" if group.version == 2 else "memory.usage_in_bytes"
    used = (read_text(group.folder / name, notes) or "").strip()
    if not used.isdigit():
        return None
    return max(0, limit - max(0, int(used) - _reclaimable(group, notes)))


def _reclaimable(group: _Group, notes: list[str]) -> int:
    """File pages of a group and all below it that nobody has touched lately."""
    name = "inactive_file" if group.version == 2 else "total_inactive_file"
    for line in (read_text(group.folder / "memory.stat", notes) or "").splitlines():
        word, _, value = line.partition(" ")
        if word == name and value.isdigit():
            return int(value)
    return 0
