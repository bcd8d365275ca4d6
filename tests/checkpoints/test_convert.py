"""The table of torch names: there and back bit for bit, against the names others wrote."""

import dataclasses
import re

import jax
import numpy as np
import pytest

from depth_anything_jax.checkpoints import convert, export, pretrained
from depth_anything_jax.checkpoints.bundle import Weights
from depth_anything_jax.data import transforms
from depth_anything_jax.models import VARIANTS, build
from depth_anything_jax.utils import nested_dicts

TINY = dataclasses.replace(
    VARIANTS["vits"],
    dim=32,
    depth=6,
    heads=2,
    hidden=128,
    features=16,
    out_channels=(8, 16, 24, 32),
    v2_taps=(1, 2, 4, 5),
    grid=4,
)
GATED = dataclasses.replace(TINY, hidden=88, swiglu=True)


@pytest.fixture(params=["tiny", "gated"])
def variant(request, monkeypatch):
    monkeypatch.setitem(VARIANTS, "tiny", TINY)
    monkeypatch.setitem(VARIANTS, "gated", GATED)
    return request.param


def random_state(variant, layout, dtype=np.float32, parts="all"):
    """Distinct random tensors of every name and shape of a layout."""
    rng = np.random.default_rng(0)
    expected = pretrained.expected_tensors(variant, layout, parts)
    return {name: rng.normal(size=x.shape).astype(dtype) for name, x in expected.items()}


def assert_same(ours, theirs):
    assert sorted(ours) == sorted(theirs)
    for name, x in theirs.items():
        assert ours[name].dtype == x.dtype and ours[name].shape == x.shape, name
        assert ours[name].tobytes() == np.ascontiguousarray(x).tobytes(), name


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("layout", list(convert.LAYOUTS))
def test_round_trip_is_bit_exact(variant, layout, dtype):
    parts = "all" if "decoder" in convert.LAYOUTS[layout].prefixes else "encoder"
    state = random_state(variant, layout, dtype, parts)
    assert convert.detect_layout(state).name == layout
    assert_same(convert.to_torch(convert.from_torch(state), layout), state)


def test_every_layout_holds_the_same_parameters(variant):
    params = convert.from_torch(random_state(variant, "official"))
    flat = nested_dicts.flatten(params)
    for layout in ("official", "hf"):
        again = nested_dicts.flatten(convert.from_torch(convert.to_torch(params, layout)))
        assert_same(again, flat)
    for layout in ("dinov2", "dinov2-hf"):
        again = convert.from_torch(convert.to_torch(params, layout))
        assert set(again) == {"encoder"}
        assert_same(nested_dicts.flatten(again["encoder"]), nested_dicts.flatten(params["encoder"]))


def test_parameters_are_those_of_the_model(variant):
    size = 14 * VARIANTS[variant].grid
    shapes = jax.eval_shape(build(variant).init, jax.random.key(0), np.zeros((1, size, size, 3)))
    expected = {p: x.shape for p, x in nested_dicts.flatten(shapes["params"]).items()}
    params = convert.from_torch(random_state(variant, "official"))
    assert {p: x.shape for p, x in nested_dicts.flatten(params).items()} == expected


def test_names_of_the_released_file(shared):
    safetensors = pytest.importorskip("safetensors")
    path = next((shared / "weights").glob("*.safetensors"))
    with safetensors.safe_open(str(path), "np") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    shapes["depth_head.resize_layers.3.weight"] = (384, 384, 3, 3)  # the one it lacks
    ours = pretrained.expected_tensors("vits", "official")
    assert {name: tuple(x.shape) for name, x in ours.items()} == shapes
    assert len(shapes) == 239


@pytest.mark.parametrize("model", ["DepthAnythingForDepthEstimation", "Dinov2Model"])
def test_names_that_transformers_saves_and_holds(variant, model, tmp_path):
    """In its files and, differing in recent versions, in memory."""
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from safetensors.numpy import load_file

    parts = "encoder" if model == "Dinov2Model" else "all"
    layout = "dinov2-hf" if parts == "encoder" else "hf"
    what = Weights(
        {}, variant, "v2", "relative", None, None, "", parts, {}, input=transforms.OFFICIAL_INPUT
    )
    config = export.hf_config(what)
    config = transformers.AutoConfig.for_model(config.pop("model_type"), **config)
    theirs = getattr(transformers, model)(config)
    theirs.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    expected = {
        n: tuple(x.shape) for n, x in pretrained.expected_tensors(variant, layout, parts).items()
    }
    assert {name: x.shape for name, x in saved.items()} == expected
    held = {name: x.numpy() for name, x in theirs.state_dict().items()}
    assert_same(convert.canonical(held), saved)


def test_known_places():
    """One tensor of each kind of transposition, by hand."""
    state = random_state("demo", "official")
    conv = state["pretrained.patch_embed.proj.weight"]
    up = state["depth_head.resize_layers.0.weight"]
    qkv = state["pretrained.blocks.2.attn.qkv.weight"]
    params = convert.from_torch(state)
    encoder, decoder = params["encoder"], params["decoder"]
    assert encoder["patch_embed"]["kernel"][3, 5, 1, 7] == conv[7, 1, 3, 5]
    assert decoder["resize_layers_0"]["kernel"][1, 2, 3, 4] == up[3, 4, 1, 2]
    assert encoder["blocks"]["attn"]["qkv"]["kernel"][2, 11, 200] == qkv[200, 11]
    hf = convert.to_torch(params, "hf")
    name = "backbone.encoder.layer.2.attention.attention"
    np.testing.assert_array_equal(hf[f"{name}.key.weight"], qkv[128:256])
    # transformers counts fusion stages from the coarsest map, the official code from the finest
    np.testing.assert_array_equal(
        hf["neck.fusion_stage.layers.0.projection.bias"],
        state["depth_head.scratch.refinenet4.out_conv.bias"],
    )


def chunked(state):
    """DINOv2's block-chunk form: two chunks, blocks numbered through."""

    def rename(match):
        return f"blocks.{int(match[1]) // 2}.{match[1]}."

    return {re.sub(r"blocks\.(\d+)\.", rename, name): x for name, x in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {f"module.{n}": x for n, x in s.items()},
        lambda s: {"model": {f"module.{n}": x for n, x in s.items()}, "epoch": 3, "optimizer": {}},
        lambda s: {"state_dict": s},
        lambda s: {"model_state_dict": {f"_orig_mod.module.{n}": x for n, x in s.items()}},
        lambda s: {"state_dict": {f"model._orig_mod.{n}": x for n, x in s.items()}, "epoch": 3},
        lambda s: {"state_dict": {f"module.model.model.{n}": x for n, x in s.items()}},
        lambda s: {n.replace(".", "._orig_mod.", 1): x for n, x in s.items()},
        chunked,
        lambda s: {"model": chunked(s)},
    ],
    ids=[
        "module",
        "model-module",
        "state_dict",
        "compiled",
        "lightning",
        "all",
        "compiled inside",
        "chunks",
        "model-chunks",
    ],
)
@pytest.mark.parametrize("layout", ["official", "dinov2"])
def test_wrappings_are_undone(wrap, layout):
    state = random_state("demo", layout, parts="all" if layout == "official" else "encoder")
    wrapped = wrap(state)
    assert set(wrapped) != set(state)
    assert_same(convert.canonical(wrapped), state)


def test_two_tensors_of_one_name():
    state = random_state("demo", "dinov2", parts="encoder")
    twice = {**state, "blocks.0.0.norm1.bias": state["blocks.0.norm1.bias"]}
    with pytest.raises(ValueError, match="two tensors are called 'blocks.0.norm1.bias'"):
        convert.canonical(twice)


def test_values_that_are_no_tensors():
    with pytest.raises(ValueError, match=r"no tensors under \['epoch'\]"):
        convert.canonical({"epoch": 3})
    with pytest.raises(
        ValueError, match=r"x.pth: tensors are called \[0, 1\], which are not names"
    ):
        convert.canonical({0: np.zeros(2), 1: np.zeros(2)}, "x.pth")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["net.0.weight"], r"\['net.0.weight'\] belong to no known layout"),
        (["core.core.pretrained.model.cls_token"], "ZoeDepth checkpoint on MiDaS' BEiT encoder"),
        (["core.core.pretrained.cls_token", "patch_transformer.x"], "for two domains"),
        (["backbone.embeddings.cls_token", "metric_head.conv2.bias"], "of transformers"),
        (["pretrained.cls_token", "head.motion_modules.0.x"], "^x.pth: this is a Video-Depth-Any"),
        (["backbone.pretrained.cls_token", "head.x"], "^x.pth: this is a Depth Anything 3 check"),
        (["da3.backbone.x", "anyview.x"], "^x.pth: this is a Depth Anything 3 check"),
    ],
)
def test_unknown_layouts(names, message):
    with pytest.raises(ValueError, match=message):
        convert.detect_layout(names, "x.pth")


def test_all_misfits_are_listed_at_once():
    state = random_state("demo", "official")
    del state["pretrained.blocks.2.norm1.bias"], state["depth_head.projects.1.weight"]
    state |= {"pretrained.register_tokens": np.zeros(4), "depth_head.other": np.zeros(1)}
    with pytest.raises(convert.TensorMismatch, match="x.pth: 4 tensors do not fit") as caught:
        convert.from_torch(state, source="x.pth")
    missing = ["pretrained.blocks.2.norm1.bias", "depth_head.projects.1.weight"]
    assert sorted(caught.value.missing) == sorted(missing)
    assert caught.value.extra == ["depth_head.other", "pretrained.register_tokens"]
    for name in [*missing, *caught.value.extra]:
        assert name in str(caught.value)


def test_parameters_without_a_torch_name():
    params = convert.from_torch(random_state("demo", "dinov2", parts="encoder"))
    params["encoder"]["registers"] = np.zeros(3)
    with pytest.raises(ValueError, match=r"encoder/\['registers'\]"):
        convert.to_torch(params, "official")


def test_each_name_once():
    """No torch name and no path serves two rows."""
    for part in convert.TABLE.values():
        for names in (
            [row.path for row in part],
            [row.torch for row in part],
            [name for row in part for name in row.hf],
        ):
            assert len(names) == len(set(names))
