"""How many slots, preparation workers and LLM threads, and why.

In: a snapshot of the machine, the options, the size of the model, what fitted before. Out: a plan
in which every number has its sentence (``reelmine plan`` prints them). Pure: reads nothing, starts
nothing.

Measured on CPUs (benchmarks/README.md): two processes of one thread do more than one of two, by
how much differs from processor to processor; so a CPU gets many slots of one thread.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from engine.config import Config
from engine.errors import UsageError
from engine.pools.fitting import Fit
from engine.pools.gpu_slots import Numbered, gpu_slots, with_room
from engine.pools.hardware import Hardware
from engine.pools.slots import SlotPlan, compute_type_for, decimal, gigabytes, plural

__all__ = ["CPU_BATCH", "Sizing", "SlotPlan", "size"]

_MIB = 1 << 20
_LOADING = 3  # a model while it is converted to its compute type, in sizes of its file
_PROCESS = 400 * _MIB  # a worker process without its model; a preparation worker
_PARENT = 300 * _MIB  # this process
_TORCH = 300 * _MIB  # the library, and the encoder's weights once more, in each slot

_NOTHING: Mapping[str, Fit] = MappingProxyType({})

_LLM_MOST = 128  # threads
_LLM_PER_CORE = 32
_LLM_START = 8


# Windows of a model call on a CPU, by who made it. CTranslate2 multiplies with MKL on Intel's,
# where several windows take longer for each, and with oneDNN on AMD's, where eight take less than
# four, and four less than one by one (benchmarks/batch.py). Elsewhere one: never far from the best.
CPU_BATCH = {"AuthenticAMD": 8}


@dataclass(frozen=True, slots=True)
class Sizing:
    """The plan for one machine."""

    slots: tuple[SlotPlan, ...]
    preparation: int  # worker processes
    preparation_why: str
    llm_threads: int  # calls at once to begin with
    llm_why: str
    llm_cap: int  # calls at once at most
    cores: float  # that may be used
    left_out: tuple[str, ...] = ()  # a sentence for each GPU that gets no slot

    @property
    def threads(self) -> int:
        """Of all slots together."""
        return sum(slot.threads for slot in self.slots)

    @property
    def oversubscription(self) -> float:
        """Threads of the slots over cores: above 1 they take turns."""
        return self.threads / self.cores


def size(
    hardware: Hardware,
    config: Config,
    model_bytes: int | None,
    fits: Mapping[str, Fit] = _NOTHING,
    *,
    torch: bool = False,
) -> Sizing:
    """Plan a run; UsageError for a device or compute type that cannot be had here.

    ``fits``: by the GPU's name, what worked with this model and compute type when more did not.
    ``torch``: its encoder is used.
    """
    named = _devices(hardware, config.device)
    chosen, left_out = with_room(named, config, model_bytes)
    if chosen:
        slots = gpu_slots(chosen, hardware.cores, config, model_bytes, fits)
        preparation, why = _gpu_preparation(hardware, len(chosen))
    else:
        needed = None if model_bytes is None else _needed(model_bytes, torch=torch)
        slots = _cpu_slots(hardware, config, needed)
        preparation, why = _cpu_preparation(hardware)
    start, cap, llm_why = _llm_threads(hardware, config.llm_threads)
    return Sizing(
        slots,
        preparation,
        why,
        start,
        llm_why,
        cap,
        hardware.cores,
        left_out,
    )


# --- devices ---------------------------------------------------------------------------------


def _devices(hardware: Hardware, device: str) -> list[Numbered]:
    """The GPUs to use with their CUDA numbers; none means the CPU."""
    numbered = list(enumerate(hardware.gpus))
    if device == "cpu":
        return []
    if device == "auto":
        return numbered
    if not numbered:
        notes = "".join(f" ({note})" for note in hardware.notes if "GPU" in note)
        raise UsageError(
            f"--device {device}: no GPU is known on this machine{notes};"
            " use --device cpu, or see what `reelmine doctor` says"
        )
    if device == "cuda":
        return numbered
    return [_gpu_named(part.strip(), device, numbered) for part in _parts(device)]


def _parts(device: str) -> list[str]:
    parts = list(dict.fromkeys(device.split(",")))
    if len(parts) != device.count(",") + 1:
        raise UsageError(f"--device {device}: a GPU is named twice")
    return parts


def _gpu_named(part: str, device: str, numbered: list[Numbered]) -> Numbered:
    kind, _, number = part.partition(":")
    if kind != "cuda" or not (number.isascii() and number.isdigit()):
        raise UsageError(
            f"--device {device}: {part!r} is none of auto, cpu, cuda, cuda:N or a list of cuda:N"
        )
    if int(number) >= len(numbered):
        known = ", ".join(f"cuda:{index}" for index, _ in numbered)
        raise UsageError(f"--device {device}: there is no {part} on this machine, only {known}")
    return numbered[int(number)]


# --- a machine without a GPU -----------------------------------------------------------------


def _needed(model_bytes: int, *, torch: bool) -> int:
    """Memory of a slot in bytes."""
    return model_bytes * _LOADING + _PROCESS + torch * _TORCH


def _cpu_slots(hardware: Hardware, config: Config, needed: int | None) -> tuple[SlotPlan, ...]:
    cores = max(1, int(hardware.cores))
    count, why = _cpu_count(hardware, config, cores, needed)
    batch = config.batch_size or CPU_BATCH.get(hardware.cpu_vendor or "", 1)
    compute_type = compute_type_for(config.compute_type, "cpu")
    wide, extra = divmod(cores, count)  # all cores are used, none twice
    return tuple(
        SlotPlan(
            device=f"cpu:{index}",
            pin=None,
            compute_type=compute_type,
            batch_size=batch,
            threads=max(1, wide + (index < extra)),
            why=why,
        )
        for index in range(count)
    )


def _cpu_count(
    hardware: Hardware, config: Config, cores: int, needed: int | None
) -> tuple[int, str]:
    """How many slots, and the sentence for it."""
    asked = config.slots
    have = f"{decimal(hardware.cores)} {plural('core', hardware.cores)} ({hardware.cores_source})"
    if asked is not None:
        note = "" if asked <= cores else ", more than there are cores: they take turns"
        return asked, f"{asked} {plural('slot', asked)} asked for, on {have}{note}"
    fitting = _fitting(hardware.memory, needed)
    if fitting is not None and fitting < cores and hardware.memory is not None:
        return fitting, (
            f"{fitting} {plural('slot', fitting)} on {have}: no more models fit into"
            f" {gigabytes(hardware.memory)} of memory"
        )
    if cores == 1:
        return 1, f"1 slot of 1 thread: {have}, {_no_gpu(hardware, config)}"
    return cores, (
        f"{cores} slots of 1 thread: {have}, {_no_gpu(hardware, config)};"
        " two of one thread do more than one of two"
    )


def _no_gpu(hardware: Hardware, config: Config) -> str:
    if not hardware.gpus:
        return "no GPU"
    return "no GPU used (--device cpu)" if config.device == "cpu" else "no GPU with room"


def _fitting(memory: int | None, needed: int | None) -> int | None:
    """Slots that fit into memory beside this process and one preparation worker."""
    if memory is None or needed is None:
        return None
    return max(1, (memory - _PARENT - _PROCESS) // needed)


# --- preparation -----------------------------------------------------------------------------


def _cpu_preparation(hardware: Hardware) -> tuple[int, str]:
    count = max(1, int(hardware.cores) // 4)
    return count, (
        f"{count} preparation {plural('worker', count)} beside the slots, at lower priority:"
        " one keeps at least four slots busy"
    )


def _gpu_preparation(hardware: Hardware, gpus: int) -> tuple[int, str]:
    by_cores = max(1, int(hardware.cores) - 1)
    counts = [(by_cores, "all cores but one"), (8 * gpus, "8 per GPU")]
    if hardware.memory is not None:
        room = max(1, (hardware.memory - _PARENT - gpus * _PROCESS) // _PROCESS)
        counts.append((room, f"as many as fit into {gigabytes(hardware.memory)} of memory"))
    count, reason = min(counts, key=lambda pair: pair[0])
    return count, f"{count} preparation {plural('worker', count)}: {reason}"


# --- LLM -------------------------------------------------------------------------------------


def _llm_threads(hardware: Hardware, asked: int | None) -> tuple[int, int, str]:
    """Calls at once to begin with, and at most.

    Calls wait for the network, not for cores, and each holds a few descriptors. A number that is
    asked for is both, even on few cores.
    """
    caps = [(_LLM_MOST, f"never more than {_LLM_MOST}")]
    if asked is None:
        caps.append((max(1, int(_LLM_PER_CORE * hardware.cores)), f"{_LLM_PER_CORE} per core"))
    else:
        caps.append((asked, f"{asked} asked for"))
    if hardware.descriptors is not None:
        caps.append((max(1, hardware.descriptors // 4), "a quarter of the open files allowed"))
    cap, reason = min(caps, key=lambda pair: pair[0])
    if asked is not None:
        return cap, cap, f"at most {cap}: {reason}"
    start = min(cap, _LLM_START)
    return (
        start,
        cap,
        f"{start} to begin with, more if the endpoint bears it; at most {cap}: {reason}",
    )
