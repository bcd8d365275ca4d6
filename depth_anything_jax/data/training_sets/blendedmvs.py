"""BlendedMVS, + and ++ (together BlendedMVG; V1, V2): meshes rendered and blended, in no unit."""

from __future__ import annotations

import pathlib
import re

import numpy as np

from depth_anything_jax.data.camera import Camera
from depth_anything_jax.data.file_formats import formats
from depth_anything_jax.data.sources.base import LeftOut, Record, label_fields
from depth_anything_jax.data.training_sets.base import Others, TrainingSet


class BlendedMVS(TrainingSet):
    """Disparity, 1 / depth, because the unit differs from scene to scene."""

    set_name = "blendedmvs"
    licence = "CC BY 4.0"
    images = r"(?P<scene>[0-9a-f]{24})/blended_images/(?P<frame>\d{8})(?P<masked>_masked)?\.jpg"
    looked_for = (
        "<24 hex digits>/{blended_images/NNNNNNNN.jpg,rendered_depth_maps/NNNNNNNN.pfm,"
        "cams/NNNNNNNN_cam.txt}"
    )

    def _left_out(self, key: str, match: re.Match[str]) -> str | None:
        return "masked copy of another image" if match["masked"] else None

    def _label_of(self, key: str, match: re.Match[str], others: Others) -> str | None:
        top = key[: match.end("scene")]
        files = [f"{top}/rendered_depth_maps/{match['frame']}.pfm", _camera_file(key)]
        return files[0] if all(f in others for f in files) else None

    def files(self, index: int) -> list[str]:
        """Lists image, label and camera."""
        return [*super().files(index), self._path(_camera_file(self.key(index)))]

    def _camera(self, key: str, height: int, width: int) -> Camera | None:
        K, _ = read_cam(self._path(_camera_file(key)))
        return Camera(K[0, 0], K[1, 1], K[0, 2], K[1, 2])

    def _label(self, path: str, key: str, image: np.ndarray) -> Record:
        _, nearest = read_cam(self._path(_camera_file(key)))
        if nearest <= 0:
            raise LeftOut(key, "depth range that begins at or behind the camera")
        depth = formats.decode_pfm(formats.read_bytes(path), path)
        counts = np.isfinite(depth) & (depth > 0)
        if not counts.any():
            raise LeftOut(key, "empty depth map")
        disparity = np.divide(1, depth, out=np.zeros_like(depth), where=counts)
        return label_fields(disparity, "disparity", shift_known=True)


def _camera_file(key: str) -> str:
    folder, _, name = key.rpartition("/")
    return f"{folder.removesuffix('blended_images')}cams/{name.split('.')[0]}_cam.txt"


def read_cam(path: str) -> tuple[np.ndarray, float]:
    """Reads a camera file of MVSNet's kind: K (3, 3) and the least depth."""
    words = pathlib.Path(path).read_text().split()
    try:
        start = words.index("intrinsic") + 1
        numbers = np.array([float(w) for w in words[start : start + 10]])
        return numbers[:9].reshape(3, 3), float(numbers[9])
    except (ValueError, IndexError) as error:
        raise formats.FormatError(
            f"{path}: no camera file, which has 'intrinsic', nine numbers and a depth ({error})"
        ) from error
