"""Objects365 (V1, unlabelled): photos in patches."""

from __future__ import annotations

import re

from depth_anything_jax.data.training_sets.base import TrainingSet


class Objects365(TrainingSet):
    """The training images; those below a folder val are left out."""

    set_name = "objects365"
    licence = "research"
    images = r"objects365_v[12]_\d{8}\.jpg"
    archives = r"patch\d+\.tar"
    looked_for = "patchN/objects365_v1_NNNNNNNN.jpg (or …_v2_…), or patchN.tar"
    has_labels = False

    def _left_out(self, key: str, match: re.Match[str]) -> str | None:
        return "validation image" if "val" in key.split("/") else None
