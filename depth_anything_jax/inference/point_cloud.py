"""Converts depth maps to point clouds and writes these as PLY and GLB."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import struct
import warnings
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from depth_anything_jax.inference import camera_intrinsics, depth_files, images
from depth_anything_jax.inference.depth_files import METRIC, DepthMap

EDGE = 0.04  # relative jump to a neighbour: MoGe's point clouds end surfaces there
SUFFIXES = (".ply", ".glb")
# Of the median: smaller inverse depth is within the error of relative models and taken for sky. Our
# choice.
SKY = 0.01
END = 0.99  # of its `max_depth`: beyond, a metric model cannot tell sky from walls. Our choice
_ASSUMED = (
    "depth = 1 / (relative inverse depth), with its median at 1: a shift of 0 is assumed, "
    "proportions along the view are a guess"
)


@dataclasses.dataclass(frozen=True, eq=False)
class PointCloud:
    """Points in the camera's axes: x right, y down, z forward, from the optical centre.

    Attributes:
      points: (n, 3) in `unit`.
      colours: RGB (n, 3), or None.
      unit: "m", or None where the scale is unknown.
      intrinsics: used to compute the points.
      note: assumptions, for files.
    """

    points: Float[np.ndarray, "n 3"]
    colours: UInt8[np.ndarray, "n 3"] | None
    unit: str | None
    intrinsics: camera_intrinsics.Intrinsics
    note: str = ""

    def __len__(self) -> int:
        return len(self.points)

    def __repr__(self) -> str:
        return f"PointCloud({len(self):,} points, unit {self.unit}, {self.intrinsics})"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the points to a file; an existing one is replaced.

        .ply is binary, in the camera's axes, with unit and intrinsics as comments. .glb is glTF's
        binary form, which fixes metres and axes: x right, y up, z towards the viewer.

        Raises:
          ValueError: another suffix, or no points.
        """
        path = pathlib.Path(path).expanduser()
        suffix = path.suffix.lower()
        if suffix not in SUFFIXES:
            raise ValueError(f"{path}: points are saved as {' or '.join(SUFFIXES)}")
        if not len(self):
            raise ValueError(
                f"{path}: there is no point to save: all pixels are sky, at depth edges or beyond "
                "`far`; edge=0 keeps those at edges"
            )
        with depth_files.replaced(path) as part:
            part.write_bytes(_ply(self) if suffix == ".ply" else _glb(self))


def of_depth(
    depth: DepthMap,
    *,
    intrinsics: Any,
    fov: float | None,
    image: Any,
    edge: float,
    far: float | None,
    valid: np.ndarray | None,
    relative: bool,
) -> PointCloud:
    """See `Depth.to_point_cloud`."""
    values, note = depth.depth, ""
    if depth.kind != METRIC:
        if not relative:
            raise ValueError(
                "this map is inverse depth up to an unknown scale and shift, of which no shape in "
                "space follows: align_to known distances first, use a metric model, or pass "
                f"relative=True, which assumes: {_ASSUMED}"
            )
        values, note = _assumed(values), _ASSUMED
    if edge < 0 or (far is not None and not far > 0):
        raise ValueError(f"edge={edge}, far={far}: edge is 0 or more, far above 0")
    how = _intrinsics(depth, intrinsics, fov)
    keep = np.isfinite(values) & (values > 0)
    if edge:
        keep &= ~edges(values, edge)
    if far is None and "max_depth" in depth.meta:
        far = END * depth.meta["max_depth"]
    if far is not None:
        keep &= values <= far
    if valid is not None:
        _check_size("valid", valid, values)
        keep &= valid.astype(bool)
    colours = depth.image if image is None else images.read(image).pixels
    if colours is not None:
        _check_size("image", colours, values)
        colours = colours[keep]
        if colours.dtype != np.uint8:
            colours = np.round(255 * np.clip(colours, 0, 1)).astype(np.uint8)
    rows, columns = (np.arange(n) for n in values.shape)
    across = ((columns - how.cx) / how.fx).astype(np.float32)
    down = ((rows - how.cy) / how.fy).astype(np.float32)
    with np.errstate(invalid="ignore"):  # 0 times infinity, of pixels that are not kept
        sides = [values * across, values * down[:, None], values]
    points = np.stack([side[keep] for side in sides], axis=1)
    return PointCloud(points, colours, depth.unit, how, note)


def _assumed(relative: np.ndarray) -> np.ndarray:
    near = relative[np.isfinite(relative) & (relative > 0)]
    if not near.size:
        raise ValueError("no pixel of the map lies nearer than infinity")
    with np.errstate(divide="ignore"):
        median = np.median(near)
        return np.where(relative > SKY * median, median / relative, np.inf).astype(np.float32)


def _intrinsics(
    depth: DepthMap, intrinsics: Any, fov: float | None
) -> camera_intrinsics.Intrinsics:
    if intrinsics is not None and fov is not None:
        raise ValueError("intrinsics and fov say the same thing; give one of them")
    if intrinsics is not None:
        return camera_intrinsics.given(intrinsics)
    if fov is not None:
        return camera_intrinsics.of_fov(fov, depth.depth.shape)
    if depth.intrinsics is not None:
        return depth.intrinsics
    warnings.warn(
        "the focal length is unknown: the longer side is assumed to see "
        f"{camera_intrinsics.DEFAULT_FOV:g} degrees; pass intrinsics or fov, or the points are "
        "stretched along the view",
        stacklevel=4,
    )
    return camera_intrinsics.of_fov(camera_intrinsics.DEFAULT_FOV, depth.depth.shape, "guess")


def _check_size(name: str, given: np.ndarray, values: np.ndarray) -> None:
    if given.shape[:2] != values.shape:
        raise ValueError(f"{name} is {given.shape[:2]}, the map {values.shape}: they must be equal")


def edges(depth: Float[np.ndarray, "h w"], jump: float) -> Bool[np.ndarray, "h w"]:
    """Pixels of which a neighbour (left, right, above, below) is farther or nearer by more than
    `jump` of the nearer one; an infinite or unknown neighbour is no edge by itself."""
    found = np.zeros(depth.shape, bool)
    for axis in (0, 1):
        before, after = (
            depth[tuple(part if a == axis else slice(None) for a in (0, 1))]
            for part in (slice(None, -1), slice(1, None))
        )
        with np.errstate(invalid="ignore"):
            step = np.abs(before - after) > jump * np.minimum(before, after)
        step &= np.isfinite(before) & np.isfinite(after)
        for part in (slice(None, -1), slice(1, None)):
            found[tuple(part if a == axis else slice(None) for a in (0, 1))] |= step
    return found


def _ply(cloud: PointCloud) -> bytes:
    fields = [(name, "<f4") for name in "xyz"]
    if cloud.colours is not None:
        fields += [(name, "u1") for name in ("red", "green", "blue")]
    vertices = np.empty(len(cloud), fields)
    for i, name in enumerate("xyz"):
        vertices[name] = cloud.points[:, i]
    if cloud.colours is not None:
        for i, name in enumerate(("red", "green", "blue")):
            vertices[name] = cloud.colours[:, i]
    kinds = {"<f4": "float", "u1": "uchar"}
    lines = [
        "ply",
        "format binary_little_endian 1.0",
        f"comment unit: {'metres' if cloud.unit else 'unknown'}",
        "comment axes: x right, y down, z forward",
        f"comment intrinsics: {cloud.intrinsics}",
        *([f"comment {cloud.note}"] if cloud.note else []),
        f"element vertex {len(cloud)}",
        *(f"property {kinds[kind]} {name}" for name, kind in fields),
        "end_header\n",
    ]
    return "\n".join(lines).encode("ascii") + vertices.tobytes()


def _glb(cloud: PointCloud) -> bytes:
    """glTF 2.0, binary: one primitive of points, colours linear in 16 bits as glTF defines them."""
    points = (cloud.points * np.array([1, -1, -1], np.float32)).astype("<f4")
    views = [points.tobytes()]
    float32, uint16, array_buffer = 5126, 5123, 34962
    accessors: list[dict[str, Any]] = [
        {
            "bufferView": 0,
            "componentType": float32,
            "count": len(cloud),
            "type": "VEC3",
            "min": points.min(0).tolist(),
            "max": points.max(0).tolist(),
        }
    ]
    attributes = {"POSITION": 0}
    if cloud.colours is not None:
        colours = np.full((len(cloud), 4), 65535, "<u2")
        colours[:, :3] = _LINEAR[cloud.colours]
        views.append(colours.tobytes())
        accessors.append(
            {
                "bufferView": 1,
                "componentType": uint16,
                "normalized": True,
                "count": len(cloud),
                "type": "VEC4",
            }
        )
        attributes["COLOR_0"] = 1
    data = b"".join(views)
    starts = [0, len(views[0])]
    unlit = "KHR_materials_unlit"  # points have no normals to light
    scene = {
        "asset": {"version": "2.0", "generator": "depth_anything_jax"},
        "extensionsUsed": [unlit],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "materials": [{"extensions": {unlit: {}}}],
        "meshes": [{"primitives": [{"attributes": attributes, "mode": 0, "material": 0}]}],
        "accessors": accessors,
        "bufferViews": [
            {
                "buffer": 0,
                "byteOffset": start,
                "byteLength": len(view),
                "target": array_buffer,
            }
            for start, view in zip(starts, views, strict=False)
        ],
        "buffers": [{"byteLength": len(data)}],
        "extras": {
            "unit": cloud.unit,
            "intrinsics": str(cloud.intrinsics),
            "note": cloud.note,
        },
    }
    head = json.dumps(scene).encode("ascii")
    head += b" " * (-len(head) % 4)
    data += b"\0" * (-len(data) % 4)
    chunks = struct.pack("<I4s", len(head), b"JSON") + head
    chunks += struct.pack("<I4s", len(data), b"BIN\0") + data
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def _linear() -> np.ndarray:
    """sRGB in 8 bits → linear in 16 (IEC 61966-2-1)."""
    x = np.arange(256) / 255
    linear = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    return np.round(65535 * linear).astype(np.uint16)


_LINEAR = _linear()
