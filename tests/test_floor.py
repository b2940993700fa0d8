"""The least time on a GPU, against figures worked out by hand."""

import pytest

from engine.floor import (
    PEAKS,
    SHAPES,
    Peak,
    encoder_flops,
    floor_seconds,
    shape_named,
    step_bytes,
    token_flops,
    window_seconds,
)

LARGE = SHAPES["large-v3"]
FAST = Peak(790e12, 4.5e12)


def test_counts_are_those_of_the_layers_written_out():
    d, t = 384, 1500
    layer = 4 * 2 * t * d * d + 2 * 2 * t * d * 4 * d + 2 * 2 * t * t * d  # QKVO, MLP, attention
    first, second = 2 * 3000 * d * 3 * 80, 2 * 1500 * d * 3 * d
    cross = 4 * 2 * 2 * t * d * d  # keys and values of four decoder layers
    assert encoder_flops(SHAPES["tiny"]) == first + second + 4 * layer + cross


@pytest.mark.parametrize(
    ("model", "encoder", "token", "weights", "cross"),
    [  # GFLOP, GFLOP, MB, MB
        ("tiny", 36.9 + 3.5, 0.066, 56, 9.2),
        ("base", 87.4 + 9.4, 0.116, 97, 18.4),
        ("large-v3", 2274 + 315, 1.86, 1601, 246),
        ("large-v3-turbo", 2274 + 39, 0.35, 316, 31),
    ],
)
def test_known_shapes_have_the_work_of_the_table(model, encoder, token, weights, cross):
    shape = SHAPES[model]
    assert encoder_flops(shape) / 1e9 == pytest.approx(encoder, rel=0.005)
    assert token_flops(shape, 54) / 1e9 == pytest.approx(token, rel=0.02)
    assert step_bytes(shape, 0, 0) / 1e6 == pytest.approx(weights, rel=0.01)
    assert (step_bytes(shape, 1, 0) - step_bytes(shape, 0, 0)) / 1e6 == pytest.approx(
        cross, rel=0.01
    )


@pytest.mark.parametrize(("batch", "speed"), [(1, 674), (8, 2242), (64, 3161)])
def test_large_model_is_bound_by_reads_that_a_batch_shares_only_in_part(batch, speed):
    assert 30 / window_seconds(LARGE, FAST, batch, 100) == pytest.approx(speed, rel=0.005)


def test_two_equal_gpus_halve_the_floor():
    one = floor_seconds(LARGE, [FAST], 16, 400, 40_000)
    assert one == pytest.approx(400 * window_seconds(LARGE, FAST, 16, 100))
    assert floor_seconds(LARGE, [FAST, FAST], 16, 400, 40_000) == pytest.approx(one / 2)


def test_names_that_are_not_listed_have_no_shape():
    assert shape_named("tiny.en") == SHAPES["tiny"]
    assert shape_named("/models/my-own") is None
    assert PEAKS.get("NVIDIA GeForce RTX 4090 Laptop GPU") is None
