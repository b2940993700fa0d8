"""A slot as it is planned, and the words that plans are told in. Pure."""

from dataclasses import dataclass

from engine.errors import UsageError

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

_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class SlotPlan:
    """One worker process on one device."""

    device: str  # the slot's name: "cuda:0", "cpu:0"; "cuda:0.1" is the second slot on that GPU
    pin: str | None  # its CUDA_VISIBLE_DEVICES entry; None on a CPU
    compute_type: str  # as CTranslate2 names it
    batch_size: int  # windows
    threads: int
    why: str
    lowered: bool = False  # a smaller compute type than the usual one, because of memory


def compute_type_for(asked: str, device: str) -> str:
    """The compute type on "cuda" or "cpu"; UsageError for one that cannot be had there."""
    if asked not in COMPUTE_TYPES:
        raise UsageError(f"--compute-type {asked}: not one of {', '.join(COMPUTE_TYPES)}")
    if asked in ("auto", "default"):
        return "int8" if device == "cpu" else "float16"
    if device == "cpu" and asked in _GPU_ONLY:
        raise UsageError(
            f"--compute-type {asked} needs a GPU; on a CPU use int8 (the default) or float32"
        )
    return asked


def smaller_type(asked: str, device: str) -> str | None:
    """What a slot may fall back to where memory is too small; None: nothing.

    Other weights give other text, so only where the choice was left to us: a compute type that is
    named is never replaced. On a CPU the usual one is the smallest already.
    """
    return "int8_float16" if device == "cuda" and asked in ("auto", "default") else None


def plural(word: str, count: float) -> str:
    """The word, with an s unless it is one."""
    return word if count == 1 else word + "s"


def decimal(value: float) -> str:
    """With two decimals at most."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def gigabytes(value: int) -> str:
    """Bytes in GiB."""
    return f"{decimal(round(value / _GIB, 1))} GiB"
