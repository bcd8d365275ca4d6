"""Alignment solvers against numpy and brute force, on large maps and on hostile ones."""

import itertools

import numpy as np
import pytest

from depth_anything_jax.utils import scale_shift

SCALE_SHIFT = {
    "least_squares": scale_shift.least_squares,
    "l1": lambda x, y: scale_shift.l1(x, y, np.ones_like(y)),
}
SCALE = {
    "least_squares_scale": scale_shift.least_squares_scale,
    "l1_scale": lambda x, y: scale_shift.l1_scale(x, y, np.ones_like(y)),
    "median_scale": scale_shift.median_scale,
}
ALL = SCALE_SHIFT | SCALE


def vectors(seed=0, n=70):
    rng = np.random.default_rng(seed)
    return rng.uniform(0.1, 1, n), rng.uniform(0.1, 1, n), rng.uniform(0.1, 2, n)


def lstsq(x, y):
    design = np.stack([x, np.ones_like(x)], 1)
    return np.linalg.lstsq(design, y, rcond=None)[0]


def test_least_squares_is_the_least_squares_solution():
    x, y, _ = vectors()
    # float64 on both sides; lstsq's SVD loses a few digits.
    np.testing.assert_allclose(scale_shift.least_squares(x, y), lstsq(x, y), rtol=1e-12)
    scale = np.linalg.lstsq(x[:, None], y, rcond=None)[0][0]
    assert scale_shift.least_squares_scale(x, y) == (pytest.approx(scale, rel=1e-13), 0)


# Large maps


def far_away(pixels):
    """A large scan that the network sees far from zero: the trap of ETH3D."""
    rng = np.random.default_rng(1)
    target = rng.uniform(0.02, 0.2, pixels)
    return (400 + 3 * target + rng.normal(0, 0.02, pixels)).astype(np.float32), target


def textbook(x, y, dtype):
    """The closed form of Σx², Σx, Σxy and Σy, as public evaluators have it."""
    x, y = x.astype(dtype), y.astype(dtype)
    n, xx, sx = dtype(x.size), (x * x).sum(), x.sum()
    xy, sy = (x * y).sum(), y.sum()
    with np.errstate(divide="ignore"):
        return (n * xy - sx * sy) / (n * xx - sx * sx)


def test_float32_sums_lose_what_centred_float64_sums_keep():
    x, y = far_away(2_400_000)
    expected = lstsq(x.astype(np.float64), y)
    # lstsq itself: a condition number of 2e3 times the rounding of millions of sums.
    np.testing.assert_allclose(scale_shift.least_squares(x, y), expected, rtol=1e-10)
    naive = textbook(x, y, np.float32)
    assert not abs(naive - expected[0]) < 0.01 * expected[0], "no trap"


@pytest.mark.nightly  # lstsq on 24 megapixels needs 2 GB and seconds
def test_24_megapixels():
    x, y = far_away(24_000_000)
    expected = lstsq(x.astype(np.float64), y)
    np.testing.assert_allclose(scale_shift.least_squares(x, y), expected, rtol=1e-10)
    assert not abs(textbook(x, y, np.float32) - expected[0]) < 0.01 * expected[0]
    scale = float(np.median(y) / np.median(x.astype(np.float64)))
    assert scale_shift.median_scale(x, y).scale == pytest.approx(scale, rel=1e-14)
    # x is nearly constant here: the weighted median of y / x against one of longdouble sums
    ratio, mass = y / x.astype(np.float64), x.astype(np.longdouble)
    order = np.argsort(ratio)
    reached = np.cumsum(mass[order])
    expected_l1 = ratio[order][np.searchsorted(reached, reached[-1] / 2)]
    scale = float(np.sum(x.astype(np.longdouble) * y) / np.sum(np.square(x, dtype=np.longdouble)))
    # The mean's rounding, of which x is 400 times its spread.
    assert scale_shift.least_squares_scale(x, y).scale == pytest.approx(scale, rel=1e-12)
    # 24 million float64 additions may move the half by a few pixels: neighbours differ by 1e-10.
    found = scale_shift.l1_scale(x, y, np.ones_like(y)).scale
    assert found == pytest.approx(float(expected_l1), rel=1e-8)


@pytest.mark.nightly  # minutes: some sixty sorts of all pixels
@pytest.mark.timeout(3600)
def test_l1_of_24_megapixels():
    """Seven of ten pixels on a line, the others anywhere: the line is the optimum."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0.1, 1, 24_000_000).astype(np.float32)
    y = 2 * x.astype(np.float64) + 1
    bad = rng.random(x.size) < 0.3
    y[bad] += rng.normal(0, 5, int(bad.sum()))
    weight = rng.uniform(0.1, 2, x.size)
    found = scale_shift.l1(x, y, weight)
    assert found == pytest.approx((2, 1), rel=1e-12)  # through a pixel on the line, in float64

    def cost(scale, shift):
        return float(weight @ np.abs(scale * x.astype(np.float64) + shift - y))

    for scale, shift in ((1e-4, 0), (-1e-4, 0), (0, 1e-4), (0, -1e-4), (1e-4, -5e-5)):
        assert cost(*found) < cost(found.scale + scale, found.shift + shift)


def test_a_constant_added_to_the_prediction_costs_no_digit():
    rng = np.random.default_rng(1)
    target = rng.uniform(0, 1, 200_000)
    scale, shift = scale_shift.least_squares((1000 + target).astype(np.float32), target)
    # x itself is rounded to 6e-5 per pixel: independent errors, so the slope is far better.
    assert abs(scale - 1) < 1e-6 and abs(shift + 1000) < 1e-3


def test_merged_moments_are_those_of_all_pixels_in_any_order():
    x, y, _ = vectors(n=1000)
    cuts = [0, 3, 4, 500, 1000]
    parts = [scale_shift.moments(x[a:b], y[a:b]) for a, b in itertools.pairwise(cuts)]
    merged = scale_shift.merge(parts)
    assert all(scale_shift.merge(p) == merged for p in itertools.permutations(parts))
    np.testing.assert_allclose(merged, scale_shift.moments(x, y), rtol=1e-13)  # float64 sums
    np.testing.assert_allclose(scale_shift.solve(merged), lstsq(x, y), rtol=1e-12)
    with pytest.raises(ValueError, match="no valid pixel in any image"):
        scale_shift.merge([])


# L1


def l1_brute(x, y, w, *, shift):
    """The best of all lines through two pixels (or through one and the origin)."""
    best = np.inf
    for i in range(len(x)):
        for j in range(i) if shift else [None]:
            if shift and x[i] == x[j]:
                continue
            s = (y[i] - y[j]) / (x[i] - x[j]) if shift else y[i] / x[i]
            t = y[i] - s * x[i] if shift else 0.0
            best = min(best, w @ np.abs(s * x + t - y))
    return best


def cases():
    rng = np.random.default_rng(0)
    for seed in range(6):
        x, y, w = vectors(seed, 25)
        yield f"random {seed}", x, y, w
        yield f"outliers {seed}", x, np.where(rng.random(25) < 0.3, 50 * y, 2 * x + 1), w
        yield f"far away {seed}", x + 1e4, y, w
    x = rng.integers(0, 5, 40) / 4
    yield "few values", x, rng.integers(0, 4, 40) / 2.0, np.ones(40)
    yield "few values, weights", x, rng.integers(0, 4, 40) / 2.0, rng.integers(1, 4, 40) * 1.0
    yield "upside down", x, 3 - 2 * x, np.ones(40)
    yield "constant target", x, np.full(40, 2.0), np.ones(40)
    yield "mostly one value", np.where(np.arange(40) < 30, 1, x + 0.1), x, np.ones(40)


@pytest.mark.parametrize("case", list(cases()), ids=lambda c: c[0])
def test_l1_is_the_optimum(case):
    _, x, y, w = case
    scale, shift = scale_shift.l1(x, y, w)
    found = w @ np.abs(scale * x + shift - y)
    # float64 rounding of residuals whose terms are up to 1e4 (far away)
    slack = 1e-13 * w.sum() * (np.abs(scale * x).max() + np.abs(y).max())
    assert found <= l1_brute(x, y, w, shift=True) * (1 + 1e-12) + slack


@pytest.mark.parametrize("case", list(cases()), ids=lambda c: c[0])
def test_l1_scale_is_the_optimum(case):
    _, x, y, w = case
    x = np.where(x == 0, 0.5, x)
    scale, shift = scale_shift.l1_scale(x, y, w)
    best = l1_brute(x, y, w, shift=False)
    assert shift == 0 and w @ np.abs(scale * x - y) <= best * (1 + 1e-12) + 1e-13


def test_l1_agrees_with_linear_programming():
    optimize = pytest.importorskip("scipy.optimize")
    x, y, w = vectors(3, 200)
    n = len(x)
    eye, line = np.eye(n), np.stack([x, np.ones(n)], 1)
    above, below = np.hstack([line, -eye]), np.hstack([-line, -eye])
    found = optimize.linprog(
        np.r_[0, 0, w], np.vstack([above, below]), np.r_[y, -y], bounds=[(None, None)] * (n + 2)
    )
    np.testing.assert_allclose(
        scale_shift.l1(x, y, w), found.x[:2], rtol=1e-7
    )  # the LP's tolerance


def test_l1_shrugs_off_what_least_squares_follows():
    x, *_ = vectors()
    y = 3 * x + 2
    y[:20] = 100
    np.testing.assert_allclose(scale_shift.l1(x, y, np.ones_like(x)), (3, 2), rtol=1e-12)
    assert abs(scale_shift.least_squares(x, y).shift - 2) > 10


def test_weights_count_as_repetition():
    x, y, _ = vectors(n=30)
    times = np.random.default_rng(0).integers(1, 4, 30)
    for solver in (scale_shift.l1, scale_shift.l1_scale):
        found = solver(x, y, times.astype(float))
        again = solver(np.repeat(x, times), np.repeat(y, times), np.ones(times.sum()))
        np.testing.assert_allclose(found, again, rtol=1e-12)
    zero = np.where(np.arange(30) < 20, 1.0, 0.0)
    np.testing.assert_allclose(
        scale_shift.l1(x, y, zero), scale_shift.l1(x[:20], y[:20], zero[:20])
    )


def test_pixels_without_weight_take_no_part():
    x, y = np.array([1.0, 1.0, 1.0, 5.0]), np.array([2.0, 3.0, 9.0, 1.0])
    assert scale_shift.l1(x, y, np.array([1.0, 1.0, 1.0, 0.0])) == (0, 3), (
        "a constant of three pixels"
    )
    with pytest.raises(ValueError, match="all weights are 0"):
        scale_shift.l1(x, y, np.zeros(4))
    assert scale_shift.l1_scale(x, y, np.zeros(4)) == (0, 0)


def test_weighted_median_by_hand():
    x = np.array([3.0, 1.0, 2.0, 10.0])
    assert scale_shift.weighted_median(x, np.array([1.0, 1.0, 1.0, 1.0])) == 2
    assert scale_shift.weighted_median(x, np.array([1.0, 1.0, 1.0, 3.5])) == 10
    assert scale_shift.weighted_median(x, np.array([0.0, 0.0, 0.0, 1.0])) == 10


def test_median_scale_by_hand():
    x, y = np.array([1.0, 2.0, 4.0, 9.0]), np.array([30.0, 10.0, 20.0])
    assert scale_shift.median_scale(x[:3], y) == (10, 0)
    assert scale_shift.median_scale(x, np.ones(4)) == (1 / 3, 0)


# Hostile input


@pytest.mark.parametrize("name", ALL)
def test_no_valid_pixel(name):
    with pytest.raises(ValueError, match="no valid pixel"):
        ALL[name](np.zeros(0), np.zeros(0))
    with pytest.raises(ValueError, match="no valid pixel"):
        ALL[name](np.full(3, np.nan), np.ones(3))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("poison", [np.inf, -np.inf, np.nan])
def test_pixels_that_are_not_finite_take_no_part(name, poison):
    x, y, _ = vectors()
    bad_x, bad_y = x.copy(), y.copy()
    bad_x[:5], bad_y[3:9] = poison, poison
    # A view and a copy are summed in different blocks.
    np.testing.assert_allclose(ALL[name](bad_x, bad_y), ALL[name](x[9:], y[9:]), rtol=1e-12)


@pytest.mark.parametrize("name", SCALE_SHIFT)
@pytest.mark.parametrize("value", [0.0, 0.3, -7.1, 1e6])
def test_a_constant_prediction_gets_the_constant_that_fits_best(name, value):
    y = vectors()[1]
    expected = y.mean() if name == "least_squares" else np.sort(y)[34]  # the lower of 70
    scale, shift = SCALE_SHIFT[name](np.full(y.size, value), y)
    assert scale == 0 and shift == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("name", SCALE)
def test_a_zero_prediction_has_no_scale(name):
    assert SCALE[name](np.zeros(9), np.ones(9)) == (0, 0)


@pytest.mark.parametrize("name", ALL)
def test_one_pixel(name):
    expected = (0, 6) if name in SCALE_SHIFT else (3, 0)
    assert ALL[name](np.array([2.0]), np.array([6.0])) == pytest.approx(expected)


@pytest.mark.parametrize("name", SCALE_SHIFT)
def test_two_pixels_are_met_exactly(name):
    found = SCALE_SHIFT[name](np.array([1.0, 3.0]), np.array([5.0, 1.0]))
    assert found == pytest.approx((-2, 7), rel=1e-14)


def test_two_pixels_have_the_best_scale_of_each_solver():
    x, y = np.array([1.0, 3.0]), np.array([5.0, 1.0])
    expected = {"least_squares_scale": 8 / 10, "l1_scale": 1 / 3, "median_scale": 3 / 2}
    assert SCALE.keys() == expected.keys()
    for name, scale in expected.items():
        assert SCALE[name](x, y) == pytest.approx((scale, 0), rel=1e-14)


@pytest.mark.parametrize("name", ALL)
def test_a_negative_optimum_is_given_as_it_is(name):
    x, *_ = vectors()
    expected = (-3, 2) if name in SCALE_SHIFT else (-3, 0)
    assert ALL[name](x, -3 * x + expected[1]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_nothing_is_written_to_the_arguments(name):
    x, y, _ = vectors()
    kept = x.copy(), y.copy()
    ALL[name](x, y)
    assert (x == kept[0]).all() and (y == kept[1]).all()


# Samples


def test_grid_takes_the_valid_pixel_nearest_to_each_cell_centre():
    valid = np.random.default_rng(0).random((40, 57)) < 0.3
    valid[:10, :19] = False  # a whole cell at 4 x 3
    found = scale_shift.grid(valid, 3)
    expected = []
    for i, j in itertools.product(range(3), range(3)):
        rows = [r for r in range(40) if r * 3 // 40 == i]
        columns = [c for c in range(57) if c * 3 // 57 == j]
        cell = [(r, c) for r in rows for c in columns if valid[r, c]]
        middle = (i + 0.5) * 40 / 3, (j + 0.5) * 19
        near = lambda p, m=middle: (p[0] + 0.5 - m[0]) ** 2 + (p[1] + 0.5 - m[1]) ** 2  # noqa: E731
        if cell:
            r, c = min(cell, key=near)
            expected.append(r * 57 + c)
    assert found.tolist() == sorted(expected)


def test_grid_of_small_and_empty_maps():
    valid = np.array([[True, False], [True, True]])
    assert scale_shift.grid(valid, 64).tolist() == [0, 2, 3], "every pixel is its own cell"
    assert scale_shift.grid(np.zeros((5, 5), bool), 64).size == 0
    valid = np.zeros((100, 100), bool)
    valid[:50, :50] = True
    assert scale_shift.grid(valid, 64).size == 32 * 32, "cells without a valid pixel give none"


def test_thin_keeps_what_nearest_reduction_keeps():
    valid = np.random.default_rng(0).random((60, 90)) < 0.5
    kept = np.zeros((60, 90), bool)
    kept[::3, ::3] = True
    assert scale_shift.thin(valid, 30).tolist() == np.flatnonzero(valid & kept).tolist()
    assert scale_shift.thin(valid, 90).tolist() == np.flatnonzero(valid).tolist()
