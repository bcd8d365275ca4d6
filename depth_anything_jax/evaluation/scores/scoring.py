"""Scores predictions against labelled records under a protocol.

    image = scoring.score(prediction, "disparity-affine", record, protocol)
    means = aggregate.means(images, protocol.aggregate)

A prediction holds disparity for the kind "disparity-affine" and depth for the others, at any
resolution, for the view that the network received. Records are those of labelled sources and
evaluation sets: valid, and depth in metres or disparity in no known unit.

Predictions that are not finite are excluded from the fit but count in every metric, so that
omitting hard pixels never improves a score: an infinite depth becomes the largest depth that the
protocol allows (the cap, or else the label's largest), an infinite disparity and NaN the smallest.
Where depth is inverted, a depth of zero or below has an infinite disparity; elsewhere it is treated
as in `metrics.errors`. A constant prediction becomes the best-fitting constant, in the space of the
fit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Num

from depth_anything_jax.evaluation import protocols
from depth_anything_jax.evaluation.protocols.protocol import Protocol
from depth_anything_jax.evaluation.scores import boundary as boundaries
from depth_anything_jax.evaluation.scores import metrics
from depth_anything_jax.evaluation.scores.aggregate import BOUNDARIES, NAN, ImageScores
from depth_anything_jax.utils import interpolation, scale_shift
from depth_anything_jax.utils.scale_shift import Alignment

# Pixels that an alignment is fitted on, as flat indices: `Protocol.align_on`.
_SAMPLES = {
    "grid-64": lambda valid: scale_shift.grid(valid, 64),
    "windows-64": lambda valid: scale_shift.windows(valid, 64),
    "thin-1024": lambda valid: scale_shift.thin(valid, 1024),
    "thin-1024-columns": lambda valid: scale_shift.thin(valid, 1024, rows=False),
}

Record = Mapping[str, Any]
Map = Num[np.ndarray, "h w"]


class Target(NamedTuple):
    """A label after the protocol's frame, crop and caps.

    Attributes:
      valid: pixels that are scored.
      depth: metres at those pixels, None for labels of disparity in an unknown unit.
      disparity: the same pixels in 1/m, or in the label's unit.
    """

    valid: Bool[np.ndarray, "H W"]
    depth: Float[np.ndarray, " n"] | None
    disparity: Float[np.ndarray, " n"]


def target(record: Record, protocol: Protocol) -> Target:
    """Applies the protocol's frame, crop, range and caps to a record's label."""
    stored = record["depth"] if "depth" in record else record["disparity"]
    rows, columns = protocols.window(protocol.frame, *stored.shape)
    values, valid = stored[rows, columns], record["valid"][rows, columns]
    inside = np.zeros_like(valid)
    inside[protocols.window(protocol.crop, *valid.shape)] = True
    valid = valid & inside & np.isfinite(values)
    if "depth" not in record:
        return Target(valid, None, values[valid].astype(np.float64))
    if protocol.cap_mode == "clip" and record.get("sky") is not None:
        sky = record["sky"][rows, columns] & inside
        values = np.where(sky & ~valid, np.float32(np.inf), values)
        valid = valid | sky
    at = np.flatnonzero(valid)
    depth = values.ravel()[at].astype(np.float64)
    if protocol.label_step:
        depth = np.minimum(np.floor(depth / protocol.label_step), 65535) * protocol.label_step
    keep = _in_range(depth, protocol)
    if protocol.outlier_ratio and keep.any():
        keep &= depth <= protocol.outlier_ratio * np.quantile(depth[keep], 0.01)
    if protocol.cap_mode == "clip":
        depth = np.minimum(depth, protocol.max_depth)
    if not keep.all():
        valid, depth = valid.copy(), depth[keep]
        valid.ravel()[at[~keep]] = False
    return Target(valid, depth, 1 / depth)


def _in_range(depth: np.ndarray, protocol: Protocol) -> np.ndarray:
    # Labels are float32, so the bounds are rounded to float32 as well.
    if protocol.cap_mode == "keep":
        return depth > 0
    low, high = (float(np.float32(v)) for v in (protocol.min_depth, protocol.max_depth))
    if protocol.strict:
        keep, inside = depth > low, depth < high
    else:
        keep, inside = (depth >= low) & (depth > 0), depth <= high
    return keep if protocol.cap_mode == "clip" else keep & inside


def to_label(
    prediction: Map, record: Record, protocol: Protocol, *, whole: bool = False
) -> Float[np.ndarray, "H W"]:
    """Resizes a prediction to the label's frame, in float64.

    Args:
      prediction: for the view that the network received: the frame with the protocol's padding.
      whole: whether it covers the whole image instead, without padding, as other tools' files do;
        it is then cropped to the frame.
    """
    stored = record["depth"] if "depth" in record else record["disparity"]
    size = stored.shape
    rows, columns = protocols.window(protocol.frame, *size)
    if whole:
        return interpolation.resize(prediction, size, protocol.resize)[rows, columns]
    height, width = len(range(size[0])[rows]), len(range(size[1])[columns])
    if protocol.pad == "none":
        return interpolation.resize(prediction, (height, width), protocol.resize)
    above, left = padding(height), padding(width)
    padded = (height + 2 * above, width + 2 * left)
    full = interpolation.resize(prediction, padded, protocol.resize)
    return full[above : above + height, left : left + width]


def on_whole_label(prediction: Map, record: Record, protocol: Protocol) -> Float[np.ndarray, "H W"]:
    """A prediction of the protocol's frame on the whole label, NaN outside the frame."""
    stored = record["depth"] if "depth" in record else record["disparity"]
    whole = np.full(stored.shape, NAN)
    whole[protocols.window(protocol.frame, *stored.shape)] = to_label(prediction, record, protocol)
    return whole


def padding(side: int) -> int:
    """Number of pixels by which ZoeDepth's inference pads each end of a side, by reflection."""
    return int(math.sqrt(side / 2) * 3)


def convert(values: Map, kind: str, view: str) -> Map:
    """Converts a prediction of one kind to a less specific one (`protocol.VIEWS`).

    Raises:
      ProtocolError: the prediction lacks what the view needs.
    """
    protocols.check_view(kind, view)
    both_disparity = kind == view == "disparity-affine"
    return values if view != "disparity-affine" or both_disparity else _inverse(values)


def _inverse(depth: np.ndarray) -> np.ndarray:
    """1 / depth, without a unit: inf for 0 and below, −inf for an infinite depth, NaN for NaN."""
    with np.errstate(divide="ignore", over="ignore"):
        disparity = np.where(depth > 0, 1 / depth, np.inf)
    finite = np.isfinite(depth)
    return disparity if finite.all() else np.where(finite, disparity, -depth)


def in_space(x: np.ndarray, kind: str, protocol: Protocol) -> np.ndarray:
    """Converts predictions to the space in which they are aligned, and to the protocol's floor."""
    if protocol.alignment == "lsq-disparity" and kind != "disparity-affine":
        x = _inverse(x)
    if protocol.prediction_floor:
        x = np.where(np.isfinite(x), np.maximum(x, protocol.prediction_floor), x)
    return x


def _fitted_values(found: Target, protocol: Protocol) -> np.ndarray:
    """The label's values in the space of the fit."""
    in_disparity = protocol.alignment == "lsq-disparity"
    return found.disparity if in_disparity or found.depth is None else found.depth


def _solve(x: np.ndarray, found: Target, protocol: Protocol) -> Alignment:
    """Fits the alignment of predictions at a target's pixels."""
    if protocol.alignment == "none":
        return scale_shift.NONE
    y = _fitted_values(found, protocol)
    if protocol.align_on != "all":
        pick = _SAMPLES[protocol.align_on](found.valid)
        position = np.zeros(found.valid.size, np.int64)
        position[found.valid.ravel()] = np.arange(y.size)
        if pick.size:  # a sample may contain none of a few valid pixels: then all are used
            x, y = x[position[pick]], y[position[pick]]
    if not np.isfinite(x).any():
        x = np.zeros_like(x)  # treated like a constant prediction
    # The solvers are resolved by name at each call, so that a test can replace them.
    solver = {
        "median": lambda: scale_shift.median_scale(x, y),
        "lsq-disparity": lambda: scale_shift.least_squares(x, y),
        "lsq-depth": lambda: scale_shift.least_squares(x, y),
        "lsq-depth-scale": lambda: scale_shift.least_squares_scale(x, y),
        "l1-depth": lambda: scale_shift.l1(x, y, 1 / y),
        "l1-depth-scale": lambda: scale_shift.l1_scale(x, y, 1 / y),
    }
    return solver[protocol.alignment]()


def aligned_depth(
    x: Float[np.ndarray, "*s"], alignment: Alignment, protocol: Protocol, farthest: float
) -> Float[np.ndarray, "*s"]:
    """Converts predictions in the space of the alignment to metres: scale, shift, floor, clamp.

    Args:
      farthest: the label's largest valid depth.
    """
    near = max(protocol.min_depth, metrics.TINY)
    far = protocol.max_depth if math.isfinite(protocol.max_depth) else farthest
    with np.errstate(invalid="ignore"):
        depth = alignment.scale * x + alignment.shift
        if protocol.alignment == "lsq-disparity":
            floor = protocol.disparity_floor
            if isinstance(floor, str):
                floor = 1 / (protocol.max_depth if floor == "cap" else farthest)
            depth = 1 / np.maximum(depth, floor, out=depth)
    bad = ~np.isfinite(x)
    if bad.any():
        depth[bad] = np.clip(np.nan_to_num(depth[bad], nan=near, posinf=far), near, far)
    if protocol.clamp:
        np.clip(depth, near, protocol.max_depth, out=depth)
    return depth


def unscored(record: Record, protocol: protocols.Switches) -> ImageScores:
    """The entry of an image that has not been scored."""
    sequence = record.get("sequence", record.get("scene", ""))
    return ImageScores(record["key"], record.get("dataset", ""), sequence, protocol=protocol.hash)


def score(
    prediction: Map,
    kind: str,
    record: Record,
    protocol: Protocol,
    *,
    alignment: Alignment | None = None,
    boundary: bool = False,
    whole: bool = False,
) -> ImageScores:
    """Scores one prediction against a record.

    Args:
      prediction: see `to_label`; disparity for "disparity-affine", depth for other kinds.
      kind: one of protocol.KINDS.
      record: of a labelled source.
      protocol: for this record's set and domain, and for the kind.
      alignment: of a whole sequence, fitted before; None: it is fitted to this image.
      boundary: whether to compute boundary F1, which costs more than everything else.
      whole: see `to_label`.

    Raises:
      ProtocolError: the alignment does not suit the kind, or a label without metres.
    """
    protocol.check_kind(kind)
    found = target(record, protocol)
    blank = unscored(record, protocol)._replace(label_depth=_typical_depth(record))
    n = found.disparity.size
    if n < protocol.min_valid:
        return blank._replace(n=n, why=f"{n} valid pixels, {protocol.min_valid} are needed")
    if found.depth is None and protocol.alignment != "lsq-disparity":
        raise protocols.ProtocolError(
            f"{record['key']}: alignment {protocol.alignment!r} needs depth in metres, and the "
            "label is disparity without a unit; use 'lsq-disparity'"
        )
    full = to_label(prediction, record, protocol, whole=whole)
    raw = full[found.valid]
    x = in_space(raw, kind, protocol)
    a = _solve(x, found, protocol) if alignment is None else alignment
    disparity = _inverse(raw) if kind in ("depth-scale", "metric") else raw
    norm_l1 = NAN if kind == "depth-affine" else _normalised_l1(disparity, found.disparity)
    scores = blank._replace(
        norm_l1=norm_l1,
        scale=a.scale,
        shift=a.shift,
        n=n,
        not_finite=x.size - int(np.count_nonzero(np.isfinite(raw))),
        not_positive=int(np.count_nonzero(raw <= 0)) if kind in ("depth-scale", "metric") else 0,
        constant=int((raw == raw[0]).all()),
        correlation=scale_shift.correlation(x, _fitted_values(found, protocol)),
    )
    if found.depth is None:
        return _in_units_of_the_label(scores, x, a, found, protocol)
    farthest = float(found.depth.max())
    depth = aligned_depth(x, a, protocol, farthest)
    if protocol.space == "depth":
        errors = metrics.errors(depth, found.depth)
    else:
        errors = metrics.errors(1 / np.maximum(depth, metrics.TINY), found.disparity)
        errors = errors._replace(i_rmse=1000 * errors.rmse)
    scores = scores._replace(**errors._asdict())
    if boundary:
        pred = aligned_depth(in_space(full, kind, protocol), a, protocol, farthest)
        truth = np.ones(found.valid.shape)
        truth[found.valid] = found.depth
        definition = boundaries.DEFINITIONS[protocol.boundary]
        f1 = definition(pred, truth, found.valid, radii=tuple(BOUNDARIES.values()))
        scores = scores._replace(boundary1=f1[0], boundary2=f1[1], boundary3=f1[2])
    return scores


def _typical_depth(record: Record) -> float:
    """The median of some 100,000 of a label's valid depths, whatever the protocol's range is."""
    if "depth" not in record:
        return NAN
    at = np.flatnonzero(record["valid"])
    at = at[:: max(1, at.size // 100_000)]
    return float(np.median(record["depth"].ravel()[at])) if at.size else NAN


def _normalised_l1(x: np.ndarray, y: np.ndarray) -> float:
    """Normalised L1 of disparities. NaN and inf become the largest finite value, −inf the least."""
    finite = np.isfinite(x)
    if not finite.all():
        some = x[finite] if finite.any() else np.zeros(1)
        x = np.nan_to_num(x, nan=np.max(some), posinf=np.max(some), neginf=np.min(some))
    return metrics.normalised_l1(x[None], y[None], np.ones((1, x.size), bool))


def _in_units_of_the_label(
    scores: ImageScores, x: np.ndarray, a: Alignment, found: Target, protocol: Protocol
) -> ImageScores:
    """Adds metrics against a disparity label without a unit, if the protocol's space has them."""
    positive = found.disparity > 0  # a disparity of 0 (infinitely far, in stereo) has no ratio
    if protocol.space == "depth" or not positive.any():
        return scores
    values = np.nan_to_num(a.scale * x + a.shift, nan=0.0, posinf=0.0, neginf=0.0)
    errors = metrics.errors(values[positive], found.disparity[positive])
    return scores._replace(**errors._asdict())._replace(i_rmse=NAN, n=int(positive.sum()))


def score_sequence(
    predictions: Sequence[Map],
    kind: str,
    records: Sequence[Record],
    protocol: Protocol,
    *,
    boundary: bool = False,
    whole: bool = False,
) -> list[ImageScores]:
    """Scores the frames of one sequence with one scale and shift for all of them.

    Only the sums of the fit are kept in memory, not the pixels, so both sequences are read twice.
    """
    protocol.check_kind(kind)
    parts = []
    for prediction, record in zip(predictions, records, strict=True):
        found = target(record, protocol)
        if found.disparity.size < protocol.min_valid or protocol.alignment == "none":
            continue
        full = to_label(prediction, record, protocol, whole=whole)
        x = in_space(full[found.valid], kind, protocol)
        y = found.depth if protocol.alignment.startswith("lsq-depth") else found.disparity
        if np.isfinite(x).any() and y is not None:
            parts.append(scale_shift.moments(x, y))
    shared = scale_shift.NONE
    if protocol.alignment != "none":
        with_shift = protocol.alignment != "lsq-depth-scale"
        shared = (
            scale_shift.solve(scale_shift.merge(parts), shift=with_shift)
            if parts
            else Alignment(0.0, 0.0)
        )
    return [
        score(p, kind, r, protocol, alignment=shared, boundary=boundary, whole=whole)
        for p, r in zip(predictions, records, strict=True)
    ]


def truth(record: Record, kind: str, protocol: Protocol) -> Float[np.ndarray, "H W"]:
    """Converts a label to a perfect prediction of a kind under a protocol; NaN where not valid.

    It must score AbsRel 0 and δ1 1, up to rounding, under every protocol.
    """
    found = target(record, protocol)
    values = found.disparity if kind == "disparity-affine" else found.depth
    if values is None:
        raise protocols.ProtocolError(f"{record['key']}: a label of disparity gives no depth")
    out = np.full(found.valid.shape, NAN)
    out[found.valid] = values
    return out
