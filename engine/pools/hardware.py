"""What this process may use: cores, memory, GPUs, descriptors; and how busy they are.

In: the environment, ``/proc`` and ``/sys`` (or a recorded copy), NVML where it is installed. Out:
one frozen ``Hardware`` value for sizing, and ``Gauges`` for the monitor. The only importer of
psutil and NVML. Knows nothing about models, options or what anybody does with the numbers. What
cannot be read is ``None`` with a note, never a guess.

Meaning of CUDA_VISIBLE_DEVICES: CUDA C++ Programming Guide, "CUDA environment variables".
"""

import importlib
import os
import resource
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import psutil

from engine.pools.cgroups import Limits, control_group_limits, read_text

_MEBIBYTE = 1 << 20

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One CUDA device, whole or a MIG slice."""

    index: str  # the entry of CUDA_VISIBLE_DEVICES that shows a process this device alone
    name: str
    total: int | None  # bytes
    free: int | None  # bytes, when the snapshot was taken
    uuid: str | None
    mig: bool


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
    found, gpu_notes = (list_gpus or _nvml_gpus)()
    notes += gpu_notes
    return Hardware(
        cores=cores,
        cores_source=source,
        memory=_memory(env, root, limits, notes),
        gpus=tuple(_visible(found, env, notes)),
        descriptors=_descriptors(),
        notes=tuple(notes),
        cpu_vendor=_cpu(root, "vendor_id"),
        cpu_features=frozenset((_cpu(root, "flags") or "").split()),
    )


class Gauges:
    """Reads how busy the machine is; belongs to one thread, holds NVML open until ``close``."""

    def __init__(self, gpus: tuple[Gpu, ...] = ()) -> None:
        self._gpus = gpus
        self._nvml = _open_nvml()[0] if gpus else None
        psutil.cpu_percent(interval=None)  # the first value compares with nothing

    def read(self) -> Reading:
        """One reading; a gauge that does not answer is ``None``."""
        return Reading(
            cpu=_or_none(lambda: float(psutil.cpu_percent(interval=None)) / 100),
            memory=_or_none(lambda: int(psutil.virtual_memory().used)),
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


# --- GPUs ------------------------------------------------------------------------------------


def _open_nvml() -> tuple[Any, str | None]:
    """The NVML module, initialised, or None and why not."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return None, "GPUs are not known: nvidia-ml-py is not installed (pip install reelmine[gpu])"
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return None, f"no NVIDIA GPU is known: {error}"
    return nvml, None


def _nvml_gpus() -> tuple[list[Gpu], list[str]]:
    """All GPUs of the machine in PCI order; where MIG is on, its slices instead."""
    nvml, reason = _open_nvml()
    if nvml is None:
        return [], [reason] if reason else []
    gpus: list[Gpu] = []
    notes: list[str] = []
    try:
        for number in range(nvml.nvmlDeviceGetCount()):
            try:
                handle = nvml.nvmlDeviceGetHandleByIndex(number)
                slices = _mig_handles(nvml, handle)
                name = _string(nvml.nvmlDeviceGetName(handle))
                if slices is None:
                    gpus.append(_gpu(nvml, handle, str(number), name, mig=False))
                else:
                    gpus += [_gpu(nvml, part, str(number), name, mig=True) for part in slices]
            except nvml.NVMLError as error:
                notes.append(f"GPU {number} does not answer: {error}")
    finally:
        nvml.nvmlShutdown()
    return gpus, notes


def _mig_handles(nvml: Any, handle: Any) -> list[Any] | None:
    """The slices of a GPU in MIG mode (perhaps none), or None if it is whole."""
    try:
        if nvml.nvmlDeviceGetMigMode(handle)[0] == 0:
            return None
    except nvml.NVMLError:  # not a card that has MIG
        return None
    slices = []
    for number in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            slices.append(nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number))
        except nvml.NVMLError:  # an empty place
            continue
    return slices


def _gpu(nvml: Any, handle: Any, number: str, name: str, *, mig: bool) -> Gpu:
    uuid = _string(nvml.nvmlDeviceGetUUID(handle))
    total: int | None = None
    free: int | None = None
    with suppress(nvml.NVMLError):  # unified memory has no such figure
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        total, free = int(memory.total), int(memory.free)
    return Gpu(index=uuid or number, name=name, total=total, free=free, uuid=uuid, mig=mig)


def _string(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _visible(gpus: list[Gpu], env: Mapping[str, str], notes: list[str]) -> list[Gpu]:
    """What CUDA_VISIBLE_DEVICES leaves, in its order; CUDA stops at the first wrong entry."""
    if "CUDA_VISIBLE_DEVICES" not in env:
        return gpus
    shown: list[Gpu] = []
    for entry in (part.strip() for part in env["CUDA_VISIBLE_DEVICES"].split(",")):
        gpu = _match(entry, gpus, env)
        if gpu is None:
            if gpus and entry not in ("", "-1", "NoDevFiles"):
                notes.append(f"CUDA_VISIBLE_DEVICES names {entry}, which is not here")
            break
        shown.append(replace(gpu, index=entry))  # passed through: it means the same to a child
    return shown


def _match(entry: str, gpus: list[Gpu], env: Mapping[str, str]) -> Gpu | None:
    if entry.isascii() and entry.isdigit():
        return _numbered(int(entry), gpus, env)
    if not entry.startswith(("GPU-", "MIG-")):
        return None
    hits = [gpu for gpu in gpus if gpu.uuid is not None and gpu.uuid.startswith(entry)]
    return hits[0] if len(hits) == 1 else None  # a prefix is allowed if it is unique


def _numbered(number: int, gpus: list[Gpu], env: Mapping[str, str]) -> Gpu | None:
    """CUDA numbers the fastest card first, NVML by slot: the same only for equal cards."""
    if number >= len(gpus):
        return None
    same_order = env.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    if same_order or len({gpu.name for gpu in gpus}) == 1:
        return gpus[number]
    return Gpu(str(number), "unknown GPU", total=None, free=None, uuid=None, mig=False)
