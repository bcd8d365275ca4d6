"""HRWSI (V1): stereo photos of the web; relative disparity and where it is consistent."""

from __future__ import annotations

import re
from typing import Any

import cv2
import numpy as np

from depth_anything_jax.data.file_formats import formats
from depth_anything_jax.data.sources.base import Record, SourceError, label_fields
from depth_anything_jax.data.training_sets.base import Others, TrainingSet


class HRWSI(TrainingSet):
    """Disparity as it is stored, up to scale and shift, where valid_masks is not 0."""

    set_name = "hrwsi"
    licence = "research only, as its authors say; photos of the web"
    images = r"(?P<split>train|val)/imgs/(?P<stem>[^/]+)\.jpg"
    looked_for = "{train,val}/{imgs/NAME.jpg,gts/NAME.png,valid_masks/NAME.png}"
    encoding, masks = "png16", ("valid",)

    def __init__(self, path: str, *, split: str = "train", **common: Any):
        if split not in ("train", "val"):
            raise SourceError(f"hrwsi: split={split!r}: one of train, val")
        self._split = split
        super().__init__(path, **common)

    def _left_out(self, key: str, match: re.Match[str]) -> str | None:
        return None if match["split"] == self._split else f"split {match['split']}"

    def _label_of(self, key: str, match: re.Match[str], others: Others) -> str | None:
        top = key[: match.start("split")] + match["split"]
        files = [f"{top}/{folder}/{match['stem']}.png" for folder in ("gts", "valid_masks")]
        return files[0] if all(f in others for f in files) else None

    def files(self, index: int) -> list[str]:
        """Lists image, label and mask."""
        files = super().files(index)
        return files + [_mask(f) for f in files[1:]]

    def _label(self, path: str, key: str, image: np.ndarray) -> Record:
        data = formats.read_bytes(path)
        formats.check_map(data, path)
        stored = cv2.imdecode(np.frombuffer(formats.complete(data, path), np.uint8), -1)
        bits = 16 if stored is not None and stored.dtype == np.uint16 else 8
        values = formats.decode_raw(data, path, bits=bits)
        valid = formats.read_mask(_mask(path))
        if valid.shape != values.shape:
            raise formats.FormatError(f"{_mask(path)}: {valid.shape}, its gts {values.shape}")
        return label_fields(values.astype(np.float32), "disparity", valid=valid, shift_known=False)


def _mask(path: str) -> str:
    return "/valid_masks/".join(path.rsplit("/gts/", 1))
