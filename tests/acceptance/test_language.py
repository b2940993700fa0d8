"""A video whose language nobody gives: heard from its first windows, the same in every run."""

import json
import signal
import subprocess
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from shell import command, environment
from speech import decoded, joined, write_wav

import engine
from engine.config import Config
from engine.records import SAMPLE_RATE
from engine.store.ledger import Ledger
from engine.testing.transcriber import make_model

# a Welsh-looking opening of a film that is English; the second vote for Welsh is outvoted too
TORN = ({"cy": 0.4, "en": 0.3}, {"en": 0.9}, {"cy": 0.5, "en": 0.45}, {"en": 0.9}, {"en": 0.9})


def windows_decoded(output: Path) -> int:
    """Rows of all batches of all runs there."""
    if not (output / ".reelmine/ledger.sqlite").exists():
        return 0
    with closing(Ledger(output, look=True)) as ledger:
        notes = ledger._db.execute("SELECT outcome FROM attempts WHERE what = 'batch'")
        return sum(int(outcome.split()[0]) for (outcome,) in notes)


def transcript(output: Path, name: str) -> dict:
    return json.loads((output / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def film(samples, tmp_path_factory) -> Path:
    """Half a minute of speech played backwards, then two minutes of English."""
    backwards = decoded(samples / "coffee_shop.mp4")[::-1][: 30 * SAMPLE_RATE]
    pause = np.zeros(3 * SAMPLE_RATE, np.float32)
    audio = np.concatenate([backwards, pause, joined(samples, seconds=150, seed=6)])
    return write_wav(tmp_path_factory.mktemp("film") / "film.wav", audio)


@pytest.fixture(scope="module")
def torn(tmp_path_factory) -> str:
    """A model that hears these languages, in any video."""
    return str(make_model(tmp_path_factory.mktemp("torn") / "model", seconds=0.5, heard=TORN))


@pytest.fixture(scope="module")
def quiet(film, torn, tmp_path_factory) -> bytes:
    """The result of a run that nothing disturbed."""
    output = tmp_path_factory.mktemp("quiet")
    engine.run([film], Config(output=output, model=torn, slots=1, batch_size=1))
    return (output / "film.json").read_bytes()


def test_first_windows_decide_together_and_all_text_is_in_one_language(quiet):
    result = json.loads(quiet)
    assert result["language"] == "en"
    assert result["reelmine"]["language_probability"] == pytest.approx(0.69)
    assert {segment["text"][:5] for segment in result["segments"]} == {" (en)"}
    assert len({segment["seek"] for segment in result["segments"]}) > len(TORN)


def test_windows_of_the_other_language_are_decoded_once_more(film, torn, quiet, tmp_path):
    config = Config(output=tmp_path / "out", model=torn, slots=2, batch_size=3)
    assert engine.run([film], config).exit_code == 0
    assert (tmp_path / "out/film.json").read_bytes() == quiet
    windows = {segment["seek"] for segment in json.loads(quiet)["segments"]}
    assert windows_decoded(tmp_path / "out") == len(windows) + 2


@pytest.mark.parametrize("after", [pytest.param(n, marks=pytest.mark.slow) for n in (1, 3, 5, 6)])
def test_run_killed_while_the_language_is_decided_goes_on_to_the_same_bytes(
    film, torn, quiet, tmp_path, after
):
    output = tmp_path / "out"
    words = command(["run", film, "-o", output, "--model", torn, "--slots", "1", "-q"])
    words += ["--batch-size", "1"]
    run = subprocess.Popen(words, env=environment())
    deadline = time.monotonic() + 60
    while windows_decoded(output) < after:
        assert time.monotonic() < deadline
        assert run.poll() is None
        time.sleep(0.05)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert not (output / "film.json").exists()
    assert subprocess.run(words, env=environment(), check=False).returncode == 0
    assert (output / "film.json").read_bytes() == quiet


@pytest.mark.slow
def test_language_that_is_clear_is_heard_from_the_first_window(base, samples, tmp_path):
    config = Config(output=tmp_path / "out", model="base")
    assert engine.run([samples / "coffee_shop.mp4"], config).exit_code == 0
    result = transcript(tmp_path / "out", "coffee_shop")
    assert result["language"] == "en"
    assert 0.9 < result["reelmine"]["language_probability"] <= 1
    windows = {segment["seek"] for segment in result["segments"]}
    assert windows_decoded(tmp_path / "out") == len(windows) > 1


@pytest.fixture(scope="module")
def in_english(base, film, tmp_path_factory) -> Path:
    """The output of a run that was told the language."""
    output = tmp_path_factory.mktemp("english")
    assert engine.run([film], Config(output=output, model="base", language="en")).exit_code == 0
    return output


@pytest.mark.slow
@pytest.mark.parametrize(("slots", "batch"), [(2, 4), (1, 1)])
def test_film_that_begins_in_no_language_is_told_by_what_follows(
    film, in_english, tmp_path, slots, batch
):
    """Real weights take speech played backwards for Welsh, at 0.4."""
    config = Config(output=tmp_path, model="base", slots=slots, batch_size=batch)
    assert engine.run([film], config).exit_code == 0
    result = transcript(tmp_path, "film")
    assert result["language"] == "en"
    assert 0.6 < result["reelmine"]["language_probability"] < 0.9
    assert result["segments"] == transcript(in_english, "film")["segments"]
    assert windows_decoded(tmp_path) == windows_decoded(in_english) + 1
