"""ArrayRecord data sets: read any that `tfds.data_source` reads, encode our own. No TensorFlow.

Our own data sets (tools/prepare_data.py) hold, for each record,
  key, dataset, domain   text
  image                  the JPEG or PNG file's own bytes, not encoded again
and where labelled
  depth        uint16 PNG or float32: values / `scale` = metres, or disparity; 0 = invalid
  scale        float32
  kind         "depth" or "disparity"
  shift_known  bool, K float32 (9,), all zero where unknown
  sky, valid   uint8 PNG masks, in data sets where an entry has them
so that `tfds.data_source` gives arrays to anybody. A card (card.json) lies beside the records.
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

from depth_anything_jax.data import camera, formats, sources
from depth_anything_jax.data.sources import FolderSource, Record, RGBDSource, SourceError, Subset

ENCODINGS = ("png16", "float32")
CARD = "card.json"


def find_dataset(path: str | os.PathLike[str]) -> epath.Path:
    """The folder with dataset_info.json: `path`, or the newest version one or two levels below it.

    Raises:
      SourceError: none or several data sets there.
    """
    root = epath.Path(path).expanduser()
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
    """The card of a prepared data set: name, licence, counts, skipped files; {} without one."""
    card = find_dataset(path) / CARD
    return json.loads(card.read_text()) if card.exists() else {}


class RecordSource:
    """Records of a TFDS data set in ArrayRecord format, opened where they are read."""

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
        scale: float = 1.0,
        shift_known: bool | None = None,
        labelled: bool | None = None,
        name: str | None = None,
    ):
        """Opens `path`, a folder with dataset_info.json, or TFDS' own `dataset` by name.

        Args:
          path: folder of the prepared data set (or the one above its version).
          dataset, data_dir: instead of `path`, as `tfds.data_source` takes them.
          split: TFDS split, slices included ("train[:90%]").
          image, depth: names of the features.
          kind, scale, shift_known: of the depth feature, where records do not say.
          labelled: None uses labels where there are some; False leaves them out.
          name: for messages.

        Raises:
          SourceError: nothing there, a missing split or feature.
        """
        if (path is None) == (dataset is None):
            raise SourceError("a tfds source takes either 'path' or 'dataset'")
        if kind not in sources.KINDS:
            raise SourceError(f"kind must be one of {', '.join(sources.KINDS)}, got {kind!r}")
        self.path = None if path is None else str(find_dataset(path))
        self.dataset, self.data_dir, self.split = dataset, data_dir, split
        self.image, self.depth = image, depth
        self.kind, self.scale, self.shift_known = kind, scale, shift_known
        self.name = name or dataset or self._folder_name()
        self._lock, self._data = threading.Lock(), None
        features = self._open().dataset_info.features
        for feature in [image] + [depth] * (labelled is True):
            if feature not in features:
                raise SourceError(f"{self.name} has no feature {feature!r}: {', '.join(features)}")
        self.labelled = depth in features if labelled is None else labelled
        self._length = len(self._open())
        keys = read_card(self.path).get("keys") if self.path else None
        self._mark = f"@{keys[:8]}" if keys else ""

    def _folder_name(self) -> str:
        parts = pathlib.PurePosixPath(self.path or "").parts
        return (
            parts[-2] if len(parts) > 1 and _version(epath.Path(parts[-1])) > (-1,) else parts[-1]
        )

    def _open(self) -> Any:
        with self._lock:
            if self._data is None:
                import tensorflow_datasets as tfds

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
        """Split and position; as long as the files are the same, the same record."""
        # Not the file's name, which would cost a read; it changes with the list of files.
        return f"{self.split}:{index}{self._mark}"

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
            maps = {k: record[k] for k in ("disparity", "valid", "sky")}
            sources.check_same_view(key, record["image"], maps)
        return record

    def _label(self, raw: Mapping[str, Any], key: str) -> Record:
        values = _pixels(raw[self.depth], key, bits=16)
        scale = np.float32(raw.get("scale", self.scale))
        kind = _text(raw.get("kind")) or self.kind
        masks = {}
        for field in ("valid", "sky"):
            if field in raw:
                masks[field] = _pixels(raw[field], key, bits=8) != 0
        shift_known = raw.get("shift_known", self.shift_known)
        fields = sources.label_fields(
            values.astype(np.float32) / scale,
            kind,
            shift_known=None if shift_known is None else bool(shift_known),
            **masks,
        )
        return fields | {"kind": kind}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else (value or "")


def _pixels(value: Any, key: str, *, bits: int | None) -> np.ndarray:
    """An image feature's array: RGB where `bits` is None, else one channel."""
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


def label_encoding(source: sources.Source) -> str:
    """How a source's labels are kept without loss: "png16" for plain 16-bit files, or "float32"."""
    base, indices = unwrapped(source, range(len(source)))
    if not isinstance(base, RGBDSource):
        return "float32"
    for index in indices:
        spec, depth = base.entries[index].label_format, base.entries[index].depth or ""
        reader, _, sky_above = formats.FORMATS[spec.fmt or formats.guess_format(depth)]
        as_is = not (spec.absolute or spec.offset or sky_above or spec.sky_above)
        if reader != "png16" or not as_is:
            return "float32"
    return "png16"


def mask_fields(source: sources.Source) -> list[str]:
    """The mask files that a manifest names ("valid", "sky"); rendered sources have "sky"."""
    base, indices = unwrapped(source, range(len(source)))
    if isinstance(base, RGBDSource):
        entries = [base.entries[i] for i in indices]
        masks = [f for f in ("valid", "sky") if any(getattr(e, f) for e in entries)]
        by_depth = any(e.label_format.tells_sky for e in entries)
        return masks + ["sky"] * (by_depth and "sky" not in masks)
    return ["sky"]


def unwrapped(
    source: sources.Source, indices: Sequence[int]
) -> tuple[sources.Source, Sequence[int]]:
    """What these records come from, below any Subset, and where they are there."""
    while isinstance(source, Subset):
        indices = [source.indices[i] for i in indices]
        source = source.source
    return source, indices


def features(labelled: bool, encoding: str | None, masks: list[str]) -> Any:
    """The TFDS features of a prepared data set (a `tfds.features.FeaturesDict`)."""
    import tensorflow_datasets as tfds

    kinds = tfds.features
    spec: dict[str, Any] = {
        "key": kinds.Text(),
        "dataset": kinds.Text(),
        "domain": kinds.Text(),
        "image": kinds.Image(shape=(None, None, 3)),
    }
    if labelled:
        if encoding not in ENCODINGS:
            raise ValueError(f"label encoding {encoding!r}: one of {', '.join(ENCODINGS)}")
        spec["depth"] = (
            kinds.Image(shape=(None, None, 1), dtype=np.uint16, encoding_format="png")
            if encoding == "png16"
            else kinds.Tensor(shape=(None, None), dtype=np.float32, encoding="zlib")
        )
        spec |= {
            "scale": kinds.Scalar(np.float32),
            "kind": kinds.Text(),
            "shift_known": kinds.Scalar(np.bool_),
            "K": kinds.Tensor(shape=(9,), dtype=np.float32),
        }
        for mask in masks:
            spec[mask] = kinds.Image(shape=(None, None, 1), dtype=np.uint8, encoding_format="png")
    return kinds.FeaturesDict(spec)


def encode(
    source: sources.Source, index: int, *, encoding: str | None, masks: list[str]
) -> dict[str, Any]:
    """Record `index` as `features` wants it.

    Everything is read and decoded, so that no broken file gets in. JPEG and PNG files are kept byte
    for byte, unless readers disagree about them (EXIF rotation, alpha, grey, 16 bits): those become
    PNG.

    Args:
      source: images, or images with labels.
      index: of the record.
      encoding: of the label: "png16", "float32", or None for images alone.
      masks: fields to store.

    Raises:
      FormatError, OSError: a broken file; SourceError: a label without one valid pixel.
    """
    record = source[index]
    base, (inner,) = unwrapped(source, [index])
    out: dict[str, Any] = {
        "key": record["key"],
        "dataset": record.get("dataset", ""),
        "domain": record.get("domain", ""),
    }
    data = None
    if isinstance(base, FolderSource | RGBDSource):
        data = formats.read_bytes(os.path.join(base.root, record["key"]))
    plain = data is not None and formats.is_plain_rgb(data)
    out["image"] = data if plain else formats.encode_png(record["image"])
    if encoding is None:
        return out
    if not record["valid"].any():
        raise SourceError("its label has no valid pixel")
    c = camera.of(record)
    fx, fy, cx, cy = np.zeros(4) if c is None else c
    out["K"] = np.array([fx, 0, cx, 0, fy, cy, 0, 0, c is not None], np.float32)
    out["shift_known"] = bool(record["shift_known"])
    out["kind"] = record.get("kind", "disparity")
    if isinstance(base, RGBDSource):
        out["depth"], out["scale"] = _encode_file(base, inner, encoding)
    else:
        d = record["disparity"].astype(np.float32)
        if out["kind"] == "depth":  # metres stay metres; rendered scenes stay disparity, to the bit
            d = np.divide(1, d, out=np.zeros_like(d), where=record["valid"])
        out["depth"], out["scale"] = d, 1.0
    for mask in masks:
        out[mask] = formats.encode_png(record[mask].astype(np.uint8) * 255)
    return out


def _encode_file(source: RGBDSource, index: int, encoding: str) -> tuple[Any, float]:
    entry = source.entries[index]
    assert entry.depth is not None  # read already
    path = os.path.join(source.root, entry.depth)
    data = formats.read_bytes(path)
    spec = entry.label_format
    if encoding == "float32":
        return formats.decode_label(data, path, spec), 1.0
    fixed = formats.FORMATS[spec.fmt or formats.guess_format(path)][1]
    scale = spec.scale if spec.scale is not None else fixed
    assert scale is not None  # decode_label has refused it otherwise
    raw = formats.decode_raw(data, path, bits=16)
    return formats.encode_png(raw), scale
