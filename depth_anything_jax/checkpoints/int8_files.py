"""Weights files with kernels in int8: the official layout, a scale beside each rounded tensor.

A tensor NAME of the official layout is int8 and NAME + SUFFIX has its float32 scales, one for each
output channel, with the tensor's number of axes. Readers multiply both, so whatever takes a source
of weights takes such a file, training included, and gets float32. PyTorch's official code does not
read it.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from depth_anything_jax.models import int8

SUFFIX = ".int8_scale"
_TRANSPOSED = re.compile(r"resize_layers\.[01]\.weight$")  # (in, out, k, k), others (out, in, …)


def rounded(tensors: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Rounds the kernels among tensors of the official layout, and adds their scales."""
    out: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        x = out[name] = np.asarray(tensor)
        if name.endswith(".weight") and x.ndim in (2, 4):
            channel = 1 if _TRANSPOSED.search(name) else 0
            axes = tuple(a for a in range(x.ndim) if a != channel)
            out[name], out[name + SUFFIX] = int8.quantise(x, axes)
    return out


def joined(tensors: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Undoes `rounded`; tensors without scales stay as they are.

    Raises:
      ValueError: scales without their tensor, or of another shape.
    """
    out = {name: x for name, x in tensors.items() if not name.endswith(SUFFIX)}
    for name in tensors.keys() - out.keys():
        tensor, scale = out.get(name.removesuffix(SUFFIX)), tensors[name]
        if tensor is None or tensor.dtype != np.int8 or not _fits(scale.shape, tensor.shape):
            raise ValueError(
                f"{source}: {name} holds scales, but no int8 tensor of that name fits them; the "
                "file is damaged: write it again with tools/export_torch.py --int8"
            )
        out[name.removesuffix(SUFFIX)] = tensor.astype(np.float32) * scale
    return out


def _fits(scale: tuple[int, ...], tensor: tuple[int, ...]) -> bool:
    pairs = zip(scale, tensor, strict=False)
    return len(scale) == len(tensor) and all(n in (1, m) for n, m in pairs)
