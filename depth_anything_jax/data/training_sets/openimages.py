"""Open Images V7 (V1, unlabelled): photos of Flickr."""

from __future__ import annotations

import re

from depth_anything_jax.data.training_sets.base import TrainingSet


class OpenImages(TrainingSet):
    """The training images, of the boxed part or downloaded by lists of ids."""

    set_name = "openimages"
    licence = "CC BY 2.0, of each photo"
    images = r"[0-9a-f]{16}\.jpg"
    archives = r"train_[0-9a-f]\.tar"
    looked_for = "train_X/<16 hex digits>.jpg, or train_X.tar (decompressed)"
    has_labels = False

    def _left_out(self, key: str, match: re.Match[str]) -> str | None:
        part = {"validation", "test"} & set(key.split("/"))
        return f"{part.pop()} image" if part else None
