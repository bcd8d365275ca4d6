"""Domain C's layouts: a hamlet on rolling ground, and the attics under its roofs."""

from __future__ import annotations

import math

import numpy as np

from depth_anything_jax.data import scenes_objects as things
from depth_anything_jax.data.scenes_geometry import HeightField, Solid
from depth_anything_jax.data.scenes_layouts import Stage, openings, scatter, wall
from depth_anything_jax.data.scenes_materials import SEM, Palette
from depth_anything_jax.data.scenes_objects import ball, box, place
from depth_anything_jax.data.scenes_outdoors import axes, hut, soil, waves


def hamlet(rng: np.random.Generator, pal: Palette) -> Stage:
    """Huts, dry stone walls, trees and boulders, close together on rolling ground."""
    extent = 90.0
    heights = waves(rng, *axes(extent), 0.25)
    ground = HeightField(heights, extent, soil(rng, pal), SEM["grass"])

    def put(solids, x, y):
        z = float(ground.height(np.array([x]), np.array([y]))[0])
        return place(solids, x, y, z - 0.05, rng.uniform(0, 2 * math.pi))

    out: list[Solid] = []
    taken = [(0.0, 0.0, 1.0)]
    for px, py in scatter(rng, int(rng.integers(3, 7)), (-12, 12, -12, 12), taken, (2.4, 3.2)):
        size = rng.uniform(3, 5.5), rng.uniform(2.5, 4.5), rng.uniform(2.2, 4.5)
        out += put(hut(pal, *size), px, py)
    stone = pal.wall()
    for px, py in scatter(rng, int(rng.integers(2, 6)), (-8, 8, -8, 8), taken, (1.0, 1.6)):
        long, high = rng.uniform(2, 6), rng.uniform(1.0, 2.6)
        out += put([box(0, 0, -1, long, 0.4, high + 1, stone, SEM["wall"])], px, py)
    builders = [
        things.rock,
        things.boulder,
        things.boulder,
        things.tree,
        things.tree,
        things.bush,
        things.fence,
        things.boxes,
        things.bench,
        things.person,
    ]
    for reach, n in ((5, int(rng.integers(4, 9))), (15, int(rng.integers(4, 10)))):
        for px, py in scatter(rng, n, (-reach, reach, -reach, reach), taken, (0.5, 1.1)):
            build = builders[int(rng.integers(len(builders)))]
            out += put(build(rng, pal), px, py)
    return Stage(out, (-4, 4, -4, 4), (0.3, 4.0), False, [(0.0, 0.0, 4.0)], ground)


def attic(rng: np.random.Generator, pal: Palette) -> Stage:
    """A room under a pitched roof: slopes, low side walls, gables, beams and posts."""
    w, d = rng.uniform(4.0, 7.0), rng.uniform(4.5, 10.0)
    knee, ridge = rng.uniform(0.5, 1.5), rng.uniform(2.6, 4.2)
    flat = {"shell": True, "world_texture": True}
    boards = pal.wood("planks", period=(0.15, 0.3)) if rng.random() < 0.6 else pal.wall()
    timber, sides = pal.wood(), pal.wall()
    out = [box(0, 0, -0.3, w + 0.6, d + 0.6, 0.3, pal.floor(), SEM["floor"], **flat)]
    out.append(box(0, 0, -5, 400, 400, 2.0, soil(rng, pal), SEM["grass"], casts=False, **flat))
    pitch, long = math.atan2(ridge - knee, w / 2), math.hypot(ridge - knee, w / 2) + 0.3
    for side in (-1, 1):
        out.append(box(side * (w / 2 + 0.1), 0, 0, 0.2, d, knee + 0.2, sides, SEM["wall"], **flat))
        middle, high = side * w / 4, (knee + ridge) / 2
        out.append(
            box(middle, 0, high, long, d + 0.6, 0.12, boards, SEM["ceiling"], tilt=side * pitch,
                **flat)
        )  # fmt: skip
    x, y = w / 2, d / 2
    for a, b in (((x, -y), (-x, -y)), ((-x, y), (x, y))):
        gaps = openings(rng, w, 2.2, int(rng.integers(0, 3)))
        out += wall(a, b, ridge + 0.1, 0.15, sides, [g for g in gaps if 1 < g[0] and g[1] < w - 1])
    for y in np.arange(-d / 2 + rng.uniform(0.6, 1.5), d / 2 - 0.4, rng.uniform(1.4, 2.6)):
        reach = w / 2 * (ridge - 2.0) / (ridge - knee)
        if rng.random() < 0.7:
            out.append(box(0, y, 2.0, 2 * reach, 0.14, 0.16, timber, SEM["ceiling"]))
        if rng.random() < 0.5:
            x = rng.choice([-1, 1]) * rng.uniform(0.3, 0.9) * reach
            out.append(box(x, y, 0, 0.14, 0.14, 2.0, timber, SEM["wall"]))
    builders = [
        things.boxes,
        things.boxes,
        things.cabinet,
        things.bed,
        things.table,
        things.chair,
        things.toy,
        things.bookcase,
        things.potted_plant,
    ]
    taken: list = []
    free = (-w / 2 + 0.8, w / 2 - 0.8, -d / 2 + 0.8, d / 2 - 0.8)
    for x, y in scatter(rng, int(rng.integers(4, 10)), free, taken, (0.35, 0.7)):
        build = builders[int(rng.integers(len(builders)))]
        out += place(build(rng, pal), x, y, 0, rng.uniform(0, 2 * math.pi))
    lamp = (rng.uniform(-0.1, 0.1) * w, rng.uniform(-0.3, 0.3) * d, min(ridge - 0.7, 2.4))
    glow = pal.material("plain", (0.1, 0.1, 1.0), (0.1, 0.1, 1.0), glow=1.0)
    out.append(ball(*lamp, rng.uniform(0.06, 0.12), glow, SEM["lamp"], casts=False))
    area = (-w / 2 + 0.8, w / 2 - 0.8, -d / 2 + 0.4, d / 2 - 0.4)
    return Stage(out, area, (0.3, 1.9), True, [lamp])
