"""The network against `transformers.DepthAnythingForDepthEstimation` on random weights."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from depth_anything_jax.models import VARIANTS, Variant, build
from tests import parity

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.helpers import reference_model  # noqa: E402  (needs torch)

# Odd and even grids: the stride-2 convolution pads both alike only if its padding is (1, 1).
SMALL = Variant(64, 6, 2, 256, 16, (8, 16, 24, 32), (1, 2, 3, 5), grid=5)
GATED = dataclasses.replace(SMALL, hidden=176, swiglu=True, grid=4)  # transformers' hidden width


def compare(variant, images, taps_bound, output_bound, *, official=False, dtype=None, **options):
    """Runs both and holds taps and output to their bounds."""
    version, max_depth = options.get("version", "v2"), options.get("max_depth")
    precision = torch.float64 if dtype == jnp.float64 else torch.float32
    theirs = reference_model.random_model(
        variant, images, version=version, max_depth=max_depth, dtype=precision
    )
    if official:
        reference_model.use_official_positions(theirs)
    taps, depth = reference_model.forward(theirs, images)

    model = build(variant, dtype=dtype or jnp.float32, **options)
    params = jax.tree.map(jnp.asarray, reference_model.params(theirs))
    del theirs
    apply = jax.jit(lambda p, x: model.apply({"params": p}, x, return_features=True))
    ours, features = apply(params, images.astype(taps[0].dtype))
    assert ours.dtype == depth.dtype and features.tokens.dtype == taps[0].dtype
    for i, tap in enumerate(taps):
        both = np.concatenate([features.cls[i][:, None], features.taps[i]], axis=1)
        assert parity.relative_error(both, tap) <= taps_bound, f"tap {i}"
    np.testing.assert_array_equal(features.tokens, features.taps[-1])
    if max_depth is None:
        clipped = np.mean(depth == 0)
        assert 0.01 < clipped < 0.5, f"{clipped:.1%} of the reference is clipped: a poor test"
    else:
        ends = np.mean((depth < 0.01 * max_depth) | (depth > 0.99 * max_depth))
        assert ends < 0.1, f"{ends:.1%} of the reference is at the sigmoid's ends: a poor test"
    assert parity.relative_error(ours, depth) <= output_bound


def photo(size, width=None, seed=1):
    return np.random.default_rng(seed).normal(size=(1, size, width or size, 3))


@pytest.mark.parametrize(
    ("variant", "options"),
    [
        (SMALL, {"version": "v1"}),
        (SMALL, {"version": "v2"}),
        (dataclasses.replace(SMALL, grid=4), {"head": "sigmoid", "max_depth": 20.0, "scan": False}),
        (GATED, {"remat": "full"}),
    ],
    ids=["v1", "v2", "metric-even-loop", "swiglu-remat"],
)
def test_float64(x64, variant, options):
    images = photo(14 * variant.grid)
    compare(variant, images, parity.FLOAT64, parity.FLOAT64, dtype=jnp.float64, **options)


@pytest.mark.parametrize(("height", "width"), [(84, 56), (56, 98)])
def test_float64_with_interpolated_positions(x64, height, width):
    """Sizes other than the trained one, with transformers' position rule replaced by DINOv2's."""
    bound = parity.FLOAT64
    compare(SMALL, photo(height, width), bound, bound, official=True, dtype=jnp.float64)


@pytest.mark.parametrize(
    ("name", "version"),
    [("vits", "v2")]
    + [
        pytest.param(name, version, marks=pytest.mark.nightly)
        for name, version in [("vits", "v1"), ("vitb", "v1"), ("vitb", "v2"), ("vitl", "v1")]
        + [("vitl", "v2")]
    ],
)
def test_float32_at_518(name, version):
    bound = parity.OUTPUT_FLOAT32[name]
    compare(VARIANTS[name], photo(518), parity.TAPS_FLOAT32, bound, version=version)


@pytest.mark.nightly
def test_float32_at_518_giant_of_eight_blocks():
    """ViT-G's widths and gated network; its 40 blocks would not fit beside PyTorch's here."""
    giant = dataclasses.replace(VARIANTS["vitg"], depth=8, v2_taps=(1, 3, 5, 7))
    compare(giant, photo(518), parity.TAPS_FLOAT32, parity.OUTPUT_FLOAT32["vitg"])
