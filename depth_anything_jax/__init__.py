"""Depth Anything in JAX: train, evaluate and use it on TPUs and GPUs."""

from typing import Any

from depth_anything_jax.utils.version import __version__ as __version__

__all__ = ["Depth", "DepthAnything", "load_pretrained"]


def __getattr__(name: str) -> Any:
    # Lazily, so that the data workers, which import this package too, never load jax.
    if name == "load_pretrained":
        from depth_anything_jax.checkpoints.pretrained import load_pretrained

        return load_pretrained
    if name == "DepthAnything":
        from depth_anything_jax.inference.model import DepthAnything

        return DepthAnything
    if name == "Depth":
        from depth_anything_jax.inference.depth import Depth

        return Depth
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
