"""Kernels of a network as 8-bit whole numbers, a scale for each output channel; made wide in use.

Symmetric: w ≈ q · s, q in -127 … 127, s = max |w| / 127 over the channel, so that no weight is off
by more than s / 2. Only products and convolutions have such kernels; biases, norms, scales and
embeddings, 1 % of the numbers, stay. A program computes q · s where the kernel is used: arrays in
memory are a quarter as large, and the arithmetic is that of wide weights.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

LARGEST = 127


def quantise(kernel: np.ndarray, axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Rounds a kernel; returns int8 numbers and float32 scales that broadcast with them.

    Args:
      kernel: finite numbers.
      axes: what one output channel's weights lie along.
    """
    scale = np.max(np.abs(kernel), axis=axes, keepdims=True).astype(np.float32) / LARGEST
    rounded = np.rint(kernel / np.where(scale > 0, scale, 1))
    return np.clip(rounded, -LARGEST, LARGEST).astype(np.int8), scale


def narrow(params: Any) -> Any:
    """Replaces the kernels of a tree of parameters by {"int8": …, "scale": …}."""
    if not isinstance(params, dict):
        return params
    found = {}
    for name, value in params.items():
        if name == "kernel":
            # (…, in, out); a leading axis of three is that of stacked blocks, of four the window's
            axes = (1,) if value.ndim == 3 else tuple(range(value.ndim - 1))
            rounded, scale = quantise(np.asarray(value), axes)
            found[name] = {"int8": rounded, "scale": scale}
        else:
            found[name] = narrow(value)
    return found


def widen(params: Any) -> Any:
    """Undoes `narrow` up to rounding, inside a program."""
    if not isinstance(params, dict):
        return params
    if set(params) == {"int8", "scale"}:
        return params["int8"].astype(jnp.float32) * params["scale"]
    return {name: widen(value) for name, value in params.items()}


def raw_output(model: Any, params: Any, images: jax.Array) -> jax.Array:
    """Returns what `outputs.raw_output` does, of parameters that `narrow` made."""
    # Held back, or the compiler may compute the wide weights once and keep them.
    held = jax.lax.optimization_barrier(params)
    return model.apply({"params": widen(held)}, images)
