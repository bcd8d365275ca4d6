"""BDD100K (V1, unlabelled): videos of drives, frames at a chosen rate."""

from __future__ import annotations

import re
from typing import Any

from depth_anything_jax.data.file_formats import formats, video_frames
from depth_anything_jax.data.sources.base import SourceError
from depth_anything_jax.data.training_sets.base import TrainingSet

QUALITY = 95  # of the JPEG that a frame becomes in prepared data; our choice


class BDD100K(TrainingSet):
    """`fps` frames of each second of the training videos, 70,000 of about 40 s: 2 gives 5.6M.

    V1's 8.2M are about 2 of all 100,000 videos, or 3 of the training part; it does not say which.

    Of the image release (one frame a video) the pictures are read, and `fps` has no meaning.
    """

    set_name = "bdd100k"
    domain = "outdoor"
    licence = "research, not for profit"
    images = r"(?:(?P<video>videos)|images/100k)/(?P<split>train|val|test)/[^/]+\.(?:mov|mp4|jpg)"
    looked_for = "bdd100k/videos/train/<id>.mov, or bdd100k/images/100k/train/<id>.jpg"
    has_labels = False

    def __init__(self, path: str, *, fps: float = 2.0, **common: Any):
        if not 0 < fps <= 60:
            raise SourceError(f"bdd100k: fps={fps}: frames of a second, above 0 and up to 60")
        self._fps = float(fps)
        super().__init__(path, **common)

    def _left_out(self, key: str, match: re.Match[str]) -> str | None:
        return None if match["split"] == "train" else f"{match['split']} part"

    def _expanded(self, key: str) -> list[str]:
        if key.endswith(".jpg"):
            return [key]
        seconds = video_frames.duration(self._path(key))
        return [f"{key}#{i / self._fps:.3f}" for i in range(max(1, int(seconds * self._fps)))]

    def files(self, index: int) -> list[str]:
        """Lists the video or image that a record is read from."""
        return [f.partition("#")[0] for f in super().files(index)]

    def image_bytes(self, index: int) -> bytes:
        """Reads the image, or a frame of a video as JPEG."""
        path, _, time = self.key(index).partition("#")
        if not time:
            return super().image_bytes(index)
        return formats.encode_jpeg(video_frames.at(self._path(path), float(time)), QUALITY)
