"""Colours disparity maps, and draws strips of RGB | label | prediction (NumPy)."""

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


def strips(
    images: Float[np.ndarray, "b h w 3"],
    labels: Float[np.ndarray, "b h w"],
    valid: Bool[np.ndarray, "b h w"],
    predictions: Float[np.ndarray, "b h w"],
    *,
    rows: int = 4,
    gap: int = 2,
) -> UInt8[np.ndarray, "H W 3"]:
    """Draws the first examples of a batch below each other, each as RGB | label | prediction.

    Args:
      images: in 0-1, not normalised; values outside are clipped.
      labels, predictions: disparity, larger is nearer.
      valid: valid pixels of the label; the others are drawn grey.
      gap: white pixels between the tiles.
    """
    lines = []
    for image, label, mask, prediction in zip(
        images[:rows], labels, valid, predictions, strict=False
    ):
        rgb = np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)
        bar = np.full((rgb.shape[0], gap, 3), 255, np.uint8)
        tiles = [rgb, bar, colourise(label, mask), bar, colourise(prediction)]
        lines += [np.concatenate(tiles, axis=1)]
        lines += [np.full((gap, lines[0].shape[1], 3), 255, np.uint8)]
    return np.concatenate(lines[:-1], axis=0)
