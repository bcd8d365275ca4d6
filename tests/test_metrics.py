"""Metrics against brute force, against hand-made numbers, and their invariances."""

import math

import numpy as np
import pytest

from depth_anything_jax import metrics


def maps(seed=0, shape=(9, 11)):
    rng = np.random.default_rng(seed)
    return rng.uniform(0.1, 1, shape), rng.uniform(0.1, 1, shape), rng.random(shape) < 0.7


def test_abs_rel_and_delta1_by_hand():
    depth = np.array([[1.0, 2.0, 4.0, 10.0]])
    pred = np.array([[1.1, 2.0, 3.0, 13.0]])
    valid = np.array([[True, True, True, False]])
    assert metrics.abs_rel(pred, depth, valid) == pytest.approx((0.1 + 0 + 0.25) / 3)
    assert metrics.delta1(pred, depth, valid) == pytest.approx(2 / 3)  # 4 / 3 is above 1.25


def test_delta1_limit_itself_counts_as_wrong():
    depth, pred = np.array([[4.0, 5.0]]), np.array([[5.0, 4.0]])
    assert metrics.delta1(pred, depth, np.ones((1, 2), bool)) == 0


def test_depth_scores_follow_the_protocol_step_by_step():
    rng = np.random.default_rng(3)
    depth = rng.uniform(0.5, 15, (20, 30))
    depth[0] = 0.0005  # nearer than any measurement
    pred = 0.4 / depth + 0.1 + rng.normal(0, 0.03, depth.shape)
    label = rng.random(depth.shape) < 0.8
    keep = label & (depth > 1e-3) & (depth < 10)
    design = np.stack([pred[keep], np.ones(keep.sum())], 1)
    (scale, shift), *_ = np.linalg.lstsq(design, 1 / depth[keep], rcond=None)
    aligned = np.maximum(scale * pred + shift, 0.1)
    assert (aligned[keep] == 0.1).any(), "the floor has to act for this test to say anything"
    ratio = np.maximum(1 / aligned / depth, depth * aligned)[keep]
    error = (np.abs(1 / aligned - depth) / depth)[keep]
    found = metrics.depth_scores(pred, 1 / depth, label, cap=10.0)
    assert found.n == keep.sum()
    np.testing.assert_allclose(
        found[:4], (error.mean(), (ratio < 1.25).mean(), scale, shift), rtol=1e-11
    )


@pytest.mark.parametrize("cap", [10.0, 80.0, 72.0])
def test_a_depth_at_the_cap_is_out_and_the_next_below_is_in(cap):
    """Float32 disparity of `cap` metres inverts to either side of the cap."""
    below = cap - cap / 50_000  # the finest step of a 16-bit format (TUM: 1 / 5000 m at 10 m)
    disparity = (1 / np.array([[cap, below, 2 * cap, 1e-3, 1.1e-3]])).astype(np.float32)
    found = metrics.depth_valid(disparity, np.ones((1, 5), bool), cap)
    assert found.tolist() == [[False, True, False, False, True]]


def test_lower_median():
    assert metrics.lower_median(np.array([4.0, 1.0, 3.0, 2.0])) == 2.0
    assert metrics.lower_median(np.array([5.0, 1.0, 3.0])) == 3.0


def test_normalised_l1_by_hand():
    # Median 2 (the lower of 2 and 3), deviations 2 1 0 1 2 5 → mean 11 / 6.
    disparity = np.array([[0.0, 1.0, 2.0, 3.0, 4.0, 7.0]])
    pred = disparity[:, ::-1].copy()
    normal = (disparity - 2) / (11 / 6)
    expected = np.abs(normal - normal[:, ::-1]).mean()
    assert metrics.normalised_l1(pred, disparity, np.ones((1, 6), bool)) == pytest.approx(expected)


def test_normalised_l1_invariances():
    pred, target, valid = maps()
    base = metrics.normalised_l1(pred, target, valid)
    assert base > 0.1
    # float64 rounding of the shift of 7 only
    assert metrics.normalised_l1(3 * pred + 7, target, valid) == pytest.approx(base, rel=1e-12)
    assert metrics.normalised_l1(pred, 0.2 * target - 1, valid) == pytest.approx(base, rel=1e-12)
    assert metrics.normalised_l1(5 * target - 2, target, valid) == pytest.approx(0, abs=1e-13)
    # Only valid pixels count.
    changed = np.where(valid, pred, 1e9)
    assert metrics.normalised_l1(changed, target, valid) == base


def test_a_constant_prediction_scores_one():
    _, target, valid = maps()
    assert metrics.normalised_l1(np.full(target.shape, 2.0), target, valid) == pytest.approx(1)


def test_normalised_l1_equals_the_training_loss():
    """The metric is the loss of V1 without trimming; both are written independently."""
    jnp = pytest.importorskip("jax.numpy")
    from depth_anything_jax import losses

    pred, target, valid = (x.astype(np.float32) if x.dtype != bool else x for x in maps(5))
    low, high = target[valid].min(), target[valid].max()
    label = np.where(valid, (target - low) / (high - low), 0).astype(np.float32)
    loss = losses.affine_invariant(*(jnp.asarray(x)[None] for x in (pred, label, valid)))
    # float32 on the loss's side: 69 residuals of order 1.
    assert float(loss.sum) == pytest.approx(metrics.normalised_l1(pred, label, valid), rel=3e-6)


@pytest.mark.parametrize("function", [metrics.abs_rel, metrics.delta1, metrics.normalised_l1])
def test_no_valid_pixel_is_an_error(function):
    pred, target, _ = maps()
    with pytest.raises(ValueError, match="no valid pixel"):
        function(pred, target, np.zeros(pred.shape, bool))


def test_interval_of_a_normal_sample_agrees_with_theory():
    rng = np.random.default_rng(0)
    b = rng.uniform(0, 1, 400)
    a = b + rng.normal(0.1, 1, 400)
    found = metrics.paired_interval(a, b, seed=1)
    d = a - b
    half = 1.96 * d.std() / math.sqrt(400)
    assert found.mean == pytest.approx(d.mean())
    # 10 000 resamples place a 2.5 % quantile to about 2 % of the half width (one sigma).
    assert found.low == pytest.approx(d.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(d.mean() + half, abs=0.1 * half)


def test_interval_is_paired():
    """Two scores that differ by .01 on every image differ clearly, however images differ."""
    b = np.random.default_rng(0).uniform(0, 10, 50)
    found = metrics.paired_interval(b - 0.01, b)
    assert found.clear and found.high < 0 and found.high - found.low < 1e-12


def test_interval_that_holds_zero_is_not_clear():
    d = np.array([1.0, -1.0] * 20)
    assert not metrics.paired_interval(d, np.zeros(40)).clear


def test_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(2)
    hits = 0
    for seed in range(200):
        d = rng.exponential(1, 100) - 1  # skewed, mean 0
        found = metrics.paired_interval(d, np.zeros(100), seed=seed, n=500)
        hits += found.low <= 0 <= found.high
    # 95 % of 200 is 190, three sigma 9.2; skewed samples and n=100 lose about 2 % of coverage.
    assert 176 <= hits <= 199


def test_interval_averages_seeds_first_and_depends_on_its_seed_alone():
    a, b = np.random.default_rng(3).uniform(0, 1, (2, 3, 60))
    found = metrics.paired_interval(a, b, seed=4)
    # Difference of means and mean of differences: float64 rounding.
    assert found == pytest.approx(metrics.paired_interval(a.mean(0), b.mean(0), seed=4), rel=1e-12)
    assert found != metrics.paired_interval(a, b, seed=5)


def test_interval_in_pieces_equals_the_whole(monkeypatch):
    a, b = np.random.default_rng(3).uniform(0, 1, (2, 3000))
    assert 10_000 * 3000 > 2_000_000, "several pieces"
    found = metrics.paired_interval(a, b)
    assert found.low < found.mean < found.high
    half = 1.96 * (a - b).std() / math.sqrt(3000)
    assert found.high - found.mean == pytest.approx(half, rel=0.1)


def test_interval_errors():
    with pytest.raises(ValueError, match="not all finite"):
        metrics.paired_interval(np.array([1.0, np.nan]), np.zeros(2))
    with pytest.raises(ValueError, match="one of each per image"):
        metrics.paired_interval(np.zeros(0), np.zeros(0))
