"""Reads records of a source and describes them: sizes, kinds, depths, and what is wrong with them.

`inspect` is what the program `check_data` shows; `line` reads a few records for the trainer.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float

from depth_anything_jax.data import camera, image_hashes
from depth_anything_jax.data.file_formats import formats
from depth_anything_jax.data.file_formats.orientation import exif_orientation
from depth_anything_jax.data.sources.base import LeftOut, Source, kind_of, unwrapped
from depth_anything_jax.data.sources.files import FolderSource, RGBDSource
from depth_anything_jax.data.training_sets import papers_count
from depth_anything_jax.utils.map_kinds import MapKind

GLANCE = 4  # records of each source that the trainer reads
POOLED = 1000  # values of each label that percentiles are taken of
PERCENTILES = (0, 1, 50, 99, 100)
MIN_VALID = 10  # pixels: the losses count fewer as none
# A value that stands for "no measurement" is the largest, in many pixels, far above all others.
SENTINEL_SHARE, SENTINEL_GAP = 1e-3, 1.3
# Medians of depth in metres that no camera sees: labels in millimetres, or metres / 1000.
NEAREST_MEDIAN, FARTHEST_MEDIAN = 0.02, 1000.0
THUMBNAIL = 224  # pixels of the longer side


class Look(NamedTuple):
    """What is kept of one record.

    Attributes:
      key: of the record.
      size, label_size: (height, width).
      grey: whether all colour channels are equal.
      kind: of the label; None without one.
      valid: share of the label's pixels that are valid, and their number.
      sky: share of the image that is known sky.
      values: about POOLED of the valid ones, the least and the largest among them.
      constant: whether all valid values are one.
      sentinel: (value, its share, the next smaller value), where it looks like one.
      orientation: EXIF's, of the image's file; 1 where there is none.
      has_camera: whether focal lengths are known.
      hashes: of the image and of its mirror image.
      thumbnails: image, label and its valid pixels, small; for the pictures alone.
    """

    key: str
    size: tuple[int, int]
    grey: bool
    kind: MapKind | None
    label_size: tuple[int, int] | None
    valid: tuple[float, int]
    sky: float
    values: Float[np.ndarray, " n"]
    constant: bool
    sentinel: tuple[float, float, float] | None
    orientation: int
    has_camera: bool
    hashes: tuple[image_hashes.Hash | None, image_hashes.Hash | None]
    thumbnails: tuple[np.ndarray, np.ndarray | None, np.ndarray | None] | None


@dataclasses.dataclass
class Inspection:
    """What was seen of a source.

    Attributes:
      name: of the source.
      records: in it.
      looks: of the records that were read.
      failures: (key, error) of those that cannot be read.
      unread: suffix → files beside the source's own, which it does not read.
      left_out: reason → records that the source left out: when it listed them all, or of the others
        when it read these.
    """

    name: str
    records: int
    looks: list[Look]
    failures: list[tuple[str, str]]
    unread: dict[str, int]
    left_out: dict[str, int]

    @property
    def seen(self) -> int:
        """Records that were tried."""
        return len(self.looks) + len(self.failures)

    def percentiles(self, kind: MapKind) -> list[float]:
        """The PERCENTILES of the values of labels of this kind; empty without one."""
        values = np.concatenate([x.values for x in self.looks if x.kind is kind] or [np.zeros(0)])
        return [float(v) for v in np.percentile(values, PERCENTILES)] if values.size else []

    def problems(self) -> list[str]:
        """What is wrong, a sentence each."""
        found = []
        if self.failures:
            reasons = collections.Counter(_kind_of_error(e) for _, e in self.failures)
            found.append(
                f"{len(self.failures)} of {self.seen} records cannot be read ("
                + "; ".join(f"{count} {reason}" for reason, count in reasons.most_common(5))
                + "). First: {}: {}".format(*self.failures[0])
            )
        labelled = [x for x in self.looks if x.kind is not None]
        few = [x.key for x in labelled if x.valid[1] < MIN_VALID]
        if few:
            found.append(f"{_of(few, labelled)} have fewer than {MIN_VALID} valid pixels")
        constant = [x.key for x in labelled if x.constant]
        if constant:
            found.append(f"{_of(constant, labelled)} hold one value only")
        marked = [x for x in labelled if x.sentinel is not None]
        if marked:
            value, share, below = marked[0].sentinel or (0, 0, 0)
            found.append(
                f"{_of([x.key for x in marked], labelled)} hold one largest value in many pixels, "
                f"far above all others: {value:g} in {share:.1%}, then {below:g}. If it stands for "
                "'no measurement', give the number that is in the file as invalid=; if it is sky, "
                "give sky_above"
            )
        depths = [x for x in labelled if x.kind is MapKind.DEPTH and x.values.size]
        if depths:
            median = float(np.median(np.concatenate([x.values for x in depths])))
            if not NEAREST_MEDIAN < median < FARTHEST_MEDIAN:
                found.append(
                    f"the median depth is {median:.3g} m: no camera sees that; correct 'scale' "
                    "(value / scale = metres), or say kind=disparity"
                )
        return found


def inspect(
    source: Source,
    *,
    most: int = 0,
    threads: int = 2,
    hashes: bool = False,
    pictures: int = 0,
    files: bool = False,
) -> Inspection:
    """Reads records of a source.

    Args:
      source: labelled or not.
      most: records to read, evenly spaced; 0: all.
      threads: that read.
      hashes: compute perceptual hashes.
      pictures: records whose thumbnails are kept, evenly spaced.
      files: look at the files too: EXIF orientations, and files that the source does not read.
    """
    indices = _spaced(len(source), most or len(source))
    shown = {indices[i] for i in _spaced(len(indices), pictures)}
    looks, failures = [], []
    left_out = collections.Counter(getattr(unwrapped(source, [])[0], "left_out", {}))

    def read(index: int) -> Look | tuple[str, str] | LeftOut:
        try:
            return look(
                source[index],
                orientation=_orientation(source, index) if files else 1,
                hashes=hashes,
                thumbnails=index in shown,
            )
        except LeftOut as error:
            return error
        except Exception as error:  # decoders raise all kinds; each one is reported
            return source.key(index), f"{type(error).__name__}: {error}"

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for found in pool.map(read, indices):
            if isinstance(found, Look):
                looks.append(found)
            elif isinstance(found, LeftOut):
                left_out[found.reason] += 1
            else:
                failures.append(found)
    beside = unread_files(source) if files else {}
    return Inspection(source.name, len(source), looks, failures, beside, dict(left_out))


def look(
    record: Mapping[str, Any],
    *,
    orientation: int = 1,
    hashes: bool = False,
    thumbnails: bool = False,
) -> Look:
    """Describes one record; its arguments are those of `inspect` and `Look`."""
    image, field = record["image"], kind_of(record)
    kind = None if field is None else MapKind(field)
    label = record[kind] if kind is not None else None
    valid = record["valid"] if kind is not None else np.zeros((1, 1), np.bool_)
    values = label[valid] if label is not None else np.zeros(0, np.float32)
    small = None
    if thumbnails:
        small = (
            _small(image),
            None if label is None else _small(label),
            None if label is None else _small(valid.astype(np.uint8)) > 0,
        )
    return Look(
        key=record["key"],
        size=(image.shape[0], image.shape[1]),
        grey=bool((image == image[..., :1]).all()),
        kind=kind,
        label_size=None if label is None else (label.shape[0], label.shape[1]),
        valid=(float(valid.mean()), int(np.count_nonzero(valid))),
        sky=float(record["sky"].mean()) if "sky" in record else 0.0,
        values=_pooled(values),
        constant=len(values) >= MIN_VALID and bool((values == values[0]).all()),
        sentinel=_sentinel(values),
        orientation=orientation,
        has_camera=camera.of(record) is not None,
        hashes=(
            image_hashes.image_hash(image) if hashes else None,
            image_hashes.image_hash(image, mirrored=True) if hashes else None,
        ),
        thumbnails=small,
    )


def line(sources: Mapping[str, Sequence[Source]]) -> str:
    """Reads a few records of each source and tells in a line what was seen, problems included.

    Args:
      sources: of each part of a training batch.
    """
    told, wrong = [], []
    for part, members in sources.items():
        for source in members:
            found = inspect(source, most=GLANCE)
            told.append(f"{part} {brief(found)}")
            wrong += [f"{source.name}: {problem}" for problem in found.problems()]
    text = f"data, {GLANCE} records of each source: {'; '.join(told)}"
    return text + (f". LOOKS WRONG: {'; '.join(wrong)}" if wrong else "")


def brief(found: Inspection) -> str:
    """A few words on a source."""
    count = papers_count(found.name)
    records = f"{found.records:,} records" + (f" ({count})" if count else "")
    parts = [found.name, records, sizes(x.size for x in found.looks)]
    labelled = [x for x in found.looks if x.kind is not None]
    for kind in sorted({x.kind for x in labelled if x.kind is not None}):
        low, high = found.percentiles(kind)[1::2] or (float("nan"), float("nan"))
        parts.append(f"{kind} {low:.3g} to {high:.3g}{' m' if kind is MapKind.DEPTH else ''}")
    if labelled:
        parts.append(f"{np.mean([x.valid[0] for x in labelled]):.0%} valid")
    return ", ".join(filter(None, parts))


def sizes(found: Any) -> str:
    """The most frequent sizes as text."""
    counts = collections.Counter(s for s in found if s is not None)
    text = " ".join(f"{h}x{w}" for (h, w), _ in counts.most_common(2))
    return text + (f" and {len(counts) - 2} more" if len(counts) > 2 else "")


def unread_files(source: Source) -> dict[str, int]:
    """Counts the files below a source's folder that it does not read, by suffix; hidden ones not.

    Sources that are no folders of files have none.
    """
    base, _ = unwrapped(source, [])
    if isinstance(base, FolderSource):
        used = {os.path.normpath(f) for f in base.files}
    elif isinstance(base, RGBDSource):
        named = (p for e in base.entries for p in (e.rgb, e.depth, e.valid, e.sky) if p)
        used = {os.path.relpath(os.path.join(base.root, p), base.root) for p in named}
    else:
        return {}
    counts: collections.Counter[str] = collections.Counter()
    for folder, folders, files in os.walk(base.root):
        folders[:] = [f for f in folders if not f.startswith(".")]
        for file in files:
            inside = os.path.relpath(os.path.join(folder, file), base.root)
            if not file.startswith(".") and inside not in used:
                counts[pathlib.PurePath(file).suffix.lower() or "no suffix"] += 1
    return dict(counts.most_common())


def _orientation(source: Source, index: int) -> int:
    base, (inner,) = unwrapped(source, [index])
    if not isinstance(base, FolderSource | RGBDSource):
        return 1
    return exif_orientation(formats.read_bytes(os.path.join(base.root, base.key(inner))))


def _spaced(count: int, most: int) -> list[int]:
    return [int(i) for i in np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))]


def _pooled(values: np.ndarray) -> np.ndarray:
    if not len(values):
        return values
    return np.append(values[:: max(1, len(values) // POOLED)], [values.min(), values.max()])


def _sentinel(values: np.ndarray) -> tuple[float, float, float] | None:
    if len(values) < MIN_VALID:
        return None
    top = values.max()
    rest = values[values < top]
    share = 1 - len(rest) / len(values)
    if not len(rest) or share < SENTINEL_SHARE or top < SENTINEL_GAP * rest.max():
        return None
    return float(top), share, float(rest.max())


def _small(values: np.ndarray) -> np.ndarray:
    scale = min(1.0, THUMBNAIL / max(values.shape[:2]))
    size = max(1, round(values.shape[1] * scale)), max(1, round(values.shape[0] * scale))
    how = cv2.INTER_AREA if values.ndim == 3 else cv2.INTER_NEAREST
    return cv2.resize(values, size, interpolation=how)


def _of(keys: Sequence[str], all_of: Sequence[Any]) -> str:
    return f"{len(keys)} of {len(all_of)} labels ({keys[0]}{', …' if len(keys) > 1 else ''})"


def _kind_of_error(error: str) -> str:
    """An error without what differs from file to file, to count errors by kind."""
    words = error.split(": ")
    return f"{words[0]}: {words[-1][:60]}" if len(words) > 2 else error[:80]
