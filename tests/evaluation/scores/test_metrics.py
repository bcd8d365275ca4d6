"""Metrics against brute force, against hand-made numbers, and their invariances."""

import math

import numpy as np
import pytest

from depth_anything_jax.evaluation.scores import metrics


def maps(seed=0, shape=(9, 11)):
    rng = np.random.default_rng(seed)
    return rng.uniform(0.1, 1, shape), rng.uniform(0.1, 1, shape), rng.random(shape) < 0.7


def test_errors_by_hand():
    g = np.array([1.0, 2.0, 4.0])
    found = metrics.errors(np.array([1.1, 2.0, 3.0]), g)
    assert found.abs_rel == pytest.approx((0.1 + 0 + 0.25) / 3)
    assert found.sq_rel == pytest.approx((0.01 + 0 + 0.25) / 3)
    assert found.rmse == pytest.approx(math.sqrt(1.01 / 3))
    assert found.delta1 == pytest.approx(2 / 3)  # 4 / 3 is above 1.25
    assert found.delta2 == found.delta3 == 1
    # p = 2 g everywhere: every logarithm is ln 2, and nothing of it is scale invariant.
    double = metrics.errors(2 * g, g)
    assert double.rmse_log == pytest.approx(math.log(2))
    assert double.log_bias == pytest.approx(math.log(2))
    assert double.log10 == pytest.approx(math.log10(2))
    assert double.silog == pytest.approx(0, abs=1e-13)
    assert double.delta1 == double.delta2 == 0
    assert double.delta3 == 0  # 1.25³ is 1.953
    # ± ln 1.5: silog is that times 100; 1.5 lies between 1.25 and 1.25².
    both = metrics.errors(np.array([1.5, 1 / 1.5]), np.ones(2))
    assert both.silog == pytest.approx(100 * math.log(1.5)) and both.log_bias == pytest.approx(0)
    assert (both.delta1, both.delta2) == (0, 1)
    # 10 m for 20 m: 0.1 - 0.05 per metre is 50 per kilometre, the unit of KITTI's benchmark.
    assert metrics.errors(np.array([10.0]), np.array([20.0])).i_rmse == pytest.approx(50)


@pytest.mark.parametrize("part", [metrics.PART, 64])
def test_errors_follow_their_formulas_pixel_by_pixel(part, monkeypatch):
    monkeypatch.setattr(metrics, "PART", part)
    rng = np.random.default_rng(0)
    g = rng.uniform(0.5, 60, 500)
    p = g * rng.lognormal(0.1, 0.3, 500)
    logs = [math.log(a) - math.log(b) for a, b in zip(p, g, strict=True)]
    pairs = list(zip(p, g, strict=True))
    mean = lambda values: math.fsum(values) / 500  # noqa: E731
    expected = {
        "abs_rel": mean(abs(a - b) / b for a, b in pairs),
        "sq_rel": mean((a - b) ** 2 / b for a, b in pairs),
        "rmse": math.sqrt(mean((a - b) ** 2 for a, b in pairs)),
        "rmse_log": math.sqrt(mean(d * d for d in logs)),
        "log10": mean(abs(math.log10(a) - math.log10(b)) for a, b in pairs),
        "silog": 100 * math.sqrt(mean(d * d for d in logs) - mean(logs) ** 2),
        "log_bias": mean(logs),
        "i_rmse": 1000 * math.sqrt(mean((1 / a - 1 / b) ** 2 for a, b in pairs)),
        "delta1": mean(max(a / b, b / a) < 1.25 for a, b in pairs),
        "delta2": mean(max(a / b, b / a) < 1.25**2 for a, b in pairs),
        "delta3": mean(max(a / b, b / a) < 1.25**3 for a, b in pairs),
    }
    assert len({*expected.values()}) == len(metrics.Errors._fields) == 11
    # float64 on both sides
    assert metrics.errors(p, g)._asdict() == pytest.approx(expected, rel=1e-12)
    assert metrics.errors(g, g) == (0,) * 8 + (1,) * 3


def test_silog_of_a_wrong_scale_alone_is_zero(monkeypatch):
    """E[d²] − E[d]² of these has no correct digit below 1e-6."""
    monkeypatch.setattr(metrics, "PART", 100)
    g = np.random.default_rng(0).uniform(1, 80, 1000)
    assert metrics.errors(1e6 * g, g).silog < 1e-11


def test_delta_limits_themselves_count_as_wrong():
    found = metrics.errors(np.array([5.0, 4.0]), np.array([4.0, 5.0]))
    assert found.delta1 == 0 and found.delta2 == 1


def test_a_depth_of_zero_or_below_is_wrong_and_finite():
    found = metrics.errors(np.array([0.0, -5.0]), np.array([2.0, 2.0]))
    assert found.abs_rel == pytest.approx((1 + 3.5) / 2) and found.delta3 == 0
    assert all(map(math.isfinite, found))
    assert found.log_bias == pytest.approx(math.log(metrics.TINY / 2))


def test_values_without_a_metric_are_an_error():
    good = np.ones(3)
    with pytest.raises(ValueError, match="1 of 3 predictions are not finite"):
        metrics.errors(np.array([1.0, np.nan, 1.0]), good)
    with pytest.raises(ValueError, match="2 of 3 true values are not finite and positive"):
        metrics.errors(good, np.array([1.0, 0.0, np.inf]))
    with pytest.raises(ValueError, match="no valid pixel"):
        metrics.errors(good[:0], good[:0])


# Pairs of points


def test_pair_accuracy_knows_ties_swaps_and_depth():
    values = np.array([[3.0, 1.0], [1.0, 3.0], [2.0, 2.0], [5.0, 4.0], [np.nan, 1.0]])
    closer = np.array([0, 0, 0, 1, 0])
    found = metrics.pair_accuracy(values, closer, larger_is_closer=True)
    assert found == (1, 1, 5) and found.accuracy == 0.2
    # The other way round for depth; swapped points and answers change nothing.
    assert metrics.pair_accuracy(values, closer, larger_is_closer=False) == (2, 1, 5)
    swapped = metrics.pair_accuracy(values[:, ::-1], 1 - closer, larger_is_closer=True)
    assert swapped == found
    with pytest.raises(ValueError, match="closer must be 0 or 1"):
        metrics.pair_accuracy(values, closer + 1, larger_is_closer=True)


def test_always_the_first_point_scores_half_of_swapped_pairs():
    """DA-2K puts the closer point first: without swaps this predictor would score 100 %."""
    values = np.tile([2.0, 1.0], (200, 1))
    closer = np.random.default_rng(0).permutation(200) % 2
    assert metrics.pair_accuracy(values, closer, larger_is_closer=True).accuracy == 0.5
    assert metrics.pair_accuracy(np.ones((200, 2)), closer, larger_is_closer=True) == (0, 200, 200)


def test_whdr_by_hand():
    values = np.array([[2.0, 1.0], [1.0, 2.0], [1.0, 1.05], [1.0, 1.0], [np.nan, 1.0]])
    relation = np.array([1, 1, -1, 1, 0])
    assert metrics.whdr(values, relation) == pytest.approx(3 / 5)
    weight = np.array([1.0, 2.0, 3.0, 5.0, 0.0])
    assert metrics.whdr(values, relation, weight=weight) == pytest.approx(7 / 11)
    # With a ratio of 1.1 the third pair is one of equals.
    assert metrics.whdr(values[:4], relation[:4], ratio=1.1) == pytest.approx(3 / 4)
    assert metrics.whdr(values[2:4], np.array([0, 0]), ratio=1.1) == 0
    assert metrics.whdr(values[:3] - 5, relation[:3]) == pytest.approx(1 / 3), "a shift is free"
    with pytest.raises(ValueError, match="ratio 1.1 needs positive values"):
        metrics.whdr(values - 5, relation, ratio=1.1)


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
    from depth_anything_jax.losses import relative

    pred, target, valid = (x.astype(np.float32) if x.dtype != bool else x for x in maps(5))
    low, high = target[valid].min(), target[valid].max()
    label = np.where(valid, (target - low) / (high - low), 0).astype(np.float32)
    loss = relative.affine_invariant(*(jnp.asarray(x)[None] for x in (pred, label, valid)))
    # float32 on the loss's side: 69 residuals of order 1.
    assert float(loss.sum) == pytest.approx(metrics.normalised_l1(pred, label, valid), rel=3e-6)


def test_no_valid_pixel_is_an_error():
    pred, target, _ = maps()
    with pytest.raises(ValueError, match="no valid pixel"):
        metrics.normalised_l1(pred, target, np.zeros(pred.shape, bool))


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


def test_interval_of_a_ratio_agrees_with_theory():
    rng = np.random.default_rng(0)
    b = rng.uniform(1, 2, (2, 400))
    a = 1.3 * b + rng.normal(0, 0.5, (2, 400))
    found = metrics.ratio_interval(a, b, seed=1)
    a, b = a.mean(0), b.mean(0)
    ratio = a.mean() / b.mean()
    half = 1.96 * (a - ratio * b).std() / math.sqrt(400) / b.mean()  # delta method
    assert found.mean == pytest.approx(ratio)
    # As above, and the delta method leaves out what is of second order in 1 / 400.
    assert found.low == pytest.approx(ratio - half, abs=0.1 * half)
    assert found.high == pytest.approx(ratio + half, abs=0.1 * half)


def test_interval_errors():
    with pytest.raises(ValueError, match="not all finite"):
        metrics.paired_interval(np.array([1.0, np.nan]), np.zeros(2))
    with pytest.raises(ValueError, match="one of each per image"):
        metrics.paired_interval(np.zeros(0), np.zeros(0))
