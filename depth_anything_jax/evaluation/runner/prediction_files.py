"""Reads prediction files of any tool: .npy .npz .png .pfm .exr -> a map of numbers.

    read("files/a/1.png", "depth-scale")

Files written by our own programs carry metadata on their values, which is used and checked.
"""

from __future__ import annotations

import os
import pathlib
from typing import Any

import numpy as np
from jaxtyping import Num

from depth_anything_jax.data.file_formats import formats
from depth_anything_jax.data.file_formats.exr_files import read_exr
from depth_anything_jax.utils.map_kinds import MapKind

SUFFIXES = (".npy", ".npz", ".png", ".pfm", ".exr")


def read(
    path: str | os.PathLike[str], kind: str, *, inverted: bool = False
) -> Num[np.ndarray, "h w"]:
    """Reads a prediction file that should hold a given kind of prediction.

    PNG, npz and EXR of `Depth.save` and of the predict program are returned in their unit. Any
    other PNG of 8 or 16 bits holds integers in an unknown unit, which suit every kind except
    "metric"; those of 8 bits are returned as uint8, because their ties are counted.

    Args:
      inverted: whether the grey values of 8 bits are smaller where the scene is nearer, though the
        kind says larger; a map of `predict --invert` says so itself.

    Raises:
      FormatError: the file holds no map of numbers, or one of another kind.
    """
    path = pathlib.Path(path)
    suffix = path.suffix.lower()
    own = _load_ours(path)
    if own is not None:
        holds = MapKind(own["kind"]).prediction
        if holds.larger_is_nearer != MapKind(kind).larger_is_nearer:
            raise formats.FormatError(
                f"{path} holds {own['kind']}: score it as kind {holds}, not {kind}"
            )
        return own["depth"]
    if suffix == ".exr":
        return _read_exr(path)
    data = formats.read_bytes(path)
    if suffix == ".png":
        if kind == "metric":
            raise formats.FormatError(
                f"{path}: a PNG of another tool does not say its unit; write metres into "
                ".npy, .npz, .pfm or .exr, or score it as kind depth-scale"
            )
        if data[24:25] <= b"\x08":  # the bit depth in a PNG's header
            grey = formats.decode_raw(data, path, bits=8)
            return 255 - grey if inverted else grey
        return formats.decode_raw(data, path, bits=16).astype(np.float32)
    if suffix == ".pfm":
        return formats.decode_pfm(data, path)
    return formats.decode_array(data, path)


def kind_of(path: str | os.PathLike[str]) -> str | None:
    """The kind of prediction in a file of `Depth.save`; None where the file does not say it."""
    saved = _load_ours(pathlib.Path(path))
    return None if saved is None else MapKind(saved["kind"]).prediction


def _load_ours(path: pathlib.Path) -> dict[str, Any] | None:
    """Loads a PNG, npz or EXR of `Depth.save`; None for files of other tools."""
    from depth_anything_jax.inference import depth_files

    if path.suffix.lower() != ".exr":
        return depth_files.load(path, None) if depth_files.has_metadata(path) else None
    try:
        return depth_files.load(path, None)
    except (ValueError, RuntimeError, ImportError):  # `_read_exr` names what is wrong
        return None


def _read_exr(path: pathlib.Path) -> np.ndarray:
    found = read_exr(path)
    for name in ("Z", "Y", "R"):  # depth, luminance, red
        if name in found:
            return found[name].astype(np.float32)
    raise formats.FormatError(f"{path}: has no channel Z, Y or R, but {', '.join(found)}")
