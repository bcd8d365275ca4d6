"""Colours disparity maps (NumPy)."""

import numpy as np
from jaxtyping import Bool, Float, UInt8

GREY = 128  # invalid pixels: a colour that is not in the colour map


def colourise(
    disparity: Float[np.ndarray, "h w"],
    valid: Bool[np.ndarray, "h w"] | None = None,
    *,
    limits: tuple[float, float] | None = None,
    colormap: str = "Spectral_r",
) -> UInt8[np.ndarray, "h w 3"]:
    """Colours a disparity map: near is warm (red), far is cold (blue), invalid is grey.

    By default each map is stretched over its own 2nd to 98th percentile, because the scale of
    relative disparity is arbitrary; `limits` sets a common range for maps to be compared. Any
    matplotlib colour map can be used; Spectral_r is that of the Depth Anything demos.
    """
    from matplotlib import colormaps

    usable = np.isfinite(disparity) if valid is None else np.isfinite(disparity) & valid
    if not usable.any():
        return np.full((*disparity.shape, 3), GREY, np.uint8)
    low, high = map(float, limits or np.percentile(disparity[usable], [2, 98]))
    # A lookup table is twice as fast on large images as calling the colour map on every pixel.
    colours = colormaps[colormap]
    table = colours(np.arange(colours.N), bytes=True)[:, :3]
    values = np.where(usable, disparity, low)
    if high > low:
        unit = np.clip((values - low) / (high - low), 0, 1)
    else:
        unit = np.full(values.shape, 0.5)
    index = np.minimum((unit * colours.N).astype(np.int32), colours.N - 1)
    picture = np.take(table, index, axis=0)
    picture[~usable] = GREY
    return picture


def colormap_names() -> list[str]:
    """Lists the colour maps that `colourise` accepts: matplotlib's."""
    from matplotlib import colormaps

    return list(colormaps)
