"""A pinhole camera beside an image, fx, fy, cx, cy in pixels, carried through its geometry.

The centre of the first pixel is (0, 0), as in OpenCV: the principal point of a camera that looks
through the middle of a picture of w pixels is (w - 1) / 2. Focal lengths do not depend on that
convention, and nothing else here is used by a network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float


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
    """Of an image of this size; square pixels and the image's middle where nothing else is said."""
    fy = fx if fy is None else fy
    cx = (width - 1) / 2 if cx is None else cx
    cy = (height - 1) / 2 if cy is None else cy
    return Camera(fx, fy, cx, cy)


def from_matrix(K: Float[np.ndarray, "3 3"]) -> Camera:
    """Of a 3×3 matrix of intrinsics."""
    return Camera(float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2]))


def of(record: Mapping[str, Any]) -> Camera | None:
    """A record's camera, in pixels of its image: "camera", or from "K"; None where it has none."""
    if "camera" in record:
        return Camera(*map(float, record["camera"]))
    return from_matrix(np.asarray(record["K"])) if "K" in record else None


def needed(record: Mapping[str, Any]) -> Camera:
    """As `of`.

    Raises:
      ValueError: the record has none.
    """
    found = of(record)
    if found is None:
        raise ValueError(missing(record["key"]))
    return found


def missing(key: str) -> str:
    """What is said where a record needs a camera and has none."""
    return (
        f"{key} has no camera, and a model with a canonical focal length needs it of every image: "
        "give fx (pixels of the image), or focal_mm and sensor_width_mm, in the manifest or for a "
        "whole source (rgbd:PATH?fx=518.9); see docs/metric.md"
    )


def resized(c: Camera, old: tuple[int, int], new: tuple[int, int]) -> Camera:
    """After resizing the image from (height, width) to another."""
    y, x = new[0] / old[0], new[1] / old[1]
    return Camera(c.fx * x, c.fy * y, (c.cx + 0.5) * x - 0.5, (c.cy + 0.5) * y - 0.5)


def cropped(c: Camera, top: int, left: int) -> Camera:
    """After cutting away this many rows above and columns on the left."""
    return c._replace(cx=c.cx - left, cy=c.cy - top)


def flipped(c: Camera, width: int) -> Camera:
    """Of the mirror image of a picture of this width."""
    return c._replace(cx=width - 1 - c.cx)


def rotated(c: Camera, degrees: float, height: int, width: int) -> Camera:
    """After turning the image counter-clockwise about its middle, by little: fx and fy stay."""
    turn = math.radians(degrees)
    x, y = c.cx - (width - 1) / 2, c.cy - (height - 1) / 2
    x, y = math.cos(turn) * x + math.sin(turn) * y, math.cos(turn) * y - math.sin(turn) * x
    return c._replace(cx=x + (width - 1) / 2, cy=y + (height - 1) / 2)
