"""Pointwise functions, computed in at least float32."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def widen(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Casts x to at least float32."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


@jax.custom_vjp
def gelu(x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """x Phi(x), computed in at least float32 and returned in x's dtype, as PyTorch's GELU.

    Exact: the tanh approximation, Flax's default, is 4.7e-4 off per activation. By erf: the erfc of
    `jax.nn.gelu` takes a TPU's compiler five times as long. The backward pass stores x only.
    """
    wide = widen(x)
    return (wide * _normal(wide)).astype(x.dtype)


def _normal(x: Array) -> Array:
    """The standard normal distribution function."""
    return 0.5 * (1 + jax.lax.erf(x * np.sqrt(0.5).astype(x.dtype)))


def _gelu_backward(x: Array, y: Array) -> tuple[Array]:
    wide = widen(x)
    density = jnp.exp(-0.5 * wide * wide) * np.sqrt(0.5 / np.pi).astype(wide.dtype)
    return ((widen(y) * (_normal(wide) + wide * density)).astype(x.dtype),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)
