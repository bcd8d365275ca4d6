"""Compares labels that `inference.depth_files` saved with how a source reads them.

Such PNG and npz files say their kind and unit. A source that reads them otherwise would train on
wrong labels in silence.
"""

from __future__ import annotations

import json
import math
from typing import Any

from depth_anything_jax.data.file_formats import numpy_files
from depth_anything_jax.data.file_formats.file_checks import FormatError, PathLike

KEY = "depth_anything_jax"  # `inference.depth_files.KEY`; a test compares them
METRIC, RELATIVE = "metric depth", "relative inverse depth"
_CHUNK = b"tEXt" + KEY.encode() + b"\0"


def check(data: bytes, name: PathLike, scale: float, kind: str) -> None:
    """Checks a label file's own statement of what it holds; files of other tools pass.

    Args:
      data: the file's bytes.
      name: its path, for errors.
      scale: what the source divides the file's values by.
      kind: "depth" or "disparity", what the source takes them for.

    Raises:
      FormatError: the file states another kind or scale, or grows away from the camera.
    """
    facts = _facts(data, name)
    stated = facts.get("kind")
    if stated not in (METRIC, RELATIVE):
        return
    right = "depth" if stated == METRIC else "disparity"
    if kind != right:
        raise FormatError(f"{name}: holds {stated}: give kind={right}, not kind={kind}")
    unit = facts.get("scale", 1.0)  # of one step in a PNG: metres, or relative inverse depth
    if stated == METRIC and not math.isclose(unit * scale, 1, rel_tol=1e-3):
        raise FormatError(
            f"{name}: was saved with {1 / unit:g} units in a metre and is read with "
            f"scale={scale:g}: give scale={1 / unit:g}"
        )
    if unit < 0:
        raise FormatError(
            f"{name}: was saved inverted, near is dark; as disparity near is large. Save it again "
            "without invert"
        )


def _facts(data: bytes, name: PathLike) -> dict[str, Any]:
    if data.startswith(b"\x89PNG"):
        at = data.find(_CHUNK)
        if at < 4:
            return {}
        text = data[at + len(_CHUNK) : at + 4 + int.from_bytes(data[at - 4 : at], "big")]
    elif data.startswith(b"PK") and f"{KEY}.npy".encode() in data:
        text = str(numpy_files.read(data, name, KEY)).encode()
    else:
        return {}
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}
