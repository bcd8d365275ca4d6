"""Furniture, plants, vehicles and people, each a handful of convex solids.

Every builder takes a random generator and a palette and returns a list of solids that stand around
the origin, on a floor at height 0; `place` moves them. Sizes are in metres and those of the real
things.
"""

from __future__ import annotations

import math

import numpy as np

from depth_anything_jax.data.scenes.geometry import Solid
from depth_anything_jax.data.scenes.materials import SEM


def place(solids: list[Solid], x: float, y: float, z: float, yaw: float) -> list[Solid]:
    """Moves solids built around the origin to (x, y, z), turned by yaw."""
    c, s = math.cos(yaw), math.sin(yaw)
    for solid in solids:
        px, py, pz = solid.centre
        solid.centre = (x + c * px - s * py, y + s * px + c * py, z + pz)
        solid.yaw += yaw
    return solids


def box(x, y, z, w, d, h, material, semantic, **more) -> Solid:
    """A box standing at height z, with full sizes w, d, h."""
    return Solid("box", (x, y, z + h / 2), (w / 2, d / 2, h / 2), material, semantic, **more)


def pole(x, y, z, r, h, material, semantic, kind="cylinder", **more) -> Solid:
    """An upright cylinder or cone of radius r standing at height z."""
    return Solid(kind, (x, y, z + h / 2), (r, r, h / 2), material, semantic, **more)


def ball(x, y, z, r, material, semantic, squash=1.0, **more) -> Solid:
    """A ball (or ellipsoid) with its centre at height z."""
    return Solid("ball", (x, y, z), (r, r, r * squash), material, semantic, **more)


def table(rng, pal, high=None):
    """A table on four legs, perhaps with things on it."""
    w, d, h = rng.uniform(0.7, 1.8), rng.uniform(0.5, 1.0), high or rng.uniform(0.4, 0.8)
    top, legs = pal.wood() if rng.random() < 0.7 else pal.paint(), pal.wood()
    out = [box(0, 0, h - 0.05, w, d, 0.05, top, SEM["table"])]
    for sx in (-1, 1):
        for sy in (-1, 1):
            x, y = sx * (w / 2 - 0.06), sy * (d / 2 - 0.06)
            out.append(box(x, y, 0, 0.06, 0.06, h - 0.05, legs, SEM["table"]))
    for _ in range(int(rng.integers(0, 4))):
        x, y = rng.uniform(-0.4, 0.4) * w, rng.uniform(-0.4, 0.4) * d
        out += place(trinket(rng, pal), x, y, h, rng.uniform(0, 6))
    return out


def trinket(rng, pal):
    """A vase, book, ball, cup or screen."""
    kind, m, s = int(rng.integers(5)), pal.thing(), SEM["prop"]
    if kind == 0:
        r = rng.uniform(0.04, 0.1)
        return [pole(0, 0, 0, r, 2.5 * r, m, s), ball(0, 0, 3 * r, 1.3 * r, pal.leaves(), s)]
    if kind == 1:
        return [box(0, 0, 0, 0.2, 0.28, rng.uniform(0.02, 0.15), m, s)]
    if kind == 2:
        r = rng.uniform(0.05, 0.14)
        return [ball(0, 0, r, r, m, s)]
    if kind == 3:
        return [pole(0, 0, 0, 0.05, rng.uniform(0.08, 0.3), m, s)]
    return [
        box(0, 0, 0.05, 0.5, 0.04, 0.32, pal.dark(), s),
        box(0, 0, 0, 0.2, 0.15, 0.05, m, s),
    ]


def chair(rng, pal):
    """A chair with a back."""
    m, legs, h = pal.fabric() if rng.random() < 0.5 else pal.wood(), pal.wood(), 0.45
    out = [box(0, 0, h - 0.06, 0.44, 0.44, 0.06, m, SEM["seat"])]
    out.append(box(0, -0.2, h, 0.44, 0.05, rng.uniform(0.35, 0.55), m, SEM["seat"]))
    for sx in (-0.18, 0.18):
        for sy in (-0.18, 0.18):
            out.append(box(sx, sy, 0, 0.045, 0.045, h - 0.06, legs, SEM["seat"]))
    return out


def sofa(rng, pal):
    """A sofa with arms and cushions."""
    w, m, cushion = rng.uniform(1.2, 2.4), pal.fabric(), pal.fabric()
    s = SEM["seat"]
    out = [
        box(0, 0.05, 0.08, w, 0.8, 0.32, m, s),
        box(0, -0.35, 0.08, w, 0.2, 0.75, m, s),
        box(-w / 2, 0, 0.08, 0.18, 0.88, 0.52, m, s),
        box(w / 2, 0, 0.08, 0.18, 0.88, 0.52, m, s),
    ]
    for _ in range(int(rng.integers(0, 3))):
        x = rng.uniform(-0.4, 0.4) * w
        out.append(Solid("ball", (x, -0.12, 0.55), (0.22, 0.1, 0.18), cushion, SEM["decor"]))
    return out


def bed(rng, pal):
    """A bed with a headboard and pillows."""
    w, s = rng.uniform(0.9, 1.8), SEM["seat"]
    out = [
        box(0, 0, 0, w, 2.0, 0.3, pal.wood(), s),
        box(0, 0, 0.3, w - 0.05, 1.95, 0.2, pal.fabric(), s),
        box(0, -1.0, 0, w, 0.08, rng.uniform(0.7, 1.2), pal.wood(), s),
    ]
    white = pal.material("plain", (0.1, 0.05, 0.9), (0.1, 0.05, 0.95))
    for x in (-w / 4, w / 4):
        out.append(Solid("ball", (x, -0.72, 0.55), (0.28, 0.2, 0.1), white, SEM["decor"]))
    return out


def cabinet(rng, pal):
    """A cabinet with doors."""
    w, d, h = rng.uniform(0.5, 1.8), rng.uniform(0.35, 0.65), rng.uniform(0.6, 2.2)
    first = ((0.02, 0.12), (0.1, 0.7), pal.value)
    period = (w / int(rng.integers(1, 4)), 0)
    m = pal.material("panels", first, first, ((0, 0.1), 0.3, 0.1), period=(period[0], period[0]))
    out = [box(0, 0, 0, w, d, h, m, SEM["storage"])]
    if h < 1.3:
        for _ in range(int(rng.integers(0, 3))):
            out += place(trinket(rng, pal), rng.uniform(-0.4, 0.4) * w, 0, h, rng.uniform(0, 6))
    return out


def bookcase(rng, pal):
    """Shelves full of books."""
    w, h = rng.uniform(0.7, 1.6), rng.uniform(1.2, 2.2)
    first = ((0, 1), (0.3, 0.9), (0.3, 0.9))
    books = pal.material("books", first, first, ((0.05, 0.1), 0.5, 0.25), period=(0.36, 0.4))
    frame, s = pal.wood(), SEM["storage"]
    return [
        box(0, 0, 0.04, w, 0.24, h - 0.06, books, s),
        box(-w / 2, 0.02, 0, 0.04, 0.3, h, frame, s),
        box(w / 2, 0.02, 0, 0.04, 0.3, h, frame, s),
        box(0, 0.02, h - 0.03, w, 0.3, 0.04, frame, s),
    ]


def floor_lamp(rng, pal):
    """A lamp on a pole, its shade glowing."""
    h, m = rng.uniform(1.2, 1.8), pal.metal()
    shade = pal.material("plain", ((0.08, 0.15), 0.3, 0.95), ((0.08, 0.15), 0.3, 0.95), glow=0.9)
    return [
        pole(0, 0, 0, 0.14, 0.03, m, SEM["lamp"]),
        pole(0, 0, 0, 0.015, h, m, SEM["lamp"]),
        pole(0, 0, h - 0.1, 0.2, 0.4, shade, SEM["lamp"], kind="cone", casts=False),
    ]


def potted_plant(rng, pal):
    """A plant in a pot."""
    r, h, leaves = rng.uniform(0.12, 0.25), rng.uniform(0.5, 1.5), pal.leaves()
    out = [pole(0, 0, 0, r, 1.6 * r, pal.thing(), SEM["prop"])]
    out.append(pole(0, 0, r, 0.02, h * 0.6, pal.bark(), SEM["trunk"]))
    for _ in range(int(rng.integers(2, 6))):
        x, y = rng.normal(0, 0.14, 2)
        z = rng.uniform(0.5, 1) * h + r
        out.append(ball(x, y, z, rng.uniform(0.1, 0.28), leaves, SEM["plant"], 0.8))
    return out


def boxes(rng, pal):
    """A few crates or cartons, one on another."""
    out, z = [], 0.0
    for _ in range(int(rng.integers(1, 4))):
        w, h = rng.uniform(0.25, 0.7), rng.uniform(0.2, 0.6)
        m = pal.wood("planks", period=(0.08, 0.15)) if rng.random() < 0.5 else pal.thing()
        x, yaw = rng.normal(0, 0.05), rng.uniform(0, 1.5)
        out.append(box(x, 0, z, w, w * rng.uniform(0.6, 1), h, m, SEM["prop"], yaw=yaw))
        z += h
    return out


def toy(rng, pal):
    """One ball, cylinder or cone."""
    r, m = rng.uniform(0.1, 0.45), pal.thing()
    kind = ("ball", "cylinder", "cone")[int(rng.integers(3))]
    if kind == "ball":
        return [ball(0, 0, r, r, m, SEM["prop"])]
    return [pole(0, 0, 0, r, r * rng.uniform(0.8, 3), m, SEM["prop"], kind=kind)]


def person(rng, pal):
    """A standing person."""
    h, s = rng.uniform(1.5, 1.9), SEM["person"]
    top, legs = pal.fabric(), pal.paint()
    skin = pal.material("plain", ((0.03, 0.08), (0.3, 0.6), (0.4, 0.9)), ((0.05, 0.06), 0.4, 0.7))
    step = rng.uniform(-0.25, 0.25)
    out = [
        Solid("cylinder", (-0.1, 0, 0.24 * h), (0.08, 0.08, 0.25 * h), legs, s, tilt=step),
        Solid("cylinder", (0.1, 0, 0.24 * h), (0.08, 0.08, 0.25 * h), legs, s, tilt=-step),
        Solid("ball", (0, 0, 0.65 * h), (0.23, 0.15, 0.21 * h), top, s),
        ball(0, 0, 0.92 * h, 0.105, skin, s, 1.2),
    ]
    for x in (-0.26, 0.26):
        out.append(Solid("ball", (x, 0, 0.62 * h), (0.06, 0.07, 0.17 * h), top, s))
    return out


def car(rng, pal):
    """Along x."""
    length, w = rng.uniform(3.4, 4.8), rng.uniform(1.6, 1.85)
    body, glass, tyre, s = pal.paint(), pal.dark(), pal.dark(), SEM["vehicle"]
    van = rng.random() < 0.25
    roof = 1.9 if van else rng.uniform(1.35, 1.6)
    out = [box(0, 0, 0.25, length, w, 0.62, body, s)]
    cabin = length * (0.8 if van else rng.uniform(0.45, 0.6))
    x = -0.05 * length
    out.append(box(x, 0, 0.87, cabin, w * 0.9, roof - 0.93, glass, s))
    out.append(box(x, 0, roof - 0.06, cabin * 0.94, w * 0.86, 0.06, body, s))
    if van:
        out[1] = box(-0.1 * length, 0, 0.87, 0.72 * length, w * 0.96, roof - 0.87, body, s)
    for sx in (-0.31, 0.31):
        for sy in (-0.5, 0.5):
            # the tilt lays the cylinder along x; the quarter turn then brings it across the car
            out.append(
                Solid(
                    "cylinder",
                    (sx * length, sy * (w - 0.2), 0.32),
                    (0.32, 0.32, 0.11),
                    tyre,
                    s,
                    tilt=math.pi / 2,
                    yaw=math.pi / 2,
                )
            )
    light = pal.material("plain", (0.1, 0.1, 0.9), (0.1, 0.1, 0.9), glow=0.4)
    for sy in (-0.33, 0.33):
        out.append(box(length / 2, sy * w, 0.55, 0.04, 0.3, 0.14, light, s, casts=False))
    return out


def tree(rng, pal):
    """A tree: trunk and crown."""
    h, leaves = rng.uniform(2.5, 7.0), pal.leaves()
    out = [pole(0, 0, -0.5, rng.uniform(0.07, 0.2), 0.5 + h * 0.7, pal.bark(), SEM["trunk"])]
    if rng.random() < 0.3:
        for k in range(3):
            r = h * (0.26 - 0.06 * k)
            z = h * (0.2 + 0.24 * k)
            out.append(pole(0, 0, z, r, h * 0.36, leaves, SEM["plant"], kind="cone"))
        return out
    r = h * rng.uniform(0.16, 0.26)
    for _ in range(int(rng.integers(3, 7))):
        x, y = rng.normal(0, 0.6 * r, 2)
        z = h * rng.uniform(0.6, 0.95)
        out.append(ball(x, y, z, r * rng.uniform(0.6, 1.1), leaves, SEM["plant"], 0.8))
    return out


def bush(rng, pal):
    """A bush of a few balls of leaves."""
    leaves, size = pal.leaves(), rng.uniform(0.3, 0.9)
    out = []
    for _ in range(int(rng.integers(2, 5))):
        x, y = rng.normal(0, 0.5 * size, 2)
        r = size * rng.uniform(0.5, 1)
        out.append(ball(x, y, 0.6 * r, r, leaves, SEM["plant"], 0.85))
    return out


def bench(rng, pal):
    """A bench of planks."""
    w, m, foot = rng.uniform(1.2, 2.0), pal.wood("planks", period=(0.1, 0.14)), pal.stone()
    s = SEM["seat"]
    out = [box(0, 0, 0.42, w, 0.42, 0.06, m, s)]
    out += [box(x * w, 0, 0, 0.12, 0.36, 0.42, foot, s) for x in (-0.4, 0.4)]
    if rng.random() < 0.6:
        out.append(box(0, -0.2, 0.5, w, 0.06, 0.4, m, s))
    return out


def planter(rng, pal):
    """A box with a bush in it."""
    w, h = rng.uniform(0.6, 2.0), rng.uniform(0.3, 0.7)
    out = [box(0, 0, 0, w, 0.6, h, pal.stone() if rng.random() < 0.5 else pal.wood(), SEM["prop"])]
    for solid in bush(rng, pal):
        x, y, z = solid.centre
        solid.centre = (x * 0.6, y * 0.4, z + h)
        out.append(solid)
    return out


def parasol_table(rng, pal):
    """A round table under a parasol."""
    h, m = rng.uniform(2.0, 2.4), pal.fabric()
    out = [
        pole(0, 0, 0.68, 0.5, 0.05, pal.wood(), SEM["table"]),
        pole(0, 0, 0, 0.04, h, pal.metal(), SEM["trunk"]),
        pole(0, 0, h, rng.uniform(1.0, 1.5), 0.45, m, SEM["decor"], kind="cone"),
    ]
    for k in range(int(rng.integers(1, 4))):
        angle = k * 2.1 + rng.uniform(0, 1)
        x, y = 0.8 * math.cos(angle), 0.8 * math.sin(angle)
        out += place(chair(rng, pal), x, y, 0, angle + math.pi / 2)
    return out


def fountain(rng, pal):
    """A round basin with water."""
    r, m, s = rng.uniform(0.8, 1.6), pal.stone(), SEM["prop"]
    water = pal.material("mottled", (0.53, 0.4, 0.6), (0.55, 0.3, 0.9), gloss=1.0)
    return [
        pole(0, 0, 0, r, 0.5, m, s),
        pole(0, 0, 0.5, 0.9 * r, 0.02, water, s),
        pole(0, 0, 0.5, 0.18, 0.9, m, s),
        pole(0, 0, 1.3, 0.45 * r, 0.12, m, s),
        ball(0, 0, 1.55, 0.2, m, s),
    ]


def lamp_post(rng, pal):
    """A street lamp, its globe glowing."""
    h, m = rng.uniform(2.6, 4.5), pal.metal()
    globe = pal.material("plain", (0.12, 0.2, 1.0), (0.12, 0.2, 1.0), glow=0.9)
    return [
        pole(0, 0, 0, 0.12, 0.3, m, SEM["trunk"]),
        pole(0, 0, 0, 0.055, h, m, SEM["trunk"]),
        ball(0, 0, h + 0.15, 0.2, globe, SEM["lamp"], casts=False),
    ]


def boulder(rng, pal):
    """A rock of a metre or two."""
    return rock(rng, pal, (0.9, 2.4))


def rock(rng, pal, sizes=(0.2, 1.2)):
    """A rock of a few stones."""
    m, size = pal.stone(), rng.uniform(*sizes)
    out = []
    for _ in range(int(rng.integers(1, 4))):
        x, y = rng.normal(0, 0.5 * size, 2)
        half = tuple(size * rng.uniform(0.4, 1.0, 3) * (1, 1, 0.7))
        kind = "ball" if rng.random() < 0.75 else "box"
        out.append(
            Solid(
                kind,
                (x, y, 0.25 * half[2]),
                half,
                m,
                SEM["rock"],
                yaw=rng.uniform(0, 3),
                tilt=rng.normal(0, 0.25),
            )
        )
    return out


def fence(rng, pal, length=4.0, high=None):
    """Along x, from -length/2 to length/2."""
    m, h = pal.wood(), high or rng.uniform(0.8, 1.3)
    posts = max(2, int(length / 1.3))
    out = [
        box(x, 0, -0.3, 0.1, 0.1, h + 0.3, m, SEM["fence"])
        for x in np.linspace(-length / 2, length / 2, posts)
    ]
    return out + [box(0, 0, z * h, length, 0.04, 0.1, m, SEM["fence"]) for z in (0.4, 0.8)]


def steps(rng, pal):
    """A flight of steps that can be climbed from two sides."""
    m, w, n = pal.stone(), rng.uniform(1.2, 2.5), int(rng.integers(2, 6))
    return [
        box(0, 0.3 * k, 0.16 * k, w, 0.3 * (n - k) * 2, 0.16, m, SEM["fence"]) for k in range(n)
    ]
