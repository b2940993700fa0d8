"""What the acceptance tests share: a quick model, a recipe of our own, one run on real speech."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from shell import clear_settings
from speech import FILES, joined, write_wav

import engine
from engine.records import SAMPLE_RATE
from engine.testing.server import Request, Server
from engine.testing.transcriber import make_model

FINDS = """\
name = "finds"
prompt = "Find all expressions, each time they are said."
merge = "concat"
min_words = 20
max_words = 50
[fields.phrase]
type = "string"
[fields.meaning]
type = "string"
[fields.example]
type = "string"
[fields.level]
type = "string"
enum = ["A2", "B1", "B2", "C1", "C2"]
"""

REMARKS = """\
name = "remarks"
prompt = "Say what is remarkable."
min_words = 5
max_words = 12
[fields.remark]
type = "string"
"""


@pytest.fixture(scope="session", autouse=True)
def _no_settings_for_shared_runs() -> Iterator[None]:
    """As `tests/conftest.py` has it for each test, for the runs that several tests share."""
    with pytest.MonkeyPatch.context() as patch:
        clear_settings(patch)
        yield


@pytest.fixture(scope="session")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that says the same in every window, at once."""
    return make_model(tmp_path_factory.mktemp("models") / "fake", seconds=0.02)


@pytest.fixture(scope="session")
def finds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe file: like `expressions`, but with short chunks and everything kept."""
    path = tmp_path_factory.mktemp("recipes") / "finds.toml"
    path.write_text(FINDS)
    return path


@pytest.fixture(scope="session")
def remarks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe file of very short chunks: a call for each sentence or two."""
    path = tmp_path_factory.mktemp("recipes") / "remarks.toml"
    path.write_text(REMARKS)
    return path


@dataclass
class Eight:
    """One run of eight videos with tiny.en and a server; nobody may change its files."""

    videos: list[Path]
    output: Path
    report: engine.RunReport
    requests: list[Request]
    events: list[Any] = field(default_factory=list)

    def copied(self, to: Path) -> Path:
        """The output folder again, to be worked on."""
        return Path(shutil.copytree(self.output, to))


@pytest.fixture(scope="session")
def eight(
    samples: Path, tiny_en: Path, finds: Path, tmp_path_factory: pytest.TempPathFactory
) -> Eight:
    """The six samples and two made of them, which begin elsewhere; the longest is last."""
    folder = tmp_path_factory.mktemp("eight")
    videos = [samples / name for name in FILES]
    for name, seconds, seed, skipped in (("another", 20, 6, 7), ("the_longest", 100, 10, 11)):
        audio = joined(samples, seconds, seed)[skipped * SAMPLE_RATE :]
        videos.append(write_wav(folder / f"{name}.wav", audio))
    events: list[Any] = []
    with Server(latency=1.5) as server:
        config = engine.Config(
            output=folder / "out",
            model="tiny.en",
            device="cpu",
            recipe=(str(finds),),
            llm_base_url=server.url,
            llm_model="phrasebook",
        )
        report = engine.run(videos, config, events.append)
    return Eight(videos, folder / "out", report, server.requests, events)
