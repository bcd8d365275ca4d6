"""What happens behind the page: an upload → depth, pictures, files, points, a video.

No Gradio here. What a session keeps of its photo is a `Result`, which says where the files lie.
`Problem` is the only exception with a text for people; all else is logged, not shown.
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
SHOWN = 1600  # pixels of the longer side on the page; files have all
POINTS = 400_000  # that a phone still turns
FAR = 8.0  # of a relative map's points, times its median distance: what is farther is noise
FASTEST = 60  # frames a second of a video
WIDEST = 1920  # pixels of a video's longer side
VIDEO_PIXELS = 8192 * 4320  # of a frame as it is stored
_SCALES = (1000.0, 256.0, 100.0, 10.0)  # of a metric PNG: millimetres where they reach
_ANY_PATH = re.compile(r"(?<![\w.:/])(?:/[\w.+-]+){2,}|\b[A-Za-z]:\\")
_BROKEN = "something failed on the server; its log says what"


class Problem(Exception):
    """What a person should know, without paths."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one upload may be.

    Attributes:
      bytes: of a file.
      pixels: of a photo, asked before it is decoded.
      seconds: of a video; the rest is left out.
      waiting: requests in the queue.
    """

    bytes: int = 200_000_000
    pixels: int = 40_000_000
    seconds: float = 20.0
    waiting: int = 16


@dataclasses.dataclass(frozen=True)
class Result:
    """Where a photo's depth lies, and what to say about it.

    Attributes:
      folder: of its files.
      stem: that their names begin with.
      text: Markdown.
    """

    folder: pathlib.Path
    stem: str
    text: str


class Work:
    """A model and what it may be asked.

    Args:
      model: that predicts.
      folder: where files go.
      limits: of uploads.
    """

    def __init__(self, model: DepthAnything, folder: Folder, limits: Limits):
        self.model, self.folder, self.limits = model, folder, limits
        self.metric = model.unit is not None

    def depth(self, upload: str, fov: float = 0) -> Result:
        """Depth of a photo.

        Args:
          upload: its file.
          fov: degrees that its longer side sees, where its EXIF does not say; 0: unknown.
        """
        name = pathlib.Path(upload).name
        with self._told(upload):
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
        """Photo and depth in colours, PIL images of one size; under metres a bar with numbers."""
        from PIL import Image

        depth = self._kept(result)
        with self._told():
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
        """The 16-bit PNG and the .npz of a result."""
        depth = self._kept(result)
        with self._told():
            scale = _SCALES[0]
            if self.metric:
                deepest = np.max(depth.depth, initial=0, where=np.isfinite(depth.depth))
                scale = next((s for s in _SCALES if deepest * s <= 65535), _SCALES[-1])
            png, npz = (_path(result, outputs.PICTURES[f]) for f in ("png16", "npz"))
            depth.save(png, png_scale=scale)
            depth.save(npz)
            return str(png), str(npz)

    def colours(self, result: Result, colormap: str, invert: bool = False) -> str:
        """The depth in colours at the photo's size, a PNG."""
        depth = self._kept(result)
        with self._told():
            _check_colormap(colormap)
            # A name of its own for every look: browsers keep what they had under a name.
            path = _path(result, f".{colormap}{'-inverted' * invert}{outputs.PICTURES['color']}")
            style = outputs.Style(colormap=colormap, invert=invert)
            outputs.painted(depth, style).save(path, compress_level=4)
            return str(path)

    def cloud(self, result: Result, assume: bool = False, fov: float = 0) -> tuple[str | None, str]:
        """Points in space as .glb, and what to say about them; no points where nothing is known.

        Args:
          result: of a photo.
          assume: takes the shift of a relative map for 0.
          fov: degrees that the photo's longer side sees; 0: as its EXIF says, else a guess.
        """
        if not (self.metric or assume):
            return None, (
                "This model says what is nearer and what is farther, not how far: no shape in "
                "space follows. Tick the box to see one all the same, under the assumption that it "
                "names."
            )
        depth = self._kept(result)
        with self._told(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a guessed focal length: said below
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
        """Depth of a video: an .mp4, on demand 16 bits as .mkv, and what to say about it.

        Args:
          upload: its file.
          colormap: one of COLORMAPS.
          smooth: relative maps keep scale and shift from frame to frame.
          beside: the frame beside its depth.
          sixteen: writes the .mkv too.
          fov: degrees that its longer side sees; 0: unknown.
          progress: as for `process.process`.
        """
        with self._told(upload):
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
                depth_scale=_SCALES[1],
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
                "this model's metres depend on the camera, of which the file says nothing: give "
                "the field of view"
            )

    def _check_shape(self, shape: tuple[int, ...], name: str) -> None:
        try:
            patch_size = self.model.recipe.input.encoder.patch_size
            input_sizes.of_network(shape, transforms.SIZE, patch_size=patch_size)
        except ValueError as error:  # its cures are arguments that a page does not have
            h, w = shape
            raise Problem(f"{name}: {w} × {h} is too long and thin: crop it") from error

    def _kept(self, result: Result) -> Depth:
        try:
            return _read(result.folder)
        except FileNotFoundError as error:
            raise Problem(
                f"files are cleared after {self.folder.keep / 60:.0f} minutes: upload again"
            ) from error

    @contextlib.contextmanager
    def _told(self, upload: str | None = None) -> Iterator[None]:
        """What goes wrong inside as a Problem; the log has the rest."""
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


# What is kept between two clicks: raw arrays, which are written and read at the disk's speed.


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
    """A file name's beginning, of harmless characters."""
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
            "unknown, so it says nothing in metres."
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
    parts = [f"{report.frames} frames at {report.rate:.3g} a second."]
    if cut is not None:
        parts.append(f"Only the first {cut:g} seconds are done, the limit of this server.")
    if report.flicker_before is not None and report.flicker_after is not None:
        parts.append(
            f"Flicker {report.flicker_before:.4f} as the network said it, "
            f"{report.flicker_after:.4f} as written; {len(report.cuts)} cuts."
        )
    parts += [f"{note}." for note in (*report.notes, *report.problems)]
    return " ".join(parts)
