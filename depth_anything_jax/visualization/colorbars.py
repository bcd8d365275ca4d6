"""Draws a labelled colour bar below a depth image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from depth_anything_jax.visualization import colormaps

TICKS = (5, 3, 2)  # numbers of labels to try; the first that fits is used


def below(
    picture: Any, colormap: str, near: float, far: float, unit: str | None, *, invert: bool = False
) -> Any:
    """Appends a colour bar from near (left) to far (right) below an image; returns RGB.

    Args:
      picture: a PIL image.
      colormap: a matplotlib name.
      near, far: values at the ends of the bar, which is linear between them.
      unit: written after the numbers; None: the labels are "near" and "far", because relative
        values have no meaning.
      invert: whether near has the low end of the colour map.
    """
    from PIL import Image, ImageDraw, ImageFont

    width, height = picture.size
    line = max(12, min(width, height) // 30)
    ramp = np.linspace(0 if invert else 1, 1 if invert else 0, width, dtype=np.float32)
    bar = colormaps.colourise(np.tile(ramp, (line, 1)), limits=(0.0, 1.0), colormap=colormap)
    out = Image.new("RGB", (width, height + 3 * line), "white")
    out.paste(picture, (0, 0))
    out.paste(Image.fromarray(bar), (0, height + line // 2))
    draw, font = ImageDraw.Draw(out), ImageFont.load_default(line)
    texts = labels(near, far, unit, width - line // 2, font.getlength)
    for i, text in enumerate(texts):
        share = i / (len(texts) - 1)
        anchor = "l" if i == 0 else "r" if i == len(texts) - 1 else "m"
        draw.text((share * width, height + 1.6 * line), text, "black", font, anchor + "a")
    return out


def labels(
    near: float, far: float, unit: str | None, width: float, length: Callable[[str], float]
) -> list[str]:
    """Returns evenly spaced labels for the bar, as many as fit into its width.

    They are "near" and "far" without a unit, and for maps without finite values, which have no
    range.

    Args:
      length: returns the length of a text in pixels.
    """
    if not unit or not np.isfinite([near, far]).all():
        return ["near", "far"]
    for ticks in TICKS:
        values = np.linspace(near, far, ticks)
        texts = [f"{0.0 if abs(v) < abs(far - near) / 1000 else v:.3g} {unit}" for v in values]
        lengths = [length(text) for text in texts]
        # The first and the last label are aligned with the ends, the others centred.
        gaps = [(a if i == 0 else a / 2) + (b if i == ticks - 2 else b / 2)
                for i, (a, b) in enumerate(zip(lengths, lengths[1:], strict=False))]  # fmt: skip
        if max(gaps) + length("0") <= width / (ticks - 1):
            break
    return texts
