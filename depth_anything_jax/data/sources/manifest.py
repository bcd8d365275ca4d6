"""Manifests of RGB-D pairs: one JSON entry (or one line of a list) per image and its label.

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
  sky, valid      masks at the label's size, non-zero = True
  shift_known     disparity only: zero means infinitely far, as in stereo (default false, or true
                  where `offset` is given)
  dataset, domain, scene, split        names to select by
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
import functools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from depth_anything_jax.data import camera as camera_lib
from depth_anything_jax.data.file_formats import formats
from depth_anything_jax.data.sources.manifest_rows import (
    TEXT,
    ManifestError,
    check_fields,
    read_rows,
)
from depth_anything_jax.utils.choices import did_you_mean

CAMERA = ("fx", "fy", "cx", "cy", "focal_mm", "sensor_width_mm")
# Fields that a source's description may give for all entries that lack them.
DEFAULT_FIELDS = [
    "fmt", "scale", "kind", "abs", "offset", "field", "sky_above", "shift_known", "dataset",
    "domain", "split", *CAMERA,
]  # fmt: skip
SELECTABLE = ("dataset", "domain", "split")  # of them, those that entries are selected by
_KNOWN = frozenset((*DEFAULT_FIELDS, "K"))


@dataclasses.dataclass(frozen=True)
class Entry:
    """One pair; the fields are those of the module's docstring."""

    rgb: str
    depth: str | None
    label_format: formats.LabelFormat
    kind: str = "depth"
    sky: str | None = None
    valid: str | None = None
    shift_known: bool = True
    dataset: str = ""
    domain: str = ""
    scene: str = ""
    split: str = ""
    fx: float | None = None
    fy: float | None = None
    cx: float | None = None
    cy: float | None = None
    focal_mm: float | None = None
    sensor_width_mm: float | None = None

    @property
    def has_camera(self) -> bool:
        """Whether the entry tells a focal length."""
        return self.fx is not None or self.focal_mm is not None

    def camera(self, height: int, width: int) -> np.ndarray | None:
        """The camera of the image, which has this size (`camera.Camera`); None where unknown."""
        fx = self.fx
        if self.focal_mm is not None and self.sensor_width_mm is not None:
            fx = self.focal_mm / self.sensor_width_mm * max(height, width)
        if fx is None:
            return None
        return camera_lib.camera(fx, self.fy, self.cx, self.cy, height, width)


def _camera(fields: Mapping[str, Any], where: str) -> dict[str, float]:
    """The camera's fields of an entry, checked; of K its four numbers."""
    given = {n: fields[n] for n in CAMERA if fields.get(n) is not None}
    K = fields.get("K")
    try:
        given = {n: float(v) for n, v in given.items()}
        if K is not None:
            flat = [float(v) for row in K for v in (row if isinstance(row, list) else [row])]
    except (TypeError, ValueError) as error:
        raise ManifestError(f"{where}: a camera is given in numbers ({error})") from error
    if K is not None:
        if len(flat) != 9:
            raise ManifestError(f"{where}: K has {len(flat)} numbers, not 9")
        if given:
            raise ManifestError(f"{where}: K and {', '.join(given)} both tell the camera; keep one")
        given = {"fx": flat[0], "fy": flat[4], "cx": flat[2], "cy": flat[5]}
    if "focal_mm" in given and "sensor_width_mm" not in given:
        raise ManifestError(
            f"{where}: focal_mm={given['focal_mm']:g} says nothing in pixels without the sensor's "
            "width; give sensor_width_mm (36 where focal_mm is a 35-mm equivalent), or fx in pixels"
        )
    if "focal_mm" in given and {"fx", "fy"} & given.keys():
        raise ManifestError(f"{where}: focal_mm and fx both tell the focal length; keep one")
    if given and not {"fx", "focal_mm"} & given.keys():
        raise ManifestError(
            f"{where}: {', '.join(given)} without a focal length; give fx in pixels"
        )
    for name in ("fx", "fy", "focal_mm", "sensor_width_mm"):
        if name in given and not given[name] > 0:
            raise ManifestError(f"{where}: {name}={given[name]:g} must be positive")
    return given


@functools.lru_cache(maxsize=1024)
def _folder(path: str) -> str:
    return str(pathlib.PurePosixPath(path))


def parse(fields: Mapping[str, Any], where: str) -> Entry:
    """An entry from a manifest's object; `where` names it in errors."""
    if not isinstance(fields, Mapping) or not isinstance(fields.get("rgb"), str):
        raise ManifestError(f"{where}: an entry is an object with 'rgb' (a path): {fields!r:.200}")
    fields = {name: value for name, value in fields.items() if value is not None}
    check_fields(fields, where, _KNOWN)
    kind = fields.get("kind", "depth")
    if kind not in ("depth", "disparity"):
        raise ManifestError(f"{where}: kind must be depth or disparity, got {kind!r}")
    try:
        label_format = formats.LabelFormat(
            fmt=fields.get("fmt"),
            scale=fields.get("scale"),
            absolute=bool(fields.get("abs", False)),
            offset=float(fields.get("offset", 0.0)),
            field=fields.get("field"),
            sky_above=fields.get("sky_above"),
        )
    except (formats.FormatError, TypeError) as error:
        raise ManifestError(f"{where}: {error}") from error
    default_shift = kind == "depth" or label_format.offset != 0
    return Entry(
        rgb=fields["rgb"],
        depth=fields.get("depth"),
        label_format=label_format,
        kind=kind,
        sky=fields.get("sky"),
        valid=fields.get("valid"),
        shift_known=bool(fields.get("shift_known", default_shift)),
        dataset=fields.get("dataset", ""),
        domain=fields.get("domain", ""),
        scene=fields.get("scene") or _folder(os.path.dirname(fields["rgb"])),
        split=fields.get("split", ""),
        **_camera(fields, where),
    )


def to_fields(entry: Entry) -> dict[str, Any]:
    """An entry as a manifest's object: what `parse` reads back, without what it assumes anyway."""
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
        "sky": entry.sky,
        "valid": entry.valid,
        "shift_known": entry.shift_known,
        "dataset": entry.dataset or None,
        "domain": entry.domain or None,
        "scene": entry.scene or None,
        "split": entry.split or None,
        **{name: getattr(entry, name) for name in CAMERA},
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
        if isinstance(row, Mapping):
            given = {name for name in ("K", "fx", "focal_mm") if row.get(name) is not None}
            # An entry's own camera replaces the source's, whose sensor its millimetres may need.
            left_out = set(CAMERA) if given else set()
            if given == {"focal_mm"}:
                left_out.remove("sensor_width_mm")
            row = {**{k: v for k, v in defaults.items() if k not in left_out}, **row}
        entries.append(parse(row, f"{where}, entry {i}"))
    return entries, str(path.parent)


def moved(entry: Entry, depth_root: str | os.PathLike[str] | None) -> Entry:
    """An entry for a `root` of its own: paths lose a leading "/" (BTS' lists of NYU have one).

    Args:
      depth_root: where labels start from, if not where images do (KITTI).
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
    """The entries wanted; order is kept.

    Each list holds names or shell patterns ("office*"). `exclude` drops entries whose dataset,
    scene or image path matches.

    Raises:
      ManifestError: a pattern matches nothing (a typo would train on the test set), or nothing is
        left.
    """
    wanted = {"dataset": datasets, "domain": domains, "split": splits, "scene": scenes}
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
