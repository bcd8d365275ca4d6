"""`torch_networks.Pixels` in Flax, with the parts that our step asks of a network."""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from depth_anything_jax.utils import nested_dicts
from depth_anything_jax.utils.encoders import DINOV2


class Features(NamedTuple):
    tokens: jax.Array
    pixels: jax.Array


def dense(features: int, name: str, **kwargs) -> nn.Dense:
    return nn.Dense(features, name=name, param_dtype=jnp.float64, **kwargs)


class Encoder(nn.Module):
    spec = DINOV2

    @nn.compact
    def __call__(self, images):
        x = jnp.tanh(dense(8, "colours")(images))
        b, h, w, d = x.shape
        pooled = x.reshape(b, h // 7, 7, w // 7, 7, d).mean(axis=(2, 4))
        return Features(pooled.reshape(b, -1, d), x)


class Decoder(nn.Module):
    @nn.compact
    def __call__(self, x):
        return dense(1, "out", use_bias=False)(jnp.tanh(dense(8, "hidden")(x)))[..., 0]


class Pixels(nn.Module):
    head = "relative"
    spec = DINOV2
    encoder: nn.Module = dataclasses.field(default_factory=Encoder)
    decoder: nn.Module = dataclasses.field(default_factory=Decoder)

    def __call__(self, images, return_features=False):
        features = self.encoder(images)
        depth = self.decoder(features.pixels)
        return (depth, features) if return_features else depth


NAMES = {
    "encoder/colours/kernel": "backbone.weight",
    "encoder/colours/bias": "backbone.bias",
    "decoder/hidden/kernel": "hidden.weight",
    "decoder/hidden/bias": "hidden.bias",
    "decoder/out/kernel": "out.weight",
}


def from_torch(tensors) -> dict[str, Any]:
    """Our tree of the twin's tensors."""
    return nested_dicts.unflatten({path: np.asarray(tensors[n]).T for path, n in NAMES.items()})


def to_torch(tree) -> dict[str, np.ndarray]:
    leaves = nested_dicts.flatten(tree)
    return {name: np.asarray(leaves[path]).T for path, name in NAMES.items()}
