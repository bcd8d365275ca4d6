"""ImageNet-21K (V1, unlabelled): a tar for each class, read as it is."""

from __future__ import annotations

from depth_anything_jax.data.training_sets.base import TrainingSet


class ImageNet21K(TrainingSet):
    """Both releases: fall11_whole.tar (a tar of class tars), and winter21, whose tar is packed."""

    set_name = "imagenet21k"
    licence = "non-commercial research"
    images = r"n\d{8}(?:\.tar)?/(?:n\d{8}/)?n\d{8}_\d+\.JPEG"
    archives = r"(?:fall11_whole|n\d{8})\.tar"
    looked_for = "fall11_whole.tar, nNNNNNNNN.tar or nNNNNNNNN/nNNNNNNNN_M.JPEG"
    has_labels = False
