"""Chooses the scale at which depth in metres is stored in 16 bits."""

import numpy as np
from jaxtyping import Float

WHITE = 65535  # the largest value
SCALES = (1000.0, 256.0, 100.0, 10.0)  # units per metre: millimetres, KITTI's, …


def fitting_scale(metres: Float[np.ndarray, "h w"]) -> float:
    """Returns the largest of `SCALES` at which 16 bits hold a map, or the smallest."""
    deepest = float(np.max(metres, initial=0, where=np.isfinite(metres)))
    return next((s for s in SCALES if round(deepest * s) <= WHITE), SCALES[-1])
