"""Writes records as TFDS data sets: features, label encodings, examples."""

import os
from typing import Any

import numpy as np

from depth_anything_jax.data import camera
from depth_anything_jax.data.file_formats import formats
from depth_anything_jax.data.sources.base import Source, SourceError, unwrapped
from depth_anything_jax.data.sources.files import FolderSource, RGBDSource
from depth_anything_jax.data.training_sets.base import TrainingSet

ENCODINGS = ("png16", "float16", "float32")


def label_encoding(source: Source) -> str:
    """Returns an encoding of a source's labels: "png16" (16-bit files) or "float32", without loss.

    Training sets say it themselves, and some take "float16" (see `float16`).
    """
    base, indices = unwrapped(source, range(len(source)))
    if isinstance(base, TrainingSet):
        return base.encoding
    if not isinstance(base, RGBDSource):
        return "float32"
    for index in indices:
        spec, depth = base.entries[index].label_format, base.entries[index].depth or ""
        reader, _, sky_above = formats.FORMATS[spec.fmt or formats.guess_format(depth)]
        as_is = not (spec.absolute or spec.offset or sky_above or spec.sky_above)
        if reader != "png16" or not as_is:
            return "float32"
    return "png16"


def mask_fields(source: Source) -> list[str]:
    """Returns the masks that a manifest names ("valid", "sky"); other sources have "sky"."""
    base, indices = unwrapped(source, range(len(source)))
    if isinstance(base, RGBDSource):
        entries = [base.entries[i] for i in indices]
        masks = [f for f in ("valid", "sky") if any(getattr(e, f) for e in entries)]
        by_depth = any(e.label_format.tells_sky for e in entries)
        return masks + ["sky"] * (by_depth and "sky" not in masks)
    return list(base.masks) if isinstance(base, TrainingSet) else ["sky"]


def features(labelled: bool, encoding: str | None, masks: list[str]) -> Any:
    """Returns the TFDS features of a prepared data set (a `tfds.features.FeaturesDict`)."""
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
            else kinds.Tensor(shape=(None, None), dtype=np.dtype(encoding).type, encoding="zlib")
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


def encode(source: Source, index: int, *, encoding: str | None, masks: list[str]) -> dict[str, Any]:
    """Encodes record `index` for `features`.

    Everything is read and decoded, so that no broken file gets in. JPEG and PNG files are kept byte
    for byte, unless readers disagree about them (EXIF rotation, alpha, grey, 16 bits): those become
    PNG.

    Args:
      source: images, or images with labels.
      index: the record's number.
      encoding: the label's, one of ENCODINGS, or None for images alone.
      masks: the mask fields to store.

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
    if isinstance(base, TrainingSet):
        data = base.image_bytes(inner)
    elif isinstance(base, FolderSource | RGBDSource):
        data = formats.read_bytes(os.path.join(base.root, record["key"]))
    plain = data is not None and formats.is_plain_rgb(data)
    out["image"] = data if plain else formats.encode_png(record["image"])
    if encoding is None:
        return out
    if not record["valid"].any():
        raise SourceError("its label has no valid pixel")
    c = camera.of(record)
    fx, fy, cx, cy = (0.0, 0.0, 0.0, 0.0) if c is None else c
    out["K"] = np.array([fx, 0, cx, 0, fy, cy, 0, 0, c is not None], np.float32)
    out["shift_known"] = bool(record["shift_known"])
    out["kind"] = "depth" if "depth" in record else "disparity"
    out["depth"], out["scale"] = record[out["kind"]].astype(np.float32, copy=False), 1.0
    if encoding == "float16":
        out["depth"], out["scale"] = float16(out["depth"])
    if encoding == "png16":  # of files alone, whose whole numbers come back exactly
        if isinstance(base, TrainingSet):
            scale = base.scale
        else:
            assert isinstance(base, RGBDSource)
            entry = base.entries[inner]
            scale = formats.label_scale(entry.depth or "", entry.label_format, entry.kind)
        raw = np.rint(out["depth"] * np.float64(np.float32(scale))).astype(np.uint16)
        out["depth"], out["scale"] = formats.encode_png(raw), scale
    for mask in masks:
        out[mask] = formats.encode_png(record[mask].astype(np.uint8) * 255)
    return out


def float16(values: np.ndarray) -> tuple[np.ndarray, float]:
    """Rounds a label to 11 bits a value: returns values * scale as float16, and the scale.

    The scale is 1 where that loses nothing, else the power of two that brings the largest value to
    16,384 or above. Then values down to 4e-9 of the largest are off by at most 2^-11 of themselves.
    """
    with np.errstate(over="ignore"):
        as_is = values.astype(np.float16)
    if (as_is == values).all():
        return as_is, 1.0
    scale = float(np.exp2(15 - np.frexp(values.max())[1]))
    return (values * np.float32(scale)).astype(np.float16), scale


def serialize(features: Any, example: dict[str, Any]) -> bytes:
    """A record of `encode` as bytes, the same in every process: TFDS' own have a random order."""
    from tensorflow_datasets.core import example_serializer

    serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
    proto = serializer.get_tf_example(features.encode_example(example))
    return proto.SerializeToString(deterministic=True)


def record_files(source: Source, index: int) -> list[str]:
    """The files that a record is read from; none for sources that are not made of files."""
    base, (inner,) = unwrapped(source, [index])
    if isinstance(base, TrainingSet):
        return base.files(inner)
    if isinstance(base, FolderSource):
        return [os.path.join(base.root, base.files[inner])]
    if not isinstance(base, RGBDSource):
        return []
    entry = base.entries[inner]
    names = [entry.rgb, *([entry.depth, entry.valid, entry.sky] if base.labelled else [])]
    return [os.path.join(base.root, name) for name in names if name]
