"""Fits the scale and shift that align a prediction to its label, in NumPy float64.

Every solver takes two vectors, x (prediction) and y (target) at the valid pixels, and finds
y ≈ scale · x + shift. The caller chooses their space, disparity or depth.

Rules for degenerate input, the same for all solvers:
  - pixels where x or y (or the weight) is not finite are ignored; the caller decides how they are
    scored. Pixels outside the mask are never read.
  - no pixel left: ValueError "no valid pixel".
  - x does not determine the scale (constant, or one pixel, for scale + shift; all zero for scale
    only): scale 0, and the shift is the constant that fits y best: its mean (least squares) or its
    weighted median (L1); 0 for scale only.
  - two pixels of different x: scale + shift fits both exactly.
  - a negative optimum is returned unchanged: the prediction is upside down, which the caller sees
    by the sign. No solver constrains it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Num

Vector = Num[np.ndarray, " n"]
EPS = float(np.finfo(np.float64).eps)


class Alignment(NamedTuple):
    """target ≈ scale · prediction + shift."""

    scale: float
    shift: float


NONE = Alignment(1.0, 0.0)


class Moments(NamedTuple):
    """Sufficient statistics of least squares over n pixels; several images can be merged.

    Attributes:
      n: number of pixels.
      x, y: means.
      xx, xy: sums of (x − mean x)² and (x − mean x)(y − mean y): centred, because Σx² and (Σx)² / n
        cancel completely on maps of millions of pixels with values far from zero.
    """

    n: int
    x: float
    y: float
    xx: float
    xy: float


def _usable(*maps: Vector) -> list[Float[np.ndarray, " k"]]:
    """Selects the values at which all vectors are finite, in float64."""
    found = [np.asarray(x, np.float64) for x in maps]
    finite = np.isfinite(found[0])
    for x in found[1:]:
        finite &= np.isfinite(x)
    if not finite.all():
        found = [x[finite] for x in found]
    if not found[0].size:
        raise ValueError("no valid pixel: the mask is empty, or no prediction in it is finite")
    return found


def moments(x: Vector, y: Vector) -> Moments:
    """Computes the moments of the pixels where both are finite."""
    x, y = _usable(x, y)
    x_mean, y_mean = float(x.mean()), float(y.mean())
    x = x - x_mean
    return Moments(x.size, x_mean, y_mean, float(x @ x), float(x @ (y - y_mean)))


def merge(parts: Iterable[Moments]) -> Moments:
    """Merges moments; the result is bitwise the same for any order of the parts."""
    parts = list(parts)
    n = sum(p.n for p in parts)
    if not n:
        raise ValueError("no valid pixel in any image of the sequence")
    x = math.fsum(p.n * p.x for p in parts) / n
    y = math.fsum(p.n * p.y for p in parts) / n
    xx = math.fsum(v for p in parts for v in (p.xx, p.n * (p.x - x) ** 2))
    xy = math.fsum(v for p in parts for v in (p.xy, p.n * (p.x - x) * (p.y - y)))
    return Moments(n, x, y, xx, xy)


def solve(m: Moments, *, shift: bool = True) -> Alignment:
    """Solves least squares from moments; without `shift`, for the scale only."""
    if not shift:
        square = m.xx + m.n * m.x**2
        scale = (m.xy + m.n * m.x * m.y) / square if square > 0 else 0.0
        return Alignment(scale, 0.0)
    # The mean of equal numbers may differ from them by a few ulp.
    rounding = m.n * (4 * EPS * abs(m.x)) ** 2
    scale = m.xy / m.xx if m.xx > rounding else 0.0
    return Alignment(scale, m.y - scale * m.x)


def correlation(x: Vector, y: Vector) -> float:
    """Computes Pearson's correlation of the finite pixels; NaN where one of them is constant."""
    found = np.isfinite(x) & np.isfinite(y)
    if not found.any():
        return math.nan
    x, y = (v[found] - v[found].mean(dtype=np.float64) for v in (x, y))
    spread = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / spread if spread else math.nan


def least_squares(x: Vector, y: Vector) -> Alignment:
    """argmin Σ (scale · x + shift − y)² (MiDaS §5), from centred sums."""
    return solve(moments(x, y))


def least_squares_scale(x: Vector, y: Vector) -> Alignment:
    """argmin Σ (scale · x − y)²."""
    return solve(moments(x, y), shift=False)


def median_scale(x: Vector, y: Vector) -> Alignment:
    """Computes scale = median(y) / median(x), as SfMLearner and its successors do.

    As in np.median, the median of an even number of values is the mean of the two middle ones. A
    median of 0 gives scale 0."""
    x, y = _usable(x, y)
    middle = float(np.median(x))
    return Alignment(float(np.median(y)) / middle if middle else 0.0, 0.0)


def weighted_median(x: Vector, weight: Vector) -> float:
    """Computes the smallest x at which the cumulative weight reaches half of the total weight.

    It is an exact minimiser of Σ weight |x − m|. Some weights may be 0, but not all."""
    order = np.argsort(x, kind="stable")
    reached = np.cumsum(weight[order])
    return float(x[order[np.searchsorted(reached, reached[-1] / 2)]])


def l1_scale(x: Vector, y: Vector, weight: Vector) -> Alignment:
    """argmin Σ weight |scale · x − y|, exact: the median of y / x with weights weight · |x| (MoGe's
    truncation-free alignment)."""
    x, y, weight = _usable(x, y, weight)
    mass = weight * np.abs(x)
    some = mass > 0
    if not some.any():
        return Alignment(0.0, 0.0)
    return Alignment(weighted_median(y[some] / x[some], mass[some]), 0.0)


def l1(x: Vector, y: Vector, weight: Vector) -> Alignment:
    """argmin Σ weight |scale · x + shift − y|, exact (used by MoGe §3.2 on a few thousand pixels;
    see `grid`).

    For a fixed scale the best shift is a weighted median, and the remaining function of the scale
    is convex and piecewise linear: the sign of its slope is bisected down to neighbouring floats,
    O(n log n) per step. MoGe tries a line through every pixel instead, O(n² log n), for the same
    optimum.
    """
    x, y, weight = _usable(x, y, weight)
    some = weight > 0
    if not some.any():
        raise ValueError("no valid pixel: all weights are 0")
    x, y, weight = x[some], y[some], weight[some]
    if (x == x[0]).all():
        return Alignment(0.0, weighted_median(y, weight))
    centre = float(x.mean())  # large offsets would cost digits of the residuals
    x = x - centre
    low, high = _bracket(x, y, weight)
    while low < (middle := low + (high - low) / 2) < high:
        slope = _slope(x, y, weight, middle)
        if slope == 0:
            low = high = middle
        elif slope < 0:
            low = middle
        else:
            high = middle
    found = min((_through(x, y, weight, s) for s in (low, high)), key=lambda a: a[0])
    scale, shift = found[1]
    return Alignment(scale, shift - scale * centre)


def _bracket(x, y, weight) -> tuple[float, float]:
    """Finds two scales that bracket the optimum, starting from the least-squares scale."""
    start = least_squares(x, y).scale
    step = abs(start) or float(np.ptp(y) / np.ptp(x)) or 1.0
    low = high = start
    while _slope(x, y, weight, low) > 0:
        low, step = low - step, 2 * step
    step = abs(start) or float(np.ptp(y) / np.ptp(x)) or 1.0
    while _slope(x, y, weight, high) < 0:
        high, step = high + step, 2 * step
    return low, high


def _slope(x, y, weight, scale: float) -> float:
    """Computes the left derivative, by the scale, of the minimum over shifts of Σ weight |…|.

    Pixels on the line may have any sign in [−1, 1], as long as the signs of all pixels balance (the
    shift is optimal); the left derivative assigns the positive ones to the smallest x.
    """
    residual = scale * x - (y - weighted_median(y - scale * x, weight))
    on = residual == 0
    if not on.any():  # the median's own pixel, after rounding
        on = np.abs(residual) == np.abs(residual).min()
    signed = np.where(on, 0, weight * np.sign(residual))
    order = np.flatnonzero(on)[np.argsort(x[on])]
    mass = 2 * weight[order]
    positive = np.clip(weight[on].sum() - signed.sum(), 0, mass.sum())
    share = np.clip(positive - (np.cumsum(mass) - mass), 0, mass)
    return float(signed @ x) - float(weight[on] @ x[on]) + float(share @ x[order])


def _through(x, y, weight, scale: float) -> tuple[float, tuple[float, float]]:
    """Returns (sum of residuals, (scale, shift)) of the better of two lines.

    One has the given scale; the other is the best line through the pixel that the first one passes
    through, which removes the bisection's rounding error."""
    shift = weighted_median(y - scale * x, weight)
    lines = [(scale, shift)]
    anchor = int(np.argmin(np.abs(scale * x + shift - y)))
    dx, dy = x - x[anchor], y - y[anchor]
    mass = weight * np.abs(dx)
    if (mass > 0).any():
        turned = weighted_median(dy[mass > 0] / dx[mass > 0], mass[mass > 0])
        lines.append((turned, float(y[anchor] - turned * x[anchor])))
    return min((float(weight @ np.abs(s * x + t - y)), (s, t)) for s, t in lines)


def grid(valid: Bool[np.ndarray, "h w"], size: int) -> Int[np.ndarray, " k"]:
    """Samples at most size × size valid pixels, spread over the map; returns flat indices.

    From each cell of a regular grid it takes the valid pixel nearest to the cell's centre, the
    first in reading order of equally near ones; cells without a valid pixel are skipped. MoGe
    aligns on such a sample of 64 × 64.
    """
    h, w = valid.shape
    rows, columns = np.nonzero(valid)
    cell, distance = np.zeros(rows.size, np.int64), np.zeros(rows.size)
    for at, n in ((rows, h), (columns, w)):
        cells = min(size, n)
        index = (at * cells) // n
        distance += (at + 0.5 - (index + 0.5) * n / cells) ** 2
        cell = cell * cells + index
    order = np.lexsort((distance, cell))
    first = np.ones(order.size, bool)
    first[1:] = np.diff(cell[order]) != 0
    chosen = order[first]
    return np.sort(rows[chosen] * w + columns[chosen])


def windows(valid: Bool[np.ndarray, "h w"], size: int) -> Int[np.ndarray, " k"]:
    """Samples the valid pixels nearest to size × size points; returns flat indices.

    The points are the centres of a regular grid's cells, and each looks in a window of
    ⌈h / size⌉ × ⌈w / size⌉ pixels from the cell's first one. Where cells are no whole pixels,
    windows overlap, and a pixel may be chosen twice; the first in reading order of equally near
    ones is taken.
    """
    h, w = valid.shape
    at = np.arange(size)
    (top, left), (y, x) = (
        [at * n // size for n in (h, w)],
        [(at + 0.5) * n / size for n in (h, w)],
    )
    best, chosen = np.full((size, size), np.inf), np.full((size, size), -1)
    for dy in range(-(-h // size)):
        rows = np.minimum(top + dy, h - 1)
        for dx in range(-(-w // size)):
            columns = np.minimum(left + dx, w - 1)
            distance = ((rows + 0.5 - y) ** 2)[:, None] + (columns + 0.5 - x) ** 2
            nearer = valid[rows[:, None], columns] & (distance < best)
            best = np.where(nearer, distance, best)
            chosen = np.where(nearer, rows[:, None] * w + columns, chosen)
    return np.sort(chosen[chosen >= 0])


def thin(
    valid: Bool[np.ndarray, "h w"], longest: int, *, rows: bool = True
) -> Int[np.ndarray, " k"]:
    """Selects the valid pixels that a nearest-neighbour reduction would keep; returns flat indices.

    The reduction is to a longer side of `longest`; a smaller map keeps all its valid pixels.
    Marigold aligns the 24-megapixel images of ETH3D this way, at 1024, but keeps all rows.

    Args:
      rows: whether rows are left out as well as columns.
    """
    h, w = valid.shape
    factor = max(h, w) / longest
    if factor <= 1:
        return np.flatnonzero(valid)
    y, x = (
        np.minimum((np.arange(int(n / factor)) * factor).astype(np.int64), n - 1) for n in (h, w)
    )
    flat = ((y if rows else np.arange(h))[:, None] * w + x).ravel()
    return flat[valid.ravel()[flat]]
