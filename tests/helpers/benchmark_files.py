"""Writers of the files that evaluation sets consist of, apart from the package's own readers."""

import io
import pathlib
import struct
import zlib

import numpy as np
from PIL import Image, PngImagePlugin

RNG = np.random.default_rng(0)


def write(path: pathlib.Path, data: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(data) if isinstance(data, str) else path.write_bytes(data)


def write_image(path: pathlib.Path, height: int = 6, width: int = 8, **options) -> np.ndarray:
    """A smooth picture, so that JPEG keeps it within a few levels; returned as RGB."""
    corner = RNG.integers(0, 120, 3)
    rows, columns = np.mgrid[:height, :width]
    pixels = corner + (rows * 60 // height)[..., None] + (columns * 60 // width)[..., None]
    path.parent.mkdir(parents=True, exist_ok=True)
    quality = {} if path.suffix == ".png" else {"quality": 95, "subsampling": 0}
    form = "PNG" if path.suffix == ".png" else "JPEG"
    Image.fromarray(pixels.astype(np.uint8)).save(path, form, **quality, **options)
    return pixels.astype(np.uint8)


def png16(values: np.ndarray, **texts: str) -> bytes:
    """A 16-bit PNG written byte by byte, with text chunks before the pixels."""
    height, width = values.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0))
        + b"".join(chunk(b"tEXt", f"{k}\0{v}".encode("latin-1")) for k, v in texts.items())
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def mask_png(mask: np.ndarray) -> bytes:
    """A one-bit PNG."""
    file = io.BytesIO()
    Image.fromarray(mask).convert("1").save(file, "PNG", pnginfo=PngImagePlugin.PngInfo())
    return file.getvalue()


def npy(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def dpt(values: np.ndarray) -> bytes:
    height, width = values.shape
    return struct.pack("<fii", 202021.25, width, height) + values.astype("<f4").tobytes()


def cam(intrinsics: np.ndarray) -> bytes:
    extrinsics = RNG.normal(size=12)
    return struct.pack("<f", 202021.25) + intrinsics.astype("<f8").tobytes() + extrinsics.tobytes()


def check_records(reader, expected: dict[str, np.ndarray], sky: dict | None = None) -> None:
    """Keys in order, depths bit for bit; expected depth is 0 or not finite where invalid."""
    assert [reader.key(i) for i in range(len(reader))] == list(expected)
    for i, (key, depth) in enumerate(expected.items()):
        record = reader[i]
        measured = np.isfinite(depth) & (depth > 0)
        assert record["key"] == key and record["dataset"] == reader.dataset
        assert record["image"].dtype == np.uint8 and record["image"].shape[2] == 3
        assert record["depth"].dtype == np.float32 and record["valid"].dtype == np.bool_
        np.testing.assert_array_equal(record["valid"], measured, err_msg=key)
        np.testing.assert_array_equal(
            record["depth"], np.where(measured, depth, 0).astype(np.float32), err_msg=key
        )
        wanted_sky = (sky or {}).get(key, np.zeros(depth.shape, bool))
        np.testing.assert_array_equal(record["sky"], wanted_sky, err_msg=key)


def write_nyu(root, names=("bathroom/00045", "bathroom/00100", "office_1/00009")):
    """Millimetres with holes; returns the expected metres by key."""
    expected = {}
    for name in names:
        scene, number = name.split("/")
        folder = root / "official_splits" / "test" / scene
        write_image(folder / f"rgb_{number}.jpg")
        raw = RNG.integers(500, 9999, (6, 8)).astype(np.uint16)
        raw[0, :3], raw[5, 7] = 0, 10000
        write(folder / f"sync_depth_{number}.png", png16(raw))
        key = f"official_splits/test/{scene}/rgb_{number}.jpg"
        expected[key] = raw.astype(np.float64) / 1000
    write(root / "official_splits" / "train" / "den" / "rgb_00001.jpg", b"not read")
    write(root / "official_splits" / "test" / "bathroom" / "._rgb_00045.jpg", b"not read")
    write(root / "official_splits" / "test" / "notes.txt", "not read")
    return expected
