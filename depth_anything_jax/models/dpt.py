"""DPT decoder (arXiv 2103.13413) as in the V1 and V2 code, channels last.

Tapped tokens become four maps (4x, 2x, 1x, 1/2x the patch grid), which are fused from coarse to
fine and read out at the image's size. Differences from the PyTorch code that change no result:
transposed convolutions whose stride is their kernel are matrix products; the 1x1 `out_conv` of a
fusion block runs before the upsampling (bilinear weights sum to one, so the two commute), a quarter
of the work; bilinear resizing is two matrix products.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from depth_anything_jax.models.pointwise import widen
from depth_anything_jax.models.products import convolution, gathered, matmul
from depth_anything_jax.models.resize import resize_bilinear
from depth_anything_jax.models.vit import remat_policy
from depth_anything_jax.parallel.placement import device_count, platform, split_batch
from depth_anything_jax.utils.choices import one_of

HEADS = ("relative", "sigmoid")  # that are part of the decoder; models.HEADS has all
MANY_PIXELS = 2**17  # of one picture, from which the last convolution is a sum
HEAD_HIDDEN = 32  # channels before the last 1x1 convolution, for every size


class Conv(nn.Module):
    """Convolution with PyTorch's padding: (size - 1) / 2 on both sides for any stride.

    Attributes:
      features: output channels.
      size: side of the kernel, odd.
      dtype: compute dtype.
      stride: step of the kernel.
      use_bias: has a bias; added in at least float32, see vit.dense.
      split: the kernel is one of those that fsdp splits (`sharding.RULES`).
      wide: accumulate and return at least float32. Bfloat16 depth has bands and hundreds of ties
        at the median, hence the head's last two convolutions.
    """

    features: int
    size: int
    dtype: Any
    stride: int = 1
    use_bias: bool = True
    split: bool = True
    wide: bool = False
    kernel_init: Any = nn.initializers.lecun_normal()
    bias_init: Any = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b H W o"]:
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        accumulate = jnp.promote_types(self.dtype, jnp.float32)

        def convolve(x: Array, kernel: Array) -> Array:
            x = x.astype(accumulate if self.wide else self.dtype)
            if self.size == self.stride == 1:
                many = x.shape[1] * x.shape[2] >= MANY_PIXELS
                if self.features == 1 and many and platform() == "cpu":
                    # A sum, which one pass over x computes, is ten times as fast there.
                    narrow = kernel.astype(x.dtype)[0, 0, :, 0]
                    return jnp.sum(x * narrow, axis=-1, keepdims=True)
                # On CPU 2.5 times faster than the convolution.
                return matmul(x, kernel[0, 0], self.split)
            return convolution(x, kernel, self.stride, self.split)

        if self.wide and accumulate != x.dtype:
            # Rematerialised so that the backward pass keeps the narrow input, not its wide copy;
            # the convolution is not computed twice, as its gradient does not need its output.
            convolve = jax.checkpoint(convolve)
        y = convolve(x, kernel)
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,))
            y = y.astype(accumulate) + bias.astype(accumulate)
        return y if self.wide else y.astype(self.dtype)


class PatchUpsample(nn.Module):
    """Transposed convolution with stride = kernel = `factor`: each pixel becomes a patch."""

    features: int
    factor: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b H W o"]:
        b, h, w, c = x.shape
        f, o = self.factor, self.features
        init = nn.initializers.variance_scaling(
            1.0, "fan_in", "truncated_normal", in_axis=-2, out_axis=-1, batch_axis=(0, 1)
        )
        kernel = self.param("kernel", init, (f, f, c, o))
        bias = self.param("bias", nn.initializers.zeros, (o,))
        flat = jnp.moveaxis(gathered(kernel), 2, 0).reshape(c, f * f * o)
        y = widen(matmul(x.astype(self.dtype), flat, False).reshape(b, h, w, f, f, o))
        y = (y + bias.astype(y.dtype)).astype(self.dtype).transpose(0, 1, 3, 2, 4, 5)
        return y.reshape(b, h * f, w * f, o)


class ResidualConvUnit(nn.Module):
    """x + conv(relu(conv(relu(x))))."""

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        y = Conv(self.features, 3, self.dtype, name="conv1")(jax.nn.relu(x))
        return x + Conv(self.features, 3, self.dtype, name="conv2")(jax.nn.relu(y))


class FusionBlock(nn.Module):
    """Adds a finer map to the path, refines, and upsamples to `size` (rows, columns)."""

    features: int
    size: tuple[int, int]
    dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], skip: Float[Array, "b h w c"] | None = None
    ) -> Float[Array, "b H W c"]:
        if skip is not None and platform() == "tpu" and not self.is_initializing():
            x = self._scan(x, skip)
        else:
            unit = ResidualConvUnit(self.features, self.dtype, name="resConfUnit1")
            if skip is not None:
                x = x + unit(skip)
            elif self.is_initializing():
                unit(x)  # the released checkpoints hold this unit of the coarsest block, unused
            x = ResidualConvUnit(self.features, self.dtype, name="resConfUnit2")(x)
        x = Conv(self.features, 1, self.dtype, name="out_conv")(x)
        return resize_bilinear(x, self.size)

    def _scan(
        self, x: Float[Array, "b h w c"], skip: Float[Array, "b h w c"]
    ) -> Float[Array, "b h w c"]:
        """Both units as one loop over their four convolutions: unit2(x + unit1(skip)).

        Convolutions are what a TPU's compiler takes longest for, so it gets one instead of four.
        """
        own = self.variables["params"]
        four = [own[f"resConfUnit{u}"][f"conv{c}"] for u in (1, 2) for c in (1, 2)]
        conv = Conv(self.features, 3, self.dtype, parent=None)

        def step(carry: tuple[Array, Array], inputs: tuple[Any, Array]) -> tuple[Any, None]:
            y, residual = carry
            params, ends = inputs  # whether this convolution ends a unit
            y = conv.apply({"params": params}, jax.nn.relu(y))
            y = jnp.where(ends, y + residual, y)
            return (y, jnp.where(ends, y, residual)), None

        stacked = jax.tree.map(lambda *p: jnp.stack(p), *four)
        ends = jnp.array([False, True, False, True])
        (x, _), _ = jax.lax.scan(step, (skip, x + skip), (stacked, ends))
        return x


class DecoderMaps(NamedTuple):
    """The decoder's maps that a head may use.

    Attributes:
      relative: the decoder's own output, at the image's size.
      activation: what its last convolution sees, of the same size, HEAD_HIDDEN channels.
      layer4_rn: the coarsest map before fusion.
      fused: outputs of the fusion blocks, coarse to fine (refinenet4 to refinenet1).
    """

    relative: Float[Array, "b H W"]
    activation: Float[Array, "b H W f"]
    layer4_rn: Float[Array, "b h w c"]
    fused: tuple[Float[Array, "b _ _ c"], ...]


class DPT(nn.Module):
    """Tapped patch tokens to a depth map.

    Attributes:
      features: channels of the fused maps.
      out_channels: channels of the four maps before fusion, fine to coarse.
      patch_size: of the encoder: the output has so many pixels a patch, from side to side.
      head: "relative" (ReLU: disparity up to scale and shift) or "sigmoid" (times max_depth:
        metres).
      max_depth: metres, for the sigmoid head.
      dtype: compute dtype up to the last two convolutions, which are at least float32.
      remat: name of a policy in vit.REMAT, applied to each fusion block, and to the last one
        with the read-out, which then run image by image (not with return_maps).
    """

    features: int
    out_channels: tuple[int, int, int, int]
    patch_size: int
    head: str = "relative"
    max_depth: float | None = None
    dtype: Any = jnp.float32
    remat: str = "none"

    @nn.compact
    def __call__(
        self,
        taps: tuple[Float[Array, "b n d"], ...],
        grid: tuple[int, int],
        return_maps: bool = False,
    ) -> Float[Array, "b h w"] | DecoderMaps:
        """Decodes four taps of a patch grid (rows, columns) to a map of the image's size.

        With `return_maps` the maps on the way are handed out too.

        Raises:
          ValueError: not four taps, an unknown head, or a sigmoid head without max_depth.
        """
        if len(taps) != 4:
            raise ValueError(f"the decoder fuses 4 taps, got {len(taps)}; give the encoder 4 taps")
        one_of("head", self.head, HEADS)
        if (self.head == "sigmoid") != (self.max_depth is not None):
            raise ValueError(
                f"head={self.head!r} with max_depth={self.max_depth}: the sigmoid head needs "
                "max_depth in metres (20 indoor, 80 outdoor), the relative head must have none"
            )
        rows, columns = grid
        maps = []
        for i, (tap, channels) in enumerate(zip(taps, self.out_channels, strict=True)):
            x = tap.astype(self.dtype).reshape(tap.shape[0], rows, columns, tap.shape[-1])
            x = Conv(channels, 1, self.dtype, name=f"projects_{i}")(x)
            if i < 2:
                x = PatchUpsample(channels, (4, 2)[i], self.dtype, name=f"resize_layers_{i}")(x)
            elif i == 3:
                x = Conv(channels, 3, self.dtype, stride=2, name="resize_layers_3")(x)
            name = f"layer{i + 1}_rn"
            maps.append(Conv(self.features, 3, self.dtype, use_bias=False, name=name)(x))

        fusion, finest = FusionBlock, DPT._finest
        policy = remat_policy(self.remat)
        if policy is not None:
            fusion = nn.remat(FusionBlock, policy=policy)
            finest = nn.remat(DPT._finest, policy=policy)
        sizes = [m.shape[1:3] for m in maps[:3]]
        path = fusion(self.features, sizes[2], self.dtype, name="refinenet4")(maps[3])
        fused = [path]
        for i in (2, 1):
            name = f"refinenet{i + 1}"
            path = fusion(self.features, sizes[i - 1], self.dtype, name=name)(path, maps[i])
            fused.append(path)
        if return_maps or policy is None or self.is_initializing():
            output, activation, path = finest(self, path, maps[0])
            fused.append(path)
            return DecoderMaps(output, activation, maps[3], tuple(fused)) if return_maps else output
        return self._image_by_image(finest, path, maps[0])

    def _image_by_image(
        self, finest: Any, path: Float[Array, "b h w c"], skip: Float[Array, "b h w c"]
    ) -> Float[Array, "b H W"]:
        """`finest` of each device's images one after another.

        Its maps have 64 to 196 times the patch grid's pixels and as few as 32 channels, which a
        TPU stores as 128: held for a whole batch they are most of a training step's memory.
        """
        b = path.shape[0]
        parts = b // device_count() if b % device_count() == 0 else 1

        def one(decoder: DPT, carry: None, maps: tuple[Array, Array]) -> tuple[None, Array]:
            return carry, finest(decoder, *maps)[0]

        # (b, …) -> (parts, b / parts, …) moves no row to another device; see also step.split.
        each = [x.reshape(b // parts, parts, *x.shape[1:]).swapaxes(0, 1) for x in (path, skip)]
        run = nn.scan(one, variable_broadcast="params", split_rngs={"params": False})
        output = run(self, None, tuple(each))[1]
        return output.swapaxes(0, 1).reshape(b, *output.shape[2:])

    def _finest(
        self, path: Float[Array, "b h w c"], skip: Float[Array, "b h w c"]
    ) -> tuple[Float[Array, "b H W"], Float[Array, "b H W f"], Float[Array, "b _ _ c"]]:
        """Fuses and reads out last: output, input of the last convolution, fused map."""
        size = (2 * skip.shape[1], 2 * skip.shape[2])
        block = FusionBlock(self.features, size, self.dtype, name="refinenet1")
        path = block(split_batch(path), split_batch(skip))
        return *self._read_out(path), path

    def _read_out(
        self, x: Float[Array, "b h w c"]
    ) -> tuple[Float[Array, "b H W"], Float[Array, "b H W f"]]:
        """The finest map, 8x the patch grid, to one value a pixel of the image.

        Beside it, what the last convolution saw.

        The last 1x1 convolution starts with small weights and, for the ReLU, a positive bias: with
        symmetric weights a third of all seeds start at zero everywhere, and no gradient ever
        reaches them.
        """
        size = (x.shape[1] // 8 * self.patch_size, x.shape[2] // 8 * self.patch_size)
        x = Conv(self.features // 2, 3, self.dtype, name="output_conv1")(x)
        x = resize_bilinear(x, size)
        last = jax.nn.relu(Conv(HEAD_HIDDEN, 3, self.dtype, wide=True, name="output_conv2_0")(x))
        x = Conv(
            1,
            1,
            self.dtype,
            wide=True,
            kernel_init=nn.initializers.variance_scaling(1e-3, "fan_in", "truncated_normal"),
            bias_init=nn.initializers.constant(1.0 if self.head == "relative" else 0.0),
            name="output_conv2_2",
        )(last)[..., 0]
        x = jax.nn.relu(x) if self.head == "relative" else jax.nn.sigmoid(x) * self.max_depth
        return x, last
