"""Reads arrays of NumPy files, whose size is checked before they are unpacked."""

from __future__ import annotations

import io
import threading
from typing import Any

import numpy as np

from depth_anything_jax.data.file_formats.file_checks import FormatError, PathLike, check_map_size

# NumPy parses a file's header with `ast`, which now and then fails in several threads at a time on
# Python 3.11 to .7 and 3.12 to .1 (SystemError: AST constructor recursion depth mismatch,
# cpython#106905).
_parsing = threading.Lock()


def read(data: bytes, name: PathLike, field: str | None) -> np.ndarray:
    """Reads an npy file, or the array `field` of an npz file (None: the only one).

    Raises:
      FormatError: the file is damaged, is too large in memory, or has no such array.
    """
    try:
        with _parsing:
            if not data.startswith(b"PK"):
                _check_array_size(io.BytesIO(data), name)
                return np.load(io.BytesIO(data), allow_pickle=False)
            loaded: Any = np.load(io.BytesIO(data), allow_pickle=False)
            names = loaded.files
            if field is None and len(names) != 1:
                raise FormatError(f"{name}: holds the arrays {names}; say which with 'field'")
            if field is not None and field not in names:
                raise FormatError(f"{name}: no array {field!r}, it holds {names}")
            field = names[0] if field is None else field
            member = next(m for m in loaded.zip.namelist() if m.removesuffix(".npy") == field)
            with loaded.zip.open(member) as file:
                _check_array_size(file, name)
            return loaded[field]
    except FormatError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy each raise their own kinds
        raise FormatError(f"{name}: not a NumPy file ({error})") from error


def _check_array_size(file: Any, name: PathLike) -> None:
    """Reads an array's header, and refuses one that is too large before it is unpacked."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0
    shape, _, dtype = (read if version == (1, 0) else np.lib.format.read_array_header_2_0)(file)
    check_map_size(name, shape, dtype.itemsize)
