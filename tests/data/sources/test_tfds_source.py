"""Fields of a source of packed records that do not fit its labels."""

import pathlib

import numpy as np
import pytest

from depth_anything_jax.data import registry
from depth_anything_jax.data.sources.base import SourceError

OLD = pathlib.Path(__file__).parents[2] / "fixtures" / "old_data" / "prepared" / "all"


@pytest.mark.parametrize("field", ["min_depth", "max_depth"])
def test_metres_are_no_limit_of_disparity(field):
    source = registry.make({"type": "tfds", "path": str(OLD), field: 2.0})
    raw = {"depth": np.ones((2, 2), np.float32), "scale": 1.0}
    assert source._label({**raw, "kind": b"depth"}, "a")["depth"].shape == (2, 2)
    with pytest.raises(SourceError, match=f"a: {field} is depth in metres, and .* disparity"):
        source._label({**raw, "kind": b"disparity"}, "a")
    source = registry.make({"type": "tfds", "path": str(OLD), "kind": "disparity", field: 2.0})
    with pytest.raises(SourceError, match=f"a: {field} is depth in metres"):
        source._label(raw, "a")
