"""Finds copies of images that were resized, cropped a little, recompressed, mirrored or recoloured.

Two stages. An image's vector is its grey version at 8 x 8 pixels without mean and contrast; the
vectors of the whole images and of nine windows of each, mirrored too, are looked up in an inverted
file (`Index`), so that a search costs about the square root of the number of images. Then the
best candidates are aligned to the image (ECC, Evangelidis and Psarakis, TPAMI 2008, as in OpenCV)
and the details of both are correlated: scenes of one layout have near vectors, not one detail.

Neighbouring frames of a video that hardly differ are copies in this sense.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

SIDE = 64  # pixels of a thumbnail, whatever the image's shape
GRID = 8  # pixels of a vector's version
FLAT = 2.0  # grey levels of deviation: less is a wall or night sky, which resembles any other
# A window holds .94 of each side, at nine places: of a copy that lost up to a tenth of a side, one
# of them or the whole is at most .04 off.
WINDOWS = ((0.0, 0.0, 1.0), *((x, y, 0.94) for y in (0.0, 0.03, 0.06) for x in (0.0, 0.03, 0.06)))
# Cosine of two vectors from which a pair is looked at. 900 copies of photos have at least .94 (of
# rendered scenes .75); the other pairs above it cost time, not precision.
CANDIDATE = 0.75
CANDIDATES = 16  # of an image, the best; as many again while there are copies among the last ones
# Correlation of the details of two aligned thumbnails from which they are copies: chosen on scenes
# of seed 77, where 99.5 % of 900 copies reach .886 and no other pair .85.
COPY = 0.87
_BAND = 1.5, 5.0  # pixels of a thumbnail: finer is noise and JPEG's blocks, coarser is layout
_OVERLAP = 0.7  # of the thumbnail; copies that lost a tenth of both sides have .8
_PROBES = 16  # lists of the inverted file that a search reads
_BRUTE = 4096  # vectors up to which all are compared
_STEPS = 40  # of the alignment at most
_SHIFT = 0.015  # of a side: one pixel of a thumbnail
_SIZE = 0.02  # of the size that the window has, as pixels are cut and windows estimated
_TINT = 3.0  # grey levels on average; a strong JPEG changes 2


Thumbnail = UInt8[np.ndarray, "64 64"]  # grey, 4 KB: all that is kept of an image


class Copy(NamedTuple):
    """Two images that are copies, or one of the other.

    Attributes:
      first, second: their positions.
      score: correlation of their details, COPY to 1.
      mirrored: whether one is the mirror image.
      window: of `second` that `first`, or its mirror image where `mirrored`, shows: x0, y0, x1, y1
        as shares of the sides of `second`, below 0 and above 1 where `first` shows more.
    """

    first: int
    second: int
    score: float
    mirrored: bool
    window: tuple[float, float, float, float]


def thumbnail(image: UInt8[np.ndarray, "h w 3"]) -> Thumbnail | None:
    """Returns the thumbnail of an RGB image; None of a flat one."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return None if small.std() < FLAT else small


class Collection:
    """Thumbnails in which copies of other images are looked up, from several threads at a time.

    Some 6 KB an image: the thumbnail, and 64 numbers of each window in two bytes.

    Args:
      thumbnails: of the images; None of those that match nothing.
      seed: of the inverted file's lists.
    """

    def __init__(self, thumbnails: Sequence[Thumbnail | None], seed: int = 0):
        self._thumbnails = list(thumbnails)
        self._images = np.array([i for i, t in enumerate(thumbnails) if t is not None], np.int64)
        vectors = np.zeros((len(self._images), len(WINDOWS), GRID * GRID), np.float16)
        for row, i in enumerate(self._images.tolist()):
            one = self._thumbnails[i]
            assert one is not None
            vectors[row] = _vectors(one)
        self._wholes = Index(vectors[:, 0].copy(), seed)
        self._windows = Index(vectors.reshape(-1, GRID * GRID), seed)

    @property
    def compared(self) -> int:
        """Pairs of vectors compared so far."""
        return self._windows.compared + self._wholes.compared

    def copies(self, one: Thumbnail | None, position: int = 0) -> list[Copy]:
        """Returns the images of the collection that are copies of one, by position."""
        if one is None or not len(self._images):
            return []
        best: dict[int, tuple[float, bool, np.ndarray]] = {}
        for mirrored in (False, True):
            own = _vectors(_turned(one, mirrored))
            # The image is a part of a collected one, or a collected one is a part of the image.
            found = [(0, *self._windows.search(own[0]))]
            found += [(w, *self._wholes.search(own[w])) for w in range(1, len(WINDOWS))]
            for window, entries, cosines in found:
                for entry, cosine in zip(entries.tolist(), cosines.tolist(), strict=True):
                    row, seen = (entry, 0) if window else divmod(entry, len(WINDOWS))
                    i = int(self._images[row])
                    if cosine > best.get(i, (CANDIDATE, False, None))[0]:
                        warp = _inverse(_warp(window)) if window else _warp(seen)
                        best[i] = cosine, mirrored, warp
        likely = sorted(best, key=lambda i: -best[i][0])
        pairs: list[Copy] = []
        for start in range(0, len(likely), CANDIDATES):
            before = len(pairs)
            for i in likely[start : start + CANDIDATES]:
                _, mirrored, warp = best[i]
                other = self._thumbnails[i]
                assert other is not None  # it has no row
                score, seen_window = _compare(_turned(one, mirrored), other, warp)
                if score >= COPY:
                    pairs.append(Copy(position, i, score, mirrored, seen_window))
            if len(pairs) == before:
                break
        return sorted(pairs, key=lambda copy: copy.second)


def changes(
    first: UInt8[np.ndarray, "h w 3"], second: UInt8[np.ndarray, "H W 3"], copy: Copy
) -> list[str]:
    """Tells what was done to one of two copies: mirrored, cropped, shifted, resized, recoloured.

    Shifted are those of which each shows something that the other does not: two frames of a video,
    mostly. Less than _SHIFT, _SIZE and _TINT are not told from nothing, and neither is JPEG.
    """
    x0, y0, x1, y1 = copy.window
    (h, w), (other_h, other_w) = first.shape[:2], second.shape[:2]
    more = max(-x0, -y0, x1 - 1, y1 - 1) > _SHIFT
    less = max(x0, y0, 1 - x1, 1 - y1) > _SHIFT
    wide, high = w / max((x1 - x0) * other_w, 1), h / max((y1 - y0) * other_h, 1)
    sides = max(wide, 1 / wide, high, 1 / high)
    a, b = (
        cv2.resize(x, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
        for x in (first, second)
    )
    sx, sy = x1 - x0, y1 - y0
    warp = np.array([[sx, 0, x0 * SIDE + (sx - 1) / 2], [0, sy, y0 * SIDE + (sy - 1) / 2]])
    flat = cv2.GaussianBlur(np.ascontiguousarray(a[:, ::-1]) if copy.mirrored else a, (0, 0), 3)
    seen = cv2.GaussianBlur(_seen(b, warp, cv2.BORDER_REPLICATE), (0, 0), 3)
    tint = float(np.abs(flat - seen).mean())
    told = {
        "mirrored": copy.mirrored,
        "cropped": more != less,
        "shifted": more and less,
        "resized": sides > 1 + _SIZE,
        "recoloured": tint > _TINT,
    }
    return [name for name, true in told.items() if true]


class Index:
    """Unit vectors in an inverted file: a search reads the lists of the _PROBES nearest centres.

    With the square root of n lists a search of n vectors compares some 17 sqrt(n) of them.
    """

    def __init__(self, vectors: Float[np.ndarray, "n d"], seed: int = 0):
        self.compared = 0
        self._order = np.arange(len(vectors))
        self._centres = vectors[:0]
        self._starts = np.array([0, len(vectors)])
        if len(vectors) > _BRUTE:
            self._centres = _centres(vectors, int(np.sqrt(len(vectors))), seed)
            lists = _nearest(vectors, self._centres)
            self._order = np.argsort(lists, kind="stable")
            self._starts = np.searchsorted(lists[self._order], np.arange(len(self._centres) + 1))
        self._vectors = vectors[self._order].astype(np.float16, copy=False)

    def search(
        self, query: Float[np.ndarray, " d"]
    ) -> tuple[Int[np.ndarray, " k"], Float[np.ndarray, " k"]]:
        """Returns the vectors whose cosine with a query reaches CANDIDATE, and the cosines."""
        lists = np.arange(len(self._starts) - 1)
        if len(self._centres) > _PROBES:
            lists = np.argpartition(-(self._centres @ query), _PROBES)[:_PROBES]
        places = np.concatenate([np.arange(*self._starts[i : i + 2]) for i in lists.tolist()])
        self.compared += len(places) + len(self._centres)
        cosines = self._vectors[places].astype(np.float32) @ query
        near = cosines >= CANDIDATE
        return self._order[places[near]], cosines[near]


def _centres(vectors: np.ndarray, count: int, seed: int, steps: int = 6) -> np.ndarray:
    """Spherical k-means on a sample of 32 vectors a centre; a centre without vectors stays."""
    rng = np.random.default_rng(seed)
    sample = vectors[rng.permutation(len(vectors))[: 32 * count]].astype(np.float32)
    centres = sample[:count].copy()
    for _ in range(steps):
        lists = _nearest(sample, centres)
        sums = np.zeros_like(centres)
        np.add.at(sums, lists, sample)
        length = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(length > 0, sums / np.maximum(length, 1e-9), centres)
    return centres


def _nearest(vectors: np.ndarray, centres: np.ndarray, block: int = 4096) -> np.ndarray:
    parts: Iterator[np.ndarray] = (
        np.argmax(vectors[i : i + block].astype(np.float32) @ centres.T, axis=1)
        for i in range(0, len(vectors), block)
    )
    return np.concatenate(list(parts))


def _turned(thumbnail: np.ndarray, mirrored: bool) -> np.ndarray:
    return np.ascontiguousarray(thumbnail[:, ::-1]) if mirrored else thumbnail


def _warp(window: int) -> Float[np.ndarray, "2 3"]:
    """From the pixels of a window, seen at a thumbnail's size, to those of the thumbnail."""
    x, y, share = WINDOWS[window]
    shift = (share - 1) / 2  # pixel centres
    return np.array([[share, 0, x * SIDE + shift], [0, share, y * SIDE + shift]], np.float32)


def _inverse(warp: np.ndarray) -> Float[np.ndarray, "2 3"]:
    return cv2.invertAffineTransform(warp).astype(np.float32)


def _vectors(thumbnail: Thumbnail) -> Float[np.ndarray, "windows d"]:
    """Unit vectors of the thumbnail and of its windows."""
    found = []
    for window in range(len(WINDOWS)):
        seen = _seen(thumbnail.astype(np.float32), _warp(window), cv2.BORDER_REPLICATE)
        small = cv2.resize(seen, (GRID, GRID), interpolation=cv2.INTER_AREA).ravel()
        small -= small.mean()
        found.append(small / max(float(np.linalg.norm(small)), 1e-6))
    return np.stack(found)


def _seen(thumbnail: np.ndarray, warp: np.ndarray, border: int) -> np.ndarray:
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(thumbnail, warp, (SIDE, SIDE), flags=flags, borderMode=border)


def _compare(
    one: Thumbnail, other: Thumbnail, start: np.ndarray
) -> tuple[float, tuple[float, float, float, float]]:
    """Aligns a thumbnail to one; returns the correlation of their details, and the window seen."""
    until = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, _STEPS, 1e-4)
    a, b = one.astype(np.float32), other.astype(np.float32)
    try:
        _, warp = cv2.findTransformECC(a, b, start.copy(), cv2.MOTION_AFFINE, until, None, 3)
    except cv2.error:  # it does not converge: they have nothing in common
        return 0.0, (0.0, 0.0, 0.0, 0.0)
    inside = _seen(np.ones_like(b), warp, cv2.BORDER_CONSTANT) > 0.999
    if inside.mean() < _OVERLAP:
        return 0.0, (0.0, 0.0, 0.0, 0.0)
    b = np.where(inside, _seen(b, warp, cv2.BORDER_REPLICATE), a.mean())
    x, y = _details(a)[inside], _details(b)[inside]
    x, y = x - x.mean(), y - y.mean()
    score = float((x * y).sum() / max(float(np.linalg.norm(x) * np.linalg.norm(y)), 1e-6))
    corners = warp @ np.array([[-0.5, SIDE - 0.5], [-0.5, SIDE - 0.5], [1, 1]])
    (x0, x1), (y0, y1) = ((corners + 0.5) / SIDE).tolist()
    return score, (x0, y0, x1, y1)


def _details(grey: np.ndarray) -> np.ndarray:
    fine, coarse = (cv2.GaussianBlur(grey, (0, 0), sigma) for sigma in _BAND)
    return fine - coarse
