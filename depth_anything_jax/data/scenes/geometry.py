"""Intersects rays with solids and height fields: the exact geometry of rendered scenes.

Every solid is convex and given in its own unit frame (box |x|, |y|, |z| <= 1; unit ball; cylinder
of radius 1 and |z| <= 1; cone with its apex at z = 1 and radius 1 at z = -1). A ray meets a convex
solid in one interval of its parameter, so all four share one tracer. Rays are kept as (3, n)
arrays: one row per coordinate is what makes numpy fast here.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

_TINY = np.float32(1e-9)
FAR = np.float32(1e9)
_RUN = 64  # rays that are culled together
_LARGE = 2.0  # metres; what is larger is traced first, and hides the rest


@dataclasses.dataclass
class Solid:
    """One convex solid. Lengths in metres, world z points up."""

    kind: str  # "box" | "ball" | "cylinder" | "cone"
    centre: tuple[float, float, float]
    half: tuple[float, float, float]  # half extents along the solid's own axes
    material: Any
    semantic: int
    yaw: float = 0.0
    tilt: float = 0.0  # rotation about the own y axis, before the yaw
    shell: bool = False  # part of the enclosure (walls, floor): lamps inside never pass it
    casts: bool = True  # casts shadows
    world_texture: bool = False  # texture laid out in world, not in own coordinates


@dataclasses.dataclass
class HeightField:
    """Ground z = h(x, y): bilinear on a regular grid centred on the origin, flat beyond it."""

    heights: np.ndarray  # (g, g) float32, metres; row = y, column = x
    extent: float  # metres from side to side
    material: Any
    semantic: int

    def height(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Heights (n,) in metres at world positions x, y (n,)."""
        g = self.heights.shape[0]
        scale, middle = np.float32((g - 1) / self.extent), np.float32((g - 1) / 2)
        top = np.float32(g - 1.001)
        gx = np.minimum(np.maximum(x * scale + middle, 0), top)
        gy = np.minimum(np.maximum(y * scale + middle, 0), top)
        ix, iy = gx.astype(np.int32), gy.astype(np.int32)
        fx, fy = gx - ix, gy - iy
        flat, k = self.heights.reshape(-1), iy * g + ix
        h00, h01, h10, h11 = (flat.take(k + step) for step in (0, 1, g, g + 1))
        low = h00 + fx * (h01 - h00)
        return low + fy * (h10 + fx * (h11 - h10) - low)

    def normal(self, x: np.ndarray, y: np.ndarray, step: float = 0.3) -> np.ndarray:
        """Unit normals (3, n), from central differences over ``step`` metres."""
        dx = self.height(x - step, y) - self.height(x + step, y)
        dy = self.height(x, y - step) - self.height(x, y + step)
        normal = np.stack([dx, dy, np.full_like(dx, 2 * step)])
        return normal / np.sqrt((normal * normal).sum(0))

    def trace(self, origin: np.ndarray, rays: np.ndarray, reach: float = 120.0) -> np.ndarray:
        """First crossing (n,) of ``origin + t rays`` from above; FAR where there is none."""
        out = np.full(rays.shape[1], FAR, np.float32)
        before = out.copy()
        length = np.sqrt((rays * rays).sum(0))
        # nothing can happen above the highest ground: start where the ray comes down to it
        top = np.float32(self.heights.max() + 0.01)
        drop = np.minimum(rays[2], -_TINY)
        start = np.maximum((top - origin[2]) / drop, 0) if origin[2] > top else 0 * drop
        idx = np.flatnonzero((start < reach) & ((rays[2] < 0) | (origin[2] <= top)))
        ray, low = rays[:, idx], start[idx]
        gap = np.zeros_like(low)
        while idx.size:
            # a step grows with the distance, as the footprint of a pixel does, and with the gap
            # below the ray: 0.4 of it is safe on slopes up to 2
            high = low + np.maximum(0.05 + 0.03 * low, 0.4 * gap) / length[idx]
            gap = origin[2] + high * ray[2]
            gone = gap > top
            gap = gap - self.height(origin[0] + high * ray[0], origin[1] + high * ray[1])
            under = gap < 0
            hit = idx[under]
            out[hit], before[hit] = high[under], low[under]
            go = np.flatnonzero(~under & (high < reach) & ~(gone & (ray[2] > 0)))
            idx, low, gap, ray = idx[go], high[go], gap[go], ray[:, go]
        hit = np.flatnonzero(out < FAR)
        out[hit] = self._refine(origin, rays[:, hit], before[hit], out[hit])
        return out

    def _refine(
        self, origin: np.ndarray, rays: np.ndarray, low: np.ndarray, high: np.ndarray
    ) -> np.ndarray:
        for _ in range(12):
            mid = 0.5 * (low + high)
            x, y, z = (origin[k] + mid * rays[k] for k in range(3))
            under = z < self.height(x, y)
            high, low = np.where(under, mid, high), np.where(under, low, mid)
        return 0.5 * (low + high)


def _slab(o: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    inverse = 1.0 / np.where(np.abs(d) < _TINY, _TINY, d)
    middle, half = -o * inverse, np.abs(inverse)
    return middle - half, middle + half


def _box(o: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    near, far = _slab(o, d)
    return (
        np.maximum(np.maximum(near[0], near[1]), near[2]),
        np.minimum(np.minimum(far[0], far[1]), far[2]),
    )


def _round(o: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # from the closest approach q to the axis (or centre): no cancellation for distant solids
    a = (d * d).sum(0) + _TINY
    middle = -(o * d).sum(0) / a
    q = o + middle * d
    left = 1.0 - (q * q).sum(0)
    half = np.sqrt(np.maximum(left, 0) / a)
    miss = left < 0
    return np.where(miss, FAR, middle - half), np.where(miss, -FAR, middle + half)


def _cylinder(o: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    near, far = _round(o[:2], d[:2])
    low, high = _slab(o[2], d[2])
    return np.maximum(near, low), np.minimum(far, high)


def _cone(o: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # inside: x² + y² < w², with w = (1 - z) / 2 the radius at that height
    w, dw = 0.5 * (1.0 - o[2]), -0.5 * d[2]
    a = d[0] * d[0] + d[1] * d[1] - dw * dw
    a = np.where(np.abs(a) < _TINY, _TINY, a)
    b = o[0] * d[0] + o[1] * d[1] - w * dw
    c = o[0] * o[0] + o[1] * o[1] - w * w
    root = np.sqrt(np.maximum(b * b - a * c, 0)) / np.abs(a)
    first, second = -b / a - root, -b / a + root
    # a steep ray (a < 0) is inside *outside* the roots, on the side where it has come down
    miss = (a > 0) & (b * b < a * c)
    near = np.where(a > 0, first, np.where(dw > 0, second, -FAR))
    far = np.where(a > 0, second, np.where(dw > 0, FAR, first))
    low, high = _slab(o[2], d[2])
    return np.where(miss, FAR, np.maximum(near, low)), np.minimum(far, high)


_INTERVAL = {"box": _box, "ball": _round, "cylinder": _cylinder, "cone": _cone}


def _runs(x: np.ndarray) -> np.ndarray:
    """(c, n) as runs of neighbours (c, m, 64), the last one filled with its last column."""
    m = -(-x.shape[1] // _RUN)
    fill = m * _RUN - x.shape[1]
    if fill:
        x = np.concatenate([x, np.repeat(x[:, -1:], fill, axis=1)], axis=1)
    return x.reshape(len(x), m, _RUN)


def _cone_meets_balls(rays, to, radius, *, tips: bool = False):
    """Bounds which runs of rays may hit which balls: (balls, runs) bool; a hit is never missed.

    rays (3, n) from a common origin; ``to`` (k, 3) leads from there to the balls' centres. With
    ``tips`` a ray ends at its own tip. Also gives the rays' lengths (n,).
    """
    runs = _runs(rays)
    norm = np.sqrt((runs * runs).sum(0)) + _TINY
    unit = runs / norm
    axis = unit.mean(2)
    axis /= np.sqrt((axis * axis).sum(0)) + _TINY
    spread = np.arccos(np.clip((unit * axis[:, :, None]).sum(0).min(1), -1, 1))
    distance = np.sqrt((to * to).sum(1)) + _TINY
    size = np.where(distance > radius, np.arcsin(np.minimum(radius / distance, 1)), np.pi)
    angle = np.arccos(np.clip((to / distance[:, None]) @ axis, -1, 1))
    near = angle <= size[:, None] + spread + 2e-3
    if tips:
        near &= norm.max(1) > (distance - radius)[:, None]
    return near, norm.reshape(-1)[: rays.shape[1]]


def _members(near: np.ndarray, n: int):
    """Pairs (row, indices of the elements in its runs; None = all n of them)."""
    steps = np.arange(_RUN)
    for row, count in enumerate(near.sum(1)):
        if count > 0.8 * near.shape[1]:
            yield row, None
        elif count:
            idx = (np.flatnonzero(near[row])[:, None] * _RUN + steps).reshape(-1)
            yield row, (idx[idx < n] if near[row, -1] else idx)


class Pack:
    """The solids of a scene as arrays, ready to be traced.

    Args:
      solids: the solids; ids below are positions in this list.
      ground: an optional height field, with the id ``len(solids)``.
    """

    def __init__(self, solids: list[Solid], ground: HeightField | None = None):
        self.solids, self.ground = solids, ground
        self.centre = np.array([s.centre for s in solids], np.float32).reshape(-1, 3)
        self.half = np.array([s.half for s in solids], np.float32).reshape(-1, 3)
        yaw = np.array([s.yaw for s in solids], np.float32)
        tilt = np.array([s.tilt for s in solids], np.float32)
        cy, sy, ct, st = np.cos(yaw), np.sin(yaw), np.cos(tilt), np.sin(tilt)
        zero = np.zeros_like(cy)
        # columns of the rotation: the solid's own axes in the world
        self.rotation = np.stack(
            [cy * ct, -sy, cy * st, sy * ct, cy, sy * st, -st, zero, ct], axis=1
        ).reshape(-1, 3, 3)
        self.to_unit = self.rotation.transpose(0, 2, 1) / self.half[:, :, None]
        reach = {"box": lambda h: np.sqrt((h * h).sum()), "ball": lambda h: h.max()}
        other = lambda h: np.sqrt(max(h[0], h[1]) ** 2 + h[2] ** 2)  # noqa: E731
        self.radius = np.array(
            [reach.get(s.kind, other)(h) for s, h in zip(solids, self.half, strict=True)],
            np.float32,
        )

    def trace(self, origin: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First hit of each ray ``origin + t rays``.

        Args:
          origin: (3,) float32, metres, outside every solid.
          rays: (3, n) float32, any length; t is in units of that length. Neighbours in the array
            should be neighbours in the picture: culling works on runs of them.

        Returns:
          t (n,) float32, FAR for a miss, and the solid's id (n,) int32, -1 for a miss.
        """
        n = rays.shape[1]
        t, ids = np.full(n, FAR, np.float32), np.full(n, -1, np.int32)
        if self.ground is not None:
            t = self.ground.trace(origin, rays)
            ids[t < FAR] = len(self.solids)
        if not self.solids or not n:
            return t, ids
        to = self.centre - origin
        near, length = _cone_meets_balls(rays, to, self.radius)
        closest = np.sqrt((to * to).sum(1)) - self.radius
        large = np.flatnonzero(self.radius > _LARGE)
        small = np.flatnonzero(self.radius <= _LARGE)
        self._trace_some(large, near[large], to, rays, t, ids)
        # what walls and houses hide from a whole run of rays needs no test
        reach = _runs((t * length)[None]).max((0, 2))
        hidden = closest[small, None] > reach
        self._trace_some(small, near[small] & ~hidden, to, rays, t, ids)
        return t, ids

    def _trace_some(self, solids, near, to, rays, t, ids) -> None:
        """Lets some of the solids stop rays (3, n): updates t and ids (n,) in place."""
        for row, idx in _members(near, rays.shape[1]):
            k = int(solids[row])
            o = (self.to_unit[k] @ to[k] * -1)[:, None]
            d = self.to_unit[k] @ (rays if idx is None else rays[:, idx])
            first, last = _INTERVAL[self.solids[k].kind](o, d)
            hit = (first <= last) & (first > 1e-4) & (first < (t if idx is None else t[idx]))
            won = np.flatnonzero(hit) if idx is None else idx[hit]
            t[won], ids[won] = first[hit], k

    def occluded(
        self, points: np.ndarray, light: np.ndarray, *, directional: bool, through_shell: bool
    ) -> np.ndarray:
        """Whether each point is cut off from a light.

        Args:
          points: (3, n) float32, a little above their surfaces.
          light: (3,) the unit direction *to* the light, or its position.
          directional: which of the two ``light`` is.
          through_shell: ignore the enclosure (for a lamp inside it).

        Returns: (n,) bool.
        """
        n = points.shape[1]
        dark = np.zeros(n, bool)
        use = [
            int(k)
            for k in np.argsort(-self.radius)
            if self.solids[k].casts and not (through_shell and self.solids[k].shell)
        ]
        if not use or not n:
            return dark
        light = light.astype(np.float32)
        if directional:
            near = self._columns_meet(points, light, use)
        else:
            near, _ = _cone_meets_balls(
                points - light[:, None], self.centre[use] - light, self.radius[use], tips=True
            )
        gone = 0  # points that are dark already need no further test
        for row, idx in _members(near, n):
            k = use[row]
            if gone > 0.3 * n:
                idx = np.flatnonzero(~dark) if idx is None else idx[~dark[idx]]
            p = points if idx is None else points[:, idx]
            o = self.to_unit[k] @ (p - self.centre[k][:, None])
            if directional:
                d, limit = (self.to_unit[k] @ light)[:, None], FAR
            else:
                d, limit = self.to_unit[k] @ (light[:, None] - p), np.float32(1)
            first, last = _INTERVAL[self.solids[k].kind](o, d)
            cut = (first <= last) & (last > 1e-4) & (first < limit)
            if idx is None:
                dark |= cut
            else:
                dark[idx[cut]] = True
            gone += int(np.count_nonzero(cut))
        return dark

    def _columns_meet(self, points, light, use):
        """Which runs of points have a solid's ball on their way along ``light``: (solids, runs)."""
        axis = np.eye(3, dtype=np.float32)[int(np.argmin(np.abs(light)))]
        u = np.cross(light, axis)
        u /= np.sqrt((u * u).sum())
        frame = np.stack([u, np.cross(light, u), light]).astype(np.float32)
        flat, own = _runs(frame @ points), frame @ self.centre[use].T
        low, high, radius = flat.min(2), flat.max(2), self.radius[use][:, None]
        near = own[2][:, None] + radius > low[2]
        for c in (0, 1):
            near &= (own[c][:, None] + radius > low[c]) & (own[c][:, None] - radius < high[c])
        return near

    def surface(self, k: int, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Normals (3, n), own metric coordinates (3, n), and own normals (3, n) of solid k."""
        if k == len(self.solids):
            assert self.ground is not None
            normal = self.ground.normal(points[0], points[1])
            return normal, points, np.array([0, 0, 1], np.float32)[:, None] + 0 * points
        solid, half = self.solids[k], self.half[k][:, None]
        local = self.rotation[k].T @ (points - self.centre[k][:, None])
        unit = local / half
        own = np.zeros_like(unit)
        if solid.kind == "box":
            axis = np.abs(unit).argmax(0)
            cols = np.arange(unit.shape[1])
            own[axis, cols] = np.sign(unit[axis, cols])
        elif solid.kind == "ball":
            own = unit / half
        else:
            if solid.kind == "cylinder":
                side = (unit[0] ** 2 + unit[1] ** 2) >= np.abs(unit[2]) ** 2
                own[:2] = np.where(side, unit[:2] / half[:2], 0)
            else:
                side = unit[2] > -0.999
                radius = np.maximum(0.5 * (1 - unit[2]), 1e-4)
                own[:2] = np.where(side, unit[:2] / half[:2] / radius, 0)
            slope = 0.5 / half[2] if solid.kind == "cone" else 0.0
            own[2] = np.where(side, slope, np.sign(unit[2]))
        own /= np.sqrt((own * own).sum(0)) + _TINY
        return self.rotation[k] @ own, (points if solid.world_texture else local), own
