"""Reads pictures from phones, cameras and tools to RGB uint8, with the lens data of their EXIF.

`read` decodes ordinary pictures (8-bit JPEG and PNG) exactly as training data is decoded
(`formats.decode_image`) and as in the official code (`cv2.imread`): alpha is dropped and colour
profiles of RGB pictures are not applied. Beyond that:
  - the content decides, never the suffix; HEIC needs the extra [heic], AVIF a Pillow from 11.3 on;
  - all eight EXIF orientations, in every format;
  - 16 bits become 8 by value / 257, rounded: nothing is clipped, and white stays white;
  - CMYK through its colour profile where it has one; Adobe's inverted files are turned round;
  - of animations, bursts and pages the first, and `Facts.notes` says so;
  - truncated or damaged files, previews of camera raw files, thumbnails before a picture,
    floating-point pictures and pictures of more than `max_pixels` are refused by name, the last
    before anything is decoded. A JPEG that lacks its end marker alone is complete.
`read` returns only the numbers of `Facts`, no EXIF data, so GPS positions are in no output.
"""

from __future__ import annotations

import dataclasses
import io
import math
import os
import pathlib
import threading
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

from depth_anything_jax.data.file_formats import decoding_limits, orientation
from depth_anything_jax.data.file_formats.file_checks import (
    FormatError,
    PathLike,
    check_is_picture,
    tiff_tags,
)
from depth_anything_jax.data.file_formats.formats import IMAGE_SUFFIXES, decode_image

SUFFIXES = (
    *IMAGE_SUFFIXES,
    ".avif", ".gif", ".heic", ".heif", ".hif", ".jfif", ".jpe", ".mpo", ".pgm", ".apng",
)  # fmt: skip
MAX_PIXELS = 256_000_000  # our choice: phones make 200 million; Pillow's own limit is 179 million
DIAGONAL = math.hypot(36, 24)  # of the 35-mm frame, in mm
# Brands of files that begin as MP4 does, those of animations among them
HEIF = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
AVIF = {b"avif", b"avis"}
# EXIF tags
_EXIF_IFD = 0x8769
# TIFF tags
_BITS, _PHOTOMETRIC, _SAMPLES, _PLANAR = 258, 262, 277, 284
_FOCAL, _FOCAL_35 = 0x920A, 0xA405
_PLANE_X, _PLANE_Y, _PLANE_UNIT, _WIDTH, _HEIGHT = 0xA20E, 0xA20F, 0xA210, 0xA002, 0xA003
_UNITS_MM = {2: 25.4, 3: 10.0, 4: 1.0, 5: 1e-3}  # inch, cm, mm, µm
_opening = threading.Lock()  # Pillow's limit is a global variable


@dataclasses.dataclass(frozen=True)
class Facts:
    """Properties of a picture file.

    Attributes:
      format: "JPEG", "HEIF", …
      mode: Pillow's name of how the pixels are stored ("RGB", "P", "CMYK", "I;16", …).
      bits: of a channel.
      orientation: EXIF's, 1 to 8; `read` has applied it.
      frames: images in the file.
      alpha: whether it has transparency, which is ignored.
      focal_35mm: focal length in mm on 35-mm film of the same diagonal.
      focal_mm: the lens's own.
      sensor_mm: (height, width) of the sensor, of the upright picture.
    """

    format: str
    mode: str
    bits: int = 8
    orientation: int = 1
    frames: int = 1
    alpha: bool = False
    focal_35mm: float | None = None
    focal_mm: float | None = None
    sensor_mm: tuple[float, float] | None = None

    def focal_pixels(self, height: int, width: int) -> tuple[float, str] | None:
        """(focal length in pixels of the picture at this size, where it is from), or None.

        From the 35-mm equivalent by the diagonal (CIPA DCG-001), else from lens and sensor. Both
        hold for a resized picture, not for one that was cropped after it was taken.
        """
        diagonal = math.hypot(height, width)
        if self.focal_35mm is not None:
            return self.focal_35mm * diagonal / DIAGONAL, f"EXIF: {self.focal_35mm:g} mm on 35 mm"
        if self.focal_mm is not None and self.sensor_mm is not None:
            focal = self.focal_mm * diagonal / math.hypot(*self.sensor_mm)
            high, wide = self.sensor_mm
            return focal, f"EXIF: {self.focal_mm:g} mm on a sensor of {wide:.1f} x {high:.1f} mm"
        return None

    @property
    def notes(self) -> list[str]:
        """What a user should know about how the picture was read, one phrase each."""
        found = []
        if self.frames > 1 and self.format != "MPO":  # a second view or a gain map, not a sequence
            found.append(f"holds {self.frames} images: the first is used")
        if self.alpha:
            found.append("transparency is ignored, as in the official code")
        if self.bits > 8:
            found.append(f"{self.bits} bits a channel are reduced to 8")
        return found


class Photo(NamedTuple):
    """An upright picture, RGB uint8 (h, w, 3), and the properties of its file."""

    image: UInt8[np.ndarray, "h w 3"]
    facts: Facts


def read(
    source: PathLike | bytes, *, name: str | None = None, max_pixels: int = MAX_PIXELS
) -> Photo:
    """Reads a picture.

    Args:
      source: a path, or the bytes of a file.
      name: what errors call it; None takes the path, or "picture".
      max_pixels: pictures of more are refused before they are decoded.

    Raises:
      FormatError: naming the file, what is wrong with it and how to fix it.
    """
    if isinstance(source, bytes):
        data, name = source, name or "picture"
    else:
        name = name or os.fspath(source)
        data = _file(source, name)
    if not data:
        raise FormatError(f"{name}: the file is empty")
    check_is_picture(data, name)
    image, frames = _open(data, name)
    width, height = image.size
    if width * height > max_pixels:
        raise FormatError(
            f"{name}: {width}x{height} is {width * height / 1e6:.0f} million pixels, the limit is "
            f"{max_pixels / 1e6:g} million; make it smaller or raise max_pixels"
        )
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        raise FormatError(
            f"{name}: holds 32-bit values, whose black and white are unknown; export it with 8 or "
            "16 bits"
        )
    mode, alpha = image.mode, _has_alpha(image)
    # Pillow turns a TIFF and libheif a HEIC by themselves, and then say that nothing is due.
    turned = getattr(image, "tag_v2", {}).get(orientation.TAG)
    rgb, bits = _decode(image, data, name)
    exif = _exif(image)
    due = exif.get(orientation.TAG, 1)
    rgb = orientation.upright(rgb, due if due in orientation.UPRIGHT else 1)
    applied = turned or image.info.get("original_orientation") or due
    facts = Facts(
        format=image.format or "",
        mode=mode,
        bits=bits,
        orientation=applied if applied in orientation.UPRIGHT else 1,
        frames=frames,
        alpha=alpha,
        **_lens(exif, rgb.shape[:2]),
    )
    return Photo(np.require(rgb, requirements=("C", "W")), facts)


def lens(image: Any, shape: tuple[int, int]) -> Facts:
    """Reads the lens data of an opened PIL image; `shape` (h, w) is of the upright picture."""
    return Facts(format=image.format or "", mode=image.mode, **_lens(_exif(image), shape))


def _file(path: PathLike, name: str) -> bytes:
    file = pathlib.Path(path)
    if file.is_dir():
        raise FormatError(f"{name}: is a folder, not a picture")
    try:
        size = file.stat().st_size
        if size > decoding_limits.MAX_FILE:
            raise FormatError(f"{name}: {size / 1e9:.1f} GB, more than a picture has")
        return file.read_bytes()
    except OSError as error:
        raise FormatError(f"{name}: cannot be read ({error.strerror or error})") from error


def _open(data: bytes, name: str) -> tuple[Any, int]:
    """Returns Pillow's image, not yet decoded, and the number of images in the file."""
    from PIL import Image, features

    brands = set()
    if data[4:8] == b"ftyp":
        box = data[8 : min(int.from_bytes(data[:4], "big"), 256)]
        brands = {box[i : i + 4] for i in range(0, len(box), 4)}
    avif, heif = bool(brands & AVIF), bool(brands & HEIF)
    if avif and not features.check("avif"):
        raise FormatError(f"{name}: an AVIF picture; this Pillow reads none: install 11.3 or newer")
    if brands and not (avif or heif):
        raise FormatError(f"{name}: a video or another MP4-like file, not a picture")
    try:
        if heif and not avif:
            return _open_heif(data, name)
        with _opening:
            limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # `read` has its own
            try:
                image = Image.open(io.BytesIO(data))
            finally:
                Image.MAX_IMAGE_PIXELS = limit
    except FormatError:
        raise
    except Image.UnidentifiedImageError as error:
        if tags := tiff_tags(data):
            raise FormatError(_unreadable_tiff(name, tags)) from error
        start = ascii(data[:24].decode("latin-1"))
        raise FormatError(
            f"{name}: not a picture, or one whose beginning is damaged: {len(data)} bytes that "
            f"begin with {start}"
        ) from error
    except Exception as error:  # plugins raise all kinds
        raise FormatError(f"{name}: cannot be read ({error})") from error
    try:
        if image.format in ("TIFF", "GIF"):  # Pillow would read each of 100,000 directories
            frames = decoding_limits.frames(data)
        else:
            frames = int(getattr(image, "n_frames", 1))
        image.seek(0)
    except Exception:  # the end of an animation is missing; its first image may be complete
        frames = 1
    return image, frames


def _unreadable_tiff(name: str, tags: Any) -> str:
    kind = f"{tags.get(_SAMPLES, 1)} channels of {np.ravel(tags.get(_BITS, 1))[0]} bits"
    kind += ", in planes" if tags.get(_PLANAR) == 2 else ""
    return f"{name}: a TIFF of a kind that cannot be read ({kind}); export it as PNG"


def _open_heif(data: bytes, name: str) -> tuple[Any, int]:
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        raise FormatError(
            f"{name}: a HEIC picture, as phones write them; reading it needs the extra [heic]: "
            "pip install 'depth_anything_jax[heic]'"
        ) from error
    image = HeifImageFile(io.BytesIO(data))
    return image, int(getattr(image, "n_frames", 1))


def _has_alpha(image: Any) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info


def _decode(image: Any, data: bytes, name: str) -> tuple[UInt8[np.ndarray, "h w 3"], int]:
    """Returns RGB as stored, before the EXIF rotation, and the bits per channel in the file."""
    tags = getattr(image, "tag_v2", {})
    bits = _bits(image, data, tags)
    if image.format in ("JPEG", "MPO", "PNG") and image.mode != "CMYK" and bits <= 8:
        return decode_image(data, name, upright=False), 8
    planar, white_is_zero = tags.get(_PLANAR) == 2, tags.get(_PHOTOMETRIC) == 0
    channels = tags.get(_SAMPLES, 1)
    if planar and channels < 3 and (bits > 8 or white_is_zero or channels == 2):
        raise FormatError(_unreadable_tiff(name, tags))
    try:
        if bits > 8 and image.mode in ("RGB", "RGBA", "LA"):  # Pillow keeps 8 bits, some wrongly
            image.load()  # finds what is missing
            if planar:  # OpenCV too reads planes of 16 bits right only as a picture of 8
                return _planes(data, name, tags), bits
            return _eight_bits(_opencv(data, name, image), bits), bits
        if image.mode.startswith("I"):
            rgb = _eight_bits(np.asarray(image), bits)
            return (255 - rgb if white_is_zero else rgb), bits
        return np.asarray(_rgb(image)), max(8, int(bits))
    except FormatError:
        raise
    except Exception as error:  # decoders raise all kinds
        raise FormatError(f"{name}: truncated or damaged picture ({error})") from error


def _bits(image: Any, data: bytes, tags: Any) -> int:
    """Returns the bits of a channel in the file."""
    if image.format == "PNG":
        return data[24]
    if image.format == "TIFF":
        return int(max(np.ravel(tags.get(_BITS, 1))))
    if image.format == "JPEG2000":
        at = data.find(b"\xff\x4f\xff\x51")  # start of codestream, image and tile size
        return (data[at + 42] & 0x7F) + 1 if 0 <= at < len(data) - 42 else 8
    return 16 if image.mode.startswith("I") else int(image.info.get("bit_depth", 8))


def _planes(data: bytes, name: str, tags: Any) -> np.ndarray:
    try:
        return decode_image(data, name)
    except FormatError as error:  # planes in tiles
        raise FormatError(_unreadable_tiff(name, tags)) from error


def _opencv(data: bytes, name: str, image: Any) -> np.ndarray:
    """Decodes RGB or grey of more than 8 bits as stored."""
    raw = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if raw is None or raw.dtype != np.uint16:
        raise FormatError(f"{name}: a 16-bit {image.format} of a kind that OpenCV cannot decode")
    if raw.ndim == 3:
        raw = raw[..., 2::-1] if raw.shape[2] >= 3 else raw[..., 0]
    return raw


def _eight_bits(values: np.ndarray, bits: int) -> UInt8[np.ndarray, "h w 3"]:
    """Scales grey or RGB of `bits` bits to RGB of 8, row by row because wide integers are large."""
    white = 2**bits - 1
    out = np.empty((*values.shape[:2], 3), np.uint8)
    for row, stored in zip(out, values, strict=True):
        wide = np.clip(stored, 0, white).astype(np.uint32)
        eight = (wide * 255 + white // 2) // white
        row[:] = eight if eight.ndim == 2 else eight[:, None]
    return out


def _rgb(image: Any) -> Any:
    """Converts Pillow's image to RGB."""
    profile = image.info.get("icc_profile")
    if image.mode == "CMYK" and profile:
        from PIL import ImageCms

        try:
            ink = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            screen = ImageCms.createProfile("sRGB")
            intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
            return ImageCms.profileToProfile(image, ink, screen, intent, outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, ValueError):
            image.load()  # a truncated picture raises here; a broken profile does no harm
    return image.convert("RGB")


def _exif(image: Any) -> Any:
    try:
        return image.getexif()
    except Exception:  # damaged EXIF is no reason to refuse the picture
        return {}


def _lens(exif: Any, shape: tuple[int, int]) -> dict[str, Any]:
    """Returns the focal lengths and the sensor's size as fields of `Facts`."""
    try:
        tags = exif.get_ifd(_EXIF_IFD) if exif else {}
    except Exception:
        return {}

    def number(tag: int) -> float | None:
        try:
            value = float(tags[tag])
        except (KeyError, TypeError, ValueError, ZeroDivisionError):
            return None
        return value if math.isfinite(value) and value > 0 else None  # 0 means unknown

    found: dict[str, Any] = {"focal_35mm": number(_FOCAL_35), "focal_mm": number(_FOCAL)}
    per_x, per_y = number(_PLANE_X), number(_PLANE_Y) or number(_PLANE_X)
    wide, high = number(_WIDTH), number(_HEIGHT)
    if per_x and per_y and wide and high:
        unit = _UNITS_MM.get(int(number(_PLANE_UNIT) or 2), 25.4)
        sides = (high / per_y * unit, wide / per_x * unit)
        # The tags describe the stored picture, which may lie where the upright one stands.
        turned = (shape[0] > shape[1]) != (high > wide)
        found["sensor_mm"] = (sides[1], sides[0]) if turned else sides
    return found
