"""Depth Anything V1 and V2: a DINOv2 encoder, a DPT decoder, heads, and the table of sizes.

Usage: `model = build("vits")`, `params = model.init(key, images)["params"]`, then
`model.apply({"params": params}, images)` maps normalised NHWC images to depth (b, h, w).
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from depth_anything_jax.models.attention import BACKENDS
from depth_anything_jax.models.bins import CENTRES, MetricBins
from depth_anything_jax.models.dinov2 import DINOv2
from depth_anything_jax.models.dpt import DPT
from depth_anything_jax.models.dpt import HEADS as DECODER_HEADS
from depth_anything_jax.models.outputs import MIN_DEPTH
from depth_anything_jax.models.vit import EncoderOutput, ViT, remat_policy
from depth_anything_jax.utils.choices import one_of
from depth_anything_jax.utils.encoders import DINOV2, EncoderSpec


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
      encoder: description of its encoder, shared by all sizes.
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
    encoder: EncoderSpec = DINOV2

    @property
    def image_size(self) -> int:
        """Side in pixels of the square images that the encoder was trained at."""
        return self.encoder.patch_size * self.grid

    def taps(self, version: str) -> tuple[int, ...]:
        """Tapped blocks (0-based) of "v1" or "v2"."""
        one_of("version", version, VERSIONS)
        return self.v2_taps if version == "v2" else tuple(range(self.depth - 4, self.depth))


# The network of each kind of encoder.
NETWORKS: dict[str, type[ViT]] = {DINOV2.name: DINOv2}
VERSIONS = ("v1", "v2")
HEADS = (*DECODER_HEADS, "bins")

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


class DepthAnythingNet(nn.Module):
    """Predicts depth from normalised images.

    Attributes:
      encoder: images -> EncoderOutput of four taps; its description is `spec`.
      decoder: taps, patch grid -> map.
      bins: the decoder's maps -> metres; None: the decoder's output is the model's.
    """

    encoder: nn.Module
    decoder: nn.Module
    bins: nn.Module | None = None

    @property
    def head(self) -> str:
        """One of HEADS."""
        return self.decoder.head if self.bins is None else "bins"

    @property
    def spec(self) -> EncoderSpec:
        """The encoder's description: patch size and normalisation of the images."""
        return self.encoder.spec

    def __call__(
        self, images: Float[Array, "b h w 3"], return_features: bool = False
    ) -> Float[Array, "b h w"] | tuple[Float[Array, "b h w"], EncoderOutput]:
        """Depth of normalised RGB images, NHWC, both sides multiples of the patch size.

        Args:
          images: normalised as `spec` says, in any float dtype; the modules' `dtype` decides the
            compute dtype.
          return_features: hand out the encoder's output too.

        Returns:
          Disparity up to scale and shift (relative head) or metres (the others), at least float32;
          with `return_features` a pair (depth, EncoderOutput).

        Raises:
          ValueError: a side is no multiple of the patch size.
        """
        features = self.encoder(images)
        grid = self.spec.patch_grid(images.shape[1], images.shape[2])
        if self.bins is None:
            depth = self.decoder(features.taps, grid)
        else:
            depth = self.bins(self.decoder(features.taps, grid, return_maps=True))
        return (depth, features) if return_features else depth


def build(
    variant: str | Variant,
    *,
    version: str = "v2",
    head: str = "relative",
    max_depth: float | None = None,
    bin_centres: str | None = None,
    dtype: Any = jnp.float32,
    scan: bool = True,
    remat: str = "none",
    attention: str = "auto",
) -> DepthAnythingNet:
    """Builds the model of a size, named in VARIANTS or described by a Variant.

    Args:
      variant: "vits", "vitb", "vitl", "vitg", "demo", or a Variant.
      version: "v1" (taps of the last four blocks) or "v2".
      head: "relative" (ReLU), or in metres "sigmoid" (times max_depth: V2) or "bins" (V1).
      max_depth: metres, for the metric heads: of the released models 20 (sigmoid) or 10 (bins)
        indoors, 80 outdoors.
      bin_centres: of the bins head: "softplus", as in the released models, or "normed".
      dtype: compute dtype; parameters are always float32.
      scan: scan over layers between taps (fast to compile; use with remat for large models).
      remat: "none", "full" or "dots".
      attention: a back-end of `models.attention`; "auto" chooses.

    Raises:
      ValueError: an unknown name, or max_depth missing (metric) or superfluous (relative).
    """
    one_of("head", head, HEADS)
    if (head == "relative") != (max_depth is None):
        raise ValueError(
            f"head={head!r} with max_depth={max_depth}: a metric head needs max_depth in metres "
            "(of the released models 20 for sigmoid, 10 for bins indoors, 80 for both outdoors); "
            "the relative head takes none"
        )
    if max_depth is not None and not MIN_DEPTH < max_depth < math.inf:
        raise ValueError(f"max_depth={max_depth}: give metres above {MIN_DEPTH}")
    if bin_centres is not None and (head != "bins" or bin_centres not in CENTRES):
        raise ValueError(
            f"bin_centres={bin_centres!r} with head={head!r}: one of {', '.join(CENTRES)}, and for "
            "head='bins' only"
        )
    size = variant_of(variant)
    encoder = build_encoder(
        size, version=version, dtype=dtype, scan=scan, remat=remat, attention=attention
    )
    own, metres = (head, max_depth) if head in DECODER_HEADS else ("relative", None)
    decoder = DPT(
        size.features, size.out_channels, size.encoder.patch_size, own, metres, dtype, remat
    )
    if head != "bins":
        return DepthAnythingNet(encoder, decoder)
    return DepthAnythingNet(
        encoder, decoder, MetricBins(max_depth, bin_centres or CENTRES[0], dtype, remat)
    )


def build_encoder(
    variant: str | Variant,
    *,
    version: str = "v2",
    dtype: Any = jnp.float32,
    scan: bool = True,
    remat: str = "none",
    attention: str = "auto",
    taps: tuple[int, ...] | None = None,
) -> ViT:
    """Builds the encoder alone.

    `apply({"params": params["encoder"]}, images)` returns an EncoderOutput.
    Arguments and errors as for `build`; `taps` replaces the version's: () for `tokens` alone.
    """
    size = variant_of(variant)
    remat_policy(remat)
    one_of("attention", attention, BACKENDS)
    return NETWORKS[size.encoder.name](
        dim=size.dim,
        depth=size.depth,
        heads=size.heads,
        hidden=size.hidden,
        taps=size.taps(version) if taps is None else taps,
        spec=size.encoder,
        grid=size.grid,
        swiglu=size.swiglu,
        dtype=dtype,
        scan=scan,
        remat=remat,
        attention=attention,
    )


def with_plain_attention(network: Any, **encoder_fields: Any) -> Any:
    """Copies a network or encoder with einsum attention, which runs on any device and any batch.

    Args:
      network: as `build` or `build_encoder` gives it.
      encoder_fields: other fields of the encoder to change, such as remat.
    """
    if hasattr(network, "encoder"):
        return network.clone(encoder=with_plain_attention(network.encoder, **encoder_fields))
    return network.clone(attention="einsum", **encoder_fields)


def variant_of(variant: str | Variant) -> Variant:
    """Returns the Variant of that name in VARIANTS; a Variant is returned unchanged.

    Raises:
      ValueError: an unknown name; lists the known ones.
    """
    if isinstance(variant, Variant):
        return variant
    one_of("variant", variant, VARIANTS)
    return VARIANTS[variant]
