"""A colour bar with its numbers under a picture of depth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from depth_anything_jax.visualization import colormaps

TICKS = (5, 3, 2)  # as many as have room


def below(
    picture: Any, colormap: str, near: float, far: float, unit: str | None, *, invert: bool = False
) -> Any:
    """The picture with a bar from near (left) to far (right) below it, in RGB.

    Args:
      picture: a PIL image.
      colormap: matplotlib's name.
      near, far: values at the bar's ends, spread evenly between them.
      unit: written behind the numbers; None: "near" and "far" are written, relative numbers say
        nothing.
      invert: near has the colour map's low end.
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
    """What stands below the bar, evenly spread; fewer where the width has no room for all.

    A map without a finite value has no range: "near" and "far", as where there is no unit.

    Args:
      length: of a text, in pixels.
    """
    if not unit or not np.isfinite([near, far]).all():
        return ["near", "far"]
    for ticks in TICKS:
        values = np.linspace(near, far, ticks)
        texts = [f"{0.0 if abs(v) < abs(far - near) / 1000 else v:.3g} {unit}" for v in values]
        lengths = [length(text) for text in texts]
        # The first and the last stand inside, the others about their places.
        gaps = [(a if i == 0 else a / 2) + (b if i == ticks - 2 else b / 2)
                for i, (a, b) in enumerate(zip(lengths, lengths[1:], strict=False))]  # fmt: skip
        if max(gaps) + length("0") <= width / (ticks - 1):
            break
    return texts
