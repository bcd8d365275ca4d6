"""Defines sources and records, and the functions that all kinds of sources share."""

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
# Depth, disparity and the inverse of either stay below this. Our choice: beyond any unit of length,
# and the sum over a batch of images stays finite in float32.
LARGEST = 1e30
LABEL_FIELDS = (*map(str, KINDS), "valid", "sky")  # each is a map (h, w)


@runtime_checkable
class Source(Protocol):
    """A sequence of records that spawned workers can receive."""

    name: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...

    def key(self, index: int) -> str:
        """Returns the record's name: unique in the source, the same in every run."""


class SourceError(ValueError):
    """A source's description does not fit what is on disk."""


class LeftOut(formats.FormatError):
    """A record (its key) that is not damaged and that a set's users leave out, and the reason.

    Training and preparation go on with the next one and do not count it as a failure.
    """

    def __init__(self, key: str, reason: str):
        super().__init__(key, reason)
        self.reason = reason

    def __str__(self) -> str:
        return ": ".join(map(str, self.args))


def list_images(root: str | os.PathLike[str], exclude: Iterable[str] = ()) -> list[str]:
    """Lists all images below `root` but hidden ones: sorted relative paths with "/".

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
    """Makes a record's label fields from metres of depth or units of disparity.

    The values stay what they are, in the field that `kind` names; they are 0 where invalid.

    Args:
      values: float (h, w).
      kind: "depth" or "disparity".
      valid: bool (h, w), further restricts where `values` is `measured`; for disparity it also
        admits zeros (relative maps have a farthest point of 0).
      sky: bool (h, w).
      shift_known: None takes True for depth, False for disparity.
    """
    if kind not in KINDS:
        raise SourceError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    counts = measured(values, kind)
    if valid is not None:
        zero = (values == 0) & (kind == "disparity")
        counts = valid & (counts | zero)
    return {
        kind: np.where(counts, values, 0).astype(np.float32),
        "valid": counts,
        "sky": np.zeros(values.shape, np.bool_) if sky is None else sky,
        "shift_known": kind == "depth" if shift_known is None else shift_known,
    }


def measured(values: np.ndarray, kind: str) -> np.ndarray:
    """Returns where values are positive and, like the disparity of a depth, at most `LARGEST`."""
    smallest = 1 / LARGEST if kind == "depth" else 0
    return (values > 0) & (values >= smallest) & (values <= LARGEST)


def kind_of(record: Mapping[str, Any]) -> str | None:
    """Returns the kind of a record's label (the name of its field), or None without a label."""
    return next((kind for kind in KINDS if kind in record), None)


def disparity_of(record: Mapping[str, Any]) -> np.ndarray:
    """Returns a label as disparity, float32 (…, h, w): 1 / depth, and 0 where invalid.

    Args:
      record: of a labelled source, or arrays of several with the same fields.
    """
    if "disparity" in record:
        return record["disparity"]
    depth = record["depth"]
    return np.divide(1, depth, out=np.zeros_like(depth), where=record["valid"])


def maps_of(record: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns those of a record's fields that are maps of its label."""
    return {field: record[field] for field in LABEL_FIELDS if field in record}


class Subset:
    """The records of a source at the given indices."""

    def __init__(self, source: Source, indices: Sequence[int] | range):
        self.source, self.indices, self.name = source, indices, source.name

    def __len__(self) -> int:
        return len(self.indices)

    def key(self, index: int) -> str:
        """Returns the key in the source that this is part of."""
        return self.source.key(self.indices[index])

    def __getitem__(self, index: int) -> Record:
        return self.source[self.indices[index]]


def is_labelled(source: Source) -> bool:
    """Returns whether records have labels; reads one where the source has no `labelled`."""
    while isinstance(source, Subset):
        source = source.source
    labelled = getattr(source, "labelled", None)
    return kind_of(source[0]) is not None if labelled is None else bool(labelled)


def unwrapped(source: Source, indices: Sequence[int]) -> tuple[Source, Sequence[int]]:
    """Returns the source below any Subset, and the indices of these records in it."""
    while isinstance(source, Subset):
        if isinstance(indices, range) and isinstance(source.indices, range):
            indices = source.indices[indices.start : indices.stop : indices.step]
        else:
            indices = [source.indices[i] for i in indices]
        source = source.source
    return source, indices
