"""Losses of relative depth: label preparation, affine-invariant losses, feature alignment.

Every loss returns a `LossSum`: a sum over the maps (or tokens) that contribute and their count.
Sums and counts add exactly over microbatches and devices; a mean of means would not. The counts
are known from the labels alone, before any backward pass (`label_statistics`).

- `affine_invariant`: mean |p̂ - d̂| over valid pixels, after subtracting each map's median and
  dividing by its mean absolute deviation (Depth Anything V1 §3.1; MiDaS's robust variant, without
  its median over masked zeros). Gradients flow through the prediction's own median and deviation.
- `affine_invariant_by_region`: the same on CutMix images, whose two regions are normalised
  separately (V1 §3.2); the largest residuals of each map are left out: trimming (V2 §5.2).
- the gradient-matching term (MiDaS; V2's L_gm) on the difference of the normalised maps.
- `feature_alignment`: 1 - cosine to a frozen encoder, tokens above a margin left out (V1 §3.3).

All is computed in at least float32. The values of invalid pixels, NaN and infinities included, have
no effect. The gradient of |x| at 0 is 0.
"""

from fractions import Fraction
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from depth_anything_jax.losses.order_statistics import at_least_float32, kth_smallest, masked_median
from depth_anything_jax.parallel.placement import platform

MIN_DEVIATION = 1e-6  # MiDaS's clamp; the label's unit is its own 0-1 range
GRADIENT_SCALES = 4  # MiDaS, V2 §7
LOGGED_REGION_SCALE = 0.1  # the number of regions below it is always logged

PIXELS = (-2, -1)  # the axes of a map
Pair = tuple[Array, Array]


class LossSum(NamedTuple):
    """A loss as (sum, count), with logs that are (sum, count) pairs as well; all of them add up."""

    sum: Array
    count: Array
    logs: dict[str, Pair]


class Residuals(NamedTuple):
    """The residuals whose mean is a map's loss, pixel by pixel (b, h, w).

    Attributes:
      value: |p̂ - d̂|, 0 in pixels that are not used.
      used: valid pixels of contributing regions.
      kept: those of them that are not trimmed.
    """

    value: Array
    used: Array
    kept: Array


class LabelStatistics(NamedTuple):
    """Statistics of each map's regions that depend on the label alone."""

    n: Int[Array, "b r"]  # valid pixels
    median: Float[Array, "b r"]
    deviation: Float[Array, "b r"]
    degenerate: Bool[Array, "b r"]  # too few pixels or too flat
    small: Bool[Array, "b r"]  # would be dropped by a guard of LOGGED_REGION_SCALE
    contributes: Bool[Array, "b r"]


def prepare_label(
    disparity: Float[Array, "b h w"],
    valid: Bool[Array, "b h w"],
    sky: Bool[Array, "b h w"],
    shift_known: Bool[Array, " b"],
    *,
    use_sky: bool = True,
) -> tuple[Float[Array, "b h w"], Bool[Array, "b h w"]]:
    """Scales labels to 0-1 by the range of their valid pixels and fills in the sky.

    Sky counts only where there is no valid label, and becomes valid there. Where the shift of the
    disparity is known (1/depth, or disparity up to scale) the sky has disparity 0 before scaling;
    where it is not, 0 after it, the smallest valid value (V1 §3.1 and its authors' answers).

    Args:
      disparity: in any unit, larger is nearer; any values in invalid pixels.
      valid, sky: masks; shift_known: per map; use_sky: False leaves the sky invalid.

    Returns:
      label in [0, 1], exactly 0 in invalid pixels and on maps without a range; its valid mask.
    """
    sky = sky & ~valid & use_sky
    far = sky & shift_known[:, None, None]
    ranged = valid | far
    d = jnp.where(valid, at_least_float32(disparity), 0)
    low = jnp.min(jnp.where(ranged, d, jnp.inf), axis=(1, 2), keepdims=True)
    high = jnp.max(jnp.where(ranged, d, -jnp.inf), axis=(1, 2), keepdims=True)
    span = high - low
    flat = span <= 0  # also an empty map: -inf
    label = jnp.where(flat, 0, (d - jnp.where(flat, 0, low)) / jnp.where(flat, 1, span))
    return jnp.where(ranged, label, 0), valid | sky


def label_statistics(
    label: Float[Array, "b h w"],
    valid: Bool[Array, "b h w"],
    mask: Bool[Array, "b h w"] | None = None,
    *,
    min_valid: int = 10,
    min_region_scale: float = 0.0,
) -> LabelStatistics:
    """Computes the label statistics of `affine_invariant`, or by region where a mask is given."""
    label, valid, mask = _flat(label, valid, mask)
    return _decide(label, valid, mask, min_valid, min_region_scale)


def contributing_maps(statistics: LabelStatistics) -> Float[Array, ""]:
    """Returns the count that the loss of these labels will report."""
    return _total(jnp.any(statistics.contributes, axis=1), statistics.median.dtype)


def affine_invariant(
    pred: Float[Array, "b h w"],
    label: Float[Array, "b h w"],
    valid: Bool[Array, "b h w"],
    *,
    trim: float = 0.0,
    min_valid: int = 10,
    gradient_weight: float = 0.0,
    statistics: LabelStatistics | None = None,
) -> LossSum:
    """Computes the affine-invariant loss of each map against its label (from `prepare_label`)."""
    return _map_loss(
        pred, label, valid, None, trim, "sample", min_valid, 0.0, gradient_weight, statistics
    )[0]


def affine_invariant_by_region(
    pred: Float[Array, "b h w"],
    label: Float[Array, "b h w"],
    valid: Bool[Array, "b h w"],
    mask: Bool[Array, "b h w"],
    *,
    trim: float = 0.1,
    trim_per: str = "sample",
    min_valid: int = 10,
    min_region_scale: float = 0.0,
    gradient_weight: float = 0.0,
    statistics: LabelStatistics | None = None,
) -> LossSum:
    """Computes the affine-invariant loss with pixels inside and outside the mask normalised apart.

    label and valid are already mixed: the partner's where mask holds. An empty mask gives the plain
    loss. With n_r valid pixels in region r, n in the map and n_c in the regions that
    contribute, the map's loss is (n_c / n) · mean of the residuals kept.

    Args:
      pred: disparity of any scale and shift; label: 0-1; valid, mask: bool.
      trim: share of each map's residuals left out, the largest ones; residuals equal to the
        threshold stay. The threshold is a constant.
      trim_per: "sample" ranks the pixels of both regions together; "region" each on its own, the
        regions weighted by n_r / n.
      min_valid: regions with fewer valid pixels contribute nothing; nor do labels flatter than
        1e-6 in mean absolute deviation. The prediction decides nothing: its deviation is clamped
        at 1e-6 and counted in the log `flat_predictions`.
      min_region_scale: drop regions whose label deviates less than this share of the whole map's.
      gradient_weight: weight of the gradient-matching term, which is never trimmed.
      statistics: of these labels, from `label_statistics` under the same options.

    Returns:
      sum over the contributing maps, their count, logs.

    Raises:
      ValueError: for values out of range, naming the argument.
    """
    how = trim, trim_per, min_valid, min_region_scale, gradient_weight, statistics
    return _map_loss(pred, label, valid, mask, *how)[0]


def residuals(
    pred: Float[Array, "b h w"],
    label: Float[Array, "b h w"],
    valid: Bool[Array, "b h w"],
    mask: Bool[Array, "b h w"] | None = None,
    *,
    trim: float = 0.0,
    trim_per: str = "sample",
    min_valid: int = 10,
    min_region_scale: float = 0.0,
) -> Residuals:
    """Returns the residuals behind `affine_invariant`, or by region where a mask is given."""
    how = trim, trim_per, min_valid, min_region_scale, 0.0, None
    return _map_loss(pred, label, valid, mask, *how)[1]


def feature_alignment(
    student: Float[Array, "b n d"],
    frozen: Float[Array, "b n d"],
    *,
    margin: float = 0.85,
    denominator: str = "image",
) -> LossSum:
    """1 - cosine between the student's and the frozen encoder's patch tokens.

    Tokens whose cosine exceeds the margin (V1 §3.3, α = 0.85) leave numerator and denominator.
    "image": mean over each image's kept tokens (0 if none), count = images, known beforehand.
    "global": sum over all kept tokens, count = kept tokens.

    Raises:
      ValueError: for an unknown denominator.
    """
    if denominator not in ("image", "global"):
        raise ValueError(f"denominator={denominator!r}: choose 'image' or 'global'")
    cosine, kept = cosines(student, frozen, margin=margin)
    distance = jnp.sum(jnp.where(kept, 1 - cosine, 0), axis=1)
    active = jnp.sum(kept, axis=1, dtype=cosine.dtype)
    images = jnp.asarray(len(cosine), cosine.dtype)
    logs = {
        "active_fraction": (jnp.sum(active) / cosine.shape[1], images),
        "cosine": (lax.stop_gradient(jnp.sum(jnp.mean(cosine, axis=1))), images),
    }
    if denominator == "global":
        return LossSum(jnp.sum(distance), jnp.sum(active), logs)
    return LossSum(jnp.sum(distance / jnp.maximum(active, 1)), images, logs)


def cosines(
    student: Float[Array, "b n d"], frozen: Float[Array, "b n d"], *, margin: float = 0.85
) -> tuple[Float[Array, "b n"], Bool[Array, "b n"]]:
    """Returns each token's cosine to the frozen encoder's and whether the margin keeps it."""
    cosine = jnp.sum(_unit(student) * _unit(lax.stop_gradient(frozen)), axis=-1)
    return cosine, ~(lax.stop_gradient(cosine) > margin)  # a NaN is kept, so that the run sees it


def _map_loss(
    pred, label, valid, mask, trim, trim_per, min_valid, min_region_scale, gradient_weight, decided
) -> tuple[LossSum, Residuals]:
    if not 0 <= trim < 1:
        raise ValueError(f"trim={trim}: the share of residuals left out must be in [0, 1)")
    if trim_per not in ("sample", "region"):
        raise ValueError(f"trim_per={trim_per!r}: choose 'sample' or 'region'")

    shape = pred.shape
    raw, label, valid, mask = _flat(at_least_float32(pred), label, valid, mask)
    if decided is None:
        decided = _decide(label, valid, mask, min_valid, min_region_scale)
    regions = _regions(valid, mask) & decided.contributes[..., None, None]
    used = jnp.any(regions, axis=1)
    # zeros in pixels that are not used, so that their values enter no arithmetic
    pred = jnp.where(used, raw, 0)
    label = jnp.where(used, at_least_float32(lax.stop_gradient(label)), 0)

    median, deviation, n_r = _statistics(pred, regions, mask)
    flat = deviation < MIN_DEVIATION
    p = (pred - _spread(median, mask)) / _spread(jnp.where(flat, MIN_DEVIATION, deviation), mask)
    scale = jnp.where(decided.contributes, decided.deviation, 1)
    d = (label - _spread(decided.median, mask)) / _spread(scale, mask)
    difference = jnp.where(used, p - d, 0)

    n = jnp.sum(decided.n, axis=1)
    per_map, kept = _reduce(difference, regions, n_r, n, mask, trim, trim_per)
    whole = median, deviation
    if mask is not None:
        whole = _statistics(lax.stop_gradient(pred), used[:, None], None)[:2]
    logs = _logs(raw, *whole, flat, used, kept, decided)
    count = _total(jnp.any(decided.contributes, axis=1), per_map.dtype)
    if gradient_weight:
        maps = (difference, used, valid, mask)
        matching = _gradient_term(*(m if m is None else m.reshape(shape) for m in maps))
        logs["affine"] = lax.stop_gradient(jnp.sum(per_map)), count
        logs["gradient"] = lax.stop_gradient(jnp.sum(matching)), count
        per_map = per_map + gradient_weight * matching
    pixels = Residuals(*(m.reshape(shape) for m in (_absolute(difference), used, kept)))
    return LossSum(jnp.sum(per_map), count, logs), pixels


def _decide(label, valid, mask, min_valid, min_region_scale) -> LabelStatistics:
    """Decides by the label alone which regions contribute, so that all devices agree."""
    if min_valid < 1:
        raise ValueError(f"min_valid={min_valid}: a map needs at least 1 valid pixel")
    label = jnp.where(valid, at_least_float32(lax.stop_gradient(label)), 0)
    regions = _regions(valid, mask)
    median, deviation, n = _statistics(label, regions, mask)
    degenerate = (n < min_valid) | (deviation < MIN_DEVIATION)
    if mask is None:
        small = dropped = jnp.zeros_like(degenerate)
    else:
        whole = _statistics(label, valid[:, None], None)[1]
        small = ~degenerate & (deviation < LOGGED_REGION_SCALE * whole)
        dropped = deviation < min_region_scale * whole
    return LabelStatistics(n, median, deviation, degenerate, small, ~degenerate & ~dropped)


def _reduce(difference, regions, n_r, n, mask, trim, trim_per) -> tuple[Array, Array]:
    """Returns each map's loss (b,) over the residuals that are kept, and their mask (b, h, w)."""
    rho = _absolute(difference)
    if trim_per == "sample":
        regions = jnp.any(regions, axis=1, keepdims=True)
        n_r, mask = jnp.sum(n_r, axis=1, keepdims=True), None
    if trim:
        # one buffer for ranking and comparing: recomputed residuals could differ in the last bit
        ranked = lax.optimization_barrier(lax.stop_gradient(rho))
        threshold = kth_smallest(ranked[:, None], regions, n_r - _share(n_r, trim))
        above = ranked > _spread(threshold, mask)  # false for NaN, which must reach the sum
        regions = regions & ~above[:, None]
    total = jnp.sum(jnp.where(regions, rho[:, None], 0), axis=PIXELS)
    stay = jnp.sum(regions, axis=PIXELS, dtype=jnp.int32)
    weight = n_r / jnp.maximum(n, 1)[:, None].astype(rho.dtype)
    return jnp.sum(weight * total / jnp.maximum(stay, 1), axis=1), jnp.any(regions, axis=1)


def _share(n: Int[Array, "..."], share: float) -> Int[Array, "..."]:
    """⌊share · n⌋ in whole numbers: the same on every device and in every precision."""
    ratio = Fraction(share).limit_denominator(10_000)
    top, bottom = ratio.numerator, ratio.denominator
    return n // bottom * top + n % bottom * top // bottom


def _gradient_term(difference, used, valid, mask) -> Array:
    """Σ |dx| + |dy| over valid pixels at four scales (b,); pairs within one region only."""
    total = jnp.zeros(len(difference), difference.dtype)
    for scale in range(GRADIENT_SCALES):
        step = 2**scale
        d, u, v = (m[:, ::step, ::step] for m in (difference, used, valid))
        m = jnp.zeros_like(u) if mask is None else mask[:, ::step, ::step]
        right = u[:, :, 1:] & u[:, :, :-1] & (m[:, :, 1:] == m[:, :, :-1])
        down = u[:, 1:] & u[:, :-1] & (m[:, 1:] == m[:, :-1])
        dx = jnp.where(right, _absolute(d[:, :, 1:] - d[:, :, :-1]), 0)
        dy = jnp.where(down, _absolute(d[:, 1:] - d[:, :-1]), 0)
        n = jnp.maximum(jnp.sum(v, axis=(1, 2), dtype=jnp.int32), 1)
        total += (jnp.sum(dx, axis=(1, 2)) + jnp.sum(dy, axis=(1, 2))) / n
    return total


def _logs(pred, median, deviation, flat, used, kept, decided: LabelStatistics) -> dict[str, Pair]:
    """Returns logs of drift as (sum, count); median, deviation (b, 1): of the pixels used."""
    dtype = pred.dtype
    images = jnp.asarray(len(pred), dtype)
    maps = _total(jnp.any(decided.contributes, axis=1), dtype)
    contributing = _total(decided.contributes, dtype)
    present = decided.n > 0
    regions = _total(present, dtype)
    trimmed = jnp.sum(used & ~kept, axis=PIXELS) / jnp.maximum(jnp.sum(used, axis=PIXELS), 1)
    logs = {
        "pred_median": (jnp.sum(median), maps),
        "pred_deviation": (jnp.sum(deviation), maps),
        "pred_zero_share": (jnp.sum(jnp.mean(pred == 0, axis=PIXELS, dtype=dtype)), images),
        "flat_predictions": (_total(flat & decided.contributes, dtype), contributing),
        "trimmed_share": (jnp.sum(trimmed, dtype=dtype), maps),
        "dropped_maps": (images - maps, images),
        "dropped_regions": (_total(present & ~decided.contributes, dtype), regions),
        "small_regions": (_total(decided.small, dtype), regions),
    }
    return {name: tuple(map(lax.stop_gradient, pair)) for name, pair in logs.items()}


def _statistics(x, regions, mask) -> tuple[Array, Array, Array]:
    """Median, mean absolute deviation and number (b, r) of x (b, h, w) in regions (b, r, h, w)."""
    n = jnp.sum(regions, axis=PIXELS, dtype=jnp.int32)
    median = masked_median(x[:, None], regions, 2)
    away = _absolute(x - _spread(median, mask))
    deviation = jnp.sum(jnp.where(regions, away[:, None], 0), axis=PIXELS) / jnp.maximum(n, 1)
    return median, deviation, n


def _flat(*maps: Array | None) -> tuple[Array | None, ...]:
    """(b, h, w) to (b, 1, h·w) on CPUs, where reductions over one axis are faster.

    On a TPU, whose tiles are the last two axes, this would move every pixel, and cost 1.8 MB of
    program and four seconds of compilation for each map.
    """
    if platform() != "cpu":
        return maps
    return tuple(m if m is None else m.reshape(len(m), 1, -1) for m in maps)


def _regions(valid, mask) -> Bool[Array, "b r h w"]:
    return valid[:, None] if mask is None else jnp.stack([valid & ~mask, valid & mask], axis=1)


def _spread(values: Float[Array, "b r"], mask: Bool[Array, "b h w"] | None) -> Array:
    """Each region's value at each of its pixels, (b, h, w) or (b, 1, 1)."""
    first = values[:, :1, None]
    return first if mask is None else jnp.where(mask, values[:, 1:, None], first)


def _absolute(x: Array) -> Array:
    """|x| with gradient 0 at 0; NaN stays NaN."""
    return x * lax.stop_gradient(jnp.sign(x))


def _unit(x: Float[Array, "... d"]) -> Float[Array, "... d"]:
    """x over its norm; a zero vector stays zero and has zero gradient."""
    x = at_least_float32(x)
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    zero = square < jnp.finfo(x.dtype).tiny  # false for NaN
    return x * jnp.where(zero, 0, 1 / jnp.sqrt(jnp.where(zero, 1, square)))


def _total(flags: Bool[Array, "..."], dtype) -> Array:
    return jnp.sum(flags, dtype=dtype)
