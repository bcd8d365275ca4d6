"""Interprets the output of a network: disparity, metres, focal lengths."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

MIN_DEPTH = 1e-3  # metres: the smallest output of any head (ZoeDepth's)


def is_metric(model: Any) -> bool:
    """Whether the head predicts metres."""
    return model.head != "relative"


def disparity(
    model: Any, params: Any, images: Float[jax.Array, "b h w 3"]
) -> Float[jax.Array, "b h w"]:
    """Predicts disparity of normalised images with any head: of metres 1 / depth."""
    out = raw_output(model, params, images)
    return 1 / jnp.maximum(out, MIN_DEPTH) if is_metric(model) else out


def raw_output(
    model: Any, params: Any, images: Float[jax.Array, "b h w 3"]
) -> Float[jax.Array, "b h w"]:
    """Returns the head's own output for normalised images: disparity, or metres if `is_metric`."""
    return model.apply({"params": params}, images)


def focal_length(camera: Any) -> Any:
    """(fx + fy) / 2 of (…, 4): fx, fy, cx, cy."""
    return (camera[..., 0] + camera[..., 1]) / 2


def to_metres(output: Any, focal_input: Any, focal: float | None) -> Any:
    """Converts the output of a metric network to metres: output · f / f_c.

    Args:
      output: canonical depth, or metres where the model has no focal length.
      focal_input: f, in pixels of the network's input, after resizing (`focal_length` of its
        camera); unused where the model has none.
      focal: f_c, the model's (`bundle.Weights.focal`), or None.
    """
    return output if focal is None else output * (focal_input / focal)


def canonical_ratio(focal_input: Any, focal: float) -> Any:
    """Factor from metres to a canonical model's output: f_c / f."""
    return focal / focal_input
