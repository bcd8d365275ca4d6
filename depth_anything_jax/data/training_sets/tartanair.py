"""TartanAir v1 (V1, V2) and v2: rendered flights; the sky is a sphere far away."""

from __future__ import annotations

import re
from typing import Any

import cv2
import numpy as np

from depth_anything_jax.data.camera import Camera
from depth_anything_jax.data.file_formats import formats
from depth_anything_jax.data.sources.base import Record, label_fields
from depth_anything_jax.data.training_sets.base import Others, TrainingSet

SKY = 1000.0  # metres: CUT3R's bound; the spheres lie at 8,000 to 10,000 and more


class TartanAir(TrainingSet):
    """`amusement` keeps that environment, whose sky is a near dome with wrong depth."""

    set_name = "tartanair"
    licence = "unverified (v1: CC BY 4.0 is said of it)"
    images = (
        r"(?P<env>[^/]+)/(?:(?:Easy|Hard)/P\d+/image_left/\d+_left|"
        r"Data_(?:easy|hard)/P\d+/image_lcam_front/\d+_lcam_front)\.png"
    )
    looked_for = (
        "ENV/{Easy,Hard}/P000/{image_left/000000_left.png,depth_left/000000_left_depth.npy} (v1) "
        "or ENV/Data_{easy,hard}/P000/{image,depth}_lcam_front/000000_lcam_front*.png (v2)"
    )
    masks = ("sky",)

    def __init__(self, path: str, *, amusement: bool = False, **common: Any):
        self._amusement = amusement
        super().__init__(path, **common)

    def _left_out(self, key: str, match: re.Match[str]) -> str | None:
        near = match["env"].lower().startswith("amusement") and not self._amusement
        return "environment amusement, whose sky is a near dome" if near else None

    def _label_of(self, key: str, match: re.Match[str], others: Others) -> str | None:
        folder, _, image = key.rpartition("/")
        top, _, kind = folder.rpartition("/")
        suffix = "npy" if kind == "image_left" else "png"
        kind = kind.replace("image", "depth")
        label = f"{top}/{kind}/{image.removesuffix('.png')}_depth.{suffix}"
        return label if label in others else None

    def _camera(self, key: str, height: int, width: int) -> Camera | None:
        return Camera(320.0, 320.0, 320.0, height / 2) if width == 640 else None

    def _label(self, path: str, key: str, image: np.ndarray) -> Record:
        data = formats.read_bytes(path)
        depth = _packed(data, path) if path.endswith(".png") else formats.decode_array(data, path)
        depth = np.where(np.isfinite(depth), depth, 0).astype(np.float32)
        sky = depth >= SKY
        return label_fields(np.where(sky, 0, depth), "depth", sky=sky)


def _packed(data: bytes, path: str) -> np.ndarray:
    """v2's depth: the four bytes of a float32 as the channels that OpenCV gives, B, G, R, alpha."""
    formats.check_map(data, path)
    pixels = cv2.imdecode(np.frombuffer(formats.complete(data, path), np.uint8), -1)
    if pixels is None or pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 4:
        raise formats.FormatError(f"{path}: no PNG of four 8-bit channels, as v2's depth is")
    return np.ascontiguousarray(pixels).view("<f4")[..., 0]
