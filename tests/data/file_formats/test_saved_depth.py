"""Labels that our own programs saved are read as what they are, or refused."""

import numpy as np
import pytest

from depth_anything_jax.data.file_formats import formats, saved_depth
from depth_anything_jax.data.file_formats.formats import FormatError, LabelFormat
from depth_anything_jax.inference import depth_files
from depth_anything_jax.inference.depth import Depth

MAP = np.linspace(1, 90, 30, dtype=np.float32).reshape(5, 6)


def test_the_key_and_kinds_are_those_of_the_writer():
    assert saved_depth.KEY == depth_files.KEY
    assert (saved_depth.RELATIVE, saved_depth.METRIC) == tuple(map(str, depth_files.KINDS))


def read(path, kind, **spec):
    return formats.decode_label(path.read_bytes(), str(path), LabelFormat(**spec), kind)


def test_metric_files_need_the_scale_they_were_saved_with(tmp_path):
    path = tmp_path / "a.png"
    Depth(MAP, depth_files.METRIC).save(path)  # 90 m: 256 units in a metre
    # A 16-bit step is 1/256 m.
    np.testing.assert_allclose(read(path, "depth", scale=256), MAP, atol=0.5 / 256)
    with pytest.raises(FormatError, match=r"a\.png: .*read with scale=1000: give scale=256"):
        read(path, "depth", scale=1000)
    with pytest.raises(FormatError, match=r"holds metric depth: give kind=depth"):
        read(path, "disparity", scale=256)


def test_relative_files_are_disparity(tmp_path):
    path = tmp_path / "a.png"
    Depth(MAP, depth_files.RELATIVE).save(path)
    steps = read(path, "disparity", scale=1)
    assert steps[0, 0] < steps[-1, -1]
    with pytest.raises(FormatError, match=r"holds relative inverse depth: give kind=disparity"):
        read(path, "depth", scale=1)


def test_inverted_files_are_refused(tmp_path):
    path = tmp_path / "a.png"
    Depth(MAP, depth_files.RELATIVE).save(path, invert=True)
    with pytest.raises(FormatError, match=r"a\.png: was saved inverted"):
        read(path, "disparity", scale=1)


@pytest.mark.parametrize(
    ("saved", "right", "wrong"),
    [(depth_files.METRIC, "depth", "disparity"), (depth_files.RELATIVE, "disparity", "depth")],
)
def test_npz_files_state_their_kind_too(tmp_path, saved, right, wrong):
    path = tmp_path / "a.npz"
    Depth(MAP, saved).save(path)
    np.testing.assert_array_equal(read(path, right, field="depth"), MAP)
    with pytest.raises(FormatError, match=f"give kind={right}"):
        read(path, wrong, field="depth")


def test_files_of_other_tools_pass():
    facts = b'tEXtdepth_anything_jax\0{"kind": 3}'
    for data in (b"", b"\x89PNG", b"\x89PNG" + len(facts).to_bytes(4, "big") + facts, b"PK"):
        saved_depth.check(data, "a", 1000, "depth")
