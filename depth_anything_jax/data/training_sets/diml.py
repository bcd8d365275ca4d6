"""DIML/CVL RGB-D (V1), full and sample release: Kinect indoors, stereo outdoors, millimetres."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from depth_anything_jax.data import camera as camera_lib
from depth_anything_jax.data.file_formats import formats
from depth_anything_jax.data.sources.base import Record, SourceError, label_fields
from depth_anything_jax.data.training_sets.base import Others, TrainingSet, beside

# Metric3D's defaults, by height and width: fx, cx, cy. Sessions differ (unverified).
CAMERAS = {(792, 1408): (1081.0, 704.0, 396.0), (1080, 1920): (1398.402, None, None)}


class DIML(TrainingSet):
    """`part` is that of the sample release; outdoors pixels of more than `confidence` count."""

    set_name = "diml"
    licence = "research use"
    images = (
        r"(?:(?P<kind>col|left)/(?P<stem>[^/]+)_(?:c|left)|"
        r"(?:in|out)door/(?P<part>(?:train|test)/(?:HR|LR))/(?:[^/]+/color/[^/]+_c|outleft/[^/]+))\.png"
    )
    looked_for = (
        "SCENE[/DATE]/N/{col/*_c.png,up_png/*.png}, SESSION/A/{left,depth,conf}/*.png, or the "
        "sample release's {indoor,outdoor}/{train,test}/{HR,LR}"
    )
    encoding, scale = "png16", 1000.0

    def __init__(self, path: str, *, part: str = "train/HR", confidence: float = 0.6, **other: Any):
        if not re.fullmatch("(train|test)/(HR|LR)", part) or not 0 <= confidence < 1:
            raise SourceError(f"diml: part={part} (train/HR, test/LR, …), confidence={confidence}")
        self._part, self._confidence = part, confidence
        super().__init__(path, **other)

    def _left_out(self, key: str, match: re.Match[str]) -> str | None:
        return None if match["part"] in (None, self._part) else f"sample release, {match['part']}"

    def _label_of(self, key: str, match: re.Match[str], others: Others) -> str | None:
        if match["kind"] == "col":  # what follows the stem differs from scene to scene
            found = others.starting(f"{key[: match.start('kind')]}up_png/{match['stem']}_")
            return found[0] if len(found) == 1 else None
        label = beside(beside(key, "color", "depth_filled"), "outleft", "depthmap")
        label = beside(label, "left", "depth").replace("_left.png", "_depth.png")
        label = label.replace("_c.png", "_depth_filled.png")
        return label if label in others and (confidence_of(label) or label) in others else None

    def files(self, index: int) -> list[str]:
        """Lists image, label and, outdoors, confidence."""
        files = super().files(index)
        return files + [c for c in map(confidence_of, files[1:]) if c]

    def _domain(self, key: str) -> str:
        return "outdoor" if key.split("/")[-2] in ("left", "outleft") else "indoor"

    def _camera(self, key: str, height: int, width: int) -> camera_lib.Camera | None:
        fx, cx, cy = CAMERAS.get((height, width), (None, None, None))
        return None if fx is None else camera_lib.camera(fx, None, cx, cy, height, width)

    def _label(self, path: str, key: str, image: np.ndarray) -> Record:
        depth = formats.read_label(path, formats.LabelFormat("png16", self.scale))
        valid = (depth > 0) & (depth <= 65.5)  # Metric3D drops the end of 16 bits, > 65,500
        if file := confidence_of(path):
            sure = formats.decode_raw(formats.read_bytes(file), file, bits=8)
            if sure.shape != depth.shape:
                raise formats.FormatError(f"{file}: {sure.shape}, its depth {depth.shape}")
            valid &= sure > 255 * self._confidence
        return label_fields(depth, "depth", valid=valid)


def confidence_of(label: str) -> str | None:
    """The file of the confidence of an outdoor depth map; None of an indoor one."""
    if label.endswith("_depth.png"):
        return beside(label, "depth", "conf").removesuffix("_depth.png") + "_conf.png"
    file = beside(label, "depthmap", "confidencemap")
    return None if file == label else file
