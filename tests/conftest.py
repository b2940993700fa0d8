"""What all tests share: which ones run, an environment without a user's settings, the command."""

import importlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from machines import fake_nvml
from shell import ROOT, Reelmine, reelmine_in

# the same examples every time; a slow machine is no failure
hypothesis.settings.register_profile("reelmine", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("reelmine")


# a shell that starts the tests in the background has SIGINT ignored, and their children would too
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="also the tests marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without --all the slow tests are left out, unless -m chooses for itself."""
    if config.getoption("--all") or config.getoption("-m"):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if item not in slow]


@pytest.fixture(autouse=True)
def _no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """No option, no endpoint and no key comes from the environment the tests run in."""
    for name in list(os.environ):
        if name.startswith(("REELMINE_", "OPENAI_")) and name != "REELMINE_CACHE":
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def samples() -> Path:
    """The bundled sample videos."""
    return ROOT / "engine" / "samples"


@pytest.fixture(scope="session")
def tiny_en() -> Path:
    """The folder of the model tiny.en, fetched if need be."""
    return _model("tiny.en")


@pytest.fixture(scope="session")
def base() -> Path:
    """The folder of the multilingual model base, fetched if need be."""
    return _model("base")


def _model(name: str) -> Path:
    from engine.speech.models import get

    return get(name).path


@pytest.fixture
def nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], None]]:
    """``nvml([card(...), ...])``: from now on NVML answers for these, in worker processes too."""

    def answer(gpus: Any) -> None:
        sys.modules.pop("pynvml", None)
        fake_nvml(tmp_path / "nvml", gpus)
        importlib.invalidate_caches()

    (tmp_path / "nvml").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "nvml")
    yield answer
    sys.modules.pop("pynvml", None)


@pytest.fixture
def reelmine(tmp_path: Path) -> Reelmine:
    """The real command, in an empty folder."""
    return reelmine_in(tmp_path)
