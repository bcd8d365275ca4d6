"""Limits on files that are small on disk and take minutes or gigabytes to decode.

Headers and structure are read; nothing is decoded. Pictures are limited by `photos.MAX_PIXELS`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

MAX_FILE = 1 << 30  # bytes of a file: an uncompressed 16-bit picture of 179 million pixels
# Bytes of a decoded label, mask or prediction, of four bytes a value at least, because it becomes
# float32: 67 million values. With masks and copies the process takes four times as much (961 MB,
# measured on a 16-bit PNG and an npz of 8190 x 8190).
MAX_MAP = 256 << 20
# Encoders write about ten scans of a progressive JPEG. Each takes .4 s per 1000 million pixels even
# where it is empty; libjpeg-turbo, whose authors advise a limit, uses 500 in its own fuzz tests.
MAX_SCANS = 100
MAX_SEGMENTS = 10_000  # of a JPEG's headers: a megabyte of EXIF or ICC data takes 16
MAX_CHUNKS = 100_000  # of a PNG: at 8 kB each, 800 MB of pixels
MAX_PADDING = 4096  # bytes of 0xFF in a row before a marker
MAX_FRAMES = 1000  # that are counted in a TIFF or GIF

# A marker inside a scan: 0xFF, but not a stuffed byte (00), a restart (D0-D7) or padding.
_MARKER = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])", re.DOTALL)


def too_costly(data: bytes) -> str | None:
    """Returns why a JPEG or PNG is refused by its structure; None of all other files."""
    if data.startswith(b"\xff\xd8"):
        return _jpeg(data)
    if data.startswith(b"\x89PNG"):
        return _png(data)
    return None


def map_too_large(shape: Iterable[int], itemsize: int) -> str | None:
    """Checks the shape, and the bytes of a value, that a label's header announces."""
    size = math.prod(shape) * max(itemsize, 4)
    if size <= MAX_MAP:
        return None
    return (
        f"would take {size / 2**20:,.0f} MiB of memory decoded, the limit is "
        f"{MAX_MAP / 2**20:,.0f} MiB (decoding_limits.MAX_MAP); split it or make it smaller"
    )


def _jpeg(data: bytes) -> str | None:
    at, scans, segments = 2, 0, 0
    while at < len(data):
        # Scans hold other bytes between their markers, headers do not.
        found = _MARKER.search(data, at) if scans else _MARKER.match(data, at)
        if found is None or found[1] == b"\xd9":  # damaged, or the end of the picture
            return None
        if found.end() - found.start() > MAX_PADDING:
            return f"has {found.end() - found.start()} bytes of padding before a marker"
        segments += 1
        if found[1] == b"\xda":
            scans += 1
            if scans == 1 and data.count(b"\xff\xda", at) <= MAX_SCANS:
                return None  # looking at every marker takes as long as a third of the decoding
            if scans > MAX_SCANS:
                return (
                    f"a JPEG of more than {MAX_SCANS} scans, which takes minutes to decode; save "
                    "it again as an ordinary JPEG"
                )
        if segments > MAX_SEGMENTS + 4 * scans:
            return f"a JPEG of more than {MAX_SEGMENTS} header segments"
        length = int.from_bytes(data[found.end() : found.end() + 2], "big")
        at = found.end() + length
    return None


def _png(data: bytes) -> str | None:
    at, chunks = 8, 0
    while at + 8 <= len(data) and data[at + 4 : at + 8] != b"IEND":
        at += 12 + int.from_bytes(data[at : at + 4], "big")
        chunks += 1
        if chunks > MAX_CHUNKS:
            return f"a PNG of more than {MAX_CHUNKS} chunks; save it again"
    return None


def frames(data: bytes) -> int:
    """Counts the images of a TIFF or GIF, up to MAX_FRAMES; 1 of other formats."""
    if data[:4] in (b"II*\x00", b"MM\x00*"):
        return _tiff_frames(data)
    if data[:4] == b"GIF8":
        return _gif_frames(data)
    return 1


def _tiff_frames(data: bytes) -> int:
    order = "little" if data[:2] == b"II" else "big"

    def number(at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], order)  # type: ignore[arg-type]

    at, seen = number(4, 4), set[int]()
    while at and at < len(data) and at not in seen and len(seen) < MAX_FRAMES:
        seen.add(at)
        at = number(at + 2 + 12 * number(at, 2), 4)
    return max(1, len(seen))


def _gif_frames(data: bytes) -> int:
    def table(flags: int) -> int:  # bytes of a colour table
        return 3 << ((flags & 7) + 1) if flags & 0x80 else 0

    at, count = 13 + table(data[10]) if len(data) > 10 else 0, 0
    while at < len(data) and count < MAX_FRAMES:
        if data[at] == 0x2C and at + 10 < len(data):  # an image
            count += 1
            at += 11 + table(data[at + 9])
        elif data[at] == 0x21:  # an extension
            at += 2
        else:  # the end
            break
        while at < len(data) and data[at]:
            at += 1 + data[at]
        at += 1
    return max(1, count)
