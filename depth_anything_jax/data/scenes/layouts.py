"""Places objects on stages: rooms and the parts of every stage (`outdoors` has the others).

A layout returns a ``Stage``: the solids, the ground, the lamps, and where a camera may stand.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from depth_anything_jax.data.scenes import objects as things
from depth_anything_jax.data.scenes.geometry import HeightField, Solid
from depth_anything_jax.data.scenes.materials import SEM, Palette
from depth_anything_jax.data.scenes.objects import ball, box, place, pole


@dataclasses.dataclass
class Stage:
    """A scene before light and camera."""

    solids: list[Solid]
    area: tuple[float, float, float, float]  # x0, x1, y0, y1 where a camera may stand, metres
    heights: tuple[float, float]  # lowest and highest camera above the ground, metres
    indoor: bool
    lamps: list[tuple[float, float, float]]  # positions of lamps, metres
    ground: HeightField | None = None


def wall(a, b, height, thick, material, openings, semantic=SEM["wall"]) -> list[Solid]:
    """A wall from a to b (x, y), cut by openings (start, stop, sill, top) along it."""
    length = math.dist(a, b)
    yaw = math.atan2(b[1] - a[1], b[0] - a[0])
    parts, at = [], 0.0
    for start, stop, sill, top in sorted(openings):
        parts += [(at, start, 0, height), (start, stop, 0, sill), (start, stop, top, height)]
        at = stop
    parts.append((at, length, 0, height))
    out = []
    for start, stop, low, high in parts:
        if stop - start < 0.02 or high - low < 0.02:
            continue
        middle = (start + stop) / 2
        out.append(
            box(
                middle,
                thick / 2,
                low,
                stop - start,
                thick,
                high - low,
                material,
                semantic,
                shell=True,
                world_texture=True,
            )
        )
    return place(out, a[0], a[1], 0, yaw)


def openings(rng, length, height, count, door=False):
    """Windows, or doors, along a wall: (start, end, sill, top) in metres from its lower corner."""
    out, at = [], 0.3
    for _ in range(count):
        width = rng.uniform(0.7, 1.8)
        start = at + rng.uniform(0.1, 1.0)
        if start + width > length - 0.3:
            break
        if door:
            out.append((start, start + 0.95, 0.0, 2.05))
        else:
            sill = rng.uniform(0.5, 1.1)
            out.append((start, start + width, sill, min(height - 0.25, sill + 1.3)))
        at = start + width
    return out


def scatter(rng, n, area, taken, radius=(0.3, 0.8)):
    """Places (x, y) that keep their distance from each other and from ``taken``."""
    out: list[tuple[float, float]] = []
    for _ in range(n * 6):
        if len(out) >= n:
            break
        r = rng.uniform(*radius)
        x, y = rng.uniform(area[0], area[1]), rng.uniform(area[2], area[3])
        if all(math.hypot(x - px, y - py) > r + pr for px, py, pr in taken):
            taken.append((x, y, r))
            out.append((x, y))
    return out


def sides(w, d):
    """The four sides of a w x d rectangle as corners (a, b), the inside on the right."""
    x, y = w / 2, d / 2
    return [((x, -y), (-x, -y)), ((x, y), (x, -y)), ((-x, y), (x, y)), ((-x, -y), (-x, y))]


def room(rng: np.random.Generator, pal: Palette) -> Stage:
    """A furnished room with windows."""
    w, d, h = rng.uniform(3.0, 8.0), rng.uniform(3.0, 9.0), rng.uniform(2.3, 3.6)
    walls = [pal.wall()]
    out: list[Solid] = []
    walls.append(walls[0] if rng.random() < 0.6 else pal.wall())
    white = pal.material("plain", (0.1, (0, 0.1), (0.75, 1)), (0.1, 0.05, (0.75, 1)), contrast=0.3)
    flat = {"shell": True, "world_texture": True}
    out.append(box(0, 0, -0.3, w + 0.6, d + 0.6, 0.3, pal.floor(), SEM["floor"], **flat))
    out.append(box(0, 0, h, w + 0.6, d + 0.6, 0.3, white, SEM["ceiling"], **flat))
    outside = pal.grass() if rng.random() < 0.6 else pal.paving()
    out.append(box(0, 0, -2.5, 400, 400, 2.0, outside, SEM["grass"], casts=False, **flat))
    frames = pal.paint()
    for k, (a, b) in enumerate(sides(w, d)):
        length = math.dist(a, b)
        door = rng.random() < 0.2
        gaps = openings(rng, length, h, int(rng.choice([0, 0, 1, 1, 2])), door)
        out += wall(a, b, h, 0.15, walls[k % 2], gaps)
        at = math.atan2(b[1] - a[1], b[0] - a[0])
        for start, stop, sill, top in gaps:
            bars = [
                box(
                    (start + stop) / 2,
                    0.05,
                    sill - 0.05,
                    stop - start + 0.1,
                    0.2,
                    0.05,
                    frames,
                    SEM["opening"],
                ),
                box((start + stop) / 2, 0.06, sill, 0.05, 0.05, top - sill, frames, SEM["opening"]),
            ]
            out += place(bars[: 1 if door else 2], a[0], a[1], 0, at)
        # along the wall, facing into the room
        along = rng.uniform(0.3, 0.8)
        while along < length - 1.0 and rng.random() < 0.7:
            build = [
                things.cabinet,
                things.bookcase,
                things.sofa,
                things.table,
                things.cabinet,
                things.bed,
            ][int(rng.integers(6))]
            solids = build(rng, pal)
            wide = 2 * max(abs(s.centre[0]) + s.half[0] for s in solids)
            deep = max(s.half[1] - s.centre[1] for s in solids)
            if along + wide > length - 0.2:
                break
            mid = along + wide / 2
            x, y = a[0] + math.cos(at) * mid, a[1] + math.sin(at) * mid
            inward = (math.sin(at), -math.cos(at))
            x, y = x + inward[0] * (deep + 0.03), y + inward[1] * (deep + 0.03)
            out += place(solids, x, y, 0, at + math.pi)
            along += wide + rng.uniform(0.1, 1.5)
        for _ in range(int(rng.integers(0, 3))):
            art = pal.material(
                "picture stripes checker",
                ((0, 1), 0.6, (0.3, 0.9)),
                ((0, 1), 0.6, (0.3, 0.9)),
                ((0, 1), 0.5, 0.8),
                period=(0.2, 0.5),
            )
            size = rng.uniform(0.3, 0.9, 2)
            x = rng.uniform(0.5, max(length - 0.5, 0.6))
            if all(not (s - 0.5 < x < e + 0.5) for s, e, _, _ in gaps):
                z = rng.uniform(1.2, h - 1.0)
                frame = box(x, -0.015, z, size[0], 0.03, size[1], art, SEM["decor"])
                out += place([frame], a[0], a[1], 0, at)
    taken: list = []
    free = (-w / 2 + 0.8, w / 2 - 0.8, -d / 2 + 0.8, d / 2 - 0.8)
    builders = [
        things.table,
        things.chair,
        things.chair,
        things.potted_plant,
        things.boxes,
        things.toy,
        things.floor_lamp,
        things.sofa,
        things.person,
        things.toy,
    ]
    for x, y in scatter(rng, int(rng.integers(2, 7)), free, taken, (0.3, 0.6)):
        build = builders[int(rng.integers(len(builders)))]
        out += place(build(rng, pal), x, y, 0, rng.uniform(0, 2 * math.pi))
    if rng.random() < 0.6:
        size = rng.uniform(1.0, 2.6, 2)
        out.append(
            box(
                rng.normal(0, 0.5),
                rng.normal(0, 0.5),
                0,
                size[0],
                size[1],
                0.015,
                pal.fabric(),
                SEM["decor"],
                casts=False,
            )
        )
    if rng.random() < 0.2:
        x, y = rng.uniform(-w / 4, w / 4), rng.uniform(-d / 4, d / 4)
        out.append(pole(x, y, 0, rng.uniform(0.12, 0.3), h, pal.wall(), SEM["wall"]))
    lamps = [(rng.uniform(-0.3, 0.3) * w, rng.uniform(-0.3, 0.3) * d, h - 0.3)]
    glow = pal.material("plain", (0.1, 0.1, 1.0), (0.1, 0.1, 1.0), glow=1.0)
    lx, ly, lz = lamps[0]
    out.append(pole(lx, ly, h - 0.35, 0.01, 0.35, frames, SEM["lamp"], casts=False))
    out.append(ball(lx, ly, lz - 0.05, rng.uniform(0.1, 0.22), glow, SEM["lamp"], casts=False))
    area = (-w / 2 + 0.3, w / 2 - 0.3, -d / 2 + 0.3, d / 2 - 0.3)
    return Stage(out, area, (0.3, h - 0.3), True, lamps)
