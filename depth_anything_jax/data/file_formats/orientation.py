"""Reads the EXIF orientation of an image file and turns stored pixels upright by it."""

from __future__ import annotations

from typing import Any

import numpy as np

from depth_anything_jax.data.file_formats.file_checks import jpeg_segments

TAG = 0x0112
# orientation → quarter turns to the left, then mirrored left to right
UPRIGHT = {
    1: (0, False), 2: (0, True), 3: (2, False), 4: (2, True),
    5: (-1, True), 6: (-1, False), 7: (1, True), 8: (1, False),
}  # fmt: skip


def exif_orientation(data: bytes) -> int:
    """Returns the orientation, 1 to 8, that OpenCV applies when it decodes the file; 1 without one.

    Pixels are not decoded. XMP is not read, as OpenCV does not.
    """
    exif = _exif_block(data)
    if not exif:
        return 1
    from PIL import Image  # imported here to save start-up time

    tags = Image.Exif()
    try:
        tags.load(exif)
        found = tags.get(TAG, 1)
    except Exception:  # damaged EXIF is no reason to refuse the picture
        return 1
    return found if found in UPRIGHT else 1


def upright(values: np.ndarray, orientation: int) -> np.ndarray:
    """Turns an array (h, w, …) of stored pixels as the orientation says."""
    turns, mirrored = UPRIGHT[orientation]
    values = np.rot90(values, turns)
    return np.ascontiguousarray(values[:, ::-1] if mirrored else values)


def stored_size(height: int, width: int, orientation: int) -> tuple[int, int]:
    """Returns the (height, width) of the stored pixels of an upright picture of this size."""
    return (width, height) if orientation >= 5 else (height, width)


def _exif_block(data: bytes) -> bytes:
    """Returns the file's EXIF block, a TIFF file of its own; b"" without one."""
    if data.startswith((b"II*\0", b"MM\0*")):
        return data
    if data.startswith(b"\xff\xd8"):
        return _jpeg_exif(data)
    if data.startswith(b"\x89PNG"):  # length, name, content and checksum of each chunk
        return _chunk(data, 8, b"eXIf", "big", name_first=False)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _chunk(data, 12, b"EXIF", "little", name_first=True)
    return b""


def _jpeg_exif(data: bytes) -> bytes:
    for marker, start, end in jpeg_segments(data):
        if marker == 0xE1 and data[start : start + 6] == b"Exif\0\0":
            return data[start + 6 : end]
    return b""


def _chunk(data: bytes, at: int, name: bytes, order: Any, *, name_first: bool) -> bytes:
    while at + 8 <= len(data):
        first, second = data[at : at + 4], data[at + 4 : at + 8]
        kind, length = (first, second) if name_first else (second, first)
        size = int.from_bytes(length, order)
        if kind == name:
            content = data[at + 8 : at + 8 + size]
            return content.removeprefix(b"Exif\0\0")
        at += 8 + (size + size % 2 if name_first else size + 4)
    return b""
