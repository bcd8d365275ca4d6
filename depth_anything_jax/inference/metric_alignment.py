"""Fits scale and shift of a relative map to known distances."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from depth_anything_jax.utils import scale_shift

MOST = 64 * 64  # points of a dense reference that the robust fit looks at, spread evenly
# Metres. At 1 km a relative map that spans 1 m to infinity has a thousandth of its range left, less
# than its own error; what lies beyond is taken for sky. Our choice.
FAR = 1000.0
MOST_INTEGER = 255.0  # metres in a map of integers: no sensor gives whole metres. Our choice
FLAT = 1e-6  # of its largest value: a spread that is rounding, and no information


def fit(
    relative: Float[np.ndarray, "h w"],
    reference: Any,
    *,
    robust: bool = False,
    far: float = FAR,
) -> tuple[scale_shift.Alignment, dict[str, Any]]:
    """Fits 1 / metres = scale * relative + shift; returns the fit and its facts for metadata.

    Args:
      relative: inverse depth up to scale and shift.
      reference: a map of metres at the same size, or points (n, 3) of column, row, metres.
      robust: least absolute deviations, of at most 64 x 64 points.
      far: metres, see `Depth.align_to`.

    Raises:
      ValueError: see `Depth.align_to`.
    """
    try:
        known = np.asarray(reference, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the reference is no array of numbers: {error}") from error
    if known.shape == relative.shape:
        _refuse_integers(reference, known)
        valid = np.isfinite(known) & (known > 0) & np.isfinite(relative)
        chosen = (
            scale_shift.grid(valid, 64) if robust and valid.sum() > MOST else np.flatnonzero(valid)
        )
        x, metres = relative.ravel()[chosen], known.ravel()[chosen]
    elif known.ndim == 2 and known.shape[1] == 3:
        x, metres = _at_points(relative, known)
    else:
        raise ValueError(
            f"a reference {known.shape} fits no map {relative.shape}: give a depth map of that "
            "size, 0 where nothing is known, or points (n, 3) of x, y (pixels) and metres"
        )
    if len(x) < 2:
        raise ValueError(
            f"{len(x)} known distances: scale and shift need two or more, at different distances"
        )
    x, y = x.astype(np.float64), 1 / metres
    for name, values in (("the map", x), ("the reference", y)):
        if np.ptp(values) <= FLAT * np.abs(values).max():
            raise ValueError(
                f"{name} has one value at all {len(x)} known distances, which leaves scale and "
                "shift open; add points nearer and farther"
            )
    middle = float(np.median(metres))
    if middle > far:
        raise ValueError(
            f"the median of the known distances is {middle:g} m, and beyond far={far:g} m all "
            "counts as infinitely far: are they millimetres (divide by 1000)? Else raise far"
        )
    found = scale_shift.l1(x, y, np.ones_like(x)) if robust else scale_shift.least_squares(x, y)
    if not found.scale > 0:
        raise ValueError(
            f"the scale comes out as {found.scale:.3g}: where the map is nearer the reference is "
            "farther. The reference is depth in metres (larger is farther), points are x (column), "
            "y (row), metres"
        )
    fitted = found.scale * x + found.shift
    with np.errstate(divide="ignore"):
        off = np.where(fitted > 0, np.abs(1 / fitted - metres) / metres, np.inf)
    facts = {
        "scale": found.scale,
        "shift": found.shift,
        "points": len(x),
        "robust": robust,
        "median_relative_error": float(np.median(off)),
    }
    return found, facts


def _refuse_integers(reference: Any, known: Float[np.ndarray, "h w"]) -> None:
    """Depth cameras and PNGs hold millimetres, or 1/256 m, as integers."""
    kind = np.asarray(reference).dtype
    largest = float(np.max(known, initial=0))
    if kind.kind in "iu" and largest > MOST_INTEGER:
        raise ValueError(
            f"the reference is a map of {kind} up to {largest:g}, which are hardly metres: divide "
            "it by its units per metre (1000 of millimetres, 256 of KITTI's PNGs)"
        )


def _at_points(
    relative: Float[np.ndarray, "h w"], points: Float[np.ndarray, "n 3"]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the map's values at the nearest pixels of points, and the points' metres."""
    h, w = relative.shape
    columns, rows = np.round(points[:, :2]).T
    bad = ~(np.isfinite(points).all(1) & (points[:, 2] > 0))
    outside = ~((columns >= 0) & (columns < w) & (rows >= 0) & (rows < h))
    for mask, problem in (
        (bad, "have no distance above 0"),
        (outside, f"lie outside the picture of {w} columns and {h} rows"),
    ):
        if mask.any():
            first = int(np.flatnonzero(mask)[0])
            raise ValueError(
                f"{int(mask.sum())} of {len(points)} points {problem}, the first is point {first}: "
                f"{points[first].tolist()} (x, y, metres)"
            )
    x = relative[rows.astype(int), columns.astype(int)]
    finite = np.isfinite(x)
    return x[finite], points[finite, 2]
