"""Reads ArrayRecord data sets: any that `tfds.data_source` reads, and our own. No TensorFlow.

Our own data sets (tools/prepare_data.py) hold, for each record,
  key, dataset, domain   text
  image                  the JPEG, PNG or WebP file's own bytes, not encoded again
and where labelled
  depth        uint16 PNG, float16 or float32: values / `scale` = metres, or disparity; 0 = invalid
  scale        float32
  kind         "depth" or "disparity"
  shift_known  bool, K float32 (9,), all zero where unknown
  sky, valid   uint8 PNG masks, in data sets where an entry has them
so that `tfds.data_source` alone gives arrays. A card (card.json) lies beside the records.
"""

from __future__ import annotations

import json
import os
import pathlib
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from depth_anything_jax.data import camera
from depth_anything_jax.data.file_formats import formats
from depth_anything_jax.data.file_formats.orientation import exif_orientation
from depth_anything_jax.data.sources import view
from depth_anything_jax.data.sources.base import (
    KINDS,
    Record,
    SourceError,
    label_fields,
    maps_of,
)
from depth_anything_jax.utils.literal_paths import literal

CARD = "card.json"


def find_dataset(path: str | os.PathLike[str]) -> epath.Path:
    """Finds the folder with dataset_info.json: `path`, or the newest version one or two below.

    Raises:
      SourceError: there is no data set, or there are several.
    """
    root = literal(path)
    for pattern in ("dataset_info.json", "*/dataset_info.json", "*/*/dataset_info.json"):
        found = sorted(p.parent for p in root.glob(pattern)) if root.exists() else []
        if len({p.parent for p in found}) > 1:
            names = ", ".join(sorted({p.parent.name for p in found}))
            raise SourceError(f"{root} holds several data sets ({names}); name one of them")
        if found:
            return max(found, key=_version)
    unfinished = root.exists() and [
        *root.glob(".progress/plan.json"),
        *root.glob("*/.progress/plan.json"),
    ]
    raise SourceError(
        f"no data set at {root}: "
        + (
            "its preparation has not finished; run the same tools/prepare_data.py command again"
            if unfinished
            else "looked for dataset_info.json there and up to two levels below "
            "(tools/prepare_data.py writes one; so does any tfds builder with "
            "file_format='array_record')"
        )
    )


def _version(path: epath.Path) -> tuple[int, ...]:
    parts = path.name.split(".")
    return tuple(int(p) for p in parts) if all(p.isdigit() for p in parts) else (-1,)


def read_card(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads the card of a prepared data set (licence, counts, skipped files); {} without one."""
    card = find_dataset(path) / CARD
    return json.loads(card.read_text()) if card.exists() else {}


def tensorflow_datasets(name: str) -> Any:
    """Imports TensorFlow Datasets, which the extra [train] brings.

    Raises:
      ImportError: it is not installed; the message names what needs it and the extra.
    """
    try:
        import tensorflow_datasets as tfds  # a second
    except ImportError as error:
        raise ImportError(
            f"{name} needs tensorflow-datasets ({error}): pip install 'depth_anything_jax[train]'"
        ) from error
    return tfds


class RecordSource:
    """Records of a TFDS data set in ArrayRecord format; each process opens the files itself."""

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        dataset: str | None = None,
        data_dir: str | None = None,
        split: str = "train",
        image: str = "image",
        depth: str = "depth",
        kind: str = "depth",
        scale: float | None = None,
        shift_known: bool | None = None,
        labelled: bool | None = None,
        invalid: float | Sequence[float] | None = None,
        min_depth: float | None = None,
        max_depth: float | None = None,
        label_orientation: str | None = None,
        label_stretched: bool = False,
        name: str | None = None,
    ):
        """Opens `path`, a folder with dataset_info.json, or a TFDS data set by its name.

        Args:
          path: folder of the prepared data set (or the one above its version).
          dataset, data_dir: instead of `path`, as `tfds.data_source` takes them.
          split: TFDS split, slices included ("train[:90%]").
          image, depth: names of the features.
          kind, scale, shift_known: of the depth feature, for records without such fields; depth in
            whole numbers needs `scale`.
          labelled: None uses labels where there are some; False leaves them out.
          invalid, min_depth, max_depth: as in a manifest (`formats.LabelFormat`); the last two are
            for depth alone.
          label_orientation, label_stretched: as in a manifest (`view.View`).
          name: for messages.

        Raises:
          SourceError: there is no data set, or a split or feature is missing.
        """
        if (path is None) == (dataset is None):
            raise SourceError("a tfds source takes either 'path' or 'dataset'")
        if kind not in KINDS:
            raise SourceError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
        self.path = None if path is None else str(find_dataset(path))
        self.dataset, self.data_dir, self.split = dataset, data_dir, split
        self.image, self.depth = image, depth
        self.kind, self.shift_known = kind, shift_known
        self.format = formats.LabelFormat(
            scale=scale,
            invalid=formats.numbers(invalid),
            min_depth=min_depth,
            max_depth=max_depth,
        )
        self.view = view.from_fields(
            {"label_orientation": label_orientation, "label_stretched": label_stretched}
        )
        self.name = name or dataset or self._folder_name()
        self._lock, self._data = threading.Lock(), None
        features = self._open().dataset_info.features
        for feature in [image] + [depth] * (labelled is True):
            if feature not in features:
                raise SourceError(f"{self.name} has no feature {feature!r}: {', '.join(features)}")
        self.labelled = depth in features if labelled is None else labelled
        self._length = len(self._open())
        keys = read_card(self.path).get("keys") if self.path else None
        # What stands before and behind a record's number in its key (`numbered_keys`).
        self.key_ends = f"{self.split}:", f"@{keys[:8]}" if keys else ""

    def _folder_name(self) -> str:
        parts = pathlib.PurePosixPath(self.path or "").parts
        return (
            parts[-2] if len(parts) > 1 and _version(epath.Path(parts[-1])) > (-1,) else parts[-1]
        )

    def _open(self) -> Any:
        with self._lock:
            if self._data is None:
                tfds = tensorflow_datasets(f"tfds:{self.path or self.dataset}")
                if self.path is not None:
                    builder = tfds.builder_from_directory(self.path)
                else:
                    builder = tfds.builder(self.dataset, data_dir=self.data_dir)
                if self.split.split("[")[0].split("+")[0] not in builder.info.splits:
                    have = ", ".join(builder.info.splits) or "none: not prepared yet?"
                    raise SourceError(f"{self.name} has no split {self.split!r} ({have})")
                # Images stay encoded: we decode them ourselves, as OpenCV does.
                skip = {
                    key: tfds.decode.SkipDecoding()
                    for key, feature in builder.info.features.items()
                    if isinstance(feature, tfds.features.Image) and feature.np_dtype != np.float32
                }
                self._data = builder.as_data_source(self.split, decoders=skip)
            return self._data

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_data": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state | {"_lock": threading.Lock()}

    def __len__(self) -> int:
        return self._length

    def key(self, index: int) -> str:
        """Returns split and position, which name the same record while the files stay the same."""
        # Not the file's name, which would cost a read; it changes with the list of files.
        return f"{index}".join(self.key_ends)

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < self._length:
            raise IndexError(f"record {index} of {self._length} in {self.name}")
        raw = self._open()[index]
        key = _text(raw.get("key")) or _text(raw.get("file_name")) or self.key(index)
        record: Record = {"key": key, "image": _pixels(raw[self.image], key, bits=None)}
        for field in ("dataset", "domain"):
            if text := _text(raw.get(field)):
                record[field] = text
        if "K" in raw and np.shape(raw["K"]) == (9,) and np.any(raw["K"]):
            record["camera"] = camera.from_matrix(np.asarray(raw["K"], np.float64).reshape(3, 3))
        if self.labelled:
            record |= self._label(raw, key)
            data = raw[self.image]
            exif = exif_orientation(data) if isinstance(data, bytes) else 1
            maps, fields = maps_of(record), view.WITHOUT_CROP
            record |= view.aligned(key, record["image"], maps, exif, self.view, fields=fields)
        return record

    def _label(self, raw: Mapping[str, Any], key: str) -> Record:
        values = _pixels(raw[self.depth], key, bits=16)
        kind = _text(raw.get("kind")) or self.kind
        scale = raw.get("scale", self.format.scale)
        if scale is None and kind == "depth" and values.dtype.kind in "iu":
            raise SourceError(
                f"{self.name}: {key}: the feature {self.depth!r} holds {values.dtype}, and "
                "kind=depth needs 'scale' (value / scale = metres; scale=1 if they are metres). If "
                "larger values are nearer, it is kind=disparity"
            )
        metres = [n for n in ("min_depth", "max_depth") if getattr(self.format, n) is not None]
        if kind == "disparity" and metres:
            raise SourceError(
                f"{self.name}: {key}: {', '.join(metres)} is depth in metres, and the label is "
                "disparity; leave it out"
            )
        masks = {}
        for field in ("valid", "sky"):
            if field in raw:
                masks[field] = _pixels(raw[field], key, bits=8) != 0
        shift_known = raw.get("shift_known", self.shift_known)
        label = formats.interpret(values, self.format, 1 if scale is None else scale, kind)
        if "valid" in masks:
            masks["valid"] &= ~label.invalid
        return label_fields(
            label.values,
            kind,
            shift_known=None if shift_known is None else bool(shift_known),
            **masks,
        )


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else (value or "")


def _pixels(value: Any, key: str, *, bits: int | None) -> np.ndarray:
    """Decodes an image feature to RGB where `bits` is None, else to one channel."""
    if isinstance(value, bytes):
        return formats.decode_image(value, key) if bits is None else _one_channel(value, key, bits)
    array = np.asarray(value)
    return array if bits is None or array.ndim == 2 else array[..., 0]


def _one_channel(data: bytes, key: str, bits: int) -> np.ndarray:
    try:
        return formats.decode_raw(data, key, bits=bits)
    except formats.FormatError:
        if bits == 16:  # other people's data sets keep disparity in 8 bits
            return formats.decode_raw(data, key, bits=8)
        raise
