"""decoding_limits.py: small files that cost minutes are refused by their structure; others pass."""

import io
import struct

import cv2
import numpy as np
import pytest
from PIL import Image

from depth_anything_jax.data.file_formats import decoding_limits, formats, photos


def saved(image, fmt, **how):
    out = io.BytesIO()
    image.save(out, fmt, **how)
    return out.getvalue()


PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 70, 3), np.uint8))
JPEG, PNG = saved(PICTURE, "JPEG"), saved(PICTURE, "PNG")
PROGRESSIVE = saved(PICTURE, "JPEG", progressive=True)
LAST = PROGRESSIVE[PROGRESSIVE.rfind(b"\xff\xda") : -2]  # its last scan
COMMENT, CHUNK = b"\xff\xfe\x00\x02", b"\0\0\0\0abCd\0\0\0\0"


def scans(count):
    return PROGRESSIVE[:-2] + LAST * count + PROGRESSIVE[-2:]


@pytest.mark.parametrize("read", [photos.read, formats.decode_image], ids=["photos", "formats"])
@pytest.mark.parametrize(
    "data, message",
    [
        (scans(100), "more than 100 scans"),
        (JPEG[:2] + b"\xff" * 5000 + JPEG[2:], "5002 bytes of padding"),
        (JPEG[:2] + COMMENT * 10_001 + JPEG[2:], "more than 10000 header segments"),
        (PNG[:33] + CHUNK * 100_001 + PNG[33:], "more than 100000 chunks"),
    ],
    ids=["scans", "padding", "segments", "chunks"],
)
def test_structures_that_take_minutes_are_refused_before_decoding(read, data, message, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", None)  # would be called
    with pytest.raises(formats.FormatError, match=message):
        read(data)


@pytest.mark.parametrize(
    "data",
    [
        JPEG,
        PROGRESSIVE,
        scans(50),
        PNG,
        JPEG[:2] + b"\xff" * 1000 + COMMENT * 5000 + JPEG[2:],
        JPEG + b"\xff\xda\x00\x02" * 1000,  # behind the end: a video, say
        saved(PICTURE, "JPEG", icc_profile=bytes(range(256)) * 4000),
        # stuffed bytes and restart markers in the scan
        cv2.imencode(".jpg", np.asarray(PICTURE), [cv2.IMWRITE_JPEG_RST_INTERVAL, 1])[1].tobytes(),
    ],
    ids=["jpeg", "progressive", "60 scans", "png", "headers", "tail", "icc", "restarts"],
)
def test_ordinary_and_odd_files_pass(data):
    assert decoding_limits.too_costly(data) is None
    assert photos.read(data).image.shape == (60, 70, 3)


def test_frames_are_counted_up_to_a_limit_and_loops_end(monkeypatch):
    pages = [Image.new("L", (5, 4), i) for i in range(7)]
    for fmt in ("TIFF", "GIF"):
        data = saved(pages[0], fmt, save_all=True, append_images=pages[1:])
        assert decoding_limits.frames(data) == photos.read(data).facts.frames == 7
        assert decoding_limits.frames(data[: len(data) // 2]) <= 7
        monkeypatch.setattr(decoding_limits, "MAX_FRAMES", 3)
        assert photos.read(data).facts.frames == 3
        monkeypatch.undo()
    loop = bytearray(saved(pages[0], "TIFF"))
    first = struct.unpack("<I", loop[4:8])[0]
    after = first + 2 + 12 * struct.unpack("<H", loop[first : first + 2])[0]
    loop[after : after + 4] = struct.pack("<I", first)
    assert decoding_limits.frames(bytes(loop)) == 1


def test_sixteen_bits_are_rounded_in_parts_as_in_one():
    values = np.random.default_rng(1).integers(0, 65536, (150, 9, 4), np.uint16)
    ok, data = cv2.imencode(".png", values)
    assert ok
    expected = np.rint(values[..., 2::-1] / 257).astype(np.uint8)
    np.testing.assert_array_equal(photos.read(data.tobytes()).image, expected)
    ok, data = cv2.imencode(".png", values[..., 0])
    grey = np.repeat(np.rint(values[..., :1] / 257).astype(np.uint8), 3, axis=2)
    np.testing.assert_array_equal(photos.read(data.tobytes()).image, grey)
