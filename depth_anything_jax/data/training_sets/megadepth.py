"""MegaDepth v1 (V1): photos of landmarks, depth of multi-view stereo in no unit."""

from __future__ import annotations

import re

import numpy as np

from depth_anything_jax.data.benchmarks.files import read_hdf5
from depth_anything_jax.data.file_formats import formats
from depth_anything_jax.data.sources.base import LeftOut, Record, label_fields
from depth_anything_jax.data.training_sets.base import Others, TrainingSet

ORDINAL = 8  # distinct values: ordinal maps have no more
KEPT = 1, 98  # percentiles of the depths that the authors' loader keeps


class MegaDepth(TrainingSet):
    """Disparity, 1 / depth, because the unit differs from scene to scene; no ordinal labels."""

    set_name = "megadepth"
    domain = "outdoor"
    licence = "unverified: photos of Flickr, no terms of the data were seen"
    images = r"(?P<top>\d{4}/dense\d+)/imgs/(?P<stem>[^/]+)\.(?i:jpg|jpeg|png)"
    needs = ("h5py",)
    looked_for = "NNNN/denseK/{imgs/NAME.jpg,depths/NAME.h5}"

    def _label_of(self, key: str, match: re.Match[str], others: Others) -> str | None:
        label = f"{key[: match.end('top')]}/depths/{match['stem']}.h5"
        return label if label in others else None

    def _label(self, path: str, key: str, image: np.ndarray) -> Record:
        depth = read_hdf5(path, "depth")
        if depth.ndim != 2:
            raise formats.FormatError(f"{path}: depth is (h, w), this is {depth.shape}")
        depth = depth.astype(np.float32)
        if np.nanmin(depth) < 0 or len(np.unique(depth)) <= ORDINAL:
            raise LeftOut(key, "ordinal labels")
        counts = np.isfinite(depth) & (depth > 1e-8)
        low, high = np.percentile(depth[counts], KEPT)
        counts &= (depth >= low) & (depth <= high)
        disparity = np.divide(1, depth, out=np.zeros_like(depth), where=counts)
        return label_fields(disparity, "disparity", shift_known=True)
