"""SA-1B (V1, unlabelled): a thousand tars of photos and masks, read as they are."""

from __future__ import annotations

from depth_anything_jax.data.training_sets.base import TrainingSet


class SA1B(TrainingSet):
    """The images alone; the masks (JSON) beside them are not read."""

    set_name = "sa1b"
    licence = "SA-1B Dataset Research License"
    images = r"sa_\d+\.jpg"
    archives = r"sa_\d{6}\.tar"
    looked_for = "sa_NNNNNN.tar, or what it holds: sa_N.jpg"
    has_labels = False
