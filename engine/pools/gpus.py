"""The CUDA devices of this machine, by NVML, and which of them this process may use.

In: NVML where it is installed, and CUDA_VISIBLE_DEVICES. Out: ``Gpu`` records in the order CUDA
numbers them; what NVML does not say is ``None``, with a note. The only importer of NVML. Knows
nothing about processors and memory of the host, models or options.

Meaning of CUDA_VISIBLE_DEVICES: CUDA C++ Programming Guide, "CUDA environment variables".
"""

import importlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

NOT_INSTALLED = "GPUs are not known: nvidia-ml-py is not installed (pip install reelmine[gpu])"
_DRIVER = Path("/proc/driver/nvidia/version")
_FLOAT16 = 7  # compute capability from which CTranslate2 takes it (mayiuse_float16 in its types.cc)


@dataclass(frozen=True, slots=True)
class Gpu:
    """One CUDA device, whole or a MIG slice."""

    index: str  # the entry of CUDA_VISIBLE_DEVICES that shows a process this device alone
    name: str
    total: int | None  # bytes
    free: int | None  # bytes, when the snapshot was taken
    uuid: str | None
    mig: bool
    float16: bool = True  # can be computed in; where NVML does not tell, it is taken for granted


def nvml_gpus() -> tuple[list[Gpu], list[str]]:
    """All GPUs of the machine in PCI order; where MIG is on, its slices instead."""
    nvml, reason = open_nvml()
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


def visible(gpus: list[Gpu], env: Mapping[str, str], notes: list[str]) -> list[Gpu]:
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


def free_now(env: Mapping[str, str]) -> int | None:
    """Bytes free at this moment on the first device that ``env`` shows; None: not known."""
    shown = visible(nvml_gpus()[0], env, [])
    return shown[0].free if shown else None


def open_nvml() -> tuple[Any, str | None]:
    """The NVML module, initialised, or None and why not."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return None, NOT_INSTALLED
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return None, f"no NVIDIA GPU is known: {error}"
    return nvml, None


def left_unused(notes: Iterable[str], driver: Path = _DRIVER) -> list[str]:
    """Notes that a run tells; without a driver for GPUs, their missing library is no loss."""
    return [note for note in notes if note != NOT_INSTALLED or driver.exists()]


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
    float16 = True
    with suppress(nvml.NVMLError):
        float16 = nvml.nvmlDeviceGetCudaComputeCapability(handle)[0] >= _FLOAT16
    return Gpu(uuid or number, name, total, free, uuid, mig, float16)


def _string(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


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
