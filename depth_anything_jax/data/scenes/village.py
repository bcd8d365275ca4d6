"""Domain C's layouts: a hamlet on rolling ground, and storehouses as they stand in it."""

from __future__ import annotations

import math

import numpy as np

from depth_anything_jax.data.scenes import objects as things
from depth_anything_jax.data.scenes.geometry import HeightField, Solid
from depth_anything_jax.data.scenes.layouts import Stage, openings, scatter, sides, wall
from depth_anything_jax.data.scenes.materials import SEM, Palette
from depth_anything_jax.data.scenes.objects import ball, box, place
from depth_anything_jax.data.scenes.outdoors import axes, hut, soil, waves


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


def storehouse(rng: np.random.Generator, pal: Palette) -> Stage:
    """A timber building from the inside: beams on posts, shelves along the walls, stacked boxes."""
    w, d, h = rng.uniform(3.2, 7.5), rng.uniform(3.5, 9.0), rng.uniform(2.3, 3.6)
    flat = {"shell": True, "world_texture": True}
    plaster, timber = pal.wall(), pal.wood()
    lime = pal.material("plain", (0.1, (0, 0.1), (0.7, 1)), (0.1, 0.05, (0.7, 1)), contrast=0.3)
    out = [
        box(0, 0, -0.3, w + 0.6, d + 0.6, 0.3, pal.floor(), SEM["floor"], **flat),
        box(0, 0, h, w + 0.6, d + 0.6, 0.3, lime, SEM["ceiling"], **flat),
        box(0, 0, -2.5, 400, 400, 2.0, soil(rng, pal), SEM["grass"], casts=False, **flat),
    ]
    stores = (things.bookcase, things.boxes, things.cabinet)
    taken: list = []
    for a, b in sides(w, d):
        length = math.dist(a, b)
        gaps = openings(rng, length, h, int(rng.integers(0, 3)), rng.random() < 0.25)
        out += wall(a, b, h, 0.15, plaster, gaps)
        at, along = math.atan2(b[1] - a[1], b[0] - a[0]), rng.uniform(0.6, 1.5)
        while along < length - 0.8 and rng.random() < 0.6:
            x = a[0] + math.cos(at) * along + 0.4 * math.sin(at)
            y = a[1] + math.sin(at) * along - 0.4 * math.cos(at)
            build = stores[int(rng.integers(len(stores)))]
            out += place(build(rng, pal), x, y, 0, at + math.pi)
            taken.append((x, y, 0.5))
            along += rng.uniform(1.2, 2.4)
    for y in np.arange(-d / 2 + rng.uniform(0.6, 1.5), d / 2 - 0.4, rng.uniform(1.4, 2.6)):
        out.append(box(0, y, h - 0.18, w, 0.14, 0.18, timber, SEM["ceiling"]))
        if rng.random() < 0.3:
            x = rng.choice([-1, 1]) * rng.uniform(0.25, 0.4) * w
            out.append(box(x, y, 0, 0.14, 0.14, h, timber, SEM["wall"]))
            taken.append((x, y, 0.1))
    builders = (things.boxes, things.bench, things.table, things.chair, things.person, things.toy)
    free = (-w / 2 + 0.9, w / 2 - 0.9, -d / 2 + 0.9, d / 2 - 0.9)
    for x, y in scatter(rng, int(rng.integers(2, 6)), free, taken, (0.3, 0.6)):
        build = builders[int(rng.integers(len(builders)))]
        out += place(build(rng, pal), x, y, 0, rng.uniform(0, 2 * math.pi))
    lamp = (rng.uniform(-0.3, 0.3) * w, rng.uniform(-0.3, 0.3) * d, h - 0.5)
    glow = pal.material("plain", (0.1, 0.1, 1.0), (0.1, 0.1, 1.0), glow=1.0)
    out.append(ball(*lamp, rng.uniform(0.08, 0.16), glow, SEM["lamp"], casts=False))
    area = (-w / 2 + 0.3, w / 2 - 0.3, -d / 2 + 0.3, d / 2 - 0.3)
    return Stage(out, area, (0.3, h - 0.3), True, [lamp])
