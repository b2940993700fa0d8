"""What of a GPU's limit a run has reached: for cards and models that are known."""

from dataclasses import replace

import pytest

from engine.config import Config
from engine.floor import PEAKS, SHAPES, floor_seconds
from engine.pools.hardware import Hardware
from engine.pools.sizing import size
from engine.report import share_of_floor
from engine.testing.hardware import GIB, container, mig_server, workstation
from engine.usage import Standing, Usage

CARD = "NVIDIA GeForce RTX 4090"


def named(hardware: Hardware, *names: str) -> Hardware:
    cards = zip(hardware.gpus, names, strict=True)
    return replace(hardware, gpus=tuple(replace(gpu, name=name) for gpu, name in cards))


def ten_seconds(windows: int = 100) -> Usage:
    """An account of ten seconds in which so many windows of 80 tokens were decoded."""
    usage = Usage(0.0)
    usage.note(Standing(1, 1, 0, coming=True), 0.0)
    usage.note(Standing(1, 0, 0, coming=False), 10.0)
    usage.add_batch("cuda:0", [25.0] * windows, 80 * windows, seconds=9.0)
    return usage


def share(hardware: Hardware, model: str = "large-v3", **options) -> float | None:
    plan = size(hardware, Config(**options), 3 * GIB)
    return share_of_floor(model, hardware, plan, ten_seconds())


def test_share_is_the_least_time_over_the_time_taken():
    one, two = named(workstation(1), CARD), named(workstation(2), CARD, CARD)
    least = floor_seconds(SHAPES["large-v3"], [PEAKS[CARD]], 16, 100, 8000)
    assert share(one, batch_size=16) == pytest.approx(least / 10)
    assert share(two, batch_size=16) == pytest.approx(least / 20)
    assert share(one, batch_size=16, slots=2) == share(one, batch_size=16)


def test_nothing_is_said_of_cards_models_and_number_types_that_are_not_known():
    card = named(workstation(1), CARD)
    assert share(card) is not None
    assert share(card, model="/models/mine") is None
    assert share(card, compute_type="int8_float16") is None
    assert share(named(workstation(2), CARD, "NVIDIA of tomorrow")) is None
    assert share(container(4, 16 * GIB)) is None
    assert share(mig_server()) is None


def test_run_without_a_window_has_no_share():
    card = named(workstation(1), CARD)
    plan = size(card, Config(), 3 * GIB)
    assert share_of_floor("large-v3", card, plan, Usage(0.0)) is None
