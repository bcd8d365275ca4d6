"""Fields of a source of packed records that do not fit its labels, and the extra that it needs."""

import pathlib
import sys

import numpy as np
import pytest

from depth_anything_jax.data import registry
from depth_anything_jax.data.sources.base import SourceError
from tests.helpers.prepare_data import load_tool

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


def test_without_the_extra_one_line_names_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)  # import raises ImportError
    line = r"needs tensorflow-datasets \(.*\): pip install 'depth_anything_jax\[train\]'$"
    with pytest.raises(ImportError, match=f"^tfds:{OLD.parent}/metres.* {line}"):
        registry.make({"type": "tfds", "path": str(OLD.parent / "metres")})
    with pytest.raises(SystemExit, match=line):  # before it reads anything
        options = ["--source", "folder:nowhere", "--out", str(tmp_path), "--name", "a"]
        load_tool().main([*options, "--licence", "CC0"])
