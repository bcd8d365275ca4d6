"""DINOv2 vision transformer (ViT-S/B/L/G), as Depth Anything uses it.

Decisions of the released models (Oquab et al. 2023; Depth Anything V1/V2 code): exact GELU, biases
everywhere, LayerScale without a small start, no registers, no dropout. Numbers that differ between
encoders stand in `utils.encoders`.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from depth_anything_jax.models.attention import attention
from depth_anything_jax.models.pointwise import widen
from depth_anything_jax.models.products import patch_product
from depth_anything_jax.models.resize import resize_position_embedding
from depth_anything_jax.models.vit import (
    Affine,
    LayerScale,
    Norm,
    Params,
    ViT,
    add_scaled,
    dense,
    feed_forward,
    layer_norm,
)

# Rules by name: (learned table, patch grid) -> positions of all tokens.
POSITIONS = {"learned-bicubic": resize_position_embedding}


class _Attn(nn.Module):
    dim: int
    stack: tuple[int, ...]

    @nn.compact
    def __call__(self) -> dict[str, Any]:
        return {
            "qkv": Affine((self.dim, 3 * self.dim), self.stack, name="qkv")(),
            "proj": Affine((self.dim, self.dim), self.stack, name="proj")(),
        }


class _Mlp(nn.Module):
    dim: int
    hidden: int
    swiglu: bool
    stack: tuple[int, ...]

    @nn.compact
    def __call__(self) -> dict[str, Any]:
        names = ("w12", "w3") if self.swiglu else ("fc1", "fc2")
        width = 2 * self.hidden if self.swiglu else self.hidden
        return {
            names[0]: Affine((self.dim, width), self.stack, name=names[0])(),
            names[1]: Affine((self.hidden, self.dim), self.stack, name=names[1])(),
        }


class _Blocks(nn.Module):
    dim: int
    hidden: int
    swiglu: bool
    depth: int

    @nn.compact
    def __call__(self) -> dict[str, Any]:
        stack = (self.depth,)
        return {
            "norm1": Norm(self.dim, stack, name="norm1")(),
            "attn": _Attn(self.dim, stack, name="attn")(),
            "ls1": LayerScale(self.dim, stack, name="ls1")(),
            "norm2": Norm(self.dim, stack, name="norm2")(),
            "mlp": _Mlp(self.dim, self.hidden, self.swiglu, stack, name="mlp")(),
            "ls2": LayerScale(self.dim, stack, name="ls2")(),
        }


class DINOv2(ViT):
    """Images to tapped tokens."""

    @nn.nowrap
    def declare(self) -> dict[str, Any]:
        """See `ViT`."""
        patch = self.spec.patch_size
        params = {
            "patch_embed": Affine((patch, patch, 3, self.dim), name="patch_embed")(),
            "cls_token": self.param("cls_token", nn.initializers.normal(1e-6), (1, 1, self.dim)),
            "pos_embed": self.param("pos_embed", sincos_position, self.grid, self.dim),
            "blocks": _Blocks(self.dim, self.hidden, self.swiglu, self.depth, name="blocks")(),
            "norm": Norm(self.dim, name="norm")(),
        }
        # In the released checkpoints, for masked pre-training; no forward pass here uses it.
        self.param("mask_token", nn.initializers.zeros, (1, self.dim))
        return params

    @nn.nowrap
    def embed(
        self, params: Params, images: Float[Array, "b h w 3"], grid: tuple[int, int]
    ) -> Float[Array, "b n d"]:
        """Patch embedding, class token first, plus positions, in `dtype`."""
        (rows, columns), patch, b = grid, self.spec.patch_size, images.shape[0]
        x = images.astype(self.dtype).reshape(b, rows, patch, columns, patch, 3)
        x = widen(patch_product(x, params["patch_embed"]["kernel"])).reshape(b, rows * columns, -1)
        x = (x + params["patch_embed"]["bias"].astype(x.dtype)).astype(self.dtype)
        positions = POSITIONS[self.spec.positions](params["pos_embed"], grid)
        cls = jnp.broadcast_to(params["cls_token"], (b, 1, x.shape[-1]))
        return (jnp.concatenate([cls, x], axis=1) + positions).astype(self.dtype)

    @nn.nowrap
    def block(
        self, params: Params, x: Float[Array, "b n d"], grid: tuple[int, int]
    ) -> Float[Array, "b n d"]:
        """One block with the parameters of one layer, in x's dtype."""
        b, n, d = x.shape
        epsilon = self.spec.layer_norm_epsilon
        qkv = dense(params["attn"]["qkv"], layer_norm(params["norm1"], x, epsilon))
        q, k, v = jnp.moveaxis(qkv.reshape(b, n, 3, self.heads, d // self.heads), 2, 0)
        y = attention(q, k, v, backend=self.attention).reshape(b, n, d)
        x = add_scaled(params["ls1"], x, dense(params["attn"]["proj"], y))
        y = feed_forward(params["mlp"], layer_norm(params["norm2"], x, epsilon))
        return add_scaled(params["ls2"], x, y)


def sincos_position(key: Array, grid: int, dim: int) -> Float[Array, "1 n d"]:
    """Sine-cosine position embedding of a square grid, class token's row 0 first.

    The start for encoders trained from scratch: learnt embeddings of small deviation vanish beside
    tokens of deviation 1. A quarter of the channels each: sine and cosine of the row, of the
    column; wavelengths from 2 pi to 10000 * 2 pi (MAE, He et al. 2022). `key` is unused.
    """
    frequency = 1.0 / 10000 ** (np.arange(dim // 4) / (dim // 4))
    row, column = np.meshgrid(np.arange(grid), np.arange(grid), indexing="ij")
    parts = [f(axis.reshape(-1, 1) * frequency) for axis in (row, column) for f in (np.sin, np.cos)]
    table = np.concatenate([np.zeros((1, dim)), np.concatenate(parts, axis=1)])
    return jnp.asarray(table[None], float)  # float32, or float64 where jax has it, as all others
