"""Computes depth metrics in NumPy float64.

  - `errors`: the per-pixel metrics of two vectors, aligned prediction and ground truth, in depth or
    in disparity;
  - `pair_accuracy` and `whdr`: ordinal metrics on point pairs (which of two points is closer);
  - `normalised_l1`: mean absolute difference of two disparity maps, each shifted by its median and
    divided by its mean absolute deviation: the training loss itself (V1 §3.1), without a cap and
    without an inverse that would magnify far pixels;
  - `paired_interval`: bootstrap interval for the difference of two models.

Means come with a pixel count, so that results of shards can be joined: n · mean is the sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Num

MIN_DEPTH = 1e-3  # metres; smaller depths are not measurements (ZoeDepth)
DELTA = 1.25  # δ1: share of pixels with max(p / g, g / p) below it (Eigen et al. 2014)
TINY = 1e-6  # metres; predictions are clipped here for ratios and logarithms, as Marigold does
PART = 1 << 17  # pixels per chunk: temporaries then fit into the cache, even for 24 megapixels
LOG = 9  # index of the sum of logarithms in the result of `_sums`

Vector = Num[np.ndarray, " n"]
Map = Num[np.ndarray, "h w"]
Mask = Bool[np.ndarray, "h w"]


class Errors(NamedTuple):
    """Per-pixel metrics of one image; p is the prediction, g the truth, d = ln p − ln g.

    Attributes:
      abs_rel: mean of |p − g| / g.
      sq_rel: mean of (p − g)² / g, in the unit of g.
      rmse: root of the mean of (p − g)², in the unit of g.
      rmse_log: root of the mean of d².
      log10: mean of |log10 p − log10 g|.
      silog: 100 times the standard deviation of d (ZoeDepth, Marigold, KITTI's benchmark); V2's
        training loss, √(E[d²] − E[d]² / 2), is another.
      log_bias: mean of d: below 0 where the prediction is too small.
      i_rmse: root of the mean of (1 / p − 1 / g)², times 1000: 1/km for metres, as in KITTI's
        benchmark. Marigold's is in 1/m, a thousandth of it.
      delta1, delta2, delta3: share of pixels with max(p / g, g / p) < 1.25, 1.25², 1.25³.
    """

    abs_rel: float
    sq_rel: float
    rmse: float
    rmse_log: float
    log10: float
    silog: float
    log_bias: float
    i_rmse: float
    delta1: float
    delta2: float
    delta3: float


class PairScore(NamedTuple):
    """Numbers of pairs in the right order, pairs of equal values (counted as wrong), and all."""

    correct: int
    ties: int
    n: int

    @property
    def accuracy(self) -> float:
        """Share of pairs in the right order; NaN without pairs."""
        return self.correct / self.n if self.n else math.nan


class Interval(NamedTuple):
    """A mean and its bootstrap interval."""

    mean: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether the interval excludes 0; if not, no effect was measured."""
        return self.low > 0 or self.high < 0


def _select(valid: Mask, *maps: Map) -> list[np.ndarray]:
    for x in maps:
        if x.shape != valid.shape:
            raise ValueError(f"maps of {x.shape} and {valid.shape}: resize the prediction first")
    chosen = [x[valid].astype(np.float64) for x in maps]
    if not chosen[0].size:
        raise ValueError("no valid pixel")
    return chosen


def errors(p: Vector, g: Vector) -> Errors:
    """Computes the per-pixel metrics of an aligned prediction against the truth, in one pass.

    Args:
      p: prediction, finite. It is clipped at TINY for ratios and logarithms, so that a depth of
        zero or below gets the largest error and every metric stays finite.
      g: truth in the same unit, finite and positive.

    Raises:
      ValueError: the vectors are empty, or have values for which the metrics are not defined.
    """
    p, g = p.astype(np.float64, copy=False), g.astype(np.float64, copy=False)
    if not p.size:
        raise ValueError("no valid pixel")
    if bad := int(np.count_nonzero(~np.isfinite(p))):
        raise ValueError(f"{bad} of {p.size} predictions are not finite: replace them first")
    if bad := int(np.count_nonzero(~(np.isfinite(g) & (g > 0)))):
        raise ValueError(f"{bad} of {g.size} true values are not finite and positive: mask them")
    n = p.size
    parts = [_sums(p[i : i + PART], g[i : i + PART]) for i in range(0, n, PART)]
    mean = [math.fsum(part[k] for part in parts) / n for k in range(len(parts[0]))]
    bias = mean[LOG]
    # Variance within the parts plus variance between them: E[d²] − E[d]² would lose digits.
    between = math.fsum(part[0] * (part[LOG] / part[0] - bias) ** 2 for part in parts) / n
    variance = mean[LOG + 1] + between
    return Errors(
        abs_rel=mean[1],
        sq_rel=mean[2],
        rmse=math.sqrt(mean[3]),
        rmse_log=math.sqrt(variance + bias**2),
        log10=mean[4] / math.log(10),
        silog=100 * math.sqrt(variance),
        log_bias=bias,
        i_rmse=1000 * math.sqrt(mean[5]),
        delta1=mean[6],
        delta2=mean[7],
        delta3=mean[8],
    )


def _sums(p: np.ndarray, g: np.ndarray) -> tuple[float, ...]:
    """Sums over a chunk of pixels: first their number; at LOG the sum of d and of its squared
    deviations from the chunk's mean."""
    difference = p - g
    square = difference * difference
    positive = np.maximum(p, TINY)
    ratio = positive / g
    log = np.log(ratio)
    inverse = 1 / positive - 1 / g
    np.maximum(ratio, 1 / ratio, out=ratio)
    total = float(log.sum())
    centred = log - total / log.size
    return (
        p.size,
        float((np.abs(difference) / g).sum()),
        float((square / g).sum()),
        float(square.sum()),
        float(np.abs(log).sum()),
        float(inverse @ inverse),
        *(int(np.count_nonzero(ratio < DELTA**k)) for k in (1, 2, 3)),
        total,
        float(centred @ centred),
    )


def pair_accuracy(
    values: Num[np.ndarray, "n 2"], closer: Int[np.ndarray, " n"], *, larger_is_closer: bool
) -> PairScore:
    """Counts pairs in which the closer of two points is predicted correctly (DA-2K, V2 §6).

    Ties and NaN count as wrong.

    Args:
      values: predictions at the two points.
      closer: 0 or 1, which of them is closer.
      larger_is_closer: True for disparity, False for depth.
    """
    if not np.isin(closer, (0, 1)).all():
        raise ValueError(f"closer must be 0 or 1 for each pair, got {np.unique(closer)}")
    rows = np.arange(len(values))
    near, far = values[rows, closer], values[rows, 1 - closer]
    right = near > far if larger_is_closer else near < far
    return PairScore(int(right.sum()), int((near == far).sum()), len(values))


def whdr(
    values: Num[np.ndarray, "n 2"],
    relation: Int[np.ndarray, " n"],
    *,
    weight: Float[np.ndarray, " n"] | None = None,
    ratio: float = 1.0,
) -> float:
    """Computes the weighted human disagreement rate: the weighted share of wrong pairs (DIW).

    Args:
      values: predictions at the two points, positive unless `ratio` is 1.
      relation: 1 where annotators judged the first value larger, -1 the second, 0 neither.
      weight: of each pair; None: equal weights, as in DIW.
      ratio: a value is larger when it exceeds the other times this. Only 1, a plain comparison, has
        a meaning for predictions up to a shift; DIW has no pair of equals, so a tie is wrong there.
    """
    if not len(values):
        raise ValueError("no pairs")
    if ratio != 1 and not (values > 0).all():
        raise ValueError(f"ratio {ratio} needs positive values; the smallest is {values.min()}")
    a, b = values[:, 0], values[:, 1]
    found = (a > ratio * b).astype(int) - (b > ratio * a).astype(int)
    # NaN compares as neither larger nor smaller; a pair with NaN is always wrong.
    wrong = (found != relation) | np.isnan(values).any(1)
    return float(np.average(wrong, weights=weight))


def lower_median(x: Float[np.ndarray, " n"]) -> float:
    """The median; the lower middle element for an even count, as in torch.median and the loss."""
    k = (x.size - 1) // 2
    return float(np.partition(x, k)[k])


def normalise(x: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """(x − median) / mean absolute deviation from it (V1 §3.1); a constant becomes 0."""
    x = x - lower_median(x)
    deviation = float(np.mean(np.abs(x)))
    return x / deviation if deviation > 0 else x


def normalised_l1(pred: Map, disparity: Map, valid: Mask) -> float:
    """Computes mean |p̂ − d̂| over valid pixels of two disparity maps, each normalised on its own.

    It is invariant to positive scale and shift of either map; 0 is perfect, a constant map scores
    1.

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
    """Computes the mean of a − b over images and its paired percentile bootstrap interval.

    Images are resampled; a and b of an image stay together. Leading axes (training seeds) are
    averaged first: the interval then describes the mean of these seeds on other images.

    Args:
      a, b: one score per image, in the same order.
      seed: of the resampling.
      n: number of resamples.
      level: share of resamples inside the interval.

    Raises:
      ValueError: shapes differ, there is no image, or a score is not finite.
    """
    a, b = _by_image(a, b)
    return _bootstrap((a - b)[None], lambda means: means[0], seed, n, level)


def ratio_interval(
    a: Num[np.ndarray, "*s n"],
    b: Num[np.ndarray, "*s n"],
    *,
    seed: int = 0,
    n: int = 10_000,
    level: float = 0.95,
) -> Interval:
    """Computes mean of a / mean of b and its paired percentile bootstrap interval.

    Arguments and errors are those of `paired_interval`.
    """
    return _bootstrap(np.stack(_by_image(a, b)), lambda means: means[0] / means[1], seed, n, level)


def _by_image(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of scores as float64 (n,), averaged over seeds."""
    if a.shape != b.shape or a.shape[-1] == 0:
        raise ValueError(f"scores of {a.shape} and {b.shape} are not paired: one of each per image")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("scores are not all finite; leave out the images that have none")
    flat = (x.astype(np.float64).reshape(-1, a.shape[-1]).mean(0) for x in (a, b))
    return next(flat), next(flat)


def _bootstrap(
    scores: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    seed: int,
    n: int,
    level: float,
) -> Interval:
    """Computes a statistic of the means of (k, images) and its interval over resampled images."""
    rng, images = np.random.default_rng(seed), scores.shape[1]
    found = np.empty(n)
    rows = max(1, 2_000_000 // images)  # 16 MB of indices at a time
    for start in range(0, n, rows):
        count = min(rows, n - start)
        pick = rng.integers(0, images, (count, images))
        found[start : start + count] = statistic(np.stack([x[pick].mean(1) for x in scores]))
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(statistic(scores.mean(1))), float(low), float(high))
