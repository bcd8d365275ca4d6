"""Places365 (V1, unlabelled): photos of places by category."""

from __future__ import annotations

from depth_anything_jax.data.training_sets.base import TrainingSet


class Places365(TrainingSet):
    """The training images of any release, large or of 256 pixels, standard or challenge."""

    set_name = "places365"
    licence = "academic use (unverified)"
    images = r"data_(?:large|256)(?:_\w+)?/[a-z]/[^/]+/(?:[^/]+/)?\d+\.jpg"
    archives = r"train_(?:large|256)_places365(?:standard|challenge)\.tar"
    looked_for = (
        "data_large/ or data_256/ (or data_256_standard/ …) with a/airfield/NNNNNNNN.jpg, or "
        "train_{large,256}_places365{standard,challenge}.tar"
    )
    has_labels = False
