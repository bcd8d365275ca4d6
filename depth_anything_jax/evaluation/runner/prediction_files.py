"""Reads prediction files of any tool: .npy .npz .png .pfm .exr -> a map of numbers.

    read("files/a/1.png", "depth-scale")

Files written by our own programs carry metadata on their values, which is used and checked.
"""

from __future__ import annotations

import os
import pathlib

import numpy as np
from jaxtyping import Num

from depth_anything_jax.data.file_formats import formats

SUFFIXES = (".npy", ".npz", ".png", ".pfm", ".exr")


def read(path: str | os.PathLike[str], kind: str) -> Num[np.ndarray, "h w"]:
    """Reads a prediction file that should hold a given kind of prediction.

    PNG and npz of `Depth.save` and of the predict program are returned in their unit. Any other
    16-bit PNG holds integers in an unknown unit, which suit every kind except "metric".

    Raises:
      FormatError: the file holds no map of numbers, or one of another kind.
    """
    path = pathlib.Path(path)
    suffix = path.suffix.lower()
    if suffix == ".exr":
        return _read_exr(path)
    own = _read_ours(path, kind)
    if own is not None:
        return own
    data = formats.read_bytes(path)
    if suffix == ".png":
        if kind == "metric":
            raise formats.FormatError(
                f"{path}: a 16-bit PNG of another tool does not say its unit; write metres into "
                ".npy, .npz, .pfm or .exr, or score it as kind depth-scale"
            )
        return formats.decode_raw(data, path, bits=16).astype(np.float32)
    if suffix == ".pfm":
        return formats.decode_pfm(data, path)
    return formats.decode_array(data, path)


def _read_ours(path: pathlib.Path, kind: str) -> np.ndarray | None:
    """Reads the map in a PNG or npz of `Depth.save`; None for files of other tools."""
    from depth_anything_jax.inference import depth_files
    from depth_anything_jax.inference.depth_files import RELATIVE

    if not depth_files.has_metadata(path):
        return None
    saved = depth_files.load(path, None)
    if (saved["kind"] == RELATIVE) != (kind == "disparity-affine"):
        holds = "disparity-affine" if saved["kind"] == RELATIVE else "metric"
        raise formats.FormatError(
            f"{path} holds {saved['kind']}: score it as kind {holds}, not {kind}"
        )
    return saved["depth"]


def _read_exr(path: pathlib.Path) -> np.ndarray:
    try:
        import OpenEXR
    except ImportError as error:
        raise ImportError(
            f"{path}: EXR files need OpenEXR: pip install 'depth_anything_jax[eval]'"
        ) from error
    try:
        with OpenEXR.File(str(path)) as file:
            found = {name: channel.pixels for name, channel in file.channels().items()}
    except RuntimeError as error:
        raise formats.FormatError(f"{path}: not an EXR file ({error})") from error
    for name in ("Z", "Y", "R", "RGB"):  # depth, luminance, red; OpenEXR joins R, G, B
        if name in found:
            pixels = np.asarray(found[name], np.float32)
            return pixels if pixels.ndim == 2 else pixels[..., 0]
    raise formats.FormatError(f"{path}: has no channel Z, Y or R, but {', '.join(found)}")
