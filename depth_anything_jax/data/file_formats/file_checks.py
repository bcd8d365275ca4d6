"""Checks encoded files before they are decoded: completeness, size, kinds that decoders misread."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

import cv2
import numpy as np

from depth_anything_jax.data.file_formats import decoding_limits

PathLike = str | os.PathLike[str]

_JPEG_END, _PNG_END = b"\xff\xd9", b"IEND\xaeB`\x82"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two of files beyond 4 GB
_FLOATS = {b"#?": "a Radiance HDR", b"v/1\x01": "an OpenEXR", b"Pf": "a PFM", b"PF": "a PFM"}
# TIFF tags
_SUBFILE, _BITS, _PHOTOMETRIC, _SAMPLE_FORMAT, _DNG = 254, 258, 262, 339, 0xC612
_REPEATED = re.compile(rb"\xff+")


class FormatError(ValueError):
    """A file cannot be decoded, or holds something else than its name or entry says."""


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yields (marker, start, end) of a JPEG's segments up to the first scan's header."""
    at = 2
    while (fill := _REPEATED.match(data, at)) and fill.end() + 3 <= len(data):
        at = fill.end()  # any number of 0xFF may stand before a marker
        end = at + 1 + int.from_bytes(data[at + 1 : at + 3], "big")
        yield data[at], at + 3, end
        if data[at] == 0xDA:  # start of scan
            return
        at = end


def complete(data: bytes, name: PathLike) -> bytes:
    """Returns the bytes of an image file, with the end marker where a whole JPEG lacks it.

    Raises:
      FormatError: a JPEG or PNG is truncated.
    """
    if data.startswith(b"\xff\xd8"):
        # Search behind the headers, because a thumbnail in them has an end marker of its own.
        start = min(max((end for _, _, end in jpeg_segments(data)), default=2), len(data))
        if _JPEG_END in data[max(start, len(data) - 4096) :]:
            return data
        if _JPEG_END not in data[start:]:
            if _scan_is_whole(data):
                return data.removesuffix(b"\xff") + _JPEG_END
            raise FormatError(f"{name}: truncated image (it has no end marker)")
    elif not data.startswith(b"\x89PNG") or _PNG_END in data[-4096:]:
        return data
    # Phones append whole videos after the end marker, so let Pillow decide by decoding.
    try:
        from PIL import Image

        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except Exception as error:
        raise FormatError(f"{name}: truncated image ({error})") from error
    return data


def _scan_is_whole(data: bytes) -> bool:
    """Whether a JPEG of one scan holds all its pixels although its end marker is missing.

    Where pixels are missing, the decoder makes them of whatever follows: what follows a whole scan
    changes nothing, and what follows all of it but its last bytes does.
    """
    segments = {marker: (start, end) for marker, start, end in jpeg_segments(data)}
    sequential = [segments[m][0] for m in (0xC0, 0xC1) if m in segments]
    if len(sequential) != 1 or 0xDA not in segments:
        return False
    scan = segments[0xDA][0]
    if data[sequential[0] + 5 : sequential[0] + 6] != data[scan : scan + 1]:
        return False  # other components are in other scans
    data = data.removesuffix(b"\xff")
    return _same_with_any_ending(data) and not _same_with_any_ending(data[:-4])


def _same_with_any_ending(data: bytes) -> bool:
    # Their first bits differ: none (the decoder takes zeros), 0 and 1.
    others = [pattern * 64 for pattern in (b"\x5a\xa5\x3c\xc3", b"\xa5\x5a\xc3\x3c")]
    first, *rest = (
        cv2.imdecode(np.frombuffer(data + ending + _JPEG_END, np.uint8), cv2.IMREAD_COLOR)
        for ending in (b"", *others)
    )
    return first is not None and all(x is not None and np.array_equal(first, x) for x in rest)


def tiff_tags(data: bytes) -> dict[int, Any]:
    """Returns the tags of a TIFF's first image; {} for other files."""
    if not data.startswith(_TIFF):
        return {}
    from PIL import TiffImagePlugin

    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(data[: 16 if b"+" in data[2:4] else 8])
        file = io.BytesIO(data)
        file.seek(tags.next)
        tags.load(file)
        return dict(tags)
    except Exception:  # damaged: the decoder will say so
        return {}


def check_cost(data: bytes, name: PathLike) -> None:
    """Raises FormatError for small files that take minutes to decode."""
    reason = decoding_limits.too_costly(data)
    if reason is not None:
        raise FormatError(f"{name}: {reason}")


def check_is_picture(data: bytes, name: PathLike) -> None:
    """Raises FormatError for floats, previews and thumbnails, which decoders take for pictures.

    Files that cost too much are refused too, before anything else looks at them.
    """
    check_cost(data, name)
    what = next((what for start, what in _FLOATS.items() if data.startswith(start)), None)
    tags = tiff_tags(data)
    if 3 in np.ravel(tags.get(_SAMPLE_FORMAT, 1)):
        what = "a floating-point TIFF"
    if what is not None:
        raise FormatError(
            f"{name}: {what} file holds floating-point values, whose black and white are unknown; "
            "export it with 8 or 16 bits"
        )
    if max(np.ravel(tags.get(_BITS, 1))) > 16:
        raise FormatError(
            f"{name}: holds 32-bit values, whose black and white are unknown; export it with 8 or "
            "16 bits"
        )
    check_first_image(name, tags)


def check_first_image(name: PathLike, tags: dict[int, Any]) -> None:
    """Raises FormatError where the first image of a TIFF is a smaller version of another."""
    if _DNG in tags or int(tags.get(_SUBFILE, 0)) & 1:
        raise FormatError(
            f"{name}: the first image of this TIFF is a preview (of a camera raw file, or a "
            "thumbnail before the full picture); export the full picture as JPEG, PNG or TIFF"
        )


def check_map(data: bytes, name: PathLike) -> None:
    """Raises FormatError for label and mask images that are too large or stored ambiguously."""
    check_cost(data, name)
    tags = tiff_tags(data)
    if tags:
        check_first_image(name, tags)
        if tags.get(_PHOTOMETRIC) == 0 and max(np.ravel(tags.get(_BITS, 1))) > 1:
            raise FormatError(
                f"{name}: a TIFF whose white is zero, so its numbers may be inverted; save it with "
                "PhotometricInterpretation 1 (black is zero)"
            )
        shape, bits = (tags.get(257, 0), tags.get(256, 0)), max(np.ravel(tags.get(_BITS, 8)))
        check_map_size(name, (*shape, tags.get(277, 1)), -(-int(bits) // 8))
        return
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            shape, bands = image.size[::-1], len(image.getbands())
    except Image.DecompressionBombError as error:
        raise FormatError(f"{name}: {error}") from error
    except Exception:  # of a kind that OpenCV alone may know, or damaged: it will say so
        return
    check_map_size(name, (*shape, bands), 2)


def check_map_size(name: PathLike, shape: Iterable[int], itemsize: int) -> None:
    """Raises FormatError where a label of this shape would take too much memory."""
    reason = decoding_limits.map_too_large(shape, itemsize)
    if reason is not None:
        raise FormatError(f"{name}: {reason}")
