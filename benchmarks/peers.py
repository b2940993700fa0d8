"""The peer as a program of its own: faster-whisper over a list of files, as its README has it.

In: a job file (JSON of `Job`). Out: a JSON list with the text, its segments, the language and the
seconds of each file, in the order of the job, or when its first text came. Several processes take
file after file from one queue, the longest first, so that none is left with a long one at the end.
Imports nothing of ours: what is timed is the peer and its start-up.
"""

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Job:
    """What the peer shall do."""

    model: str  # folder
    pipeline: str  # "batched" or "sequential"
    files: Sequence[tuple[str, str | None]]  # path, language (None: detected)
    output: str
    processes: int = 1
    init: Mapping[str, Any] = field(default_factory=dict)  # of WhisperModel; the device: cpu
    options: Mapping[str, Any] = field(default_factory=dict)  # of transcribe
    first_only: bool = False  # stop at each file's first segment, and tell when it came


def main(path: str) -> None:
    """Do the job in a file."""
    job = Job(**json.loads(Path(path).read_text("utf-8")))
    if job.processes == 1:
        _open(job)
        work = _begin if job.first_only else _transcribe
        results = [work(*file) for file in job.files]
    else:
        results = _share(job)
    Path(job.output).write_text(json.dumps(results), encoding="utf-8")


def _share(job: Job) -> list[dict[str, Any]]:
    """All files, in the job's order, by several processes."""
    context = multiprocessing.get_context("spawn")
    longest_first = sorted(job.files, key=lambda file: -os.path.getsize(file[0]))
    with ProcessPoolExecutor(job.processes, context, _open, (job,)) as pool:
        futures = {path: pool.submit(_transcribe, path, lang) for path, lang in longest_first}
        return [futures[path].result() for path, _ in job.files]


_pipeline: Any = None  # one per process, for its life
_options: Mapping[str, Any] = {}


def _open(job: Job) -> None:
    global _pipeline, _options  # noqa: PLW0603 -- see above
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    model = WhisperModel(job.model, **({"device": "cpu"} | job.init))
    _pipeline = BatchedInferencePipeline(model) if job.pipeline == "batched" else model
    _options = job.options


def _transcribe(path: str, language: str | None) -> dict[str, Any]:
    began = time.monotonic()
    segments, info = _pipeline.transcribe(path, language=language, **_options)
    texts = [segment.text for segment in segments]
    seconds = time.monotonic() - began
    heard = {"text": "".join(texts), "segments": texts, "language": info.language}
    return {"path": path, **heard, "seconds": seconds}


def _begin(path: str, language: str | None) -> dict[str, Any]:
    """Seconds until the file is prepared, which comes before any model call, and to its text."""
    began = time.monotonic()
    segments, _ = _pipeline.transcribe(path, language=language, **_options)
    prepared = time.monotonic() - began
    next(iter(segments), None)
    return {"path": path, "prepared": prepared, "first": time.monotonic() - began}


if __name__ == "__main__":
    main(sys.argv[1])
