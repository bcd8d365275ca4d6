"""Rounds the longer side of images to one of K lengths, so that few shapes are compiled.

A program is compiled for each shape. Photo collections have hundreds, and K lengths leave at most
2 K of them (portrait and landscape). Images are stretched to the nearest length, never padded,
because black borders degrade depth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from depth_anything_jax.data import transforms
from depth_anything_jax.data.sources.base import Source

SAMPLE = 256  # images whose shapes choose the lengths


def choose(shapes: Sequence[tuple[int, int]], k: int) -> list[int]:
    """Chooses the K lengths that are nearest to the longer sides of a sample of network shapes.

    Exact: minimises the summed |log| of the stretch over the sample (one-dimensional k-medians by
    dynamic programming over the distinct lengths, which are few: multiples of the patch size).

    Args:
      shapes: (height, width) of the network's input, one for each image.
      k: how many; fewer come back where the sample has fewer lengths.
    """
    lengths, counts = np.unique([max(s) for s in shapes], return_counts=True)
    n, logs = len(lengths), np.log(lengths)

    def cost(start: int, stop: int) -> tuple[float, int]:
        """The stretch that a bucket for lengths start … stop − 1 costs, and the bucket's length."""
        stretch = np.abs(logs[start:stop, None] - logs[None, start:stop])
        sums = counts[start:stop] @ stretch
        return float(np.min(sums)), start + int(np.argmin(sums))

    nothing: tuple[float, list[int]] = (math.inf, [])
    best: list[tuple[float, list[int]]] = [(0.0, []), *[nothing] * n]
    for _ in range(min(k, n)):
        best = [nothing] + [
            min(
                (best[i][0] + c, [*best[i][1], j])
                for i in range(stop)
                for c, j in [cost(i, stop)]
            )
            for stop in range(1, n + 1)
        ]  # fmt: skip
    return [int(lengths[j]) for j in best[n][1]]


def label_shape(
    height: int, width: int, size: int, buckets: Sequence[int] = (), *, patch_size: int
) -> tuple[int, int]:
    """Shape at which an image is labelled: the official one, or its longer side set to a bucket."""
    shape = transforms.network_size(height, width, size, patch_size=patch_size)
    if not buckets:
        return shape
    longer = max(shape)
    nearest = min(buckets, key=lambda b: abs(math.log(b / longer)))
    return (nearest, shape[1]) if shape[0] == longer else (shape[0], nearest)


def sampled(source: Source, size: int, k: int, *, patch_size: int) -> list[int]:
    """Chooses the K lengths for a source from images at evenly spaced positions.

    Raises:
      ValueError: none of them can be read.
    """
    shapes = []
    for index in np.unique(np.linspace(0, len(source) - 1, min(SAMPLE, len(source))).astype(int)):
        try:
            height, width = source[int(index)]["image"].shape[:2]
            shapes.append(transforms.network_size(height, width, size, patch_size=patch_size))
        except Exception:  # a broken image is reported when it is labelled
            continue
    if not shapes:
        sampled = min(SAMPLE, len(source))
        raise ValueError(f"{source.name}: none of {sampled} sampled images can be read")
    return choose(shapes, k)
