"""Counts the model FLOPs of training steps by formula, and knows the peak FLOP/s of devices.

Counted are products and convolutions, a multiplication and an addition as two; not resizes,
softmaxes, norms, losses or perturbations, nor what a backward pass computes again (`remat`). So the
share of the peak (MFU) says how much of the device went into the model. The formulas are written
from the shapes of ViT and DPT; `depth_anything_jax.aot.flops` counts the traced program instead,
and a test holds both together.
"""

import math
from typing import NamedTuple

from depth_anything_jax.aot import topology
from depth_anything_jax.models import VARIANTS, Variant

HEAD_HIDDEN = 32  # channels before the decoder's last convolution (V1's and V2's code)


class Peak(NamedTuple):
    """Peak FLOP/s of dense products, the dtype it is of, and who says so."""

    flops: float
    dtype: str
    source: str


# By a part of jax's `device_kind`, the first that fits, without sparsity. The sheets are named, but
# could not be read again where this was written: check them, or give --peak.
PEAKS: dict[str, Peak] = {
    "H200": Peak(989e12, "bfloat16", "NVIDIA H200 data sheet, SXM, half of the sparse figure"),
    "H100 PCIe": Peak(756e12, "bfloat16", "NVIDIA H100 data sheet, half of the sparse figure"),
    "H100": Peak(989e12, "bfloat16", "NVIDIA H100 data sheet, SXM, half of the sparse figure"),
    "A100": Peak(312e12, "bfloat16", "NVIDIA A100 data sheet"),
    "L4": Peak(121e12, "bfloat16", "NVIDIA L4 data sheet, half of the sparse figure"),
    "T4": Peak(65e12, "float16", "NVIDIA T4 data sheet; it has no bfloat16"),
}
TPUS = {"TPU v4": "v4", "TPU v5 lite": "v5e", "TPU v5e": "v5e", "TPU v5": "v5p", "TPU v6": "v6e"}


def peak_of(device_kind: str) -> Peak | None:
    """Returns the peak of a device by jax's name of it; None of one that is not in the table."""
    for part, chip in TPUS.items():
        if device_kind.startswith(part):
            return Peak(topology.CHIPS[chip].flops, "bfloat16", "depth_anything_jax.aot.topology")
    return next((peak for part, peak in PEAKS.items() if part in device_kind), None)


def encoder(variant: Variant, height: int, width: int) -> float:
    """Counts the FLOPs of one image's way through the ViT."""
    patch = variant.encoder.patch_size
    patches = (height // patch) * (width // patch)
    n, d = patches + variant.encoder.prefix_tokens, variant.dim
    projections = 2 * n * d * 4 * d  # query, key, value, output
    attention = 2 * 2 * n * n * d  # scores, weighted sum
    feed_forward = 2 * n * d * variant.hidden * (3 if variant.swiglu else 2)
    embedding = 2 * patches * patch**2 * 3 * d
    return embedding + variant.depth * (projections + attention + feed_forward)


def decoder(variant: Variant, height: int, width: int) -> float:
    """Counts the FLOPs of one image's way through the DPT, 1 x 1 convolutions before resizes."""
    patch, f = variant.encoder.patch_size, variant.features
    rows, columns = height // patch, width // patch
    n = rows * columns
    pixels = 16 * n, 4 * n, n, math.ceil(rows / 2) * math.ceil(columns / 2)  # fine to coarse
    channels = variant.out_channels
    total = sum(2 * n * variant.dim * c for c in channels)
    total += 2 * pixels[0] * channels[0] ** 2 + 2 * pixels[1] * channels[1] ** 2  # transposed
    total += 9 * 2 * pixels[3] * channels[3] ** 2  # the stride of two
    total += sum(9 * 2 * p * c * f for p, c in zip(pixels, channels, strict=True))
    convolutions = 4, 4, 4, 2  # of 3 x 3; the coarsest map is not added to anything
    total += sum((9 * k + 1) * 2 * p * f * f for p, k in zip(pixels, convolutions, strict=True))
    total += 9 * 2 * 64 * n * f * (f // 2)
    return total + height * width * 2 * (9 * (f // 2) * HEAD_HIDDEN + HEAD_HIDDEN)


def step(
    variant: str, height: int, width: int, *, labelled: int, unlabelled: int, frozen: bool
) -> float:
    """Counts the FLOPs of a training step: the backward pass takes two forward passes.

    Args:
      variant: a name of VARIANTS.
      height, width: of the crops.
      labelled, unlabelled: images.
      frozen: the frozen encoder sees the unlabelled images.
    """
    v = VARIANTS[variant]
    once = encoder(v, height, width) + decoder(v, height, width)
    return 3 * (labelled + unlabelled) * once + unlabelled * frozen * encoder(v, height, width)
