"""Pictures without files."""

import numpy as np


class Photos:
    """Smooth pictures of several shapes, made from their number."""

    name = "photos"
    labelled = False

    def __init__(self, count=7, prefix="p"):
        self.count, self.prefix = count, prefix

    def __len__(self):
        return self.count

    def key(self, index):
        return f"{self.prefix}/{index}.jpg"

    def __getitem__(self, index):
        height, width = [(30, 41), (40, 28), (33, 33)][index % 3]
        y, x = np.mgrid[:height, :width]
        wave = np.sin(x / (3 + index)) + np.cos(y / 5 + index)
        image = np.stack([60 * wave + 120, 2 * x, 5 * y], -1)
        return {"key": self.key(index), "image": np.clip(image, 0, 255).astype(np.uint8)}
