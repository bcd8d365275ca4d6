"""Brings labels and cameras to the view of their image: EXIF orientation, crops, equal views."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from depth_anything_jax.data.file_formats.formats import FormatError
from depth_anything_jax.data.file_formats.orientation import stored_size, upright

ORIENTATIONS = ("upright", "stored")
FIELDS = ("label_orientation", "label_crop", "label_stretched")
WITHOUT_CROP = ("label_orientation", "label_stretched")  # of sources without entries

Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class View:
    """How a label, its masks and its camera lie in the image.

    Attributes:
      orientation: "upright" (as the image is shown) or "stored" (as its pixels lie in the file,
        before its EXIF orientation is applied). None accepts what leaves no doubt.
      crop: (top, left, height, width), the window that the label shows, in pixels of the image of
        that orientation; None: the whole image.
      stretched: whether a label may have other proportions than what it shows.
    """

    orientation: str | None = None
    crop: tuple[int, int, int, int] | None = None
    stretched: bool = False


def from_fields(fields: Mapping[str, Any]) -> View:
    """Makes a view of the fields `FIELDS` of a manifest's entry or a source.

    Raises:
      FormatError: a field has no valid value.
    """
    orientation, crop, stretched = (fields.get(name) for name in FIELDS)
    if orientation not in (None, *ORIENTATIONS):
        raise FormatError(
            f"label_orientation must be one of {', '.join(ORIENTATIONS)}, got {orientation!r}"
        )
    if crop is not None and not (
        isinstance(crop, list | tuple)
        and len(crop) == 4
        and all(type(v) is int and v >= 0 for v in crop)
        and min(crop[2:]) > 0
    ):
        raise FormatError(
            f"label_crop must be [top, left, height, width] in pixels of the image, got {crop!r}"
        )
    if stretched not in (None, True, False):
        raise FormatError(f"label_stretched must be true or false, got {stretched!r}")
    return View(orientation, None if crop is None else tuple(crop), bool(stretched))


def to_fields(view: View) -> dict[str, Any]:
    """Turns a view into fields that `from_fields` reads back, None where they are the default."""
    return {
        "label_orientation": view.orientation,
        "label_crop": None if view.crop is None else list(view.crop),
        "label_stretched": view.stretched or None,
    }


def aligned(
    key: str,
    image: np.ndarray,
    maps: Mapping[str, np.ndarray],
    exif: int,
    view: View,
    *,
    fields: Sequence[str] = FIELDS,
) -> dict[str, np.ndarray]:
    """Turns a label's maps upright and lays cropped ones into the view of the whole image.

    Args:
      key: the image's name, for errors.
      image: (h, w, 3), upright.
      maps: (h, w) each; outside a crop they become 0 or False.
      exif: the EXIF orientation that the image file has.
      view: how the maps lie in the image.
      fields: those of `FIELDS` that the source has, for errors.

    Raises:
      FormatError: the maps do not show what `view` says, or an EXIF orientation makes it doubtful.
    """
    size = image.shape[0], image.shape[1]
    orientation = view.orientation or _undoubted(key, size, maps, exif, view)
    own = stored_size(*size, exif) if orientation == "stored" else size
    if view.crop is not None:
        maps = {f: _embedded(key, f, m, own, view) for f, m in maps.items()}
    if orientation == "stored" and exif != 1:
        maps = {field: upright(values, exif) for field, values in maps.items()}
    check_same_view(key, image, maps, tolerance=math.inf if view.stretched else 0, fields=fields)
    return dict(maps)


def check_same_view(
    key: str,
    image: np.ndarray,
    maps: Mapping[str, np.ndarray],
    *,
    tolerance: float = 0,
    fields: Sequence[str] = FIELDS,
) -> None:
    """Raises FormatError where a map is not the image resized by one factor, but for rounding.

    The default is strict because no tolerance tells a crop from a whole image in slightly other
    proportions. The logarithms of the aspect ratios differ by .004 between ScanNet's 968x1296 and
    480x640, by .007 between 480x640 and a network's 518x686; but NYU's crop of 427x561 differs by
    .015 from its 480x640, and one of 475x635 by .003.

    Args:
      key: the image's name.
      image: (h, w, 3).
      maps: (h, w) each.
      tolerance: difference of the logarithms of the aspect ratios that is accepted too.
      fields: those of `FIELDS` that the source has; the error names no others.
    """
    size = image.shape[0], image.shape[1]
    for field, value in maps.items():
        shape = value.shape[0], value.shape[1]
        difference = abs(math.log(shape[1] / shape[0] * size[0] / size[1]))
        if difference <= tolerance or _resized(size, shape):
            continue
        if _resized(size, shape[::-1]):
            named = " (label_orientation)" * ("label_orientation" in fields)
            how = [f"is the image rotated by its EXIF tag{named}, or the label transposed?"]
        else:
            how = ["a crop needs label_crop"] * ("label_crop" in fields)
            if "label_stretched" in fields:
                how.append("other proportions of the whole image need label_stretched")
        raise FormatError(
            f"{key}: the image is {size[0]}x{size[1]} and its {field} {shape[0]}x{shape[1]}: not "
            "the same view" + (f" ({', '.join(how)})" if how else "")
        )


def _resized(a: Size, b: Size) -> bool:
    """Whether one size is the other times one factor, each side rounded up, down or to nearest."""

    def by_one_factor(old: Size, new: Size) -> bool:
        smallest = max((n - 1) / o for n, o in zip(new, old, strict=True))
        return smallest < min((n + 1) / o for n, o in zip(new, old, strict=True))

    return by_one_factor(a, b) or by_one_factor(b, a)


def _undoubted(key: str, size: Size, maps: Mapping[str, np.ndarray], exif: int, view: View) -> str:
    """Returns the orientation of maps that have only one possible."""
    if exif == 1:
        return "upright"
    height, width = next(iter(maps.values())).shape
    turned_fits = _resized(stored_size(*size, exif), (height, width))
    if exif >= 5 and not turned_fits and not view.stretched and not view.crop:
        return "upright"
    raise FormatError(in_doubt(key, exif))


def in_doubt(key: str, exif: int) -> str:
    """Returns the error message for a label or a camera that may lie in two ways."""
    return (
        f"{key}: the image has the EXIF orientation {exif}, and nothing says whether its label and "
        "camera are those of the stored pixels or of the upright picture; give "
        "label_orientation=stored or label_orientation=upright (docs/data.md)"
    )


def _embedded(key: str, field: str, values: np.ndarray, size: Size, view: View) -> np.ndarray:
    """Lays the map of a window into a map of the whole image, at the label's own resolution."""
    assert view.crop is not None
    top, left, height, width = view.crop
    if top + height > size[0] or left + width > size[1]:
        raise FormatError(
            f"{key}: label_crop={list(view.crop)} (top, left, height, width) reaches beyond the "
            f"image of {size[0]}x{size[1]}"
        )
    tolerance = math.inf if view.stretched else 0
    shown = np.empty((height, width, 0))
    check_same_view(f"{key}, label_crop", shown, {field: values}, tolerance=tolerance)
    y, x = values.shape[0] / height, values.shape[1] / width
    out = np.zeros((round(size[0] * y), round(size[1] * x)), values.dtype)
    at = min(round(top * y), out.shape[0] - values.shape[0])
    beside = min(round(left * x), out.shape[1] - values.shape[1])
    out[at : at + values.shape[0], beside : beside + values.shape[1]] = values
    return out
