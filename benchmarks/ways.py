"""Ways to transcribe files: ours with one setting or another, or one of the peer's pipelines.

In: a way, a model, files with the language that each is told. Out: what was heard in each, in the
same order. Always beam 5. Ours is the whole engine, a run over the files, its JSON files
read back; the peer is a program of its own (peers.py). Knows nothing about what is said in the
files, nor what is counted.
"""

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from common import Timing, machine, say, timed
from peers import Job

from engine.api import run
from engine.config import Config
from engine.speech.models import ResolvedModel

BEAM = 5


@dataclass(frozen=True, slots=True, eq=False)
class Way:
    """One way to transcribe: an engine and its settings."""

    name: str
    ours: Mapping[str, Any] | None = None  # of Config; None: the peer's
    pipeline: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


OURS = Way("ours", {})
WHOLE = Way("ours, whole windows", {"encoder": "ctranslate2"})
UNGATED = Way("ours, whole windows, no gates", {"encoder": "ctranslate2", "quality_gates": False})
BATCHED = Way("BatchedInferencePipeline", None, "batched", {"without_timestamps": False})


@dataclass(frozen=True, slots=True)
class Heard:
    """What one way made of one file."""

    text: str
    language: str
    segments: tuple[str, ...]


Asked = Sequence[tuple[Path, str | None]]  # files, and the language: None: to be detected


@dataclass(frozen=True, slots=True)
class Weights:
    """A model, the type that it computes in, and the encoder that reads it."""

    model: ResolvedModel
    compute_type: str = "int8"
    encoder: str = "auto"  # of ours where a way has none of its own; the peer has no other

    @property
    def name(self) -> str:
        """The model's."""
        return self.model.name


def hear(way: Way, weights: Weights, asked: Asked) -> list[Heard]:
    """What a way makes of each file."""
    say(f"{weights.name}: {way.name}, {len(asked)} files")
    with tempfile.TemporaryDirectory(prefix="heard-") as scratch:
        if way.ours is None:
            return _hear_peer(way, weights, asked, Path(scratch))
        heard: dict[Path, Heard] = {}
        for language in dict.fromkeys(language for _, language in asked):
            some = [path for path, told in asked if told == language]
            config = Config(
                output=Path(scratch, language or "any"),
                model=weights.name,
                language=language,
                compute_type=weights.compute_type,
                beam_size=BEAM,
                analysis=False,
                output_format=("json",),
                **{"encoder": weights.encoder, **way.ours},
            )
            heard |= _hear_ours(some, config)
        return [heard[path.resolve()] for path, _ in asked]


def _hear_ours(paths: Sequence[Path], config: Config) -> dict[Path, Heard]:
    """One run over the files, and its JSON files."""
    report = run(paths, config)
    if report.exit_code != 0:
        raise SystemExit(f"ours ended with {report.exit_code}: {report}")
    heard = {}
    for result in report.videos:
        written = json.loads(Path(f"{config.output / result.video.name}.json").read_bytes())
        segments = tuple(segment["text"] for segment in written["segments"])
        path = Path(result.video.path).resolve()
        heard[path] = Heard(written["text"], written["language"], segments)
    return heard


def _hear_peer(way: Way, weights: Weights, asked: Asked, scratch: Path) -> list[Heard]:
    """The peer with a process for each core: faster, and the text is the same."""
    job = Job(
        str(weights.model.path),
        way.pipeline,
        [(str(path), language) for path, language in asked],
        str(scratch / "heard.json"),
        processes=max(1, int(machine()["cores"])),
        init={"compute_type": weights.compute_type, "cpu_threads": 1},
        options={"beam_size": BEAM, **way.options},
    )
    results, _ = run_peer(job, {"OMP_NUM_THREADS": "1"})
    return [
        Heard(result["text"], result["language"], tuple(result["segments"])) for result in results
    ]


def run_peer(
    job: Job, env: Mapping[str, str] | None = None, limit: float | None = None
) -> tuple[list[Any], Timing]:
    """What the peer's program tells of each file, in the job's order, and what it took."""
    described = Path(job.output).with_name("job.json")
    described.write_text(json.dumps(asdict(job)), encoding="utf-8")
    timing = timed([sys.executable, Path(__file__).with_name("peers.py"), described], env, limit)
    return json.loads(Path(job.output).read_bytes()), timing
