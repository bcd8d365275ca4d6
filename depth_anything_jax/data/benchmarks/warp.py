"""Warps a view to another camera at the same place, by a homography of intrinsics.

MoGe evaluates every set at one size and one field of view (Lanczos to the size, then a homography).
Written from that description, not from its code; what it leaves open is chosen here:
  field of view  the largest of the target's aspect, with square pixels, that the image fills
  direction      where the image's centre looks; if the principal point lies elsewhere the camera
                 turns (the shortest way), and depth is measured along the new axis
  samples        the image by Lanczos to the target's resolution, then bilinearly; depth, masks and
                 sky by the nearest pixel, never mixed
"""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8


def turn_to(direction: Float[np.ndarray, " 3"]) -> Float[np.ndarray, "3 3"]:
    """The shortest rotation that brings a direction onto the optical axis (0, 0, 1)."""
    x, y, z = direction / np.linalg.norm(direction)
    if z <= -1 + 1e-12:
        raise ValueError(f"direction {direction} looks backwards")
    # R = I + [v] + [v]² / (1 + z) with v = direction × axis
    v = np.array([[0, 0, -x], [0, 0, -y], [x, y, 0]])
    return np.eye(3) + v + v @ v / (1 + z)


def target_camera(
    K: Float[np.ndarray, "3 3"], size: tuple[int, int], target: tuple[int, int]
) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "3 3"]]:
    """Intrinsics of the target and the rotation to it.

    Args:
      K: of the image, for pixel centres at i + 0.5.
      size: the image's (height, width).
      target: the target's (height, width).

    Returns:
      K of the target, its principal point in the centre; R with X_target = R · X_image.
    """
    height, width = size
    inverse = np.linalg.inv(K)
    R = turn_to(inverse @ np.array([width / 2, height / 2, 1.0]))
    # The image's border seen from the target camera, and the border of the target's rectangle
    # through (±a, ±1): the largest multiple that stays inside.
    corners = np.array([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1.0]])
    seen = corners @ inverse.T @ R.T
    if (seen[:, 2] <= 0).any():
        raise ValueError("the image's field of view reaches behind the target camera")
    seen = seen[:, :2] / seen[:, 2:]
    aspect = target[1] / target[0]
    rectangle = np.array([[-aspect, -1], [aspect, -1], [aspect, 1], [-aspect, 1]])
    largest = np.inf
    for start, end in zip(seen, np.roll(seen, -1, axis=0), strict=True):
        normal = np.array([end[1] - start[1], start[0] - end[0]])  # away from the inside
        outward = rectangle @ normal
        if outward.max() > 0:
            largest = min(largest, (start @ normal) / outward.max())
    focal = target[0] / 2 / largest
    return np.array([[focal, 0, target[1] / 2], [0, focal, target[0] / 2], [0, 0, 1]]), R


def warp(
    image: UInt8[np.ndarray, "h w 3"],
    depth: Float[np.ndarray, "h w"],
    masks: dict[str, Bool[np.ndarray, "h w"]],
    K: Float[np.ndarray, "3 3"],
    target: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """An image, its depth (0 where unknown) and masks as the target camera sees them.

    Returns:
      Image, depth and masks of size `target`, and the target's K.
    """
    from PIL import Image

    size = (image.shape[0], image.shape[1])
    K_target, R = target_camera(K, size, target)
    x, y = np.meshgrid(np.arange(target[1]) + 0.5, np.arange(target[0]) + 0.5)
    rays = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(K_target).T @ R  # R⁻¹ = Rᵀ
    rays /= rays[..., 2:]
    pixels = rays @ K.T
    u, v = pixels[..., 0], pixels[..., 1]

    scale = np.array([K_target[1, 1] / K[1, 1], K_target[0, 0] / K[0, 0]])
    middle = np.maximum(1, np.round(scale * size)).astype(int)
    resized = image
    if tuple(middle) != size:
        form = Image.fromarray(image).resize((middle[1], middle[0]), Image.Resampling.LANCZOS)
        resized = np.asarray(form)
    moved = cv2.remap(
        resized,
        (u * (middle[1] / size[1]) - 0.5).astype(np.float32),
        (v * (middle[0] / size[0]) - 0.5).astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    # Rounding errors at the very border must not leave the image.
    row = np.clip(np.floor(v + 1e-6), 0, size[0] - 1).astype(int)
    column = np.clip(np.floor(u + 1e-6), 0, size[1] - 1).astype(int)
    along = (rays @ R.T)[..., 2]  # depth in the target camera of a point at depth 1 in the image's
    moved_depth = (depth[row, column] * along).astype(np.float32)
    return moved, moved_depth, {k: m[row, column] for k, m in masks.items()}, K_target
