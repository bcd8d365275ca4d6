"""Resizing as products with small dense matrices, exact against PyTorch.

Two rules are needed and `jax.image.resize` has neither: bilinear with `align_corners=True` (DPT)
and the bicubic rule of DINOv2's position embedding. Both are separable, so each axis is one
(out, in) matrix, built in numpy float64 at trace time and cast to the compute dtype: nothing
narrows a float64 run, and forward and backward are plain matrix products.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from depth_anything_jax.parallel.placement import platform
from depth_anything_jax.utils import interpolation

MANY_SAMPLES = 128  # on an axis of that many the zeros of a dense matrix cost more, on CPU
POSITION_OFFSET = 0.1  # DINOv2 `interpolate_offset`: the scale is (n + 0.1) / grid, not n / grid


@functools.lru_cache(maxsize=64)
def linear_matrix(n_in: int, n_out: int) -> np.ndarray:
    """Bilinear weights of one axis with `align_corners=True`: float64 (n_out, n_in).

    Sample i lies at i * (n_in - 1) / (n_out - 1); a single sample lies at 0.
    """
    return interpolation.matrix(interpolation.sample_weights(n_in, n_out, "bilinear-corners"), n_in)


@functools.lru_cache(maxsize=64)
def cubic_matrix(n_in: int, n_out: int, scale: float) -> np.ndarray:
    """Bicubic weights of one axis, half-pixel centres, no antialias: float64 (n_out, n_in).

    Sample i lies at (i + 0.5) / scale - 0.5; samples beyond the border repeat the border.
    """
    return interpolation.matrix(interpolation.sample_weights(n_in, n_out, "bicubic", scale), n_in)


def _as_weights(matrix: np.ndarray, dtype: Any) -> Array:
    """The matrix in the compute dtype, with rows that still sum to exactly one.

    Bfloat16 holds k / 256 exactly for k <= 256, so the bilinear weights are rounded to that grid
    (both of a pair: w and 1 - w) instead of each on its own, which would scale rows by 1 +- 2^-9
    and print a grid on constant areas.
    """
    if jnp.finfo(dtype).bits == 16:
        matrix = np.round(matrix * 256) / 256
    return jnp.asarray(matrix, dtype)


def resize_bilinear(
    x: Float[Array, "b h w c"], size: tuple[int, int], *, precision: jax.lax.PrecisionLike = None
) -> Float[Array, "b H W c"]:
    """Bilinear resize with `align_corners=True` to `size` (rows, columns), in x's dtype."""
    for axis, n_out in ((1, size[0]), (2, size[1])):
        if x.shape[axis] != n_out:
            gather = platform() == "cpu" and x.shape[axis] >= MANY_SAMPLES
            if gather:
                x = _gathered(x, axis, n_out, precision)
            else:
                x = _multiplied(x, axis, n_out, precision)
    return x


def _multiplied(x: Array, axis: int, n_out: int, precision: jax.lax.PrecisionLike = None) -> Array:
    """One axis by the dense matrix."""
    weights = _as_weights(linear_matrix(x.shape[axis], n_out), x.dtype)
    spec = "Hh,bhwc->bHwc" if axis == 1 else "Ww,bhwc->bhWc"
    return jnp.einsum(spec, weights, x, precision=precision)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _gathered(x: Array, axis: int, n_out: int, precision: jax.lax.PrecisionLike = None) -> Array:
    """Resizes one axis with two weights per sample, which skips the matrix's zeros."""
    index, weights = interpolation.sample_weights(x.shape[axis], n_out, "bilinear-corners")
    shape = [n_out if i == axis else 1 for i in range(x.ndim)]
    low, high = (
        jnp.take(x, index[:, k], axis=axis) * _as_weights(weights[:, k], x.dtype).reshape(shape)
        for k in range(2)
    )
    return low + high


def _gathered_forward(
    x: Array, axis: int, n_out: int, precision: jax.lax.PrecisionLike
) -> tuple[Array, tuple[int, ...]]:
    return _gathered(x, axis, n_out, precision), x.shape


def _gathered_backward(
    axis: int, n_out: int, precision: jax.lax.PrecisionLike, shape: tuple[int, ...], y: Array
) -> tuple[Array]:
    # The transposed product: a scatter, which the transpose of a gather is, runs on one core.
    x = jax.ShapeDtypeStruct(shape, y.dtype)
    return jax.linear_transpose(lambda x: _multiplied(x, axis, n_out, precision), x)(y)


_gathered.defvjp(_gathered_forward, _gathered_backward)


def resize_position_embedding(
    pos_embed: Float[Array, "1 n d"], size: tuple[int, int]
) -> Float[Array, "1 m d"]:
    """DINOv2's position embedding for a patch grid of `size` (rows, columns).

    Row 0 is the class token's and stays. The others form a square grid, which is resized by the
    official rule: bicubic with A = -0.75, no antialias, scale (n + 0.1) / grid. At exactly the
    trained grid it is returned unchanged. Computed in at least float32; returns that dtype.

    Raises:
      ValueError: the rows without the class token's are no square grid.
    """
    count = pos_embed.shape[1] - 1
    grid = math.isqrt(count)
    if grid * grid != count:
        raise ValueError(
            f"pos_embed has {count} rows besides the class token's; a square grid is needed, "
            "e.g. 1369 = 37 x 37 for 518-pixel training"
        )
    dtype = jnp.promote_types(pos_embed.dtype, jnp.float32)
    pos_embed = pos_embed.astype(dtype)
    if tuple(size) == (grid, grid):
        return pos_embed
    rows, columns = (
        jnp.asarray(cubic_matrix(grid, n, (n + POSITION_OFFSET) / grid), dtype) for n in size
    )
    patches = pos_embed[:, 1:].reshape(grid, grid, -1)
    # Highest precision: a few megaflops, and a TPU's default would round the embedding to bfloat16.
    patches = jnp.einsum(
        "Hh,Ww,hwd->HWd", rows, columns, patches, precision=jax.lax.Precision.HIGHEST
    )
    return jnp.concatenate([pos_embed[:, :1], patches.reshape(1, -1, patches.shape[-1])], axis=1)
