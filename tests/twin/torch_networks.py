"""The twin's networks: transformers' Depth Anything with random weights, and one far smaller."""

from typing import NamedTuple

import numpy as np
import torch
import transformers

from tests.helpers import reference_model

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


class Size(NamedTuple):
    """A model in transformers' terms; layers counted from 1."""

    dim: int
    depth: int
    heads: int
    grid: int
    features: int
    channels: tuple[int, ...]
    layers: dict[str, tuple[int, ...]]  # that feed the decoder, for "v1" and "v2"


VITS = Size(384, 12, 6, 37, 64, (48, 96, 192, 384), {"v1": (9, 10, 11, 12), "v2": (3, 6, 9, 12)})


def random_network(size: Size, version: str, images: np.ndarray, *, bias: float, seed: int = 0):
    """transformers' model in float64 with random weights and DINOv2's own position rule.

    bias: lifts the output by so many of its own deviations, off the last ReLU's zero: rates that
    show the optimiser kill a random network in one update otherwise.
    """
    backbone = transformers.Dinov2Config(
        hidden_size=size.dim,
        num_hidden_layers=size.depth,
        num_attention_heads=size.heads,
        image_size=14 * size.grid,
        patch_size=14,
        out_indices=list(size.layers[version]),
        apply_layernorm=True,
        reshape_hidden_states=False,
    )
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=size.dim,
        neck_hidden_sizes=list(size.channels),
        fusion_hidden_size=size.features,
    )
    model = reference_model.filled(config, normalise(images), dtype=torch.float64, seed=seed)
    reference_model.use_official_positions(model)
    with torch.no_grad():
        model.head.conv3.bias += bias * forward(model, images)[0].std()
    return model


def disturbed(model, size: Size, version: str, images, noise: float, seed: int = 1):
    """Another network: these weights and noise, far more on the positions of the upper half.

    So some tokens are far from the student's and others near: both sides of the margin.
    """
    other = random_network(size, version, images, bias=0.0)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p, q in zip(other.parameters(), model.parameters(), strict=True):
            scale = noise * q.square().mean().sqrt()
            p.copy_(q + scale * torch.randn(q.shape, generator=generator, dtype=q.dtype))
        positions = other.backbone.embeddings.position_embeddings
        rows = positions[0, 1:].unflatten(0, (size.grid, size.grid))
        rows[: size.grid // 2] += 3 * torch.randn(
            rows[: size.grid // 2].shape, generator=generator, dtype=rows.dtype
        )
    return other


def forward(model, images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Disparity (b, h, w) and the last layer's patch tokens, normalised, of images in [0, 1]."""
    x = torch.from_numpy(normalise(images).transpose(0, 3, 1, 2).copy())
    taps = []
    hook = model.neck.register_forward_pre_hook(lambda _, args: taps.extend(args[0]))
    try:
        depth = model(x).predicted_depth
    finally:
        hook.remove()
    return depth, taps[-1][:, 1:]


def normalise(images):
    return (images - MEAN) / STD


class Pixels(torch.nn.Module):
    """The least that has an encoder, a decoder, biases in both, and tokens: two maps of colours."""

    def __init__(self, seed: int = 0):
        super().__init__()
        self.backbone = torch.nn.Linear(3, 8)
        self.hidden = torch.nn.Linear(8, 8)
        self.out = torch.nn.Linear(8, 1, bias=False)
        self.double()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(0.5 * torch.randn(p.shape, generator=generator, dtype=p.dtype))

    def forward(self, images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.tanh(self.backbone(torch.from_numpy(normalise(images))))
        tokens = x.unflatten(2, (-1, 7)).unflatten(1, (-1, 7)).mean((2, 4)).flatten(1, 2)
        return self.out(torch.tanh(self.hidden(x)))[..., 0], tokens
