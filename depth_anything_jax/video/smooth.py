"""Removes flicker from the maps of consecutive frames, streaming and in constant memory.

A network that processes single frames gives each map its own scale and shift, which shows as
flicker. `Smoother` corrects scale and shift only: each map stays an affine function of the
network's output, so moving objects leave no ghosts and edges stay sharp.

  - Maps are compared by their means over a grid of 32 x 32 cells: the mean of an affine function is
    the same affine function of the mean, and averaging removes the noise of single pixels.
  - The reference of each cell is the exponential mean of the maps aligned so far; it restarts where
    the image has changed in that cell.
  - Scale and shift align the new map to the reference over the cells whose image did not change, by
    L1 (`scale_shift.l1`), which is robust to the few that moved nevertheless. A regression shrinks
    its slope by the noise of its input, so that the contrast would decay from frame to frame.
    Therefore it is solved in both directions, and the scale is the geometric mean of both,
    weighted by the noise of the reference relative to that of a single frame: the two errors
    cancel.
  - A twentieth of the correction is left out, so that the maps follow the network's output over
    about a second and do not drift permanently; a twentieth of the flicker remains.
  - The reference restarts at a cut: a new scene begins (`cuts`), or the maps no longer agree. Maps
    of white or black frames are left out of it.
A sequence without flicker, with or without moving objects, is unchanged: scale 1, shift 0.

All constants are our choice, made on rendered clips (tests/video/test_smooth.py).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from depth_anything_jax.utils import scale_shift
from depth_anything_jax.video.cuts import Change, cells

MEMORY = 0.9  # decay per frame of the reference and the shared range: 1/3 s at 30 frames / s
PULL = 0.05
MIN_AGREEMENT = 0.3  # product of both directions' scales: 1 for equal maps, 0 for unrelated ones


class Smoothed(NamedTuple):
    """A smoothed map: scale · input + shift, and whether the reference was restarted."""

    values: Float[np.ndarray, "h w"]
    scale: float
    shift: float
    restarted: bool


class Smoother:
    """Aligns successive relative maps to the scale and shift of the maps before.

    It is for disparity up to scale and shift only: metric maps must keep their own scale.
    """

    def __init__(self) -> None:
        self._reference: np.ndarray | None = None
        self._noise = np.ones((1, 1))  # variance of the reference's cells relative to a frame's
        self._applied = 1.0, 0.0  # the last scale and shift

    def __call__(self, values: Float[np.ndarray, "h w"], change: Change | None = None) -> Smoothed:
        """Smooths the next map.

        Args:
          values: larger is nearer; not finite where unknown.
          change: of its image, from `Pictures`; None: only the maps are compared.
        """
        new = cells(values).astype(np.float64)
        moved = np.zeros(new.shape, bool) if change is None else change.moved
        before = new if self._reference is None else self._reference
        begins = before is new or before.shape != new.shape or (change is not None and change.cut)
        kind = np.promote_types(values.dtype, np.float32).type
        if change is not None and change.blank and not begins:  # its map is of nothing
            scale, shift = self._applied
            return Smoothed(kind(scale) * values + kind(shift), scale, shift, False)
        found = None if begins else _align(new, before, self._noise, ~moved)
        if found is None:
            self._reference, self._noise = new, np.ones(new.shape)
            self._applied = 1.0, 0.0
            return Smoothed(values, 1.0, 0.0, True)
        scale, shift = PULL + (1 - PULL) * found.scale, (1 - PULL) * found.shift
        aligned = scale * new + shift
        kept = MEMORY * before + (1 - MEMORY) * aligned
        stale = moved | ~np.isfinite(kept)
        self._reference = np.where(stale, aligned, kept)
        self._noise = np.where(stale, 1, MEMORY**2 * self._noise + (1 - MEMORY) ** 2)
        self._applied = scale, shift
        return Smoothed(kind(scale) * values + kind(shift), scale, shift, False)


def _align(
    x: np.ndarray, y: np.ndarray, noise: np.ndarray, still: np.ndarray
) -> scale_shift.Alignment | None:
    """Fits y ≈ scale · x + shift at the still cells; None where they do not fit.

    `noise` is the variance of y's error relative to that of x."""
    usable = still & np.isfinite(x) & np.isfinite(y)
    x, y = x[usable], y[usable]
    if x.size < 3:  # two cells can always be fitted
        return None
    weight = np.ones(x.size)
    there, back = scale_shift.l1(x, y, weight), scale_shift.l1(y, x, weight)
    if there.scale <= 0 or back.scale <= 0 or there.scale * back.scale < MIN_AGREEMENT:
        return None
    # Errors of variance s² make there.scale too small by a share s² / var(x), and 1 / back.scale
    # too large by noise · s² / var(x); with these weights both cancel.
    share = float(np.mean(noise[usable]))
    share = share / (1 + share)
    scale = math.exp(share * math.log(there.scale) - (1 - share) * math.log(back.scale))
    return scale_shift.Alignment(scale, scale_shift.weighted_median(y - scale * x, weight))


class SharedRange:
    """Tracks one colour range over a video in one pass.

    It is the exponential mean of each map's 2nd and 98th percentile, restarted at cuts, and follows
    the scene smoothly within a third of a second."""

    def __init__(self) -> None:
        self._range: np.ndarray | None = None

    def __call__(self, values: Float[np.ndarray, "h w"], restart: bool) -> tuple[float, float]:
        """Updates the range with a map and returns it."""
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
    """Computes the TAE of two consecutive frames of a static camera and scene (Video Depth
    Anything, arXiv 2501.12375).

    (AbsRel(a, b) + AbsRel(b, a)) / 2 with AbsRel(a, b) = mean |a − b| / b, over the pixels where
    both are finite and positive; None without any. The paper warps a to b by the known camera
    motion, which is zero here, and prints a hundred times the mean over the pairs. It is defined
    for depth: convert relative disparity to metres first, all frames by the same scale and shift.
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
    """Computes flicker of disparity up to scale and shift, where ratios have no meaning.

    It is mean |a − b| divided by the spread (98th minus 2nd percentile) of a; None where a is
    constant."""
    usable = np.isfinite(before) & np.isfinite(after)
    if not usable.any():
        return None
    a, b = before[usable].astype(np.float64), after[usable].astype(np.float64)
    low, high = np.percentile(a, [2, 98])
    return float(np.mean(np.abs(a - b)) / (high - low)) if high > low else None


class Flicker:
    """Averages flicker over pairs of consecutive frames, without cuts.

    On a static clip it measures flicker only; in others it includes motion."""

    def __init__(self, *, metric: bool = False):
        """Measures `flicker` of relative maps or `temporal_alignment_error` of metric ones."""
        self._measure = temporal_alignment_error if metric else flicker
        self._last: np.ndarray | None = None
        self._sum, self.pairs = 0.0, 0

    def add(self, values: Float[np.ndarray, "h w"], cut: bool) -> None:
        """Adds the next map, subsampled to a grid of at most about 512 x 512 pixels."""
        step = max(1, max(values.shape) // 512)
        values = np.array(values[::step, ::step])
        if self._last is not None and not cut and self._last.shape == values.shape:
            found = self._measure(self._last, values)
            if found is not None:
                self._sum, self.pairs = self._sum + found, self.pairs + 1
        self._last = values

    @property
    def mean(self) -> float | None:
        """The mean so far; None before two frames have been compared."""
        return self._sum / self.pairs if self.pairs else None
