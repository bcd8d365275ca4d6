"""Decodes RGB images and the label formats of depth data sets to arrays.

Label conventions (`fmt`; the value divided by `scale` is metres, or pixels of disparity):
  png16          any 16-bit single-channel image (PNG, PGM, TIFF); needs a scale
  kitti          16-bit PNG, metres × 256 (disparity maps of KITTI 2015 too); 0 = no measurement
  nyu            16-bit PNG, millimetres (also Redwood, DIML, HoloLens exports); 0 = hole
  tum            16-bit PNG, metres × 5000 (also ICL-NUIM)
  vkitti         16-bit PNG, centimetres; 65535 = sky
  sunrgbd_png16  16-bit PNG in millimetres, rotated left by three bits
  png8           8-bit image of disparity; of depth it needs a scale
  npy, npz       NumPy array (npz: the only one, or the one named by `field`); depth in whole
                 numbers needs a scale
  pfm            portable float map, rows stored bottom-up
Zero and non-finite values are invalid in all of them.

Images decode as `cv2.imread` decodes them: EXIF orientation applied, alpha dropped, 16 bits cut to
8, grey repeated; only the channel order is RGB. Truncated files are errors here, where OpenCV
silently fills the missing part with grey.
"""

from __future__ import annotations

import dataclasses
import io
import os
import pathlib
import re
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from depth_anything_jax.data.file_formats import decoding_limits, numpy_files, saved_depth
from depth_anything_jax.data.file_formats.file_checks import (
    FormatError,
    PathLike,
    check_is_picture,
    check_map,
    check_map_size,
    complete,
)
from depth_anything_jax.data.file_formats.orientation import exif_orientation

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
    "png8": ("png8", None, None),
    "npy": ("npy", 1.0, None),
    "npz": ("npz", 1.0, None),
    "pfm": ("pfm", 1.0, None),
}


class DecodedLabel(NamedTuple):
    """A label in metres of depth or pixels of disparity.

    Attributes:
      values: float32 (h, w), 0 at invalid pixels and in the sky.
      sky: bool (h, w), True in the sky.
      invalid: bool (h, w), True where the file holds no measurement at all. Of the other zeros a
        mask may say that they are infinitely far disparity.
    """

    values: Float[np.ndarray, "h w"]
    sky: Bool[np.ndarray, "h w"]
    invalid: Bool[np.ndarray, "h w"]


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
      invalid: values of the file, before scaling, that mean "no measurement".
      min_depth, max_depth: depth in metres below and above which a pixel is invalid, not sky.
    """

    fmt: str | None = None
    scale: float | None = None
    absolute: bool = False
    offset: float = 0.0
    field: str | None = None
    sky_above: float | None = None
    invalid: tuple[float, ...] = ()
    min_depth: float | None = None
    max_depth: float | None = None

    def __post_init__(self) -> None:
        if self.fmt is not None and self.fmt not in FORMATS:
            raise FormatError(f"unknown label format {self.fmt!r}: one of {', '.join(FORMATS)}")
        if self.scale is not None and not (np.isfinite(self.scale) and self.scale > 0):
            raise FormatError(f"label scale must be positive, got {self.scale!r}")
        if self.sky_above is not None and not self.sky_above > 0:
            raise FormatError(f"sky_above must be a positive depth, got {self.sky_above!r}")
        for field in ("min_depth", "max_depth"):
            if (metres := getattr(self, field)) is not None and not metres > 0:
                raise FormatError(f"{field} must be a positive depth in metres, got {metres!r}")
        if self.min_depth and self.max_depth and self.min_depth >= self.max_depth:
            raise FormatError(
                f"min_depth={self.min_depth} must be below max_depth={self.max_depth}"
            )

    @property
    def tells_sky(self) -> bool:
        """Whether the label itself says where the sky is."""
        return self.sky_above is not None or bool(self.fmt and FORMATS[self.fmt][2])


def numbers(value: Any) -> tuple[float, ...]:
    """Returns the field `invalid` (a number, a list of them, None) as a tuple; else TypeError."""
    values = value if isinstance(value, list | tuple) else [] if value is None else [value]
    if not all(type(v) in (int, float) for v in values):
        raise TypeError(f"invalid must be a number or a list of numbers, got {value!r}")
    return tuple(values)


def read_bytes(path: PathLike) -> bytes:
    """The file's bytes; an empty file is an error (a failed copy, most often)."""
    path = pathlib.Path(path)
    size = path.stat().st_size
    if size > decoding_limits.MAX_FILE:
        raise FormatError(f"{path}: {size / 1e9:.1f} GB, more than an image or a label has")
    data = path.read_bytes()
    if not data:
        raise FormatError(f"{path}: the file is empty")
    return data


def decode_image(
    data: bytes, name: PathLike = "image", *, upright: bool = True
) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes an image file's bytes to RGB uint8 as `cv2.imread` does.

    `upright=False` does not apply the EXIF orientation (`photos.read` does it itself).
    """
    check_is_picture(data, name)
    data = complete(data, name)
    flags = cv2.IMREAD_COLOR if upright else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None:
        raise FormatError(f"{name}: not an image that OpenCV can decode ({len(data)} bytes)")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_image(path: PathLike) -> UInt8[np.ndarray, "h w 3"]:
    """Reads an image file as RGB uint8 (h, w, 3)."""
    return decode_image(read_bytes(path), path)


def is_plain_rgb(data: bytes) -> bool:
    """Whether every reader gives the same pixels for an image file: 8-bit RGB JPEG, PNG or WebP
    without alpha, palette, EXIF rotation or further frames, with its end marker."""
    from PIL import Image

    if exif_orientation(data) != 1 or complete(data, "image") is not data:
        return False
    with Image.open(io.BytesIO(data)) as image:
        single = getattr(image, "n_frames", 1) == 1
        return image.format in ("JPEG", "PNG", "WEBP") and image.mode == "RGB" and single


def decode_raw(data: bytes, name: PathLike, *, bits: int) -> np.ndarray:
    """Decodes a single-channel 8- or 16-bit image to (h, w), values untouched."""
    check_map(data, name)
    data = complete(data, name)
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
            f"{name}: holds {raw.dtype} where {bits}-bit values are expected; "
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
    check_map_size(name, (height, width, channels), 4)
    count, start = width * height * channels, header.end()
    if len(data) - start < 4 * count:
        raise FormatError(
            f"{name}: truncated PFM, {len(data) - start} bytes of pixels, {4 * count} expected"
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


def decode_array(data: bytes, name: PathLike, field: str | None = None) -> np.ndarray:
    """Decodes an npy, or the array `field` of an npz, to numbers (h, w), values untouched."""
    raw = numpy_files.read(data, name, field)
    if raw.ndim == 3 and 1 in (raw.shape[0], raw.shape[2]):
        raw = raw[0] if raw.shape[0] == 1 else raw[..., 0]
    if raw.ndim != 2 or raw.size == 0 or raw.dtype.kind not in "fiu":
        raise FormatError(f"{name}: a map is numbers (h, w), this is {raw.dtype} {raw.shape}")
    return raw


def guess_format(path: PathLike) -> str:
    """Returns the label format of a file's suffix."""
    suffix = os.path.splitext(path)[1].lower()
    if suffix in (".npy", ".npz", ".pfm"):
        return suffix[1:]
    if suffix in LABEL_SUFFIXES:
        return "png16"
    raise FormatError(f"{path}: no label format for suffix {suffix!r}: {', '.join(LABEL_SUFFIXES)}")


def label_scale(name: PathLike, spec: LabelFormat, kind: str = "depth", dtype: Any = None) -> float:
    """Returns what a label's values are divided by to be metres or pixels of disparity.

    Args:
      name: the label's path.
      spec: how to read it.
      kind: "depth" or "disparity".
      dtype: of the values; None, before the file is read, leaves out what depends on it.

    Raises:
      FormatError: neither `spec` nor a convention says it, and a guess could be wrong.
    """
    fmt = spec.fmt or guess_format(name)
    if spec.scale is not None:
        return spec.scale
    if FORMATS[fmt][0] == "png16" and FORMATS[fmt][1] is None:
        raise FormatError(
            f"{name}: a 16-bit image needs 'scale' (value / scale = metres), or a convention with "
            "one: kitti (256), nyu (1000), tum (5000), vkitti (100)"
        )
    whole = fmt == "png8" or (fmt in ("npy", "npz") and dtype is not None and dtype.kind in "iu")
    if kind == "depth" and whole:
        what = "an 8-bit image" if fmt == "png8" else f"an array of {dtype}"
        raise FormatError(
            f"{name}: {what} of kind=depth needs 'scale' (value / scale = metres; scale=1 if the "
            "values are metres). If larger values are nearer, it is kind=disparity"
        )
    return FORMATS[fmt][1] or 1.0


def decode_label(
    data: bytes, name: PathLike, spec: LabelFormat = LabelFormat(), kind: str = "depth"
) -> Float[np.ndarray, "h w"]:
    """Decodes a label file as `decode_with_masks` does; its sky is invalid here."""
    return decode_with_masks(data, name, spec, kind).values


def decode_with_masks(
    data: bytes, name: PathLike, spec: LabelFormat = LabelFormat(), kind: str = "depth"
) -> DecodedLabel:
    """Decodes a label file's bytes.

    Args:
      data: the file's bytes.
      name: its path, for errors and, where `spec.fmt` is None, for the format.
      spec: how to read it.
      kind: "depth" or "disparity"; depth of whole numbers needs a scale.

    Raises:
      FormatError: naming the file and what is wrong with it.
    """
    reader = FORMATS[spec.fmt or guess_format(name)][0]
    label_scale(name, spec, kind)  # raises before anything is decoded
    if reader in ("png16", "sunrgbd"):
        raw = decode_raw(data, name, bits=16)
    elif reader == "png8":
        raw = decode_raw(data, name, bits=8)
    elif reader == "pfm":
        raw = decode_pfm(data, name)
    else:
        raw = decode_array(data, name, spec.field)
    scale = label_scale(name, spec, kind, raw.dtype)
    saved_depth.check(data, name, scale, kind)
    if reader == "sunrgbd":
        raw = (raw >> 3) | (raw << 13)
    return interpret(raw, spec, scale, kind)


def interpret(raw: np.ndarray, spec: LabelFormat, scale: float, kind: str) -> DecodedLabel:
    """Turns a label's numbers (h, w) into metres of depth or pixels of disparity."""
    invalid = np.zeros(raw.shape, np.bool_)
    if spec.invalid:
        invalid = np.isin(raw, np.array(spec.invalid, raw.dtype if raw.dtype.kind == "f" else None))
    with np.errstate(invalid="ignore", over="ignore"):  # infinities are invalid anyway
        values = raw.astype(np.float32)
        if spec.absolute:
            values = np.abs(values)
        positive = values > 0
        invalid |= np.isnan(values) | (values < 0)
        values = values / np.float32(scale) + np.float32(spec.offset)
    sky_above = FORMATS[spec.fmt][2] if spec.fmt and spec.sky_above is None else spec.sky_above
    sky = np.zeros(values.shape, np.bool_)
    if kind == "depth" and sky_above is not None:
        sky = (values > sky_above) & ~invalid  # some renderers write infinity for the sky
    if spec.min_depth is not None:
        invalid |= values < spec.min_depth
    if spec.max_depth is not None:
        invalid |= (values > spec.max_depth) & ~sky
    invalid |= np.isinf(values) & ~sky
    valid = positive & (values > 0) & ~invalid & ~sky
    return DecodedLabel(np.where(valid, values, np.float32(0)), sky, invalid)


def read_label(
    path: PathLike, spec: LabelFormat = LabelFormat(), kind: str = "depth"
) -> Float[np.ndarray, "h w"]:
    """Reads a label file: float32 (h, w) metres or pixels, 0 where invalid."""
    return decode_label(read_bytes(path), path, spec, kind)


def read_mask(path: PathLike) -> np.ndarray:
    """Reads a mask image or NumPy array as bool (h, w): non-zero is True."""
    data = read_bytes(path)
    if pathlib.Path(path).suffix.lower() in (".npy", ".npz"):
        mask = np.squeeze(numpy_files.read(data, path, None))
    else:
        check_map(data, path)
        data = complete(data, path)
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if decoded is None:
            raise FormatError(f"{path}: not an image that OpenCV can decode")
        mask = decoded if decoded.ndim == 2 else np.any(decoded[..., :3], axis=-1)
    if mask.ndim != 2:
        raise FormatError(f"{path}: a mask is (h, w), this is {mask.shape}")
    return mask != 0
