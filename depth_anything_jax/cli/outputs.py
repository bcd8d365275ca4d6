"""Writes the output files of the predict program for images, and names those of videos."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
from typing import Any

import numpy as np

from depth_anything_jax.inference import depth_files, point_cloud
from depth_anything_jax.inference.depth import Depth
from depth_anything_jax.inference.depth_files import METRIC, RELATIVE

# format: suffix of the file
PICTURES = {
    "png16": ".depth.png",
    "npy": ".depth.npy",
    "npz": ".depth.npz",
    "pfm": ".depth.pfm",
    "exr": ".depth.exr",
    "color": ".color.png",
    "side-by-side": ".side-by-side.png",
    "ply": ".ply",
    "glb": ".glb",
}
VIDEOS = {"png16": ".depth.mkv", "color": ".color.mp4", "side-by-side": ".side-by-side.mp4"}
_VIDEO_STYLES = {"png16": "depth16"}  # formats that have another name in video.process
COLOURED = ("color", "side-by-side")
CLOUDS = ("ply", "glb")
GAP = 8  # white pixels between an image and its depth

Limits = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Style:
    """Formats and options of the output files.

    Attributes:
      formats: keys of PICTURES.
      colormap: a matplotlib name, or "grey".
      invert: near is dark in grey and 16 bits, cold in colours.
      range: of the colours: "image", "shared", or (near, far) in the map's own values; None: each
        image has its own, the frames of a video share one.
      png_scale: units of metric 16-bit PNGs and videos per metre; None: see `Depth.save`.
      intrinsics: (fx, fy, cx, cy) in pixels for all images, or None.
      fov: field of view of the longer side of all images in degrees, or None.
      edge: relative depth discontinuity at which points are left out.
      far: metres beyond which points are left out, or None.
      relative_cloud: whether points of relative maps are written, under an assumed shift.
    """

    formats: tuple[str, ...] = ("png16", "color")
    colormap: str = "Spectral_r"
    invert: bool = False
    range: str | Limits | None = None
    png_scale: float | None = None
    intrinsics: tuple[float, ...] | None = None
    fov: float | None = None
    edge: float = point_cloud.EDGE
    far: float | None = None
    relative_cloud: bool = False

    def check(self, kind_unit: str | None) -> None:
        """Raises ValueError where no map of a model could be written in this style.

        Args:
          kind_unit: `DepthAnything.unit`.
        """
        unknown = [f for f in self.formats if f not in PICTURES]
        if unknown or not self.formats:
            raise ValueError(
                f"--format {','.join(self.formats)}: {', '.join(unknown) or 'nothing'} is not one "
                f"of {', '.join(PICTURES)}"
            )
        wanted = [f for f in self.formats if f in CLOUDS]
        if wanted and kind_unit is None and not self.relative_cloud:
            raise ValueError(
                f"--format {wanted[0]}: this model predicts inverse depth up to an unknown scale "
                "and shift, which does not determine points in space: use a metric model, or "
                "--relative-cloud, which assumes a shift of 0 and a median distance of 1"
            )
        if self.intrinsics and self.fov:
            raise ValueError("--intrinsics and --fov both set the focal length; give one of them")
        # Other options are checked where they are used, here on a map of two pixels.
        sample = Depth(np.array([[1, 2]], np.float32), METRIC if kind_unit else RELATIVE)
        painted(sample, self)
        depth_files.check_scale(self.png_scale)
        if "exr" in self.formats:
            depth_files.open_exr("--format exr")
        camera = self.intrinsics or (None if self.fov else (1, 1, 0, 0))
        sample.to_point_cloud(camera, fov=self.fov, edge=self.edge, far=self.far, relative=True)

    @property
    def needs_image(self) -> bool:
        """Whether a format needs the input image."""
        return bool({"side-by-side", *CLOUDS} & set(self.formats))


def paths(
    folder: pathlib.Path, stem: pathlib.PurePath, style: Style, *, video: bool
) -> list[pathlib.Path]:
    """Output paths of one image or video, in the order of the formats."""
    ends = VIDEOS if video else PICTURES
    return [folder / f"{stem}{ends[f]}" for f in style.formats if f in ends]


def write(
    depth: Depth, folder: pathlib.Path, stem: pathlib.PurePath, style: Style, formats: Any = None
) -> str:
    """Writes an image's depth in all formats; each file is written completely or not at all.

    A format that fails does not stop the others; the errors are raised together at the end.

    Args:
      depth: with its image where `style.needs_image`.
      folder, stem: as for `paths`.
      style: formats and options.
      formats: a subset of the style's; None: all.

    Returns:
      The source of the focal length, where points were written; else "".

    Raises:
      ValueError: the map cannot be written in a format; the message names the file.
      OSError: a file cannot be written.
    """
    focal = ""
    errors: list[ValueError | OSError] = []
    for name in style.formats if formats is None else formats:
        path = folder / f"{stem}{PICTURES[name]}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if name in COLOURED:
                picture = painted(depth, style)
                if name == "side-by-side":
                    picture = beside(depth.image, picture)
                with depth_files.replaced(path) as part:
                    picture.save(part, format="PNG", compress_level=4)
            elif name in CLOUDS:
                points = depth.to_point_cloud(
                    style.intrinsics,
                    fov=style.fov,
                    edge=style.edge,
                    far=style.far,
                    relative=style.relative_cloud,
                )
                points.save(path)
                focal = points.intrinsics.source
            else:
                depth.save(path, png_scale=style.png_scale, invert=style.invert)
        except (ValueError, OSError) as error:
            errors.append(error)
    if len(errors) > 1:
        raise ValueError("; ".join(map(str, errors))) from errors[0]
    if errors:
        raise errors[0]
    return focal


def painted(depth: Depth, style: Style) -> Any:
    """Colours a map in the style; metres get a colour bar."""
    limits = style.range if isinstance(style.range, tuple) else None
    return depth.to_pil(
        style.colormap, range=limits, invert=style.invert, colorbar=depth.unit is not None
    )


def beside(image: np.ndarray | None, colours: Any) -> Any:
    """Joins an image and its coloured depth; a colour bar may extend below."""
    from PIL import Image

    if image is None:
        raise ValueError("side-by-side needs the picture: keep_images=True")
    if image.dtype != np.uint8:
        image = np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)
    width = image.shape[1]
    out = Image.new("RGB", (2 * width + GAP, colours.height), "white")
    out.paste(Image.fromarray(image), (0, 0))
    out.paste(colours.convert("RGB"), (width + GAP, 0))
    return out


def joined(ranges: list[Limits], metric: bool) -> Limits | None:
    """Joins the ranges of all maps into one (near, far); None where no map has one.

    Args:
      ranges: `Depth.colour_range` of each.
      metric: whether near is the smaller number.
    """
    known = [r for r in ranges if all(map(math.isfinite, r))]
    if not known:
        return None
    nears, fars = zip(*known, strict=True)
    near, far = (min(nears), max(fars)) if metric else (max(nears), min(fars))
    return (near, far) if near != far else None


def video_outputs(
    folder: pathlib.Path, stem: pathlib.PurePath, style: Style
) -> dict[str | os.PathLike[str], str]:
    """Output paths of a video: {path: style of video.process}."""
    return {
        folder / f"{stem}{VIDEOS[f]}": _VIDEO_STYLES.get(f, f) for f in style.formats if f in VIDEOS
    }
