"""IRS (V1, V2): rendered indoor stereo; disparity in EXR, read by the name of the channel."""

from __future__ import annotations

import re

import numpy as np

from depth_anything_jax.data import camera as camera_lib
from depth_anything_jax.data.file_formats import formats
from depth_anything_jax.data.file_formats.exr_files import read_exr
from depth_anything_jax.data.sources.base import LeftOut, Record, label_fields
from depth_anything_jax.data.training_sets.base import Others, TrainingSet

FOCAL, BASELINE = 480.0, 0.1  # pixels, metres; most of the data have this baseline (IRS, issue 2)
SKY = 200.0  # metres: CUT3R's bound
MOST = 512.0  # pixels of disparity: more is invalid to stereo networks' loaders


class IRS(TrainingSet):
    """The left images, with depth = 48 / disparity in metres."""

    set_name = "irs"
    domain = "indoor"
    licence = "Apache-2.0 of the repository; no terms of the data were seen"
    images = r"(?P<top>(?:Home|Office|Restaurant|Store)/[^/]+)/l_(?P<n>\d+)\.png"
    needs = ("OpenEXR",)
    looked_for = "{Home,Office,Restaurant,Store}/SCENE/{l_N.png,d_N.exr}"
    masks = ("sky",)

    def _left_out(self, key: str, match: re.Match[str]) -> str | None:
        if "IRS_small" in key.split("/"):
            return "IRS_small, a copy of part of the set"
        if match["top"].endswith("QAOfficeAndSecurityRoom2_Night"):
            return "scene QAOfficeAndSecurityRoom2_Night, which CUT3R leaves out"
        return None

    def _label_of(self, key: str, match: re.Match[str], others: Others) -> str | None:
        label = f"{key[: match.start('n') - 2]}d_{match['n']}.exr"
        return label if label in others else None

    def _camera(self, key: str, height: int, width: int) -> camera_lib.Camera | None:
        known = (height, width) == (540, 960)
        return camera_lib.camera(FOCAL, None, None, None, height, width) if known else None

    def _label(self, path: str, key: str, image: np.ndarray) -> Record:
        channels = read_exr(path)
        disparity = channels.get("G", channels.get("R"))
        if disparity is None:
            raise formats.FormatError(f"{path}: no channel G, but {', '.join(channels)}")
        if disparity.shape != image.shape[:2]:
            raise LeftOut(key, "disparity of another size than its image")
        disparity = disparity.astype(np.float32)
        counts = np.isfinite(disparity) & (disparity > 0) & (disparity < MOST)
        depth = np.divide(FOCAL * BASELINE, disparity, out=np.zeros_like(disparity), where=counts)
        sky = depth > SKY
        return label_fields(np.where(sky, 0, depth), "depth", sky=sky)
