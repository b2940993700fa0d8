"""What this process may use: cores, memory, GPUs, descriptors; and how busy they are.

In: the environment, ``/proc`` and ``/sys`` (or a recorded copy), the GPUs (gpus.py). Out: one
frozen ``Hardware`` value for sizing, and ``Gauges`` for the monitor. The only importer of psutil.
Knows nothing about models, options or what anybody does with the numbers. What cannot be read is
``None`` with a note, never a guess.
"""

import os
import resource
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil

from engine.pools.cgroups import Limits, control_group_limits, memory_left, read_text
from engine.pools.gpus import Gpu, nvml_gpus, open_nvml, visible

_MEBIBYTE = 1 << 20

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Hardware:
    """What this process may use."""

    cores: float  # a quota may be a fraction
    cores_source: str  # which limit that is
    memory: int | None  # bytes
    gpus: tuple[Gpu, ...]  # in the order CUDA numbers them
    descriptors: int | None
    notes: tuple[str, ...] = ()
    cpu_vendor: str | None = None  # as the CPU names itself: "GenuineIntel", "AuthenticAMD"
    cpu_features: frozenset[str] = frozenset()  # as Linux names them: "avx512_bf16", "amx_bf16"


@dataclass(frozen=True, slots=True)
class Reading:
    """How busy the machine is; shares are 0..1."""

    cpu: float | None  # of all cores of the machine, since the last reading
    memory: int | None  # bytes in use on the machine
    memory_left: int | None  # bytes that this process and its workers could still get
    gpus: tuple[float | None, ...]  # in the order of ``Hardware.gpus``


def snapshot(
    env: Mapping[str, str] = os.environ,
    root: Path = Path("/"),
    *,
    affinity: int | None = None,
    list_gpus: Callable[[], tuple[list[Gpu], list[str]]] | None = None,
) -> Hardware:
    """Read everything once.

    ``root`` may be a recorded tree with ``proc`` and ``sys`` below it; ``affinity`` (number of
    cores) and ``list_gpus`` then stand for what the kernel and NVML would say.
    """
    notes: list[str] = []
    limits = control_group_limits(root, notes)
    cores, source = _cores(env, limits, affinity, notes)
    found, gpu_notes = (list_gpus or nvml_gpus)()
    notes += gpu_notes
    return Hardware(
        cores=cores,
        cores_source=source,
        memory=_memory(env, root, limits, notes),
        gpus=tuple(visible(found, env, notes)),
        descriptors=_descriptors(),
        notes=tuple(notes),
        cpu_vendor=_cpu(root, "vendor_id"),
        cpu_features=frozenset((_cpu(root, "flags") or "").split()),
    )


class Gauges:
    """Reads how busy the machine is; belongs to one thread, holds NVML open until ``close``."""

    def __init__(self, gpus: tuple[Gpu, ...] = ()) -> None:
        self._gpus = gpus
        self._nvml = open_nvml()[0] if gpus else None
        psutil.cpu_percent(interval=None)  # the first value compares with nothing

    def read(self) -> Reading:
        """One reading; a gauge that does not answer is ``None``."""
        return Reading(
            cpu=_or_none(lambda: float(psutil.cpu_percent(interval=None)) / 100),
            memory=_or_none(lambda: int(psutil.virtual_memory().used)),
            memory_left=left_now(),
            gpus=tuple(self._use(gpu) for gpu in self._gpus),
        )

    def close(self) -> None:
        """Let NVML go."""
        if self._nvml is not None:
            self._nvml.nvmlShutdown()
            self._nvml = None

    def _use(self, gpu: Gpu) -> float | None:
        nvml = self._nvml
        if nvml is None or gpu.uuid is None or gpu.mig:  # NVML gives no utilisation for a slice
            return None
        try:
            handle = nvml.nvmlDeviceGetHandleByUUID(gpu.uuid)
            return float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu) / 100
        except nvml.NVMLError:
            return None


def left_now(root: Path = Path("/")) -> int | None:
    """Bytes of memory that can still be had: of the machine, and below our groups' limits."""
    notes: list[str] = []  # the snapshot has told what cannot be read
    found = (_available(root, notes), memory_left(root, notes))
    return min((left for left in found if left is not None), default=None)


def _or_none(read: Callable[[], _T]) -> _T | None:
    try:
        return read()
    except (OSError, psutil.Error):
        return None


# --- cores and memory ------------------------------------------------------------------------


def _cores(
    env: Mapping[str, str], limits: Limits, affinity: int | None, notes: list[str]
) -> tuple[float, str]:
    found = [_affinity(affinity)]
    if limits.cores is not None:
        found.append((limits.cores, "cgroup quota"))
    job = _positive(env, "SLURM_CPUS_PER_TASK", notes)
    if job is not None:
        found.append((float(job), "SLURM_CPUS_PER_TASK"))
    return min(found, key=lambda limit: limit[0])  # equal: the first named


def _affinity(given: int | None) -> tuple[float, str]:
    if given is not None:
        return float(given), "affinity"
    if hasattr(os, "sched_getaffinity"):
        return float(len(os.sched_getaffinity(0))), "affinity"
    return float(os.cpu_count() or 1), "processors of the machine"


def _memory(env: Mapping[str, str], root: Path, limits: Limits, notes: list[str]) -> int | None:
    job = _positive(env, "SLURM_MEM_PER_NODE", notes)
    found = (
        _available(root, notes),
        limits.memory,
        None if job is None else job * _MEBIBYTE,
    )
    return min((limit for limit in found if limit is not None), default=None)


def _available(root: Path, notes: list[str]) -> int | None:
    """What the kernel could give without swapping."""
    meminfo = read_text(root / "proc/meminfo", notes)
    for line in (meminfo or "").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    if root == Path("/"):  # not Linux
        return _or_none(lambda: int(psutil.virtual_memory().available))
    return None


def _cpu(root: Path, field: str) -> str | None:
    """What the first processor says of itself; None where Linux does not tell."""
    try:
        lines = (root / "proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    named = (line.partition(":")[2].strip() for line in lines if line.startswith(field))
    return next(named, None)


def _descriptors() -> int | None:
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def _positive(env: Mapping[str, str], name: str, notes: list[str]) -> int | None:
    value = env.get(name, "").strip()
    if not value or value == "0":  # Slurm: 0 is "all there is"
        return None
    if value.isascii() and value.isdigit():
        return int(value)
    notes.append(f"{name}={value} is not a number and was not used")
    return None
