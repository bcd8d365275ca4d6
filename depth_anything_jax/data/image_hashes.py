"""Perceptual hashes of images, and near-duplicates by them: one picture in two sizes or qualities.

A hash is 128 bits: whether each pixel of a 9 x 9 grey version is brighter than its right (64) and
its lower neighbour (64). Resizing and JPEG change a few bits; different photos differ in about 50.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8, UInt64

# Bits: 99 % of 1,000 smaller, darker or recompressed versions of photos differ in at most 7.
NEAR = 8
FLAT = 2.0  # grey levels of deviation: less is a wall or night sky, whose bits are noise
BLOCK = 1024  # images compared with all others at a time

Hash = UInt64[np.ndarray, "2"]


class Pair(NamedTuple):
    """Two images that are nearly the same: their positions, and the bits that differ."""

    first: int
    second: int
    bits: int


def image_hash(image: UInt8[np.ndarray, "h w 3"], *, mirrored: bool = False) -> Hash | None:
    """Computes the hash of an RGB image, or of its mirror image; None of a flat one."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (9, 9), interpolation=cv2.INTER_AREA)
    if small.std() < FLAT:
        return None
    small = small[:, ::-1] if mirrored else small
    bits = small[:8, :8] > small[:8, 1:], small[:8, :8] > small[1:, :8]
    return np.packbits(np.stack(bits)).view(np.uint64)


def near_duplicates(
    first: Sequence[Hash | None], second: Sequence[Hash | None], *, most: int = NEAR
) -> list[Pair]:
    """Finds pairs of an image of each sequence whose hashes differ in at most `most` bits."""
    rows = [i for i, h in enumerate(first) if h is not None]
    columns = [i for i, h in enumerate(second) if h is not None]
    if not rows or not columns:
        return []
    others = np.stack([h for h in second if h is not None])
    found = []
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        own = np.stack([h for h in (first[i] for i in block) if h is not None])
        bits = np.bitwise_count(own[:, None] ^ others[None]).sum(-1)
        for i, j in zip(*np.nonzero(bits <= most), strict=True):
            found.append(Pair(block[i], columns[j], int(bits[i, j])))
    return found
