"""Pinhole intrinsics of a picture: given, from a field of view, or from EXIF.

Pixel centres lie at whole numbers: the middle of a picture is ((w - 1) / 2, (h - 1) / 2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from depth_anything_jax.data.file_formats import photos

DEFAULT_FOV = 60.0  # degrees of the longer side: a guess between a phone (69) and a portrait lens


class Intrinsics(NamedTuple):
    """Focal lengths and principal point, in pixels of the picture.

    Attributes:
      fx, fy, cx, cy: pixels.
      source: where they are from: "given", "field of view", "EXIF: 26 mm on 35 mm" or "guess".
    """

    fx: float
    fy: float
    cx: float
    cy: float
    source: str = "given"

    def __str__(self) -> str:
        values = f"fx={self.fx:.6g} fy={self.fy:.6g} cx={self.cx:.6g} cy={self.cy:.6g}"
        return f"{values} ({self.source})"


def given(values: Any) -> Intrinsics:
    """Converts (fx, fy, cx, cy), a 3 x 3 matrix or Intrinsics to Intrinsics.

    Raises:
      ValueError: anything else, a skewed matrix, or a focal length that is not positive.
    """
    if isinstance(values, Intrinsics):
        return values
    array = np.asarray(values, np.float64)
    if array.shape == (3, 3):
        if array[0, 1] or array[1, 0] or (array[2] != (0, 0, 1)).any():
            raise ValueError(
                f"intrinsics {array.tolist()}: a matrix is [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]; "
                "undistort the picture, or scale the matrix, first"
            )
        array = array[[0, 1, 0, 1], [0, 1, 2, 2]]
    if array.shape != (4,) or not np.isfinite(array).all() or (array[:2] <= 0).any():
        raise ValueError(
            f"intrinsics {values!r}: give fx, fy, cx, cy in pixels of the picture, focal lengths "
            "above 0, or a 3 x 3 matrix"
        )
    fx, fy, cx, cy = map(float, array)
    return Intrinsics(fx, fy, cx, cy)


def of_fov(fov: float, shape: Sequence[int], source: str = "field of view") -> Intrinsics:
    """Computes intrinsics from the field of view of the longer side, so that a camera keeps its
    focal length when a picture is turned upright.

    Args:
      fov: degrees, between 0 and 180.
      shape: (h, w).

    Raises:
      ValueError: another angle.
    """
    if not 0 < fov < 180:
        raise ValueError(f"fov={fov}: degrees of the longer side, between 0 and 180")
    focal = max(shape[:2]) / 2 / math.tan(math.radians(fov) / 2)
    return _centred(focal, shape, source)


def _centred(focal: float, shape: Sequence[int], source: str) -> Intrinsics:
    return Intrinsics(focal, focal, (shape[1] - 1) / 2, (shape[0] - 1) / 2, source)


def of_facts(facts: photos.Facts, shape: Sequence[int]) -> Intrinsics | None:
    """Computes intrinsics from a picture's EXIF; None where it has no focal length."""
    found = facts.focal_pixels(*shape[:2])
    return None if found is None else _centred(found[0], shape, found[1])
