"""Carries the points of a sparse label one by one into a resized map.

Nearest neighbour keeps one pixel of many where a map shrinks: of 40 lidar points on 1920 x 1080
pixels 9 are left at a short side of 518. For dense labels that is right, and official; points are
carried over instead, each to the pixel it falls into, and the nearest to the camera wins a pixel.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from depth_anything_jax.data.sources.base import kind_of

METHODS = ("auto", "nearest", "points")
SHARE = 0.5  # of valid pixels: with more a label is dense
GAIN = 1.5  # times as many pixels as nearest neighbour keeps: with fewer it is dense, too


def carried(
    record: Mapping[str, Any],
    size: tuple[int, int],
    rows: slice,
    columns: slice,
    *,
    corners: bool,
    method: str = "auto",
) -> dict[str, np.ndarray]:
    """Resizes a record's label point by point and gives a window of it.

    Args:
      record: "depth" or "disparity", and "valid"; or no label.
      size: height and width of the whole resized map.
      rows, columns: the window, with start and stop.
      corners: whether the first and last pixels' centres stay at the corners
        (`transforms.resize_corners`), or the map's borders stay (`transforms.resize_image`).
      method: "nearest" never carries points, "points" always does; "auto" does where the map
        shrinks, less than SHARE of it is valid, and at least GAIN times as many pixels are filled.

    Returns:
      The label and "valid" of the window; {} where nearest neighbour is to be used.
    """
    kind = kind_of(record)
    if kind is None or method == "nearest":
        return {}
    valid = record["valid"]
    shrinks = valid.shape[0] > size[0] or valid.shape[1] > size[1]
    if method == "auto" and not (shrinks and np.count_nonzero(valid) < SHARE * valid.size):
        return {}
    points = np.nonzero(valid)
    to = [
        _target(at, old, new, corners)
        for at, old, new in zip(points, valid.shape, size, strict=True)
    ]
    if method == "auto":
        filled = np.zeros(size, np.bool_)
        filled[to[0], to[1]] = True
        if np.count_nonzero(filled) < GAIN * _kept(points, valid.shape, size):
            return {}
    inside = (to[0] >= rows.start) & (to[0] < rows.stop)
    inside &= (to[1] >= columns.start) & (to[1] < columns.stop)
    at = to[0][inside] - rows.start, to[1][inside] - columns.start
    values = record[kind][valid != 0][inside]
    shape = rows.stop - rows.start, columns.stop - columns.start
    found = np.zeros(shape, np.bool_)
    found[at] = True
    worst, nearer = (np.inf, np.minimum) if kind == "depth" else (-np.inf, np.maximum)
    out = np.full(shape, worst, values.dtype)
    nearer.at(out, at, values)
    return {kind: np.where(found, out, values.dtype.type(0)), "valid": found}


def _target(at: np.ndarray, old: int, new: int, corners: bool) -> np.ndarray:
    """The pixels of a resized axis that those of the old one fall into."""
    if corners:
        return np.rint(at * ((new - 1) / (old - 1) if old > 1 else 0.0)).astype(np.intp)
    return np.minimum(((at + 0.5) * (new / old)).astype(np.intp), new - 1)


def _kept(points: Any, shape: tuple[int, ...], size: tuple[int, int]) -> int:
    """How many pixels of the resized map have a point by nearest neighbour."""
    copies = [
        np.bincount((np.arange(new) * (old / new)).astype(np.intp), minlength=old)
        for old, new in zip(shape, size, strict=True)
    ]
    return int((copies[0][points[0]] * copies[1][points[1]]).sum())
