"""`Depth`: the depth map of one picture, with colours, scale, files and points."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped

from depth_anything_jax.inference import (
    camera_intrinsics,
    depth_files,
    metric_alignment,
    point_cloud,
)
from depth_anything_jax.inference.depth_files import KINDS, METRIC, RELATIVE
from depth_anything_jax.visualization import colorbars, colormaps

GREYS = ("grey", "gray")


@dataclasses.dataclass(frozen=True, eq=False)
class Depth:
    """A depth map at its picture's size; `np.asarray` returns its values.

    Attributes:
      depth: float32 (h, w). Of kind RELATIVE inverse depth up to an unknown scale and shift: larger
        is nearer, 0 is the farthest the model predicts; `1 / depth` is not depth (see
        `align_to`). Of kind METRIC metres along the optical axis: inf is infinite, NaN unknown.
      kind: `depth_files.RELATIVE` ("relative inverse depth") or `depth_files.METRIC` ("metric
        depth").
      image: RGB (h, w, 3) of the picture, uint8, or float32 in 0-1 where it was finer; or None.
      intrinsics: of the picture, or None.
      meta: JSON values that go into files: "model", "licence" of the weights, "network" (height and
        width of its input), "max_depth" (metres at which a metric model's map ends), "notes" (on
        how the picture was read), "alignment" (of `align_to`).
    """

    depth: Float[np.ndarray, "h w"]
    kind: str
    image: Shaped[np.ndarray, "h w 3"] | None = dataclasses.field(default=None, repr=False)
    intrinsics: camera_intrinsics.Intrinsics | None = None
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind={self.kind!r}: one of {', '.join(map(repr, KINDS))}")
        if self.depth.ndim != 2 or not self.depth.size:
            raise ValueError(f"a depth map is (h, w), this is {self.depth.shape}")
        object.__setattr__(self, "depth", np.ascontiguousarray(self.depth, np.float32))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        wanted = self.depth.dtype if dtype is None else np.dtype(dtype)
        if copy is False and wanted != self.depth.dtype:
            raise ValueError(f"float32 cannot become {wanted} without a copy")
        return self.depth.astype(wanted, copy=bool(copy))

    def __repr__(self) -> str:
        h, w = self.depth.shape
        near, far = self.range
        unit = " m" if self.unit else ""
        return f"Depth({h}x{w}, {self.kind}, near {near:.4g}{unit}, far {far:.4g}{unit})"

    @property
    def unit(self) -> str | None:
        """ "m" of metric depth, else None."""
        return "m" if self.kind == METRIC else None

    @property
    def range(self) -> tuple[float, float]:
        """The nearest and the farthest finite value; NaN where there is none."""
        finite = self.depth[np.isfinite(self.depth)]
        if not finite.size:
            return float("nan"), float("nan")
        low, high = float(finite.min()), float(finite.max())
        return (low, high) if self.kind == METRIC else (high, low)

    @property
    def colour_range(self) -> tuple[float, float]:
        """(near, far) at which the colours of `to_pil` end: of relative maps `range`, as in the
        official code; of metric ones the 2nd and 98th percentile, because a few pixels at the
        horizon would otherwise give all others one colour."""
        finite = self.depth[np.isfinite(self.depth)]
        if self.kind == RELATIVE or not finite.size:
            return self.range
        near, far = np.percentile(finite, (2, 98))
        return float(near), float(far)

    def to_pil(
        self,
        colormap: str = "Spectral_r",
        *,
        range: tuple[float, float] | None = None,
        invert: bool = False,
        colorbar: bool = False,
    ) -> Any:
        """Colours the map as a PIL image: near is warm, unknown grey; in grey white and black.

        Args:
          colormap: a name of matplotlib's, or "grey" for an image of mode L.
          range: (near, far), in either order, in the map's own values, at which the colours
            end; give all frames of a video the same. None: `colour_range`.
          invert: near is cold, or black.
          colorbar: adds a labelled bar (in metres, of metric depth) below the picture.

        Raises:
          ValueError: an unknown colour map, or an empty range.
        """
        from PIL import Image

        grey = colormap in GREYS
        near, far = self.colour_range if range is None else map(float, range)
        if (near > far) == (self.kind == METRIC):  # either order is understood
            near, far = far, near
        if range is not None and not (np.isfinite([near, far]).all() and near != far):
            raise ValueError(f"range={range}: two different finite numbers")
        sign = -1 if (self.kind == METRIC) != invert else 1
        values = sign * np.where(np.isposinf(self.depth), np.float32(far), self.depth)
        limits = (min(sign * near, sign * far), max(sign * near, sign * far))
        name = "gray" if grey else colormap
        known = colormaps.colormap_names()
        if name not in known:
            raise ValueError(
                f"colormap={colormap!r} is none of matplotlib's: Spectral_r, inferno, turbo, grey …"
            )
        colours = colormaps.colourise(values, limits=limits, colormap=name)
        if grey:
            colours = np.where(np.isfinite(values), colours[..., 0], np.uint8(0))
        picture = Image.fromarray(colours)
        if colorbar:
            return colorbars.below(picture, name, near, far, self.unit, invert=invert)
        return picture

    def save(
        self, path: str | os.PathLike[str], *, png_scale: float | None = None, invert: bool = False
    ) -> None:
        """Writes the map to a file; `load` reads it back. Metric values are never normalised.

        By suffix:
          .png  16 bits. Relative: the farthest value is 0 and the nearest 65535, near is white;
                scale and offset of the values are in the file's text metadata. Metric:
                metres x png_scale, 0 where there is no finite depth; the scale is in the metadata.
          .npy  float32.
          .npz  float32 "depth", with "kind", "unit" and the rest.
          .pfm  float32, the Middlebury format.
          .exr  float32, channel Z (metric) or Y (relative), attributes; needs the extra [exr].

        Args:
          path: a file; an existing one is replaced only when the new one is complete.
          png_scale: units of a metric PNG in a metre. None: 1000 (millimetres), or where depth goes
            beyond 65.535 m 256 (KITTI's, to 255 m), 100 or 10.
          invert: near is black in a relative PNG.

        Raises:
          ValueError: another suffix; a depth beyond what a PNG of this scale holds; a relative map
            that is not finite into a PNG.
          ImportError: .exr without OpenEXR.
        """
        depth_files.save(self, path, png_scale=png_scale, invert=invert)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, kind: str | None = None) -> Depth:
        """Reads what `save` wrote.

        Args:
          path: the file.
          kind: of .npy and .pfm, which do not hold it; of others only checked.

        Raises:
          ValueError: not a depth map, a file without its kind, another kind.
          OSError: a file that cannot be read.
        """
        return cls(**depth_files.load(path, kind))

    def align_to(
        self, reference: Any, *, robust: bool = False, far: float = metric_alignment.FAR
    ) -> Depth:
        """Converts a relative map to metric depth by a few known distances.

        Finds scale and shift with 1 / metres = scale x depth + shift by least squares. What comes
        out beyond `far`, at infinity or behind the camera is inf.

        Args:
          reference: a depth map in metres at this map's size (lidar, a depth camera), with 0, NaN
            or inf where nothing is known; or points (n, 3): x, y in pixels (column, row; the centre
            of the first pixel is 0, 0), metres along the optical axis.
          robust: least absolute deviations: some of the points may be wrong.
          far: metres.

        Raises:
          ValueError: fewer than two points; points outside the picture; a map that is constant at
            them, or points that are all equally far; a negative scale: near and far disagree;
            distances that are mostly beyond `far`, or integers too large for metres. Also of a
            map that is metric already.
        """
        if self.kind != RELATIVE:
            raise ValueError(
                "this map is in metres already; to correct it, scale its numbers: "
                "dataclasses.replace(d, depth=d.depth * factor)"
            )
        if not far > 0:
            raise ValueError(
                f"far={far}: metres beyond which all counts as infinitely far, above 0"
            )
        found, facts = metric_alignment.fit(self.depth, reference, robust=robust, far=far)
        disparity = found.scale * self.depth.astype(np.float64) + found.shift
        with np.errstate(divide="ignore"):
            depth = np.where(disparity < 1 / far, np.inf, 1 / disparity)  # NaN stays NaN
        meta = {**self.meta, "alignment": facts}
        return dataclasses.replace(self, depth=depth.astype(np.float32), kind=METRIC, meta=meta)

    def to_point_cloud(
        self,
        intrinsics: Any = None,
        *,
        fov: float | None = None,
        image: Any = None,
        edge: float = point_cloud.EDGE,
        far: float | None = None,
        valid: Bool[np.ndarray, "h w"] | None = None,
        relative: bool = False,
    ) -> point_cloud.PointCloud:
        """The pixels in space, in metres, in the camera's axes: x right, y down, z forward.

        Pixels without a finite depth (sky) and at depth edges, where a pixel mixes two surfaces,
        are left out.

        Args:
          intrinsics: (fx, fy, cx, cy) in pixels, or a 3 x 3 matrix.
          fov: else degrees that the picture's longer side sees. Else the focal length in the
            picture's EXIF, else 60 degrees with a warning; `PointCloud.intrinsics` says which.
          image: a picture of the map's size that gives the colours; None: the map's own.
          edge: relative jump of depth to a neighbour from which on both pixels are left out; 0: all
            stay.
          far: points beyond so many units are left out. None: those at the end of a metric model's
            range, as its sky is not infinite; inf: none.
          valid: pixels that may take part.
          relative: takes a relative map as 1 / depth, with its median put at 1: that the shift is 0
            is an assumption, and a wrong shift bends planes. Prefer `align_to`.

        Raises:
          ValueError: a relative map without `relative`; intrinsics, image or mask that do not fit.
        """
        return point_cloud.of_depth(
            self,
            intrinsics=intrinsics,
            fov=fov,
            image=image,
            edge=edge,
            far=far,
            valid=valid,
            relative=relative,
        )
