"""Boundary F1: each definition against a computation pixel by pixel."""

import math

import numpy as np
import pytest

from depth_anything_jax.evaluation import protocols
from depth_anything_jax.evaluation.scores import boundary, scoring

THRESHOLDS = np.linspace(1.05, 1.25, 10)


def maps(seed):
    rng = np.random.default_rng(seed)
    truth = rng.choice([1.0, 1.1, 1.3, 2.0], (9, 8)) * rng.uniform(1, 1.02, (9, 8))
    pred = truth * rng.lognormal(0, 0.1, truth.shape)
    valid = rng.random(truth.shape) < 0.8
    pred[~valid], truth[~valid] = np.nan, 0  # never looked at
    return pred, truth, valid


def pooled_brute(pred, truth, valid, radius):
    """Our definition, pair by pair, both ways round."""
    h, w = truth.shape
    pixels = [(y, x) for y in range(h) for x in range(w) if valid[y, x]]
    near = [
        (a, b)
        for a in pixels
        for b in pixels
        if a != b and (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2 <= radius**2
    ]
    total = weights = 0.0
    for t in np.linspace(1.05, 1.25, 10):
        in_p = {(a, b) for a, b in near if pred[b] / pred[a] > t}
        in_g = {(a, b) for a, b in near if truth[b] / truth[a] > t}
        if in_g:
            precision = len(in_p & in_g) / max(1, len(in_p))
            recall = len(in_p & in_g) / len(in_g)
            f1 = 2 * precision * recall / (precision + recall) if in_p & in_g else 0
            total, weights = total + t * f1, weights + t
    return total / weights if weights else math.nan


@pytest.mark.parametrize("seed", range(3))
def test_boundary_f1_follows_its_definition(seed):
    pred, truth, valid = maps(seed)
    found = boundary.pooled(pred, truth, valid)
    expected = [pooled_brute(pred, truth, valid, r) for r in (1, 2, 3)]
    assert found == pytest.approx(expected, rel=1e-12) and 0.2 < min(found) < max(found) < 0.95
    assert boundary.pooled(pred, truth, valid, radii=[2]) == (found[1],)
    # Ratios alone count: any scale, and the inverses of both.
    assert boundary.pooled(3 * pred, truth, valid) == pytest.approx(found, rel=1e-12)
    with np.errstate(divide="ignore"):
        assert boundary.pooled(1 / pred, 1 / truth, valid) == pytest.approx(found, rel=1e-12)


def test_boundary_f1_by_hand():
    truth = np.array([[1.0, 1.0, 2.0, 2.0]])
    every = np.ones((1, 4), bool)
    assert boundary.pooled(truth, truth, every) == (1, 1, 1)
    one_off = np.array([[1.0, 2.0, 2.0, 2.0]])
    # Radius 1: no contour in common. Radius 2: pairs 1-3, 2-3, 2-4 against 1-2, 1-3: one of each.
    assert boundary.pooled(one_off, truth, every)[:2] == (0, pytest.approx(2 / 5))
    # A contour that falls the other way is none.
    assert boundary.pooled(truth[:, ::-1], truth, every)[0] == 0
    # A flat prediction finds nothing; a flat truth has nothing to find.
    assert boundary.pooled(np.ones((1, 4)), truth, every) == (0, 0, 0)
    assert np.isnan(boundary.pooled(truth, np.ones((1, 4)), every)).all()
    assert np.isnan(boundary.pooled(truth, truth, ~every)).all()


def test_boundary_f1_of_maps_narrower_than_the_radius():
    for shape in [(1, 1), (2, 1), (1, 2), (2, 5)]:
        truth = np.random.default_rng(0).uniform(1, 3, shape)
        found = boundary.pooled(truth, truth, np.ones(shape, bool))
        assert found == (
            (1, 1, 1) if truth.size > 1 else pytest.approx((math.nan,) * 3, nan_ok=True)
        )


def depth_pro_brute(pred, truth, valid):
    """Depth Pro's program: four directions averaged, empty thresholds 0, weights t / Σ t."""
    h, w = truth.shape
    total = 0.0
    for t in THRESHOLDS:
        precision = recall = 0.0
        for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)):
            in_p = in_g = both = 0
            for y in range(h):
                for x in range(w):
                    v, u = y + dy, x + dx
                    if not (0 <= v < h and 0 <= u < w and valid[y, x] and valid[v, u]):
                        continue
                    p, g = pred[v, u] / pred[y, x] > t, truth[v, u] / truth[y, x] > t
                    in_p, in_g, both = in_p + p, in_g + g, both + (p and g)
            precision += both / max(in_p, 1) / 4
            recall += both / max(in_g, 1) / 4
        if precision + recall:
            total += t * 2 * precision * recall / (precision + recall)
    return total / THRESHOLDS.sum()


def moge_brute(pred, truth, valid, r):
    """MoGe's program: windows around all pixels but the border, thresholds and weights .05-.25."""
    h, w = truth.shape
    total = 0.0
    for t in np.linspace(0.05, 0.25, 10):
        in_p = in_g = both = 0
        for y in range(r, h - r):
            for x in range(r, w - r):
                for v in range(y - r, y + r + 1):
                    for u in range(x - r, x + r + 1):
                        near = (v - y) ** 2 + (u - x) ** 2 <= r * r
                        if near and valid[y, x] and valid[v, u]:
                            p, g = (
                                pred[v, u] / pred[y, x] > 1 + t,
                                truth[v, u] / truth[y, x] > 1 + t,
                            )
                            in_p, in_g, both = in_p + p, in_g + g, both + (p and g)
        precision, recall = both / max(in_p, 1), both / max(in_g, 1)
        if precision + recall:
            total += t * 2 * precision * recall / (precision + recall)
    return total / np.linspace(0.05, 0.25, 10).sum()


@pytest.mark.parametrize("seed", range(3))
def test_depth_pros_and_moges_follow_their_programs(seed):
    pred, truth, valid = maps(seed)
    first, *others = boundary.depth_pro(pred, truth, valid)
    assert first == pytest.approx(depth_pro_brute(pred, truth, valid), rel=1e-12)
    assert np.isnan(others).all()
    found = boundary.moge(pred, truth, valid)
    expected = [moge_brute(pred, truth, valid, r) for r in (1, 2, 3)]
    assert found == pytest.approx(expected, rel=1e-12) and 0.2 < min(found)
    # They are three numbers, not one.
    ours = boundary.pooled(pred, truth, valid)[0]
    assert min(abs(ours - first), abs(ours - found[0]), abs(first - found[0])) > 1e-3


def test_thresholds_without_a_contour_count_as_nothing_there():
    """A step of 10 % is a contour at the first three of ten thresholds, with their weights."""
    truth = np.ones((3, 8))
    truth[:, 4:] = 1.1
    valid = np.ones((3, 8), bool)
    assert boundary.pooled(truth, truth, valid)[0] == 1
    below = THRESHOLDS[THRESHOLDS < 1.1]
    # One of four directions has a contour: precision and recall are 1/4.
    assert boundary.depth_pro(truth, truth, valid)[0] == pytest.approx(
        below.sum() / THRESHOLDS.sum() / 4
    )
    assert boundary.moge(truth, truth, valid)[0] == pytest.approx(
        (below - 1).sum() / (THRESHOLDS - 1).sum()
    )
    flat = np.ones((3, 8))
    assert boundary.depth_pro(truth, flat, valid)[0] == boundary.moge(truth, flat, valid)[0] == 0
    assert boundary.moge(truth[:1], truth[:1], valid[:1])[0] == 0, "all border"


@pytest.mark.parametrize("name", boundary.DEFINITIONS)
def test_a_protocol_chooses_the_definition(name):
    pred, truth, valid = maps(0)
    record = {"key": "a", "depth": truth.astype(np.float32), "valid": valid}
    chosen = protocols.get("unidepth", "metric", boundary=name)
    found = scoring.score(np.where(valid, pred, 1), "metric", record, chosen, boundary=True)
    expected = boundary.DEFINITIONS[name](pred, np.float32(truth), valid)
    assert [found.boundary1, found.boundary2, found.boundary3] == pytest.approx(
        expected, rel=1e-6, nan_ok=True
    )
    assert protocols.get("moge", "metric").boundary == "moge"
