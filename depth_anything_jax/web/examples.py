"""Renders the two scenes that the page offers to try."""

from __future__ import annotations

import base64
import io
import math
import pathlib

from depth_anything_jax.data.file_formats import photos
from depth_anything_jax.data.scenes import SceneSource

# Name on the page: domain, seed and position of a scene.
SCENES = {"Rendered room": ("A", 7, 26), "Rendered street": ("mixture", 7, 23)}
SIZE = 448  # pixels from side to side
LENS = 24  # mm on 35 mm, written as EXIF, as phones do
_FOV = math.degrees(2 * math.atan(photos.DIAGONAL / (2 * math.sqrt(2) * LENS)))
_FOCAL_35MM = 0xA405


def jpeg(name: str, size: int = SIZE) -> bytes:
    """Renders a scene of SCENES as a JPEG that states its focal length.

    Raises:
      ValueError: another name.
    """
    from PIL import Image

    if name not in SCENES:
        raise ValueError(f"scene {name!r}: one of {', '.join(SCENES)}")
    domain, seed, index = SCENES[name]
    source = SceneSource(domain, index + 1, seed=seed, size=size, fov=_FOV)
    picture = Image.fromarray(source[index]["image"])
    exif = picture.getexif()
    exif.get_ifd(0x8769)[_FOCAL_35MM] = LENS
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=92, exif=exif)
    return data.getvalue()


def write(name: str, folder: pathlib.Path) -> pathlib.Path:
    """Writes a scene into a folder; returns its path."""
    path = folder / f"{name.lower().replace(' ', '-')}.jpg"
    path.write_bytes(jpeg(name))
    return path


def thumbnail(name: str, size: int = 96) -> str:
    """A small picture of a scene as a data: address, which needs no file."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg(name, size)).decode()}"
