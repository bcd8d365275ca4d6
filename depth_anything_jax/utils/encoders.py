"""Describes image encoders: patch size, tokens, normalisation of the input. Needs no JAX.

Everything else of the project takes these numbers from an `EncoderSpec`: of a size of the model
(`models.Variant.encoder`), of a network (`spec`), or of a network's input
(`data.transforms.InputTransform.encoder`).

A further encoder costs one file in `models` with its description and its network, and one row of
`models.depth_anything.NETWORKS`; its sizes are rows of `VARIANTS`.
"""

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class EncoderSpec:
    """What a family of encoders has in common, whatever the size.

    Attributes:
      name: of the family.
      patch_size: side of a patch in pixels.
      prefix_tokens: tokens before the patches' ones: the class token first, then registers.
      layer_norm_epsilon: added to the variance in every LayerNorm.
      positions: how tokens know their place: "learned-bicubic" is a learned table of the trained
        grid, resized bicubically.
      mean, std: of the input's RGB channels in 0-1, which normalisation subtracts and divides by.
    """

    name: str
    patch_size: int
    prefix_tokens: int
    layer_norm_epsilon: float
    positions: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def fits(self, *sides: int) -> bool:
        """Whether all these sides, in pixels, are positive multiples of the patch size."""
        return all(side > 0 and side % self.patch_size == 0 for side in sides)

    def nearest(self, side: float) -> int:
        """The positive multiple of the patch size, in pixels, that is nearest to a side."""
        return max(round(side / self.patch_size), 1) * self.patch_size

    def patch_grid(self, height: int, width: int) -> tuple[int, int]:
        """Patches (rows, columns) of an image of that many pixels.

        Raises:
          ValueError: a side is no positive multiple of the patch size.
        """
        if not self.fits(height, width):
            raise ValueError(
                f"images are {height} x {width} pixels; both sides must be multiples of "
                f"{self.patch_size}: resize them, e.g. to {self.nearest(height)} x "
                f"{self.nearest(width)}"
            )
        return height // self.patch_size, width // self.patch_size

    def normalise(self, images: Any) -> Any:
        """The encoder's input of RGB images (…, 3) in 0-1, NumPy's or JAX's, in their dtype."""
        return (images - np.array(self.mean, images.dtype)) / np.array(self.std, images.dtype)

    def denormalise(self, images: Any) -> Any:
        """RGB images (…, 3) in 0-1 of the encoder's input: the inverse of `normalise`."""
        return images * np.array(self.std) + np.array(self.mean)


# Oquab et al. 2023 and its code: ViT-*/14 without registers; ImageNet's statistics as torchvision
# rounds them.
DINOV2 = EncoderSpec(
    name="dinov2",
    patch_size=14,
    prefix_tokens=1,
    layer_norm_epsilon=1e-6,
    positions="learned-bicubic",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)
