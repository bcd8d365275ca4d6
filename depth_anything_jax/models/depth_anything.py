"""Depth Anything V1 and V2: a DINOv2 encoder under a DPT decoder, and the table of sizes.

Usage: `model = build("vits")`, `params = model.init(key, images)["params"]`, then
`model.apply({"params": params}, images)` maps normalised NHWC images to depth (b, h, w).
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from depth_anything_jax.models.attention import BACKENDS
from depth_anything_jax.models.dinov2 import DINOv2, EncoderOutput, patch_grid, remat_policy
from depth_anything_jax.models.dpt import DPT, HEADS


@dataclasses.dataclass(frozen=True)
class Variant:
    """One size of the model.

    Attributes:
      dim: width of the encoder's tokens.
      depth: encoder blocks.
      heads: attention heads, 64 wide each in the released models.
      hidden: width inside the feed-forward network.
      features: channels of the decoder's fused maps.
      out_channels: channels of the decoder's four maps, fine to coarse.
      v2_taps: tapped blocks of V2 (0-based); V1 taps the last four.
      grid: side of the trained patch grid.
      swiglu: gated feed-forward network.
    """

    dim: int
    depth: int
    heads: int
    hidden: int
    features: int
    out_channels: tuple[int, int, int, int]
    v2_taps: tuple[int, int, int, int]
    grid: int = 37
    swiglu: bool = False

    def taps(self, version: str) -> tuple[int, ...]:
        """Tapped blocks (0-based) of "v1" or "v2"."""
        if version not in VERSIONS:
            raise ValueError(f"version={version!r} is unknown; choose 'v1' or 'v2'")
        return self.v2_taps if version == "v2" else tuple(range(self.depth - 4, self.depth))


VERSIONS = ("v1", "v2")

# Depth Anything V1/V2 code (`model_configs`, `intermediate_layer_idx`); DINOv2 hub for the encoder.
VARIANTS: dict[str, Variant] = {
    "vits": Variant(384, 12, 6, 1536, 64, (48, 96, 192, 384), (2, 5, 8, 11)),
    "vitb": Variant(768, 12, 12, 3072, 128, (96, 192, 384, 768), (2, 5, 8, 11)),
    "vitl": Variant(1024, 24, 16, 4096, 256, (256, 512, 1024, 1024), (4, 11, 17, 23)),
    "vitg": Variant(
        1536, 40, 24, 4096, 384, (1536, 1536, 1536, 1536), (9, 19, 29, 39), swiglu=True
    ),
    # Ours, for the demo on two CPU cores at 112 pixels.
    "demo": Variant(128, 4, 2, 512, 24, (24, 48, 96, 96), (0, 1, 2, 3), grid=8),
}


class DepthAnything(nn.Module):
    """Normalised images to depth.

    Attributes:
      encoder: images -> EncoderOutput; any encoder with 14-pixel patches and four taps.
      decoder: taps, patch grid -> map.
    """

    encoder: nn.Module
    decoder: nn.Module

    def __call__(
        self, images: Float[Array, "b h w 3"], return_features: bool = False
    ) -> Float[Array, "b h w"] | tuple[Float[Array, "b h w"], EncoderOutput]:
        """Depth of ImageNet-normalised RGB images, NHWC, both sides multiples of 14.

        Args:
          images: batch in any float dtype; the modules' `dtype` decides the compute dtype.
          return_features: hand out the encoder's output too.

        Returns:
          Disparity up to scale and shift (relative head) or metres (metric head), at least float32;
          with `return_features` a pair (depth, EncoderOutput).

        Raises:
          ValueError: a side is no multiple of 14.
        """
        features = self.encoder(images)
        depth = self.decoder(features.taps, patch_grid(images.shape[1], images.shape[2]))
        return (depth, features) if return_features else depth


def build(
    variant: str | Variant,
    *,
    version: str = "v2",
    head: str = "relative",
    max_depth: float | None = None,
    dtype: Any = jnp.float32,
    scan: bool = True,
    remat: str = "none",
    attention: str = "auto",
) -> DepthAnything:
    """The model of a size, named in VARIANTS or described by a Variant.

    Args:
      variant: "vits", "vitb", "vitl", "vitg", "demo", or a Variant of one's own.
      version: "v1" (taps of the last four blocks) or "v2".
      head: "relative" (ReLU) or "metric" (sigmoid * max_depth).
      max_depth: metres, for the metric head: 20 for the indoor models, 80 for the outdoor ones.
      dtype: compute dtype; parameters are float32 whatever it is.
      scan: scan over layers between taps (fast to compile; use with remat for large models).
      remat: "none", "full" or "dots".
      attention: a back-end of `models.attention`; "auto" chooses.

    Raises:
      ValueError: an unknown name, or max_depth missing (metric) or superfluous (relative).
    """
    if head not in HEADS:
        raise ValueError(f"head={head!r} is unknown; choose one of {', '.join(HEADS)}")
    if (head == "metric") != (max_depth is not None):
        raise ValueError(
            f"head={head!r} with max_depth={max_depth}: the metric head needs max_depth in metres "
            "(20 for the indoor models, 80 for the outdoor ones); the relative head takes none"
        )
    size = _variant(variant)
    encoder = build_encoder(
        size, version=version, dtype=dtype, scan=scan, remat=remat, attention=attention
    )
    decoder = DPT(size.features, size.out_channels, head, max_depth, dtype, remat)
    return DepthAnything(encoder, decoder)


def build_encoder(
    variant: str | Variant,
    *,
    version: str = "v2",
    dtype: Any = jnp.float32,
    scan: bool = True,
    remat: str = "none",
    attention: str = "auto",
) -> DINOv2:
    """The encoder alone: `apply({"params": params["encoder"]}, images)` gives an EncoderOutput.

    Arguments and errors as for `build`.
    """
    size = _variant(variant)
    remat_policy(remat)
    if attention not in BACKENDS:
        raise ValueError(f"attention={attention!r} is unknown; choose one of {', '.join(BACKENDS)}")
    return DINOv2(
        dim=size.dim,
        depth=size.depth,
        heads=size.heads,
        hidden=size.hidden,
        taps=size.taps(version),
        grid=size.grid,
        swiglu=size.swiglu,
        dtype=dtype,
        scan=scan,
        remat=remat,
        attention=attention,
    )


def _variant(variant: str | Variant) -> Variant:
    if isinstance(variant, Variant):
        return variant
    if variant not in VARIANTS:
        raise ValueError(f"variant={variant!r} is unknown; choose one of {', '.join(VARIANTS)}")
    return VARIANTS[variant]
