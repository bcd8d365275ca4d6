"""Point pairs: where they are read, ties, swaps, depth, pools."""

import numpy as np
import pytest

from depth_anything_jax.evaluation import metrics, pairs

DISPARITY = "disparity-affine"


def record(key="a.jpg", n=200, category="indoor", seed=0):
    """Pairs whose closer point is the first in half of them; the truth grows to the right."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 30, (n, 2))
    columns = np.stack([rng.integers(0, 20, n), rng.integers(20, 41, n)], 1)  # right is closer
    closer = np.ones(n, int)
    swap = np.arange(n) % 2 == 0
    columns[swap], closer[swap] = columns[swap][:, ::-1], 0
    return {
        "key": key, "image": np.zeros((30, 41, 3), np.uint8), "category": category,
        "points": np.stack([rows, columns], -1), "closer": closer,
    }  # fmt: skip


RAMP = np.linspace(0, 1, 11)[None] + np.zeros((7, 1))


def test_the_truth_is_right_at_any_resolution_and_for_depth():
    one = record()
    assert pairs.score(RAMP, DISPARITY, one).score == (200, 0, 200)
    assert pairs.score(RAMP, "metric", one).score == (0, 0, 200)
    assert pairs.score(1 / (RAMP + 1), "depth-scale", one).score == (200, 0, 200)


def test_points_are_rows_and_columns():
    one = record(n=1) | {"points": np.array([[[3, 40], [29, 0]]]), "closer": np.array([0])}
    full = np.arange(30 * 41).reshape(30, 41)
    assert pairs.values_at(full, one).tolist() == [[3 * 41 + 40, 29 * 41]]
    one["points"] = np.array([[[40, 3], [0, 0]]])
    with pytest.raises(
        ValueError, match=r"a.jpg: point \[40, 3\] lies outside the image of \(30, 41"
    ):
        pairs.values_at(full, one)


def test_always_the_same_point_scores_half():
    """By ties nobody gains; a predictor that prefers the first point knows half of the pairs."""
    one = record()
    flat = pairs.score(np.ones((7, 11)), DISPARITY, one).score
    assert flat == (0, 200, 200)
    assert pairs.score(np.full((7, 11), np.nan), DISPARITY, one).score == (0, 0, 200)
    first = np.tile([2.0, 1.0], (200, 1))
    assert metrics.pair_accuracy(first, one["closer"], larger_is_closer=True).accuracy == 0.5


def test_pools_count_pairs_not_images():
    many = [
        pairs.score(RAMP, DISPARITY, record("a", 30)),
        pairs.score(-RAMP, DISPARITY, record("b", 10)),
        pairs.score(np.ones((3, 3)), DISPARITY, record("c", 10, "aerial")),
    ]
    found = pairs.pool(many)
    assert found == {"all": (30, 10, 50), "indoor": (30, 0, 40), "aerial": (0, 10, 10)}
    assert found["indoor"].accuracy == 0.75 and pairs.whdr(found["indoor"]) == 0.25
    assert pairs.pool(many[::-1]) == found
    assert pairs.pool([]) == {"all": (0, 0, 0)}
    with pytest.raises(ValueError, match="b is scored twice"):
        pairs.pool([*many, many[1]])


def test_whdr_is_that_of_the_metrics():
    one = record(n=50)
    rng = np.random.default_rng(0)
    noisy = RAMP + rng.normal(0, 0.5, RAMP.shape)
    values = pairs.values_at(noisy, one)
    relation = np.where(one["closer"] == 0, 1, -1)  # closer is the larger disparity
    found = pairs.whdr(pairs.score(noisy, DISPARITY, one).score)
    assert found == pytest.approx(metrics.whdr(values, relation)) and 0 < found < 0.5
