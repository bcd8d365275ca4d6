"""Defines a manifest's entry: a pair of files, and what it has in common with other entries."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from depth_anything_jax.data import camera as camera_lib
from depth_anything_jax.data.file_formats.formats import LabelFormat
from depth_anything_jax.data.file_formats.orientation import stored_size
from depth_anything_jax.data.sources.manifest_rows import ManifestError
from depth_anything_jax.data.sources.view import View

CAMERA = ("fx", "fy", "cx", "cy", "focal_mm", "sensor_width_mm")


@dataclasses.dataclass(frozen=True, slots=True)
class Common:
    """The fields of an entry but its files; one value serves all entries with the same fields."""

    label_format: LabelFormat
    kind: str = "depth"
    shift_known: bool = True
    dataset: str = ""
    domain: str = ""
    scene: str = ""
    split: str = ""
    view: View = View()
    fx: float | None = None
    fy: float | None = None
    cx: float | None = None
    cy: float | None = None
    focal_mm: float | None = None
    sensor_width_mm: float | None = None

    @property
    def has_camera(self) -> bool:
        """Whether the entry has a focal length."""
        return self.fx is not None or self.focal_mm is not None

    def camera_in_doubt(self, exif: int) -> bool:
        """Whether the camera means another one for the stored pixels than for the upright image."""
        lies = (self.fy, self.cx, self.cy) != (None, None, None)
        return exif != 1 and self.view.orientation is None and lies

    def camera(self, height: int, width: int, exif: int = 1) -> camera_lib.Camera | None:
        """Returns the camera of the upright image, or None where it is unknown.

        Args:
          height, width: of the upright image.
          exif: the EXIF orientation of its file.
        """
        fx = self.fx
        if self.focal_mm is not None and self.sensor_width_mm is not None:
            fx = self.focal_mm / self.sensor_width_mm * max(height, width)
        if fx is None:
            return None
        if self.view.orientation != "stored":
            return camera_lib.camera(fx, self.fy, self.cx, self.cy, height, width)
        own = stored_size(height, width, exif)
        c = camera_lib.camera(fx, self.fy, self.cx, self.cy, *own)
        return camera_lib.upright(c, exif, *own)


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One pair; the fields are described in `manifest`'s docstring.

    A source may have millions of them, so they are small.
    """

    rgb: str
    depth: str | None
    common: Common
    sky: str | None = None
    valid: str | None = None

    @property
    def label_format(self) -> LabelFormat:
        """How the label file is read."""
        return self.common.label_format

    @property
    def kind(self) -> str:
        """The kind of the label."""
        return self.common.kind

    @property
    def dataset(self) -> str:
        """The name of the data set."""
        return self.common.dataset

    @property
    def domain(self) -> str:
        """The domain: indoor, outdoor, …"""
        return self.common.domain

    @property
    def scene(self) -> str:
        """The scene; by default the image's folder."""
        return self.common.scene

    @property
    def split(self) -> str:
        """The name of the split."""
        return self.common.split

    @property
    def view(self) -> View:
        """How the label lies in the image."""
        return self.common.view


def camera_fields(fields: Mapping[str, Any], where: str) -> dict[str, float]:
    """Checks the camera's fields of an entry and returns them; K becomes fx, fy, cx, cy."""
    given = {n: fields[n] for n in CAMERA if fields.get(n) is not None}
    K = fields.get("K")
    try:
        given = {n: float(v) for n, v in given.items()}
        if K is not None:
            flat = [float(v) for row in K for v in (row if isinstance(row, list) else [row])]
    except (TypeError, ValueError) as error:
        raise ManifestError(f"{where}: a camera is given in numbers ({error})") from error
    if K is not None:
        if len(flat) != 9:
            raise ManifestError(f"{where}: K has {len(flat)} numbers, not 9")
        if given:
            raise ManifestError(f"{where}: K and {', '.join(given)} both give the camera; keep one")
        given = {"fx": flat[0], "fy": flat[4], "cx": flat[2], "cy": flat[5]}
    if "focal_mm" in given and "sensor_width_mm" not in given:
        raise ManifestError(
            f"{where}: focal_mm={given['focal_mm']:g} needs the sensor's width; give "
            "sensor_width_mm (36 where focal_mm is a 35-mm equivalent), or fx in pixels"
        )
    if "focal_mm" in given and {"fx", "fy"} & given.keys():
        raise ManifestError(f"{where}: focal_mm and fx both give the focal length; keep one")
    if given and not {"fx", "focal_mm"} & given.keys():
        raise ManifestError(
            f"{where}: {', '.join(given)} without a focal length; give fx in pixels"
        )
    for name, value in given.items():
        if not np.isfinite(value) or (name not in ("cx", "cy") and value <= 0):
            raise ManifestError(f"{where}: {name}={value:g} must be positive and finite")
    return given
