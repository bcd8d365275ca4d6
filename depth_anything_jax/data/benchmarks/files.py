"""File formats that evaluation sets alone use; `file_formats.formats` has the common ones."""

from __future__ import annotations

import io
import os
from typing import Any

import numpy as np
from jaxtyping import Float

from depth_anything_jax.data.file_formats.formats import FormatError

PathLike = str | os.PathLike[str]
_SINTEL_TAG = 202021.25  # the first four bytes of Sintel's files, as float32
_EXTRA = "pip install 'depth_anything_jax[eval]'"


def decode_dpt(data: bytes, name: PathLike = "dpt") -> Float[np.ndarray, "h w"]:
    """Decodes Sintel's depth: a tag, width and height as int32, float32 metres row by row."""
    if len(data) < 12 or np.frombuffer(data, "<f4", 1)[0] != np.float32(_SINTEL_TAG):
        raise FormatError(f"{name}: no Sintel depth file: its first bytes are not {_SINTEL_TAG}")
    width, height = (int(v) for v in np.frombuffer(data, "<i4", 2, 4))
    if width < 1 or height < 1 or len(data) != 12 + 4 * width * height:
        raise FormatError(
            f"{name}: announces {height}x{width} pixels and has {len(data) - 12} bytes of them"
        )
    return np.frombuffer(data, "<f4", -1, 12).reshape(height, width).astype(np.float32)


def decode_cam(data: bytes, name: PathLike = "cam") -> Float[np.ndarray, "3 3"]:
    """Decodes the intrinsics of Sintel's camera file: a tag, 3x3 and 3x4 float64."""
    if len(data) != 4 + 21 * 8 or np.frombuffer(data, "<f4", 1)[0] != np.float32(_SINTEL_TAG):
        raise FormatError(f"{name}: no Sintel camera file (172 bytes that begin {_SINTEL_TAG})")
    return np.frombuffer(data, "<f8", 9, 4).reshape(3, 3).astype(np.float64)


def decode_raw_float32(
    data: bytes, shape: tuple[int, int], name: PathLike = "raw"
) -> Float[np.ndarray, "h w"]:
    """Decodes little-endian float32 without a header, row by row; the size comes from elsewhere."""
    if len(data) != 4 * shape[0] * shape[1]:
        raise FormatError(
            f"{name}: {len(data)} bytes are not {shape[0]}x{shape[1]} float32 "
            f"({4 * shape[0] * shape[1]})"
        )
    return np.frombuffer(data, "<f4").reshape(shape).astype(np.float32)


def decode_log_png(data: bytes, name: PathLike = "png") -> Float[np.ndarray, "h w"]:
    """Decodes MoGe's depth: a 16-bit PNG of log depth, with its range in text chunks.

    v = 0 is unknown (NaN here), 65535 infinite, else near^(1−t) · far^t with t = (v − 1) / 65533.
    """
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        text = {k: v for k, v in image.info.items() if isinstance(k, str)}
        values = np.asarray(image)
    if values.ndim != 2 or values.dtype.kind not in "iu":
        raise FormatError(f"{name}: a 16-bit PNG of one channel is {values.dtype} {values.shape}")
    try:
        near, far = float(text["near"]), float(text["far"])
    except (KeyError, ValueError) as error:
        raise FormatError(
            f"{name}: no numbers 'near' and 'far' in the PNG's text chunks (it has "
            f"{sorted(text) or 'none'}): not a depth map of MoGe's bundle"
        ) from error
    if not 0 < near <= far:
        raise FormatError(f"{name}: near {near} and far {far} are no range of depths")
    t = (values.astype(np.float64) - 1) / 65533
    # In float64: MoGe's own float32 powers differ from this by up to a few 1e-6.
    depth = np.exp((1 - t) * np.log(near) + t * np.log(far))
    depth = np.where(values == 0, np.nan, np.where(values == 65535, np.inf, depth))
    return depth.astype(np.float32)


def read_hdf5(path: PathLike, array: str, index: int | None = None) -> np.ndarray:
    """Reads an array of an HDF5 file, or its entry `index`; the file is closed again.

    Raises:
      ImportError: h5py is missing.
      FormatError: no HDF5 file, or no such array in it.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError(f"{path} is HDF5, which needs h5py: {_EXTRA}") from error
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise FormatError(f"{path}: not an HDF5 file ({error})") from error
    with file:
        if array not in file:
            raise FormatError(f"{path}: no array {array!r}; it holds {', '.join(file)}")
        return np.asarray(file[array] if index is None else file[array][index])


def read_mat(path: PathLike, variable: str) -> Any:
    """Reads a variable of a MATLAB file of version 5 to 7.

    Raises:
      ImportError: SciPy is missing.
      FormatError: no such file or variable.
    """
    try:
        import scipy.io
    except ImportError as error:
        raise ImportError(f"{path} is a MATLAB file, which needs SciPy: {_EXTRA}") from error
    try:
        loaded = scipy.io.loadmat(path)
    except Exception as error:  # SciPy raises several kinds
        raise FormatError(f"{path}: not a MATLAB file of version 5 to 7 ({error})") from error
    if variable not in loaded:
        names = sorted(k for k in loaded if not k.startswith("__"))
        raise FormatError(f"{path}: no variable {variable!r}; it holds {names}")
    return loaded[variable]
