"""Files → arrays: RGB images and the label formats that depth data sets come in.

Label conventions (`fmt`; the value divided by `scale` is metres, or pixels of disparity):
  png16          any 16-bit single-channel image (PNG, PGM, TIFF); needs a scale
  kitti          16-bit PNG, metres × 256 (disparity maps of KITTI 2015 too); 0 = no measurement
  nyu            16-bit PNG, millimetres (also Redwood, DIML, HoloLens exports); 0 = hole
  tum            16-bit PNG, metres × 5000 (also ICL-NUIM)
  vkitti         16-bit PNG, centimetres; 65535 = sky
  sunrgbd_png16  16-bit PNG in millimetres, rotated left by three bits
  png8           8-bit image, usually disparity in pixels
  npy, npz       NumPy array, float or integer (npz: the only array, or the one named by `field`)
  pfm            portable float map, rows stored bottom-up
Zero and non-finite values are invalid in all of them.

Images decode as `cv2.imread` decodes them: EXIF orientation applied, alpha dropped, 16 bits cut to
8, grey repeated; only the channel order is RGB. Truncated files are errors here (OpenCV fills the
missing part with grey and says nothing to the caller).
"""

from __future__ import annotations

import dataclasses
import io
import os
import pathlib
import re
import threading
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from depth_anything_jax.data.file_formats import decoding_limits

PathLike = str | os.PathLike[str]
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff")
LABEL_SUFFIXES = (".png", ".pgm", ".tif", ".tiff", ".npy", ".npz", ".pfm")
# fmt → (reader, scale that the convention fixes, depth in metres above which it means sky)
FORMATS: dict[str, tuple[str, float | None, float | None]] = {
    "png16": ("png16", None, None),
    "kitti": ("png16", 256.0, None),
    "nyu": ("png16", 1000.0, None),
    "tum": ("png16", 5000.0, None),
    "vkitti": ("png16", 100.0, 655.0),
    "sunrgbd_png16": ("sunrgbd", 1000.0, None),
    "png8": ("png8", 1.0, None),
    "npy": ("npy", 1.0, None),
    "npz": ("npz", 1.0, None),
    "pfm": ("pfm", 1.0, None),
}
_ORIENTATION = 0x0112  # EXIF tag
_JPEG_END, _PNG_END = b"\xff\xd9", b"IEND\xaeB`\x82"


class FormatError(ValueError):
    """A file does not hold what its name or its manifest entry promises."""


@dataclasses.dataclass(frozen=True)
class LabelFormat:
    """How a label file becomes metres of depth or pixels of disparity.

    Attributes:
      fmt: a key of FORMATS; None goes by the file's suffix (png means png16, which needs a scale).
      scale: value / scale = metres or pixels; None takes the convention's.
      absolute: take absolute values (SceneFlow stores negative disparity).
      offset: added after scaling; turns Middlebury's disparity d into d + doffs, which is
        proportional to 1/z.
      field: array name inside an npz.
      sky_above: depth (metres, after scaling) above which a pixel is sky, as renderers write it;
        None takes the convention's.
    """

    fmt: str | None = None
    scale: float | None = None
    absolute: bool = False
    offset: float = 0.0
    field: str | None = None
    sky_above: float | None = None

    def __post_init__(self) -> None:
        if self.fmt is not None and self.fmt not in FORMATS:
            raise FormatError(f"unknown label format {self.fmt!r}: one of {', '.join(FORMATS)}")
        if self.scale is not None and not (np.isfinite(self.scale) and self.scale > 0):
            raise FormatError(f"label scale must be positive, got {self.scale!r}")
        if self.sky_above is not None and not self.sky_above > 0:
            raise FormatError(f"sky_above must be a positive depth, got {self.sky_above!r}")

    @property
    def tells_sky(self) -> bool:
        """Whether the label itself says where the sky is."""
        return self.sky_above is not None or bool(self.fmt and FORMATS[self.fmt][2])


def read_bytes(path: PathLike) -> bytes:
    """The file's bytes; an empty file is an error (a failed copy, most often)."""
    data = pathlib.Path(path).read_bytes()
    if not data:
        raise FormatError(f"{path}: the file is empty")
    return data


def _check_complete(data: bytes, name: PathLike) -> None:
    """Raises FormatError where a JPEG or PNG stops early, or would take too long to decode."""
    reason = decoding_limits.too_costly(data)
    if reason is not None:
        raise FormatError(f"{name}: {reason}")
    if data.startswith(b"\xff\xd8"):
        # Behind the headers: a thumbnail in them has an end marker of its own.
        complete = _JPEG_END in data[max(_jpeg_scan(data), len(data) - 4096) :]
    elif data.startswith(b"\x89PNG"):
        complete = _PNG_END in data[-4096:]
    else:
        return
    if complete:
        return
    # Phones append whole videos after the end marker: let Pillow decide in the rare case.
    try:
        from PIL import Image

        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except Exception as error:
        raise FormatError(f"{name}: truncated image ({error})") from error


def _jpeg_scan(data: bytes) -> int:
    """Where the first scan of a JPEG begins, behind all that has a length; at most its end."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        if data[at + 1] == 0xDA:  # start of scan
            return at
        # Any number of 0xFF may stand before a marker.
        at += 1 if data[at + 1] == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return min(at, len(data))


def decode_image(
    data: bytes, name: PathLike = "image", *, upright: bool = True
) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes an image file's bytes to RGB uint8, as `cv2.imread` would; `upright=False` leaves
    the EXIF orientation to the caller (`photos.read`, which also gives what else a file says)."""
    _check_complete(data, name)
    flags = cv2.IMREAD_COLOR if upright else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None:
        raise FormatError(f"{name}: not an image that OpenCV can decode ({len(data)} bytes)")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_image(path: PathLike) -> UInt8[np.ndarray, "h w 3"]:
    """Reads an image file as RGB uint8 (h, w, 3)."""
    return decode_image(read_bytes(path), path)


def is_plain_rgb(data: bytes) -> bool:
    """Whether every reader gives the same pixels for an image file: 8-bit RGB JPEG or PNG without
    alpha, palette or EXIF rotation."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        upright = image.getexif().get(_ORIENTATION, 1) == 1
        return image.format in ("JPEG", "PNG") and image.mode == "RGB" and upright


def decode_raw(data: bytes, name: PathLike, *, bits: int) -> np.ndarray:
    """Decodes a single-channel 8- or 16-bit image to (h, w), values untouched."""
    _check_complete(data, name)
    raw = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if raw is None:
        raise FormatError(f"{name}: not an image that OpenCV can decode ({len(data)} bytes)")
    if raw.ndim == 3:
        # Grey labels saved as RGB carry the same value in every colour channel.
        colours = raw[..., :3]
        if raw.shape[2] == 2 or not (colours == colours[..., :1]).all():
            raise FormatError(
                f"{name}: has {raw.shape[2]} differing channels where a label has one; "
                "a colour-mapped picture of depth cannot be read as depth"
            )
        raw = np.ascontiguousarray(raw[..., 0])
    wanted = np.uint16 if bits == 16 else np.uint8
    if raw.dtype != wanted:
        raise FormatError(
            f"{name}: holds {raw.dtype} where {bits}-bit values were announced; "
            f"{'use fmt png8 if it really is 8-bit' if bits == 16 else 'use fmt png16'}"
        )
    return raw


def decode_pfm(data: bytes, name: PathLike = "pfm") -> Float[np.ndarray, "h w"]:
    """Decodes a portable float map (of three channels, the first) to float32, top row first."""
    # \s matches one whitespace byte after the scale: the pixels may begin with any byte.
    header = re.match(rb"(P[Ff])\s+(\d+)\s+(\d+)\s+([-+.\deE]+)\s", data)
    if header is None:
        raise FormatError(f"{name}: no PFM header ('Pf', width height, scale)")
    channels = 3 if header[1] == b"PF" else 1
    width, height, scale = int(header[2]), int(header[3]), float(header[4])
    count, start = width * height * channels, header.end()
    if len(data) - start < 4 * count:
        raise FormatError(
            f"{name}: truncated PFM, {len(data) - start} bytes of pixels, {4 * count} announced"
        )
    pixels = np.frombuffer(data, "<f4" if scale < 0 else ">f4", count, start)
    pixels = pixels.reshape(height, width, channels)[::-1, :, 0]
    return np.ascontiguousarray(pixels, np.float32)


def encode_pfm(values: Float[np.ndarray, "h w"]) -> bytes:
    """Encodes (h, w) as a little-endian one-channel PFM."""
    height, width = values.shape
    pixels = np.ascontiguousarray(values[::-1], "<f4")
    return f"Pf\n{width} {height}\n-1.0\n".encode() + pixels.tobytes()


def encode_png(values: np.ndarray) -> bytes:
    """Encodes uint8 or uint16 (h, w), or RGB uint8 (h, w, 3), as PNG."""
    if values.ndim == 3:
        values = cv2.cvtColor(values, cv2.COLOR_RGB2BGR)
    ok, data = cv2.imencode(".png", values)
    if not ok:
        raise FormatError(f"cannot write {values.dtype} {values.shape} as PNG")
    return data.tobytes()


def encode_jpeg(image: UInt8[np.ndarray, "h w 3"], quality: int = 90) -> bytes:
    """Encodes an RGB image as JPEG."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    ok, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:
        raise FormatError(f"cannot write an image of {image.shape} as JPEG")
    return data.tobytes()


# NumPy parses a file's header with `ast`, which now and then fails in several threads at a time on
# Python 3.11 to .7 and 3.12 to .1 (SystemError: AST constructor recursion depth mismatch,
# cpython#106905).
_parsing = threading.Lock()


def _decode_npy(data: bytes, name: PathLike, field: str | None) -> np.ndarray:
    try:
        with _parsing:
            loaded: Any = np.load(io.BytesIO(data), allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded
            names = loaded.files
            if field is None and len(names) != 1:
                raise FormatError(f"{name}: holds the arrays {names}; say which with 'field'")
            if field is not None and field not in names:
                raise FormatError(f"{name}: no array {field!r}, it holds {names}")
            return loaded[field or names[0]]
    except FormatError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy each raise their own kinds
        raise FormatError(f"{name}: not a NumPy file ({error})") from error


def decode_array(data: bytes, name: PathLike, field: str | None = None) -> np.ndarray:
    """Decodes an npy, or the array `field` of an npz, to numbers (h, w), values untouched."""
    raw = _decode_npy(data, name, field)
    if raw.ndim == 3 and 1 in (raw.shape[0], raw.shape[2]):
        raw = raw[0] if raw.shape[0] == 1 else raw[..., 0]
    if raw.ndim != 2 or raw.size == 0 or raw.dtype.kind not in "fiu":
        raise FormatError(f"{name}: a map is numbers (h, w), this is {raw.dtype} {raw.shape}")
    return raw


def guess_format(path: PathLike) -> str:
    """The label format that a file's suffix says."""
    suffix = pathlib.Path(path).suffix.lower()
    if suffix in (".npy", ".npz", ".pfm"):
        return suffix[1:]
    if suffix in LABEL_SUFFIXES:
        return "png16"
    raise FormatError(f"{path}: no label format for suffix {suffix!r}: {', '.join(LABEL_SUFFIXES)}")


def decode_label(
    data: bytes, name: PathLike, spec: LabelFormat = LabelFormat()
) -> Float[np.ndarray, "h w"]:
    """Decodes a label file's bytes to metres of depth or pixels of disparity, 0 where invalid.

    As `decode_label_and_sky`, whose sky is invalid here.
    """
    return decode_label_and_sky(data, name, spec)[0]


def decode_label_and_sky(
    data: bytes, name: PathLike, spec: LabelFormat = LabelFormat()
) -> tuple[Float[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
    """Decodes a label file's bytes to metres of depth or pixels of disparity, and to sky.

    Args:
      data: the file.
      name: its path, for errors and, where `spec.fmt` is None, for the format.
      spec: format, scale and the rest.

    Returns:
      float32 (h, w), 0 at invalid pixels and in the sky; and bool (h, w), True in the sky.

    Raises:
      FormatError: naming the file and what is wrong with it.
    """
    reader, fixed, sky_above = FORMATS[spec.fmt or guess_format(name)]
    scale = spec.scale if spec.scale is not None else fixed
    if scale is None:
        raise FormatError(
            f"{name}: a 16-bit image needs 'scale' (value / scale = metres), or a convention with "
            "one: kitti (256), nyu (1000), tum (5000), vkitti (100)"
        )
    if reader in ("png16", "sunrgbd"):
        raw = decode_raw(data, name, bits=16)
    elif reader == "png8":
        raw = decode_raw(data, name, bits=8)
    elif reader == "pfm":
        raw = decode_pfm(data, name)
    else:
        raw = decode_array(data, name, spec.field)
    if reader == "sunrgbd":
        raw = (raw >> 3) | (raw << 13)
    values = raw.astype(np.float32)
    if spec.absolute:
        values = np.abs(values)
    valid = np.isfinite(values) & (values > 0)
    with np.errstate(invalid="ignore", over="ignore"):  # infinities are invalid, no news
        values = values / np.float32(scale) + np.float32(spec.offset)
    sky_above = sky_above if spec.sky_above is None else spec.sky_above
    # A renderer may well write infinity for the sky.
    sky = np.zeros(values.shape, np.bool_) if sky_above is None else values > sky_above
    return np.where(valid & (values > 0) & ~sky, values, np.float32(0)), sky


def read_label(path: PathLike, spec: LabelFormat = LabelFormat()) -> Float[np.ndarray, "h w"]:
    """Reads a label file: float32 (h, w) metres or pixels, 0 where invalid."""
    return decode_label(read_bytes(path), path, spec)


def read_mask(path: PathLike) -> np.ndarray:
    """Reads a mask image or NumPy array as bool (h, w): non-zero is True."""
    data = read_bytes(path)
    if pathlib.Path(path).suffix.lower() in (".npy", ".npz"):
        mask = np.squeeze(_decode_npy(data, path, None))
    else:
        _check_complete(data, path)
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if decoded is None:
            raise FormatError(f"{path}: not an image that OpenCV can decode")
        mask = decoded if decoded.ndim == 2 else np.any(decoded[..., :3], axis=-1)
    if mask.ndim != 2:
        raise FormatError(f"{path}: a mask is (h, w), this is {mask.shape}")
    return mask != 0
