"""What a source of records is, and what all kinds of sources share."""

import fnmatch
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from depth_anything_jax.data.file_formats import formats
from depth_anything_jax.utils import map_kinds

Record = dict[str, Any]

KINDS = map_kinds.LABELS  # a record's label stands in the field of that name
LABEL_FIELDS = (*map(str, KINDS), "valid", "sky")  # maps (h, w)


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

    The values stay what they are, in the field that `kind` names; they are 0 where invalid.

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
    return {
        kind: np.where(measured, values.astype(np.float32, copy=False), np.float32(0)),
        "valid": measured,
        "sky": np.zeros(values.shape, np.bool_) if sky is None else sky,
        "shift_known": kind == "depth" if shift_known is None else shift_known,
    }


def kind_of(record: Mapping[str, Any]) -> str | None:
    """The kind of a record's label, which is the name of its field; None where it has no label."""
    return next((kind for kind in KINDS if kind in record), None)


def disparity_of(record: Mapping[str, Any]) -> np.ndarray:
    """A label as disparity, float32 (…, h, w): itself, or 1 / depth and 0 where invalid.

    Args:
      record: of a labelled source, or arrays of several with the same fields.
    """
    if "disparity" in record:
        return record["disparity"]
    depth = record["depth"]
    return np.divide(1, depth, out=np.zeros_like(depth), where=record["valid"])


def maps_of(record: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Those of a record's fields that are maps of its label."""
    return {field: record[field] for field in LABEL_FIELDS if field in record}


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
    return kind_of(source[0]) is not None if said is None else bool(said)


def unwrapped(source: Source, indices: Sequence[int]) -> tuple[Source, Sequence[int]]:
    """What these records come from, below any Subset, and where they are there."""
    while isinstance(source, Subset):
        indices = [source.indices[i] for i in indices]
        source = source.source
    return source, indices
