"""Vision transformers: the base class of all encoders, and the functions of their blocks.

A module declares the parameters; the arithmetic is in pure functions of a dict. Parameters of
the blocks are stacked, (depth, ...), whatever layers are tapped: the same tree serves a scan over
layers and a plain loop, and V1 and V2 taps. With rematerialisation one scan runs over all layers
and carries the taps along: no slice of the stack is copied, nor its gradient. Without it, where the
backward pass would keep what is carried, it runs in segments between the taps, each over a slice of
the stack; equal segments that follow each other are a scan of scans, because each copy of the block
costs compilation. The final LayerNorm is applied to every tapped output.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from depth_anything_jax.models.pointwise import gelu, widen
from depth_anything_jax.models.products import matmul
from depth_anything_jax.parallel.placement import split_batch
from depth_anything_jax.utils.choices import one_of
from depth_anything_jax.utils.encoders import EncoderSpec

Params = Mapping[str, Any]
Step = Callable[[Array, Params], tuple[Array, None]]

# What the backward pass keeps of each block (and of each stage of the decoder); the rest is
# computed again. "dots" keeps the products of activations with weights, convolutions included.
REMAT: dict[str, Callable[..., Any] | None] = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        lambda primitive, *_, **__: primitive is jax.lax.conv_general_dilated_p,
    ),
}


def remat_policy(name: str) -> Callable[..., Any] | None:
    """The checkpoint policy called `name`; None for no rematerialisation.

    Raises:
      ValueError: no such name; lists those there are.
    """
    one_of("remat", name, REMAT)
    return REMAT[name]


class EncoderOutput(NamedTuple):
    """Output of an encoder; n patch tokens in row-major order, after the final LayerNorm.

    Attributes:
      taps: patch tokens of each tapped block, shallow to deep, each (b, n, d).
      cls: class token of each tapped block, each (b, d).
      tokens: patch tokens of the last block (b, n, d).
    """

    taps: tuple[Array, ...]
    cls: tuple[Array, ...]
    tokens: Array


class Affine(nn.Module):
    """Declares kernel and bias of `stack` linear maps and returns them as a dict."""

    shape: tuple[int, ...]
    stack: tuple[int, ...] = ()

    @nn.compact
    def __call__(self) -> dict[str, Array]:
        init = nn.initializers.variance_scaling(
            1.0,
            "fan_in",
            "truncated_normal",
            in_axis=tuple(range(len(self.stack), len(self.stack) + len(self.shape) - 1)),
            batch_axis=tuple(range(len(self.stack))),
        )
        kernel = self.param("kernel", init, self.stack + self.shape)
        bias = self.param("bias", nn.initializers.zeros, self.stack + self.shape[-1:])
        return {"kernel": kernel, "bias": bias}


class Norm(nn.Module):
    """Declares scale and bias of `stack` LayerNorms and returns them as a dict."""

    dim: int
    stack: tuple[int, ...] = ()

    @nn.compact
    def __call__(self) -> dict[str, Array]:
        shape = (*self.stack, self.dim)
        scale = self.param("scale", nn.initializers.ones, shape)
        return {"scale": scale, "bias": self.param("bias", nn.initializers.zeros, shape)}


class LayerScale(nn.Module):
    """Declares the gammas of `stack` LayerScales and returns them as a dict."""

    dim: int
    stack: tuple[int, ...] = ()

    @nn.compact
    def __call__(self) -> dict[str, Array]:
        return {"gamma": self.param("gamma", nn.initializers.ones, (*self.stack, self.dim))}


class ViT(nn.Module):
    """Images to tapped tokens.

    A family of encoders is a subclass with `declare`, `embed` and `block`.

    Attributes:
      dim: token width D.
      depth: number of blocks.
      heads: attention heads.
      hidden: width inside the feed-forward network.
      taps: blocks (0-based) whose output is handed on, rising.
      spec: patch size, prefix tokens, LayerNorm epsilon, position scheme.
      grid: side of the trained patch grid; 37 for the released models (518 pixels).
      swiglu: gated feed-forward network (ViT-G) instead of GELU.
      dtype: compute dtype of everything but norms and softmax.
      scan: scan over the layers between taps; False unrolls them (same parameters).
      remat: name of a policy in REMAT.
      attention: name of a back-end in attention.BACKENDS.
    """

    dim: int
    depth: int
    heads: int
    hidden: int
    taps: tuple[int, ...]
    spec: EncoderSpec
    grid: int = 37
    swiglu: bool = False
    dtype: Any = jnp.float32
    scan: bool = True
    remat: str = "none"
    attention: str = "auto"

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> EncoderOutput:
        """Encodes normalised RGB images whose sides are multiples of the patch size.

        Raises:
          ValueError: a side is no multiple of the patch size, or `remat` or `attention` is no
            known name.
        """
        grid = self.spec.patch_grid(images.shape[1], images.shape[2])
        prefix, epsilon = self.spec.prefix_tokens, self.spec.layer_norm_epsilon
        params = self.declare()
        step = self._step(grid)
        x = split_batch(self.embed(params, images, grid))
        tapped: dict[int, Array] = {}
        if self.scan and self.taps and self.remat != "none":
            x, tapped = self._tapping_scan(step, params["blocks"], x)
        else:
            for start, length, count in groups(segments(self.taps, self.depth)):
                x, outputs = self._run(step, params["blocks"], x, start, length, count)
                tapped |= {start + (i + 1) * length - 1: y for i, y in enumerate(outputs)}
        normed = {i: layer_norm(params["norm"], y, epsilon) for i, y in tapped.items()}
        return EncoderOutput(
            taps=tuple(normed[i][:, prefix:] for i in self.taps),
            cls=tuple(normed[i][:, 0] for i in self.taps),
            tokens=normed[self.depth - 1][:, prefix:],
        )

    @nn.nowrap
    def declare(self) -> dict[str, Any]:
        """The parameters: "blocks", stacked, the final "norm", and what `embed` needs."""
        raise NotImplementedError

    @nn.nowrap
    def embed(
        self, params: Params, images: Float[Array, "b h w 3"], grid: tuple[int, int]
    ) -> Float[Array, "b n d"]:
        """Normalised images to the first block's tokens, prefix tokens first, in `dtype`."""
        raise NotImplementedError

    @nn.nowrap
    def block(
        self, params: Params, x: Float[Array, "b n d"], grid: tuple[int, int]
    ) -> Float[Array, "b n d"]:
        """One block with the parameters of one layer, in x's dtype."""
        raise NotImplementedError

    def _step(self, grid: tuple[int, int]) -> Step:
        """Applies a block: (tokens, parameters) -> (tokens, None), the signature of `scan`."""

        def step(x: Array, params: Params) -> tuple[Array, None]:
            return split_batch(self.block(params, x, grid)), None

        policy = remat_policy(self.remat)
        if policy is None:
            return step
        # A scan keeps forward and backward apart by itself; only a loop needs the barrier.
        return jax.checkpoint(step, policy=policy, prevent_cse=not self.scan)

    def _tapping_scan(self, step: Step, blocks: Params, x: Array) -> tuple[Array, dict[int, Array]]:
        """Runs all blocks; returns the last one's tokens and those of each tapped block."""

        def keeping(carry: tuple[Array, Array], inputs: tuple[Params, Array]) -> tuple[Any, None]:
            (x, kept), (params, slot) = carry, inputs
            x, _ = step(x, params)
            # Linear in both, so the backward pass keeps neither.
            return (x, jax.lax.dynamic_update_index_in_dim(kept, x, slot, 0)), None

        slots = np.full(self.depth, len(self.taps), np.int32)  # of blocks that nobody asks for
        slots[list(self.taps)] = range(len(self.taps))
        kept = split_batch(jnp.zeros((len(self.taps) + 1, *x.shape), x.dtype), axis=1)
        (x, kept), _ = jax.lax.scan(keeping, (x, kept), (blocks, jnp.asarray(slots)))
        return x, {**{i: kept[n] for n, i in enumerate(self.taps)}, self.depth - 1: x}

    def _run(
        self, step: Step, blocks: Params, x: Array, start: int, length: int, count: int
    ) -> tuple[Array, list[Array]]:
        """`count` segments of `length` blocks from block `start` on: the tokens after each."""

        def segment(x: Array, params: Params) -> tuple[Array, Array]:
            if self.scan and length > 1:
                x = jax.lax.scan(step, x, params)[0]
            else:
                for i in range(length):
                    x, _ = step(x, jax.tree.map(lambda p, i=i: p[i], params))
            return x, x

        own = jax.tree.map(
            lambda p: p[start : start + length * count].reshape(count, length, *p.shape[1:]), blocks
        )
        if self.scan and count > 1:
            x, outputs = jax.lax.scan(segment, x, own)
            return x, list(outputs)
        outputs = []
        for i in range(count):
            x, _ = segment(x, jax.tree.map(lambda p, i=i: p[i], own))
            outputs.append(x)
        return x, outputs


def segments(taps: tuple[int, ...], depth: int) -> list[tuple[int, int]]:
    """Runs of blocks (start, stop) that end at a tap, and the rest up to the last block."""
    stops = sorted({tap + 1 for tap in taps} | {depth})
    return list(zip([0, *stops[:-1]], stops, strict=True))


def groups(segments: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Neighbouring segments of equal length together: (first block, length, how many)."""
    runs = [(n, list(same)) for n, same in itertools.groupby(segments, lambda s: s[1] - s[0])]
    return [(same[0][0], n, len(same)) for n, same in runs]


def feed_forward(params: Params, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
    """GELU network with weights fc1, fc2, or gated SiLU network with weights w12, w3."""
    if "w12" in params:
        gate, value = jnp.split(dense(params["w12"], x), 2, axis=-1)
        return dense(params["w3"], jax.nn.silu(gate) * value)
    return dense(params["fc2"], gelu(dense(params["fc1"], x)))


def dense(params: Params, x: Float[Array, "*b i"]) -> Float[Array, "*b o"]:
    """x @ kernel + bias, in x's dtype.

    The bias is added in at least float32, here and in the decoder: its gradient is a sum over all
    tokens, which bfloat16 would lose.
    """
    y = widen(matmul(x, params["kernel"]))
    return (y + params["bias"].astype(y.dtype)).astype(x.dtype)


def add_scaled(
    params: Params, x: Float[Array, "*b d"], y: Float[Array, "*b d"]
) -> Float[Array, "*b d"]:
    """x + gamma * y (LayerScale and residual), added in at least float32, in x's dtype."""
    wide = widen(y)
    return (widen(x) + params["gamma"].astype(wide.dtype) * wide).astype(x.dtype)


def layer_norm(params: Params, x: Float[Array, "*b d"], epsilon: float) -> Float[Array, "*b d"]:
    """LayerNorm over the last axis, computed in at least float32, returned in x's dtype."""
    y = widen(x)
    y = y - y.mean(axis=-1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.square(y).mean(axis=-1, keepdims=True) + epsilon)
    return (y * params["scale"].astype(y.dtype) + params["bias"].astype(y.dtype)).astype(x.dtype)
