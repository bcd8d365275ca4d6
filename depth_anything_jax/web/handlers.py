"""Computes the page's results from an upload: depth, images, files, points, a video.

This module does not use Gradio. A session keeps a `Result`, which refers to the stored files of its
photo. `Problem` is the only exception whose text is shown to users; all others are logged.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from absl import logging

from depth_anything_jax.cli import batch, outputs
from depth_anything_jax.data import transforms
from depth_anything_jax.data.file_formats import photos
from depth_anything_jax.inference import camera_intrinsics, input_sizes, point_cloud
from depth_anything_jax.inference.depth import GREYS, Depth
from depth_anything_jax.inference.model import DepthAnything
from depth_anything_jax.video import process, reader
from depth_anything_jax.visualization import colorbars
from depth_anything_jax.web.upload_folder import Folder

COLORMAPS = ("Spectral_r", "inferno", "turbo", "viridis", "magma", "grey")
SHOWN = 1600  # pixels of the longer side on the page; files have the full resolution
POINTS = 400_000  # maximum that a phone can display smoothly
FAR = 8.0  # multiple of a relative map's median distance; points beyond it are noise
FASTEST = 60  # frames per second of a video
WIDEST = 1920  # pixels of a video's longer side
VIDEO_PIXELS = 8192 * 4320  # of a frame as stored
_ANY_PATH = re.compile(r"(?<![\w.:/])(?:/[\w.+-]+){2,}|\b[A-Za-z]:\\")
_BROKEN = "an error occurred on the server; its log has the details"


class Problem(Exception):
    """An error whose text is shown to the user; it must not contain paths."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of uploads.

    Attributes:
      bytes: of a file.
      pixels: of a photo, checked before it is decoded.
      seconds: of a video; the rest is left out.
      waiting: number of requests in the queue.
    """

    bytes: int = 200_000_000
    pixels: int = 40_000_000
    seconds: float = 20.0
    waiting: int = 16


@dataclasses.dataclass(frozen=True)
class Result:
    """Location and description of a photo's depth.

    Attributes:
      folder: of its files.
      stem: the beginning of their names.
      text: Markdown shown to the user.
    """

    folder: pathlib.Path
    stem: str
    text: str


class Work:
    """Handles the requests of the page with a model.

    Args:
      model: the model that predicts.
      folder: where files are stored.
      limits: of uploads.
    """

    def __init__(self, model: DepthAnything, folder: Folder, limits: Limits):
        self.model, self.folder, self.limits = model, folder, limits
        self.metric = model.unit is not None

    def depth(self, upload: str, fov: float = 0) -> Result:
        """Predicts the depth of a photo.

        Args:
          upload: its file.
          fov: field of view of its longer side in degrees, used where its EXIF has none; 0:
            unknown.
        """
        name = pathlib.Path(upload).name
        with self._reporting(upload):
            self._check_size(upload)
            photo = photos.read(upload, name=name, max_pixels=self.limits.pixels)
            shape = photo.image.shape[:2]
            self._check_shape(shape, name)
            seen = camera_intrinsics.of_facts(photo.facts, shape)
            if seen is None and fov:
                seen = camera_intrinsics.of_fov(fov, shape)
            self._check_camera(seen)
            depth = self.model(photo.image, intrinsics=seen)
            text = f"{_about(depth)} {' '.join(f'The file {n}.' for n in photo.facts.notes)}"
            result = Result(self.folder.new(), _stem(name), text.strip())
            _keep(depth, result.folder)
            return result

    def pair(self, result: Result, colormap: str, invert: bool = False) -> tuple[Any, Any]:
        """Returns photo and coloured depth, PIL images of one size; metres get a colour bar."""
        from PIL import Image

        depth = self._kept(result)
        with self._reporting():
            _check_colormap(colormap)
            colours = depth.to_pil(colormap, invert=invert).convert("RGB")
            size = _within(colours.size, SHOWN)
            both = [Image.fromarray(np.asarray(depth.image)), colours]
            if size != colours.size:
                both = [p.resize(size, Image.Resampling.BOX) for p in both]
            near, far = depth.colour_range
            if self.metric and np.isfinite([near, far]).all():
                ramp = "gray" if colormap in GREYS else colormap
                both = [
                    colorbars.below(p, ramp, near, far, depth.unit, invert=invert) for p in both
                ]
            return both[0], both[1]

    def files(self, result: Result) -> tuple[str, str]:
        """Writes the 16-bit PNG and the .npz of a result; returns their paths."""
        depth = self._kept(result)
        with self._reporting():
            png, npz = (_path(result, outputs.PICTURES[f]) for f in ("png16", "npz"))
            depth.save(png)
            depth.save(npz)
            return str(png), str(npz)

    def colours(self, result: Result, colormap: str, invert: bool = False) -> str:
        """Writes the coloured depth at the photo's size as a PNG; returns its path."""
        depth = self._kept(result)
        with self._reporting():
            _check_colormap(colormap)
            # Each choice of colours has its own name, because browsers cache files by name.
            path = _path(result, f".{colormap}{'-inverted' * invert}{outputs.PICTURES['color']}")
            style = outputs.Style(colormap=colormap, invert=invert)
            outputs.painted(depth, style).save(path, compress_level=4)
            return str(path)

    def cloud(self, result: Result, assume: bool = False, fov: float = 0) -> tuple[str | None, str]:
        """Writes a point cloud as .glb; returns its path, or None without points, and a text.

        Args:
          result: of a photo.
          assume: whether to assume that the shift of a relative map is 0.
          fov: field of view of the photo's longer side in degrees; 0: from its EXIF, else a guess.
        """
        if not (self.metric or assume):
            return None, (
                "This model predicts relative depth: what is nearer and farther, not how far, so "
                "the shape in space is unknown. Tick the box to see points under the assumption "
                "that it states."
            )
        depth = self._kept(result)
        with self._reporting(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a guessed focal length: in the text
            lattice = np.zeros(depth.depth.shape, bool)
            step = max(1, int(np.ceil(np.sqrt(depth.depth.size / POINTS))))
            lattice[::step, ::step] = True
            points = depth.to_point_cloud(
                fov=fov or None,
                valid=lattice,
                far=None if self.metric else FAR,
                relative=not self.metric,
            )
            for old in result.folder.glob("*.glb"):
                old.unlink(missing_ok=True)
            path = _path(result, f"{f'.{fov:g}-degrees' if fov else ''}{outputs.PICTURES['glb']}")
            points.save(path)
            return str(path), _about_points(points, step)

    def video(
        self,
        upload: str,
        colormap: str,
        *,
        smooth: bool = True,
        beside: bool = False,
        sixteen: bool = False,
        fov: float = 0,
        progress: Callable[[int, int | None], None] | None = None,
    ) -> tuple[str, str | None, str]:
        """Writes the depth of a video: an .mp4, optionally an .mkv with 16 bits; and a text.

        Args:
          upload: its file.
          colormap: one of COLORMAPS.
          smooth: whether relative maps keep scale and shift from frame to frame.
          beside: whether each frame is shown beside its depth.
          sixteen: whether to write the .mkv.
          fov: field of view of its longer side in degrees; 0: unknown.
          progress: as for `process.process`.
        """
        with self._reporting(upload):
            self._check_size(upload)
            _check_colormap(colormap)
            self._check_camera(fov or None)
            info = reader.Reader(upload, max_pixels=VIDEO_PIXELS).info
            rate = min(info.rate, Fraction(FASTEST))
            most = max(1, int(self.limits.seconds * rate))
            folder, stem = self.folder.new(), _stem(pathlib.Path(upload).name)
            kind = "side-by-side" if beside else "color"
            formats = (kind, "png16") if sixteen else (kind,)
            style = outputs.Style(formats=formats, colormap=colormap)
            targets = outputs.video_outputs(folder, pathlib.PurePath(stem), style)

            def frames(images: Sequence[Any]) -> list[Any]:
                return [depth.depth for depth in self.model(list(images), fov=fov or None)]

            devices = self.model.devices
            report = process.process(
                upload,
                targets,
                frames,
                metric=self.metric,
                smooth=smooth,
                paint=batch.painter(style, self.metric),
                batch_size=1 if devices[0].platform == "cpu" else 8 * len(devices),
                max_len=most,
                target_fps=FASTEST,
                max_res=WIDEST,
                max_pixels=VIDEO_PIXELS,
                progress=progress,
            )
            written = [str(path) for path in targets]
            text = _about_video(report, self.limits.seconds if report.frames == most else None)
            return written[0], written[1] if sixteen else None, text

    def _check_size(self, upload: str) -> None:
        if pathlib.Path(upload).stat().st_size > self.limits.bytes:
            raise Problem(f"the file has more than {self.limits.bytes / 1e6:.0f} MB")

    def _check_camera(self, known: Any) -> None:
        if known is None and self.model.recipe.focal is not None:
            raise Problem(
                "this model needs the camera's field of view to predict metres, and the file does "
                "not state it: give the field of view"
            )

    def _check_shape(self, shape: tuple[int, ...], name: str) -> None:
        try:
            patch_size = self.model.recipe.input.encoder.patch_size
            input_sizes.of_network(shape, transforms.SIZE, patch_size=patch_size)
        except ValueError as error:  # its message suggests arguments that the page does not have
            h, w = shape
            raise Problem(f"{name}: {w} × {h} is too long and narrow: crop it") from error

    def _kept(self, result: Result) -> Depth:
        try:
            return _read(result.folder)
        except FileNotFoundError as error:
            raise Problem(
                f"files are cleared after {self.folder.keep / 60:.0f} minutes: upload again"
            ) from error

    @contextlib.contextmanager
    def _reporting(self, upload: str | None = None) -> Iterator[None]:
        """Converts exceptions in its body to Problems; unexpected ones are logged."""
        try:
            yield
        except Problem:
            raise
        except Exception as error:
            text = str(error)
            if upload is not None:
                text = text.replace(upload, pathlib.Path(upload).name)
            if isinstance(error, ValueError) and text and not _ANY_PATH.search(text):
                raise Problem(text) from error
            logging.exception("a request failed")
            cause = ": most often too little memory" if isinstance(error, RuntimeError) else ""
            raise Problem(_BROKEN + cause) from error


# Between requests the arrays are kept raw, because these are read and written at disk speed.


def _keep(depth: Depth, folder: pathlib.Path) -> None:
    np.save(folder / "depth.npy", depth.depth)
    np.save(folder / "photo.npy", np.asarray(depth.image))
    seen = None if depth.intrinsics is None else list(depth.intrinsics)
    facts = {"kind": depth.kind, "intrinsics": seen, "meta": dict(depth.meta)}
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")


def _read(folder: pathlib.Path) -> Depth:
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    seen = facts["intrinsics"]
    return Depth(
        np.load(folder / "depth.npy"),
        facts["kind"],
        image=np.load(folder / "photo.npy"),
        intrinsics=None if seen is None else camera_intrinsics.Intrinsics(*seen),
        meta=facts["meta"],
    )


def _stem(name: str) -> str:
    """The stem of a file name, reduced to safe characters."""
    return re.sub(r"[^\w.-]+", "_", pathlib.PurePath(name).stem).strip("._-")[:60] or "upload"


def _path(result: Result, end: str) -> pathlib.Path:
    return result.folder / f"{result.stem}{end}"


def _check_colormap(name: str) -> None:
    if name not in COLORMAPS:
        raise Problem(f"colours are one of {', '.join(COLORMAPS)}")


def _within(size: tuple[int, int], longest: int) -> tuple[int, int]:
    share = min(1.0, longest / max(size))
    return max(1, round(size[0] * share)), max(1, round(size[1] * share))


# Texts


def _about(depth: Depth) -> str:
    h, w = depth.depth.shape
    if depth.unit is None:
        return (
            f"**{w} × {h}, relative inverse depth**: larger is nearer. Its scale and shift are "
            "unknown, so it cannot be converted to metres."
        )
    near, far = depth.range
    return (
        f"**{w} × {h}, metres along the optical axis**: nearest {near:.3g} m, farthest {far:.3g} m."
    )


def _about_points(points: point_cloud.PointCloud, step: int) -> str:
    unit = "in metres" if points.unit else "without unit: 1 is the median distance"
    each = "" if step == 1 else f", one of {step} × {step} pixels"
    text = f"{len(points):,} points {unit}{each}. Focal length: {points.intrinsics.source}"
    if points.intrinsics.source == "guess":
        text += f" ({camera_intrinsics.DEFAULT_FOV:.0f}°; give the field of view if you know it)"
    return text + (f". Assumed: {points.note}." if points.note else ".")


def _about_video(report: process.Report, cut: float | None) -> str:
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
