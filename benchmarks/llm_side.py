"""What the benchmarks of the LLM side share: films to ask about, the server, the contestants.

In: a number of films and of calls each. Out: an output folder as a run leaves it that was stopped
before its analysis: transcripts made of the reference texts, with a seed, stored by our own writer;
so a run over it only analyses. Also the requests that such a run sends, for the peers, and what a
contestant in a process of its own tells. Knows nothing about what is compared.
"""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
from common import ROOT, bundled_clips

from engine.analysis import prompts, replies
from engine.analysis.recipes import Recipe, load
from engine.config import Config
from engine.job import Job
from engine.llm.wire import Style, request_body
from engine.questions import Questions
from engine.records import Segment, Transcript
from engine.setup import prepare
from engine.testing.transcriber import make_model

MODEL = "phrasebook"  # what the server calls itself
CUE_WORDS, CHUNK_WORDS = 10, 160  # a call reads as much as one of a recipe with the usual limits
WORDS_A_MINUTE = 150
SEED = 4
RECIPE = f"""
name = "remarks"
prompt = "Say in one sentence what is remarkable in the dialogue."
min_words = {CHUNK_WORDS}
max_words = {CHUNK_WORDS}

[fields.remark]
type = "string"
description = "One sentence."
"""


# --- films ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Films:
    """Media files that are transcribed already, and the run that would analyse them."""

    paths: tuple[str, ...]
    config: Config
    calls: int
    requests: Path  # the same calls for a peer: a JSON line of the arguments of `create` each


def make_films(place: Path, films: int, calls: int) -> Films:
    """So many films of so many calls each, in `place`; the same for the same numbers."""
    (place / "films").mkdir(parents=True)
    recipe = place / "remarks.toml"
    recipe.write_text(RECIPE, encoding="utf-8")
    model = make_model(place / "model")
    config = Config(
        output=place / "transcripts",
        model=str(model),
        language="en",
        device="cpu",
        output_format=("json",),
        recipe=(str(recipe),),
        llm_model=MODEL,
        llm_base_url="http://127.0.0.1:9/v1",  # never asked: the runs have their own
    )
    words = _words()
    paths = tuple(str(_media(place / "films", number)) for number in range(films))
    with ExitStack() as stack:
        ready = prepare(paths, config, stack)
        for job in ready.jobs.values():
            job.seal_read_back(_transcript(words, calls))
            ready.shelf.write(job, final=False)
        _write_requests(place / "requests.jsonl", ready.jobs.values(), load(str(recipe)))
    return Films(paths, config, films * calls, place / "requests.jsonl")


def _media(folder: Path, number: int) -> Path:
    """A file with the name of a video; nothing of it is ever decoded."""
    path = folder / f"film_{number:03d}.mkv"
    path.write_bytes(f"the transcript of film {number} is there already".encode())
    return path


def _words() -> Iterator[str]:
    """The words of the bundled reference texts, text after text in seeded order, without end."""
    chance, texts = random.Random(SEED), [clip.reference for clip in bundled_clips()]
    while True:
        for text in chance.sample(texts, len(texts)):
            yield from text.split()


def _transcript(words: Iterator[str], calls: int) -> Transcript:
    seconds = 60 * CUE_WORDS / WORDS_A_MINUTE
    cues = tuple(
        Segment(
            id=number,
            seek=0,
            start=round(number * seconds, 2),
            end=round((number + 0.9) * seconds, 2),
            text=" " + " ".join(islice(words, CUE_WORDS)),
            tokens=(),
            temperature=0.0,
            avg_logprob=-0.3,
            compression_ratio=1.0,
            no_speech_prob=0.0,
        )
        for number in range(calls * CHUNK_WORDS // CUE_WORDS)
    )
    length = len(cues) * seconds
    return Transcript("en", None, length, 0.9 * length, cues)


def _write_requests(path: Path, jobs: Iterable[Job], recipe: Recipe) -> None:
    """What the client of a run sends, call by call."""
    schema = replies.schema(recipe)
    with path.open("w", encoding="utf-8") as file:
        for job in jobs:
            asked = Job(job.video, "", [Questions(recipe, MODEL)], "en")
            asked.seal_read_back(job.transcript)
            for _, chunk in asked.new_chunks():
                messages = prompts.messages(recipe, chunk)
                body = request_body(Style(), MODEL, messages, schema, recipe.max_tokens)
                file.write(json.dumps(body) + "\n")


# --- the server ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Running:
    """The test server in a process of its own."""

    url: str
    process: psutil.Process

    @property
    def cpu(self) -> float:
        """Seconds that it has worked so far."""
        times = self.process.cpu_times()
        return float(times.user + times.system)


@contextmanager
def server(latency: float, sigma: float, *words: str) -> Iterator[Running]:
    """A fresh one: the same latencies in the same order; `words` are more of its options."""
    given = ["--latency", str(latency), "--sigma", str(sigma), "--seed", str(SEED), *words]
    process = subprocess.Popen(
        [sys.executable, "-m", "engine.testing.server", *given],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield Running(process.stdout.readline().strip(), psutil.Process(process.pid))
    finally:
        process.terminate()
        process.communicate()


def latencies(median: float, sigma: float, calls: int) -> list[float]:
    """What the server draws for its first requests, in seconds."""
    chance = random.Random(SEED)
    return [median * chance.lognormvariate(0.0, sigma) if sigma else median for _ in range(calls)]


# --- contestants ---------------------------------------------------------------------------------


def told_by(script: str, job: Mapping[str, Any], place: Path) -> dict[str, Any]:
    """What a script beside this one prints about a job, as JSON; SystemExit if it fails."""
    path = place / f"job-{time.monotonic_ns()}.json"
    path.write_text(json.dumps(dict(job)), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), str(path)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OPENAI_API_KEY": "none"},
        capture_output=True,
        text=True,
        check=False,
    )
    path.unlink()
    if done.returncode != 0:
        raise SystemExit(f"{script} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def run_ours(films: Films, url: str, threads: int | None, place: Path) -> dict[str, Any]:
    """The engine's own run over a fresh copy of the films' output folder; see llm_ours.py."""
    config = replace(films.config, llm_base_url=url, llm_threads=threads)
    values = {name: getattr(config, name) for name in _GIVEN} | {"output": str(config.output)}
    return told_by("llm_ours.py", {"paths": films.paths, "config": values}, place)


def run_peer(
    films: Films, url: str, way: str, threads: int, place: Path, **more: Any
) -> dict[str, Any]:
    """The same calls made by a peer; see llm_peers.py for the ways and for what `more` can be."""
    asked = {"way": way, "url": url, "requests": str(films.requests), "threads": threads}
    return told_by("llm_peers.py", asked | more, place)


_GIVEN = (
    *("output", "model", "language", "device", "output_format", "recipe"),
    *("llm_model", "llm_base_url", "llm_threads"),
)


def share(part: float, whole: float) -> float:
    """A share with three digits; 0 of nothing."""
    return round(part / whole, 3) if whole else 0.0
