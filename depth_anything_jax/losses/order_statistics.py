"""Exact order statistics of masked maps without a sort.

A float's bits can be mapped to an unsigned integer of the same order. The k-th smallest element is
then found bit by bit from the top: one pass per bit counts the elements below a candidate. That is
32 (float32) or 64 (float64) cheap reductions instead of a sort, the same bits out, and nothing but
elementwise work and sums: it shards over the batch without communication.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt

_UNSIGNED = {4: jnp.uint32, 8: jnp.uint64}


def at_least_float32(x: Array) -> Array:
    """Casts x to float32 unless its dtype is wider."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def ordered_bits(x: Float[Array, "..."]) -> UInt[Array, "..."]:
    """Maps x to unsigned integers that compare as the float32 or float64 values of x do.

    -0 lies just below +0, NaN above +inf (below -inf if its sign bit is set).
    """
    unsigned = _UNSIGNED[x.dtype.itemsize]
    top = jnp.array(1 << (8 * x.dtype.itemsize - 1), unsigned)
    bits = lax.bitcast_convert_type(x, unsigned)
    return jnp.where(bits >= top, ~bits, bits | top)


def from_ordered_bits(bits: UInt[Array, "..."]) -> Float[Array, "..."]:
    """Inverts `ordered_bits`."""
    floating = {4: jnp.float32, 8: jnp.float64}[bits.dtype.itemsize]
    top = jnp.array(1 << (8 * bits.dtype.itemsize - 1), bits.dtype)
    return lax.bitcast_convert_type(jnp.where(bits >= top, bits ^ top, ~bits), floating)


def kth_smallest(
    x: Float[Array, "..."], mask: Bool[Array, "..."], k: Int[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """Finds the k-th smallest of the elements of x under the mask, k from 1.

    Along the axes of the mask that k does not have, its last ones. x is broadcast against the mask,
    so that one map can be read through several masks. k is clipped to [1, number of elements]; 0
    where the mask is empty. No gradient.
    """
    x = lax.stop_gradient(at_least_float32(x))
    size = 8 * x.dtype.itemsize
    axes = tuple(range(k.ndim, mask.ndim))
    number = jnp.sum(mask, axis=axes, dtype=jnp.int32)
    k = jnp.clip(k.astype(jnp.int32), 1, jnp.maximum(number, 1))
    bits = ordered_bits(x)
    # what is masked lies above every candidate, since none exceeds all ones
    bits = jnp.where(mask, bits, ~jnp.zeros_like(bits))

    def set_bit(i, found):
        shift = jnp.asarray(size - 1 - i).astype(bits.dtype)
        candidate = found | (jnp.array(1, bits.dtype) << shift)
        below = jnp.sum(bits < jnp.expand_dims(candidate, axes), axis=axes, dtype=jnp.int32)
        return jnp.where(below < k, candidate, found)

    found = lax.fori_loop(0, size, set_bit, jnp.zeros(k.shape, bits.dtype))
    return jnp.where(number > 0, from_ordered_bits(found), 0)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def masked_median(
    x: Float[Array, "..."], mask: Bool[Array, "..."], axes: int = 1
) -> Float[Array, "..."]:
    """Computes the lower median (as `torch.median`) over the last `axes` axes of x under the mask.

    In at least float32, x broadcast against the mask; 0, without gradient, where the mask is empty.
    The gradient is spread evenly over the elements under the mask that equal the median.
    """
    number = jnp.sum(mask, axis=_last(axes), dtype=jnp.int32)
    return kth_smallest(x, mask, (number + 1) // 2)


@masked_median.defjvp
def _masked_median_jvp(axes, primals, tangents):
    x, mask = primals
    median = masked_median(x, mask, axes)
    at_median = mask & (at_least_float32(x) == jnp.expand_dims(median, _last(axes)))
    ties = jnp.sum(at_median, axis=_last(axes), dtype=jnp.int32)
    share = jnp.sum(jnp.where(at_median, at_least_float32(tangents[0]), 0), axis=_last(axes))
    return median, share / jnp.maximum(ties, 1)


def _last(axes: int) -> tuple[int, ...]:
    return tuple(range(-axes, 0))
