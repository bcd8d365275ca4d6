"""Renders a stage as a picture with its exact depth."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np

from depth_anything_jax.data.camera import camera as pinhole
from depth_anything_jax.data.scenes.appearance import DOMAINS, LOOKS, Look
from depth_anything_jax.data.scenes.geometry import FAR, Pack
from depth_anything_jax.data.scenes.layouts import Stage, room
from depth_anything_jax.data.scenes.materials import SEM, SEMANTICS, Palette
from depth_anything_jax.data.scenes.outdoors import courtyard, street, terrain
from depth_anything_jax.data.scenes.textures import albedo, noise
from depth_anything_jax.data.scenes.village import hamlet, storehouse

__all__ = ["DOMAINS", "LAYOUTS", "SEMANTICS", "render"]
LAYOUTS = {f.__name__: f for f in (room, courtyard, street, terrain, hamlet, storehouse)}


@dataclasses.dataclass
class Camera:
    """A pinhole camera. ``rays(x, y)`` have unit depth: the ray parameter is the depth."""

    origin: np.ndarray  # (3,) float32 metres
    right: np.ndarray
    up: np.ndarray
    forward: np.ndarray
    focal: float  # in units of the image's width

    def rays(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Rays (3, n) through image positions x, y (n,), each from -.5 to .5, y downwards."""
        out = self.forward[:, None] + self.right[:, None] * (x / np.float32(self.focal))
        return out - self.up[:, None] * (y / np.float32(self.focal))


def _draw_camera(rng: np.random.Generator, stage: Stage) -> Camera:
    x, y = rng.uniform(*stage.area[:2]), rng.uniform(*stage.area[2:])
    z = rng.uniform(*stage.heights)
    if stage.ground is not None:
        z += float(stage.ground.height(np.array([x]), np.array([y]))[0])
    yaw, roll = rng.uniform(0, 2 * math.pi), rng.normal(0, 0.1)
    pitch = float(np.clip(rng.normal(-0.1, 0.33), -0.8, 0.6))
    c, s, cp, sp = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)
    forward, right = np.array([cp * c, cp * s, sp]), np.array([s, -c, 0.0])
    up = np.array([-c * sp, -s * sp, cp])
    cr, sr = math.cos(roll), math.sin(roll)
    focal = 0.5 / math.tan(math.radians(rng.uniform(60, 95)) / 2)
    vectors = [np.array([x, y, z]), cr * right + sr * up, cr * up - sr * right, forward]
    place, right, up, forward = (v.astype(np.float32) for v in vectors)
    return Camera(place, right, up, forward, focal)


@functools.lru_cache(maxsize=4)
def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    axis = ((np.arange(size, dtype=np.float32) + 0.5) / size - 0.5).astype(np.float32)
    x, y = np.meshgrid(axis, axis)
    return x.reshape(-1), y.reshape(-1)


def _place_camera(rng: np.random.Generator, stage: Stage, pack: Pack) -> Camera:
    """Draws cameras until one is outside every solid and sees something at a fair distance."""
    x, y = _grid(10)
    most = 0.9 if stage.ground is not None else 0.6
    for _ in range(30):
        camera = _draw_camera(rng, stage)
        own = np.einsum("kij,kj->ki", pack.to_unit, camera.origin - pack.centre)
        if (np.abs(own).max(1, initial=0) < 1.1).any():
            continue
        t, ids = pack.trace(camera.origin, camera.rays(x, y))
        seen = t < FAR
        counts = np.bincount(ids[seen], minlength=1)
        # at least four surfaces, none of them the whole picture
        if seen.mean() < 0.5 or (counts > 0).sum() < 4 or np.max(counts) > most * x.size:
            continue
        near, middle, far = np.quantile(t[seen], [0.02, 0.5, 0.9])
        if near > 0.6 and middle > 1.2 and far > 2 * near:
            return camera
    return camera


def _sky(look: Look, rays: np.ndarray) -> np.ndarray:
    unit = rays / np.sqrt((rays * rays).sum(0))
    rise = np.clip(unit[2], 0, 1)
    blend = np.sqrt(rise)
    out = look.horizon[:, None] + (look.zenith - look.horizon)[:, None] * blend
    if look.cloud > 0:
        over = 1.0 / (rise + 0.12)
        m = noise("cloud", unit[0] * over, unit[1] * over, 8.0)
        m = np.clip((m - 1 + look.cloud) * 3, 0, 1) * np.clip(rise * 6, 0, 1)
        out += (np.float32(0.95) * look.horizon.max() - out) * m * 0.8
    near = np.maximum(look.sun @ unit, 0)
    return out + look.sun_light[:, None] * (near**200 * 0.5 + near**12 * 0.12)


def _shade(stage, pack, look, camera, rays, pixel):
    """Linear RGB (3, n), depth t (n,) and ids (n,) along rays (3, n)."""
    t, ids = pack.trace(camera.origin, rays)
    rgb = np.empty_like(rays)
    miss = ids < 0
    rgb[:, miss] = _sky(look, rays[:, miss])
    hit = np.flatnonzero(~miss)
    hit = hit[np.argsort(ids[hit], kind="stable")]
    if not hit.size:
        return rgb, t, ids
    near, view = t[hit], rays[:, hit]
    points = camera.origin[:, None] + near * view
    length = np.sqrt((view * view).sum(0))
    normals, base = np.empty_like(points), np.empty_like(points)
    glow, gloss = np.zeros_like(near), np.zeros_like(near)
    which = ids[hit]
    starts = np.flatnonzero(np.diff(which, prepend=-2))
    for a, b in zip(starts, [*starts[1:], len(which)], strict=True):
        k, part = int(which[a]), slice(a, b)
        source = pack.ground if k == len(pack.solids) else pack.solids[k]
        normal, own, own_normal = pack.surface(k, points[:, part])
        facing = np.abs((normal * view[:, part]).sum(0)) / length[part]
        footprint = near[part] * np.float32(pixel) / np.maximum(facing, 0.15)
        base[:, part], glow[part] = albedo(source.material, own, own_normal, footprint)
        normals[:, part] = normal
        gloss[part] = source.material.gloss
    normals *= np.where((normals * view).sum(0) > 0, -1, 1)
    out = base * _light(stage, pack, look, points, normals, view / length, gloss)
    out += base * glow * np.float32(0.3 + 2.5 * look.window_light)
    if look.fog > 0:
        # never so thick that nothing is left to see: a third of the light at the median distance
        away = near * length
        thick = np.float32(min(look.fog, 1.0 / float(np.median(away))))
        clear = np.exp(-thick * away)
        out = look.fog_colour[:, None] + (out - look.fog_colour[:, None]) * clear
    rgb[:, hit] = out
    return rgb, t, ids


def _light(stage, pack, look, points, normals, view, gloss):
    """Light (3, n) that reaches points with these normals."""
    above = points + 3e-3 * normals + 1e-3 * np.array([0, 0, 1], np.float32)[:, None]
    up = 0.5 + 0.5 * normals[2]
    sky = 0.5 * (look.zenith + look.horizon)
    inside = 0.55 if stage.indoor else 1.0
    facing = 0.15 * np.abs((normals * view).sum(0))
    ambient = np.float32(look.ambient * inside) * (0.45 + 0.55 * up + facing)
    if not stage.indoor:
        # one vertical ray stands for the sky: dark under cars, benches and trees
        high = np.flatnonzero(normals[2] > -0.2)
        shut = pack.occluded(
            above[:, high], np.array([0.03, 0.02, 0.999], np.float32),
            directional=True, through_shell=False,
        )  # fmt: skip
        ambient[high[shut]] *= 0.62
    out = sky[:, None] * ambient
    cosine = look.sun @ normals
    if look.sun_light.max() > 0:
        lit = np.flatnonzero(cosine > 0)
        shut = pack.occluded(above[:, lit], look.sun, directional=True, through_shell=False)
        lit = lit[~shut]
        half = look.sun[:, None] - view[:, lit]
        half /= np.sqrt((half * half).sum(0))
        shine = gloss[lit] * np.maximum((half * normals[:, lit]).sum(0), 0) ** 40
        out[:, lit] += look.sun_light[:, None] * (cosine[lit] + shine)
    if stage.indoor or look.window_light > 0:
        for lamp in stage.lamps[:2]:
            place = np.array(lamp, np.float32)
            to = place[:, None] - points
            square = (to * to).sum(0)
            cosine = (to * normals).sum(0) / np.sqrt(square)
            lit = np.flatnonzero((cosine > 0) & (square < 400))
            shut = pack.occluded(above[:, lit], place, directional=False, through_shell=True)
            fall = cosine[lit] / (0.6 + 0.22 * square[lit])
            fall *= np.where(shut, 0.12, 1.0) * (1.4 if stage.indoor else 2.2)
            out[:, lit] += look.lamp_light[:, None] * fall
    return out


@functools.lru_cache(maxsize=4)
def _tiled(size: int, tile: int = 8) -> np.ndarray:
    """Order of the pixels of a picture in which tiles of 8 x 8 follow one another."""
    row, column = np.divmod(np.arange(size * size), size)
    return np.lexsort((column, row, column // tile, row // tile))


def _smooth_edges(rgb, ids, pack, camera, size: int) -> None:
    """Anti-aliases rgb (3, size²) where surfaces meet, in place.

    Three more rays a pixel find out which surfaces share it; each takes its colour from the pixel
    itself or from a neighbour on the same surface.
    """
    square = ids.reshape(size, size)
    mark = np.zeros(square.shape, bool)
    across, down = square[:, 1:] != square[:, :-1], square[1:] != square[:-1]
    mark[:, 1:] |= across
    mark[:, :-1] |= across
    mark[1:] |= down
    mark[:-1] |= down
    row, column = np.nonzero(mark)
    edge = row * size + column
    if not edge.size:
        return
    x, y = _grid(size)
    total = rgb[:, edge].copy()
    for dx, dy in ((0.38, 0.16), (-0.05, -0.4), (-0.33, 0.24)):
        rays = camera.rays(x[edge] + np.float32(dx / size), y[edge] + np.float32(dy / size))
        seen = pack.trace(camera.origin, rays)[1]
        source = edge.copy()
        near = [(0, np.sign(dx)), (np.sign(dy), 0), (np.sign(dy), np.sign(dx))]
        for step_row, step_column in near[::-1]:
            r = np.clip(row + int(step_row), 0, size - 1)
            c = np.clip(column + int(step_column), 0, size - 1)
            other = r * size + c
            source = np.where(ids[other] == seen, other, source)
        source = np.where(ids[edge] == seen, edge, source)
        total += rgb[:, source]
    rgb[:, edge] = total / 4


def _develop(rng: np.random.Generator, look: Look, rgb: np.ndarray) -> np.ndarray:
    """Linear (3, h, w) to uint8 (h, w, 3): exposure, lens and sensor."""
    size = rgb.shape[1]
    grey = rgb.mean(0)
    # the geometric mean is what an eye calls the brightness; a bright sky does not blacken a yard
    level = np.exp(np.log(np.clip(grey, 1e-3, 4.0)).mean())
    out = rgb * (look.target**2.2 / level)
    out = out / (1 + 0.35 * out)  # a soft shoulder
    if look.blur > 0:
        out = _blur(out, look.blur * size / 112)
    if look.vignette > 0:
        axis = np.linspace(-1, 1, size, dtype=np.float32)
        out = out * (1 - look.vignette * 0.5 * (axis[:, None] ** 2 + axis**2))
    out = np.clip(out * look.cast.astype(np.float32)[:, None, None], 0, None) ** (1 / 2.2)
    out = out.mean(0) + (out - out.mean(0)) * np.float32(look.saturation)
    out = (out - look.target) * np.float32(look.contrast) + look.target
    grain = rng.standard_normal(out.shape, np.float32)
    out = out + grain * np.float32(look.noise)
    return (np.clip(out, 0, 1) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0)


def _blur(x: np.ndarray, sigma: float) -> np.ndarray:
    reach = max(1, math.ceil(2.5 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(sigma, 0.05)) ** 2)
    kernel = (kernel / kernel.sum()).astype(np.float32)
    for axis in (1, 2):
        pad = [(0, 0)] * 3
        pad[axis] = (reach, reach)
        wide = np.pad(x, pad, mode="edge")
        n = x.shape[axis]
        x = sum(w * wide.take(range(k, k + n), axis) for k, w in enumerate(kernel))
    return x


def render(
    domain: str, seed: int, index: int, size: int, fov: float | None = None
) -> dict[str, np.ndarray]:
    """One picture of a domain, the same for the same arguments.

    Args:
      domain: a key of ``DOMAINS``.
      seed: chooses the set of pictures.
      index: position in that set.
      size: pixels from side to side.
      fov: degrees from side to side, seen from the same place in the same direction; None: the
        picture's own.

    Returns:
      image uint8 (size, size, 3); depth float32 (size, size), metres along the optical axis, 0 in
      the sky; sky bool (size, size); semantic uint8 (size, size), see ``SEMANTICS``;
      camera, see `data.camera.Camera`.

    Raises:
      ValueError: for an unknown domain.
    """
    if domain not in DOMAINS:
        raise ValueError(f"unknown scene domain {domain!r}; there are {', '.join(DOMAINS)}")
    spec = DOMAINS[domain]
    rng = np.random.default_rng([spec.salt, seed, index])
    shares = np.array([share for _, share in spec.layouts])
    name = spec.layouts[int(rng.choice(len(shares), p=shares / shares.sum()))][0]
    stage = LAYOUTS[name](rng, Palette(rng, spec.tone))
    look = LOOKS[spec.look](rng)
    pack = Pack(stage.solids, stage.ground)
    camera = _place_camera(rng, stage, pack)
    if fov is not None:
        camera = dataclasses.replace(camera, focal=0.5 / math.tan(math.radians(fov) / 2))
    order = _tiled(size)
    back = np.argsort(order)
    x, y = (v[order] for v in _grid(size))
    rgb, t, ids = _shade(stage, pack, look, camera, camera.rays(x, y), 1.0 / (size * camera.focal))
    rgb, t, ids = rgb[:, back], t[back], ids[back]
    _smooth_edges(rgb, ids, pack, camera, size)
    sky = ids < 0
    semantic = np.array([s.semantic for s in stage.solids] + [0, 0], np.uint8)
    semantic[len(stage.solids)] = stage.ground.semantic if stage.ground else SEM["sky"]
    shape = (size, size)
    return {
        "image": _develop(rng, look, rgb.reshape(3, *shape)),
        "camera": pinhole(size * camera.focal, None, None, None, size, size),
        "depth": np.where(sky, 0, t).astype(np.float32).reshape(shape),
        "sky": sky.reshape(shape),
        "semantic": semantic[ids].reshape(shape),
    }
