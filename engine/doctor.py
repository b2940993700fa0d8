"""Whether this machine can do a run, found out by doing a little of each part.

Options in; findings out, one sentence each with what to do about it. Used by ``reelmine doctor``
alone. The canary runs in the same worker processes as in a run; nothing of ctranslate2 is loaded
here.
"""

import ctypes
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

from engine import __version__
from engine.config import Config
from engine.errors import ReelmineError
from engine.pools.hardware import Hardware, snapshot
from engine.pools.slot_worker import cublas_libraries
from engine.terminal import printable

_NEEDED = ("faster-whisper", "ctranslate2", "av", "numpy", "onnxruntime", "openai", "pydantic")
_OPTIONAL = {"torch": "reelmine[torch]", "nvidia-ml-py": "reelmine[gpu]"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    ok: bool
    sentence: str

    @property
    def line(self) -> str:
        """As it is shown."""
        return f"{'ok' if self.ok else 'BROKEN':<7} {self.what:<15} {printable(self.sentence)}"


def examine(config: Config) -> Iterator[Finding]:
    """Everything a run needs, the quick things first."""
    yield Finding("reelmine", True, f"{__version__} on Python {platform.python_version()}")
    yield from _libraries()
    hardware = snapshot()
    yield from _hardware(hardware)
    yield from _models()
    yield from _slots(config)
    yield _endpoint(config)


def _libraries() -> Iterator[Finding]:
    for name in _NEEDED:
        version = _version(name)
        yield Finding(name, bool(version), version or "missing; pip install --upgrade reelmine")
    for name, extra in _OPTIONAL.items():
        yield Finding(name, True, _version(name) or f"not installed (pip install {extra})")


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _hardware(hardware: Hardware) -> Iterator[Finding]:
    memory = f", {hardware.memory / 2**30:.1f} GiB of memory" if hardware.memory else ""
    yield Finding("cores", True, f"{hardware.cores:g} ({hardware.cores_source}){memory}")
    for gpu in hardware.gpus:
        free = f", {gpu.free / 2**30:.1f} GiB free" if gpu.free is not None else ""
        yield Finding("GPU", True, f"{gpu.index}: {gpu.name}{free}")
    for note in hardware.notes:
        yield Finding("note", True, note)
    if hardware.gpus:
        yield _cublas()


def _cublas() -> Finding:
    name = "libcublas.so.12"
    for library in [*(str(path) for path in cublas_libraries() if path.name == name), name]:
        try:
            ctypes.CDLL(library)
        except OSError:
            continue
        return Finding("cuBLAS", True, library)
    remedy = "pip install reelmine[gpu] brings it; no CUDA toolkit is needed"
    return Finding("cuBLAS", False, f"libcublas.so.12 cannot be loaded; {remedy}.")


def _models() -> Iterator[Finding]:
    from engine.speech.models import known

    here = [model.name for model, folder in known() if folder is not None]
    get = "none here; reelmine models get tiny.en (or small, or large-v3-turbo)"
    yield Finding("models", True, ", ".join(here) or get)


def _slots(config: Config) -> Iterator[Finding]:
    from engine.api import check_slots

    try:
        for slot, ok, sentence in check_slots(config):
            yield Finding(f"slot {slot.device}", ok, sentence)
    except ReelmineError as error:
        yield Finding("slots", False, str(error))


def _endpoint(config: Config) -> Finding:
    from engine.llm.endpoint import find_endpoint

    try:
        endpoint = find_endpoint(config)
        if endpoint is None:
            sentence = "none: analysis runs offline with the phrasebook; --llm-model names a model"
            return Finding("endpoint", True, sentence)
        from engine.llm.client import open_client

        client = open_client(endpoint, config)
        try:
            offered = client.models()
        finally:
            client.close()
    except ReelmineError as error:
        return Finding("endpoint", False, str(error))
    known = endpoint.model in offered
    remark = "" if known else f", but does not list {endpoint.model}; check --llm-model"
    return Finding("endpoint", True, f"{endpoint.host} answers{remark}")
