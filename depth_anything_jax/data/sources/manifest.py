"""Reads manifests of RGB-D pairs: one JSON entry (or one line of a list) per image and label.

A manifest is a JSON list of objects, JSON lines, a table (CSV) or a list with "image label" on each
line; paths are relative to its folder. Fields of an entry:
  rgb, depth      image and label (depth may be left out where only images are wanted)
  fmt             a format of `formats`; without it the label's suffix decides
  scale           value / scale = metres (or pixels); needed by 16-bit images without a convention
  kind            "depth" (default) or "disparity"
  abs             take the label's absolute value
  offset          added to the scaled value (Middlebury's doffs)
  field           array name inside an npz
  sky_above       depth in metres above which a pixel is sky (renderers: TartanAir 1000, IRS 200)
  invalid         value, or list of values, of the file that mean "no measurement"
  min_depth, max_depth    depth in metres below and above which a pixel is invalid, not sky
  sky, valid      masks at the label's size, non-zero = True
  shift_known     disparity only: zero means infinitely far, as in stereo (default false, or true
                  where `offset` is given)
  dataset, domain, scene, split        names to select by
  label_orientation    "stored" or "upright": how label, masks and camera lie where the image has an
                  EXIF orientation
  label_crop      [top, left, height, width]: the window of the image that label and masks show
  label_stretched true: the label may have other proportions than what it shows
  fx, fy, cx, cy  the camera in pixels of the image: fy without a value is fx, cx and cy the middle
  K               instead, 3×3 intrinsics row by row
  focal_mm, sensor_width_mm            instead, both in millimetres; the sensor's longer side, also
                  of a picture taken upright
Notes (note, hw, valid_frac, p1_p50_p99, and what begins with "_") are not read; any other field is
an error. `manifest_rows` reads JSON, lists and tables.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from depth_anything_jax.data.file_formats import formats
from depth_anything_jax.data.sources import view as view_lib
from depth_anything_jax.data.sources.entry import CAMERA, Common, Entry, camera_fields
from depth_anything_jax.data.sources.manifest_rows import (
    NOTES,
    TEXT,
    ManifestError,
    check_fields,
    read_rows,
)
from depth_anything_jax.utils import map_kinds
from depth_anything_jax.utils.choices import did_you_mean

PATHS = ("rgb", "depth", "sky", "valid")
_NOT_COMMON = frozenset((*PATHS, *NOTES))
_MAX_COMMONS = 10_000
# Fields that a source's description may give for all entries that lack them.
DEFAULT_FIELDS = [
    "fmt", "scale", "kind", "abs", "offset", "field", "sky_above", "invalid", "min_depth",
    "max_depth", "shift_known", "dataset", "domain", "split", *CAMERA, *view_lib.FIELDS,
]  # fmt: skip
SELECTABLE = ("dataset", "domain", "split")  # of them, those that entries are selected by
_KNOWN = frozenset((*DEFAULT_FIELDS, "K"))


_commons: dict[tuple[Any, ...], Common] = {}  # by the fields that they were made of


def parse(fields: Mapping[str, Any], where: str) -> Entry:
    """Makes an entry from a manifest's object; `where` names it in errors."""
    if not isinstance(fields, Mapping) or not isinstance(fields.get("rgb"), str):
        raise ManifestError(f"{where}: an entry is an object with 'rgb' (a path): {fields!r:.200}")
    rgb = fields["rgb"]
    depth, sky, valid = files = [fields.get(name) for name in ("depth", "sky", "valid")]
    # Entries with equal fields share one value: a million of them are read in seconds.
    key = (
        None if fields.get("scene") else os.path.dirname(rgb),
        *[
            (name, repr(value) if value.__class__ is list else value)
            for name, value in fields.items()
            if name not in _NOT_COMMON and name[:1] != "_"
        ],
    )
    try:
        common = _commons.get(key)
    except TypeError:  # a value that cannot be right
        common = None
    if common is None or not all(f is None or isinstance(f, str) for f in files):
        common = _common(fields, where)
        if len(_commons) >= _MAX_COMMONS:
            _commons.clear()
        _commons[key] = common
    return Entry(rgb, depth, common, sky, valid)


def _common(fields: Mapping[str, Any], where: str) -> Common:
    """Checks an entry's fields and makes of them what it has in common with others."""
    fields = {name: value for name, value in fields.items() if value is not None}
    check_fields(fields, where, _KNOWN)
    kind = fields.get("kind", "depth")
    if kind not in map_kinds.LABELS:
        raise ManifestError(f"{where}: kind must be depth or disparity, got {kind!r}")
    try:
        label_format = formats.LabelFormat(
            fmt=fields.get("fmt"),
            scale=fields.get("scale"),
            absolute=bool(fields.get("abs", False)),
            offset=float(fields.get("offset", 0.0)),
            field=fields.get("field"),
            sky_above=fields.get("sky_above"),
            invalid=formats.numbers(fields.get("invalid")),
            min_depth=fields.get("min_depth"),
            max_depth=fields.get("max_depth"),
        )
        view = view_lib.from_fields(fields)
        metres = [n for n in ("sky_above", "min_depth", "max_depth") if fields.get(n) is not None]
        if kind == "disparity" and metres:
            raise TypeError(f"{', '.join(metres)} is depth in metres, and the label is disparity")
    except (formats.FormatError, TypeError) as error:
        raise ManifestError(f"{where}: {error}") from error
    default_shift = kind == "depth" or label_format.offset != 0
    return Common(
        label_format=label_format,
        kind=kind,
        shift_known=bool(fields.get("shift_known", default_shift)),
        dataset=fields.get("dataset", ""),
        domain=fields.get("domain", ""),
        scene=fields.get("scene") or str(pathlib.PurePosixPath(fields["rgb"]).parent),
        split=fields.get("split", ""),
        view=view,
        **camera_fields(fields, where),
    )


def to_fields(entry: Entry) -> dict[str, Any]:
    """Turns an entry into a manifest's object that `parse` reads back; defaults are left out."""
    form = entry.label_format
    fields: dict[str, Any] = {
        "rgb": entry.rgb,
        "depth": entry.depth,
        "fmt": form.fmt,
        "scale": form.scale,
        "kind": entry.kind,
        "abs": form.absolute or None,
        "offset": form.offset or None,
        "field": form.field,
        "sky_above": form.sky_above,
        "invalid": list(form.invalid) or None,
        "min_depth": form.min_depth,
        "max_depth": form.max_depth,
        "sky": entry.sky,
        "valid": entry.valid,
        "shift_known": entry.common.shift_known,
        "dataset": entry.dataset or None,
        "domain": entry.domain or None,
        "scene": entry.scene or None,
        "split": entry.split or None,
        **view_lib.to_fields(entry.view),
        **{name: getattr(entry.common, name) for name in CAMERA},
    }
    return {name: value for name, value in fields.items() if value is not None}


def load(
    path: str | os.PathLike[str], defaults: Mapping[str, Any] | None = None
) -> tuple[list[Entry], str]:
    """Reads a manifest file, or `manifest.json` in a folder.

    Args:
      path: the file or folder.
      defaults: fields for entries that lack them.

    Returns:
      The entries and the folder that their paths start from.

    Raises:
      ManifestError: naming the file and the entry.
    """
    path = pathlib.Path(path).expanduser()
    if path.is_dir():
        path = path / "manifest.json"
    if not path.is_file():
        raise ManifestError(
            f"no manifest at {path}; looked for a .json list, .jsonl, .csv or .txt of 'image "
            "label' lines (docs/data.md), or a folder with manifest.json"
        )
    rows = read_rows(path)
    defaults = {k: str(v) if k in TEXT else v for k, v in (defaults or {}).items() if v is not None}
    entries, where = [], str(path)
    for i, row in enumerate(rows):
        if defaults and isinstance(row, Mapping):
            given = {name for name in ("K", "fx", "focal_mm") if row.get(name) is not None}
            # An entry's own camera replaces the source's, whose sensor its millimetres may need.
            left_out = set(CAMERA) if given else set()
            if given == {"focal_mm"}:
                left_out.remove("sensor_width_mm")
            row = {**{k: v for k, v in defaults.items() if k not in left_out}, **row}
        entries.append(parse(row, f"{where}, entry {i}"))
    if not entries:
        raise ManifestError(f"{where}: a manifest is a non-empty list, this is empty")
    return entries, str(path.parent)


def check_inside(
    entries: Sequence[Entry],
    where: str | os.PathLike[str],
    root: str | os.PathLike[str],
    *,
    rooted: bool = False,
) -> None:
    """Refuses paths that leave the folder they start from: a list may come from anybody.

    Args:
      entries: of a manifest.
      where: the manifest, for messages.
      root: that folder; absolute paths to a file in it are accepted.
      rooted: whether "/" at the beginning of an image or label stands for that folder (`moved`).

    Raises:
      ManifestError: naming the path.
    """
    folder = os.path.abspath(os.path.expanduser(root))
    for entry in entries:
        for name in PATHS:
            path = getattr(entry, name)
            if path is None or not (path.startswith("/") or ".." in path):
                continue
            inside = path.lstrip("/") if rooted and name in ("rgb", "depth") else path
            whole = os.path.normpath(os.path.join(folder, inside))
            if not whole.startswith(folder.rstrip(os.sep) + os.sep):
                raise ManifestError(
                    f"{where}: {name}={path!r} lies outside the folder that paths start from; if "
                    f"you trust this manifest, say so: rgbd:{where}?outside=True"
                )


def moved(entry: Entry, depth_root: str | os.PathLike[str] | None) -> Entry:
    """Makes the paths of an entry relative to another root (BTS' lists of NYU start with "/").

    Args:
      depth_root: the labels' folder, if it is not the images' (KITTI).
    """
    depth = entry.depth and entry.depth.lstrip("/")
    if depth and depth_root is not None:
        depth = str(pathlib.Path(depth_root).expanduser().resolve() / depth)
    return dataclasses.replace(entry, rgb=entry.rgb.lstrip("/"), depth=depth)


def select(
    entries: Sequence[Entry],
    where: str | os.PathLike[str],
    *,
    datasets: Sequence[str] | None = None,
    domains: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
    scenes: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
) -> list[Entry]:
    """Returns the selected entries in their order.

    Each list holds names or shell patterns ("office*"). `exclude` drops entries whose dataset,
    scene or image path matches.

    Raises:
      ManifestError: a pattern matches nothing (a typo would train on the test set), or nothing is
        left.
    """
    wanted = {"dataset": datasets, "domain": domains, "split": splits, "scene": scenes}
    if not exclude and all(patterns is None for patterns in wanted.values()):
        return list(entries)
    for field, patterns in wanted.items():
        if patterns is None:
            continue
        have = sorted({getattr(e, field) for e in entries})
        for pattern in patterns:
            if not any(fnmatch.fnmatchcase(name, pattern) for name in have):
                raise ManifestError(_no_match(where, field, pattern, have))
    for pattern in exclude:
        if not any(_matches(e, pattern) for e in entries):
            have = sorted({e.dataset for e in entries})
            raise ManifestError(
                _no_match(where, "dataset, scene or image to exclude", pattern, have)
            )
    kept = [
        e
        for e in entries
        if all(
            patterns is None or any(fnmatch.fnmatchcase(getattr(e, field), p) for p in patterns)
            for field, patterns in wanted.items()
        )
        and not any(_matches(e, p) for p in exclude)
    ]
    if not kept:
        asked = {k: list(v) for k, v in wanted.items() if v is not None} | {
            "exclude": list(exclude)
        }
        raise ManifestError(f"{where}: none of its {len(entries)} entries is left after {asked}")
    return kept


def _matches(entry: Entry, pattern: str) -> bool:
    return any(fnmatch.fnmatchcase(x, pattern) for x in (entry.dataset, entry.scene, entry.rgb))


def _no_match(where: str | os.PathLike[str], what: str, pattern: str, have: Sequence[str]) -> str:
    hint = did_you_mean(pattern, have)
    return f"{where}: no {what} matches {pattern!r}{hint} (it has {', '.join(have[:12])})"
