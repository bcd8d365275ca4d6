"""Draws the README's image: rendered scenes, their depth, and their points seen from the side.

    python tools/picture_of_use.py docs/images/use.jpg [--checkpoint SOURCE] [--scenes 2,4]

The scenes are from domain B (data/scenes/source.py), on which no model was trained. Points are in
metres by `Depth.align_to` from sixteen known distances of the scene, as if measured by tape.
"""

import argparse
import math

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from depth_anything_jax import DepthAnything
from depth_anything_jax.data.scenes.source import SceneSource
from depth_anything_jax.inference import point_cloud
from depth_anything_jax.inference.model import DEFAULT

SIZE, SEED, PANEL, GAP = 518, 7, 320, 8
YAW, PITCH = math.radians(20), math.radians(-12)  # of the viewer, to the right and from above
KNOWN = 16


def known_distances(record: dict) -> Float[np.ndarray, "n 3"]:
    """Picks random pixels nearer than 40 m; returns their x, y and metres."""
    rows, columns = np.nonzero(record["valid"] & (record["depth"] < 40))
    chosen = np.random.default_rng(0).choice(len(rows), KNOWN, replace=False)
    rows, columns = rows[chosen], columns[chosen]
    return np.stack([columns, rows, record["depth"][rows, columns]], axis=1)


def from_the_side(points: point_cloud.PointCloud) -> UInt8[np.ndarray, "p p 3"]:
    """Draws the points from a viewpoint to the side, looking at their centre."""
    assert points.colours is not None  # of `Depth.image`
    pivot = np.median(points.points, axis=0)
    cy, sy, cp, sp = math.cos(YAW), math.sin(YAW), math.cos(PITCH), math.sin(PITCH)
    turn = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    nod = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    x, y, z = ((points.points - pivot) @ (nod @ turn).T).T
    z = z + 1.5 * pivot[2]
    order = np.argsort(-z)  # near points are drawn last
    order = order[z[order] > 0.2 * pivot[2]]
    seen = np.stack([x[order], y[order]]) / z[order]
    low, high = np.percentile(seen, (1, 99), axis=1)
    scale = 0.94 * PANEL / (high - low).max()
    column, row = np.round(scale * (seen - (low + high)[:, None] / 2) + PANEL / 2).astype(int)
    out = np.full((PANEL, PANEL, 3), 255, np.uint8)
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        r, c = row + down, column + right
        inside = (r >= 0) & (r < PANEL) & (c >= 0) & (c < PANEL)
        out[r[inside], c[inside]] = points.colours[order][inside]
    return out


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out")
    parser.add_argument("--checkpoint", default=DEFAULT)
    parser.add_argument("--scenes", default="3,4", help="their numbers")
    parser.add_argument("--allow-missing", "--allow_missing", metavar="REGEX")
    parser.add_argument("--fill", default="init", choices=("init", "zeros"))
    args = parser.parse_args(arguments)
    numbers = [int(n) for n in args.scenes.split(",")]
    source = SceneSource("B", max(numbers) + 1, SEED, SIZE)
    model = DepthAnything.from_pretrained(
        args.checkpoint, allow_missing=args.allow_missing, fill=args.fill
    )
    rows = []
    for number in numbers:
        record = source[number]
        depth = model(record["image"], intrinsics=record["camera"])
        metric = depth.align_to(known_distances(record), robust=True)
        print(f"scene {number}: {metric.meta['alignment']}")
        points = from_the_side(metric.to_point_cloud(far=40))
        panels = [Image.fromarray(record["image"]), depth.to_pil(), Image.fromarray(points)]
        panels = [np.asarray(p.resize((PANEL, PANEL), Image.Resampling.LANCZOS)) for p in panels]
        white = np.full((PANEL, GAP, 3), 255, np.uint8)
        rows.append(np.concatenate([panels[0], white, panels[1], white, panels[2]], axis=1))
        rows.append(np.full((GAP, rows[0].shape[1], 3), 255, np.uint8))
    Image.fromarray(np.concatenate(rows[:-1])).save(args.out, quality=88)


if __name__ == "__main__":
    main()
