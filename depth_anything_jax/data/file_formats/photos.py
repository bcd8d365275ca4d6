"""Pictures as phones, cameras and tools write them → RGB uint8, and what their EXIF says.

`read` is for pictures that people bring. Ordinary ones (8-bit JPEG and PNG) come out exactly as the
training data does (`formats.decode_image`) and as in the official code, which is `cv2.imread`:
alpha is dropped and colour profiles of RGB pictures are not applied. Beyond that:
  - the content decides, never the suffix; HEIC needs the extra [heic], AVIF a Pillow from 11.3 on;
  - all eight EXIF orientations, in every format;
  - 16 bits become 8 by value / 257, rounded: nothing is clipped, and white stays white;
  - CMYK through its colour profile where it has one; Adobe's inverted files are turned round;
  - of animations, bursts and pages the first, and `Facts.notes` says so;
  - truncated or damaged files, previews of camera raw files, floating-point pictures and pictures
    of more than `max_pixels` are refused by name, the last before anything is decoded.
Only numbers leave: EXIF (and with it GPS) is not part of what `read` returns, so no output has it.
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

from depth_anything_jax.data.file_formats import decoding_limits
from depth_anything_jax.data.file_formats.formats import (
    IMAGE_SUFFIXES,
    FormatError,
    PathLike,
    decode_image,
)

SUFFIXES = (
    *IMAGE_SUFFIXES,
    ".avif", ".gif", ".heic", ".heif", ".hif", ".jfif", ".jpe", ".mpo", ".pgm", ".apng",
)  # fmt: skip
MAX_PIXELS = 256_000_000  # our choice: phones make 200 million; Pillow's own limit is 179 million
MAX_BYTES = 1 << 30  # our choice; an uncompressed 16-bit picture of 179 million pixels
DIAGONAL = math.hypot(36, 24)  # of the 35-mm frame, in mm
_HEIF = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_AVIF = {b"avif", b"avis"}
# EXIF tags
_ORIENTATION, _EXIF_IFD = 0x0112, 0x8769
_FOCAL, _FOCAL_35 = 0x920A, 0xA405
_PLANE_X, _PLANE_Y, _PLANE_UNIT, _WIDTH, _HEIGHT = 0xA20E, 0xA20F, 0xA210, 0xA002, 0xA003
_UNITS_MM = {2: 25.4, 3: 10.0, 4: 1.0, 5: 1e-3}  # inch, cm, mm, µm
# orientation → quarter turns to the left, then mirrored left to right
_UPRIGHT = {
    1: (0, False), 2: (0, True), 3: (2, False), 4: (2, True),
    5: (-1, True), 6: (-1, False), 7: (1, True), 8: (1, False),
}  # fmt: skip
_opening = threading.Lock()  # Pillow's limit is a global variable


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a picture file says about itself.

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
        """What a user should know about how the picture was read, a sentence each."""
        found = []
        if self.frames > 1 and self.format != "MPO":  # a second view or a gain map, not a sequence
            found.append(f"holds {self.frames} images: the first is used")
        if self.alpha:
            found.append("transparency is ignored, as in the official code")
        if self.bits > 8:
            found.append(f"{self.bits} bits a channel are reduced to 8")
        return found


class Photo(NamedTuple):
    """RGB uint8 (h, w, 3), upright, and what the file says."""

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
      FormatError: naming the file, what is wrong with it and, where there is one, the cure.
    """
    if isinstance(source, bytes):
        data, name = source, name or "picture"
    else:
        name = name or os.fspath(source)
        data = _file(source, name)
    if not data:
        raise FormatError(f"{name}: the file is empty")
    reason = decoding_limits.too_costly(data)
    if reason is not None:
        raise FormatError(f"{name}: {reason}")
    image, frames = _open(data, name)
    width, height = image.size
    if width * height > max_pixels:
        raise FormatError(
            f"{name}: {width}x{height} is {width * height / 1e6:.0f} million pixels, the limit is "
            f"{max_pixels / 1e6:g} million; make it smaller or raise max_pixels"
        )
    _refuse_what_is_no_picture(image, name)
    mode, alpha = image.mode, _has_alpha(image)
    # Pillow turns a TIFF and libheif a HEIC by themselves, and then say that nothing is due.
    turned = getattr(image, "tag_v2", {}).get(_ORIENTATION)
    rgb, bits = _decode(image, data, name)
    exif = _exif(image)
    orientation = exif.get(_ORIENTATION, 1)
    turns, mirrored = _UPRIGHT.get(orientation, (0, False))
    rgb = np.rot90(rgb, turns)
    if mirrored:
        rgb = rgb[:, ::-1]
    applied = turned or image.info.get("original_orientation") or orientation
    facts = Facts(
        format=image.format or "",
        mode=mode,
        bits=bits,
        orientation=applied if applied in _UPRIGHT else 1,
        frames=frames,
        alpha=alpha,
        **_lens(exif, rgb.shape[:2]),
    )
    return Photo(np.require(rgb, requirements=("C", "W")), facts)


def lens(image: Any, shape: tuple[int, int]) -> Facts:
    """What an opened PIL image says of its lens; `shape` (h, w) is of the upright picture."""
    return Facts(format=image.format or "", mode=image.mode, **_lens(_exif(image), shape))


def _file(path: PathLike, name: str) -> bytes:
    file = pathlib.Path(path)
    if file.is_dir():
        raise FormatError(f"{name}: is a folder, not a picture")
    try:
        size = file.stat().st_size
        if size > MAX_BYTES:
            raise FormatError(f"{name}: {size / 1e9:.1f} GB, more than a picture has")
        return file.read_bytes()
    except OSError as error:
        raise FormatError(f"{name}: cannot be read ({error.strerror or error})") from error


def _open(data: bytes, name: str) -> tuple[Any, int]:
    """(Pillow's image, not yet decoded; how many images the file holds)."""
    from PIL import Image, features

    brands = set()
    if data[4:8] == b"ftyp":
        box = data[8 : min(int.from_bytes(data[:4], "big"), 256)]
        brands = {box[i : i + 4] for i in range(0, len(box), 4)}
    avif, heif = bool(brands & _AVIF), bool(brands & _HEIF)
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
    except Exception:  # the end of an animation is missing: its first image may be whole
        frames = 1
    return image, frames


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


def _refuse_what_is_no_picture(image: Any, name: str) -> None:
    tags = getattr(image, "tag_v2", {})
    # NewSubfileType 1: a reduced version of another image; DNGVersion
    if tags and (int(tags.get(254, 0)) & 1 or 0xC612 in tags):
        raise FormatError(
            f"{name}: a camera raw file, of which only a preview could be read; export it as JPEG, "
            "PNG or TIFF"
        )
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        raise FormatError(
            f"{name}: holds {'floating-point' if image.mode == 'F' else '32-bit'} values, whose "
            "black and white are unknown; export it with 8 or 16 bits"
        )


def _has_alpha(image: Any) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info


def _decode(image: Any, data: bytes, name: str) -> tuple[UInt8[np.ndarray, "h w 3"], int]:
    """(RGB as stored, before any rotation that is still due; bits of a channel in the file)."""
    tags = getattr(image, "tag_v2", {})
    if image.format == "PNG":
        bits = data[24]
    elif image.format == "TIFF":
        bits = max(np.ravel(tags.get(258, 1)))
    else:
        bits = 16 if image.mode.startswith("I") else int(image.info.get("bit_depth", 8))
    if image.format in ("JPEG", "MPO", "PNG") and image.mode != "CMYK" and bits <= 8:
        return decode_image(data, name, upright=False), 8
    try:
        if bits == 16 and image.format in ("PNG", "TIFF") and image.mode in ("RGB", "RGBA", "LA"):
            image.load()  # of 16-bit colour Pillow keeps 8 bits, but it finds what is missing
            return _sixteen_bits(_opencv(data, name, image)), 16
        if image.mode.startswith("I"):
            return _sixteen_bits(np.asarray(image)), 16
        return np.asarray(_rgb(image)), max(8, int(bits))
    except FormatError:
        raise
    except Exception as error:  # decoders raise all kinds
        raise FormatError(f"{name}: truncated or damaged picture ({error})") from error


def _opencv(data: bytes, name: str, image: Any) -> np.ndarray:
    """16-bit RGB or grey as stored."""
    raw = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if raw is None or raw.dtype != np.uint16:
        raise FormatError(f"{name}: a 16-bit {image.format} of a kind that OpenCV cannot decode")
    if raw.ndim == 3:
        raw = raw[..., 2::-1] if raw.shape[2] >= 3 else raw[..., 0]
    return raw


def _sixteen_bits(values: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    found = np.empty((*values.shape[:2], 3), np.uint8)
    for rows in range(0, len(values), 64):  # 32 bits of a whole picture would be gigabytes
        part = np.clip(values[rows : rows + 64], 0, 65535).astype(np.uint32)
        part = (part + 128) // 257
        found[rows : rows + 64] = part if values.ndim == 3 else part[..., None]
    return found


def _rgb(image: Any) -> Any:
    """Pillow's image as RGB."""
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
    """The focal lengths and the sensor's size, as `Facts` has them."""
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
        # The tags speak of the stored picture; lying and standing are what tells them apart.
        turned = (shape[0] > shape[1]) != (high > wide)
        found["sensor_mm"] = (sides[1], sides[0]) if turned else sides
    return found
