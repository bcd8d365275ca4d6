"""Chooses the dtype that a device computes in."""

from typing import Any

import jax
import jax.numpy as jnp


def compute_dtype(name: str, device: Any = None):
    """Returns the dtype of a name; "auto": bfloat16 on TPUs and GPUs of capability >= 8.0.

    Args:
      name: of a dtype, or "auto".
      device: the one that computes; None: jax's first.

    Raises:
      ValueError: another name.
    """
    if name in ("float32", "bfloat16", "float64"):
        return jnp.dtype(name)
    if name != "auto":
        raise ValueError(f"dtype={name!r}: auto, float32 or bfloat16")
    device = jax.devices()[0] if device is None else device
    if device.platform == "gpu":  # a T4 (7.5) has no bfloat16
        capable = float(getattr(device, "compute_capability", "0")) >= 8.0
        return jnp.dtype("bfloat16" if capable else "float32")
    return jnp.dtype("bfloat16" if device.platform == "tpu" else "float32")
