"""Pinhole intrinsics fx, fy, cx, cy in pixels, and how resizing, cropping and turning change them.

The centre of the first pixel is (0, 0), as in OpenCV, so the principal point in the middle of a
picture of w pixels is (w - 1) / 2. Networks use the focal lengths alone, which do not depend on
that convention.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from depth_anything_jax.data.file_formats.orientation import UPRIGHT


class Camera(NamedTuple):
    """Focal lengths and principal point, in pixels of an image."""

    fx: float
    fy: float
    cx: float
    cy: float

    @property
    def focal(self) -> float:
        """(fx + fy) / 2: the one focal length that a canonical model knows."""
        return (self.fx + self.fy) / 2


def camera(
    fx: float, fy: float | None, cx: float | None, cy: float | None, height: int, width: int
) -> Camera:
    """Returns the camera of an image of this size: fy defaults to fx, the centre to the middle."""
    fy = fx if fy is None else fy
    cx = (width - 1) / 2 if cx is None else cx
    cy = (height - 1) / 2 if cy is None else cy
    return Camera(fx, fy, cx, cy)


def from_matrix(K: Float[np.ndarray, "3 3"]) -> Camera:
    """Returns the camera of a 3×3 matrix of intrinsics."""
    return Camera(float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2]))


def of(record: Mapping[str, Any]) -> Camera | None:
    """Returns a record's camera ("camera" or "K"), in pixels of its image; None without one."""
    if "camera" in record:
        return Camera(*map(float, record["camera"]))
    return from_matrix(np.asarray(record["K"])) if "K" in record else None


def needed(record: Mapping[str, Any]) -> Camera:
    """Returns the camera as `of` does.

    Raises:
      ValueError: the record has none.
    """
    found = of(record)
    if found is None:
        raise ValueError(missing(record["key"]))
    return found


def missing(key: str) -> str:
    """Returns the error message for a record that needs a camera and has none."""
    return (
        f"{key} has no camera, and a model with a canonical focal length needs it of every image: "
        "give fx (pixels of the image), or focal_mm and sensor_width_mm, in the manifest or for a "
        "whole source (rgbd:PATH?fx=518.9); see docs/metric.md"
    )


def resized(c: Camera, old: tuple[int, int], new: tuple[int, int]) -> Camera:
    """Returns the camera after the image is resized from (height, width) `old` to `new`."""
    y, x = new[0] / old[0], new[1] / old[1]
    return Camera(c.fx * x, c.fy * y, (c.cx + 0.5) * x - 0.5, (c.cy + 0.5) * y - 0.5)


def cropped(c: Camera, top: int, left: int) -> Camera:
    """Returns the camera after `top` rows and `left` columns are cut off."""
    return c._replace(cx=c.cx - left, cy=c.cy - top)


def flipped(c: Camera, width: int) -> Camera:
    """Returns the camera after an image of this width is mirrored left to right."""
    return c._replace(cx=width - 1 - c.cx)


def upright(c: Camera, orientation: int, height: int, width: int) -> Camera:
    """Returns the camera after stored pixels of this size are turned upright by their EXIF."""
    turns, mirrored = UPRIGHT[orientation]
    fx, fy, cx, cy = c
    for _ in range(turns % 4):  # each a quarter turn to the left
        fx, fy, cx, cy = fy, fx, cy, width - 1 - cx
        height, width = width, height
    return Camera(fx, fy, width - 1 - cx if mirrored else cx, cy)


def rotated(c: Camera, degrees: float, height: int, width: int) -> Camera:
    """Returns the camera after a small counter-clockwise turn about the middle; fx and fy stay."""
    turn = math.radians(degrees)
    x, y = c.cx - (width - 1) / 2, c.cy - (height - 1) / 2
    x, y = math.cos(turn) * x + math.sin(turn) * y, math.cos(turn) * y - math.sin(turn) * x
    return c._replace(cx=x + (width - 1) / 2, cy=y + (height - 1) / 2)
