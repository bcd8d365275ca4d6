"""Networks that compile in no time, and random parameters."""

import zlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from depth_anything_jax import models
from depth_anything_jax.utils.encoders import DINOV2


class Convolution:
    """A model as small as can be: one 3x3 convolution."""

    head = "relative"
    spec = DINOV2

    def apply(self, variables, images):
        kernel = variables["params"]["kernel"]
        return jax.lax.conv_general_dilated(
            images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )[..., 0]


class MetricConvolution(Convolution):
    head = "sigmoid"

    def apply(self, variables, images):
        return 20 * jax.nn.sigmoid(super().apply(variables, images) - 3)


KERNEL = {"kernel": np.random.default_rng(0).normal(0, 1, (3, 3, 3, 1)).astype(np.float32)}


def random_params(model, size):
    """Parameters of the right shapes (the initialiser takes longer to compile than the rest)."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, size, 3)))

    def draw(x):
        fan_in = max(1, int(np.prod(x.shape[:-1])))
        return jnp.asarray(rng.standard_normal(x.shape) * (2 / fan_in) ** 0.5 + 0.1, x.dtype)

    return jax.tree.map(draw, shapes["params"])


# Most of these tests' time would go into optimising programs that run once.
FAST_TO_COMPILE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def random_leaf(path, leaf):
    """Kernels that keep the size of signals; biases, scales and the rest away from their start."""
    name = path[-1].key
    x = np.random.default_rng(zlib.crc32(str(path).encode())).normal(size=leaf.shape)
    if name == "kernel":
        dense = leaf.ndim == 3  # (depth, in, out); convolutions are (h, w, in, out)
        x /= np.sqrt(leaf.shape[1] if dense else np.prod(leaf.shape[:-1]))
    else:
        x = 0.1 * x + (name in ("scale", "gamma"))
    return jnp.asarray(x, jnp.float32)


class Patches(nn.Module):
    """An encoder of one product: the mean colour of each patch."""

    spec = DINOV2

    @nn.compact
    def __call__(self, images):
        b, h, w, _ = images.shape
        means = images.reshape(b, h // 14, 14, w // 14, 14, 3).mean((2, 4)).reshape(b, -1, 3)
        kernel = self.param("kernel", nn.initializers.normal(1.0), (3, 8))
        return models.EncoderOutput((), (), means @ kernel)


class Small(nn.Module):
    """A student with such an encoder, whose decoder looks at single pixels."""

    spec = DINOV2

    def setup(self):
        self.encoder, self.decoder = Patches(), nn.Dense(1)

    def __call__(self, images, return_features=False):
        depth, features = nn.softplus(self.decoder(images))[..., 0], self.encoder(images)
        return (depth, features) if return_features else depth
