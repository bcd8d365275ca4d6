"""The colour operations one pixel at a time: standard library and numpy, float64."""

import colorsys
import math

import numpy as np


def grey_of(image):
    return image @ np.array([0.2989, 0.587, 0.114])


def blend(image, other, factor):
    return np.clip(factor * image + (1 - factor) * other, 0, 1)


def brightness(image, factor):
    return blend(image, np.zeros_like(image), factor)


def contrast(image, factor):
    return blend(image, np.full_like(image, grey_of(image).mean()), factor)


def saturation(image, factor):
    return blend(image, np.repeat(grey_of(image)[..., None], 3, axis=-1), factor)


def hue(image, turns):
    out = np.empty_like(image)
    for position in np.ndindex(image.shape[:2]):
        h, s, v = colorsys.rgb_to_hsv(*image[position])
        out[position] = colorsys.hsv_to_rgb((h + turns) % 1, s, v)
    return out


OPERATIONS = (brightness, contrast, saturation, hue)


def jitter(image, factors, order):
    """factors: brightness, contrast, saturation, hue; order: indices into them."""
    for operation in order:
        image = OPERATIONS[operation](image, factors[operation])
    return image


def blur(image, sigma, radius):
    """Gaussian by its definition in two dimensions; edge pixels repeat outwards."""
    h, w, _ = image.shape
    around = np.pad(image, ((radius, radius), (radius, radius), (0, 0)), mode="edge")
    out, mass = np.zeros_like(image), 0.0
    for y in range(-radius, radius + 1):
        for x in range(-radius, radius + 1):
            weight = math.exp(-(y * y + x * x) / (2 * sigma**2))
            out += weight * around[radius + y : radius + y + h, radius + x : radius + x + w]
            mass += weight
    return out / mass


def box(rng, h, w, size=(0.02, 0.4), ratio=(0.3, 1 / 0.3), redraw_area=False):
    """One CutMix box by rejection: y0, x0, y1, x1 and the area that was drawn."""
    area = rng.uniform(*size) * h * w
    while True:
        if redraw_area:
            area = rng.uniform(*size) * h * w
        aspect = rng.uniform(*ratio)
        height, width = int(math.sqrt(area * aspect)), int(math.sqrt(area / aspect))
        y, x = rng.integers(h), rng.integers(w)
        if y + height <= h and x + width <= w:
            return y, x, y + height, x + width
