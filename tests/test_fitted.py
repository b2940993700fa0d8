"""What fitted into which GPU: kept, found again, and never in the way."""

import json

import pytest

from engine.pools.fitting import Fit
from engine.store import fitted


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("REELMINE_CACHE", str(tmp_path))
    return tmp_path


def test_nothing_is_known_at_first():
    assert fitted.recall("model", "auto") == ({}, None)


def test_what_is_remembered_is_recalled_for_its_model_and_compute_type_alone():
    small, smaller = Fit(8, "float16", 24 << 30), Fit(2, "int8_float16", None)
    assert fitted.remember("model", "auto", {"card": small}) is None
    assert fitted.remember("model", "float16", {"card": small}) is None
    assert fitted.remember("other", "auto", {"card": smaller, "slow card": small}) is None
    assert fitted.recall("model", "auto") == ({"card": small}, None)
    assert fitted.recall("other", "auto") == ({"card": smaller, "slow card": small}, None)
    assert fitted.recall("other", "int8") == ({}, None)


def test_what_is_found_later_takes_the_place_of_what_was_known():
    fitted.remember("model", "auto", {"card": Fit(8, "float16", 1), "other": Fit(4, "int8", 2)})
    fitted.remember("model", "auto", {"card": Fit(2, "float16", 3)})
    found, _ = fitted.recall("model", "auto")
    assert found == {"card": Fit(2, "float16", 3), "other": Fit(4, "int8", 2)}


ENTRY = {
    "gpu": "card",
    "model": "model",
    "asked": "auto",
    "batch_size": 4,
    "compute_type": "int8",
    "free": None,
}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "3",
        "[3]",
        "null",
        json.dumps([{**ENTRY, "batch_size": 0}]),
        json.dumps([{**ENTRY, "batch_size": "4"}]),
        json.dumps([{**ENTRY, "gpu": None}]),
        json.dumps([{**ENTRY, "free": "all"}]),
        json.dumps([{name: ENTRY[name] for name in ENTRY if name != "asked"}]),
        b"\xff\xfe",
    ],
)
def test_a_damaged_file_is_noted_not_used_and_written_anew(cache, content):
    path = cache / fitted.FILE
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found, note = fitted.recall("model", "auto")
    assert found == {}
    assert note is not None
    assert str(path) in note
    assert "damaged and was not used" in note
    fit = Fit(1, "float16", None)
    assert fitted.remember("model", "auto", {"card": fit}) is None
    assert fitted.recall("model", "auto") == ({"card": fit}, None)


def test_a_file_that_is_whole_is_read():
    fitted._path().write_text(json.dumps([ENTRY]))
    assert fitted.recall("model", "auto") == ({"card": Fit(4, "int8", None)}, None)
