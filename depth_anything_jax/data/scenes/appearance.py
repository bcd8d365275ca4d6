"""Draws light, air and lens of a picture from the ranges of its domain."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from depth_anything_jax.data.scenes.textures import colour


@dataclasses.dataclass
class Look:
    """Light, air and camera of one picture."""

    sun: np.ndarray  # (3,) unit vector to the sun
    sun_light: np.ndarray  # (3,) linear RGB
    zenith: np.ndarray  # (3,) sky colours
    horizon: np.ndarray
    ambient: float
    lamp_light: np.ndarray  # (3,)
    window_light: float  # how bright lit windows and lamp shades are
    cloud: float
    fog: float  # per metre
    fog_colour: np.ndarray
    target: float  # mean of the picture after exposure
    contrast: float = 1.0
    saturation: float = 1.0
    cast: np.ndarray = dataclasses.field(default_factory=lambda: np.ones(3))
    noise: float = 0.005
    blur: float = 0.0  # pixels at 112
    vignette: float = 0.0


def _sun(rng, low, high) -> np.ndarray:
    up, around = math.radians(rng.uniform(low, high)), rng.uniform(0, 2 * math.pi)
    return np.array(
        [math.cos(up) * math.cos(around), math.cos(up) * math.sin(around), math.sin(up)],
        np.float32,
    )


def _rgb(rng, hue, saturation, value) -> np.ndarray:
    return np.array(colour(rng, hue, saturation, value), np.float32)


def day(rng: np.random.Generator) -> Look:
    """A clear day, a clean camera: domain A."""
    warm = _rgb(rng, (0.08, 0.14), (0.02, 0.18), 1.0)
    sky = _rgb(rng, (0.55, 0.6), (0.3, 0.65), (0.75, 1.0))
    return Look(
        sun=_sun(rng, 28, 70),
        sun_light=warm * rng.uniform(1.4, 2.2),
        zenith=sky,
        horizon=0.4 * sky + 0.6,
        ambient=rng.uniform(0.55, 0.8),
        lamp_light=_rgb(rng, (0.08, 0.14), (0.05, 0.25), 1.0) * rng.uniform(0.7, 1.3),
        window_light=0.0,
        cloud=rng.uniform(0, 0.6),
        fog=0.0,
        fog_colour=np.ones(3, np.float32),
        target=rng.uniform(0.54, 0.64),
        contrast=rng.uniform(1.05, 1.2),
        saturation=rng.uniform(1.05, 1.25),
        noise=rng.uniform(0.003, 0.01),
    )


def moody(rng: np.random.Generator) -> Look:
    """Dusk, overcast, night or fog through a cheap camera: domain B."""
    kind = ("dusk", "overcast", "night", "fog")[int(rng.integers(4))]
    cast = 1 + 0.22 * rng.standard_normal(3)
    camera: dict[str, Any] = {
        "cast": np.clip(cast, 0.55, 1.5),
        "noise": rng.uniform(0.008, 0.03),
        "blur": rng.uniform(0.0, 0.6),
        "vignette": rng.uniform(0, 0.6),
        "contrast": rng.uniform(0.7, 1.15),
        "saturation": rng.uniform(0.3, 1.3),
    }
    grey = _rgb(rng, (0.5, 0.7), (0.0, 0.12), (0.6, 0.9))
    lamp = _rgb(rng, (0.02, 0.13), (0.3, 0.7), 1.0)
    none = np.zeros(3, np.float32)
    if kind == "dusk":
        glow = _rgb(rng, (-0.02, 0.1), (0.45, 0.85), 1.0)
        sky = _rgb(rng, (0.6, 0.78), (0.3, 0.7), (0.35, 0.6))
        return Look(_sun(rng, 4, 16), glow * 1.3, sky, glow, 0.4, lamp * 0.7, 0.6, 0.8,
                    rng.uniform(0, 0.012), 0.5 * glow + 0.5 * sky, rng.uniform(0.28, 0.42),
                    **camera)  # fmt: skip
    if kind == "night":
        sky = _rgb(rng, (0.58, 0.72), (0.4, 0.8), (0.08, 0.22))
        return Look(_sun(rng, 20, 60), sky * 0.8, sky * 0.6, sky, 0.6, lamp * 2.0, 1.6, 0.0,
                    rng.uniform(0, 0.02), sky, rng.uniform(0.22, 0.34), **camera)  # fmt: skip
    fog = rng.uniform(0.02, 0.05) if kind == "fog" else rng.uniform(0.0, 0.02)
    return Look(_sun(rng, 30, 70), none, grey * 0.8, grey, 1.0, lamp * 0.5, 0.5, 0.3, fog, grey,
                rng.uniform(0.32, 0.46), **camera)  # fmt: skip


def haze(rng: np.random.Generator) -> Look:
    """A warm, hazy afternoon: domain C, seen by no training."""
    look = day(rng)
    low = rng.random() < 0.5
    look.sun = _sun(rng, 10, 30) if low else look.sun
    look.horizon = _rgb(rng, (0.07, 0.15), (0.1, 0.4), 1.0)
    look.fog, look.fog_colour = rng.uniform(0, 0.012), look.horizon
    look.saturation, look.contrast = rng.uniform(0.6, 1.2), rng.uniform(0.85, 1.1)
    look.cast = np.clip(1 + 0.08 * rng.standard_normal(3), 0.8, 1.2)
    look.noise, look.blur = rng.uniform(0.005, 0.03), rng.uniform(0, 0.5)
    look.target = rng.uniform(0.34, 0.5)
    return look


def any_look(rng: np.random.Generator) -> Look:
    """Everything the others do, and mixtures of them: the encoder's pre-training."""
    looks = [day(rng), moody(rng), haze(rng)]
    look = looks[int(rng.integers(3))]
    for name in ("cast", "noise", "blur", "vignette", "contrast", "saturation"):
        setattr(look, name, getattr(looks[int(rng.integers(3))], name))
    return look


@dataclasses.dataclass(frozen=True)
class Domain:
    """What a domain draws from: layouts with their shares, a palette and a look."""

    salt: int  # keeps the random streams of the domains apart
    layouts: tuple[tuple[str, float], ...]
    tone: str
    look: str


DOMAINS = {
    "A": Domain(1, (("room", 0.5), ("courtyard", 0.5)), "bright", "day"),
    "B": Domain(2, (("room", 0.5), ("courtyard", 0.25), ("street", 0.25)), "deep", "moody"),
    "C": Domain(3, (("hamlet", 0.3), ("storehouse", 0.7)), "any", "haze"),
    "mixture": Domain(
        4,
        (("room", 0.3), ("courtyard", 0.3), ("street", 0.25), ("terrain", 0.15)),
        "any",
        "any_look",
    ),
}
LOOKS = {"day": day, "moody": moody, "haze": haze, "any_look": any_look}
