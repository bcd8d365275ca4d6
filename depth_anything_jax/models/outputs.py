"""What the output of a network means: disparity, metres, focal lengths."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from depth_anything_jax.utils import map_kinds

MIN_DEPTH = 1e-3  # metres: what any head says is at least (ZoeDepth's nearest)


def is_metric(model: Any) -> bool:
    """Whether the head gives metres, of which zero disparity is infinitely far."""
    return map_kinds.is_metric_head(model.head)


def disparity(
    model: Any, params: Any, images: Float[jax.Array, "b h w 3"]
) -> Float[jax.Array, "b h w"]:
    """What any head says about normalised images, larger is nearer: of metres 1 / depth."""
    out = as_said(model, params, images)
    return 1 / jnp.maximum(out, MIN_DEPTH) if is_metric(model) else out


def as_said(
    model: Any, params: Any, images: Float[jax.Array, "b h w 3"]
) -> Float[jax.Array, "b h w"]:
    """What the head itself says about normalised images: disparity, or metres if `is_metric`."""
    return model.apply({"params": params}, images)


def focal_length(camera: Any) -> Any:
    """(fx + fy) / 2 of a batch of cameras, (…, 4): fx, fy, cx, cy."""
    return (camera[..., 0] + camera[..., 1]) / 2


def to_metres(output: Any, focal_input: Any, focal: float | None) -> Any:
    """Metres from what a metric network says: output · f / f_c.

    Args:
      output: canonical depth, or metres where the model has no focal length.
      focal_input: f, in pixels of the network's input, after resizing (`focal` of its camera);
        not looked at where the model has none.
      focal: f_c, the model's (`bundle.Weights.focal`), None where it has none.
    """
    return output if focal is None else output * (focal_input / focal)


def canonical_ratio(focal_input: Any, focal: float) -> Any:
    """What metres are multiplied by before a canonical model is asked for them: f_c / f."""
    return focal / focal_input
