"""Copies as people make them: resized, cropped, recompressed, mirrored, recoloured; and pairs."""

import itertools

import cv2
import numpy as np


def resized(image, rng):
    """.3 to 1.2 of each side, the shape changed by up to 5 %."""
    scale, stretch = rng.uniform(0.3, 1.2), rng.uniform(0.95, 1.05)
    return cv2.resize(image, None, fx=scale, fy=scale * stretch, interpolation=cv2.INTER_AREA)


def cropped(image, rng):
    """At least .9 of each side, anywhere."""
    h, w = (int(n * rng.uniform(0.9, 1)) for n in image.shape[:2])
    y, x = rng.integers(0, image.shape[0] - h + 1), rng.integers(0, image.shape[1] - w + 1)
    return image[y : y + h, x : x + w]


def recompressed(image, rng):
    """JPEG of quality 20 to 79."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(20, 80))]
    coded = cv2.imencode(".jpg", image[..., ::-1], quality)[1]
    return np.ascontiguousarray(cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1])


def mirrored(image, rng):
    """Left is right."""
    return np.ascontiguousarray(image[:, ::-1])


def recoloured(image, rng):
    """Gamma, a gain for each channel, an offset; sometimes grey, sometimes another hue."""
    x = (image.astype(np.float32) / 255) ** rng.uniform(0.7, 1.4)
    x = x * rng.uniform(0.75, 1.25, 3) + rng.uniform(-0.08, 0.08)
    if rng.random() < 0.2:
        x[:] = x.mean(-1, keepdims=True)
    elif rng.random() < 0.3:
        hsv = cv2.cvtColor(np.clip(x, 0, 1).astype(np.float32), cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0] + rng.uniform(-25, 25)) % 360
        x = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return np.clip(255 * x, 0, 255).astype(np.uint8)


KINDS = (resized, cropped, recompressed, mirrored, recoloured)
ALL = [(kind,) for kind in KINDS] + list(itertools.combinations(KINDS, 2))


def name(kinds):
    """Their names, in the order in which they are applied."""
    return "+".join(kind.__name__ for kind in kinds)


def copy_of(image, kinds, rng):
    """Applies kinds one after the other."""
    for kind in kinds:
        image = kind(image, rng)
    return image
