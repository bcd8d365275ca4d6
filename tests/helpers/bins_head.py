"""Weights of the metric-bins head, and transformers' head with them."""

import math

import numpy as np
import pytest

from depth_anything_jax.checkpoints import pretrained
from depth_anything_jax.models import Variant, bins

TINY = Variant(64, 4, 2, 256, 16, (8, 16, 24, 32), (0, 1, 2, 3), grid=4)


RANGE = 10.0  # metres


def names_of(centres):
    """{torch name: shape} of the head on a decoder of TINY's width."""
    expected = pretrained.expected_tensors("tiny", "zoedepth", bin_centres=centres)
    return {n: x.shape for n, x in expected.items() if not n.startswith("core.")}


def head_weights(centres, seed=0):
    """Random weights that spread the centres over the range and make the temperature vary."""
    rng = np.random.default_rng(seed)
    out = {}
    for name, shape in names_of(centres).items():
        fan_in = math.prod(shape[1:]) if len(shape) > 1 else 4
        out[name] = rng.normal(size=shape) * math.sqrt(2 / fan_in)
    for name in ("seed_bin_regressor", "attractors.0", "attractors.1"):
        out[f"{name}._net.2.bias"] = rng.uniform(0, RANGE, out[f"{name}._net.2.bias"].shape)
        if centres == "normed":
            out[f"{name}._net.2.bias"] /= RANGE
    out["conditional_log_binomial.mlp.2.weight"] *= 3
    return out


def in_transformers(centres, state, dtype):
    """transformers' head with these weights."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from transformers.models.zoedepth import modeling_zoedepth

    config = transformers.ZoeDepthConfig(
        bin_centers_type=centres,
        bottleneck_features=TINY.features,
        fusion_hidden_size=TINY.features,
        bin_configurations=[{"n_bins": bins.BINS, "min_depth": 1e-3, "max_depth": RANGE}],
    )
    head = modeling_zoedepth.ZoeDepthMetricDepthEstimationHead(config).to(dtype)
    renamed = {
        n.replace("._net.0.", ".conv1.").replace("._net.2.", ".conv2."): torch.tensor(x).to(dtype)
        for n, x in state.items()
    }
    head.load_state_dict(renamed)
    return head
