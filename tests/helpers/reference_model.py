"""Depth Anything of `transformers`, with random weights that make a comparison worth something.

With transformers' own initialisation the output is constant to 1e-4, and float32 noise alone is
1e-3 of its range; here every parameter is random and signals keep their size, so the output spans
a range. Import only after `pytest.importorskip("transformers")`.
"""

import math
import types

import numpy as np
import torch
import transformers

from depth_anything_jax.checkpoints import convert
from depth_anything_jax.models import Variant


def random_model(
    variant: Variant,
    images: np.ndarray,
    *,
    version: str = "v2",
    max_depth: float | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> transformers.DepthAnythingForDepthEstimation:
    """A model of that size whose last ReLU clips a tenth of the pixels of these NHWC images, or
    whose sigmoid bends there."""
    backbone = transformers.Dinov2Config(
        hidden_size=variant.dim,
        num_hidden_layers=variant.depth,
        num_attention_heads=variant.heads,
        image_size=14 * variant.grid,
        patch_size=14,
        use_swiglu_ffn=variant.swiglu,
        out_indices=[i + 1 for i in variant.taps(version)],
        apply_layernorm=True,
        reshape_hidden_states=False,
    )
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=variant.dim,
        neck_hidden_sizes=list(variant.out_channels),
        fusion_hidden_size=variant.features,
        depth_estimation_type="relative" if max_depth is None else "metric",
        max_depth=1 if max_depth is None else int(max_depth),
    )
    return filled(config, images, dtype=dtype, seed=seed)


def filled(
    config: transformers.DepthAnythingConfig,
    images: np.ndarray,
    *,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> transformers.DepthAnythingForDepthEstimation:
    """The model of a config, with random weights; the images say what its last ReLU clips, or
    where its sigmoid bends: of values as large as they come, nine in ten would be 0 or 1."""
    config.backbone_config._attn_implementation = "eager"  # no fused kernel, no narrowing
    with torch.device("meta"):
        model = transformers.DepthAnythingForDepthEstimation(config)
    model = model.to(dtype).to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(_values(name, p, generator))
        before = []
        hook = model.head.conv3.register_forward_hook(lambda *args: before.append(args[2]))
        forward(model, images)
        hook.remove()
        last, values = model.head.conv3, before[0].numpy()
        if config.depth_estimation_type == "relative":
            last.bias -= float(np.quantile(values, 0.1))
        else:
            last.weight /= float(values.std())
            last.bias.copy_((last.bias - float(values.mean())) / float(values.std()))
    return model


def _values(name: str, p: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    noise = torch.randn(p.shape, generator=generator, dtype=torch.float64)
    if p.ndim == 1:  # biases around 0; scales of norms and layers around 1
        scale = "lambda1" in name or (name.endswith("weight") and "norm" in name)
        return 0.1 * noise + (1.0 if scale else 0.0)
    if name.startswith("backbone.embeddings") and "projection" not in name:
        return noise
    if "resize" in name and "layers.3" not in name:  # transposed convolution: (in, out, k, k)
        return noise / math.sqrt(p.shape[0])
    gain = 1.0 if name.startswith("backbone") else 2.0  # He where ReLU follows
    return noise * math.sqrt(gain / p[0].numel())


def forward(
    model: transformers.DepthAnythingForDepthEstimation, images: np.ndarray
) -> tuple[list[np.ndarray], np.ndarray]:
    """Taps, each (b, 1 + n, d) with the class token first, and depth (b, h, w) of NHWC images."""
    taps = []
    hook = model.neck.register_forward_pre_hook(lambda _, args: taps.extend(args[0]))
    x = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    try:
        with torch.no_grad():
            depth = model(x.to(model.head.conv3.weight.dtype)).predicted_depth
    finally:
        hook.remove()
    return [tap.numpy() for tap in taps], depth.numpy()


def params(model: transformers.DepthAnythingForDepthEstimation) -> dict:
    """Our parameter tree (numpy, the model's dtype)."""
    return convert.from_torch({name: x.numpy() for name, x in model.state_dict().items()})


def use_official_positions(model: transformers.DepthAnythingForDepthEstimation) -> None:
    """Replaces transformers' interpolation of the position embedding by DINOv2's own rule."""

    def interpolate_pos_encoding(self, embeddings, height, width):
        table = self.position_embeddings
        grid = math.isqrt(table.shape[1] - 1)
        rows, columns = height // 14, width // 14
        if (rows, columns) == (grid, grid):
            return table
        patches = table[:, 1:].reshape(1, grid, grid, -1).permute(0, 3, 1, 2)
        patches = torch.nn.functional.interpolate(
            patches,
            scale_factor=((rows + 0.1) / grid, (columns + 0.1) / grid),
            mode="bicubic",
        )
        assert patches.shape[2:] == (rows, columns)
        return torch.cat([table[:, :1], patches.flatten(2).transpose(1, 2)], dim=1)

    embeddings = model.backbone.embeddings
    embeddings.interpolate_pos_encoding = types.MethodType(interpolate_pos_encoding, embeddings)
