"""What belongs around a network: how a picture becomes its input, its output a map of the picture.

`recipe_of` is the one place where weights decide it.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from depth_anything_jax import resample, weights
from depth_anything_jax.data import transforms

RELATIVE = "relative inverse depth"  # up to an unknown scale and shift; larger is nearer
METRIC = "metric depth"  # along the optical axis; larger is farther, inf: infinitely far
KINDS = (RELATIVE, METRIC)
# How the official code brings the output to the picture's size: V1's run.py interpolates with
# align_corners=False, V2's infer_image (relative and metric) with True.
_TO_PICTURE = {"v1": "bilinear", "v2": "bilinear-corners"}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How one model is used.

    Attributes:
      kind: RELATIVE or METRIC, of what it puts out.
      to_picture: rule of `resample.resize` that brings its output to the picture's size.
    """

    kind: str
    to_picture: str

    def prepare(self, image: np.ndarray, shape: tuple[int, int]) -> Float[np.ndarray, "H W 3"]:
        """RGB (uint8, or float in 0-1) → the network's input of this shape."""
        return transforms.normalise(transforms.resize_image(image, *shape))

    def finish(
        self, output: Float[np.ndarray, "H W"], shape: tuple[int, int]
    ) -> Float[np.ndarray, "h w"]:
        """The network's output → the map at the picture's size, float32."""
        return resample.resize(output, shape, self.to_picture, np.float32)


def recipe_of(found: weights.Weights) -> Recipe:
    """The recipe that loaded weights were trained for."""
    kind = RELATIVE if found.head == "relative" else METRIC
    return Recipe(kind, _TO_PICTURE[found.version or "v2"])
