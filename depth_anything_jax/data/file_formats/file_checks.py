"""Checks encoded files before they are decoded: completeness."""

from __future__ import annotations

import io
import os

PathLike = str | os.PathLike[str]
_JPEG_END, _PNG_END = b"\xff\xd9", b"IEND\xaeB`\x82"


class FormatError(ValueError):
    """A file cannot be decoded, or holds something else than its name or entry says."""


def check_complete(data: bytes, name: PathLike) -> None:
    """Raises FormatError where a JPEG or PNG stops before its end marker."""
    if data.startswith(b"\xff\xd8"):
        # Search behind the headers, because a thumbnail in them has an end marker of its own.
        complete = _JPEG_END in data[max(_jpeg_scan(data), len(data) - 4096) :]
    elif data.startswith(b"\x89PNG"):
        complete = _PNG_END in data[-4096:]
    else:
        return
    if complete:
        return
    # Phones append whole videos after the end marker, so let Pillow decide by decoding.
    try:
        from PIL import Image

        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except Exception as error:
        raise FormatError(f"{name}: truncated image ({error})") from error


def _jpeg_scan(data: bytes) -> int:
    """Returns the offset of a JPEG's first scan, behind its headers; at most the file's end."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        if data[at + 1] == 0xDA:  # start of scan
            return at
        # Any number of 0xFF may stand before a marker.
        at += 1 if data[at + 1] == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return min(at, len(data))
