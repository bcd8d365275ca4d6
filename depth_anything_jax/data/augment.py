"""Augments labelled images as ZoeDepth's metric fine-tuning does: windows, rotation, colours.

Off by default: relative training distorts unlabelled images only, on the device (`perturb`). These
augmentations draw after the crop and the flip from the same generator, so that a run without them
keeps its crops and flips.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float

from depth_anything_jax.data import camera
from depth_anything_jax.data.sources.base import maps_of

# Left, top, right, bottom: the border of NYU's 640 x 480 without depth (BTS, ZoeDepth).
NYU_WINDOW = (43, 45, 608, 472)
KB_WINDOW = (352, 1216)  # rows and columns of KITTI's benchmark images: bottom centre
WINDOWS = ("none", "nyu", "kb")


@dataclasses.dataclass(frozen=True)
class Augment:
    """Augmentations of a labelled example beside crop and flip.

    Attributes:
      window: cut from the image first: "none", "nyu" or "kb".
      rotate: degrees, at most, either way.
      p: probability of the colours; ZoeDepth's .5.
      gamma, brightness, colour: ranges of the exponent, the factor, and a factor for each channel.

    Raises:
      ValueError: an unknown window, or an empty range.
    """

    window: str = "none"
    rotate: float = 0.0
    p: float = 0.0
    gamma: tuple[float, float] = (1.0, 1.0)
    brightness: tuple[float, float] = (1.0, 1.0)
    colour: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        if self.window not in WINDOWS:
            raise ValueError(
                f"data.augment.window={self.window!r}: choose one of {', '.join(WINDOWS)}"
            )
        if not 0 <= self.rotate <= 45 or not 0 <= self.p <= 1:
            raise ValueError(
                f"data.augment.rotate={self.rotate} is in degrees, 0 to 45, and p={self.p} a "
                "probability"
            )
        for name in ("gamma", "brightness", "colour"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"data.augment.{name}={(low, high)}: lowest and highest, above 0")


NOTHING = Augment()


def crop_window(record: Mapping[str, Any], window: str) -> dict[str, Any]:
    """Crops a record (image, label and camera) to a named window.

    Raises:
      ValueError: the window does not fit, or the label has another size than the image.
    """
    record = dict(record)
    if window == "none":
        return record
    height, width = record["image"].shape[:2]
    if window == "nyu":
        left, top, right, bottom = NYU_WINDOW
    else:
        top, left = height - KB_WINDOW[0], (width - KB_WINDOW[1]) // 2
        bottom, right = height, left + KB_WINDOW[1]
    arrays = {"image": record["image"]} | maps_of(record)
    sizes = {values.shape[:2] for values in arrays.values()}
    if len(sizes) > 1 or min(top, left) < 0 or bottom > height or right > width:
        raise ValueError(
            f"window {window!r} is rows {top} to {bottom} and columns {left} to {right} of image "
            f"and label, which are {' and '.join(f'{h}x{w}' for h, w in sorted(sizes))}; it fits "
            "its own data set, use data.augment.window='none' for others"
        )
    record |= {field: values[top:bottom, left:right] for field, values in arrays.items()}
    if "camera" in record:
        record["camera"] = camera.cropped(camera.needed(record), top, left)
    return record


def rotated(record: Mapping[str, Any], degrees: float) -> dict[str, Any]:
    """Rotates a record counter-clockwise about its middle; pixels from outside become invalid.

    Images are sampled bilinearly, with black corners as in ZoeDepth; labels by nearest neighbour.
    """
    record = dict(record)
    record["image"] = _rotate(record["image"], degrees, cv2.INTER_LINEAR)
    for field, values in maps_of(record).items():
        raw = values.view(np.uint8) if values.dtype == np.bool_ else values
        turned = _rotate(raw, degrees, cv2.INTER_NEAREST)
        record[field] = turned.view(np.bool_) if values.dtype == np.bool_ else turned
    if "camera" in record:
        c = camera.needed(record)
        record["camera"] = camera.rotated(c, degrees, *record["image"].shape[:2])
    return record


def _rotate(x: np.ndarray, degrees: float, how: int) -> np.ndarray:
    height, width = x.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    return cv2.warpAffine(np.ascontiguousarray(x), matrix, (width, height), flags=how)


def recolour(
    rng: np.random.Generator, image: Float[np.ndarray, "h w 3"], how: Augment
) -> Float[np.ndarray, "h w 3"]:
    """Applies a random gamma, brightness and factor per channel to an image in 0-1; clips to it."""
    gamma, brightness = rng.uniform(*how.gamma), rng.uniform(*how.brightness)
    factors = brightness * rng.uniform(*how.colour, 3)
    out = np.clip(image, 0, 1) ** np.float32(gamma) * factors.astype(np.float32)
    return np.clip(out, 0, 1, out=out)
