"""Metrics of relative depth, in numpy float64.

Two views of the same prediction:
  - in depth: least squares of the prediction to 1 / depth over valid pixels (scale and shift),
    floor at 1 / cap, invert, then AbsRel and δ1 (the MiDaS protocol, which Depth Anything V1 §4 and
    V2 §7 follow for zero-shot evaluation);
  - in disparity: both maps less their median and over their mean absolute deviation, then the mean
    absolute difference ("normalised L1"): the training loss itself (V1 §3.1), with no cap and no
    inverse to magnify far pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Num

from depth_anything_jax import align

MIN_DEPTH = 1e-3  # metres; nearer is no measurement (MiDaS, ZoeDepth)
DELTA = 1.25  # δ1: share of pixels with max(p / g, g / p) below it (Eigen et al. 2014)
# Metres; MiDaS: 10 on NYU and TUM, 80 on KITTI.
CAPS = {"indoor": 10.0, "indoor_synth": 10.0, "outdoor": 80.0}
DEFAULT_CAP = 80.0  # for records that name no domain

Map = Num[np.ndarray, "h w"]
Mask = Bool[np.ndarray, "h w"]


class DepthScores(NamedTuple):
    """One image's scores in depth.

    Attributes:
      abs_rel: mean of |p − g| / g over valid pixels.
      delta1: share of valid pixels with max(p / g, g / p) < 1.25.
      scale, shift: the alignment in disparity.
      n: valid pixels.
    """

    abs_rel: float
    delta1: float
    scale: float
    shift: float
    n: int


class Interval(NamedTuple):
    """A mean and its bootstrap interval."""

    mean: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether 0 lies outside: otherwise no effect was measured."""
        return self.low > 0 or self.high < 0


def _select(valid: Mask, *maps: Map) -> list[np.ndarray]:
    for x in maps:
        if x.shape != valid.shape:
            raise ValueError(f"maps of {x.shape} and {valid.shape}: resize the prediction first")
    chosen = [x[valid].astype(np.float64) for x in maps]
    if not chosen[0].size:
        raise ValueError("no valid pixel")
    return chosen


def abs_rel(pred: Map, depth: Map, valid: Mask) -> float:
    """Mean of |pred − depth| / depth over valid pixels; both in the same unit."""
    p, g = _select(valid, pred, depth)
    return float(np.mean(np.abs(p - g) / g))


def delta1(pred: Map, depth: Map, valid: Mask) -> float:
    """Share of valid pixels whose ratio to the truth, the larger way round, is below 1.25."""
    p, g = _select(valid, pred, depth)
    return float(np.mean(np.maximum(p / g, g / p) < DELTA))


def depth_valid(disparity: Map, valid: Mask, cap: float) -> Mask:
    """Valid pixels between MIN_DEPTH and `cap` metres, from 1 / depth.

    A depth of exactly `cap` is out. Disparity is stored as float32, so that 1 / (1 / cap) may come
    out an ulp below the cap; real depths nearest to it differ by 1e-5 of it or more.
    """
    with np.errstate(over="ignore"):
        near, far = 1 / MIN_DEPTH, (1 + 1e-6) / cap
    return valid & (disparity > far) & (disparity < near)


def depth_scores(pred: Map, disparity: Map, valid: Mask, *, cap: float) -> DepthScores:
    """AbsRel and δ1 of a relative prediction against depth.

    Args:
      pred: disparity up to scale and shift, at the label's size.
      disparity: 1 / depth in metres; anything where not valid.
      valid: where the label holds a measurement; MIN_DEPTH < depth < cap is required besides.
      cap: metres; also the farthest prediction.

    Raises:
      ValueError: no pixel is left, or shapes differ.
    """
    valid = depth_valid(disparity, valid, cap)
    p, g = _select(valid, pred, disparity)
    scale, shift = align.least_squares(p, g)
    # From here on the chosen pixels alone, as a map of one row.
    depth = 1 / np.maximum(scale * p + shift, 1 / cap)[None]
    truth, every = 1 / g[None], np.ones((1, g.size), bool)
    return DepthScores(
        abs_rel(depth, truth, every), delta1(depth, truth, every), scale, shift, g.size
    )


def lower_median(x: Float[np.ndarray, " n"]) -> float:
    """The middle element, the lower of two (as torch.median, and the training loss)."""
    k = (x.size - 1) // 2
    return float(np.partition(x, k)[k])


def normalise(x: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Less its median, over its mean absolute deviation from it (V1 §3.1); a constant becomes 0."""
    x = x - lower_median(x)
    deviation = float(np.mean(np.abs(x)))
    return x / deviation if deviation > 0 else x


def normalised_l1(pred: Map, disparity: Map, valid: Mask) -> float:
    """Mean |p̂ − d̂| over valid pixels of two disparity maps, each normalised by itself.

    Invariant to a positive scale and a shift of either; 0 is perfect, a constant map scores 1.

    Raises:
      ValueError: shapes differ, or no pixel is valid.
    """
    p, d = _select(valid, pred, disparity)
    return float(np.mean(np.abs(normalise(p) - normalise(d))))


def paired_interval(
    a: Num[np.ndarray, "*s n"],
    b: Num[np.ndarray, "*s n"],
    *,
    seed: int = 0,
    n: int = 10_000,
    level: float = 0.95,
) -> Interval:
    """Mean of a − b over images, with its paired percentile bootstrap interval.

    Images are resampled, never a and b apart. Leading axes (training seeds) are averaged first: the
    interval then speaks of these seeds' mean, on other images.

    Args:
      a, b: one score per image, in the same order.
      seed: of the resampling.
      n: resamples.
      level: share of resamples inside the interval.

    Raises:
      ValueError: shapes differ, no image, or a score that is not finite.
    """
    if a.shape != b.shape or a.shape[-1] == 0:
        raise ValueError(f"paired scores of {a.shape} and {b.shape}: one of each per image")
    difference = a.astype(np.float64) - b.astype(np.float64)
    if not np.isfinite(difference).all():
        raise ValueError("scores are not all finite; leave out the images that have none")
    difference = difference.reshape(-1, a.shape[-1]).mean(0)
    rng = np.random.default_rng(seed)
    means = np.empty(n)
    rows = max(1, 2_000_000 // difference.size)  # 16 MB of indices at a time
    for start in range(0, n, rows):
        count = min(rows, n - start)
        pick = rng.integers(0, difference.size, (count, difference.size))
        means[start : start + count] = difference[pick].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(difference.mean()), float(low), float(high))
