"""Virtual KITTI 2 (V2): rendered drives, depth in centimetres, sky at 655.35 m."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from depth_anything_jax.data.camera import Camera
from depth_anything_jax.data.file_formats import formats
from depth_anything_jax.data.sources.base import Record, SourceError, label_fields
from depth_anything_jax.data.training_sets.base import Others, TrainingSet

HEIGHT, WIDTH = 375, 1242


class VKITTI2(TrainingSet):
    """`cameras` is "0" (V2's choice), "1" or "both"."""

    set_name = "vkitti2"
    domain = "outdoor"
    licence = "CC BY-NC-SA 3.0"
    images = (
        r"(?P<frames>Scene\d\d/[^/]+/frames)/rgb/Camera_(?P<camera>[01])/rgb_(?P<frame>\d{5})\.jpg"
    )
    looked_for = (
        "SceneNN/VARIATION/frames/rgb/Camera_N/rgb_IIIII.jpg and …/frames/depth/Camera_N/"
        "depth_IIIII.png, in one folder, in rgb/ and depth/, or in vkitti_2.0.3_rgb/ and "
        "vkitti_2.0.3_depth/"
    )
    encoding, scale, masks = "png16", 100.0, ("sky",)

    def __init__(self, path: str, *, cameras: str | int = "0", **common: Any):
        if str(cameras) not in ("0", "1", "both"):
            raise SourceError(f"vkitti2: cameras={cameras!r}: one of 0, 1, both")
        self._wanted = "01" if cameras == "both" else str(cameras)
        super().__init__(path, **common)

    def _left_out(self, key: str, match: re.Match[str]) -> str | None:
        number = match["camera"]
        return None if number in self._wanted else f"Camera_{number} (cameras=both reads it)"

    def _label_of(self, key: str, match: re.Match[str], others: Others) -> str | None:
        end = f"{match['frames']}/depth/Camera_{match['camera']}/depth_{match['frame']}.png"
        top = key[: match.start("frames")]
        tops = (top, re.sub(r"(^|/)((?:vkitti_2\.0\.3_)?)rgb/$", r"\1\2depth/", top))
        return next((top + end for top in tops if top + end in others), None)

    def _camera(self, key: str, height: int, width: int) -> Camera | None:
        known = (height, width) == (HEIGHT, WIDTH)
        return Camera(725.0087, 725.0087, 620.5, 187.0) if known else None

    def _label(self, path: str, key: str, image: np.ndarray) -> Record:
        data = formats.read_bytes(path)
        depth, sky, _ = formats.decode_with_masks(data, path, formats.LabelFormat("vkitti"))
        return label_fields(depth, "depth", sky=sky)
