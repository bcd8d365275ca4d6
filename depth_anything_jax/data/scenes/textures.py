"""Procedural textures: metric surface coordinates in, linear RGB albedo out. No assets.

A texture is a pure function of position, so it needs no unwrapping and no files. Each pattern
fades to its mean where a pixel covers more than about half a period: that is the whole
anti-aliasing of textures.
"""

from __future__ import annotations

import colorsys
import dataclasses
import functools

import numpy as np

_SIDE = 512  # texels of a noise tile; a power of two, so that wrapping is a bit mask


@dataclasses.dataclass(frozen=True)
class Material:
    """A pattern, its colours (linear RGB) and its period in metres."""

    pattern: str
    colours: tuple[tuple[float, float, float], ...]  # base, second, third
    period: float = 1.0
    contrast: float = 1.0
    turn: bool = False  # swap u and v
    shift: tuple[float, float] = (0.0, 0.0)
    glow: float = 0.0  # light given off: the whole surface, or a façade's lit windows
    gloss: float = 0.0  # height of a small highlight


def colour(rng: np.random.Generator, hue, saturation, value) -> tuple[float, float, float]:
    """Linear RGB from HSV, each of the three a number or a (low, high) range."""
    pick = [float(rng.uniform(*x)) if isinstance(x, tuple) else x for x in (hue, saturation, value)]
    r, g, b = colorsys.hsv_to_rgb(pick[0] % 1.0, pick[1], pick[2])
    return (r**2.2, g**2.2, b**2.2)


@functools.cache
def _tile(name: str) -> np.ndarray:
    """A tile of noise, flattened, float32 in [0, 1]: white, fine, cloud (each more smooth)."""
    seed, power = {"white": (1, 0.0), "fine": (2, 0.7), "cloud": (3, 1.6)}[name]
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((_SIDE, _SIDE))
    if power:
        f = np.fft.fftfreq(_SIDE)
        radius = np.sqrt(f[:, None] ** 2 + f[None] ** 2)
        radius[0, 0] = 1.0
        noise = np.fft.ifft2(np.fft.fft2(noise) * radius**-power).real
    rank = np.empty(noise.size, np.float32)  # equalised: patterns can threshold it
    rank[np.argsort(noise, axis=None)] = np.linspace(0, 1, noise.size, dtype=np.float32)
    return rank


def noise(name: str, u: np.ndarray, v: np.ndarray, period: float) -> np.ndarray:
    """Values (n,) in [0, 1] of a noise tile that spans ``period`` units of u and v (n,)."""
    k = np.float32(_SIDE / period)
    iu = (u * k).astype(np.int32) & (_SIDE - 1)
    iv = (v * k).astype(np.int32) & (_SIDE - 1)
    return _tile(name)[iv * _SIDE + iu]


def _hash(a: np.ndarray, b: np.ndarray, salt: int = 0) -> np.ndarray:
    """One pseudo-random number in [0, 1] per integer cell (a, b)."""
    ia = (a.astype(np.int32) * 73 + salt * 31) & (_SIDE - 1)
    ib = (b.astype(np.int32) * 151 + salt * 17) & (_SIDE - 1)
    return _tile("white")[ib * _SIDE + ia]


def _gap(f: np.ndarray, width: float) -> np.ndarray:
    """1 within ``width`` of a cell border, f being the position in the cell in [0, 1)."""
    return (np.minimum(f, 1 - f) < width).astype(np.float32)


def _plain(u, v):
    return noise("cloud", u, v, 4.0), 0


def _mottled(u, v):
    return 0.6 * noise("cloud", u, v, 3.0) + 0.4 * noise("fine", u, v, 2.0), 0


def _grain(u, v):
    return noise("cloud", u * 0.12, v, 1.2), 0


def _planks(u, v):
    row = np.floor(v)
    along = u * 0.2 + 7 * _hash(row, row, 3)
    cell = np.floor(along)
    tone = _hash(row, cell, 5)
    gap = np.maximum(_gap(v - row, 0.04), _gap(along - cell, 0.01))
    return 0.65 * tone + 0.35 * noise("cloud", u * 0.12 + 3 * tone, v + tone, 2.0), gap


def _tiles(u, v):
    cu, cv = np.floor(u), np.floor(v)
    gap = np.maximum(_gap(u - cu, 0.035), _gap(v - cv, 0.035))
    return 0.5 * _hash(cu, cv, 1) + 0.5 * noise("cloud", u, v, 6.0), gap


def _checker(u, v):
    return np.float32((np.floor(u) + np.floor(v)) % 2), 0


def _bricks(u, v):
    row = np.floor(v * 3)
    along = u + 0.5 * (row % 2)
    cell = np.floor(along)
    gap = np.maximum(_gap(v * 3 - row, 0.09), _gap(along - cell, 0.03))
    return 0.7 * _hash(cell, row, 2) + 0.3 * noise("fine", u, v, 4.0), gap


def _stripes(u, v):
    return np.float32((u - np.floor(u)) < 0.5), 0


def _dots(u, v):
    fu, fv = u - np.floor(u) - 0.5, v - np.floor(v) - 0.5
    return np.float32(fu * fu + fv * fv < 0.08), 0


def _speckle(u, v):
    return 0.5 * noise("fine", u, v, 5.0) + 0.5 * noise("white", u, v, 6.0), 0


def _grass(u, v):
    m = 0.55 * noise("fine", u, v, 9.0) + 0.45 * noise("cloud", u, v, 25.0)
    return m, np.float32(noise("fine", u + 3, v, 3.0) > 0.93)


def _leaves(u, v):
    m = noise("fine", u, v, 6.0)
    return m, np.float32(noise("fine", v, u, 4.0) < 0.25)


def _panels(u, v):
    cu, cv = np.floor(u), np.floor(v)
    fu, fv = u - cu, v - cv
    knob = (np.abs(fu - 0.88) < 0.03) & (np.abs(fv - 0.55) < 0.08)
    gap = np.maximum(np.maximum(_gap(fu, 0.02), _gap(fv, 0.02)), knob)
    return 0.4 * noise("cloud", u * 0.3, v, 2.0) + 0.2 * _hash(cu, cv, 4), gap


def _books(u, v):
    shelf = np.floor(v)
    width = u * 7 + 3 * _hash(shelf, shelf, 6)
    book = np.floor(width)
    height = 0.55 + 0.35 * _hash(book, shelf, 7)
    board = np.maximum(_gap(v - shelf, 0.05), np.float32((v - shelf) > height))
    return _hash(book, shelf, 8), np.maximum(board, 0.6 * _gap(width - book, 0.08))


def _picture(u, v):
    m = np.floor(noise("cloud", u, v, 3.0) * 4) / 3
    return m, np.float32(noise("cloud", v, u, 2.0) > 0.75)


def _road(u, v):
    # v runs across the road from its middle line, in metres: dashed centre, solid edges
    dash = (np.abs(v) < 0.07) & ((u * 0.25) % 1 < 0.5)
    edge = np.abs(np.abs(v) - 2.9) < 0.06
    return 0.6 * noise("fine", u, v, 8.0) + 0.4 * noise("cloud", u, v, 12.0), np.float32(
        dash | edge
    )


def _facade(u, v):
    cu, cv = np.floor(u), np.floor(v)
    fu, fv = u - cu, v - cv
    frame = (np.abs(fu - 0.5) < 0.27) & (np.abs(fv - 0.55) < 0.31)
    glass = (np.abs(fu - 0.5) < 0.23) & (np.abs(fv - 0.55) < 0.27)
    glass &= (np.abs(fu - 0.5) > 0.015) & (np.abs(fv - 0.6) > 0.012)
    plaster = 0.25 * noise("cloud", u, v, 3.0) + 0.15 * noise("fine", u, v, 4.0)
    return np.where(frame, 0.9, plaster).astype(np.float32), np.float32(glass)


# pattern: (function, mean of the first mix, mean of the second, periods per unit)
PATTERNS = {
    "plain": (_plain, 0.5, 0.0, 4),
    "mottled": (_mottled, 0.5, 0.0, 8),
    "grain": (_grain, 0.5, 0.0, 12),
    "planks": (_planks, 0.5, 0.09, 3),
    "tiles": (_tiles, 0.5, 0.13, 3),
    "checker": (_checker, 0.5, 0.0, 1),
    "bricks": (_bricks, 0.5, 0.22, 6),
    "stripes": (_stripes, 0.5, 0.0, 1),
    "dots": (_dots, 0.25, 0.0, 2),
    "speckle": (_speckle, 0.5, 0.0, 12),
    "grass": (_grass, 0.5, 0.07, 8),
    "leaves": (_leaves, 0.5, 0.25, 10),
    "panels": (_panels, 0.3, 0.08, 1),
    "books": (_books, 0.5, 0.4, 7),
    "picture": (_picture, 0.5, 0.25, 2),
    "road": (_road, 0.5, 0.05, 3),
    "facade": (_facade, 0.35, 0.22, 1.5),
}


def albedo(
    material: Material, own: np.ndarray, normal: np.ndarray, footprint: np.ndarray
) -> tuple[np.ndarray, np.ndarray | float]:
    """Colour of a surface.

    Args:
      material: what to draw.
      own: (3, n) float32, metric coordinates of the points.
      normal: (3, n) float32, normals in the same frame: the largest component picks the two
        coordinates that the texture uses.
      footprint: (n,) float32, metres of surface under a pixel.

    Returns:
      Linear RGB (3, n), and the light given off (n,) or a number.
    """
    axis = np.abs(normal).argmax(0)
    u = np.where(axis == 0, own[1], own[0]) + np.float32(material.shift[0])
    v = np.where(axis == 2, own[1], own[2]) + np.float32(material.shift[1])
    if material.turn:
        u, v = v, u
    if material.pattern != "road":
        k = np.float32(1.0 / material.period)
        u, v = u * k, v * k
    function, mean, mean_second, rate = PATTERNS[material.pattern]
    mix, second = function(u, v)
    keep = np.clip(1.5 - footprint * np.float32(2 * rate / material.period), 0, 1)
    mix = np.float32(mean) + (mix - np.float32(mean)) * keep * np.float32(material.contrast)
    base, other = (np.array(c, np.float32)[:, None] for c in material.colours[:2])
    rgb = base + (other - base) * np.clip(mix, 0, 1)
    if material.pattern == "books":
        hue = np.stack([mix, (mix * 3.7) % 1, (mix * 7.3) % 1]) * 0.7
        rgb = 0.45 * rgb + 0.55 * hue * (base + other)
    glow: np.ndarray | float = material.glow
    if len(material.colours) > 2 and mean_second:
        weight = np.float32(mean_second) + (second - np.float32(mean_second)) * keep
        rgb = rgb + (np.array(material.colours[2], np.float32)[:, None] - rgb) * weight
        if material.pattern == "facade":
            lit = _hash(np.floor(u), np.floor(v), 9) < 0.35
            glow = np.where(lit, material.glow * weight, 0)
    return np.maximum(rgb, 0), glow
