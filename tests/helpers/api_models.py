"""Small models for the tests of the Python API: random weights whose maps vary, and one that is a
convolution and compiles at once."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from depth_anything_jax.checkpoints.bundle import ModelBundle, Weights, bundle_of
from depth_anything_jax.data import transforms
from depth_anything_jax.inference.model import DepthAnything
from depth_anything_jax.models import build, dpt
from tests.helpers.small_networks import KERNEL, Convolution, MetricConvolution


def found(*, max_depth: float | None = None, version: str = "v2") -> Weights:
    """Weights of the demo's size; metric with max_depth."""
    head = dpt.HEADS[0 if max_depth is None else 1]
    model = build("demo", version=version, head=head, max_depth=max_depth)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 112, 112, 3)))["params"]
    rng = np.random.default_rng(0)

    def random(path, x):
        noise = rng.normal(size=x.shape).astype(np.float32)
        name = jax.tree_util.keystr(path)
        if "scale" in name or "gamma" in name or "norm" in name and "bias" not in name:
            return 1 + 0.1 * noise
        fan_in = math.prod(x.shape[-3 if x.ndim > 3 else -2 : -1] if x.ndim > 1 else ())
        return 0.1 * noise if x.ndim < 2 else noise * np.float32(math.sqrt(1 / fan_in))

    params = jax.tree_util.tree_map_with_path(random, shapes)
    chain = {"licence_chain": []}
    return Weights(
        params,
        "demo",
        version,
        head,
        max_depth,
        "Apache-2.0",
        "random",
        "all",
        chain,
        input=transforms.OFFICIAL_INPUT,
    )


def small(**options) -> DepthAnything:
    """A relative model of the demo's size."""
    return DepthAnything(bundle_of(found()), **options)


def instant(*, max_depth: float | None = None, version: str = "v2", **changed) -> ModelBundle:
    """A bundle whose network is one convolution; metric with max_depth."""
    network = (MetricConvolution if max_depth else Convolution)()
    bundle = bundle_of(found(max_depth=max_depth, version=version))
    return dataclasses.replace(bundle, **{"network": network, "params": KERNEL, **changed})


def photo(height: int = 60, width: int = 80, seed: int = 0) -> np.ndarray:
    """A smooth coloured picture, uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves = [np.sin(6 * (a * x + b * y) + c) for a, b, c in rng.normal(size=(3, 3))]
    return np.round(255 * (np.stack(waves, -1) + 1) / 2).astype(np.uint8)
