"""Computes boundary F1: the agreement of depth discontinuities, by three definitions.

    f1 = DEFINITIONS["depth-pro"](depth, truth, valid, radii=(1, 2, 3))

Each averages F1 = 2PR / (P + R) over ten thresholds t from 1.05 to 1.25, of maps of positive depth.
They differ in what is a contour, in how pairs of pixels are counted, and in the weights:

"pooled" (ours): pairs of valid pixels at most `radius` apart, each pair once, all directions
  together; weights t; thresholds at which the truth has no contour are left out, so that the truth
  itself scores 1.
"depth-pro" (its program): pairs of neighbours, radius 1 only. A contour has a direction, one of
  four (the right, left, lower or upper pixel is the larger by more than t). Precision and recall
  are each the mean of the four directions', 0 where a direction has no contour; weights t;
  thresholds without a contour count as 0.
"moge" (its program): every pixel farther than `radius` from the border is compared with all others
  in the disc around it; a contour is where the other's depth is more than t times its own. Weights
  t - 1, that is .05 to .25; thresholds without a contour count as 0. Pairs of two border pixels are
  not seen, and pairs with one of them only from the other.

Unverified, as the programs were not read: Depth Pro's weights, and the disc and the
direction of the comparison in MoGe's, whose tables use radius 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from depth_anything_jax.evaluation.scores.metrics import TINY, Map, Mask

RATIOS = np.linspace(1.05, 1.25, 10)  # Depth Pro and MoGe: ten thresholds from 5 % to 25 %


def pooled(
    pred: Map, truth: Map, valid: Mask, *, radii: Sequence[int] = (1, 2, 3)
) -> tuple[float, ...]:
    """Computes our boundary F1 for each radius (after Depth Pro §4 and MoGe-2 §4).

    Two pixels at most `radius` apart form a contour at threshold t where one value is more than t
    times the other; it is the same contour in both maps where both change in the same direction.
    F1 of precision and recall is taken over all such pairs of valid pixels, then averaged over
    RATIOS with weights proportional to t. It depends on ratios only, so depth and
    disparity give the same value.

    Our choices: precision and recall are computed over all pairs together, as in Depth Pro's
    formula; thresholds at which the truth has no contour are left out.

    Args:
      pred: aligned; clipped at TINY.
      truth: positive where valid.

    Returns:
      NaN where the truth has no contour at any threshold.
    """
    log_p, log_g = _logs(pred, truth, valid)
    steps = np.log(RATIOS)
    counts = {r: np.zeros((3, steps.size + 1), np.int64) for r in radii}
    for dy, dx in _half_disc(max(radii)):
        here, there = _shifted(valid.shape, dy, dx)
        both = valid[here] & valid[there]
        jump_p, jump_g = (m[there] - m[here] for m in (log_p, log_g))
        size_p, size_g = np.abs(jump_p), np.abs(jump_g)
        in_p, in_g = both & (size_p > steps[0]), both & (size_g > steps[0])
        same = in_p & in_g & ((jump_p > 0) == (jump_g > 0))
        # The number of thresholds that a jump exceeds: it is a contour at each of them.
        sizes = size_p[in_p], size_g[in_g], np.minimum(size_p[same], size_g[same])
        found = [
            np.bincount(np.searchsorted(steps, size), minlength=steps.size + 1) for size in sizes
        ]
        for r in radii:
            if dy * dy + dx * dx <= r * r:
                counts[r] += found
    return tuple(_f1(counts[r]) for r in radii)


def _half_disc(radius: int) -> list[tuple[int, int]]:
    """Offsets within a disc, one of each pair of opposite offsets."""
    span = range(-radius, radius + 1)
    return [
        (y, x) for y in span for x in span if (y, x) > (0, 0) and y * y + x * x <= radius * radius
    ]


def _shifted(shape: tuple[int, ...], dy: int, dx: int):
    """Slices of the pixels that have a neighbour at (dy, dx), and of those neighbours; dy ≥ 0."""
    h, w = shape
    here = slice(0, max(0, h - dy)), slice(max(0, -dx), max(0, w - max(0, dx)))
    there = slice(min(h, dy), h), slice(max(0, dx), max(0, w + min(0, dx)))
    return here, there


def _f1(counts: Int[np.ndarray, "3 t"]) -> float:
    # A jump that exceeds k thresholds is a contour at the first k of them.
    in_p, in_g, in_both = counts[:, ::-1].cumsum(1)[:, ::-1][:, 1:]
    some = in_g > 0
    if not some.any():
        return math.nan
    f1 = 2 * in_both[some] / (in_p[some] + in_g[some])
    return float(np.average(f1, weights=RATIOS[some]))


def depth_pro(
    pred: Map, truth: Map, valid: Mask, *, radii: Sequence[int] = (1, 2, 3)
) -> tuple[float, ...]:
    """Computes Depth Pro's boundary F1; NaN for radii other than 1. Arguments are `pooled`'s."""
    log_p, log_g = _logs(pred, truth, valid)
    f1 = []
    for step in np.log(RATIOS):
        precision, recall = [], []
        for dy, dx in ((0, 1), (1, 0)):
            here, there = _shifted(valid.shape, dy, dx)
            both = valid[here] & valid[there]
            jumps = [m[there] - m[here] for m in (log_p, log_g)]
            for sign in (1, -1):
                in_p, in_g = (both & (sign * jump > step) for jump in jumps)
                same = int(np.count_nonzero(in_p & in_g))
                precision.append(same / max(int(np.count_nonzero(in_p)), 1))
                recall.append(same / max(int(np.count_nonzero(in_g)), 1))
        f1.append(_harmonic(float(np.mean(precision)), float(np.mean(recall))))
    found = float(np.average(f1, weights=RATIOS))
    return tuple(found if radius == 1 else math.nan for radius in radii)


def moge(
    pred: Map, truth: Map, valid: Mask, *, radii: Sequence[int] = (1, 2, 3)
) -> tuple[float, ...]:
    """Computes MoGe's boundary F1 for each radius. Arguments are those of `pooled`."""
    log_p, log_g = _logs(pred, truth, valid)
    steps = np.log(RATIOS)
    found = []
    for radius in radii:
        h, w = valid.shape
        if min(h, w) <= 2 * radius:
            found.append(0.0)
            continue
        inner = slice(radius, h - radius), slice(radius, w - radius)
        counts = np.zeros((3, steps.size + 1), np.int64)
        for dy, dx in _half_disc(radius):
            for y, x in ((dy, dx), (-dy, -dx)):
                other = slice(radius + y, h - radius + y), slice(radius + x, w - radius + x)
                both = valid[inner] & valid[other]
                jump_p, jump_g = ((m[other] - m[inner])[both] for m in (log_p, log_g))
                for row, jump in enumerate((jump_p, jump_g, np.minimum(jump_p, jump_g))):
                    counts[row] += np.bincount(
                        np.searchsorted(steps, jump), minlength=steps.size + 1
                    )
        in_p, in_g, in_both = counts[:, ::-1].cumsum(1)[:, ::-1][:, 1:]
        f1 = [
            _harmonic(same / max(p, 1), same / max(g, 1))
            for p, g, same in zip(in_p, in_g, in_both, strict=True)
        ]
        found.append(float(np.average(f1, weights=RATIOS - 1)))
    return tuple(found)


def _harmonic(a: float, b: float) -> float:
    return 2 * a * b / (a + b) if a + b else 0.0


def _logs(pred: Map, truth: Map, valid: Mask) -> tuple[np.ndarray, np.ndarray]:
    """Logarithms of both maps, 0 where not valid."""
    if not pred.shape == truth.shape == valid.shape:
        raise ValueError(f"maps of {pred.shape}, {truth.shape} and {valid.shape}: resize first")
    log_p = np.log(np.maximum(np.where(valid, pred, 1.0), TINY))
    return log_p, np.log(np.where(valid, truth, 1.0))


DEFINITIONS = {"pooled": pooled, "depth-pro": depth_pro, "moge": moge}
