"""Machines that were recorded: a /proc and /sys tree, an environment, what NVML answers."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.pools.hardware import Hardware, snapshot

MIB, GIB = 1 << 20, 1 << 30

V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1_MOUNTS = (
    "31 23 0:27 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n"
    "32 31 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "33 31 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)


def meminfo(available: int) -> str:
    """What the kernel says of a machine with so many bytes available."""
    total = f"MemTotal:       {available * 2 // 1024} kB\nMemFree:         1024 kB\n"
    return f"{total}MemAvailable:   {available // 1024} kB\n"


def machine(root: Path, files: Mapping[str, str]) -> Path:
    """A recorded tree; 64 GiB are available if it does not say."""
    for name, text in {"proc/meminfo": meminfo(64 * GIB), **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def card(number: int, name: str, total: int, free: int | None = None, **more: Any) -> Any:
    """A GPU as NVML describes it; bytes in GiB."""
    uuid = f"GPU-{number:08d}-aaaa"
    free = total if free is None else free
    return {"uuid": uuid, "name": name, "total": total * GIB, "free": free * GIB, **more}


def slices(number: int, count: int, memory: int) -> list[Any]:
    """The MIG slices of a card."""
    found = [card(0, "slice", memory) for _ in range(count)]
    return [gpu | {"uuid": f"MIG-{number}{n:07d}-aaaa"} for n, gpu in enumerate(found)]


def fake_nvml(folder: Path, gpus: Sequence[Any] | str) -> None:
    """A module for ``sys.path`` that answers for these cards; a text: why it does not."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(__file__).parent / "nvml" / "pynvml.py", folder)
    (folder / "gpus.json").write_text(json.dumps(gpus))


def recorded(root: Path, files: Mapping[str, str], env: Mapping[str, str], cores: int) -> Hardware:
    """The snapshot of a recorded machine; this process's limit of open files is not part of it."""
    found = snapshot(env, machine(root, files), affinity=cores)
    return replace(found, descriptors=1024)
