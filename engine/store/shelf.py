"""The output folder: what is there already, and what is written when.

Truth is one JSON per video; the other formats are rendered from it, the ledger's rows point at it.
"Done" means that the key matches (content, model, options, recipes), never that a file is there.
Order for each video: the JSON with its transcript, replies (in the ledger), the JSON with its
analyses, the done mark. Each step can be repeated with the same outcome.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.job import Job
from engine.output.results import (
    StoredResult,
    analysis_csv,
    read_result_json,
    result_json,
)
from engine.output.writers import render
from engine.records import State, Transcript, Video, VideoResult
from engine.store.files import write_atomic
from engine.store.keys import digest
from engine.store.ledger import Ledger, Row

FINISHED = (State.DONE, State.DEGRADED, State.SKIPPED)


@dataclass(frozen=True, slots=True)
class Standing:
    """How a video stands before the run: what of it is on disk under the keys asked for."""

    transcript: Transcript | None  # None: to be transcribed
    result: VideoResult | None  # not None: nothing is left to do


class Shelf:
    """The results of one output folder under one model and one set of options."""

    def __init__(
        self,
        output: Path,
        ledger: Ledger,
        formats: Sequence[str],
        model: Mapping[str, Any],
        options: Mapping[str, Any],
        *,
        look: bool = False,
    ) -> None:
        """``options`` holds the speech options and, under "analyses", the key of each recipe.

        ``look``: nothing is written, not even a format's file that is missing.
        """
        self._output = output
        self._ledger = ledger
        self._formats = [name for name in formats if name != "json" and not look]
        self._model = model
        self._options = options
        self._rows = ledger.videos()
        self._sizes: dict[str, int] = {}

    def speech_key(self, video: Video) -> str:
        """What decides a video's transcript."""
        return speech_key(video.fingerprint, self._model, self._options)

    @property
    def analysis_key(self) -> str:
        """What decides its analyses, beside the transcript."""
        return digest(self._options["analyses"])

    def belongs_to(self, video: Video) -> str | None:
        """The path of another video whose results stand where this one's would go.

        One with the same content, or which is gone, does not count: that was this one, moved.
        """
        row = self._rows.get(video.name)
        if row is None or row.path == video.path or row.fingerprint == video.fingerprint:
            return None
        here = self._path(video.name, "json").exists() and os.path.exists(row.path)
        return row.path if here else None

    def look(self, video: Video) -> Standing:
        """What of a video is there; a formats' file that is missing is rendered from the JSON."""
        row, path = self._rows.get(video.name), self._path(video.name, "json")
        if row is None or row.speech_key != self.speech_key(video) or not _has(path, row.bytes):
            row = self._rebuilt(video)
        if row is None or row.speech_key != self.speech_key(video):
            return Standing(None, None)
        missing = [n for n in self._formats if not self._path(video.name, n).exists()]
        done = row.state in FINISHED and row.analysis_key == self.analysis_key
        if done and not missing:
            return Standing(None, self._done(video, row))
        stored = self._read(path)
        if stored is None:
            return Standing(None, None)
        self._render(video.name, stored.transcript, missing)
        if done:
            return Standing(None, self._done(video, row))
        return Standing(stored.transcript, None)

    def _done(self, video: Video, row: Row) -> VideoResult:
        """A result that is on disk, without reading it."""
        files = (self._path(video.name, name) for name in ("json", *self._formats))
        return VideoResult(
            video, row.state, row.problem, files=tuple(map(str, files)), resumed=True
        )

    def write(self, job: Job, *, final: bool) -> tuple[str, ...]:
        """A video's files: the JSON always, the other formats with the transcript."""
        name = job.video.name
        result = (
            job.result()
            if final
            else replace(
                job.result(), state=State.RUNNING, problem=None, analyses=job.analyses(final=False)
            )
        )
        data = result_json(result, self._options, self._model)
        path = self._path(name, "json")
        write_atomic(path, data)
        self._sizes[name] = len(data)
        others = [self._path(name, suffix) for suffix in self._formats]
        if not final or not all(other.exists() for other in others):
            assert job.transcript is not None
            self._render(name, job.transcript, self._formats)
        if not final:
            self._ledger.save_video(
                name,
                Row(
                    job.video.path,
                    job.video.fingerprint,
                    State.RUNNING,
                    job.speech_key,
                    None,
                    None,
                    len(data),
                ),
            )
            self._ledger.drop_windows(job.speech_key)
        return (str(path), *map(str, others))

    def record(self, job: Job, result: VideoResult) -> None:
        """The row of a video that has ended, after its files."""
        on_disk = job.read_back or job.video.name in self._sizes
        self._ledger.save_video(
            job.video.name,
            Row(
                job.video.path,
                job.video.fingerprint,
                result.state,
                job.speech_key if on_disk else None,
                self.analysis_key if result.state in FINISHED else None,
                result.problem,
                self._size(job.video.name),
            ),
        )

    def _size(self, name: str) -> int | None:
        """Bytes of a JSON, as it was written last."""
        known = self._rows.get(name)
        return self._sizes.get(name, known.bytes if known else None)

    def write_table(self, videos: Sequence[Video], *, changed: bool) -> None:
        """``analysis.csv`` of these videos, from their JSON files.

        ``changed``: one of these is new; else it is written only if it is missing or lists others.
        """
        path, listed = self._output / "analysis.csv", digest([video.name for video in videos])
        if not changed and path.exists() and self._ledger.get("table") == listed:
            return
        results = []
        for video in videos:
            stored = self._read(self._path(video.name, "json"))
            if stored is not None:
                results.append(VideoResult(video, stored.state, None, None, stored.analyses))
        write_atomic(path, analysis_csv(results))
        self._ledger.set("table", listed)

    def _path(self, name: str, suffix: str) -> Path:
        return self._output / f"{name}.{suffix}"

    def _read(self, path: Path) -> StoredResult | None:
        """A result file of ours, or None if it is none (any more)."""
        try:
            return read_result_json(path.read_bytes())
        except (OSError, ValueError):
            return None

    def _rebuilt(self, video: Video) -> Row | None:
        """The row as the video's JSON has it, where the ledger is lost or does not match.

        A run that was killed between the file and the mark leaves such a pair; the file counts.
        """
        stored = self._read(self._path(video.name, "json"))
        if stored is None:
            return None
        row = Row(
            video.path,
            stored.fingerprint,
            stored.state,
            speech_key(stored.fingerprint, stored.model, stored.options),
            digest(stored.options.get("analyses")) if stored.state in FINISHED else None,
            stored.problem,
            self._path(video.name, "json").stat().st_size,
        )
        self._rows[video.name] = row
        self._ledger.save_video(video.name, row)
        return row

    def _render(self, name: str, transcript: Transcript, formats: Sequence[str]) -> None:
        for suffix in formats:
            text = render(suffix, transcript.segments)
            write_atomic(self._path(name, suffix), text.encode("utf-8", "backslashreplace"))


def speech_key(fingerprint: str, model: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """The key of a transcript: content, model and speech options."""
    speech = {name: value for name, value in options.items() if name != "analyses"}
    return digest([fingerprint, model["identity"], speech])


def _has(path: Path, size: int | None) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False
