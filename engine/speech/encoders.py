"""Which encoder a run uses, and why: CTranslate2's own, or torch's with the same weights; and
whether it reads whole windows or only the speech in them (``silence``).

The choice decides the text (by a hair), so it is made once per output folder, before any slot
opens, from what is installed and what the processor can do, never by timing: slots and restarts
must not differ. Pure.
"""

from dataclasses import dataclass

from engine.errors import UsageError

CTRANSLATE2 = "ctranslate2"
TORCH = "torch-"  # and the type of its numbers
SPEECH = "-speech"  # behind either: the silence after a window's speech is not read
INSTALL = "pip install 'reelmine[torch]' (torch's build for CPUs is enough)"

AMX, AVX = "amx_bf16", "avx512_bf16"  # the processor's names for its bfloat16 units
VNNI = "avx512_vnni"  # and for that of whole numbers


@dataclass(frozen=True, slots=True)
class Encoder:
    """The encoder of a run: "ctranslate2", or torch's by what it multiplies: "torch-int8",
    "torch-bfloat16", "torch-float16", "torch-float32"; with "-speech" behind it where it does not
    read the silence after a window's speech.
    """

    name: str
    why: str
    second_best: bool = False  # a faster one cannot be had, and ``why`` says what is missing

    @property
    def torch_type(self) -> str | None:
        """What torch multiplies; None: it is not torch's."""
        if not self.name.startswith(TORCH):
            return None
        return self.name.removeprefix(TORCH).removesuffix(SPEECH)

    @property
    def speech_only(self) -> bool:
        """Whether the silence after a window's speech is not read."""
        return self.name.endswith(SPEECH)


WHOLE = Encoder(CTRANSLATE2, "asked for; whole windows, as faster-whisper reads them")


@dataclass(frozen=True, slots=True)
class Means:
    """What there is to encode with."""

    device: str  # "cpu" or "cuda"
    features: frozenset[str]  # of the processor
    int8: bool  # is the compute type, whatever else it has beside
    torch: bool  # is installed
    unknown: str | None  # why torch's cannot read this model; None: it can


def choose(asked: str, begun: str | None, means: Means, *, sequential: bool) -> Encoder:
    """The encoder; ``begun`` is the one an output folder was begun with.

    UsageError if the one asked for, or begun with, cannot be had here.
    """
    if sequential:
        if asked not in ("auto", CTRANSLATE2):
            raise UsageError(
                f"--encoder {asked} has no meaning with --mode sequential, which is the library's "
                "own way through a file: leave it out."
            )
        return Encoder(CTRANSLATE2, "sequential mode has no other")
    if asked == "ctranslate2":
        return WHOLE
    if asked == CTRANSLATE2 + SPEECH:
        return Encoder(asked, "asked for")
    if asked == "torch":
        _check(means, "--encoder torch", "leave it out")
        return Encoder(TORCH + _type(means) + _part(means), "asked for")
    if begun is not None:
        if begun.startswith(TORCH):
            another = "--encoder ctranslate2 transcribes everything anew"
            _check(means, f"This output folder was begun with the encoder {begun}, which", another)
        return Encoder(begun, "this output folder was begun with it")
    return _best(means)


def _best(means: Means) -> Encoder:
    """What is known to be faster: benchmarks/README.md, encoders.py."""
    if means.device == "cuda":
        return Encoder(CTRANSLATE2, "whether torch's is faster on a GPU has not been measured")
    own, units = CTRANSLATE2 + _part(means), _units(means)
    if units is None:
        return Encoder(own, "torch's is not faster on this processor")
    amx = AMX in means.features  # without them it gains too little to be told in every run
    if not means.torch:
        return Encoder(
            own,
            f"torch is not installed; its encoder would use this processor's {units}: {INSTALL}",
            second_best=amx,
        )
    if means.unknown is not None:
        why = f"torch's, which is faster here, cannot read this model: {means.unknown}"
        return Encoder(own, why, second_best=amx)
    return Encoder(TORCH + _type(means) + _part(means), f"it uses this processor's {units}")


def _units(means: Means) -> str | None:
    """With what the processor makes torch's the faster one; None: it has no such units."""
    if AMX in means.features:
        return "AMX units"
    if means.int8 and {AVX, VNNI} <= means.features:
        return "AVX-512 units for int8 and bfloat16"
    return None


def _part(means: Means) -> str:
    """On a GPU the rows of a batch are read at once, so all of one length."""
    return SPEECH if means.device == "cpu" else ""


def _type(means: Means) -> str:
    if means.device == "cuda":
        return "float16"
    if AMX not in means.features and _units(means):
        return "int8"
    return "bfloat16" if means.features & {AMX, AVX} else "float32"


def _check(means: Means, who: str, otherwise: str) -> None:
    if not means.torch:
        raise UsageError(f"{who} needs torch, which is not installed: {INSTALL}, or {otherwise}.")
    if means.unknown is not None:
        raise UsageError(f"{who} cannot read this model ({means.unknown}): {otherwise}.")
