"""Lays out courtyards, streets and valleys, and draws their ground."""

from __future__ import annotations

import math

import numpy as np

from depth_anything_jax.data.scenes import objects as things
from depth_anything_jax.data.scenes.geometry import HeightField, Solid
from depth_anything_jax.data.scenes.layouts import Stage, openings, scatter, sides, wall
from depth_anything_jax.data.scenes.materials import SEM, Palette
from depth_anything_jax.data.scenes.objects import box, place
from depth_anything_jax.data.scenes.textures import Material


def courtyard(rng: np.random.Generator, pal: Palette) -> Stage:
    """An open yard between walls and buildings."""
    w, d = rng.uniform(6.0, 16.0), rng.uniform(6.0, 16.0)
    flat = {"shell": True, "world_texture": True}
    ground = pal.paving() if rng.random() < 0.7 else pal.grass()
    kind = SEM["floor"] if ground.pattern != "grass" else SEM["grass"]
    out = [box(0, 0, -2, 400, 400, 2, ground, kind, casts=False, **flat)]
    stone = pal.wall()
    for a, b in sides(w, d):
        length, style = math.dist(a, b), rng.random()
        at = math.atan2(b[1] - a[1], b[0] - a[0])
        if style < 0.45:
            high = rng.uniform(3.5, 9.0)
            mid = ((a[0] + b[0]) / 2, (a[1] + b[1]) / 2)
            house = box(0, 3.0, 0, length + 6.0, 6.0, high, pal.facade(), SEM["building"])
            out += place([house], mid[0], mid[1], 0, at)
            door = box(
                rng.uniform(0.2, 0.8) * length, -0.03, 0, 1.1, 0.1, 2.2, pal.wood(), SEM["opening"]
            )
            out += place([door], a[0], a[1], 0, at)
        elif style < 0.85:
            high = rng.uniform(1.6, 4.0)
            gaps = openings(rng, length, high, int(rng.integers(0, 3)), rng.random() < 0.5)
            out += wall(a, b, high, 0.3, stone, [g for g in gaps if g[3] < high - 0.1])
        else:
            mid = ((a[0] + b[0]) / 2, (a[1] + b[1]) / 2)
            out += place(things.fence(rng, pal, length), mid[0], mid[1], 0, at)
    for _ in range(int(rng.integers(0, 4))):
        angle, far = rng.uniform(0, 6.3), rng.uniform(12, 35)
        x, y = far * math.cos(angle), far * math.sin(angle)
        if max(abs(x) - w / 2, abs(y) - d / 2) > 8:
            out.append(
                box(
                    x,
                    y,
                    0,
                    rng.uniform(5, 12),
                    rng.uniform(5, 12),
                    rng.uniform(5, 16),
                    pal.facade(),
                    SEM["building"],
                    yaw=angle,
                )
            )
    builders = [
        things.tree,
        things.bush,
        things.bench,
        things.planter,
        things.parasol_table,
        things.boxes,
        things.lamp_post,
        things.person,
        things.fountain,
        things.toy,
        things.potted_plant,
        things.steps,
        things.car,
        things.rock,
        things.chair,
    ]
    taken: list = []
    free = (-w / 2 + 1, w / 2 - 1, -d / 2 + 1, d / 2 - 1)
    lamps = []
    for x, y in scatter(rng, int(rng.integers(4, 11)), free, taken, (0.5, 1.1)):
        build = builders[int(rng.integers(len(builders)))]
        solids = place(build(rng, pal), x, y, 0, rng.uniform(0, 2 * math.pi))
        lamps += [s.centre for s in solids if s.semantic == SEM["lamp"]]
        out += solids
    area = (-w / 2 + 0.5, w / 2 - 0.5, -d / 2 + 0.5, d / 2 - 0.5)
    return Stage(out, area, (0.3, rng.uniform(1.8, 6.0)), False, lamps or [(0, 0, 3.5)])


def street(rng: np.random.Generator, pal: Palette) -> Stage:
    """A street along x with houses, cars and people."""
    half, walk = rng.uniform(3.0, 4.5), rng.uniform(1.5, 3.5)
    flat = {"shell": True, "world_texture": True}
    grey = ((0.5, 0.7), (0, 0.1), (0.3, 0.55))
    asphalt = pal.material("road", grey, grey, (0.13, 0.05, 0.9))
    asphalt = type(asphalt)(asphalt.pattern, asphalt.colours, 1.0)
    out = [box(0, 0, -2, 400, 400, 2, asphalt, SEM["road"], casts=False, **flat)]
    paving = pal.paving()
    lamps = []
    for side in (-1, 1):
        y = side * (half + walk / 2)
        out.append(box(0, y, 0, 300, walk, 0.13, paving, SEM["floor"], casts=False, **flat))
        front, x = side * (half + walk), rng.uniform(-45, -35)
        while x < 45:
            wide, high, deep = rng.uniform(5, 14), rng.uniform(3.5, 14), rng.uniform(5, 10)
            if rng.random() < 0.85:
                set_back = rng.uniform(0, 1.5)
                yy = front + side * (deep / 2 + set_back)
                out.append(
                    box(x + wide / 2, yy, 0, wide - 0.1, deep, high, pal.facade(), SEM["building"])
                )
                roof = pal.paint()
                out.append(
                    box(x + wide / 2, yy, high, wide + 0.2, deep + 0.4, 0.25, roof, SEM["building"])
                )
                if abs(x) < 20:
                    out.append(
                        box(
                            x + rng.uniform(0.2, 0.8) * wide,
                            front + side * set_back,
                            0,
                            1.1,
                            0.12,
                            2.2,
                            pal.wood(),
                            SEM["opening"],
                        )
                    )
            else:
                for _ in range(3):
                    tx, ty = x + rng.uniform(0, wide), front + side * rng.uniform(1, 5)
                    out += place(things.tree(rng, pal), tx, ty, 0, 0)
            x += wide + (rng.uniform(1, 5) if rng.random() < 0.25 else 0)
        x = rng.uniform(-24, -16)
        while x < 22:
            if rng.random() < 0.6:
                yaw = (math.pi if side > 0 else 0) + rng.normal(0, 0.03)
                out += place(things.car(rng, pal), x, side * (half - 1.1), 0, yaw)
            x += rng.uniform(5.2, 9)
        kinds = [
            things.tree,
            things.lamp_post,
            things.person,
            things.person,
            things.bench,
            things.planter,
            things.boxes,
            things.bush,
        ]
        x = rng.uniform(-18, -14)
        while x < 18:
            build = kinds[int(rng.integers(len(kinds)))]
            yy = side * (half + rng.uniform(0.35, 0.8) * walk)
            solids = place(build(rng, pal), x, yy, 0.13, rng.uniform(0, 6.3))
            lamps += [s.centre for s in solids if s.semantic == SEM["lamp"]]
            out += solids
            x += rng.uniform(1.8, 6)
    for _ in range(int(rng.integers(0, 3))):
        out += place(
            things.car(rng, pal),
            rng.uniform(-20, 20),
            rng.uniform(-1, 1),
            0,
            math.pi * int(rng.integers(2)),
        )
    area = (-6, 6, -half - walk + 0.7, half + walk - 0.7)
    return Stage(out, area, (0.3, rng.uniform(1.8, 6.0)), False, lamps or [(0, half, 4.0)])


def waves(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, share: float) -> np.ndarray:
    """Rolling ground (g, g) in metres; share 1 is hilly."""
    heights = np.zeros(x.shape, np.float32)
    for wave, high in ((34, 2.6), (15, 1.1), (7, 0.45), (3, 0.13)):
        for _ in range(4):
            angle, phase = rng.uniform(0, 2 * math.pi, 2)
            k = 2 * math.pi / (wave * rng.uniform(0.7, 1.4))
            turn = np.float32(k * math.cos(angle)) * x + np.float32(k * math.sin(angle)) * y
            heights += np.float32(share * high / 2) * np.sin(turn + np.float32(phase))
    return heights


def soil(rng: np.random.Generator, pal: Palette) -> Material:
    """Grass, sand or earth."""
    grass = pal.grass()
    if rng.random() >= 0.4:
        return grass
    hue = ((0.06, 0.12), (0.15, 0.5), (0.4, 0.85))
    return pal.material("mottled speckle", hue, hue, period=(0.8, 2))


def axes(extent: float, g: int = 129) -> tuple[np.ndarray, np.ndarray]:
    """x and y (g, g) in metres of a square height field."""
    axis = np.linspace(-extent / 2, extent / 2, g, dtype=np.float32)
    return tuple(np.meshgrid(axis, axis))  # type: ignore[return-value]


def hut(pal: Palette, w: float, d: float, h: float) -> list[Solid]:
    """A wooden hut on a slope: it reaches below the ground it stands on."""
    return [
        box(0, 0, -2, w, d, h + 2, pal.wood("planks", period=(0.2, 0.3)), SEM["building"]),
        box(0, 0, h, w + 0.6, d + 0.6, 0.25, pal.paint(), SEM["building"]),
        box(0, -d / 2, 0, 0.9, 0.1, 2.0, pal.paint(), SEM["opening"]),
    ]


def terrain(rng: np.random.Generator, pal: Palette) -> Stage:
    """A gully or a hollow: steep ground close by, boulders, trees, a hut."""
    extent = 90.0
    x, y = axes(extent)
    heights = waves(rng, x, y, 1.0)
    # Slopes begin a few metres away, on both sides of a gully or all around a hollow: there is
    # something near in most directions, and no one layout that fits all pictures.
    if rng.random() < 0.65:
        angle = rng.uniform(0, 2 * math.pi)
        bend = rng.uniform(1, 4) * np.sin(x * np.float32(rng.uniform(0.05, 0.2)))
        away = np.abs(np.float32(math.cos(angle)) * x + np.float32(math.sin(angle)) * y + bend)
    else:
        away = np.sqrt((x / rng.uniform(0.8, 1.3)) ** 2 + (y / rng.uniform(0.8, 1.3)) ** 2)
    start, run, steep = rng.uniform(1.0, 4.0), rng.uniform(4, 9), rng.uniform(0.6, 1.2)
    rise = np.clip((away - start) / run, 0, 1.6) ** 1.3
    heights += (run * steep * rise).astype(np.float32)
    ground = HeightField(heights, extent, soil(rng, pal), SEM["grass"])
    out: list[Solid] = []
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
    taken = [(0.0, 0.0, 0.3)]
    for reach, n in ((6, int(rng.integers(6, 13))), (18, int(rng.integers(6, 14)))):
        for px, py in scatter(rng, n, (-reach, reach, -reach, reach), taken, (0.5, 1.3)):
            build = builders[int(rng.integers(len(builders)))]
            z = float(ground.height(np.array([px]), np.array([py]))[0])
            out += place(build(rng, pal), px, py, z - 0.05, rng.uniform(0, 2 * math.pi))
    if rng.random() < 0.5:
        angle, far = rng.uniform(0, 6.3), rng.uniform(6, 12)
        px, py = far * math.cos(angle), far * math.sin(angle)
        z = float(ground.height(np.array([px]), np.array([py]))[0])
        out += place(hut(pal, 4, 3, 2.4), px, py, z, rng.uniform(0, 6.3))
    return Stage(out, (-3, 3, -3, 3), (0.4, 3.0), False, [(0.0, 0.0, 4.0)], ground)
