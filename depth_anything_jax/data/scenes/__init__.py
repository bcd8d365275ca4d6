"""Rendered scenes with exact depth: the source, and the renderer behind it."""

from depth_anything_jax.data.scenes.source import (
    SceneSource,
)

__all__ = [
    "SceneSource",
]
