"""Kernels in int8: the bound of each channel, files, and what the network makes of them."""

import jax
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from depth_anything_jax.checkpoints import convert, export, int8_files, pretrained
from depth_anything_jax.checkpoints.bundle import bundle_of
from depth_anything_jax.inference.model import DepthAnything
from depth_anything_jax.models import int8
from depth_anything_jax.utils.nested_dicts import flatten
from tests.helpers import api_models, run_commands
from tools import export_torch


@pytest.fixture(scope="module")
def weights():
    return api_models.found()


def test_no_weight_is_off_by_more_than_half_a_step_of_its_channel(weights):
    before, after = (flatten(t) for t in (weights.params, int8.widen(int8.narrow(weights.params))))
    assert before.keys() == after.keys()
    kernels = 0
    for name, x in before.items():
        if not name.endswith("kernel"):
            np.testing.assert_array_equal(after[name], x)
            continue
        kernels += 1
        axes = (1,) if x.ndim == 3 else tuple(range(x.ndim - 1))
        largest = np.abs(x).max(axis=axes, keepdims=True)
        assert largest.size == x.shape[-1] * (len(x) if x.ndim == 3 else 1)
        # half a step, and the rounding of q · s in float32
        assert (np.abs(after[name] - x) <= largest / 254 * (1 + 1e-5)).all(), name
        assert np.abs(after[name] - x).max() > 0
    assert kernels > 20


def test_a_channel_of_zeros_stays_zero_and_others_do_not_mind():
    kernel = np.array([[0.0, 100.0], [0.0, -50.0]], np.float32)
    rounded, scale = int8.quantise(kernel, (0,))
    np.testing.assert_array_equal(rounded, [[0, 127], [0, -64]])
    assert rounded.dtype == np.int8 and scale.tolist() == [[0.0, np.float32(100 / 127)]]


def test_a_file_is_a_quarter_as_large_and_read_like_any_other(weights, tmp_path):
    sizes = {}
    for name in ("float32", "int8"):
        path = tmp_path / f"{name}.safetensors"
        export.export(weights, str(path), layout="official", int8=name == "int8")
        sizes[name] = path.stat().st_size
    assert sizes["int8"] < 0.28 * sizes["float32"]
    stored = safetensors.numpy.load_file(tmp_path / "int8.safetensors")
    assert {"int8", "float32"} == {str(x.dtype) for x in stored.values()}
    loaded = pretrained.load(str(tmp_path / "int8.safetensors"))
    assert (loaded.variant, loaded.version) == (weights.variant, weights.version)
    # The file rounds the same channels as the network's memory, whatever the layout.
    expected = flatten(int8.widen(int8.narrow(weights.params)))
    for name, x in flatten(loaded.params).items():
        np.testing.assert_allclose(x, expected[name], rtol=2e-7, atol=0, err_msg=name)


def test_the_encoder_alone_is_read_from_such_a_file_for_training(weights, tmp_path):
    path = str(tmp_path / "int8.safetensors")
    export.export(weights, path, layout="official", int8=True)
    encoder = pretrained.load(path, parts="encoder")
    assert set(encoder.params) == {"encoder"}
    assert all(x.dtype == np.float32 for x in jax.tree.leaves(encoder.params))


def test_maps_of_int8_are_near_and_kernels_are_int8_in_memory(monkeypatch, weights):
    monkeypatch.setattr(pretrained, "load", lambda *_, **__: weights)
    photo = np.random.default_rng(0).integers(0, 255, (56, 70, 3), np.uint8)
    plain = DepthAnything.from_pretrained("x")(photo, input_size=56).depth
    model = DepthAnything.from_pretrained("x", int8=True)
    narrow = model(photo, input_size=56).depth
    apart = np.abs(narrow - plain).max() / np.ptp(plain)
    assert 1e-5 < apart < 0.1  # random weights; a released network's scores: docs/use.md
    held = flatten(model.bundle.params)
    kernels = [x for name, x in held.items() if name.endswith("kernel/int8")]
    assert len(kernels) > 20 and {x.dtype for x in kernels} == {np.dtype(np.int8)}


def test_what_does_not_go_together_says_so(weights, tmp_path):
    with pytest.raises(ValueError, match="int8=True is for runtime='jax'"):
        DepthAnything(bundle_of(weights), runtime="openvino", int8=True)
    with pytest.raises(ValueError, match="ends in .safetensors"):
        export.export(weights, str(tmp_path / "x"), layout="hf", int8=True)
    tensors = int8_files.rounded(convert.to_torch(weights.params, "official"))
    name = next(n for n in tensors if n.endswith(int8_files.SUFFIX))
    del tensors[name.removesuffix(int8_files.SUFFIX)]
    with pytest.raises(ValueError, match="holds scales, but no int8 tensor"):
        int8_files.joined(tensors, "x.safetensors")


def test_the_programs_hand_the_option_on(monkeypatch, weights, tmp_path, capsys):
    asked = {}

    def from_pretrained(source, **options):
        asked.update(options)
        raise ValueError("that is enough")

    monkeypatch.setattr(DepthAnything, "from_pretrained", from_pretrained)
    Image.fromarray(api_models.photo(56, 70)).save(tmp_path / "a.png")
    command = ["depth-anything", str(tmp_path / "a.png"), f"--out={tmp_path / 'out'}", "--int8"]
    assert run_commands.run(command) == 1
    assert asked["int8"] is True and "that is enough" in capsys.readouterr().err
    monkeypatch.setattr(pretrained, "load", lambda *_, **__: weights)
    written = tmp_path / "a.safetensors"
    export_torch.main(["x", str(written), "--layout", "official", "--int8"])
    assert any(n.endswith(int8_files.SUFFIX) for n in safetensors.numpy.load_file(written))
