"""Reads the channels of OpenEXR files by name."""

from __future__ import annotations

import os

import numpy as np

from depth_anything_jax.data.file_formats.file_checks import FormatError, check_map_size


def read_exr(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads all channels (h, w), in the type that the file stores: half, float or uint.

    Raises:
      ImportError: OpenEXR is missing.
      FormatError: no EXR, or a damaged one.
    """
    try:
        import OpenEXR
    except ImportError as error:
        raise ImportError(
            f"{path} is OpenEXR: pip install 'depth_anything_jax[exr]' (or [eval], [sets])"
        ) from error
    try:
        with OpenEXR.File(os.fspath(path), separate_channels=True) as file:
            channels = {name: channel.pixels for name, channel in file.channels().items()}
    except (RuntimeError, ValueError, OSError) as error:
        raise FormatError(f"{path}: not an EXR file, or a damaged one ({error})") from error
    found = {name: np.asarray(pixels) for name, pixels in channels.items()}
    for pixels in found.values():
        check_map_size(path, pixels.shape, 4)
    return found
