"""Pre- and post-processing: from a picture to the network's input, from its output to a depth map.

`recipe_of` derives it from the weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from depth_anything_jax.checkpoints.bundle import Weights
from depth_anything_jax.data import camera as cameras
from depth_anything_jax.data import transforms
from depth_anything_jax.inference import camera_intrinsics, input_sizes
from depth_anything_jax.inference.depth_files import METRIC, RELATIVE
from depth_anything_jax.models.outputs import focal_length, to_metres
from depth_anything_jax.utils import interpolation


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Pre- and post-processing of one model.

    Attributes:
      kind: of the output, RELATIVE or METRIC.
      to_picture: rule of `interpolation.resize` from the output to the picture's size.
      input: transform from the picture to the input (`Weights.input`).
      focal: of a metric model for a canonical camera, that camera's focal length in pixels of the
        network's input; depth is proportional to it.
      max_depth: largest output of a metric network.
    """

    kind: str
    to_picture: str
    input: transforms.InputTransform
    focal: float | None = None
    max_depth: float | None = None

    def check(self, intrinsics: camera_intrinsics.Intrinsics | None) -> None:
        """Raises ValueError where the model needs a camera and there is none."""
        if self.focal is not None and intrinsics is None:
            raise ValueError(
                "this model's metres depend on the focal length, and the picture's EXIF has none: "
                "pass intrinsics=(fx, fy, cx, cy) in pixels of the picture (--intrinsics)"
            )

    def check_size(self, input_size: int | None, buckets: int | Sequence[int]) -> None:
        """Raises ValueError where all inputs have one shape and another is requested."""
        self.input.refuse_size(input_size)
        if isinstance(self.input.size, tuple) and buckets:
            raise ValueError(
                f"buckets={buckets}: every input of this network is {self.input.size[0]}x"
                f"{self.input.size[1]} pixels; use 0"
            )

    def shape(
        self, pixels: Sequence[int], input_size: int | None, lengths: Sequence[int] = (), **how: Any
    ) -> tuple[int, int]:
        """Computes height and width of the network's input for a picture.

        Args:
          pixels: height and width of the picture.
          input_size: short side; None: the model's own.
          lengths, **how: as for `input_sizes.of_network`.
        """
        if isinstance(self.input.size, tuple):
            return self.input.size
        size, patch_size = input_size or self.input.size, self.input.encoder.patch_size
        return input_sizes.of_network(pixels, size, lengths, patch_size=patch_size, **how)

    def prepare(self, image: np.ndarray, shape: tuple[int, int]) -> Float[np.ndarray, "H W 3"]:
        """Converts RGB (uint8, or float in 0-1) to the network's input of this shape."""
        return self.input.at(image, *shape)

    def finish(
        self,
        output: Float[np.ndarray, "H W"],
        shape: tuple[int, int],
        intrinsics: camera_intrinsics.Intrinsics | None = None,
    ) -> Float[np.ndarray, "h w"]:
        """Converts the network's output to the map at the picture's (or a tile's) size, float32.

        Args:
          output: of the network's head.
          shape: of the map.
          intrinsics: in pixels of the map; see `check`.
        """
        self.check(intrinsics)
        values = interpolation.resize(output, shape, self.to_picture, np.float32)
        return self._metres(values, intrinsics, shape, output.shape)

    def farthest(
        self,
        intrinsics: camera_intrinsics.Intrinsics | None,
        shape: Sequence[int],
        network: Sequence[int],
    ) -> float | None:
        """Computes the largest metres in the map of a picture; None of a relative model.

        Args:
          intrinsics: in pixels of the picture.
          shape, network: height and width of the picture and of the network's input.
        """
        if self.max_depth is None:
            return None
        return float(self._metres(self.max_depth, intrinsics, shape, network))

    def _metres(
        self,
        values: Any,
        intrinsics: camera_intrinsics.Intrinsics | None,
        shape: Sequence[int],
        network: Sequence[int],
    ) -> Any:
        if self.focal is None or intrinsics is None:
            return values
        old, new = ((int(s[0]), int(s[1])) for s in (shape, network))
        seen = cameras.resized(np.array(intrinsics[:4], np.float32), old, new)
        return to_metres(values, focal_length(seen), self.focal)


def recipe_of(found: Weights) -> Recipe:
    """Returns the recipe that loaded weights were trained for.

    The official code resizes the output to the picture's size: V1's run.py with
    align_corners=False, V2's infer_image (relative and metric) and V1's metric code with True.
    """
    kind = METRIC if found.is_metric else RELATIVE
    plain = found.version == "v1" and not found.is_metric
    back = "bilinear" if plain else "bilinear-corners"
    return Recipe(kind, back, found.input, found.focal, found.max_depth)
