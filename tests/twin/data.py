"""Batches that ask for all the method has: sky, invalid and flat labels, shifts known or not."""

import numpy as np


def batch(step: int, size: int, labelled: int, unlabelled: int) -> dict:
    """Float64 images in [0, 1] and labels; NaN and infinity stand where nothing is valid.

    The last map of each part is flat or nearly empty in turn, so that the number of contributing
    maps is not the number of maps.
    """
    rng = np.random.default_rng(step)

    def part(n, kind):
        disparity = smooth(rng, (n, size, size)) * 3 + rng.uniform(0.2, 0.6, (n, size, size))
        valid = rng.uniform(size=(n, size, size)) > 0.1
        sky = np.zeros((n, size, size), bool)
        sky[:, : size // 4] = rng.uniform(size=(n, size // 4, size)) > 0.3
        valid[:, : size // 5] &= ~sky[:, : size // 5]
        if (step + kind) % 2:
            disparity[-1] = 1.5
            sky[-1] = False
        else:
            valid[-1] = sky[-1] = False
            valid[-1].flat[:: size * size // 8] = True
        disparity[~valid] = np.resize([np.nan, np.inf, -np.inf, 1e30], (~valid).sum())
        return {
            "image": np.clip(
                smooth(rng, (n, size, size, 3)) + rng.normal(0, 0.05, (n, size, size, 3)), 0, 1
            ),
            "disparity": disparity,
            "valid": valid,
            "sky": sky,
            "shift_known": np.arange(n) % 2 == step % 2,
        }

    parts = (("labelled", labelled, 0), ("unlabelled", unlabelled, 1))
    return {name: part(n, kind) for name, n, kind in parts if n}


def smooth(rng, shape) -> np.ndarray:
    """Values in [0, 1] that vary slowly along axes 1 and 2."""
    b, h, w, *rest = shape
    coarse = rng.uniform(size=(b, 5, 5, *rest))
    for axis, n in ((1, h), (2, w)):
        at = np.linspace(0, 4 - 1e-9, n)
        low = at.astype(int)
        share = (at - low).reshape([-1 if a == axis else 1 for a in range(coarse.ndim)])
        coarse = (1 - share) * coarse.take(low, axis) + share * coarse.take(low + 1, axis)
    return coarse
