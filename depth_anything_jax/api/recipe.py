"""What belongs around a network: how a picture becomes its input, its output a map of the picture.

`recipe_of` is the one place where weights decide it.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from depth_anything_jax import resample, weights
from depth_anything_jax.api import camera
from depth_anything_jax.data import transforms

RELATIVE = "relative inverse depth"  # up to an unknown scale and shift; larger is nearer
METRIC = "metric depth"  # along the optical axis; larger is farther, inf: infinitely far
KINDS = (RELATIVE, METRIC)
# Heads whose input and output `Recipe` knows; "sigmoid" and "metric" are one.
HEADS = ("relative", "sigmoid", "metric")
# How the official code brings the output to the picture's size: V1's run.py interpolates with
# align_corners=False, V2's infer_image (relative and metric) with True.
_TO_PICTURE = {"v1": "bilinear", "v2": "bilinear-corners"}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How one model is used.

    Attributes:
      kind: RELATIVE or METRIC, of what it puts out.
      to_picture: rule of `resample.resize` that brings its output to the picture's size.
      focal: pixels of the network's input, of a metric model that predicts for a canonical camera
        of this focal length: its depth belongs to any other in proportion.
    """

    kind: str
    to_picture: str
    focal: float | None = None

    def check(self, intrinsics: camera.Intrinsics | None) -> None:
        """Raises ValueError where the model needs a camera and there is none."""
        if self.focal is not None and intrinsics is None:
            raise ValueError(
                "this model's metres depend on the focal length, and the picture's EXIF has none: "
                "pass intrinsics=(fx, fy, cx, cy) in pixels of the picture"
            )

    def prepare(self, image: np.ndarray, shape: tuple[int, int]) -> Float[np.ndarray, "H W 3"]:
        """RGB (uint8, or float in 0-1) → the network's input of this shape."""
        return transforms.normalise(transforms.resize_image(image, *shape))

    def finish(
        self,
        output: Float[np.ndarray, "H W"],
        shape: tuple[int, int],
        intrinsics: camera.Intrinsics | None = None,
    ) -> Float[np.ndarray, "h w"]:
        """The network's output → the map at the picture's (or a tile's) size, float32.

        Args:
          output: as the network's head says it.
          shape: of the map.
          intrinsics: in pixels of the map; see `check`.
        """
        self.check(intrinsics)
        values = resample.resize(output, shape, self.to_picture, np.float32)
        if self.focal is None or intrinsics is None:
            return values
        # As the network saw it: in pixels of its input, and where that is stretched, their mean.
        across = intrinsics.fx * output.shape[1] / shape[1]
        down = intrinsics.fy * output.shape[0] / shape[0]
        return values * np.float32((across + down) / 2 / self.focal)


def recipe_of(found: weights.Weights) -> Recipe:
    """The recipe that loaded weights were trained for.

    Raises:
      ValueError: a head whose input or output is not known here.
    """
    if found.head not in HEADS:
        raise ValueError(
            f"{found.source} has a head of kind {found.head!r}; known here are {', '.join(HEADS)}"
        )
    kind = RELATIVE if found.head == "relative" else METRIC
    return Recipe(kind, _TO_PICTURE[found.version or "v2"], found.metadata.get("focal"))
