"""A colour bar with its numbers under a picture of depth."""

from __future__ import annotations

from typing import Any

import numpy as np

from depth_anything_jax import pictures

TICKS = 5


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
    bar = pictures.colourise(np.tile(ramp, (line, 1)), limits=(0.0, 1.0), colormap=colormap)
    out = Image.new("RGB", (width, height + 3 * line), "white")
    out.paste(picture, (0, 0))
    out.paste(Image.fromarray(bar), (0, height + line // 2))
    draw, font = ImageDraw.Draw(out), ImageFont.load_default(line)
    ticks = TICKS if unit else 2
    for i in range(ticks):
        share = i / (ticks - 1)
        value = near + share * (far - near)
        text = f"{value:.3g} {unit}" if unit else ("near", "far")[i]
        anchor = "l" if i == 0 else "r" if i == ticks - 1 else "m"
        draw.text((share * width, height + 1.6 * line), text, "black", font, anchor + "a")
    return out
