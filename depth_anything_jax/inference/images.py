"""Reads pictures from paths, bytes, PIL images and arrays as RGB pixels (h, w, 3).

Channels are RGB everywhere. Arrays of OpenCV are BGR, which cannot be detected: reverse them first
(`image[..., ::-1]`).
"""

from __future__ import annotations

import os
import pathlib
import re
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Shaped, UInt8

from depth_anything_jax.data.file_formats import photos
from depth_anything_jax.inference import camera_intrinsics

# 8 bits stay 8 bits; everything finer becomes float32 in 0-1.
RGB = UInt8[np.ndarray, "h w 3"] | Float[np.ndarray, "h w 3"]


class Picture(NamedTuple):
    """A decoded picture.

    Attributes:
      pixels: RGB (h, w, 3), uint8, or float32 in 0-1 where it was finer than that.
      intrinsics: from its EXIF, or None.
      notes: sentences for the user on how it was read.
    """

    pixels: RGB
    intrinsics: camera_intrinsics.Intrinsics | None = None
    notes: tuple[str, ...] = ()


def read(image: Any) -> Picture:
    """Reads a picture.

    Args:
      image: a path; the bytes of an image file; a PIL image; or an array (h, w), (h, w, 1), (h, w,
        2), (h, w, 3) or (h, w, 4) that numpy can read, RGB, alpha last: uint8; uint16 over its
        whole range; any other integers, in 0-255; bool; floats in 0-1. Files and PIL images are
        turned upright by their EXIF. Alpha is dropped, as the official code drops it; grey is
        repeated.

    Raises:
      TypeError: not a picture.
      ValueError: an array of another shape or range, and (`formats.FormatError`) a file that cannot
        be decoded.
      OSError: a file that cannot be read.
    """
    if isinstance(image, str) and re.match(r"[a-z][a-z0-9+.-]+://", image):
        raise ValueError(f"{image}: addresses are not fetched; download it and give the path")
    if isinstance(image, str | os.PathLike):
        path = pathlib.Path(image).expanduser()
        if path.is_dir():
            raise ValueError(f"{path} is a folder; give its files: model(sorted(folder.iterdir()))")
        return _of_file(path)
    if isinstance(image, bytes | bytearray | memoryview):
        data = bytes(image)
        if not data:
            raise ValueError("no bytes: an empty file is no picture")
        return _of_file(data)
    from PIL import Image

    if isinstance(image, Image.Image):
        pixels = _of_pil(image)
        return Picture(
            pixels, camera_intrinsics.of_facts(photos.lens(image, pixels.shape[:2]), pixels.shape)
        )
    return Picture(_of_array(image))


def _of_file(source: os.PathLike[str] | bytes) -> Picture:
    photo = photos.read(source)
    seen = camera_intrinsics.of_facts(photo.facts, photo.image.shape)
    return Picture(photo.image, seen, tuple(photo.facts.notes))


def _of_pil(image: Any) -> RGB:
    from PIL import ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode in ("1", "L", "LA", "RGB", "RGBA", "I", "F") or image.mode.startswith("I;16"):
        pixels = np.asarray(image)
        if image.mode == "I" and pixels.size and pixels.min() >= 0 and pixels.max() < 1 << 16:
            pixels = pixels.astype(np.uint16)  # what Pillow makes of 16-bit grey files
        return _of_array(pixels)
    return np.asarray(image.convert("RGB"))


def _of_array(image: Any) -> RGB:
    pixels = np.asarray(image)
    if pixels.dtype.name in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):  # jax arrays
        pixels = pixels.astype(np.float32)
    if pixels.dtype.kind not in "buif":
        raise TypeError(
            f"{type(image).__name__} is no picture: give a path, the bytes of a file, a PIL image, "
            "an array (h, w, 3) of numbers, or a list of those"
        )
    return _three_channels(_scaled(_shaped(pixels)))


def _shaped(pixels: np.ndarray) -> Shaped[np.ndarray, "h w c"]:
    shape = pixels.shape
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim == 4:
        raise ValueError(f"an array {shape} is a batch; give a list of pictures: model(list(x))")
    if pixels.ndim != 3 or not 1 <= pixels.shape[2] <= 4:
        first = pixels.ndim == 3 and 1 <= pixels.shape[0] <= 4
        raise ValueError(
            f"an array {shape} is no picture (h, w, 3)"
            + ("; channels come last: x.transpose(1, 2, 0)" if first else "")
        )
    if not pixels.size:
        raise ValueError(f"an array {shape} has no pixels")
    return pixels


def _scaled(pixels: np.ndarray) -> np.ndarray:
    """Converts to uint8, or float32 in 0-1."""
    kind = pixels.dtype.kind
    if pixels.dtype == np.uint8:
        return pixels
    if kind == "b":
        return pixels.astype(np.uint8) * np.uint8(255)
    if kind == "u" and pixels.dtype.itemsize == 2:  # of either byte order
        return pixels.astype(np.float32) / np.float32(65535)
    low, high = pixels.min(), pixels.max()  # of a NaN: NaN, which fails below
    if kind in "iu":
        if low < 0 or high > 255:
            raise ValueError(
                f"a picture of {pixels.dtype} from {low} to {high}: integers are 0-255, or uint16 "
                "over its whole range; convert it (x.astype(np.uint16))"
            )
        return pixels.astype(np.uint8)
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"a picture of {pixels.dtype} from {low:g} to {high:g}: floats are in 0-1; divide by "
            "its white (x / 255), clip what overshoots, or give uint8"
        )
    return pixels.astype(np.float32)


def _three_channels(pixels: Shaped[np.ndarray, "h w c"]) -> RGB:
    """Drops alpha and repeats grey."""
    if pixels.shape[2] <= 2:
        return np.repeat(pixels[..., :1], 3, axis=2)
    return np.ascontiguousarray(pixels[..., :3])
