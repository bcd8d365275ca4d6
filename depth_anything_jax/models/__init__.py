"""Depth Anything in Flax: encoder, decoder, and the table of sizes."""

from depth_anything_jax.models.depth_anything import (
    HEADS,
    VARIANTS,
    VERSIONS,
    DepthAnything,
    Variant,
    build,
    build_encoder,
    variant_of,
    with_plain_attention,
)
from depth_anything_jax.models.vit import EncoderOutput

__all__ = [
    "HEADS",
    "VARIANTS",
    "VERSIONS",
    "DepthAnything",
    "EncoderOutput",
    "Variant",
    "build",
    "build_encoder",
    "variant_of",
    "with_plain_attention",
]
