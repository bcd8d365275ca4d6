"""Resizing against PyTorch, and its weights by hand."""

import numpy as np
import pytest

from depth_anything_jax.utils import interpolation

TORCH = {
    "bilinear-corners": {"mode": "bilinear", "align_corners": True},
    "bilinear": {"mode": "bilinear", "align_corners": False},
    "bicubic": {"mode": "bicubic", "align_corners": False},
    "nearest": {"mode": "nearest"},
}


@pytest.mark.parametrize("rule", interpolation.RULES)
@pytest.mark.parametrize("out", [(5, 7), (30, 41), (1, 9), (9, 1), (8, 8), (8, 11)])
def test_maps_are_resized_as_torch_resizes_them(out, rule):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(0, 1, (8, 11))
    expected = torch.nn.functional.interpolate(torch.tensor(x)[None, None], out, **TORCH[rule])
    # float64 on both sides; bicubic weights are cubes of rounded positions.
    np.testing.assert_allclose(interpolation.resize(x, out, rule), expected[0, 0], atol=1e-13)


@pytest.mark.parametrize("rule", interpolation.RULES)
def test_weights_sum_to_one_and_the_matrix_is_the_same_rule(rule):
    index, weight = interpolation.sample_weights(7, 16, rule)
    assert index.min() == 0 and index.max() == 6
    np.testing.assert_allclose(weight.sum(1), 1, rtol=1e-15)
    x = np.random.default_rng(0).normal(0, 1, (7, 3))
    dense = interpolation.matrix((index, weight), 7) @ x
    np.testing.assert_allclose(interpolation.resize(x, (16, 3), rule), dense, atol=1e-15)


def test_nearest_keeps_values_and_the_same_size_keeps_everything():
    x = np.array([[1.0, np.nan, 3.0]])
    assert interpolation.resize(x, (2, 6), "nearest")[1].tolist()[:2] == [1, 1]
    big = interpolation.resize(np.array([[1.0, np.inf, 3.0]]), (1, 5), "bilinear-corners")
    assert big.tolist() == [[1, np.inf, np.inf, np.inf, 3]]
    for rule in interpolation.RULES:  # 0 times NaN would spread it
        np.testing.assert_array_equal(interpolation.resize(x, (1, 3), rule), x)
    assert interpolation.resize(np.ones((2, 2), np.float16), (2, 2), "bilinear").dtype == np.float64
