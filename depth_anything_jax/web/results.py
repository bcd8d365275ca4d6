"""Stores the depth of a photo between the requests of the page, and describes it in words."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re

import numpy as np

from depth_anything_jax.inference import camera_intrinsics, point_cloud
from depth_anything_jax.inference.depth import Depth
from depth_anything_jax.video import process
from depth_anything_jax.web import points_view

STEPS = 200  # of a slider in metres


@dataclasses.dataclass(frozen=True)
class Metres:
    """The sliders of a map in metres; they begin at 0.

    Attributes:
      most: their end.
      near, far: at which the colours end.
      clip: beyond which points are left out.
    """

    most: float
    near: float
    far: float
    clip: float

    @property
    def step(self) -> float:
        """Of the sliders."""
        return self.most / STEPS


@dataclasses.dataclass(frozen=True)
class Result:
    """Location and description of a photo's depth.

    Attributes:
      folder: of its files.
      stem: the beginning of their names.
      text: Markdown shown to the user.
      size: (h, w) of the map.
      metres: sliders of a metric map, None of a relative one and of one without finite values.
    """

    folder: pathlib.Path
    stem: str
    text: str
    size: tuple[int, int]
    metres: Metres | None

    def path(self, end: str) -> pathlib.Path:
        """Of a file of this result."""
        return self.folder / f"{self.stem}{end}"


def keep(depth: Depth, folder: pathlib.Path, stem: str, text: str) -> Result:
    """Stores a map in a folder of its own; returns how to find and show it."""
    # Raw arrays are read and written at the disk's speed.
    np.save(folder / "depth.npy", depth.depth)
    np.save(folder / "photo.npy", np.asarray(depth.image))
    seen = None if depth.intrinsics is None else list(depth.intrinsics)
    facts = {"kind": depth.kind, "intrinsics": seen, "meta": dict(depth.meta)}
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
    h, w = depth.depth.shape
    return Result(folder, stem, text, (h, w), _metres(depth))


def read(folder: pathlib.Path) -> Depth:
    """Reads what `keep` stored."""
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    seen = facts["intrinsics"]
    return Depth(
        np.load(folder / "depth.npy"),
        facts["kind"],
        image=np.load(folder / "photo.npy"),
        intrinsics=None if seen is None else camera_intrinsics.Intrinsics(*seen),
        meta=facts["meta"],
    )


def stem_of(name: str) -> str:
    """The stem of a file name, reduced to safe characters."""
    return re.sub(r"[^\w.-]+", "_", pathlib.PurePath(name).stem).strip("._-")[:60] or "upload"


def _metres(depth: Depth) -> Metres | None:
    near, far = depth.colour_range
    if depth.unit is None or not (np.isfinite([near, far]).all() and near < far):
        return None
    clip = points_view.clip(depth)
    # Up to the farthest value a slider would be useless where an aligned sky lies at 900 m.
    most = min(depth.range[1], 1.5 * max(far, clip))
    values = most, near, min(far, most), min(clip, most)
    return Metres(*(float(f"{value:.4g}") for value in values))


def about(depth: Depth) -> str:
    """Describes a map."""
    h, w = depth.depth.shape
    if depth.unit is None:
        return (
            f"**{w} × {h}, relative inverse depth**: larger is nearer. Its scale and shift are "
            "unknown, so it cannot be converted to metres without known distances."
        )
    near, far = depth.range
    text = (
        f"**{w} × {h}, metres along the optical axis**: nearest {near:.3g} m, farthest {far:.3g} m."
    )
    fit = depth.meta.get("alignment")
    return f"{text} Fitted to {fit['points']} known distances." if fit else text


def about_value(depth: Depth, column: int, row: int) -> str:
    """The value of a map at a pixel, in words."""
    h, w = depth.depth.shape
    place = f"column {column}, row {row}"
    if not (0 <= column < w and 0 <= row < h):
        return f"{place}: outside the photo"
    value = float(depth.depth[row, column])
    if depth.unit:
        return f"{place}: **{value:.3g} m**" if np.isfinite(value) else f"{place}: no distance"
    far, near = sorted(depth.range)
    share = (value - far) / (near - far) if near > far else float("nan")
    return f"{place}: **{value:.4g}** ({100 * share:.0f} % of the way from farthest to nearest)"


def about_points(points: point_cloud.PointCloud, step: int) -> str:
    """Describes points of every `step`th pixel."""
    unit = "in metres" if points.unit else "without unit: 1 is the median distance"
    each = "" if step == 1 else f", one of {step} × {step} pixels"
    text = f"{len(points):,} points {unit}{each}. Focal length: {points.intrinsics.source}"
    if points.intrinsics.source == "guess":
        text += f" ({camera_intrinsics.DEFAULT_FOV:.0f}°; give the field of view if you know it)"
    return text + (f". Assumed: {points.note}." if points.note else ".")


def about_video(report: process.Report, cut: float | None) -> str:
    """Describes a video of which only the first `cut` seconds were processed; None: all."""
    parts = [f"{report.frames} frames at {report.rate:.3g} per second."]
    if cut is not None:
        parts.append(f"Only the first {cut:g} seconds were processed, the limit of this server.")
    if report.flicker_before is not None and report.flicker_after is not None:
        parts.append(
            f"Flicker {report.flicker_before:.4f} before smoothing, "
            f"{report.flicker_after:.4f} after; {len(report.cuts)} cuts."
        )
    parts += [f"{note}." for note in (*report.notes, *report.problems)]
    return " ".join(parts)
