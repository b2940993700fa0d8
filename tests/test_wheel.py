"""The wheel as a user gets it: what is in it, and that it works away from the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from shell import ROOT, last_run
from speech import FILES

pytestmark = pytest.mark.slow  # pip builds and installs, and six videos are transcribed

DATA = {
    "engine/py.typed",
    "engine/_models/catalog.toml",
    "engine/_models/phrasebook-en/phrases.tsv",
    "engine/analysis/recipes/expressions.toml",
    "engine/speech/canary.wav",
    "engine/store/schema.sql",
    *(f"engine/samples/{name}" for name in FILES),
}


def pip(*words: str | Path, cwd: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pip", *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ".", cwd=ROOT)
    [built] = folder.glob("*.whl")
    return built


def test_wheel_holds_the_package_with_its_data_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    ours = {name for name in names if ".dist-info/" not in name}
    places = (("engine", "engine"), ("models", "engine/_models"))
    assert ours == {
        f"{place}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, place in places
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert ours >= DATA
    assert {name.partition("/")[0] for name in names - ours} == {
        "-".join(wheel.name.split("-")[:2]) + ".dist-info"
    }


def test_installed_wheel_finishes_the_demo_away_from_the_checkout(
    wheel: Path, tmp_path: Path, tiny_en: Path
) -> None:
    place, work = tmp_path / "place", tmp_path / "work"
    work.mkdir()
    pip("install", "--quiet", "--no-deps", "--target", place, wheel, cwd=work)

    def python(*words: str | Path) -> str:
        done = subprocess.run(
            [sys.executable, *map(str, words)],
            cwd=work,
            env={**os.environ, "PYTHONPATH": str(place)},  # comes before an editable checkout
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    found = python("-c", "import engine; print(engine.__file__)").strip()
    assert Path(found) == place / "engine" / "__init__.py"
    assert "\n6 videos: 6 done\n" in python(place / "bin" / "reelmine", "demo")
    run = last_run(work / "reelmine-demo")
    assert run["states"] == {"done": 6}
    assert run["items"]["exact"] > 0  # by the wheel's own phrasebook
    assert all(Path(video["path"]).is_relative_to(place) for video in run["videos"])
