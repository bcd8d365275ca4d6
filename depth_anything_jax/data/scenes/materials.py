"""Draws palettes of materials; names the semantic classes of objects."""

from __future__ import annotations

import numpy as np

from depth_anything_jax.data.scenes.textures import Material, colour

# Meaning of the semantic map. Used to pre-train the demo's encoder, never by the trainer.
SEMANTICS = (
    "sky floor ceiling wall opening road grass building plant trunk seat table storage decor "
    "lamp vehicle person prop rock fence"
).split()
SEM = {name: k for k, name in enumerate(SEMANTICS)}


class Palette:
    """Draws the materials of one scene, so that its things match and domains differ.

    Args:
      rng: the scene's generator.
      tone: "bright" (clean, light, mild colours), "deep" (dark, saturated), or "any".
    """

    def __init__(self, rng: np.random.Generator, tone: str):
        self.rng, self.tone = rng, tone
        self.hue = float(rng.random())
        if tone == "any":
            tone = "bright" if rng.random() < 0.5 else "deep"
        self.value = (0.55, 0.97) if tone == "bright" else (0.25, 0.8)
        self.saturation = (0.02, 0.4) if tone == "bright" else (0.1, 0.75)

    def _shift(self) -> tuple[float, float]:
        return (float(self.rng.uniform(0, 9)), float(self.rng.uniform(0, 9)))

    def material(self, patterns: str, first, second, third=None, *, period=(0.5, 1.5), **more):
        """A material with one of the named patterns and HSV ranges for its colours."""
        rng = self.rng
        names = patterns.split()
        colours = [colour(rng, *c) for c in (first, second, third) if c is not None]
        return Material(
            names[int(rng.integers(len(names)))],
            tuple(colours),
            float(rng.uniform(*period)),
            shift=self._shift(),
            **more,
        )

    def _near(self, spread: float):
        return (self.hue - spread, self.hue + spread)

    def wall(self):
        """Paint, wallpaper, brick, tiles or panels."""
        s, (low, high) = self.saturation, self.value
        hue = self._near(0.12)
        kind = self.rng.random()
        first, second = (hue, s, (low, high)), (hue, s, (0.8 * low, high))
        if kind < 0.55:
            return self.material("plain mottled", first, second, contrast=0.5, period=(1, 3))
        if kind < 0.75:
            return self.material("stripes dots", first, second, period=(0.15, 0.5), contrast=0.5)
        mortar = (hue, (0, 0.1), (0.4, 0.8))
        return self.material("bricks tiles panels", first, second, mortar, period=(0.3, 0.9))

    def floor(self):
        """Planks, tiles or carpet."""
        rng = self.rng
        if rng.random() < 0.5:
            return self.wood("planks", period=(0.12, 0.25))
        first = ((0, 1), (0.03, 0.4), self.value)
        second = ((0, 1), (0.03, 0.4), self.value)
        third = ((0, 1), (0, 0.2), (0.2, 0.8))
        return self.material("tiles checker speckle mottled", first, second, third, period=(0.3, 1))

    def wood(self, pattern="grain", period=(0.5, 1.0)):
        """Wood: a grain, or another pattern in its colours."""
        low, high = self.value
        hue = (0.04, 0.11)
        dark = (hue, (0.4, 0.75), (0.5 * low, 0.8 * high))
        light = (hue, (0.3, 0.6), (0.7 * low, high))
        return self.material(pattern, dark, light, (hue, 0.5, 0.1), period=period)

    def fabric(self):
        """Cloth of any colour, plain or patterned."""
        first = ((0, 1), (0.1, 0.85), self.value)
        second = ((0, 1), (0.1, 0.85), self.value)
        return self.material(
            "mottled stripes dots speckle checker plain", first, second, period=(0.15, 0.6)
        )

    def paint(self):
        """Plain glossy paint of any colour."""
        first = ((0, 1), (0.1, 0.95), self.value)
        return self.material("plain", first, first, contrast=0.15, gloss=0.5)

    def metal(self):
        """Grey metal."""
        first = ((0.5, 0.7), (0, 0.15), (0.2, 0.8))
        return self.material("plain", first, first, contrast=0.3, gloss=0.7)

    def dark(self):
        """Nearly black: glass, tyres."""
        return self.material("plain", ((0, 1), (0, 0.2), (0.08, 0.25)), ((0, 1), 0.1, 0.2))

    def stone(self):
        """Natural stone."""
        hue = ((0.05, 0.15), (0.02, 0.25), (0.35, 0.8))
        return self.material("mottled speckle", hue, hue, period=(0.5, 2))

    def paving(self):
        """Slabs, bricks or gravel."""
        hue = ((0.03, 0.14), (0.02, 0.3), (0.35, 0.85))
        return self.material(
            "tiles bricks speckle mottled",
            hue,
            hue,
            ((0, 1), (0, 0.2), (0.2, 0.6)),
            period=(0.4, 1.4),
        )

    def grass(self):
        """Grass, with some dry blades."""
        hue = (0.18, 0.34)
        low, high = self.value
        return self.material(
            "grass",
            (hue, (0.45, 0.9), (0.4 * low, 0.7 * high)),
            (hue, (0.4, 0.8), (0.7 * low, 0.9 * high)),
            ((0.12, 0.2), (0.2, 0.6), (0.5, 0.9)),
            period=(0.6, 1.2),
        )

    def leaves(self):
        """Leaves, mostly green."""
        hue = (0.14, 0.42) if self.rng.random() < 0.85 else (-0.05, 0.14)
        return self.material(
            "leaves",
            (hue, (0.4, 0.9), (0.2, 0.5)),
            (hue, (0.4, 0.8), (0.4, 0.8)),
            (hue, (0.5, 0.9), (0.05, 0.25)),
            period=(0.5, 1.0),
        )

    def bark(self):
        """Bark."""
        return self.material(
            "grain", ((0.04, 0.1), 0.5, (0.2, 0.4)), ((0.04, 0.1), 0.4, 0.55), turn=True
        )

    def facade(self):
        """A house's front with rows of windows."""
        low, high = self.value
        wall = ((0.0, 0.14), (0.03, 0.5), (low, high))
        return self.material(
            "facade",
            wall,
            ((0, 0.15), (0, 0.2), (0.6, 1)),
            ((0.52, 0.66), (0.2, 0.6), (0.08, 0.45)),
            period=(1.8, 3.2),
            glow=1.0,
        )

    def thing(self):
        """Anything a small object may be made of."""
        choice = self.rng.random()
        return self.paint() if choice < 0.5 else self.fabric() if choice < 0.8 else self.wood()
