"""Resizes only a window of very long images: the pixels of `cv2.resize`, without the rest of them.

At a short side of 518, an image of 10 x 2000 pixels becomes 518 x 103,600, of which a crop takes
one part in two hundred.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Shaped

from depth_anything_jax.utils import interpolation

RATIO = 8  # times as many pixels as the crop's, from which on a window pays: our choice


def bicubic(
    image: Shaped[np.ndarray, "h w 3"], height: int, width: int, rows: slice, columns: slice
) -> np.ndarray:
    """Resizes as `transforms.resize_image` to (height, width), and gives a window of the result.

    Weights are float64 before they are rounded, as in OpenCV with IPP; without it, OpenCV rounds
    positions to float32 and differs by up to 5e-5.
    """
    scale = np.float32(1 / 255 if image.dtype == np.uint8 else 1)
    weights = []
    for axis, (new, part) in enumerate(((height, rows), (width, columns))):
        index, weight = interpolation.sample_weights(
            image.shape[axis], new, "bicubic", part=(part.start, part.stop)
        )
        low = int(index.min())
        image = image[(slice(None),) * axis + (slice(low, int(index.max()) + 1),)]
        weights.append((index - low, weight.astype(np.float32)))
    image = image.astype(np.float32)
    for axis in (1, 0):
        index, weight = weights[axis]
        weight = weight.reshape(-1, 4, *(1,) * (2 - axis))
        out = np.take(image, index[:, 0], axis) * weight[:, 0]
        for k in (1, 2, 3):
            out += np.take(image, index[:, k], axis) * weight[:, k]
        image = out
    return image * scale


def nearest(
    label: Shaped[np.ndarray, "h w"], height: int, width: int, rows: slice, columns: slice
) -> np.ndarray:
    """Resizes as `transforms.resize_nearest` to (height, width), and gives a window of it."""
    index = [
        np.minimum((np.arange(part.start, part.stop) * (1 / (new / old))).astype(np.intp), old - 1)
        for old, new, part in zip(label.shape, (height, width), (rows, columns), strict=True)
    ]
    return label[np.ix_(*index)]
