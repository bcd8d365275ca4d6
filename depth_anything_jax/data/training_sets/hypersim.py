"""Hypersim (V2): rendered rooms; ray lengths become planar depth by the camera of each scene."""

from __future__ import annotations

import os
import re
from typing import Any

import numpy as np

from depth_anything_jax.data.benchmarks.files import read_hdf5
from depth_anything_jax.data.camera import Camera
from depth_anything_jax.data.file_formats import formats
from depth_anything_jax.data.sources.base import Record, label_fields
from depth_anything_jax.data.training_sets import hypersim_cameras as cameras_lib
from depth_anything_jax.data.training_sets import hypersim_tables as tables
from depth_anything_jax.data.training_sets.base import Others, TrainingSet

BROKEN = (("ai_004_009", "cam_01"), ("ai_038_007", "cam_00"))  # ml-hypersim, issue 22


class Hypersim(TrainingSet):
    """`split` is a partition of the official table, or "all"; V2's 60K images are train."""

    set_name = "hypersim"
    domain = "indoor"
    licence = "CC BY-SA 3.0"
    images = (
        r"(?P<scene>ai_\d{3}_\d{3})/images/scene_(?P<camera>cam_\d\d)_final_"
        r"(?:preview/frame\.(?P<frame>\d{4})\.tonemap\.jpg|hdf5/frame\.(?P<raw>\d{4})\.color\.hdf5)"
    )
    needs = ("h5py",)
    looked_for = (
        "ai_VVV_NNN/images/scene_cam_XX_final_preview/frame.IIII.tonemap.jpg or "
        "…/scene_cam_XX_final_hdf5/frame.IIII.color.hdf5"
    )

    def __init__(
        self, path: str, *, split: str = "train", cameras_file: str = "", splits_file: str = "",
        **common: Any,
    ):  # fmt: skip
        """The files are tables of ml-hypersim, which are searched below `path` by default."""
        self._cameras, self._split = tables.read_cameras(path, cameras_file), split
        self._frames = {} if split == "all" else tables.read_splits(path, splits_file)
        super().__init__(path, **common)

    def _left_out(self, key: str, match: re.Match[str]) -> str | None:
        scene, camera, frame = match["scene"], match["camera"], match["frame"] or match["raw"]
        preview = f"{key[: key.index('_final_')]}_final_preview/frame.{frame}.tonemap.jpg"
        if match["raw"] and os.path.exists(self._path(preview)):
            return "color.hdf5 beside its preview"
        if (scene, camera) in BROKEN:
            return "broken cameras (ml-hypersim, issue 22)"
        if scene not in self._cameras:
            return f"scenes without a row in {tables.CAMERAS}"
        other = self._frames.get((scene, camera, int(frame)), "no row in the table")
        return None if self._split in ("all", other) else f"not in split {self._split}: {other}"

    def _label_of(self, key: str, match: re.Match[str], others: Others) -> str | None:
        path = tables.geometry_file(key, "depth_meters")
        return path if path in others else None

    def image_bytes(self, index: int) -> bytes:
        """Reads the preview, or makes a PNG of color.hdf5."""
        key = self.key(index)
        if not key.endswith(".hdf5"):
            return super().image_bytes(index)
        ids = read_hdf5(self._path(tables.geometry_file(key, "render_entity_id")), "dataset")
        colour = read_hdf5(self._path(key), "dataset")
        return formats.encode_png(cameras_lib.tone_mapped(colour, ids != -1))

    def _camera(self, key: str, height: int, width: int) -> Camera | None:
        return cameras_lib.pinhole(self._matrix(key), height, width)

    def _label(self, path: str, key: str, image: np.ndarray) -> Record:
        distance = read_hdf5(path, "dataset")
        return label_fields(cameras_lib.planar(distance, self._matrix(key)), "depth")

    def _matrix(self, key: str) -> np.ndarray:
        return self._cameras[re.findall(r"ai_\d{3}_\d{3}", key)[-1]]
