"""Draws contact sheets: rows of tiles of one size, each under two lines of text (OpenCV)."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Int, UInt8

SIDE = 224  # pixels of a tile, whatever the picture
CAPTION = 34  # pixels above a tile
BOX = (255, 255, 0)
NEAREST = cv2.INTER_NEAREST


def tile(
    picture: UInt8[np.ndarray, "h w 3"],
    title: str,
    words: str,
    box: Sequence[int] | Int[np.ndarray, 4] | None = None,
) -> UInt8[np.ndarray, "H W 3"]:
    """Draws a picture at SIDE x SIDE under two lines of text, with a box around its pixels."""
    h, w = picture.shape[:2]
    how = cv2.INTER_AREA if h > SIDE else NEAREST
    picture = cv2.resize(picture, (SIDE, SIDE), interpolation=how)
    if box is not None and box[2] > box[0]:
        y0, x0, y1, x1 = (int(round(s * SIDE / n)) for s, n in zip(box, (h, w, h, w), strict=True))
        for colour, width in (((0, 0, 0), 3), (BOX, 1)):
            cv2.rectangle(picture, (x0, y0), (x1 - 1, y1 - 1), colour, width)
    caption = np.full((CAPTION, SIDE, 3), 255, np.uint8)
    write(caption, title, (2, 13), 0.45)
    write(caption, words, (2, 29), 0.4)
    return np.concatenate([caption, picture])


def write(picture: np.ndarray, text: str, where: tuple[int, int], size: float) -> None:
    """Writes black text into a picture; what OpenCV's font lacks becomes "?"."""
    cv2.putText(picture, text, where, cv2.FONT_HERSHEY_SIMPLEX, size, (0, 0, 0), 1, cv2.LINE_AA)


def row(*tiles: np.ndarray) -> UInt8[np.ndarray, "H W 3"]:
    """Puts tiles beside each other."""
    bar = np.full((CAPTION + SIDE, 4, 3), 255, np.uint8)
    return np.concatenate([piece for one in tiles for piece in (one, bar)], axis=1)
