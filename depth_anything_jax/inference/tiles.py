"""Cuts large pictures into tiles and blends the tiles' depth maps into one.

A network predicts each tile in a scale and shift of its own. Each is aligned to the whole picture's
map by least squares, and neighbours are blended over their whole overlap.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from depth_anything_jax.utils import scale_shift

OVERLAP = 0.25  # minimum, of a tile's side. Our choice: MiDaS-style tilings take 1/8 to 1/2
_SAMPLES = 256  # longer side of the grid on which a tile is aligned: scale and shift need no more


class Window(NamedTuple):
    """A rectangle of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Its rows and columns."""
        rows = slice(self.top, self.top + self.height)
        return rows, slice(self.left, self.left + self.width)


def windows(shape: Sequence[int], tile: int) -> list[Window]:
    """Covers a picture (h, w) by evenly spread squares of `tile` pixels; a side shorter than a tile
    is taken whole, so that all windows have one shape."""
    height, width = (min(tile, n) for n in shape)
    tops, lefts = (_starts(n, size) for n, size in zip(shape, (height, width), strict=True))
    return [Window(top, left, height, width) for top in tops for left in lefts]


def _starts(length: int, size: int) -> list[int]:
    count = 1 + math.ceil((length - size) / (size * (1 - OVERLAP)))
    return [round(x) for x in np.linspace(0, length - size, count)]


def blend(
    whole: Float[np.ndarray, "h w"], maps: Iterable[tuple[Window, Float[np.ndarray, "_ _"]]]
) -> Float[np.ndarray, "h w"]:
    """Blends the tiles' maps into one.

    Args:
      whole: the whole picture's map, which determines scale and shift.
      maps: (window, map) of each tile; together they cover the picture.

    Returns:
      float32; a tile that is constant or contradicts the whole map is replaced by it. No value is
      negative where the whole map has none.
    """
    total = np.zeros(whole.shape, np.float32)
    weight = np.zeros(whole.shape, np.float32)
    for window, values in maps:
        part = whole[window.slices]
        step = max(1, math.ceil(max(part.shape) / _SAMPLES))
        found = scale_shift.least_squares(
            values[::step, ::step].ravel(), part[::step, ::step].ravel()
        )
        if found.scale > 0:
            part = np.float32(found.scale) * values + np.float32(found.shift)
        fade = np.outer(*(_fade(n, m) for n, m in zip(part.shape, whole.shape, strict=True)))
        total[window.slices] += fade * part
        weight[window.slices] += fade
    out = total / weight
    return np.maximum(out, 0) if whole.min() >= 0 else out


def _fade(size: int, length: int) -> Float[np.ndarray, " n"]:
    """Weights of a tile along one axis: a sine hump, or ones where the tile spans the axis."""
    if size == length:
        return np.ones(size, np.float32)
    return np.sin(np.pi * (np.arange(size, dtype=np.float32) + 0.5) / size) ** 2
