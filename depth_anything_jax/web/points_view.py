"""Chooses which points of a map the page shows in 3-D, and from where they are first seen."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Bool, Float

from depth_anything_jax.inference.depth import Depth
from depth_anything_jax.inference.point_cloud import PointCloud

# Of the inverse distance that is exceeded by 2 % of the pixels: what is 50 times as far as the
# nearest things counts as sky. Our choice.
SKY = 0.02
FAR = 98  # percentile of the distances without sky beyond which points are left out: issue 18
END = 0.85  # of a metric model's range, near whose end it puts the sky. Our choice
# Of the page's canvas, by its style sheet, and of Babylon's camera: radians from top to bottom.
ASPECT, FOV = 4 / 3, 0.8
FITS = 99  # percentile of the points that are in sight at first. Our choice


def without_sky(depth: Depth) -> Depth:
    """Puts what is taken for sky at infinity, where no point is made of it."""
    values = depth.depth
    usable = np.isfinite(values) & (values > 0)
    if not usable.any():
        return depth
    with np.errstate(divide="ignore"):
        inverse = values if depth.unit is None else np.where(usable, 1 / values, 0)
    sky = usable & (inverse < SKY * np.percentile(inverse[usable], 98))
    most = depth.meta.get("max_depth")
    if depth.unit and most is not None and "alignment" not in depth.meta:
        sky |= values > END * most
    if (sky | ~usable).all():
        return depth
    values = np.where(sky, np.float32(0 if depth.unit is None else np.inf), values)
    return dataclasses.replace(depth, depth=values)


def clip(depth: Depth) -> float:
    """The distance beyond which points are left out, in metres or in median distances."""
    values = without_sky(depth).depth
    seen = values[np.isfinite(values) & (values > 0)]
    if not seen.size:
        return math.inf
    if depth.unit:
        return float(np.percentile(seen, FAR))
    return float(np.median(seen) / np.percentile(seen, 100 - FAR))


def lattice(shape: tuple[int, int], most: int) -> tuple[Bool[np.ndarray, "h w"], int]:
    """Chooses at most so many pixels on a square grid; also returns its step."""
    step = max(1, math.ceil(math.sqrt(shape[0] * shape[1] / most)))
    chosen = np.zeros(shape, bool)
    chosen[::step, ::step] = True
    return chosen, step


def camera(cloud: PointCloud) -> tuple[float, float, float]:
    """Where Gradio's viewer must look from to see points as the photo's camera did.

    The viewer looks at the middle of the points' box. Its camera is put on the line from there
    through the photo's camera, behind which it moves until the points fit into the canvas.

    Returns:
      Its (alpha, beta, radius): degrees around the vertical axis, degrees from it, distance.
    """
    points: Float[np.ndarray, "n 3"] = cloud.points.astype(np.float64) * (1, -1, -1)  # as in glTF
    centre = (points.min(0) + points.max(0)) / 2
    distance = float(np.linalg.norm(centre))
    forward = centre / distance
    right = np.cross(forward, (0, 1, 0))
    right /= np.linalg.norm(right)
    up = np.cross(right, forward)
    tall = math.tan(FOV / 2)
    sideways = np.maximum(np.abs(points @ right) / (ASPECT * tall), np.abs(points @ up) / tall)
    back = max(0.0, float(np.percentile(sideways - points @ forward, FITS)))
    x, y, z = -forward
    alpha, beta = math.degrees(math.atan2(z, x)), math.degrees(math.acos(y))
    return alpha, beta, distance + back
