"""Perceptual hashes of images, and near-duplicates by them: one picture in two sizes or qualities.

A hash is 128 bits: whether each pixel of a 9 x 9 grey version is brighter than its right (64) and
its lower neighbour (64). Resizing and JPEG change a few bits; different photos differ in about 50.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8, UInt64

# Bits: 99 % of 1,000 smaller, darker or recompressed versions of photos differ in at most 7.
NEAR = 8
FLAT = 2.0  # grey levels of deviation: less is a wall or night sky, whose bits are noise
BITS = 128
SHORTEST = 10  # bits of a part by which pairs are looked up
BLOCK = 1024  # images compared with all others at a time, where parts would be shorter
PAIRS = 1 << 20  # about so many are compared at a time

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
    rows = np.array([i for i, h in enumerate(first) if h is not None], np.int64)
    columns = np.array([i for i, h in enumerate(second) if h is not None], np.int64)
    if not len(rows) or not len(columns):
        return []
    own = np.stack([h for h in first if h is not None])
    others = np.stack([h for h in second if h is not None])
    found: set[tuple[int, int, int]] = set()
    for i, j in _candidates(own, others, most):
        bits = np.bitwise_count(own[i] ^ others[j]).sum(-1)
        near = bits <= most
        pairs = rows[i[near]].tolist(), columns[j[near]].tolist(), bits[near].tolist()
        found.update(zip(*pairs, strict=True))
    return [Pair(*pair) for pair in sorted(found)]


def _candidates(
    own: np.ndarray, others: np.ndarray, most: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields places of pairs, in parts: all that differ in at most `most` bits are among them.

    Of most + 1 parts of a hash one at least has no difference, so pairs are looked up by parts.
    """
    parts = np.array_split(np.arange(BITS), min(most + 1, BITS))
    if len(parts[0]) < SHORTEST:  # they would be the same in too many pairs
        for start in range(0, len(own), BLOCK):
            block = np.arange(start, min(start + BLOCK, len(own)))
            yield np.repeat(block, len(others)), np.tile(np.arange(len(others)), len(block))
        return
    for part in parts:
        keys, wanted = _bits(others, part), _bits(own, part)
        order = np.argsort(keys, kind="stable")
        low = np.searchsorted(keys[order], wanted, "left")
        counts = np.searchsorted(keys[order], wanted, "right") - low
        blocks = np.flatnonzero(np.diff(np.cumsum(counts) // PAIRS, prepend=0))
        for block in np.split(np.arange(len(own)), blocks):
            many = counts[block]
            i = np.repeat(block, many)
            within = np.arange(len(i)) - np.repeat(np.cumsum(many) - many, many)
            yield i, order[np.repeat(low[block], many) + within]


def _bits(hashes: np.ndarray, part: np.ndarray) -> np.ndarray:
    """The bits of a part of each hash as a number."""
    number = np.zeros(len(hashes), np.int64)
    for bit in part:
        number = number << 1 | (
            (hashes[:, bit // 64] >> np.uint64(bit % 64)) & np.uint64(1)
        ).astype(np.int64)
    return number
