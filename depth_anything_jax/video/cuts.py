"""Finds cuts in a video: frames whose image no motion and no change of light explains.

A camera that moves changes every pixel, so the size of the change alone does not tell a pan from a
cut. `Pictures` first measures it on a grid of 32 x 32 cells; where it is large, it looks for the
previous image in the new one, and only where both ways fail is the frame a cut:

  - Dense optical flow (DIS) between the images with local brightness and contrast removed, so that
    light does not count; the patches that belong together must correlate.
  - A similarity transform on which ORB features agree, for motions too large for the flow: it must
    move them and span the image, or lead the flow to patches that correlate. (A caption or a logo
    that stays over a cut does neither.)

An image that is nearly all white or black (a flash, a fade) shows no scene: it is no cut, and the
next image is compared with the one before it. Dissolves are not found, as each of their frames
resembles the previous one.

The thresholds are our choice, made on 60 photos: between pairs of them the correlation reaches .45
(.6 where both are blurred) and up to 11 features agree; between two views of one photo at least one
of both is far above. tests/video/test_cuts.py has the motions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

CELLS = 32  # along each side
STILL = 0.02  # largest change of a cell's colour, in 0-1, that is noise or light and not motion
CHANGED = 0.02  # mean change of the cells, in 0-1, from which on a frame may be a cut
PLAIN = 0.1  # the same, for images without texture, which nothing else can compare
CORRELATED = 0.65  # median over patches, from which on the flow explains the change
AGREEING = 15  # features under one similarity transform, from which on it is believed
SPREAD = 0.25  # share of the image that they span, from which on a moving one explains the change
WHITE, CLIPPED = 0.55, 0.9  # shares of white, and of white and black pixels of a blank image
_FLOW_SIDE, _FEATURE_SIDE = 160, 256  # longer side of the compared images, pixels
_PATCH = 16  # side, pixels
_TEXTURE = 2.0  # least local standard deviation, of 256 levels, of a patch that can be compared
_DARK, _WHITE = 6, 249  # levels at which pixels count as clipped


class Change(NamedTuple):
    """How a frame's image differs from the previous one.

    Attributes:
      cut: whether a new scene begins.
      moved: the cells that changed.
      blank: whether it is nearly all white or black, and shows no scene.
    """

    cut: bool
    moved: Bool[np.ndarray, "n m"]
    blank: bool = False


def cells(values: np.ndarray) -> np.ndarray:
    """Averages a map over a grid of 32 x 32 cells, or fewer where the map is smaller."""
    height, width = (min(CELLS, n) for n in values.shape[:2])
    if values.dtype != np.uint8:
        values = values.astype(np.float32, copy=False)
    return cv2.resize(values, (width, height), interpolation=cv2.INTER_AREA)


class Pictures:
    """Compares each frame's image with the previous one."""

    def __init__(self) -> None:
        self._last: np.ndarray | None = None
        self._scene: Any = None  # cells and grey image of the last frame that shows a scene

    def __call__(self, image: UInt8[np.ndarray, "h w 3"]) -> Change:
        """Returns the change from the previous image to `image`; the first frame is a cut."""
        small = cells(image).astype(np.float32) / 255
        grey = _scaled(cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY), _FEATURE_SIDE)
        last, self._last = self._last, small
        if last is None or last.shape != small.shape:
            self._scene = small, grey
            return Change(True, np.ones(small.shape[:2], bool))
        change = np.abs(small - last).max(axis=-1)
        # At least half of the cells count as still: a change of light changes all of them.
        moved = change > max(STILL, float(np.median(change)))
        if _shows_nothing(grey):
            return Change(False, moved, True)
        (cells_before, before), self._scene = self._scene, (small, grey)
        difference = float(np.abs(small - cells_before).max(axis=-1).mean())
        return Change(difference > CHANGED and not explained(before, grey, difference), moved)


def explained(
    before: UInt8[np.ndarray, "h w"], after: UInt8[np.ndarray, "h w"], difference: float
) -> bool:
    """Whether motion or light explains the difference between two grey images.

    Args:
      before, after: the images, of `_FEATURE_SIDE`.
      difference: mean over the cells, which decides where there is no texture to compare.
    """
    small = _scaled(before, _FLOW_SIDE), _scaled(after, _FLOW_SIDE)
    correlation = _flow_correlation(*small)
    if correlation is None:
        return difference < PLAIN or _shows_nothing(before)
    if correlation >= CORRELATED:
        return True
    found = _similarity(before, after)
    if found is None:
        return False
    matrix, area = found
    moves = np.abs(matrix - np.eye(2, 3)).max() > 0.02 or np.abs(matrix[:, 2]).max() > 2
    if moves and area > SPREAD:
        return True
    matrix[:, 2] *= _FLOW_SIDE / _FEATURE_SIDE
    return (_flow_correlation(*small, matrix) or 0) >= CORRELATED


def _shows_nothing(grey: np.ndarray) -> bool:
    white, black = float((grey >= _WHITE).mean()), float((grey <= _DARK).mean())
    return white > WHITE or white + black > CLIPPED


def _scaled(grey: np.ndarray, side: int) -> np.ndarray:
    share = side / max(grey.shape)
    size = [max(_PATCH, round(n * share)) for n in grey.shape[::-1]]
    return cv2.resize(grey, size, interpolation=cv2.INTER_AREA if share < 1 else cv2.INTER_LINEAR)


def _normalised(grey: np.ndarray) -> tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
    """Removes local brightness and contrast; also returns the local standard deviation."""
    values = grey.astype(np.float32)
    values -= cv2.GaussianBlur(values, (0, 0), _PATCH / 2)
    deviation = np.sqrt(cv2.GaussianBlur(values**2, (0, 0), _PATCH / 2))
    return values / np.hypot(deviation, 4), deviation


def _flow_correlation(
    before: np.ndarray, after: np.ndarray, matrix: np.ndarray | None = None
) -> float | None:
    """Median over patches of the correlation along the optical flow; None without texture.

    `matrix` is a first guess of the motion, an affine transform of pixels."""
    known = np.ones(before.shape, np.float32)
    if matrix is not None:
        before, known = (cv2.warpAffine(x, matrix, x.shape[::-1]) for x in (before, known))
    (a, texture_a), (b, texture_b) = _normalised(before), _normalised(after)
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    flow.setFinestScale(1)
    levels_a, levels_b = (np.clip(128 + 40 * x, 0, 255).astype(np.uint8) for x in (a, b))
    moved = flow.calc(levels_a, levels_b, np.zeros((*a.shape, 2), np.float32))
    height, width = a.shape
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    x, y = columns + moved[..., 0], rows + moved[..., 1]
    inside = ((x >= 0) & (x < width) & (y >= 0) & (y < height)).astype(np.float32)
    inside *= (known > 0) & (before > _DARK) & (before < _WHITE)
    at = cv2.remap(after, x, y, cv2.INTER_NEAREST)
    inside *= (at > _DARK) & (at < _WHITE)
    b = cv2.remap(b, x, y, cv2.INTER_LINEAR)

    def patches(values: np.ndarray) -> np.ndarray:
        half = _PATCH // 2
        return cv2.boxFilter(values, -1, (_PATCH, _PATCH))[half::_PATCH, half::_PATCH]

    correlation = patches(a * b * inside) / np.sqrt(
        patches(a * a * inside) * patches(b * b * inside) + 1e-3
    )
    textured = np.maximum(patches(texture_a), patches(cv2.remap(texture_b, x, y, cv2.INTER_LINEAR)))
    usable = (patches(inside) > 0.5) & (textured > _TEXTURE)
    return float(np.median(correlation[usable])) if usable.mean() > 0.1 else None


def _similarity(
    before: np.ndarray, after: np.ndarray
) -> tuple[Float[np.ndarray, "2 3"], float] | None:
    """The similarity transform on which ORB features of two images agree, if enough do.

    Also returns the share of the image over which they are spread."""
    orb = cv2.ORB.create(
        400, scaleFactor=1.2, nlevels=6, edgeThreshold=12, patchSize=21, fastThreshold=5
    )
    (points_a, found_a), (points_b, found_b) = (
        orb.detectAndCompute(x, None) for x in (before, after)
    )
    if found_a is None or found_b is None:
        return None
    pairs = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True).match(found_a, found_b)
    if len(pairs) < AGREEING:
        return None
    origin = np.array([points_a[p.queryIdx].pt for p in pairs], np.float32)
    target = np.array([points_b[p.trainIdx].pt for p in pairs], np.float32)
    matrix, agree = cv2.estimateAffinePartial2D(
        origin, target, method=cv2.RANSAC, ransacReprojThreshold=3, maxIters=500
    )
    if matrix is None or agree.sum() < AGREEING or not 0.5 < np.hypot(*matrix[:, 0]) < 2:
        return None
    hull = cv2.convexHull(target[agree.ravel() > 0])
    return matrix, float(cv2.contourArea(hull)) / after.size
