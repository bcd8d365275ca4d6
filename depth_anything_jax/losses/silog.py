"""The SiLog loss of metric models as (sum, count), and its labels.

With d = log label - log prediction over a map's valid pixels:
- "v2" (Depth Anything V2, metric_depth): sqrt(mean d² - ½ (mean d)²);
- "v1" (ZoeDepth, which V1's metric models use): 10 sqrt(var d + .15 (mean d)²), the variance with
  n - 1, and 1e-7 m added to both depths.

Each map has its own root here and the maps are averaged, so that sums and counts add exactly over
microbatches and devices. Upstream pools the pixels of a device's whole batch under one root
(pool="batch", here over the global batch), which does not add up over microbatches.

A sigmoid that underflows gives 0 m, whose logarithm is -inf, and V2's code has no guard. Below 1e-6
m the logarithm is therefore continued by its tangent, which is finite and whose gradient increases
the prediction. The root's slope is infinite where every d is 0; its gradient is set to 0 there.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from depth_anything_jax.losses.order_statistics import at_least_float32
from depth_anything_jax.losses.relative import LossSum

FLOOR = 1e-6  # metres; our choice: nearer than any camera sees, far above where float32 underflows
EPS = 1e-7  # metres; ZoeDepth's alpha
# The weight of (mean d)², the factor before the root.
FORMS = {"v2": (0.5, 1.0), "v1": (0.15, 10.0)}
POOLS = ("image", "batch")


def depth_label(
    depth: Float[Array, "b h w"],
    valid: Bool[Array, "b h w"],
    ratio: Float[Array, " b"] | None = None,
    *,
    min_depth: float,
    max_depth: float,
) -> tuple[Float[Array, "b h w"], Bool[Array, "b h w"]]:
    """Prepares the label of a metric network and the mask of pixels that count.

    Args:
      depth: metres; any values in invalid pixels.
      valid: pixels with a measurement. The sky has none and does not count.
      ratio: each image's canonical over its actual focal length; None: the label is in metres.
      min_depth, max_depth: the network's range, above 0; pixels outside (in canonical metres where
        there is a ratio) do not count.

    Returns:
      depth, 1 where it does not count; the pixels that count.
    """
    depth = at_least_float32(depth)
    if ratio is not None:
        depth = depth * ratio[:, None, None].astype(depth.dtype)
    valid = valid & (depth >= min_depth) & (depth <= max_depth)
    return jnp.where(valid, depth, 1), valid


def contributing_maps(
    valid: Bool[Array, "b h w"], *, pool: str = "image", min_valid: int = 10
) -> Float[Array, ""]:
    """Returns the count that `silog` will report, from the labels alone."""
    return jnp.sum(_pixels(valid, pool) >= min_valid, dtype=jnp.float32)


def silog(
    pred: Float[Array, "b h w"],
    label: Float[Array, "b h w"],
    valid: Bool[Array, "b h w"],
    *,
    form: str = "v2",
    pool: str = "image",
    min_valid: int = 10,
) -> LossSum:
    """Computes the scale-invariant logarithmic loss of metric depth; see the module.

    Args:
      pred: metres, 0 or more; label: metres, positive where valid; any values elsewhere.
      form: "v2" or "v1".
      pool: "image": one root for each map, their number is the count; "batch": one for all.
      min_valid: maps with fewer valid pixels contribute nothing (of "batch": the whole batch).

    Raises:
      ValueError: an unknown form or pool, too small a min_valid.
    """
    if form not in FORMS:
        raise ValueError(f"loss.silog={form!r}: choose one of {', '.join(FORMS)}")
    if pool not in POOLS:
        raise ValueError(f"loss.silog_pool={pool!r}: choose one of {', '.join(POOLS)}")
    least = 2 if form == "v1" else 1
    if min_valid < least:
        raise ValueError(f"min_valid={min_valid}: SiLog {form} needs at least {least} valid pixels")
    weight, factor = FORMS[form]
    raw = at_least_float32(pred)
    # ones in pixels that do not count, so that their values enter no arithmetic
    p = jnp.where(valid, raw, 1)
    y = jnp.where(valid, at_least_float32(lax.stop_gradient(label)), 1)
    d = jnp.log(y + EPS) - jnp.log(p + EPS) if form == "v1" else jnp.log(y) - _log(p)

    axes = (1, 2) if pool == "image" else (0, 1, 2)
    pixels = _pixels(valid, pool)
    n = jnp.maximum(pixels, 1).astype(d.dtype)
    mean = jnp.sum(jnp.where(valid, d, 0), axis=axes, keepdims=True) / n
    away = jnp.where(valid, d - mean, 0)
    # Centred, so that nothing cancels: mean d² - ½ (mean d)² = var d + ½ (mean d)².
    variance = jnp.sum(away * away, axis=axes, keepdims=True)
    variance = variance / (jnp.maximum(n - 1, 1) if form == "v1" else n)
    loss = factor * _root(variance + weight * mean * mean)
    counts = pixels >= min_valid
    total, count = jnp.sum(jnp.where(counts, loss, 0)), jnp.sum(counts, dtype=d.dtype)
    return LossSum(total, count, _logs(raw, p, d, valid, min_valid))


def _pixels(valid, pool):
    """Valid pixels under each root, with the axes of the maps kept."""
    axes = (1, 2) if pool == "image" else (0, 1, 2)
    return jnp.sum(valid, axis=axes, keepdims=True, dtype=jnp.int32)


def _log(x: Array) -> Array:
    """log x, and below FLOOR its tangent there."""
    near = x < FLOOR  # false for NaN, which must reach the sum
    tangent = jnp.log(jnp.asarray(FLOOR, x.dtype)) + x / FLOOR - 1
    return jnp.where(near, tangent, jnp.log(jnp.where(near, 1, x)))


def _root(x: Array) -> Array:
    """The square root; at 0 its gradient is 0."""
    zero = x < jnp.finfo(x.dtype).tiny  # false for NaN
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, x)))


def _logs(raw, pred, d, valid, min_valid) -> dict[str, tuple[Array, Array]]:
    """Returns logs as (sum, count) over maps: mean, bias, scatter, shares of extreme values."""
    dtype = d.dtype
    n = _pixels(valid, "image")[:, 0, 0]
    used = n >= min_valid
    n, maps = jnp.maximum(n, 1).astype(dtype), jnp.sum(used, dtype=dtype)

    def mean(x):
        return jnp.sum(jnp.where(valid, x, 0), axis=(1, 2)) / n

    bias = -mean(d)
    scatter = jnp.sqrt(mean((d + bias[:, None, None]) ** 2))
    images = jnp.asarray(len(raw), dtype)
    per_map = {"pred_mean": mean(pred), "log_bias": bias, "log_scatter": scatter}
    logs = {name: (jnp.sum(jnp.where(used, x, 0)), maps) for name, x in per_map.items()}
    logs["pred_zero_share"] = (jnp.sum(jnp.mean(raw < FLOOR, axis=(1, 2), dtype=dtype)), images)
    # 1 / pixels, unless the sigmoid is saturated: then the whole map is the largest depth
    farthest = raw == jnp.max(raw, axis=(1, 2), keepdims=True)
    logs["pred_max_share"] = (jnp.sum(jnp.mean(farthest, axis=(1, 2), dtype=dtype)), images)
    logs["valid_share"] = (jnp.sum(jnp.mean(valid, axis=(1, 2), dtype=dtype)), images)
    logs["dropped_maps"] = (images - maps, images)
    return {name: tuple(map(lax.stop_gradient, pair)) for name, pair in logs.items()}
