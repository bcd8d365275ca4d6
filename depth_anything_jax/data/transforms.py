"""Resizes, crops, flips and normalises images for a network, and their labels alike.

The choices are those of the official pre-processing of Depth Anything V1 and V2:
  - the short side becomes `size` ("lower_bound"), both sides a multiple of the encoder's patch
    size, rounded half to even as `np.round` does;
  - images are resized by OpenCV's bicubic kernel (A = -0.75, no antialiasing) in floating point and
    *not* clipped: values overshoot [0, 1] at sharp edges. We use float32 where the official code
    uses float64 (3e-5 away, six times faster); resizing uint8 would be .17 away;
  - labels and masks are resized to the image's network size by nearest neighbour; the points of
    sparse labels are carried over one by one (`label_points`), which is our choice;
  - the encoder's mean and standard deviation (`utils.encoders`).

The metric-bins models have another input; `InputTransform` says which a network's is.

Training adds one random square crop and one flip per example, applied to image, label and camera
alike; a network whose inputs all have one height and width is trained on whole images of that.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Shaped, UInt8

from depth_anything_jax.data import camera, label_points, window_resize
from depth_anything_jax.data.sources.base import maps_of
from depth_anything_jax.utils import interpolation
from depth_anything_jax.utils.encoders import DINOV2, EncoderSpec

SIZE = 518  # Depth Anything V1 §4.1: 37 patches
RESIZES = ("bicubic", "bilinear-corners")
METHODS = ("lower_bound", "upper_bound", "minimal")

Record = Mapping[str, Any]


class Geometry(NamedTuple):
    """A drawn training geometry: network size, crop corner (pixels) and flip."""

    height: int
    width: int
    top: int
    left: int
    flip: bool


def network_size(
    height: int,
    width: int,
    size: int = SIZE,
    *,
    patch_size: int,
    method: str = "lower_bound",
    keep_aspect: bool = True,
) -> tuple[int, int]:
    """Height and width at which the network sees an image of `height` × `width` pixels.

    `lower_bound`: no side ends below `size`; `upper_bound`: none above; `minimal`: as little
    scaling as possible. Without `keep_aspect` both sides go to `size`. (MiDaS' resize rule, which
    Depth Anything uses with size 518 and lower_bound.) Both become multiples of `patch_size`.

    Raises:
      ValueError: a side is not positive, or `method` is unknown.
    """
    if height <= 0 or width <= 0:
        raise ValueError(f"an image of {height}x{width} pixels has no network size")
    if size < patch_size:
        raise ValueError(f"size={size} is below one patch of {patch_size} pixels")
    if method not in METHODS:
        raise ValueError(f"unknown resize method {method!r}: one of {', '.join(METHODS)}")
    scale_h, scale_w = size / height, size / width
    if keep_aspect:
        if method == "lower_bound":
            scale_h = scale_w = max(scale_h, scale_w)
        elif method == "upper_bound":
            scale_h = scale_w = min(scale_h, scale_w)
        else:
            scale_h = scale_w = scale_w if abs(1 - scale_w) < abs(1 - scale_h) else scale_h

    def side(length: float) -> int:
        new = int(np.round(length / patch_size)) * patch_size  # half to even
        if method == "lower_bound" and new < size:
            new = math.ceil(length / patch_size) * patch_size
        if method == "upper_bound" and new > size:
            new = math.floor(length / patch_size) * patch_size
        return max(new, patch_size)

    return side(scale_h * height), side(scale_w * width)


def resize_image(
    image: UInt8[np.ndarray, "h w 3"] | Float[np.ndarray, "h w 3"], height: int, width: int
) -> np.ndarray:
    """Bicubic resize of uint8, or of floats in 0-1, to (height, width, 3) float32 in about [0, 1];
    overshoot is kept."""
    scale = np.float32(1 / 255 if image.dtype == np.uint8 else 1)
    image = image.astype(np.float32)
    if image.shape[:2] != (height, width):
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
    image *= scale
    return image


def resize_nearest(label: Shaped[np.ndarray, "h w"], height: int, width: int) -> np.ndarray:
    """Nearest-neighbour resize of a label or mask to (height, width), same dtype."""
    if label.shape == (height, width):
        return label
    raw = label.view(np.uint8) if label.dtype == np.bool_ else label
    out = cv2.resize(np.ascontiguousarray(raw), (width, height), interpolation=cv2.INTER_NEAREST)
    return out.view(np.bool_) if label.dtype == np.bool_ else out


def network_input(
    image: UInt8[np.ndarray, "h w 3"], size: int = SIZE
) -> Float[np.ndarray, "H W 3"]:
    """The input of Depth Anything V1 and V2 for a whole RGB image: resized, normalised, float32.

    Before normalisation it equals the official float64 pre-processing to 1e-4: the only difference
    is that OpenCV's float32 path rounds source positions to float32.
    """
    return OFFICIAL_INPUT(image, size)


def resize_corners(
    image: UInt8[np.ndarray, "h w 3"] | Float[np.ndarray, "h w 3"], height: int, width: int
) -> np.ndarray:
    """Bilinear resize with align_corners=True, as PyTorch's, of uint8, or of floats in 0-1, to
    (height, width, 3) float32 in 0-1.

    Nothing is smoothed on the way down, as there.
    """
    x = image.astype(np.float32) * np.float32(1 / 255 if image.dtype == np.uint8 else 1)
    for axis, size in enumerate((height, width)):
        index, weight = interpolation.sample_weights(x.shape[axis], size, "bilinear-corners")
        weight = weight.astype(np.float32).reshape(-1, 2, *(1,) * (2 - axis))
        low, high = (np.take(x, index[:, side], axis) for side in (0, 1))
        x = low * weight[:, 0] + high * weight[:, 1]
    return x


def nearest_corners(label: Shaped[np.ndarray, "h w"], height: int, width: int) -> np.ndarray:
    """Nearest-neighbour resize of a label or mask that matches `resize_corners`."""
    if label.shape == (height, width):
        return label
    rows, columns = (
        np.rint(np.linspace(0, old - 1, new)).astype(np.intp)
        for old, new in zip(label.shape, (height, width), strict=True)
    )
    return label[np.ix_(rows, columns)]


@dataclasses.dataclass(frozen=True)
class InputTransform:
    """Turns a whole image into a network's input; a checkpoint's metadata keeps it as "input".

    Attributes:
      size: short side, or the (height, width) of every input.
      keep_aspect: whether `size` is one side; written out for readers of the metadata.
      resize: "bicubic", or "bilinear-corners": align_corners=True.
      encoder: of the network: patch size and normalisation. Not in the metadata, whose "variant"
        says it.

    Raises:
      ValueError: sides that are no multiples of the patch size, an unknown resize, or a
        `keep_aspect` that contradicts the size.
    """

    size: int | tuple[int, int]
    keep_aspect: bool
    resize: str
    encoder: EncoderSpec

    def __post_init__(self) -> None:
        sides = self.size if isinstance(self.size, tuple) else (self.size,)
        if not self.encoder.fits(*sides):
            raise ValueError(
                f"input size {self.size}: one side, or height and width, in multiples of "
                f"{self.encoder.patch_size}"
            )
        if self.keep_aspect != isinstance(self.size, int):
            raise ValueError(
                f"input size {self.size} with keep_aspect={self.keep_aspect}: a short side keeps "
                "the aspect ratio, height and width lose it"
            )
        if self.resize not in RESIZES:
            raise ValueError(f"input resize {self.resize!r}: one of {', '.join(RESIZES)}")

    @property
    def is_official(self) -> bool:
        """Whether it is V1's and V2's but for the size: then crops and other shapes may be fed."""
        return self.keep_aspect and self.resize == "bicubic"

    @property
    def short_side(self) -> int:
        """The smaller side of an input."""
        return self.size if isinstance(self.size, int) else min(self.size)

    def __call__(
        self,
        image: UInt8[np.ndarray, "h w 3"] | Float[np.ndarray, "h w 3"],
        size: int | None = None,
    ) -> Float[np.ndarray, "H W 3"]:
        """The network's input for a whole RGB image: resized and normalised, float32.

        Args:
          image: as stored, or floats in 0-1.
          size: another short side.

        Raises:
          ValueError: a size, for a network whose inputs all have the same height and width.
        """
        if isinstance(self.size, int):
            height, width = image.shape[:2]
            patch_size = self.encoder.patch_size
            height, width = network_size(height, width, size or self.size, patch_size=patch_size)
        else:
            self.refuse_size(size)
            height, width = self.size
        return self.at(image, height, width)

    def at(
        self,
        image: UInt8[np.ndarray, "h w 3"] | Float[np.ndarray, "h w 3"],
        height: int,
        width: int,
    ) -> Float[np.ndarray, "H W 3"]:
        """The same at a given height and width, whatever `size` says."""
        resize = resize_image if self.resize == "bicubic" else resize_corners
        return self.encoder.normalise(resize(image, height, width))

    def refuse_size(self, size: int | None) -> None:
        """Raises where inputs all have the same height and width, and a short side is given."""
        if size is not None and not isinstance(self.size, int):
            height, width = self.size
            raise ValueError(
                f"size={size}: every input of this network is {height}x{width} pixels; leave the "
                "size out"
            )

    def as_json(self) -> dict[str, Any]:
        """For the metadata."""
        size = self.size if isinstance(self.size, int) else list(self.size)
        return {"size": size, "keep_aspect": self.keep_aspect, "resize": self.resize}

    @classmethod
    def from_json(cls, value: Any, encoder: EncoderSpec) -> InputTransform:
        """Reads the metadata of a network with this encoder.

        Raises:
          ValueError: `value` is no input description.
        """
        fields = {"size", "keep_aspect", "resize"}
        if not isinstance(value, Mapping) or set(value) != fields:
            raise ValueError(f"input {value!r}: needs exactly {', '.join(sorted(fields))}")
        size = value["size"]
        sides = size if isinstance(size, list) else [size]
        if len(sides) > 2 or not all(isinstance(s, int) for s in sides):
            raise ValueError(f"input size {size!r}: give one side, or [height, width]")
        size = tuple(size) if isinstance(size, list) else size
        return cls(**{**value, "size": size}, encoder=encoder)


def sides(size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width of a training example: of a square crop, or as they are."""
    return size if isinstance(size, tuple) else (size, size)


def training_input(size: int | tuple[int, int], encoder: EncoderSpec) -> InputTransform:
    """The input of a network that was trained at a size: of crops, or of whole images."""
    if isinstance(size, int):
        return InputTransform(size, True, "bicubic", encoder)
    return InputTransform((size[0], size[1]), False, "bilinear-corners", encoder)


def official_input(encoder: EncoderSpec) -> InputTransform:
    """Depth Anything's input for an encoder: crops of SIZE, or of the nearest multiple."""
    return training_input(encoder.nearest(SIZE), encoder)


OFFICIAL_INPUT = official_input(DINOV2)  # V1, V2, V2's metric models
# V1's metric models: `img_size` of ZoeDepth's configuration in V1, and how its core resizes.
BINS_INPUT = training_input((392, 518), DINOV2)


def draw_geometry(
    rng: np.random.Generator,
    height: int,
    width: int,
    size: int | tuple[int, int],
    *,
    patch_size: int,
    flip: float = 0.5,
) -> Geometry:
    """Draws crop corner and flip for an image of `height` × `width` pixels.

    Args:
      rng: consumed in a fixed order (top, left, flip) whatever the image's size.
      height, width: of the image as stored.
      size: side of the square crop, a multiple of the patch size; or height and width of whole
        images.
      patch_size: of the encoder, in pixels.
      flip: probability of a horizontal flip.
    """
    crop_h, crop_w = sides(size)
    whole = isinstance(size, tuple)
    new_h, new_w = crop_h, crop_w
    if not whole:
        new_h, new_w = network_size(height, width, crop_h, patch_size=patch_size)
    u_top, u_left, u_flip = rng.random(3)
    return Geometry(
        height=new_h,
        width=new_w,
        top=int(u_top * (new_h - crop_h + 1)),
        left=int(u_left * (new_w - crop_w + 1)),
        flip=bool(u_flip < flip),
    )


def centre_geometry(height: int, width: int, size: int, *, patch_size: int) -> Geometry:
    """The geometry of a centre crop without flip."""
    new_h, new_w = network_size(height, width, size, patch_size=patch_size)
    return Geometry(new_h, new_w, (new_h - size) // 2, (new_w - size) // 2, False)


def apply_geometry(
    record: Record, geometry: Geometry, size: int | tuple[int, int], label_resize: str = "auto"
) -> dict[str, Any]:
    """Resizes, crops and flips a record's image and, where present, its label.

    Args:
      record: "image" (h, w, 3) uint8 and perhaps "depth" or "disparity" float32, "valid" bool,
        "sky" bool (each (h', w'), at the image's or any other resolution of the same view) and
        "shift_known"; perhaps "camera" (4,), in pixels of the image as stored.
      geometry: as drawn.
      size: side of the crop; or height and width of whole images, which are then resized as the
        bins head's input is.
      label_resize: "nearest", "points", or "auto", which chooses (`label_points.carried`).

    Returns:
      "image" (size, size, 3) float32 in about [0, 1]; of the label's fields those that the record
      has, (size, size), and "shift_known" bool; "camera" float32 in pixels of the new image where
      there was one; arrays are contiguous.
    """
    whole = isinstance(size, tuple)
    height, width = sides(size)
    rows = slice(geometry.top, geometry.top + height)
    columns = slice(geometry.left, geometry.left + width)
    resize, nearest = (resize_corners, nearest_corners) if whole else (resize_image, resize_nearest)
    resized = geometry.height, geometry.width
    points = label_points.carried(
        record, resized, rows, columns, corners=whole, method=label_resize
    )
    maps = {field: x for field, x in maps_of(record).items() if field not in points}
    if math.prod(resized) > window_resize.RATIO * height * width:
        resize = functools.partial(window_resize.bicubic, rows=rows, columns=columns)
        nearest = functools.partial(window_resize.nearest, rows=rows, columns=columns)
        rows = columns = slice(None)

    def flipped(x: np.ndarray) -> np.ndarray:
        if not geometry.flip:
            return np.ascontiguousarray(x)
        raw = x.view(np.uint8) if x.dtype == np.bool_ else x
        return cv2.flip(raw, 1).view(x.dtype)  # of an image in a tenth of numpy's time

    def window(x: np.ndarray) -> np.ndarray:
        return flipped(x[rows, columns])

    out: dict[str, Any] = {
        "image": window(resize(record["image"], geometry.height, geometry.width))
    }
    for field, values in maps.items():
        out[field] = window(nearest(values, geometry.height, geometry.width))
    out |= {field: flipped(values) for field, values in points.items()}
    if "shift_known" in record:
        out["shift_known"] = np.bool_(record["shift_known"])
    if "camera" in record:
        c = camera.resized(camera.needed(record), record["image"].shape[:2], resized)
        c = camera.cropped(c, geometry.top, geometry.left)
        out["camera"] = np.array(camera.flipped(c, width) if geometry.flip else c, np.float32)
    return out
