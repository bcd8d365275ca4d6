"""Computes the page's results from an upload: depth, images, files, points, a video.

This module does not use Gradio. A session keeps a `Result`, which refers to the stored files of its
photo.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from depth_anything_jax.cli import batch, outputs
from depth_anything_jax.data import transforms
from depth_anything_jax.data.file_formats import photos
from depth_anything_jax.inference import camera_intrinsics, input_sizes
from depth_anything_jax.inference.depth import GREYS, Depth
from depth_anything_jax.inference.model import DepthAnything
from depth_anything_jax.utils import formatting
from depth_anything_jax.video import process, reader
from depth_anything_jax.visualization import colorbars
from depth_anything_jax.web import examples, points_view, results
from depth_anything_jax.web.problems import Cancelled, Problem, UnusableUpload, reporting
from depth_anything_jax.web.results import Result
from depth_anything_jax.web.upload_folder import Folder

COLORMAPS = ("Spectral_r", "inferno", "turbo", "viridis", "magma", "grey")
SHOWN = 1600  # pixels of the longer side on the page; files have the full resolution
POINTS = 400_000  # maximum that a phone can display smoothly
FASTEST = 60  # frames per second of a video
WIDEST = 1920  # pixels of a video's longer side
VIDEO_PIXELS = 8192 * 4320  # of a frame as stored


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
        self._running: dict[str, threading.Event] = {}  # videos, by session; set: cancelled

    def example(self, name: str) -> str:
        """Renders a scene of `examples.SCENES` as if it had been uploaded; returns its path."""
        with reporting():
            return str(examples.write(name, self.folder.new()))

    def depth(self, upload: str, fov: float = 0) -> Result:
        """Predicts the depth of a photo.

        Args:
          upload: its file.
          fov: field of view of its longer side in degrees, used where its EXIF has none; 0:
            unknown.
        """
        name = pathlib.Path(upload).name
        with reporting(upload):
            self._check_size(upload)
            photo = photos.read(upload, name=name, max_pixels=self.limits.pixels)
            shape = photo.image.shape[:2]
            self._check_shape(shape, name)
            seen = camera_intrinsics.of_facts(photo.facts, shape)
            if seen is None and fov:
                seen = camera_intrinsics.of_fov(fov, shape)
            self._check_camera(seen)
            depth = self.model(photo.image, intrinsics=seen)
            notes = " ".join(f"The file {n}." for n in photo.facts.notes)
            text = f"{results.about(depth)} {notes}".strip()
            return results.keep(depth, self.folder.new(), results.stem_of(name), text)

    def align(self, result: Result, points: Sequence[tuple[float | None, ...]]) -> Result:
        """Converts a relative map to metres.

        Args:
          result: of a photo.
          points: column, row, metres; those without one of them are left out.
        """
        depth = self._kept(result)
        known = [point for point in points if None not in point]
        if len(known) < 2:
            raise Problem("click two places of the photo and give the distance of each in metres")
        with reporting():
            _check_order(depth, known)
            aligned = depth.align_to(np.asarray(known, np.float64))
            text = results.about(aligned)
            return results.keep(aligned, self.folder.new(), f"{result.stem}.metres", text)

    def value(self, result: Result, column: float, row: float) -> str:
        """The value at a pixel of a photo, as a text."""
        return results.about_value(self._kept(result), int(column), int(row))

    def pair(
        self,
        result: Result,
        colormap: str,
        invert: bool = False,
        limits: tuple[float, float] | None = None,
    ) -> tuple[Any, Any]:
        """Returns photo and coloured depth, PIL images of one size; metres get a colour bar.

        Args:
          result: of a photo.
          colormap: one of COLORMAPS.
          invert: whether near is cold, or dark.
          limits: metres at which the colours end; None: the map's own.
        """
        from PIL import Image

        depth = self._kept(result)
        with reporting():
            _check_colours(colormap, limits)
            colours = depth.to_pil(colormap, range=limits, invert=invert).convert("RGB")
            size = _within(colours.size, SHOWN)
            both = [Image.fromarray(np.asarray(depth.image)), colours]
            if size != colours.size:
                both = [p.resize(size, Image.Resampling.BOX) for p in both]
            near, far = limits or depth.colour_range
            if depth.unit and np.isfinite([near, far]).all():
                ramp = "gray" if colormap in GREYS else colormap
                both = [
                    colorbars.below(p, ramp, near, far, depth.unit, invert=invert) for p in both
                ]
            return both[0], both[1]

    def files(self, result: Result) -> tuple[str, str]:
        """Writes the 16-bit PNG and the .npz of a result; returns their paths."""
        depth = self._kept(result)
        with reporting():
            png, npz = (result.path(outputs.PICTURES[f]) for f in ("png16", "npz"))
            depth.save(png)
            depth.save(npz)
            return str(png), str(npz)

    def colours(
        self,
        result: Result,
        colormap: str,
        invert: bool = False,
        limits: tuple[float, float] | None = None,
    ) -> str:
        """Writes the coloured depth at the photo's size as a PNG; returns its path. See `pair`."""
        depth = self._kept(result)
        with reporting():
            _check_colours(colormap, limits)
            # Each choice of colours has its own name, because browsers cache files by name.
            ends = "" if limits is None else "-{:g}-{:g}-m".format(*limits)
            kind = f".{colormap}{'-inverted' * invert}{ends}"
            path = result.path(f"{kind}{outputs.PICTURES['color']}")
            style = outputs.Style(colormap=colormap, invert=invert, range=limits)
            outputs.painted(depth, style).save(path, compress_level=4)
            return str(path)

    def cloud(
        self, result: Result, assume: bool = False, fov: float = 0, far: float | None = None
    ) -> tuple[str | None, str, tuple[float, float, float] | None]:
        """Writes a point cloud as .glb.

        Args:
          result: of a photo.
          assume: whether to assume that the shift of a relative map is 0.
          fov: field of view of the photo's longer side in degrees; 0: from its EXIF, else a guess.
          far: metres beyond which points are left out; None, and of relative maps:
            `points_view.clip`.

        Returns:
          Its path, or None without points; a text; where it is seen from (`points_view.camera`).
        """
        depth = self._kept(result)
        metric = depth.unit is not None
        if not (metric or assume):
            text = (
                "This model predicts relative depth: what is nearer and farther, not how far, so "
                "the shape in space is unknown. Give two known distances below the depth map, or "
                "tick the box to see points under the assumption that it states."
            )
            return None, text, None
        with reporting(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a guessed focal length: in the text
            chosen, step = points_view.lattice(result.size, POINTS)
            points = points_view.without_sky(depth).to_point_cloud(
                fov=fov or None,
                valid=chosen,
                far=far if metric and far else points_view.clip(depth),
                relative=not metric,
            )
            for old in result.folder.glob("*.glb"):
                old.unlink(missing_ok=True)
            kind = f".{fov:g}-degrees" if fov else ""
            kind += f".to-{far:g}-m" if metric and far else ""
            path = result.path(f"{kind}{outputs.PICTURES['glb']}")
            points.save(path)
            return str(path), results.about_points(points, step), points_view.camera(points)

    def video(
        self,
        upload: str,
        colormap: str,
        *,
        smooth: bool = True,
        beside: bool = False,
        sixteen: bool = False,
        fov: float = 0,
        progress: Callable[[int, int | None, str], None] | None = None,
        session: str = "",
    ) -> tuple[str, str | None, str]:
        """Writes the depth of a video: an .mp4, optionally an .mkv with 16 bits; and a text.

        Args:
          upload: its file.
          colormap: one of COLORMAPS.
          smooth: whether relative maps keep scale and shift from frame to frame.
          beside: whether each frame is shown beside its depth.
          sixteen: whether to write the .mkv.
          fov: field of view of its longer side in degrees; 0: unknown.
          progress: called with frames done, frames expected or None, and both as a text.
          session: name by which `cancel` ends it.
        """
        cancelled, begun = threading.Event(), list[float]()

        def step(done: int, count: int | None) -> None:
            if cancelled.is_set():
                raise Cancelled(f"Cancelled after {done} frames; nothing of it was kept.")
            begun.append(time.monotonic())  # the first frame may have waited for a compilation
            if progress is not None:
                progress(done, count, remaining(done, count, begun[-1] - begun[0]))

        with reporting(upload), self._cancellable(session, cancelled):
            self._check_size(upload)
            _check_colours(colormap)
            self._check_camera(fov or None)
            info = reader.Reader(upload, max_pixels=VIDEO_PIXELS).info
            rate = min(info.rate, Fraction(FASTEST))
            most = max(1, int(self.limits.seconds * rate))
            folder, stem = self.folder.new(), results.stem_of(pathlib.Path(upload).name)
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
                progress=step,
            )
            written = [str(path) for path in targets]
            cut = self.limits.seconds if report.frames == most else None
            return written[0], written[1] if sixteen else None, results.about_video(report, cut)

    def cancel(self, session: str) -> bool:
        """Ends a session's video at its next frame; returns whether one was running."""
        running = self._running.get(session)
        if running is not None:
            running.set()
        return running is not None

    @contextlib.contextmanager
    def _cancellable(self, session: str, cancelled: threading.Event) -> Iterator[None]:
        self._running[session] = cancelled
        try:
            yield
        finally:
            self._running.pop(session, None)

    def _check_size(self, upload: str) -> None:
        file = pathlib.Path(upload)
        if not file.exists():
            raise Problem(f"{file.name} was cleared: upload it again")
        if file.stat().st_size > self.limits.bytes:
            raise UnusableUpload(f"the file has more than {self.limits.bytes / 1e6:.0f} MB")

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
            raise UnusableUpload(f"{name}: {w} × {h} is too long and narrow: crop it") from error

    def _kept(self, result: Result) -> Depth:
        try:
            return results.read(result.folder)
        except FileNotFoundError as error:
            raise Problem(
                f"files are cleared after {self.folder.keep / 60:.0f} minutes: upload again"
            ) from error


def remaining(done: int, count: int | None, seconds: float) -> str:
    """Says how many frames are done, and in about which time the rest will be.

    Args:
      done, count: frames; None: it is not known how many there are.
      seconds: since the first of them was done.
    """
    if count is None:
        return f"frame {done}"
    text = f"frame {done} of {count}"
    if done < 2:
        return text
    left = formatting.duration(seconds * (count - done) / (done - 1))
    return f"{text}, about {left} left"


def _check_order(depth: Depth, known: Sequence[tuple[Any, ...]]) -> None:
    """Refuses two distances that contradict the map, in the words of the page."""
    h, w = depth.depth.shape
    if len(known) != 2 or not all(0 <= x < w and 0 <= y < h for x, y, _ in known):
        return  # `align_to` says what is wrong
    values = [float(depth.depth[int(y), int(x)]) for x, y, _ in known]
    if values[0] != values[1] and (values[0] > values[1]) != (known[0][2] < known[1][2]):
        nearer = 1 if values[0] > values[1] else 2
        raise Problem(
            f"in the map point {nearer} is the nearer one, by the distances ({known[0][2]:g} and "
            f"{known[1][2]:g} m) it is not: exchange them, or choose other places"
        )


def _check_colours(name: str, limits: tuple[float, float] | None = None) -> None:
    if name not in COLORMAPS:
        raise Problem(f"colours are one of {', '.join(COLORMAPS)}")
    if limits is not None and not limits[0] < limits[1]:
        raise Problem("the colours must end at two distances: the nearer first")


def _within(size: tuple[int, int], longest: int) -> tuple[int, int]:
    share = min(1.0, longest / max(size))
    return max(1, round(size[0] * share)), max(1, round(size[1] * share))
