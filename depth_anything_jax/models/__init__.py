"""Depth Anything in Flax: encoder, decoder, and the table of sizes."""

from depth_anything_jax.models.depth_anything import (
    HEADS,
    VARIANTS,
    VERSIONS,
    DepthAnythingNet,
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
    "DepthAnythingNet",
    "EncoderOutput",
    "Variant",
    "build",
    "build_encoder",
    "variant_of",
    "with_plain_attention",
]
