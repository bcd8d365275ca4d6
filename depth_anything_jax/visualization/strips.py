"""Draws strips of image | label | prediction under heads, and makes sparse labels visible."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from depth_anything_jax.visualization import contact_sheets
from depth_anything_jax.visualization.colormaps import colourise

HEADS = ("image", "label", "prediction")
HEAD = 20  # pixels above a column
CHARACTER = 8  # pixels, at least as wide as a character of a key on average
SHOWN_WIDTH = 112  # smaller tiles are enlarged: a head does not fit above them
_NEAR = 7  # pixels of the square in which a map's density is measured
_FILLED = 0.5  # of that square, when a sparse map is drawn; with less, single points get lost


def dilated(
    values: Float[np.ndarray, "h w"], valid: Bool[np.ndarray, "h w"]
) -> tuple[Float[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
    """Draws the points of a sparse map (lidar, clicked points) larger; a dense one is unchanged.

    Density is the share of valid pixels around a valid one, so that a map which is dense on a part
    of the image counts as dense. Measured pixels keep their value; of several that reach a pixel
    the largest is drawn, in disparity the nearest.
    """
    if not valid.any():
        return values, valid
    mask = valid.astype(np.float32)
    density = float(cv2.blur(mask, (_NEAR, _NEAR))[valid].mean())
    side = int(np.sqrt(_FILLED / density)) // 2 * 2 + 1
    if side == 1:
        return values, valid
    square = np.ones((side, side), np.uint8)
    spread = cv2.dilate(np.where(valid, values, -np.inf), square)
    reached = cv2.dilate(valid.astype(np.uint8), square) > 0
    return np.where(valid, values, np.where(reached, spread, 0)), reached


def strips(
    images: Float[np.ndarray, "b h w 3"],
    labels: Float[np.ndarray, "b h w"],
    valid: Bool[np.ndarray, "b h w"],
    predictions: Float[np.ndarray, "b h w"],
    *,
    name: str = "",
    keys: Sequence[str] = (),
    rows: int = 4,
    gap: int = 2,
) -> UInt8[np.ndarray, "H W 3"]:
    """Draws the first examples of a batch below each other, each as image | label | prediction.

    Args:
      images: in 0-1, not normalised; values outside are clipped.
      labels, predictions: disparity, larger is nearer.
      valid: valid pixels of the label; the others are drawn grey, sparse ones larger.
      name: written before the first head.
      keys: the examples' names, each written above its tiles; the end of one that is too long.
      gap: white pixels between the tiles.
    """
    lines: list[np.ndarray] = []
    for i, (image, label, mask, prediction) in enumerate(
        zip(images[:rows], labels, valid, predictions, strict=False)
    ):
        rgb = np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)
        tiles = [rgb, colourise(*dilated(label, mask)), colourise(prediction)]
        times = -(-SHOWN_WIDTH // rgb.shape[1])
        tiles = [t.repeat(times, axis=0).repeat(times, axis=1) for t in tiles]
        line = _beside(tiles, gap)
        if keys:
            lines += [_written(keys[i], line.shape[1])]
        lines += [line, np.full((gap, line.shape[1], 3), 255, np.uint8)]
    head = np.full((HEAD, lines[0].shape[1], 3), 255, np.uint8)
    for i, text in enumerate((f"{name} {HEADS[0]}".strip(), *HEADS[1:])):
        contact_sheets.write(head, text, (i * (tiles[0].shape[1] + gap) + 2, HEAD - 6), 0.4)
    return np.concatenate([head, *lines[:-1]], axis=0)


def _written(key: str, width: int) -> np.ndarray:
    """The end of a key, which tells more than its first folders, on a white line."""
    characters = width // CHARACTER
    text = key if len(key) <= characters else f"...{key[3 - characters :]}"
    line = np.full((HEAD - 4, width, 3), 255, np.uint8)
    contact_sheets.write(line, text, (2, HEAD - 8), 0.35)
    return line


def _beside(tiles: Sequence[np.ndarray], gap: int) -> np.ndarray:
    bar = np.full((tiles[0].shape[0], gap, 3), 255, np.uint8)
    return np.concatenate([tiles[0], *(x for t in tiles[1:] for x in (bar, t))], axis=1)
