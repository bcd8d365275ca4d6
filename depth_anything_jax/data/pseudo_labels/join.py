"""Joins labels that are stored apart from their images to a source of images.

  records   a teacher's pseudo labels, written by `pseudo_label` (see `label_store`)
  files     another tool's labels: a folder of PNG, NPY or PFM files under the images' names

`attach(source, {"type": …, "path": …})` gives a labelled source: the source's own images with
disparity (or depth), valid, sky and shift_known at the *label's* resolution. Images without a label
are left out, and named. `transforms.apply_geometry` brings image and label together: where the
label was made at the size the student trains at, no label pixel moves.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np
from absl import logging

from depth_anything_jax.data.file_formats import formats, saved_depth
from depth_anything_jax.data.pseudo_labels.label_codec import Label, LabelError
from depth_anything_jax.data.pseudo_labels.label_store import (
    CARD,
    LabelStore,
    LabelWriter,
    keys_digest,
    read_card,
)
from depth_anything_jax.data.sources import view
from depth_anything_jax.data.sources.base import (
    KINDS,
    LABEL_FIELDS,
    LARGEST,
    Record,
    Source,
    Subset,
    label_fields,
)
from depth_anything_jax.data.sources.numbered_keys import AllBut, find
from depth_anything_jax.data.sources.tfds_source import RecordSource

__all__ = [
    "FileLabels",
    "Label",
    "LabelError",
    "LabelStore",
    "LabelWriter",
    "Labelled",
    "licences",
    "with_files",
    "with_labels",
]

_SHOWN = 5  # names in a message


@runtime_checkable
class Labels(Protocol):
    """A reader of labels by the number and key of their image."""

    def read(self, index: int, key: str) -> Label:
        """Reads label `index`; labels that store their key check that it is `key`."""
        ...


class Labelled:
    """A source's images with labels from elsewhere.

    Args:
      source: the images.
      labels: where the labels are read from.
      indices: the source's records that have a label, in order.
      shuffle: None, or the seed of a control: every image gets *another* image's label. What a
        student learns from such labels is the mean layout, nothing about single images.
      mask: (h, w) of all images, True where labels count: a rim, a logo, a part of the camera's
        carrier does not.
    """

    labelled = True

    def __init__(
        self,
        source: Source,
        labels: Labels,
        indices: Sequence[int] | range,
        *,
        shuffle: int | None = None,
        mask: np.ndarray | None = None,
    ):
        self.source, self.labels, self.indices, self.mask = source, labels, indices, mask
        self.name = source.name
        self.label_of = indices
        if shuffle is not None:
            if len(indices) < 2:
                raise LabelError(f"{self.name}: one label cannot be shuffled")
            # Each image takes its neighbour's label in a random cycle: none keeps its own.
            order = np.random.default_rng(shuffle).permutation(len(indices))
            label_of = np.empty(len(indices), np.int64)
            label_of[order] = np.asarray(indices)[np.roll(order, 1)]
            self.label_of = label_of.tolist()

    def __len__(self) -> int:
        return len(self.indices)

    def key(self, index: int) -> str:
        """The image's key in its source."""
        return self.source.key(self.indices[index])

    def __getitem__(self, index: int) -> Record:
        own = self.source[self.indices[index]]
        record = {k: v for k, v in own.items() if k not in LABEL_FIELDS}
        number = self.label_of[index]
        label = self.labels.read(number, self.source.key(number))
        maps = {label.kind: label.values, "valid": label.valid}
        exif = record.pop("orientation", 1)
        if isinstance(self.labels, FileLabels) and number == self.indices[index]:
            maps = view.aligned(
                record["key"], record["image"], maps, exif, self.labels.view,
                fields=view.WITHOUT_CROP,
            )  # fmt: skip
        hw = record["image"].shape[:2]
        if number == self.indices[index] and label.image_hw not in (None, hw):
            raise LabelError(
                f"{record['key']} is {hw[0]}x{hw[1]}, but was {label.image_hw[0]}x"
                f"{label.image_hw[1]} when it was labelled: the image has changed; label it again"
            )
        if self.mask is not None:
            if self.mask.shape != hw:
                raise LabelError(
                    f"{record['key']} is {hw[0]}x{hw[1]}, the mask {self.mask.shape[0]}x"
                    f"{self.mask.shape[1]}: a mask has the size of the upright image"
                )
            maps["valid"] = maps["valid"] & reduced(self.mask, maps["valid"].shape)
        return record | {
            **maps,
            "sky": np.zeros(maps["valid"].shape, np.bool_),
            "shift_known": label.shift_known,
        }


def reduced(mask: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Resizes a mask; a pixel of the result counts where all that it covers does."""
    small = cv2.resize(mask.astype(np.float32), shape[::-1], interpolation=cv2.INTER_AREA)
    return small > 0.999


def with_labels(
    source: Source,
    store: LabelStore,
    *,
    shuffle: int | None = None,
    mask: np.ndarray | None = None,
) -> Labelled:
    """The images of a source with the pseudo labels that were made from it.

    Raises:
      LabelError: the store was made from another list of images, or no image has a label.
    """
    if len(store) != len(source):
        fewer = len(store) < len(source)
        raise LabelError(
            f"{store.path} holds labels of {len(store)} images, source {source.name!r} has "
            f"{len(source)}: "
            + (
                f"label all of them, or take the first with 'slice': [0, {len(store)}]"
                if fewer
                else "use the source that was labelled, or label this one"
            )
        )
    if keys_digest(source) != store.card["identity"]["source"]["keys_sha256"]:
        raise LabelError(
            f"{store.path} was made from other images than source {source.name!r} now has (the "
            "list of keys differs): files were added, removed or renamed; label again"
        )
    without = find(source, store.invalid).values()
    indices = AllBut(len(source), without) if without else range(len(source))
    if not len(indices):
        raise LabelError(f"{store.path}: no image has a label; {CARD} says why")
    if without:
        logging.warning(
            "%s: %d of %d images have no label and are left out: %s",
            store.path, len(without), len(source), _first_names(store.invalid),
        )  # fmt: skip
    return Labelled(source, store, indices, shuffle=shuffle, mask=mask)


class FileLabels:
    """Label files under the names of their images: photos/a/b.jpg ↔ labels/a/b.png.

    Args:
      path: the folder of labels.
      kind: "disparity" (relative maps of any tool: every finite value counts, zero too) or "depth"
        (0 and non-finite values are invalid).
      shift_known: disparity whose zero means infinitely far (stereo); depth always is.
      suffix: what follows the image's stem in the label's name, such as "_depth".
      void: raw value that means "no label"; None: all are labels.
      fmt, scale, field: as in `formats.LabelFormat`, for depth.
      label_orientation, label_stretched: as in a manifest (`view.View`).
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        kind: str = "disparity",
        shift_known: bool = False,
        suffix: str = "",
        void: float | None = None,
        fmt: str | None = None,
        scale: float | None = None,
        field: str | None = None,
        label_orientation: str | None = None,
        label_stretched: bool = False,
    ):
        if kind not in KINDS:
            raise LabelError(f"labels.kind={kind!r}: one of {', '.join(KINDS)}")
        self.root = pathlib.Path(path).expanduser().resolve()
        if not self.root.is_dir():
            raise LabelError(f"no folder of labels at {path}")
        self.kind, self.suffix, self.void = kind, suffix, void
        self.shift_known = shift_known or kind == "depth"
        self.format = formats.LabelFormat(
            fmt=fmt, scale=scale, field=field, invalid=formats.numbers(void)
        )
        self.view = view.from_fields(
            {"label_orientation": label_orientation, "label_stretched": label_stretched}
        )
        self.files: dict[str, str] = {}
        self._folders: dict[str, set[str]] = {}

    def find(self, key: str, image_path: pathlib.Path | None = None) -> str | None:
        """The label file of an image, relative to the folder, or None.

        Args:
          key: the image's.
          image_path: the image itself, which is no label where it lies in the same folder.

        Raises:
          LabelError: two files fit.
        """
        name = pathlib.PurePosixPath(key)
        folder = name.parent.as_posix()
        if folder not in self._folders:  # one listing per folder instead of one look-up per suffix
            there = self.root / folder
            self._folders[folder] = set(os.listdir(there)) if there.is_dir() else set()
        found = [
            (name.parent / candidate).as_posix()
            for suffix in formats.LABEL_SUFFIXES
            if (candidate := name.stem + self.suffix + suffix) in self._folders[folder]
        ]
        found = [f for f in found if image_path is None or self.root / f != image_path]
        if len(found) > 1:
            raise LabelError(
                f"{self.root}: {' and '.join(found)} both fit the image {key}; remove one, or say "
                "what follows the image's name with 'suffix'"
            )
        return found[0] if found else None

    def read(self, index: int, key: str) -> Label:
        """The label of image `key`; `index` is not used.

        Raises:
          FormatError: the file is no label.
        """
        path = self.root / self.files[key]
        if self.kind == "depth":
            values = formats.read_label(path, self.format)
            fields = label_fields(values, "depth")
            return Label(fields["depth"], fields["valid"], True, kind="depth")
        values = self._raw(path)
        valid = np.abs(values) <= np.float64(LARGEST)  # in float16 it would be infinite
        if self.void is not None:
            valid &= values != self.void
        disparity = np.where(valid, values, 0).astype(np.float32)
        return Label(disparity, valid, self.shift_known)

    def _raw(self, path: pathlib.Path) -> np.ndarray:
        """The file's numbers, untouched: a relative map has a meaningful zero and no unit."""
        data = formats.read_bytes(path)
        saved_depth.check(data, path, 1.0, self.kind)
        suffix = path.suffix.lower()
        if suffix == ".pfm":
            return formats.decode_pfm(data, path)
        if suffix in (".npy", ".npz"):
            return self._array(data, path)
        try:
            return formats.decode_raw(data, path, bits=16)
        except formats.FormatError as sixteen:
            try:
                return formats.decode_raw(data, path, bits=8)
            except formats.FormatError:
                raise sixteen from None

    def _array(self, data: bytes, path: pathlib.Path) -> np.ndarray:
        loaded = formats.decode_array(data, path, self.format.field)
        values = np.squeeze(loaded)
        if values.ndim != 2 or values.dtype.kind not in "fiu":
            raise formats.FormatError(
                f"{path}: a label is numbers (h, w), this is {loaded.dtype} {loaded.shape}"
            )
        return values


def with_files(
    source: Source,
    labels: FileLabels,
    *,
    allow_missing: bool = False,
    shuffle: int | None = None,
    mask: np.ndarray | None = None,
) -> Labelled:
    """The images of a source with label files of the same relative stem.

    Args:
      allow_missing: leave out images without a label instead of raising.

    Raises:
      LabelError: images without a label, listed; or none with one; or a source of packed records,
        whose keys are numbers and not file names.
    """
    base = source
    while isinstance(base, Subset):
        base = base.source
    if isinstance(base, RecordSource):
        raise LabelError(
            f"{labels.root}: labels of another tool are found by their images' file names, and the "
            f"data set {source.name!r} numbers its images instead ({source.key(0)}). Use the "
            "folder that it was prepared from ('folder:PHOTOS' in place of 'tfds:…'), or labels "
            "that pseudo_label made from it (teacher='records')"
        )
    root = getattr(source, "root", None)
    folder = None if root is None else pathlib.Path(root).resolve()
    label_of: dict[int, str] = {}
    for i in range(len(source)):
        key = source.key(i)
        found = labels.find(key, folder / key if folder else None)
        if found is not None:
            label_of[i] = labels.files[key] = found
    used = {labels.root / f for f in label_of.values()} if folder else set()
    is_label = {i for i in range(len(source)) if folder and folder / source.key(i) in used}
    mutual = sorted(source.key(i) for i in is_label & label_of.keys())
    if mutual:
        raise LabelError(
            f"{labels.root}: {_first_names(mutual)} are images with a label and labels of another "
            "image: keep labels in a folder of their own, or say what follows the image's name "
            "with 'suffix'"
        )
    indices = list(label_of)
    missing = [source.key(i) for i in range(len(source)) if i not in label_of and i not in is_label]
    if is_label:
        names = _first_names([source.key(i) for i in sorted(is_label)])
        logging.warning(
            "%s: %d of %d images are labels of others and are left out: %s",
            labels.root, len(is_label), len(source), names,
        )  # fmt: skip
    if not indices or (missing and not allow_missing):
        example = pathlib.PurePosixPath(missing[0]).with_suffix("").as_posix()
        raise LabelError(
            f"{labels.root}: no label for {len(missing)} of {len(source)} images: "
            f"{_first_names(missing)}. Expected {example}{labels.suffix} with one of "
            f"{', '.join(formats.LABEL_SUFFIXES)}"
            + ("" if not indices else "; allow_missing=True leaves those images out")
        )
    if missing:
        logging.warning(
            "%s: no label for %d of %d images, which are left out: %s",
            labels.root, len(missing), len(source), _first_names(missing),
        )  # fmt: skip
    return Labelled(source, labels, indices, shuffle=shuffle, mask=mask)


def licences(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The licence chain of a store's labels; empty for another tool's files."""
    try:
        return read_card(os.fspath(path).partition("?")[0]).get("licence_chain", [])
    except LabelError:
        return []


def _first_names(names: Sequence[str] | Mapping[str, str]) -> str:
    shown = list(names)[:_SHOWN]
    more = len(names) - len(shown)
    if isinstance(names, Mapping):
        shown = [f"{k} ({names[k]})" for k in shown]
    return ", ".join(shown) + (f" and {more} more" if more else "")
