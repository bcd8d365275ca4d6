"""Google Landmarks v2 (V1, unlabelled): photos in 500 tars, read as they are."""

from __future__ import annotations

from depth_anything_jax.data.training_sets.base import TrainingSet


class Landmarks(TrainingSet):
    """The images of the train part; GLDv2 has index and test parts under the same names."""

    set_name = "landmarks"
    licence = "CC BY, of each photo"
    images = r"[0-9a-f]/[0-9a-f]/[0-9a-f]/[0-9a-f]{16}\.jpg"
    archives = r"images_\d{3}\.tar"
    looked_for = "images_NNN.tar, or what it holds: a/b/c/<16 hex digits>.jpg"
    has_labels = False
