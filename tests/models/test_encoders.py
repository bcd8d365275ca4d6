"""Another encoder than DINOv2: what is asked of its description, and that nothing else knows it."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from depth_anything_jax import models
from depth_anything_jax.checkpoints import export, pretrained
from depth_anything_jax.data import transforms
from depth_anything_jax.inference import processing
from depth_anything_jax.models import depth_anything
from depth_anything_jax.models.dinov2 import DINOv2
from depth_anything_jax.utils.encoders import DINOV2

OTHER = dataclasses.replace(
    DINOV2,
    name="other",
    patch_size=16,
    prefix_tokens=3,
    layer_norm_epsilon=1e-5,
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.5, 1.0),
)
SIZE = models.Variant(32, 4, 2, 64, 8, (8, 8, 16, 16), (0, 1, 2, 3), grid=2, encoder=OTHER)


class Registers(DINOv2):
    """DINOv2 with two registers behind the class token."""

    @nn.nowrap
    def declare(self):
        registers = self.param("registers", nn.initializers.normal(1.0), (1, 2, self.dim))
        return {**super().declare(), "registers": registers}

    @nn.nowrap
    def embed(self, params, images, grid):
        x = super().embed(params, images, grid)
        registers = jnp.broadcast_to(params["registers"], (len(x), 2, self.dim)).astype(x.dtype)
        return jnp.concatenate([x[:, :1], registers, x[:, 1:]], axis=1)


@pytest.fixture
def other(monkeypatch):
    monkeypatch.setitem(depth_anything.NETWORKS, "other", Registers)
    monkeypatch.setitem(models.VARIANTS, "other", SIZE)
    return models.build("other", scan=False)


def test_a_file_and_a_row_are_a_network(other):
    image = jnp.zeros((1, 32, 48, 3))
    params = jax.eval_shape(other.init, jax.random.key(0), image)["params"]
    assert params["encoder"]["patch_embed"]["kernel"].shape == (16, 16, 3, 32)
    assert params["encoder"]["registers"].shape == (1, 2, 32)
    depth, features = jax.eval_shape(
        lambda p, x: other.apply({"params": p}, x, return_features=True), params, image
    )
    assert depth.shape == (1, 32, 48)
    assert features.tokens.shape == features.taps[0].shape == (1, 6, 32)
    with pytest.raises(ValueError, match="28 x 48 pixels.*multiples of 16.*32 x 48"):
        jax.eval_shape(other.init, jax.random.key(0), jnp.zeros((1, 28, 48, 3)))


def test_the_epsilon_is_the_descriptions(other):
    found = {}
    for epsilon in (1e-6, 1.0):
        spec = dataclasses.replace(OTHER, layer_norm_epsilon=epsilon)
        model = models.build_encoder(dataclasses.replace(SIZE, encoder=spec), scan=False)
        images = jnp.full((1, 32, 32, 3), 0.5)
        params = model.init(jax.random.key(0), images)
        found[epsilon] = np.asarray(model.apply(params, images).tokens)
    assert np.abs(found[1e-6]).mean() > 1.1 * np.abs(found[1.0]).mean()


def test_images_are_prepared_as_the_encoder_asks():
    seen = transforms.official_input(OTHER)
    assert seen.size == 512 and transforms.official_input(DINOV2) == transforms.OFFICIAL_INPUT
    image = np.full((30, 40, 3), 255, np.uint8)
    given = seen(image, 32)
    assert given.shape == (32, 48, 3)
    np.testing.assert_allclose(given[0, 0], [2.0, 1.0, 0.5], rtol=1e-6)  # float32
    with pytest.raises(ValueError, match="multiples of 16"):
        transforms.training_input(28, OTHER)


def test_weights_carry_the_description_to_every_user(other):
    found = pretrained.Weights(
        {}, "other", "v2", "relative", None, None, "", "all", {},
        input=transforms.training_input(32, SIZE.encoder),
    )  # fmt: skip
    recipe = processing.recipe_of(found)
    assert recipe.shape((30, 40), None) == (32, 48)
    with pytest.raises(ValueError, match="2,048 patches, .* give input_size=160"):
        recipe.shape((512, 1024), 512, most=200)
    said = export.describe_program(found, "NHWC")["input"]
    assert (said["multiple"], said["mean"], said["std"]) == (16, [0.5] * 3, [0.25, 0.5, 1.0])
    assert export.own_size(found) == (32, 32)
    config = export.hf_config(found)
    assert (config["patch_size"], config["backbone_config"]["layer_norm_eps"]) == (16, 1e-5)


def test_an_inverse_of_the_normalisation():
    image = np.random.default_rng(3).random((5, 6, 3), np.float32)
    back = DINOV2.denormalise(DINOV2.normalise(image))
    np.testing.assert_allclose(back, image, rtol=0, atol=1e-6)  # float32 rounding
