"""Metric-bins head of ZoeDepth (arXiv 2302.12288), as Depth Anything V1 used it.

Every pixel has 64 bin centres in metres and a distribution over them; its depth is the mean. The
coarsest map proposes the centres, four attractor layers pull them, coarse to fine, towards points
of their own choice, and a log-binomial of the decoder's finest features and of its relative depth
gives the distribution. All widths follow the decoder's; V1's released models have ViT-L's.

Constants are those of ZoeDepth's and V1's configuration, but for ALPHA, see there. In bfloat16 the
last convolution of each network inside, and all that follows it, is at least float32: centres and
probabilities in bfloat16 would have steps of 1/256. Two changes alter no result: the log-binomial's
first convolution meets the embedding before the upsampling (1x1, so the two commute), and 1 - p is
taken as the other share of the pair that p comes from.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from depth_anything_jax.models import dpt
from depth_anything_jax.models.dpt import DecoderMaps
from depth_anything_jax.models.outputs import MIN_DEPTH
from depth_anything_jax.models.pointwise import widen
from depth_anything_jax.models.resize import resize_bilinear
from depth_anything_jax.models.vit import remat_policy

Conv = functools.partial(dpt.Conv, split=False)  # sharding.RULES: a copy on every device

CENTRES = ("softplus", "normed")
BINS = 64
EMBEDDING = 128
SEED_HIDDEN = 256
ATTRACTORS = (16, 8, 4, 1)
# The configurations say 1000, which no layer reads: the function's default acts, in ZoeDepth's code
# as in transformers' port of it, and the released weights were trained with it.
ALPHA = 300.0
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.0212, 50.0
MIN_SHARE = 1e-4  # of p and of 1 - p, and added to the four values that p and temperature come from
MIN_WIDTH = 1e-3  # added to the widths and the attractors of normed centres
HIGHEST = jax.lax.Precision.HIGHEST  # accelerators would round a float32 product's inputs


class PointwiseMLP(nn.Module):
    """Two 1x1 convolutions with a ReLU between them; the second is at least float32.

    Attributes:
      hidden, features: channels in the middle and at the end.
      dtype: compute dtype.
      bias_init: of the second convolution.
    """

    hidden: int
    features: int
    dtype: Any
    bias_init: Any = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w o"]:
        x = jax.nn.relu(Conv(self.hidden, 1, self.dtype, name="net_0")(x))
        last = Conv(self.features, 1, self.dtype, wide=True, bias_init=self.bias_init, name="net_2")
        return last(x)


class ConditionedConv(nn.Module):
    """1x1 convolution of features beside a coarser map, brought to their size; at least float32."""

    channels: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "b H W c"], coarse: Float[Array, "b h w d"]
    ) -> Float[Array, "b H W o"]:
        split, rest = x.shape[-1], coarse.shape[-1]
        shape = (1, 1, split + rest, self.channels)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)[0, 0]
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        x, coarse = widen(x), widen(coarse)
        kernel = kernel.astype(x.dtype)
        far = jnp.matmul(coarse, kernel[split:], precision=HIGHEST)
        y = resize_bilinear(far, x.shape[1:3], precision=HIGHEST)
        y = y + jnp.matmul(x, kernel[:split], precision=HIGHEST)
        return y + bias.astype(y.dtype)


class ConditionalLogBinomial(nn.Module):
    """Probabilities of the bins at the features' size."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "b H W c"], embedding: Float[Array, "b h w d"]
    ) -> Float[Array, "b H W n"]:
        hidden = (x.shape[-1] + embedding.shape[-1]) // 2
        y = ConditionedConv(hidden, name="mlp_0")(x, embedding)
        y = jax.nn.gelu(y, approximate=False)
        y = jax.nn.softplus(Conv(4, 1, y.dtype, wide=True, name="mlp_2")(y)) + MIN_SHARE
        p = y[..., :2] / jnp.sum(y[..., :2], -1, keepdims=True)
        t = y[..., 2] / (y[..., 2] + y[..., 3])
        temperature = (MAX_TEMPERATURE - MIN_TEMPERATURE) * t + MIN_TEMPERATURE
        return log_binomial(p, temperature, BINS)


def log_binomial(
    p: Float[Array, "*b 2"], temperature: Float[Array, "*b"], bins: int
) -> Float[Array, "*b n"]:
    """Softmax over k of log(C(n - 1, k) p^k (1 - p)^(n - 1 - k)) / temperature.

    The binomial coefficient is Stirling's approximation without its square root, with ZoeDepth's
    1e-7 inside the logarithms; it is a constant, computed in float64.

    Args:
      p: p and 1 - p.
      temperature: above zero.
      bins: n.
    """
    k = np.arange(bins)
    n, some = bins - 1 + 1e-7, k + 1e-7
    coefficient = n * np.log(n) - some * np.log(some) - (n - some) * np.log(n - some + 1e-7)
    log_p = jnp.log(jnp.maximum(p, MIN_SHARE))
    powers = jnp.asarray(np.stack([k, bins - 1 - k]), p.dtype)
    # Elementwise, as a matrix product of these would be rounded on accelerators.
    y = log_p[..., :1] * powers[0] + log_p[..., 1:] * powers[1]
    y = y + jnp.asarray(coefficient, p.dtype)
    return jax.nn.softmax(y / temperature[..., None], axis=-1)


def attract(
    centres: Float[Array, "b h w n"], points: Float[Array, "b h w a"]
) -> Float[Array, "b h w n"]:
    """Moves the centres by the mean over the points of d / (1 + ALPHA d^2), d their distance."""
    d = points[..., :, None] - centres[..., None, :]
    return centres + jnp.mean(d / (1 + ALPHA * d**2), axis=-2)


def evenly_spread(max_depth: float) -> Any:
    """Initialiser of the seeds' bias: softplus of it is bins of one width up to `max_depth`.

    Our choice, as the normed centres start like that too. From zero biases, as upstream, all
    centres would start at .7 metres, whatever the range.
    """

    def init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        del key
        centres = (np.arange(shape[0]) + 0.5) / shape[0] * max_depth
        return jnp.asarray(centres + np.log(-np.expm1(-centres)), dtype)

    return init


class MetricBins(nn.Module):
    """Converts the decoder's maps to metres.

    Attributes:
      max_depth: metres. Bounds normed centres; of softplus centres, which nothing bounds, it is
        where the last one starts.
      centres: "softplus" (V1's released models) or "normed".
      dtype: compute dtype of all but the last convolution of each network inside.
      remat: name of a policy in vit.REMAT, applied to what has the images' size.
    """

    max_depth: float
    centres: str = "softplus"
    dtype: Any = jnp.float32
    remat: str = "none"

    @nn.compact
    def __call__(self, maps: DecoderMaps) -> Float[Array, "b h w"]:
        """Depth in metres at the size of the relative depth, at least float32.

        Raises:
          ValueError: an unknown kind of centres.
        """
        if self.centres not in CENTRES:
            raise ValueError(
                f"bin centres {self.centres!r} are unknown; choose one of {', '.join(CENTRES)}"
            )
        normed = self.centres == "normed"
        width = maps.layer4_rn.shape[-1]
        x = Conv(width, 1, self.dtype, name="conv2")(maps.layer4_rn)
        bias_init = nn.initializers.zeros if normed else evenly_spread(self.max_depth)
        seeds = PointwiseMLP(SEED_HIDDEN, BINS, self.dtype, bias_init, name="seed_bin_regressor")(x)
        if normed:  # as shares of the range until the end
            seeds = jax.nn.relu(seeds) + MIN_WIDTH
            seeds = seeds / jnp.sum(seeds, -1, keepdims=True)
            centres = jnp.cumsum(seeds, -1) - seeds / 2
        else:
            centres = jax.nn.softplus(seeds)
        embedding = PointwiseMLP(EMBEDDING, EMBEDDING, self.dtype, name="seed_projector")(x)
        for i, (fused, count) in enumerate(zip(maps.fused, ATTRACTORS, strict=True)):
            before = embedding
            name = f"projectors_{i}"
            embedding = PointwiseMLP(EMBEDDING, EMBEDDING, self.dtype, name=name)(fused)
            size = fused.shape[1:3]
            x = embedding + resize_bilinear(before, size, precision=HIGHEST)
            outputs = 2 * count if normed else count
            x = PointwiseMLP(EMBEDDING, outputs, self.dtype, name=f"attractors_{i}")(x)
            # Of normed attractors the code forms pairs and divides by their sums, but then goes on
            # with the first of each pair as it was: so the weights were trained.
            points = jax.nn.relu(x[..., ::2]) + MIN_WIDTH if normed else jax.nn.softplus(x)
            centres = attract(resize_bilinear(centres, size, precision=HIGHEST), points)
        if normed:
            centres = (self.max_depth - MIN_DEPTH) * centres + MIN_DEPTH
            centres = jnp.sort(jnp.clip(centres, MIN_DEPTH, self.max_depth), axis=-1)
        last = MetricBins._mean
        policy = remat_policy(self.remat)
        if policy is not None:
            last = nn.remat(MetricBins._mean, policy=policy)
        features = jnp.concatenate([maps.activation, maps.relative[..., None]], -1)
        return last(self, features, embedding, centres)

    def _mean(
        self,
        features: Float[Array, "b H W c"],
        embedding: Float[Array, "b h w d"],
        centres: Float[Array, "b h w n"],
    ) -> Float[Array, "b H W"]:
        """Averages the centres under the log-binomial."""
        size = features.shape[1:3]
        share = ConditionalLogBinomial(name="conditional_log_binomial")(features, embedding)
        return jnp.sum(share * resize_bilinear(centres, size, precision=HIGHEST), -1)
