"""TIFF files written by hand, of kinds that Pillow and OpenCV read but do not write."""

import struct

import numpy as np

DTYPES = {8: "u1", 16: "<u2", 32: "<f4"}


def tiff(values, *, planar=False, white_is_zero=False, bits=None, tags=(), after=()):
    """A TIFF of the values (h, w, channels), uint8, uint16 or float32, and images `after` it.

    Args:
      values: grey, grey + alpha, RGB or RGBA by the last axis, stored as they are.
      planar: one plane for each channel.
      white_is_zero: the photometric interpretation says so.
      bits: what the header says of a channel; None: what the values have.
      tags: (number, type, value) of further tags, one value each.
      after: (values, tags) of further images.
    """
    images = [(values, tags), *after]
    out = b"II*\0" + struct.pack("<I", 8)
    for number, (pixels, more) in enumerate(images):
        last = number == len(images) - 1
        out += _image(len(out), pixels, planar, white_is_zero, bits, more, last)
    return out


def _image(start, values, planar, white_is_zero, bits, more, last):
    height, width, channels = values.shape
    size = values.dtype.itemsize * 8
    stored = values.astype(DTYPES[size])
    planes = np.moveaxis(stored, -1, 0) if planar else stored[None]
    data = [np.ascontiguousarray(p).tobytes() for p in planes]
    photometric = 0 if white_is_zero else 2 if channels >= 3 else 1
    fields = [
        (256, 3, [width]), (257, 3, [height]), (258, 3, [bits or size] * channels), (259, 3, [1]),
        (262, 3, [photometric]), (273, 4, [0] * len(data)), (277, 3, [channels]),
        (278, 3, [height]), (279, 4, [len(d) for d in data]), (284, 3, [2 if planar else 1]),
    ]  # fmt: skip
    if channels in (2, 4):
        fields.append((338, 3, [2]))  # unassociated alpha
    if size == 32:
        fields.append((339, 3, [3] * channels))
    fields = sorted([*fields, *((n, kind, [value]) for n, kind, value in more)])
    codes = {3: "H", 4: "I"}
    packs = [(n, k, len(v), f"<{len(v)}{codes[k]}") for n, k, v in fields]
    room = start + 2 + 12 * len(fields) + 4
    extra_size = sum(size for *_, form in packs if (size := struct.calcsize(form)) > 4)
    at = room + extra_size
    offsets = [at + sum(len(d) for d in data[:i]) for i in range(len(data))]
    body, extra = struct.pack("<H", len(fields)), b""
    for (number, kind, count, form), (*_, numbers) in zip(packs, fields, strict=True):
        packed = struct.pack(form, *(offsets if number == 273 else numbers))
        place = packed.ljust(4, b"\0")
        if len(packed) > 4:
            place = struct.pack("<I", room + len(extra))
            extra += packed
        body += struct.pack("<HHI", number, kind, count) + place
    body += struct.pack("<I", 0 if last else at + sum(map(len, data)))
    return body + extra + b"".join(data)
