"""Sources of records: image folders, RGB-D manifests, ArrayRecord data sets, rendered scenes.

A source is a sequence: `len(source)`, `source[i]` → record, `source.key(i)` → the record's name
without reading it. A record is a dict:
  key          str, the path relative to the source's root
  image        uint8 (h, w, 3) RGB
and where the source is labelled
  disparity    float32 (h, w): 1 / depth for depth labels; 0 where invalid
  valid        bool (h, w): where the label holds a measurement
  sky          bool (h, w): known sky (all False without a mask)
  shift_known  bool: zero disparity means infinitely far (depth labels, scale-only disparity)
and sometimes `dataset`, `domain`, `kind` ("depth" or "disparity") and `camera`, float64 (4,): fx,
fy, cx, cy in pixels of the image (see `camera`).

`make(spec)` builds one from a mapping, `{"type": "folder", "path": …}` (docs/data.md). Sources hold
paths and no open files, so that spawned workers can receive them.
"""

from __future__ import annotations

import difflib
import fnmatch
import inspect
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from depth_anything_jax.data import formats, manifest
from depth_anything_jax.data.manifest import Entry

Record = dict[str, Any]
KINDS = ("depth", "disparity")


@runtime_checkable
class Source(Protocol):
    """A sequence of records that spawned workers can receive."""

    name: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...

    def key(self, index: int) -> str:
        """The record's name: unique in the source, the same in every run."""


class SourceError(ValueError):
    """A source's description does not fit what is on disk."""


def list_images(root: str | os.PathLike[str], exclude: Iterable[str] = ()) -> list[str]:
    """Relative paths of all images below `root` ("/" between folders), sorted; no hidden ones.

    Raises:
      SourceError: the folder is missing or holds no image.
    """
    root = pathlib.Path(root).expanduser()
    if not root.is_dir():
        raise SourceError(f"no folder {root}; 'path' must name a folder of images")
    exclude = tuple(exclude)
    found, other = [], 0
    for folder, folders, files in os.walk(root, followlinks=True):
        folders[:] = [f for f in folders if not f.startswith(".")]
        prefix = pathlib.Path(folder).relative_to(root).as_posix()
        for file in files:
            path = file if prefix == "." else f"{prefix}/{file}"
            if file.startswith(".") or any(fnmatch.fnmatchcase(path, p) for p in exclude):
                continue
            if file.lower().endswith(formats.IMAGE_SUFFIXES):
                found.append(path)
            else:
                other += 1
    if not found:
        raise SourceError(
            f"{root}: no image below it ({other} other files); looked for "
            f"{', '.join(formats.IMAGE_SUFFIXES)}" + (f" outside {list(exclude)}" * bool(exclude))
        )
    return sorted(found)


def label_fields(
    values: np.ndarray,
    kind: str,
    *,
    valid: np.ndarray | None = None,
    sky: np.ndarray | None = None,
    shift_known: bool | None = None,
) -> Record:
    """A record's label fields from metres of depth or units of disparity.

    Args:
      values: float (h, w).
      kind: "depth" or "disparity".
      valid: bool (h, w), further restricts where `values` is finite and positive; for disparity it
        also admits zeros (relative maps have a farthest point of 0).
      sky: bool (h, w).
      shift_known: None takes True for depth, False for disparity.
    """
    if kind not in KINDS:
        raise SourceError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    measured = np.isfinite(values) & (values > 0)
    if valid is not None:
        measured = valid & (measured if kind == "depth" else np.isfinite(values) & (values >= 0))
    values = values.astype(np.float32, copy=False)
    if kind == "depth":
        disparity = np.divide(1, values, out=np.zeros_like(values), where=measured)
    else:
        disparity = np.where(measured, values, np.float32(0))
    return {
        "disparity": disparity,
        "valid": measured,
        "sky": np.zeros(values.shape, np.bool_) if sky is None else sky,
        "shift_known": kind == "depth" if shift_known is None else shift_known,
    }


def check_same_view(key: str, image: np.ndarray, maps: Mapping[str, np.ndarray]) -> None:
    """Raises FormatError where a label's aspect ratio is not the image's (5 % apart or more)."""
    height, width = image.shape[:2]
    for field, value in maps.items():
        ratio = (value.shape[1] / value.shape[0]) / (width / height)
        if abs(np.log(ratio)) > 0.05:
            raise formats.FormatError(
                f"{key}: the image is {height}x{width} and its {field} "
                f"{value.shape[0]}x{value.shape[1]}: not the same view (is the image rotated by "
                "its EXIF tag, or the label transposed?)"
            )


class FolderSource:
    """All images below a folder, sorted; the key is the path relative to it."""

    labelled = False

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        exclude: Sequence[str] = (),
        files: Sequence[str] | None = None,
        name: str | None = None,
    ):
        """`files` gives relative paths instead of a search; `exclude` drops those that match."""
        self.root = str(pathlib.Path(path).expanduser())
        self.name = name or pathlib.Path(self.root).name
        self.files = list_images(self.root, exclude) if files is None else list(files)

    def __len__(self) -> int:
        return len(self.files)

    def key(self, index: int) -> str:
        """The path relative to the folder."""
        return self.files[index]

    def __getitem__(self, index: int) -> Record:
        key = self.files[index]
        return {"key": key, "image": formats.read_image(os.path.join(self.root, key))}


class RGBDSource:
    """Pairs of image and label, one manifest entry each (see `manifest`)."""

    def __init__(
        self,
        entries: Sequence[Entry],
        root: str | os.PathLike[str],
        *,
        labelled: bool = True,
        name: str | None = None,
    ):
        """`labelled=False` gives the images alone.

        Raises:
          SourceError: labels are wanted, and entries name none.
        """
        without = [e.rgb for e in entries if e.depth is None] if labelled else []
        if without:
            raise SourceError(
                f"{name or root}: {len(without)} of {len(entries)} entries have no 'depth' (first: "
                f"{without[0]}); add it, or set labelled=False to use the images alone"
            )
        self.root = str(root)
        self.entries = list(entries)
        self.labelled = labelled
        self.name = name or pathlib.Path(self.root).name

    def __len__(self) -> int:
        return len(self.entries)

    def key(self, index: int) -> str:
        """The image's path as the manifest has it."""
        return self.entries[index].rgb

    def __getitem__(self, index: int) -> Record:
        entry = self.entries[index]
        record: Record = {
            "key": entry.rgb,
            "image": formats.read_image(self._path(entry.rgb)),
            "dataset": entry.dataset,
            "domain": entry.domain,
        }
        if entry.has_camera:
            record["camera"] = entry.camera(*record["image"].shape[:2])
        if self.labelled:
            record["kind"] = entry.kind
            record |= self._label(entry)
            check_same_view(
                entry.rgb, record["image"], {k: record[k] for k in ("disparity", "valid", "sky")}
            )
        return record

    def _path(self, relative: str) -> str:
        return os.path.join(self.root, relative)

    def _label(self, entry: Entry) -> Record:
        assert entry.depth is not None  # checked when the source was made
        path = self._path(entry.depth)
        values, sky = formats.decode_label_and_sky(
            formats.read_bytes(path), path, entry.label_format
        )
        masks = {"sky": sky}
        for field in ("valid", "sky"):
            if path := getattr(entry, field):
                masks[field] = mask = formats.read_mask(self._path(path))
                if mask.shape != values.shape:
                    raise formats.FormatError(
                        f"{path}: {field} mask is {mask.shape}, its label {entry.depth} "
                        f"{values.shape}"
                    )
        masks["sky"] |= sky
        return label_fields(values, entry.kind, shift_known=entry.shift_known, **masks)


class Subset:
    """Records `start` to `stop` of a source, or those of the given indices."""

    def __init__(self, source: Source, indices: Sequence[int] | range):
        self.source, self.indices, self.name = source, indices, source.name

    def __len__(self) -> int:
        return len(self.indices)

    def key(self, index: int) -> str:
        """The key in the source that this is part of."""
        return self.source.key(self.indices[index])

    def __getitem__(self, index: int) -> Record:
        return self.source[self.indices[index]]


def is_labelled(source: Source) -> bool:
    """Whether records carry labels; reads one where the source does not say."""
    while isinstance(source, Subset):
        source = source.source
    said = getattr(source, "labelled", None)
    return "disparity" in source[0] if said is None else bool(said)


def _rgbd(
    path: str,
    *,
    root: str | None = None,
    depth_root: str | None = None,
    datasets: Sequence[str] | None = None,
    domains: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
    scenes: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    labelled: bool = True,
    name: str | None = None,
    **defaults: Any,
) -> Source:
    entries, folder = manifest.load(path, defaults)
    entries = manifest.select(
        entries, path, datasets=datasets, domains=domains, splits=splits, scenes=scenes,
        exclude=exclude,
    )  # fmt: skip
    if depth_root is not None or (root is not None and str(path).endswith(".txt")):
        entries = [manifest.moved(e, depth_root) for e in entries]
    return RGBDSource(entries, root or folder, labelled=labelled, name=name)


def _pairs(
    images: str,
    depths: str,
    *,
    exclude: Sequence[str] = (),
    labelled: bool = True,
    name: str | None = None,
    **defaults: Any,
) -> Source:
    entries, root = manifest.pair_folders(images, depths, list_images(images, exclude), defaults)
    return RGBDSource(entries, root, labelled=labelled, name=name or pathlib.Path(images).name)


def _tfds(path: str | None = None, **options: Any) -> Source:
    from depth_anything_jax.data.records import RecordSource

    return RecordSource(path, **options)


def _scenes(**options: Any) -> Source:
    from depth_anything_jax.data.scenes import SceneSource

    return SceneSource(**options)


def _benchmark(set: str, path: str, **options: Any) -> Source:
    from depth_anything_jax.data import benchmarks
    from depth_anything_jax.data.benchmarks.training import TrainingSource

    return TrainingSource(benchmarks.make(set, path, **options))


TYPES: dict[str, Callable[..., Source]] = {
    "folder": FolderSource,
    "rgbd": _rgbd,
    "pairs": _pairs,
    "tfds": _tfds,
    "scenes": _scenes,
    "benchmark": _benchmark,
}


def make(spec: Mapping[str, Any]) -> Source:
    """Builds a source from its description.

    Args:
      spec: "type" (a key of TYPES) and that type's fields. Every type also takes "slice": [start,
        stop] (part of the records, in order) and "labels": {…} (labels that `labels.attach` adds to
        the images). "weight" belongs to the mixture and is ignored here; fields that are None count
        as absent.

    Raises:
      SourceError: an unknown type or field (naming the nearest one), or a layout that is not there.
    """
    options = {k: v for k, v in dict(spec).items() if v is not None}
    kind = options.pop("type", None)
    if kind not in TYPES:
        raise SourceError(
            f"unknown source type {kind!r} in {dict(spec)}: one of {', '.join(TYPES)}"
        )
    options.pop("weight", None)
    part, labels = options.pop("slice", None), options.pop("labels", None)
    _check_fields(kind, options)
    source = TYPES[kind](**options)
    if len(source) == 0:
        raise SourceError(f"source {dict(spec)} holds no record")
    if part is not None:
        start, stop = part
        indices = range(len(source))[start:stop]
        if not indices:
            raise SourceError(f"slice {list(part)} of the {len(source)} in {source.name} is empty")
        source = Subset(source, indices)
    if labels is not None:
        from depth_anything_jax.data import labels as labels_lib

        source = labels_lib.attach(source, labels)
    return source


def _check_fields(kind: str, options: Mapping[str, Any]) -> None:
    parameters = inspect.signature(TYPES[kind]).parameters
    if kind == "scenes":
        from depth_anything_jax.data.scenes import SceneSource

        parameters = inspect.signature(SceneSource).parameters
    known = [p for p, value in parameters.items() if value.kind != value.VAR_KEYWORD]
    if kind in ("rgbd", "pairs"):
        known += manifest.DEFAULT_FIELDS
    if kind == "benchmark":
        known += options  # its reader names what it does not know
    if kind == "tfds":
        from depth_anything_jax.data.records import RecordSource

        known += [p for p in inspect.signature(RecordSource).parameters if p != "path"]
    for field in options:
        if field not in known:
            near = difflib.get_close_matches(field, known, 1)
            raise SourceError(
                f"source type {kind!r} has no field {field!r}"
                + (f"; did you mean {near[0]!r}?" if near else f": it takes {', '.join(known)}")
            )
    for field, value in parameters.items():
        if (
            value.default is value.empty
            and value.kind != value.VAR_KEYWORD
            and field not in options
        ):
            raise SourceError(f"source type {kind!r} needs the field {field!r}")
    for field in ("count", "seed", "size", "fov") if kind == "scenes" else ():
        value, numbers = options.get(field, 0), (int, float) if field == "fov" else int
        if isinstance(value, bool) or not isinstance(value, numbers):
            whole = "" if field == "fov" else "whole "
            raise SourceError(f"scenes: {field}={value!r}: must be a {whole}number, as {field}=100")
