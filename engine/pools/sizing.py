"""How many slots, preparation workers and LLM threads, and why.

In: a snapshot of the machine, the options, the size of the model. Out: a plan in which every number
has its sentence (``reelmine plan`` prints them). Pure: reads nothing, starts nothing.

Measured on CPUs (benchmarks/README.md): two processes of one thread do more than one of two, by
how much differs from processor to processor; so a CPU gets many slots of one thread.
"""

from dataclasses import dataclass

from engine.config import Config
from engine.errors import UsageError
from engine.pools.gpus import Gpu
from engine.pools.hardware import Hardware

COMPUTE_TYPES = (
    "auto",
    "default",
    "int8",
    "int8_float16",
    "int8_bfloat16",
    "int8_float32",
    "int16",
    "float16",
    "bfloat16",
    "float32",
)
_GPU_ONLY = ("float16", "int8_float16")

_MIB = 1 << 20
_GIB = 1 << 30
_LOADING = 3  # a model while it is converted to its compute type, in sizes of its file
_PROCESS = 400 * _MIB  # a worker process without its model; a preparation worker
_PARENT = 300 * _MIB  # this process

_LLM_MOST = 128  # threads
_LLM_PER_CORE = 32
_LLM_START = 8


# Windows of a model call on a CPU, by who made it. CTranslate2 multiplies with MKL on Intel's,
# where several windows take longer for each, and with oneDNN on AMD's, where eight take less than
# four, and four less than one by one (benchmarks/batch.py). Elsewhere one: never far from the best.
CPU_BATCH = {"AuthenticAMD": 8}


@dataclass(frozen=True, slots=True)
class SlotPlan:
    """One worker process on one device."""

    device: str  # the slot's name: "cuda:0", "cpu:0"; "cuda:0.1" is the second slot on that GPU
    pin: str | None  # its CUDA_VISIBLE_DEVICES entry; None on a CPU
    compute_type: str  # as CTranslate2 names it
    batch_size: int  # windows
    threads: int
    why: str


@dataclass(frozen=True, slots=True)
class Sizing:
    """The plan for one machine."""

    slots: tuple[SlotPlan, ...]
    preparation: int  # worker processes
    preparation_why: str
    llm_threads: int  # calls at once to begin with
    llm_why: str
    llm_cap: int  # calls at once at most


def size(hardware: Hardware, config: Config, model_bytes: int | None) -> Sizing:
    """Plan a run; UsageError for a device or compute type that cannot be had here."""
    chosen = _devices(hardware, config.device)
    if chosen:
        slots = _gpu_slots(chosen, config)
        preparation, why = _gpu_preparation(hardware, len(chosen))
    else:
        slots = _cpu_slots(hardware, config, model_bytes)
        preparation, why = _cpu_preparation(hardware)
    cap, cap_why = _llm_cap(hardware)
    asked = config.llm_threads
    start = min(cap, _LLM_START if asked is None else asked)
    start_why = f"{start} to begin with" if asked is None else f"{asked} asked for"
    return Sizing(slots, preparation, why, start, f"{start_why}; at most {cap}: {cap_why}", cap)


# --- devices ---------------------------------------------------------------------------------


def _devices(hardware: Hardware, device: str) -> list[tuple[int, Gpu]]:
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


def _gpu_named(part: str, device: str, numbered: list[tuple[int, Gpu]]) -> tuple[int, Gpu]:
    kind, _, number = part.partition(":")
    if kind != "cuda" or not (number.isascii() and number.isdigit()):
        raise UsageError(
            f"--device {device}: {part!r} is none of auto, cpu, cuda, cuda:N or a list of cuda:N"
        )
    if int(number) >= len(numbered):
        known = ", ".join(f"cuda:{index}" for index, _ in numbered)
        raise UsageError(f"--device {device}: there is no {part} on this machine, only {known}")
    return numbered[int(number)]


def _compute_type(asked: str, device: str) -> str:
    if asked not in COMPUTE_TYPES:
        raise UsageError(f"--compute-type {asked}: not one of {', '.join(COMPUTE_TYPES)}")
    if asked in ("auto", "default"):
        return "int8" if device == "cpu" else "float16"
    if device == "cpu" and asked in _GPU_ONLY:
        raise UsageError(
            f"--compute-type {asked} needs a GPU; on a CPU use int8 (the default) or float32"
        )
    return asked


# --- a machine without a GPU -----------------------------------------------------------------


def _cpu_slots(hardware: Hardware, config: Config, model_bytes: int | None) -> tuple[SlotPlan, ...]:
    cores = max(1, int(hardware.cores))
    count, why = _cpu_count(hardware, config.slots, cores, model_bytes)
    batch = config.batch_size or CPU_BATCH.get(hardware.cpu_vendor or "", 1)
    compute_type = _compute_type(config.compute_type, "cpu")
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
    hardware: Hardware, asked: int | None, cores: int, model_bytes: int | None
) -> tuple[int, str]:
    """How many slots, and the sentence for it."""
    have = f"{_number(hardware.cores)} {_plural('core', hardware.cores)} ({hardware.cores_source})"
    if asked is not None:
        note = "" if asked <= cores else ", more than there are cores: they take turns"
        return asked, f"{_slots(asked)} asked for, on {have}{note}"
    fitting = _fitting(hardware.memory, model_bytes)
    if fitting is not None and fitting < cores and hardware.memory is not None:
        return fitting, (
            f"{_slots(fitting)} on {have}: no more models fit into {_gigabytes(hardware.memory)}"
            " of memory"
        )
    if cores == 1:
        return 1, f"1 slot of 1 thread: {have}, no GPU"
    return cores, (
        f"{cores} slots of 1 thread: {have}, no GPU; two of one thread do more than one of two"
    )


def _fitting(memory: int | None, model_bytes: int | None) -> int | None:
    """Slots that fit into memory beside this process and one preparation worker."""
    if memory is None or model_bytes is None:
        return None
    room = memory - _PARENT - _PROCESS
    return max(1, room // (model_bytes * _LOADING + _PROCESS))


def _cpu_preparation(hardware: Hardware) -> tuple[int, str]:
    count = max(1, int(hardware.cores) // 4)
    return count, (
        f"{count} preparation {_plural('worker', count)} beside the slots, at lower priority:"
        " one keeps at least four slots busy"
    )


# --- GPUs ------------------------------------------------------------------------------------


def _gpu_slots(chosen: list[tuple[int, Gpu]], config: Config) -> tuple[SlotPlan, ...]:
    count = len(chosen) if config.slots is None else config.slots
    shared = [count // len(chosen) + (place < count % len(chosen)) for place in range(len(chosen))]
    compute_type = _compute_type(config.compute_type, "cuda")
    plans = []
    for index in range(count):
        turn, place = divmod(index, len(chosen))
        number, gpu = chosen[place]
        batch, why = _gpu_batch(gpu, config.batch_size, shared[place])
        plans.append(
            SlotPlan(
                device=f"cuda:{number}" + (f".{turn}" if turn else ""),
                pin=gpu.index,
                compute_type=compute_type,
                batch_size=batch,
                threads=1,
                why=f"{_place(shared[place])} on {gpu.name}; {why}",
            )
        )
    return tuple(plans)


def _place(sharing: int) -> str:
    return "1 slot" if sharing == 1 else f"one of {sharing} slots (--slots)"


def _gpu_batch(gpu: Gpu, asked: int | None, sharing: int) -> tuple[int, str]:
    if asked is not None:
        return asked, f"batch {asked} asked for"
    if gpu.free is None:
        return 8, "batch 8: its free memory is not known"
    share = gpu.free // sharing
    batch = 16 if share >= 8 * _GIB else 8
    return batch, f"batch {batch}: {_gigabytes(share)} of its memory free"


def _gpu_preparation(hardware: Hardware, gpus: int) -> tuple[int, str]:
    by_cores = max(1, int(hardware.cores) - 1)
    counts = [(by_cores, "all cores but one"), (8 * gpus, "8 per GPU")]
    if hardware.memory is not None:
        room = max(1, (hardware.memory - _PARENT - gpus * _PROCESS) // _PROCESS)
        counts.append((room, f"as many as fit into {_gigabytes(hardware.memory)} of memory"))
    count, reason = min(counts, key=lambda pair: pair[0])
    return count, f"{count} preparation {_plural('worker', count)}: {reason}"


# --- LLM -------------------------------------------------------------------------------------


def _llm_cap(hardware: Hardware) -> tuple[int, str]:
    """Calls wait for the network, not for cores; each holds a few descriptors."""
    caps = [
        (_LLM_MOST, f"never more than {_LLM_MOST}"),
        (max(1, int(_LLM_PER_CORE * hardware.cores)), f"{_LLM_PER_CORE} per core"),
    ]
    if hardware.descriptors is not None:
        caps.append((max(1, hardware.descriptors // 4), "a quarter of the open files allowed"))
    return min(caps, key=lambda pair: pair[0])


# --- words -----------------------------------------------------------------------------------


def _slots(count: int) -> str:
    return f"{count} {_plural('slot', count)}"


def _plural(word: str, count: float) -> str:
    return word if count == 1 else word + "s"


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _gigabytes(value: int) -> str:
    return f"{_number(round(value / _GIB, 1))} GiB"
