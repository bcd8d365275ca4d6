"""The model bundle: what every user of a model takes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from depth_anything_jax.checkpoints import export, licences, pretrained
from depth_anything_jax.checkpoints.bundle import ModelBundle, bundle_of
from depth_anything_jax.models import DepthAnythingNet
from tests.helpers import api_models


def test_a_loaded_model_unpacks_and_knows_what_its_use_needs(tmp_path):
    chain = licences.extend([], "weights", "random", "Apache-2.0")
    found = dataclasses.replace(
        api_models.found(max_depth=20.0), focal=500.0, metadata={"licence_chain": chain}
    )
    path = export.export(found, str(tmp_path / "x.safetensors"), layout="official")
    bundle = pretrained.load_pretrained(str(path), dtype=jnp.bfloat16)
    model, params = bundle
    assert isinstance(bundle, ModelBundle) and isinstance(model, DepthAnythingNet)
    assert (model.head, model.decoder.max_depth) == ("sigmoid", 20.0)
    assert model.encoder.dtype == model.decoder.dtype == bundle.dtype == jnp.bfloat16
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(params))
    jax.tree.map(np.testing.assert_array_equal, params, found.params)
    assert bundle.is_metric and bundle.input == found.input
    for name in ("variant", "version", "max_depth", "focal", "licence"):
        assert getattr(bundle, name) == getattr(found, name), name
    assert bundle.metadata["licence_chain"] == chain


def test_an_encoder_alone_is_no_bundle():
    found = api_models.found()
    alone = dataclasses.replace(found, params={"encoder": found.params["encoder"]})
    with pytest.raises(ValueError, match="random holds an encoder alone, which predicts no depth"):
        bundle_of(alone)
