"""Computes interpolation weights along one axis, and resizes maps with them, in NumPy float64.

`sample_weights` implements the rules of PyTorch's `interpolate`; `models.resize` builds its
matrices from them.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from jaxtyping import Float, Num

CUBIC_A = -0.75  # PyTorch's (and OpenCV's) bicubic coefficient; jax.image uses -0.5
RULES = ("bilinear-corners", "bilinear", "bicubic", "nearest")


@functools.lru_cache(maxsize=64)
def sample_weights(
    n_in: int,
    n_out: int,
    rule: str,
    scale: float | None = None,
    part: tuple[int, int] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the inputs of each output: indices int (n_out, k), weights float64 (n_out, k).

    Args:
      n_in, n_out: numbers of samples on the axis.
      rule: "bilinear-corners" is align_corners=True: sample i lies at i (n_in − 1) / (n_out − 1), a
        single one at 0. "bilinear" and "bicubic" have half-pixel centres: (i + ½) / scale − ½;
        inputs beyond the border repeat the border. "nearest" takes sample ⌊i / scale⌋. No rule
        antialiases.
      scale: None: n_out / n_in.
      part: first output and the one behind the last, where not all are wanted.
    """
    if rule not in RULES:
        raise ValueError(f"resize rule {rule!r}: one of {', '.join(RULES)}")
    rows = np.arange(*(part or (0, n_out)))
    scale = n_out / n_in if scale is None else scale
    if rule == "nearest":
        return np.minimum((rows / scale).astype(int), n_in - 1)[:, None], np.ones((len(rows), 1))
    if rule == "bicubic":
        position = (rows + 0.5) / scale - 0.5
        base = np.floor(position).astype(int)
        index = base[:, None] + np.arange(-1, 3)
        distance = np.abs(position[:, None] - index)
        near = ((CUBIC_A + 2) * distance - (CUBIC_A + 3)) * distance**2 + 1
        far = ((distance - 5) * distance + 8) * distance * CUBIC_A - 4 * CUBIC_A
        weight = np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
        return np.clip(index, 0, n_in - 1), weight
    if rule == "bilinear-corners":
        position = rows * ((n_in - 1) / (n_out - 1) if n_out > 1 else 0.0)
    else:
        position = np.clip((rows + 0.5) / scale - 0.5, 0, n_in - 1)
    low = np.minimum(np.floor(position).astype(int), n_in - 1)
    weight = position - low
    index = np.stack([low, np.minimum(low + 1, n_in - 1)], 1)
    return index, np.stack([1 - weight, weight], 1)


def matrix(weights: tuple[np.ndarray, np.ndarray], n_in: int) -> Float[np.ndarray, "o i"]:
    """Converts the result of `sample_weights` to a dense (n_out, n_in) matrix."""
    index, weight = weights
    out = np.zeros((len(index), n_in))
    np.add.at(out, (np.arange(len(index))[:, None], index), weight)
    return out


def resize(
    x: Num[np.ndarray, "h w"], size: tuple[int, int], rule: str, dtype: Any = np.float64
) -> Float[np.ndarray, "H W"]:
    """Resizes a map to `size` (rows, columns), in `dtype`; a map of that size is unchanged.

    Values that are not finite spread to the outputs whose weight for them is not zero, and to no
    others. Float32 differs by 2e-7 of the range and is ten times as fast.
    """
    x = x.astype(dtype)
    if x.shape == tuple(size):
        return x
    # Gathering a few rows per output is much cheaper than a dense product on large labels.
    x = _combine(x, *sample_weights(x.shape[0], size[0], rule))
    return np.ascontiguousarray(_combine(x.T, *sample_weights(x.shape[1], size[1], rule)).T)


def _combine(x: np.ndarray, index: np.ndarray, weight: np.ndarray) -> np.ndarray:
    out = np.zeros((len(index), x.shape[1]), x.dtype)
    weight = weight.astype(x.dtype)
    finite = bool(np.isfinite(x).all())
    for k in range(index.shape[1]):
        part, share = x[index[:, k]], weight[:, k : k + 1]
        with np.errstate(invalid="ignore"):  # infinities of both signs
            # 0 times infinity would be NaN
            out += part * share if finite else np.where(share == 0, 0, part * share)
    return out
