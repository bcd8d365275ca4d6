"""Random weights in files."""

import json

import numpy as np
from safetensors.numpy import save_file

from depth_anything_jax.checkpoints import convert, pretrained, readers


def state_of(variant="demo", layout="official", parts="all"):
    rng = np.random.default_rng(0)
    expected = pretrained.expected_tensors(variant, layout, parts)
    return {name: rng.normal(size=x.shape).astype(np.float32) for name, x in expected.items()}


def write(path, state, metadata=None, dtype=np.float32):
    notes = {readers.METADATA_KEY: json.dumps(metadata)} if metadata else None
    save_file({n: np.ascontiguousarray(x, dtype) for n, x in state.items()}, str(path), notes)
    return str(path)


def assert_holds(loaded, state, dtype=np.float32):
    again = convert.to_torch(loaded.params, loaded.metadata["layout"])
    assert set(again) == set(state)
    for name, x in state.items():
        assert again[name].dtype == np.float32
        np.testing.assert_array_equal(again[name], x.astype(dtype).astype(np.float32), name)
