"""Maps of consecutive frames that do not flicker: streaming, in constant memory.

A network that sees one frame at a time gives each its own scale and shift, and the picture pulses.
`Smoother` undoes that and nothing else: each map stays an affine function of what the network said,
so that no object leaves a ghost and no edge is washed out.

  - Maps are compared in cells, the means of a grid of 32 x 32: means of an affine function are the
    same affine function of the means, and noise of single pixels is gone.
  - The reference is, in each cell, the exponential mean of the maps aligned so far, begun anew
    where the picture has changed there.
  - Scale and shift bring the new map to the reference at the cells whose picture stood still, by
    L1 (`evaluation.align.l1`), which does not see the few that moved all the same. A regression
    shrinks its slope by the noise of what it starts from, and from frame to frame the contrast
    would die away. So it is solved in both directions, and the scale is their geometric mean,
    weighted by how noisy the reference is beside a single frame: the two errors cancel.
  - A twentieth of the correction is left out. What the network says over a second or so wins, so
    that nothing drifts away for good; of the flicker a twentieth stays.
  - At a cut everything begins anew: the picture jumps, or the maps no longer agree.
An exact sequence, objects moving or not, is left as it is: scale 1, shift 0.

All constants are our choice, made on rendered clips (tests/video/test_smooth.py).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from depth_anything_jax.utils import scale_shift

CELLS = 32  # along each side
MEMORY = 0.9  # of the reference and of the shared range, a frame: a third of a second at 30 / s
PULL = 0.05
MIN_AGREEMENT = 0.3  # product of the scales of both directions, 1 of equal maps, 0 of unrelated
CUT = 0.1  # mean change of the picture, of 0-1; hard cuts have .15 to .4, hand-held pans .02 to .06
CUT_RATIO = 3.0  # times what the frames before changed
STILL = 0.02  # change of a cell's colour, of 0-1, that is noise or light and not motion


class Change(NamedTuple):
    """How a frame's picture differs from the one before.

    Attributes:
      cut: another scene begins.
      moved: the cells that changed.
    """

    cut: bool
    moved: Bool[np.ndarray, "n m"]


class Smoothed(NamedTuple):
    """A map after smoothing: scale · (what was given) + shift, and whether it begins anew."""

    values: Float[np.ndarray, "h w"]
    scale: float
    shift: float
    restarted: bool


def cells(values: np.ndarray) -> np.ndarray:
    """Means over a grid of 32 x 32 cells, or fewer where the map is smaller."""
    height, width = (min(CELLS, n) for n in values.shape[:2])
    if values.dtype != np.uint8:
        values = values.astype(np.float32, copy=False)
    return cv2.resize(values, (width, height), interpolation=cv2.INTER_AREA)


class Pictures:
    """Compares each frame's picture with the one before."""

    def __init__(self) -> None:
        self._last: np.ndarray | None = None
        self._usual = 0.0

    def __call__(self, image: UInt8[np.ndarray, "h w 3"]) -> Change:
        """The change to `image`; the first frame is a cut."""
        small = cells(image).astype(np.float32) / 255
        last, self._last = self._last, small
        if last is None or last.shape != small.shape:
            self._usual = 0.0
            return Change(True, np.ones(small.shape[:2], bool))
        change = np.abs(small - last).max(axis=-1)
        mean = float(change.mean())
        cut = mean > max(CUT, CUT_RATIO * self._usual)
        # A cut says nothing about how the new scene moves.
        self._usual = 0.0 if cut else MEMORY * self._usual + (1 - MEMORY) * mean
        # At least half of the cells count as still: all pictures change when the light does.
        return Change(cut, change > max(STILL, float(np.median(change))))


class Smoother:
    """Brings relative maps, one after the other, to the scale and shift of those before.

    For disparity up to scale and shift only: metres have a scale of their own and must keep it.
    """

    def __init__(self) -> None:
        self._reference: np.ndarray | None = None
        self._noise = np.ones((1, 1))  # variance of the reference's cells, of a frame's

    def __call__(self, values: Float[np.ndarray, "h w"], change: Change | None = None) -> Smoothed:
        """The next map.

        Args:
          values: larger is nearer; not finite where unknown.
          change: of its picture, from `Pictures`; None goes by the maps alone.
        """
        new = cells(values).astype(np.float64)
        moved = np.zeros(new.shape, bool) if change is None else change.moved
        before = new if self._reference is None else self._reference
        begins = before is new or before.shape != new.shape or (change is not None and change.cut)
        found = None if begins else _align(new, before, self._noise, ~moved)
        if found is None:
            self._reference, self._noise = new, np.ones(new.shape)
            return Smoothed(values, 1.0, 0.0, True)
        scale, shift = PULL + (1 - PULL) * found.scale, (1 - PULL) * found.shift
        aligned = scale * new + shift
        kept = MEMORY * before + (1 - MEMORY) * aligned
        stale = moved | ~np.isfinite(kept)
        self._reference = np.where(stale, aligned, kept)
        self._noise = np.where(stale, 1, MEMORY**2 * self._noise + (1 - MEMORY) ** 2)
        kind = np.promote_types(values.dtype, np.float32).type
        return Smoothed(kind(scale) * values + kind(shift), scale, shift, False)


def _align(
    x: np.ndarray, y: np.ndarray, noise: np.ndarray, still: np.ndarray
) -> scale_shift.Alignment | None:
    """y ≈ scale · x + shift at the still cells; None where they do not fit. `noise` is the variance
    of y's error, of that of x."""
    usable = still & np.isfinite(x) & np.isfinite(y)
    x, y = x[usable], y[usable]
    if x.size < 3:  # two cells fit anything
        return None
    weight = np.ones(x.size)
    there, back = scale_shift.l1(x, y, weight), scale_shift.l1(y, x, weight)
    if there.scale <= 0 or back.scale <= 0 or there.scale * back.scale < MIN_AGREEMENT:
        return None
    # Errors of variance s² make there.scale too small by s² and 1 / back.scale too large by noise
    # · s², of the variance of x; these weights take them to zero together.
    share = float(np.mean(noise[usable]))
    share = share / (1 + share)
    scale = math.exp(share * math.log(there.scale) - (1 - share) * math.log(back.scale))
    return scale_shift.Alignment(scale, scale_shift.weighted_median(y - scale * x, weight))


class SharedRange:
    """One range of colours over a video, in one pass: exponential means of each map's 2nd and 98th
    percentile, begun anew at cuts. It follows the scene within a third of a second, smoothly."""

    def __init__(self) -> None:
        self._range: np.ndarray | None = None

    def __call__(self, values: Float[np.ndarray, "h w"], restart: bool) -> tuple[float, float]:
        """The range for this map."""
        known = values[np.isfinite(values)]
        if known.size:
            new = np.percentile(known[:: max(1, known.size // 100_000)], [2, 98])
            if restart or self._range is None:
                self._range = new
            else:
                self._range = MEMORY * self._range + (1 - MEMORY) * new
        low, high = (0.0, 1.0) if self._range is None else self._range
        return float(low), float(high)


def temporal_alignment_error(
    before: Float[np.ndarray, "h w"],
    after: Float[np.ndarray, "h w"],
) -> float | None:
    """TAE of two consecutive frames of a static camera and scene (Video Depth Anything,
    arXiv 2501.12375).

    (AbsRel(a, b) + AbsRel(b, a)) / 2 with AbsRel(a, b) = mean |a − b| / b, over the pixels where
    both are finite and positive; None without any. The paper warps a to b by the known motion of
    the camera, which is none here, and prints a hundred times the mean over the pairs. It speaks of
    depth: bring relative disparity to metres first, all frames by the same scale and shift.
    """
    usable = np.isfinite(before) & np.isfinite(after) & (before > 0) & (after > 0)
    if not usable.any():
        return None
    a, b = before[usable].astype(np.float64), after[usable].astype(np.float64)
    gap = np.abs(a - b)
    return float(np.mean(gap / a) + np.mean(gap / b)) / 2


def flicker(
    before: Float[np.ndarray, "h w"],
    after: Float[np.ndarray, "h w"],
) -> float | None:
    """The same for disparity up to scale and shift, where a ratio of values means nothing: mean
    |a − b| over the spread (98th less 2nd percentile) of a; None where a is flat."""
    usable = np.isfinite(before) & np.isfinite(after)
    if not usable.any():
        return None
    a, b = before[usable].astype(np.float64), after[usable].astype(np.float64)
    low, high = np.percentile(a, [2, 98])
    return float(np.mean(np.abs(a - b)) / (high - low)) if high > low else None


class Flicker:
    """The mean over consecutive frames, cuts left out. It measures flicker on a static clip; where
    things move, motion is in it too."""

    def __init__(self, *, metric: bool = False):
        """Of relative maps `flicker`; of metres `temporal_alignment_error`."""
        self._measure = temporal_alignment_error if metric else flicker
        self._last: np.ndarray | None = None
        self._sum, self.pairs = 0.0, 0

    def add(self, values: Float[np.ndarray, "h w"], cut: bool) -> None:
        """The next map, of which a grid of at most some 512 x 512 pixels is looked at."""
        step = max(1, max(values.shape) // 512)
        values = np.array(values[::step, ::step])
        if self._last is not None and not cut and self._last.shape == values.shape:
            found = self._measure(self._last, values)
            if found is not None:
                self._sum, self.pairs = self._sum + found, self.pairs + 1
        self._last = values

    @property
    def mean(self) -> float | None:
        """None before two frames have been compared."""
        return self._sum / self.pairs if self.pairs else None
