"""Hypersim's cameras: planar depth from the length of rays, pinholes, and its tone mapping."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8

from depth_anything_jax.data.camera import Camera

# A camera whose rays are within this of a pinhole's, as a share of the focal length, is one: half a
# pixel. The others are tilted or skewed.
PINHOLE = 5e-4

Matrix = Float[np.ndarray, "3 3"]


def rays(M: Matrix, height: int, width: int) -> Float[np.ndarray, "h w 3"]:
    """Computes the ray of each pixel: M · (u, v, 1), with u to the right and v up, both -1 to 1."""
    u = (2 * np.arange(width) + 1) / width - 1
    v = 1 - (2 * np.arange(height) + 1) / height
    uv = np.stack([*np.meshgrid(u, v), np.ones((height, width))], axis=-1)
    return uv @ M.T


def planar(distance: Float[np.ndarray, "h w"], M: Matrix) -> Float[np.ndarray, "h w"]:
    """Turns distances from the optical centre into depth along the optical axis."""
    ray = rays(M, *distance.shape)
    cosine = np.abs(ray[..., 2]) / np.linalg.norm(ray, axis=-1)
    return (distance.astype(np.float64) * cosine).astype(np.float32)


def pinhole(M: Matrix, height: int, width: int) -> Camera | None:
    """Returns the camera of an image of this size; None where a tilt or skew makes it no pinhole.

    The camera looks along -z, with y up; the first pixel's centre is (0, 0).
    """
    M = M / -M[2, 2]
    if max(abs(M[0, 1] / M[0, 0]), abs(M[1, 0] / M[1, 1]), *abs(M[2, :2])) > PINHOLE:
        return None
    return Camera(
        fx=float(width / 2 / M[0, 0]),
        fy=float(height / 2 / M[1, 1]),
        cx=float((1 - M[0, 2] / M[0, 0]) * width / 2 - 0.5),
        cy=float((1 + M[1, 2] / M[1, 1]) * height / 2 - 0.5),
    )


def tone_mapped(
    colour: Float[np.ndarray, "h w 3"], geometry: np.ndarray
) -> UInt8[np.ndarray, "h w 3"]:
    """Makes a picture of radiances: the 90th percentile of the luma becomes 0.8 after gamma 1/2.2.

    Args:
      colour: of frame.IIII.color.hdf5.
      geometry: bool (h, w), where there is some (render_entity_id is not -1): these pixels count.
    """
    colour = np.nan_to_num(colour.astype(np.float32), nan=0, posinf=0, neginf=0)
    luma = colour[geometry] @ np.array([0.3, 0.59, 0.11], np.float32)
    high = np.percentile(luma, 90) if luma.size else 0.0
    scale = 0.0 if high < 1e-4 else 0.8**2.2 / high
    return np.rint(255 * np.clip(scale * colour, 0, 1) ** (1 / 2.2)).astype(np.uint8)
